from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from IPython.core.error import UsageError

from hakuriver.errors import ConfigError
from jupyter_ext.magics.session import Session, read_token

if TYPE_CHECKING:
    from pathlib import Path


def test_a_token_file_holds_one_word(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("  secret\n")
    assert read_token(file) == "secret"


@pytest.mark.parametrize("content", [b"", b"two words", b"\xff\xfe"])
def test_another_content_is_refused_without_showing_it(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_token(file)
    assert str(file) in str(caught.value)
    assert "words" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nosuch"):
        read_token(tmp_path / "nosuch")


def test_there_is_no_last_future_at_first() -> None:
    with pytest.raises(UsageError, match="no last future yet"):
        Session().last_future()


def test_closing_without_a_client_is_no_fault() -> None:
    Session().close()
