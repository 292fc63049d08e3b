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
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Order:
    """A process to start: its command, its environment, and where its descriptors come from.

    A descriptor is a copy of another one, or a file that is made or emptied.
    """

    command: Sequence[str]
    environment: Mapping[bytes, bytes]
    descriptors: Mapping[int, int | str]


Answer: TypeAlias = "Callable[[int | Exception], None]"


def spawn(order: Order) -> int:
    """Start a process in a session of its own and return its pid.

    Signals that Python ignores have their default effect in it. A script without ``#!`` is run by
    the shell, as shells do.

    Raises:
        OSError: it cannot be started.
        ValueError: there is a NUL in an argument.
    """
    words = [os.fsencode(word) for word in order.command]
    if any(b"\0" in word for word in words):
        raise ValueError("there is a NUL in an argument")
    variables = [name + b"=" + value for name, value in order.environment.items()]
    code, pid = _posix_spawn(words, variables, order.descriptors)
    if code == errno.ENOEXEC:
        code, pid = _posix_spawn([_SHELL, *words], variables, order.descriptors)
    if code:
        raise OSError(code, os.strerror(code))
    return pid


def _posix_spawn(
    words: list[bytes], variables: list[bytes], descriptors: Mapping[int, int | str]
) -> tuple[int, int]:
    libc = _libc()
    actions = ctypes.create_string_buffer(_ROOM)
    libc.posix_spawn_file_actions_init(actions)
    try:
        for number, source in descriptors.items():
            if isinstance(source, int):
                libc.posix_spawn_file_actions_adddup2(actions, source, number)
            else:
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
                path = os.fsencode(source)
                libc.posix_spawn_file_actions_addopen(actions, number, path, flags, 0o666)
        pid = ctypes.c_int()
        code = libc.posix_spawn(
            ctypes.byref(pid), words[0], actions, _attributes(), _array(words), _array(variables)
        )
    finally:
        libc.posix_spawn_file_actions_destroy(actions)
    return code, pid.value


def _array(texts: list[bytes]) -> ctypes.Array[ctypes.c_char_p]:
    return (ctypes.c_char_p * (len(texts) + 1))(*texts, None)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None)


@functools.cache
def _attributes() -> ctypes.Array[ctypes.c_char]:
    libc = _libc()
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
                result = spawn(order)
            except (OSError, ValueError) as error:
                result = error
            self._answers.put((answer, result))
            self._wake()
