from __future__ import annotations

import pytest

from hakuriver.cli.shared.common import run
from hakuriver.errors import ConfigError, HakuRiverError, HostUnreachable


def fails(error: BaseException) -> int:
    def command() -> int:
        raise error

    return run("hakuriver.x", command)


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError("c.toml:  bad\n key"), 2), (HostUnreachable("gone"), 1), (HakuRiverError(), 1)],
)
def test_an_error_of_ours_is_one_line_on_stderr(
    error: HakuRiverError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fails(error) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1
    assert shown.err.startswith("hakuriver.x: " + " ".join(str(error).split()))


def test_what_the_command_returns_is_the_exit_code() -> None:
    assert run("x", lambda: 7) == 7


def test_an_interrupt_is_130() -> None:
    assert fails(KeyboardInterrupt()) == 130


def test_a_fault_of_ours_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        fails(ZeroDivisionError())
