from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import pytest

from hakuriver.cli.shared.options import SubmitOptions, add_submit_options, read_env_file
from hakuriver.client.building import command_request
from hakuriver.errors import InvalidRequest

if TYPE_CHECKING:
    from pathlib import Path


def read(*arguments: str, environ: dict[str, str] | None = None) -> SubmitOptions:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_submit_options(parser)
    return SubmitOptions.from_namespace(parser.parse_args(arguments), environ or {})


def test_nothing_given_is_one_core_anywhere_without_limits() -> None:
    options = read()
    assert options == SubmitOptions()
    assert "target" not in options.as_arguments()
    assert "targets" not in options.as_arguments()


def test_all_options_are_read() -> None:
    options = read(
        *("--target", "a:0", "--target", "b", "--cores", "0", "--memory", "1.5G"),
        *("--time-limit", "2h", "--workdir", "/w", "--name", "mine", "--env", "A=1=2"),
        *("--env", "B", "--private-network", "--private-pid", "--no-queue"),
        environ={"B": "from here"},
    )
    assert options.as_arguments() == {
        "targets": ("a:0", "b"),
        "cores": 0,
        "memory": 3 << 29,
        "time_limit": 7200.0,
        "workdir": "/w",
        "name": "mine",
        "env": {"A": "1=2", "B": "from here"},
        "private_network": True,
        "private_pid": True,
        "queue": False,
    }
    request = command_request(["x"], **options.as_arguments())
    assert (request.targets, request.queue) == (["a:0", "b"], False)


def test_one_target_is_one_task() -> None:
    assert read("--target", "a").as_arguments()["target"] == "a"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cores", "-1"], "'-1' is no whole number"),
        (["--cores", "1.5"], "'1.5' is no whole number"),
        (["--cores", "99999999"], "from 0 to"),
        (["--memory", "1X"], "'1X' is no size .*512M"),
        (["--time-limit", "soon"], "'soon' is no duration .*2h"),
        (["--target", "a:b"], "'b' is no NUMA node"),
        (["--target", "a b"], "no node name"),
        (["--target", ""], "is empty; leave it out"),
        (["--name", "a\udcff"], "not valid Unicode"),
        (["--workdir", "here"], "no absolute path"),
        (["--name", "x" * 201], "200"),
        (["--env", "9=secret"], "'9' is no variable name"),
        (["--env", "=secret"], "'' is no variable name"),
    ],
)
def test_mistakes_name_the_option_and_the_mend(arguments: list[str], words: str) -> None:
    with pytest.raises(argparse.ArgumentError, match=words) as caught:
        read(*arguments)
    assert arguments[0] in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_variable_that_is_not_set_is_named() -> None:
    with pytest.raises(InvalidRequest, match="--env: TOKEN is not set here"):
        read("--env", "TOKEN", environ={"OTHER": "x"})


def test_values_are_in_no_representation() -> None:
    assert "secret" not in repr(read("--env", "A=secret"))


def test_a_file_of_variables(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_text(
        '# a comment\n\nA=1\r\nexport B = two words # not a comment \nC=\'quo"ted \'\nD="=x"\nE=\n',
        "utf-8",
    )
    assert read_env_file(path) == {
        "A": "1",
        "B": "two words # not a comment",
        "C": 'quo"ted ',
        "D": "=x",
        "E": "",
    }
    assert read("--env-file", str(path), "--env", "A=2").env["A"] == "2"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A=1\nsecret\n", "line 2: is not KEY=VALUE"),
        ("9A=secret", "line 1: is not KEY=VALUE"),
        ("\n\nA='secret", "line 3: the quote is not closed"),
        ('A="', "line 1: the quote"),
    ],
)
def test_a_bad_line_is_named_and_not_shown(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "env"
    path.write_text(text, "utf-8")
    with pytest.raises(InvalidRequest, match=words) as caught:
        read_env_file(path)
    assert str(path) in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="absent cannot be read: No such file"):
        read_env_file(tmp_path / "absent")
    (tmp_path / "bytes").write_bytes(b"\xff")
    with pytest.raises(InvalidRequest, match="bytes cannot be read: is not UTF-8"):
        read_env_file(tmp_path / "bytes")
