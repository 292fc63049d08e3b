from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hakuriver.errors import StartError
from hakuriver.runner.launchers.base import Running, StartOrder
from hakuriver.runner.launchers.systemd.files import UnitFiles
from hakuriver.runner.launchers.systemd.launcher import UnitLauncher
from hakuriver.runner.launchers.systemd.making import Maker
from hakuriver.runner.launchers.systemd.manager import Account, Manager, Mode
from hakuriver.runner.launchers.systemd.properties import unit_name
from support import fake_systemd
from support.runner_tools import PATH, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from hakuriver.model.tasks import Usage
    from hakuriver.runner.exits import ExitRecord


class Heard:
    """A watcher that notes everything; `over` has the records, from the disk or as told."""

    def __init__(self, files: UnitFiles) -> None:
        self._files = files
        self.running: dict[int, Running] = {}
        self.over: dict[int, ExitRecord | None] = {}
        self.times_over = 0

    def started(self, running: Running) -> None:
        self.running[running.id] = running

    def measured(self, task_id: int, usage: Usage) -> None:
        """There are no control groups here."""

    def finished(self, task_id: int, record: ExitRecord | None) -> None:
        self.times_over += 1
        self.over[task_id] = record or self._files.read(task_id)

    def vanished(self, task_ids: Iterable[int]) -> None:
        raise AssertionError(task_ids)

    def code(self, task_id: int) -> int | None:
        record = self.over[task_id]
        assert record is not None
        return record.exit_code


class Machine:
    """A machine with a stand-in for systemd, and runners that come and go on it."""

    def __init__(self, root: Path) -> None:
        self.bin = root / "bin"
        self.bin.mkdir()
        for name in ("systemd-run", "systemctl"):
            script = self.bin / name
            body = Path(fake_systemd.__file__).read_text()
            script.write_text(f"#!{sys.executable} -IS\n{body}")
            script.chmod(0o700)
        own = pwd.getpwuid(os.getuid())
        self.account = Account(own.pw_name, own.pw_uid, own.pw_gid, own.pw_dir)
        self.root = root
        self.files = UnitFiles(root / "units", self.account)
        self.heard = Heard(self.files)

    def fault(self, name: str) -> Path:
        path = self.bin / name
        path.touch()
        return path

    def unit_file(self, task_id: int) -> Path:
        return self.bin / f"{unit_name(task_id, 'service')}.unit"

    def active(self, task_id: int) -> bool:
        return self.unit_file(task_id).exists()

    def state(self, task_id: int) -> str | None:
        text = self.unit_file(task_id).read_text()
        return json.loads(text)["ActiveState"] if text else None

    @contextlib.asynccontextmanager
    async def runner(self) -> AsyncIterator[UnitLauncher]:
        self.heard = Heard(self.files)
        self.files.make()
        maker = Maker(Manager(Mode.USER, 257, self.account), "service", 100, self.files.script)
        launcher = UnitLauncher(maker, self.files, slice_folder=self.root / "no-cgroup")
        self.found = await launcher.open(self.heard)
        try:
            yield launcher
        finally:
            await launcher.close()

    def order(self, task_id: int, *argv: str, **changes: Any) -> StartOrder:
        fields: dict[str, Any] = {
            "id": task_id,
            "argv": argv,
            "env": {"PATH": PATH},
            "cwd": "/",
            "stdout": str(self.root / f"{task_id}.out"),
            "stderr": str(self.root / f"{task_id}.err"),
            "cpus": (),
            "numa_node": None,
            "grace": 1.0,
        }
        return StartOrder(**fields | changes)

    async def ended(self, task_id: int) -> int | None:
        await eventually(lambda: task_id in self.heard.over, what=f"task {task_id} over")
        return self.heard.code(task_id)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setenv("PATH", f"{made.bin}:{PATH}")
    return made


@pytest.mark.asyncio
async def test_a_task_runs_and_its_unit_is_forgotten(machine: Machine) -> None:
    argv = ("printf", "%s|", "a b", "", "$HOME", "${X}", "%n", "\n", "é", "-x", "\\", ";")
    async with machine.runner() as launcher:
        await launcher.start(machine.order(1, *argv))
        await launcher.start(machine.order(2, "sh", "-c", "exit 4"))
        assert await machine.ended(1) == 0
        assert await machine.ended(2) == 4
        assert (machine.root / "1.out").read_text() == "|".join([*argv[2:], ""])
        await eventually(lambda: not machine.active(2), what="the failed unit is forgotten")
        assert launcher.unit_of(1) == "hakuriver-task-1.service"


