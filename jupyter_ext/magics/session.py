"""The shell's connection to a host: one client, made when it is first needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hakuriver.client.sync import Client
from hakuriver.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from hakuriver.model.views import NodeView


class Session:
    """Holds the one client that all magics of a shell use.

    A client that is replaced serves its futures until the last of them is gone.
    """

    def __init__(self) -> None:
        self._client: Client | None = None

    def client(self) -> Client:
        """Return the client, made from variables, file or running cluster if there is none."""
        if self._client is None:
            self._client = Client()
        return self._client

    def connect(self, url: str, token: str | None) -> list[NodeView]:
        """Use the host at `url` from now on if it answers, and return its nodes."""
        client = Client(url, token=token)
        try:
            nodes = client.nodes()
        except BaseException:
            client.close()
            raise
        self._client = client
        return nodes

    def leave(self, url: str) -> None:
        """Close the client if it uses the host at `url`; the next use makes a new one."""
        if self._client is not None and self._client.address == url:
            self.close()

    def close(self) -> None:
        """Close the client, if there is one; the next use makes a new one."""
        client, self._client = self._client, None
        if client is not None:
            client.close()


def read_token(path: Path) -> str:
    """Return the token in a file; raise `ConfigError` naming the file."""
    try:
        token = path.expanduser().read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the token cannot be read: {error}") from None
    if not token or len(token.split()) != 1:
        raise ConfigError(f"{path}: should hold one token and nothing else")
    return token
