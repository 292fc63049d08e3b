from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hakuriver.runner.launchers import keeper as keeper_module
from support.runner_tools import (
    PATH,
    KeeperClient,
    alive,
    keepers,
    running_keeper,
    start_keeper,
    task_tree,
    tasks_of,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

AWKWARD = ["a b", "", "'", '"', "$HOME", "${X}", "%n", "line\nbreak", "ünïcödé 漢字", "-x", "--"]


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[KeeperClient]:
    # Longer than a socket's path may be.
    folder = tmp_path / ("long" * 30)
    with running_keeper(folder) as client:
        yield client


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 4", 4), ("kill -SEGV $$", -11), ("exit 139", 139), ("kill $$", -15)],
)
def test_exit_codes_are_exact(keeper: KeeperClient, script: str, code: int) -> None:
    record = keeper.run(1, "sh", "-c", script)
    assert record["exit_code"] == code
    assert record["cause"] is None
    assert "reason" not in record
    assert record["started_at"] <= record["completed_at"] <= time.time()


def test_a_missing_program_is_127_with_its_name(keeper: KeeperClient) -> None:
    record = keeper.run(1, "no-such-program", "x")
    assert (record["exit_code"], record["started_at"]) == (127, None)
    assert record["reason"] == "program not found: no-such-program"


def test_a_file_that_is_not_executable_is_126(keeper: KeeperClient) -> None:
    record = keeper.run(1, "/etc/passwd")
    assert record["exit_code"] == 126
    assert "/etc/passwd" in record["reason"]