@pytest.mark.asyncio
async def test_faults_of_the_start_have_their_words(machine: Machine) -> None:
    async with machine.runner() as launcher:
        await launcher.start(machine.order(1, "no-such-program"))
        await launcher.start(machine.order(2, "true", cwd="/no/such/folder"))
        assert await machine.ended(1) == 127
        assert await machine.ended(2) is None
        missing, nowhere = machine.heard.over[1], machine.heard.over[2]
        assert missing is not None
        assert missing.reason == "program not found: no-such-program"
        assert nowhere is not None
        assert "/no/such/folder" in str(nowhere.reason)


@pytest.mark.asyncio
async def test_values_of_variables_lie_on_no_disk_while_the_task_runs(machine: Machine) -> None:
    async with machine.runner() as launcher:
        env = {"PATH": PATH, "SECRET": "s3cret"}
        await launcher.start(machine.order(1, "sleep", "1000", env=env))
        await eventually(lambda: machine.files.started_at(1) is not None)
        texts = [path.read_bytes() for path in machine.root.rglob("*") if path.is_file()]
        assert not any(b"s3cret" in text for text in texts)
        await launcher.kill(1, grace=1.0)
        assert await machine.ended(1) == -15


@pytest.mark.asyncio
async def test_a_kill_is_told_as_one(machine: Machine) -> None:
    async with machine.runner() as launcher:
        await launcher.start(machine.order(1, "sh", "-c", "trap 'exit 0' TERM; sleep 1000 & wait"))
        await eventually(lambda: 1 in machine.heard.running)
        await eventually(lambda: machine.files.started_at(1) is not None)
        await launcher.kill(1, grace=1.0)
        await machine.ended(1)
        record = machine.heard.over[1]
        assert record is not None
        assert record.cause == "killed"


@pytest.mark.asyncio
async def test_a_kill_after_the_end_changes_nothing(machine: Machine) -> None:
    async with machine.runner() as launcher:
        await launcher.start(machine.order(1, "sh", "-c", "exit 3"))
        assert await machine.ended(1) == 3
        await launcher.kill(1, grace=1.0)
        record = machine.files.read(1)
        assert record is not None
        assert record.cause is None
        # What was never started is over as well.
        await launcher.kill(99, grace=1.0)
        assert machine.heard.over[99] is None


@pytest.mark.asyncio
async def test_a_unit_that_cannot_be_made_is_told(machine: Machine) -> None:
    async with machine.runner() as launcher:
        deaf = machine.fault("deaf")
        with pytest.raises(StartError, match="it is deaf"):
            await launcher.start(machine.order(1, "true"))
        assert machine.files.given() == set()
        deaf.unlink()
        await launcher.start(machine.order(2, "true"))
        assert await machine.ended(2) == 0


@pytest.mark.asyncio
async def test_a_unit_that_started_in_spite_of_an_error_runs(machine: Machine) -> None:
    async with machine.runner() as launcher:
        machine.fault("mute")
        gate = machine.root / "gate"
        os.mkfifo(gate)
        command = f"echo begun > {machine.root}/mark; read x < {gate}; exit 6"
        starting = asyncio.create_task(launcher.start(machine.order(1, "sh", "-c", command)))
        # Either its order was read before the error came, and it runs, or it never will.
        try:
            await starting
        except StartError:
            assert 1 not in machine.heard.over
            assert not (machine.root / "mark").exists()
        else:
            await asyncio.to_thread(gate.write_text, "go\n")
            assert await machine.ended(1) == 6


