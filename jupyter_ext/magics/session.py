"""What the magics of one shell share: a client, the last future, what goes on behind cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from IPython.core.error import UsageError

from hakuriver.client.sync import Client
from hakuriver.errors import ConfigError
from jupyter_ext.magics.background import Background

if TYPE_CHECKING:
    from pathlib import Path

    from hakuriver.client.futures import Batch, Task
    from hakuriver.model.views import NodeView
    from jupyter_ext.magics.viewer import Viewer


class Session:
    """Holds the one client that all magics of a shell use, made when it is first needed.

    A client that is replaced serves its futures until the last of them is gone.
    """

    def __init__(self) -> None:
        self._client: Client | None = None
        self._last: Task | Batch | None = None
        self._backgrounds: list[Background] = []

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

    def keep(self, future: Task | Batch) -> None:
        """Take `future` as the last one of this session."""
        self._last = future

    def last_future(self) -> Task | Batch:
        """Return the last future; `UsageError` before the first."""
        if self._last is None:
            raise UsageError(
                "%hakuriver: there is no last future yet; run a cell, submit or attach first"
            )
        return self._last

    def show_behind(self, viewer: Viewer) -> None:
        """Let `viewer` go on under its cell while later cells run."""
        self._backgrounds = [one for one in self._backgrounds if one.running]
        background = Background(viewer)
        self._backgrounds.append(background)
        background.start()

    def close(self) -> None:
        """Close the client, if there is one; the next use makes a new one."""
        for background in self._backgrounds:
            background.stop()
        self._backgrounds.clear()
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
