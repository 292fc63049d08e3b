from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from hakuriver._version import __version__
from hakuriver.cli import umbrella


@pytest.mark.parametrize("command", list(umbrella._COMMANDS))
def test_every_command_is_there_and_tells_its_usage(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module, function, purpose = umbrella._COMMANDS[command]
    assert callable(getattr(import_module(f"hakuriver.cli.{module}"), function))
    assert purpose
    for option, words in (("--help", "usage: haku"), ("--version", __version__)):
        with pytest.raises(SystemExit) as caught:
            umbrella.main([command, option])
        assert caught.value.code == 0
        assert words in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["-h"], ["--help"]])
def test_help_lists_all_commands(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert umbrella.main(arguments) == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in umbrella._COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert umbrella.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"hakuriver-jupyter {__version__}"


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["--nothing"], [""], ["Up"]])
def test_mistakes_exit_2_with_the_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert umbrella.main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "usage: hakuriver COMMAND" in shown.err


def test_a_commands_exit_code_is_the_processs() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "hakuriver", "init", "-c", "/dev/null/x"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2
    assert "Traceback" not in run.stderr
