"""Starting processes by the C library's ``posix_spawn``, from a few threads at once.

Python's own ``os.posix_spawn`` keeps the interpreter's lock while the new process loads its
program, so that one start waits for the other: a thousand short programs take twice as long.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import queue
import signal
import threading
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

# Both C libraries of Linux agree on these.
_SETSIGDEF = 0x04
_SETSID = 0x80
#: More than any C library needs for these structures.
_ROOM = 1024
_DEFAULT_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT)
_SHELL = b"/bin/sh"


Answer: TypeAlias = "Callable[[int | Exception], None]"


class Order:
    """A process to start: its command, its environment, and where its descriptors come from.

    An entry of the environment is ``NAME=value``. A descriptor is a copy of another one, or a file
    that is made or emptied. All is made ready at once, so that `spawn` is one call of the C library
    alone: a thread that does more than that waits for the interpreter's lock again and again.

    Raises:
        ValueError: there is a NUL in an argument.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Sequence[bytes],
        descriptors: Mapping[int, int | str],
    ) -> None:
        words = [os.fsencode(word) for word in command]
        if any(b"\0" in word for word in words):
            raise ValueError("there is a NUL in an argument")
        self._words = words
        self._array = _array(words)
        self._environment = _array(environment)
        self._attributes = _attributes()
        self._actions = ctypes.create_string_buffer(_ROOM)
        quick = _quick_libc()
        quick.posix_spawn_file_actions_init(self._actions)
        for number, source in descriptors.items():
            if isinstance(source, int):
                quick.posix_spawn_file_actions_adddup2(self._actions, source, number)
            else:
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
                path = os.fsencode(source)
                quick.posix_spawn_file_actions_addopen(self._actions, number, path, flags, 0o666)

    def spawn(self) -> int:
        """Start the process, once, in a session of its own and return its pid.

        Signals that Python ignores have their default effect in it. A script without ``#!`` is run
        by the shell, as shells do. Raises `OSError` if it cannot be started.
        """
        pid = ctypes.c_int()
        try:
            code = self._start(pid, self._words[0], self._array)
            if code == errno.ENOEXEC:
                code = self._start(pid, _SHELL, _array([_SHELL, *self._words]))
        finally:
            _quick_libc().posix_spawn_file_actions_destroy(self._actions)
        if code:
            raise OSError(code, os.strerror(code))
        return pid.value

    def _start(
        self, pid: ctypes.c_int, program: bytes, words: ctypes.Array[ctypes.c_char_p]
    ) -> int:
        code: int = _libc().posix_spawn(
            ctypes.byref(pid), program, self._actions, self._attributes, words, self._environment
        )
        return code


def _array(texts: Sequence[bytes]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * (len(texts) + 1))(*texts, None)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


@functools.cache
def _quick_libc() -> ctypes.PyDLL:
    """Return the library for calls that do not wait, which keep the interpreter's lock."""
    return ctypes.PyDLL(None)


@functools.cache
def _attributes() -> ctypes.Array[ctypes.c_char]:
    libc = _quick_libc()
    signals = ctypes.create_string_buffer(_ROOM)
    libc.sigemptyset(signals)
    for number in _DEFAULT_SIGNALS:
        libc.sigaddset(signals, int(number))
    attributes = ctypes.create_string_buffer(_ROOM)
    libc.posix_spawnattr_init(attributes)
    libc.posix_spawnattr_setflags(attributes, ctypes.c_short(_SETSIGDEF | _SETSID))
    libc.posix_spawnattr_setsigdefault(attributes, signals)
    return attributes


class Spawner:
    """Starts processes on `threads` threads; `wake` is called when `collect` has something."""

    def __init__(self, threads: int, wake: Callable[[], None]) -> None:
        self._orders: queue.SimpleQueue[tuple[Order, Answer] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[Answer, int | Exception]] = queue.SimpleQueue()
        self._wake = wake
        self._most = threads
        self._threads: list[threading.Thread] = []

    def order(self, order: Order, answer: Answer) -> None:
        """Have a process started; `collect` calls `answer` with its pid, or with what failed."""
        if len(self._threads) < self._most:
            thread = threading.Thread(target=self._serve, name="spawner", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._orders.put((order, answer))

    def collect(self) -> None:
        """Give the answers that are there now."""
        while not self._answers.empty():
            answer, result = self._answers.get()
            answer(result)

    def close(self) -> None:
        """End the threads; all orders must have been answered."""
        for _ in self._threads:
            self._orders.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _serve(self) -> None:
        while (item := self._orders.get()) is not None:
            order, answer = item
            result: int | Exception
            try:
                result = order.spawn()
            except OSError as error:
                result = error
            self._answers.put((answer, result))
            self._wake()
