from __future__ import annotations

import json
import logging
import stat
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from hakuriver.cli.shared import logfile
from hakuriver.cli.shared.logfile import logging_to
from hakuriver.errors import ConfigError, StartError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = "paths.host_log_file"
LOG = logging.getLogger("hakuriver.test")


@pytest.fixture(autouse=True)
def root() -> Iterator[None]:
    logger = logging.getLogger()
    before, level = list(logger.handlers), logger.level
    yield
    assert logger.handlers == before
    logger.setLevel(level)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_lines_go_to_both_and_the_file_is_private(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "deep" / "host.log"
    with logging_to(str(path), key=KEY):
        LOG.info("first %s", "line")
        LOG.debug("not this")
    with logging_to(str(path), key=KEY):
        LOG.warning("second")
    text = path.read_text("utf-8")
    assert [line.split(": ", 1)[1] for line in text.splitlines()] == ["first line", "second"]
    assert "INFO hakuriver.test: first line" in text
    assert capsys.readouterr().err == text
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)


def test_a_file_that_was_open_to_others_is_no_longer(tmp_path: Path) -> None:
    path = tmp_path / "host.log"
    path.touch(0o644)
    with logging_to(str(path), key=KEY):
        pass
    assert mode(path) == 0o600


def test_without_a_file_there_is_stderr_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to("", key=KEY):
        LOG.info("here")
    assert capsys.readouterr().err.endswith("hakuriver.test: here\n")


def test_old_files_are_kept_three_and_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logfile, "MAX_BYTES", 100)
    path = tmp_path / "host.log"
    with logging_to(str(path), key=KEY):
        for number in range(20):
            LOG.info("line %d %s", number, "x" * 40)
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["host.log", *(f"host.log.{n}" for n in (1, 2, 3))]
    assert {mode(file) for file in files} == {0o600}
    assert "line 19" in path.read_text("utf-8")


def test_a_path_that_cannot_be_written_names_key_and_path(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "host.log"):
        with (
            pytest.raises(ConfigError, match=f"{KEY}: {path} cannot be written"),
            logging_to(str(path), key=KEY),
        ):
            pytest.fail("it began")


def test_what_ended_the_daemon_is_in_its_file_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "host.log"
    with pytest.raises(StartError), logging_to(str(path), key=KEY):
        raise StartError("cannot listen")
    assert path.read_text("utf-8").endswith("Ended: cannot listen\n")
    with pytest.raises(ZeroDivisionError), logging_to(str(path), key=KEY):
        raise ZeroDivisionError("a bug")
    assert "Traceback" in path.read_text("utf-8")
    assert capsys.readouterr().err == ""


def test_a_disk_that_is_full_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("there is no /dev/full")
    handler = logfile._PrivateFile.__new__(logfile._PrivateFile)
    handler.baseFilename = "/dev/full"
    record = logging.LogRecord("x", logging.INFO, "", 0, "x", (), None)
    handler.handleError(record)
    handler.handleError(record)
    assert capsys.readouterr().err == "the log file /dev/full cannot be written\n"


def test_a_log_for_programs_is_an_object_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log"
    with logging_to(str(path), key="k", form="json"):
        logger = logging.getLogger("some.where")
        logger.warning("two\nlines and %s", "ü")
        try:
            int("no number")
        except ValueError:
            logger.exception("it failed")
    lines = path.read_text("utf-8").splitlines()
    assert capsys.readouterr().err.splitlines() == lines
    first, second = map(json.loads, lines)
    assert (first["level"], first["logger"]) == ("WARNING", "some.where")
    assert first["message"] == "two\nlines and ü"
    moment = datetime.fromisoformat(first["time"])
    assert moment.utcoffset() == timedelta(0)
    assert abs((datetime.now(UTC) - moment).total_seconds()) < 60
    assert "exception" not in first
    assert second["message"] == "it failed"
    assert second["exception"].startswith("Traceback")
    assert second["exception"].endswith("'no number'")