def test_a_script_without_an_interpreter_says_so(keeper: KeeperClient, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("echo hello\n")
    script.chmod(0o700)
    record = keeper.run(1, str(script))
    assert record["exit_code"] is None
    assert str(script) in record["reason"]
    assert "#!" in record["reason"]
    script.write_text("#!/no/such/interpreter\n")
    record = keeper.run(2, str(script))
    assert record["exit_code"] == 127
    assert str(script) in record["reason"]


def test_a_bad_working_directory_or_log_is_named(keeper: KeeperClient) -> None:
    record = keeper.run(1, "true", cwd="/no/such/folder")
    assert record["exit_code"] is None
    assert "/no/such/folder" in record["reason"]
    record = keeper.run(2, "true", stdout="/no/such/folder/out")
    assert "/no/such/folder/out" in record["reason"]


def test_logs_are_private_appended_to_and_never_opened_through_a_link(
    keeper: KeeperClient, tmp_path: Path
) -> None:
    log = keeper.folder / "1.stdout"
    log.write_text("before\n")
    keeper.run(1, "echo", "after")
    assert log.read_text() == "before\nafter\n"
    assert stat.S_IMODE((keeper.folder / "1.stderr").stat().st_mode) == 0o600
    target = tmp_path / "target"
    (keeper.folder / "2.stdout").symlink_to(target)
    record = keeper.run(2, "echo", "x")
    assert "2.stdout" in record["reason"]
    assert not target.exists()


def test_arguments_arrive_byte_for_byte(keeper: KeeperClient) -> None:
    code = "import os,sys; sys.stdout.buffer.write(b'\\0'.join(map(os.fsencode, sys.argv[1:])))"
    keeper.run(1, sys.executable, "-X", "utf8", "-c", code, *AWKWARD)
    assert keeper.out(1).split(b"\0") == [argument.encode() for argument in AWKWARD]


def test_the_environment_is_exactly_what_was_ordered(keeper: KeeperClient) -> None:
    env = {"PATH": PATH, "A": " 'x' \n $B", "B": "", "Ü": "ß"}
    keeper.run(1, "env", "-0", env=env)
    lines = [line for line in keeper.out(1).split(b"\0") if line]
    assert dict(line.decode().split("=", 1) for line in lines) == env


def test_the_program_is_looked_up_in_the_tasks_own_path(
    keeper: KeeperClient, tmp_path: Path
) -> None:
    program = tmp_path / "mine"
    program.write_text("#!/bin/sh\necho found\n")
    program.chmod(0o700)
    keeper.run(1, "mine", env={"PATH": f"/nowhere:{tmp_path}"})
    assert keeper.out(1) == b"found\n"
    keeper.run(2, "./mine", cwd=str(tmp_path))
    assert keeper.out(2) == b"found\n"


def test_a_task_starts_with_clean_signals_and_descriptors(keeper: KeeperClient) -> None:
    keeper.run(1, "grep", "-E", "^Sig(Ign|Blk)", "/proc/self/status")
    # Signals 32 and 33 are the C library's own: its posix_spawn leaves them ignored for ever.
    own = ~(0b11 << 31)
    assert {int(line.split()[1], 16) & own for line in keeper.out(1).splitlines()} == {0}
    keeper.run(2, "sh", "-c", "ls /proc/$$/fd; readlink /proc/$$/fd/0")
    *descriptors, stdin = keeper.out(2).split()
    assert stdin == b"/dev/null"
    assert set(descriptors) <= {b"0", b"1", b"2", b"10"}


def test_a_task_is_pinned_to_its_cpus(keeper: KeeperClient) -> None:
    cpu = max(os.sched_getaffinity(0))
    keeper.run(1, "grep", "Cpus_allowed_list", "/proc/self/status", cpus=[cpu])
    assert keeper.out(1).split()[1] == str(cpu).encode()
    record = keeper.run(2, "true", cpus=[60000])
    assert "60000" in record["reason"]


def test_memory_is_bound_or_the_task_does_not_start(keeper: KeeperClient) -> None:
    record = keeper.run(1, "head", "-1", "/proc/self/numa_maps", numa_node=0)
    if record["exit_code"] is None:
        assert "NUMA node 0" in record["reason"]
    else:
        assert b"bind:0" in keeper.out(1)
    record = keeper.run(2, "true", numa_node=63)
    assert record["exit_code"] is None
    assert "NUMA node 63" in record["reason"]


SCATTERED = """
setsid sleep 1000 &
env -i "$(command -v setsid)" sh -c 'sleep 1000 & sleep 1000' &
sh -c '(setsid sleep 1000 &) ; (setsid sh -c "sleep 1000 & sleep 1000" &)'
wait; sleep 1000
"""


def test_a_kill_ends_the_whole_tree(keeper: KeeperClient) -> None:
    keeper.start(1, "sh", "-c", SCATTERED)
    started = keeper.event("started", 1)
    tree = task_tree(started["pid"], 9)
    keeper.request("kill", id=1, grace=5.0)
    keeper.event("finished", 1)
    assert not [pid for pid in tree if alive(pid)]
    record = keeper.record(1)
    assert (record["exit_code"], record["cause"]) == (-15, "killed")


def test_who_ignores_sigterm_is_ended_after_the_grace(keeper: KeeperClient) -> None:
    script = "trap '' TERM; setsid sleep 1000 & echo up; sleep 1000; sleep 1000"
    # Its own grace is longer than a client waits for an event.
    keeper.start(1, "sh", "-c", script, grace=1000.0)
    tree = task_tree(keeper.event("started", 1)["pid"], 3)
    begin = time.monotonic()
    keeper.request("kill", id=1, grace=0.3)
    keeper.event("finished", 1)
    assert time.monotonic() - begin >= 0.3
    assert not [pid for pid in tree if alive(pid)]
    assert keeper.record(1)["exit_code"] == -9


def test_a_stopped_task_can_be_killed(keeper: KeeperClient) -> None:
    keeper.start(1, "sh", "-c", "kill -STOP $$; sleep 1000")
    keeper.event("started", 1)
    keeper.request("kill", id=1, grace=5.0)
    assert keeper.event("finished", 1)["record"]["cause"] == "killed"


def test_what_a_task_leaves_behind_is_ended_with_it(keeper: KeeperClient) -> None:
    script = "setsid sleep 1000 & (setsid sh -c 'sleep 1000 & sleep 1000' &); echo $!; exit 3"
    record = keeper.run(1, "sh", "-c", script)
    assert (record["exit_code"], record["cause"]) == (3, None)
    assert not alive(int(keeper.out(1)))
    assert tasks_of(keeper.folder) == set()


def test_a_clean_task_does_not_wait_for_anothers_leftovers(keeper: KeeperClient) -> None:
    stubborn = "(trap '' TERM; setsid sleep 1000 & setsid sleep 1000 &); exit 0"
    # Longer than a client waits for an event.
    keeper.start(1, "sh", "-c", stubborn, grace=1000.0)
    main = keeper.event("started", 1)["pid"]
    wait_until(lambda: not alive(main))
    assert keeper.run(2, "true")["exit_code"] == 0
    keeper.request("kill", id=1, grace=0.0)
    keeper.event("finished", 1)
    assert keeper.record(1)["exit_code"] == 0


HARE = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.setsid() if os.fork() == 0 else os._exit(0)
end = time.monotonic() + 50
while time.monotonic() < end:
    if os.fork(): os._exit(0)
"""


def test_a_process_that_flees_from_pid_to_pid_is_caught(keeper: KeeperClient) -> None:
    # It would end by itself later than a client waits for an event.
    assert keeper.run(1, sys.executable, "-I", "-S", "-c", HARE, grace=0.1)["exit_code"] == 0


BOMB = """
import os, time
for _ in range(5): os.fork()
end = time.monotonic() + 15
while time.monotonic() < end:
    time.sleep(0.01)
    if len(os.listdir("/proc")) < 400: os.fork()
"""


def test_a_growing_tree_is_ended(keeper: KeeperClient) -> None:
    keeper.start(1, sys.executable, "-I", "-S", "-c", BOMB)
    pid = keeper.event("started", 1)["pid"]
    task_tree(pid, 32)
    keeper.request("kill", id=1, grace=0.0)
    keeper.event("finished", 1)
    assert tasks_of(keeper.folder) == set()


def test_tasks_outlive_the_connection(keeper: KeeperClient) -> None:
    os.mkfifo(keeper.folder / "fifo")
    keeper.start(1, "sh", "-c", "read line < fifo; exit 5")
    told = keeper.event("started", 1)
    keeper.close()
    again = KeeperClient(keeper.folder)
    assert again.pid == keeper.pid
    again.request("list")
    assert again.event("listed")["tasks"] == [{k: v for k, v in told.items() if k != "event"}]
    (keeper.folder / "fifo").write_text("go\n")
    assert again.event("finished", 1)["record"]["exit_code"] == 5
    again.close()


def test_a_task_that_ends_unwatched_leaves_its_record_and_the_keeper_goes(
    keeper: KeeperClient,
) -> None:
    os.mkfifo(keeper.folder / "fifo")
    keeper.start(1, "sh", "-c", "read line < fifo; exit 6")
    keeper.event("started", 1)
    keeper.close()
    (keeper.folder / "fifo").write_text("go\n")
    wait_until(lambda: not alive(keeper.pid))
    assert keeper.record(1)["exit_code"] == 6
    assert not (keeper.folder / "keeper.sock").exists()


def test_an_idle_keeper_goes_when_its_runner_does(keeper: KeeperClient) -> None:
    keeper.run(1, "true")
    keeper.close()
    wait_until(lambda: not alive(keeper.pid))
    assert not (keeper.folder / "keeper.sock").exists()


def test_a_second_keeper_does_not_start(keeper: KeeperClient) -> None:
    assert start_keeper(keeper.folder).returncode == keeper_module.EXIT_TAKEN
    assert keeper.run(1, "true")["exit_code"] == 0


def test_a_killed_keepers_socket_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "k"
    with running_keeper(folder) as first:
        os.kill(first.pid, 9)
        wait_until(lambda: not alive(first.pid))
        assert (folder / "keeper.sock").exists()
        with running_keeper(folder) as second:
            assert second.run(1, "true")["exit_code"] == 0


def test_a_repeated_start_starts_nothing(keeper: KeeperClient) -> None:
    os.mkfifo(keeper.folder / "fifo")
    script = ("sh", "-c", "echo once; read line < fifo")
    keeper.start(1, *script)
    first = keeper.event("started", 1)
    keeper.start(1, *script)
    assert keeper.event("started", 1) == first
    (keeper.folder / "fifo").write_text("go\n")
    keeper.event("finished", 1)
    keeper.start(1, *script)
    keeper.event("finished", 1)
    assert keeper.out(1) == b"once\n"


def test_a_bad_request_is_answered_and_harms_nothing(keeper: KeeperClient) -> None:
    for line in (b"{", b"[]", b'{"request":"dance"}', b'{"request":"start","id":1}', b"\xff", b"1"):
        keeper.say(line)
        keeper.event("error")
    keeper.request("kill", id=99, grace=1.0)
    assert keeper.event("unknown")["id"] == 99
    assert keeper.run(1, "true")["exit_code"] == 0


def test_shutdown_ends_all_and_then_the_keeper(keeper: KeeperClient) -> None:
    keeper.start(1, "sleep", "1000")
    pids = [keeper.event("started", 1)["pid"]]
    keeper.start(2, "sh", "-c", "trap '' TERM; echo; while :; do sleep 0.1; done")
    pids.append(keeper.event("started", 2)["pid"])
    wait_until(lambda: keeper.out(2))
    keeper.request("shutdown", grace=0.2)
    while keeper.next() is not None:
        pass
    assert not [pid for pid in pids if alive(pid)]
    assert keeper.record(1)["cause"] == "killed"
    assert keeper.record(2)["exit_code"] == -9
    wait_until(lambda: not alive(keeper.pid))


def test_sigterm_ends_the_tasks_before_the_keeper(keeper: KeeperClient) -> None:
    keeper.start(1, "sleep", "1000")
    pid = keeper.event("started", 1)["pid"]
    os.kill(keeper.pid, 15)
    wait_until(lambda: not alive(keeper.pid))
    assert not alive(pid)
    assert keeper.record(1)["cause"] == "killed"


def test_a_burst_of_tasks_all_end(keeper: KeeperClient) -> None:
    for number in range(200):
        keeper.start(number, "sh", "-c", f"exit {number}")
    codes: dict[int, int] = {}
    while len(codes) < 200:
        event = keeper.event("finished")
        codes[event["id"]] = event["record"]["exit_code"]
    assert codes == {number: number for number in range(200)}
    most = max(2, os.cpu_count() or 1)
    wait_until(lambda: len(keepers(keeper.folder)) <= 1 + most, what="minders without use end")
    assert len(list(Path(f"/proc/{keeper.pid}/fd").iterdir())) < 15 + most


def test_an_unwritable_record_is_written_later(keeper: KeeperClient) -> None:
    blocked = keeper.folder / "exits.ndjson"
    blocked.mkdir()
    keeper.start(1, "true")
    log = keeper.folder / "keeper.log"
    wait_until(lambda: "task 1:" in log.read_text())
    log.write_text("")
    blocked.rmdir()
    assert keeper.event("finished", 1)["record"]["exit_code"] == 0


def test_a_slow_runner_never_blocks_the_keeper(keeper: KeeperClient) -> None:
    deaf = KeeperClient(keeper.folder)
    for _ in range(20_000):
        deaf.say(b'{"request":"list"}')
        if not alive(keeper.pid):
            break
    assert keeper.run(1, "true")["exit_code"] == 0
    deaf.close()


def test_the_keeper_loads_little_and_shows_no_secrets(keeper: KeeperClient) -> None:
    keeper.start(1, "sleep", "1000", env={"PATH": PATH, "SECRET": "s3cret"})
    keeper.event("started", 1)
    assert b"s3cret" not in Path(f"/proc/{keeper.pid}/cmdline").read_bytes()
    assert b"s3cret" not in Path(f"/proc/{keeper.pid}/environ").read_bytes()
    assert stat.S_IMODE((keeper.folder / "keeper.sock").stat().st_mode) == 0o600
    maps = Path(f"/proc/{keeper.pid}/maps").read_text()
    assert "msgspec" not in maps
    run = [sys.executable, "-I", "-S", "-X", "importtime", keeper_module.__file__]
    loaded = subprocess.run(run, capture_output=True, check=False).stderr.decode()
    assert "hakuriver.runner.launchers.spawning" in loaded
    modules = {line.rpartition("|")[2].strip() for line in loaded.splitlines()}
    assert not {"asyncio", "typing", "subprocess", "logging", "hakuriver.errors"} & modules