@pytest.mark.asyncio
async def test_tasks_outlive_their_runner(machine: Machine) -> None:
    gate = machine.root / "gate"
    os.mkfifo(gate)
    async with machine.runner() as launcher:
        await launcher.start(machine.order(1, "sh", "-c", f"read x < {gate}; exit 5"))
        await launcher.start(machine.order(2, "sh", "-c", "sleep 0.3; exit 7"))
        await eventually(lambda: machine.files.started_at(1) is not None)
    await eventually(lambda: machine.files.read(2) is not None)
    async with machine.runner():
        assert machine.found.keys() == {1}
        found = machine.found[1]
        assert found is not None
        assert found.started_at == machine.files.started_at(1)
        assert {id_: record.exit_code for id_, record in machine.files.load().items()} == {2: 7}
        await asyncio.to_thread(gate.write_text, "go\n")
        assert await machine.ended(1) == 5
        assert machine.heard.times_over == 1


@pytest.mark.asyncio
async def test_a_start_on_its_way_when_the_runner_died_never_comes_later(machine: Machine) -> None:
    late = machine.fault("late")
    async with machine.runner() as launcher:
        starting = asyncio.create_task(
            launcher.start(machine.order(1, "touch", str(machine.root / "ran")))
        )
        await eventually(lambda: machine.files.given() == {1})
        await asyncio.sleep(0.2)
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
    async with machine.runner():
        assert machine.found == {}
        # A runner that was killed would have left the call at work: here it is made once more.
        late.unlink()
        maker = Maker(Manager(Mode.USER, 257, machine.account), "service", 9, machine.files.script)
        words = maker.command(
            machine.order(1, "true"), machine.files.order(1), machine.files.record(1)
        )
        call = await asyncio.create_subprocess_exec(*words)
        await call.wait()
        await eventually(lambda: machine.files.read(1) is not None, what="the unit has ended")
        assert not (machine.root / "ran").exists()
        record = machine.files.read(1)
        assert record is not None
        assert record.reason == "start interrupted"


@pytest.mark.asyncio
async def test_a_unit_without_a_record_is_asked_for(machine: Machine) -> None:
    machine.fault("forgetful")
    async with machine.runner() as launcher:
        await launcher.start(machine.order(1, "sh", "-c", "exit 9"))
        await launcher.start(machine.order(2, "true"))
        # The control group is gone, and nothing was noted.
        assert await machine.ended(1) == 9
        await eventually(lambda: 2 in machine.heard.over)
        assert machine.heard.over[2] is None
        await eventually(lambda: not machine.active(1), what="the failed unit is forgotten")


@pytest.mark.asyncio
async def test_a_unit_that_fails_after_a_good_end_is_forgotten(machine: Machine) -> None:
    machine.fault("overdue")
    async with machine.runner() as launcher:
        await launcher.start(machine.order(1, "true"))
        assert await machine.ended(1) == 0
        record = machine.heard.over[1]
        assert record is not None
        assert record.result == "success"
        await eventually(lambda: not machine.active(1), what="the failed unit is forgotten")


@pytest.mark.asyncio
async def test_a_new_runner_has_its_own_failed_units_forgotten(machine: Machine) -> None:
    async with machine.runner() as launcher:
        await launcher.start(machine.order(1, "sh", "-c", "exit 4"))
        assert await machine.ended(1) == 4
        # Told, and this runner ends before systemd is to forget it.
        machine.files.drop({1})
    other = {"ActiveState": "failed", "Description": "HakuRiver task of /somewhere/else"}
    machine.unit_file(2).write_text(json.dumps(other))
    await eventually(lambda: machine.state(1) == "failed", what="the unit failed")
    async with machine.runner():
        assert machine.found == {}
        assert not machine.active(1)
        assert machine.active(2)


@pytest.mark.asyncio
async def test_many_tasks_end_at_once(machine: Machine) -> None:
    async with machine.runner() as launcher:
        numbers = range(1, 21)
        await asyncio.gather(
            *(launcher.start(machine.order(n, "sh", "-c", f"exit {n % 3}")) for n in numbers)
        )
        for number in numbers:
            assert await machine.ended(number) == number % 3
        assert machine.heard.times_over == len(numbers)


@pytest.mark.asyncio
async def test_a_systemd_that_does_not_answer_is_told(machine: Machine) -> None:
    (machine.bin / "systemctl").write_text("#!/bin/sh\necho 'no bus here' >&2\nexit 1\n")
    with pytest.raises(StartError, match="no bus here"):
        async with machine.runner():
            pass
