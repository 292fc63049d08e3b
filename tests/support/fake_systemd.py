"""Stands in for ``systemd-run`` and ``systemctl`` where a test injects faults into them.

Run under either name. It knows just the words that the launcher uses: a unit is a program of its
own session, its state a file in the folder of this file's link, and its end is noted by the very
command that the unit was told. Faults are files there: ``deaf`` (systemd-run fails and starts
nothing), ``mute`` (it starts the unit and fails all the same), ``late`` (it starts the unit only
when the file is gone), ``forgetful`` (no command runs at a unit's end, which then stays failed),
``overdue`` (that command takes too long: the unit fails after it has noted a good end).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(sys.argv[0]).absolute().parent


def unit_file(name: str) -> Path:
    return HERE / f"{name}.unit"


def state_of(name: str) -> dict[str, str]:
    try:
        return json.loads(unit_file(name).read_text())  # type: ignore[no-any-return]
    except (FileNotFoundError, json.JSONDecodeError):
        return {"ActiveState": "inactive"}


def has(fault: str) -> bool:
    return (HERE / fault).exists()


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def option(words: list[str], name: str) -> str:
    return next(word.partition("=")[2] for word in words if word.startswith(f"--{name}="))


def systemd_run(words: list[str]) -> int:
    if has("deaf"):
        sys.stderr.write("Failed to start transient service unit: it is deaf\n")
        return 1
    while has("late"):
        time.sleep(0.01)
    name, split = option(words, "unit"), words.index("--")
    if unit_file(name).exists():
        sys.stderr.write(
            f"Failed to start transient service unit: Unit {name} was already loaded\n"
        )
        return 1
    described = {"Description": option(words, "description")}
    unit_file(name).write_text(json.dumps({"ActiveState": "activating", **described}))
    stop_post = next(
        word.partition("ExecStopPost=")[2].split() for word in words if "ExecStopPost=" in word
    )
    if os.fork() == 0:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        be_unit(name, words[split + 1 :], stop_post, described)
        os._exit(0)
    while state_of(name)["ActiveState"] == "activating":
        time.sleep(0.002)
    return 1 if has("mute") else 0


def be_unit(name: str, command: list[str], stop_post: list[str], described: dict[str, str]) -> None:
    program = subprocess.Popen(command, start_new_session=True)
    state = {"ActiveState": "active", "MainPID": str(program.pid), **described}
    unit_file(name).write_text(json.dumps(state))
    code = program.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(program.pid, signal.SIGKILL)
    status = signal.Signals(-code).name.removeprefix("SIG") if code < 0 else str(code)
    result = "success" if code in (0, -15) else "signal" if code < 0 else "exit-code"
    if not has("forgetful"):
        environment = {
            **os.environ,
            "SERVICE_RESULT": result,
            "EXIT_CODE": "killed" if code < 0 else "exited",
            "EXIT_STATUS": status,
        }
        subprocess.run(stop_post, env=environment, check=False)
    if has("overdue"):
        result = "timeout"
    if result == "success":
        unit_file(name).unlink()
        return
    number, kind = (str(-code), "2") if code < 0 else (str(code), "1")
    over = {"ActiveState": "failed", "Result": result}
    over |= {"ExecMainCode": kind, "ExecMainStatus": number, **described}
    unit_file(name).write_text(json.dumps(over))


def systemctl(words: list[str]) -> int:
    verb = next(word for word in words if not word.startswith("-"))
    units = [word for word in words if word.endswith((".service", ".scope"))]
    if verb == "is-system-running":
        say("running")
    elif verb == "list-units":
        for path in sorted(HERE.glob("*.unit")):
            state = state_of(path.stem)
            say(f"{path.stem} loaded {state['ActiveState']} x {state.get('Description')}")
    elif verb == "show":
        say("\n".join(f"{key}={value}" for key, value in state_of(units[0]).items()))
    elif verb == "reset-failed":
        for unit in units:
            if state_of(unit)["ActiveState"] == "failed":
                unit_file(unit).unlink()
    elif verb == "stop":
        pid = state_of(units[0]).get("MainPID")
        if pid is None:
            return 5
        os.killpg(int(pid), signal.SIGTERM)
    else:
        sys.stderr.write(f"the stand-in knows no {verb}\n")
        return 1
    return 0


if __name__ == "__main__":
    run = systemd_run if Path(sys.argv[0]).name == "systemd-run" else systemctl
    sys.exit(run(sys.argv[1:]))
