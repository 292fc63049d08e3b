"""The magics themselves: two names, each as a line and over a cell."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast

from IPython.core.magic import (
    Magics,
    line_cell_magic,
    magics_class,
    needs_local_scope,
    no_var_expand,
)

from hakuriver.cli.shared.options import SubmitOptions
from hakuriver.client.follow import follow
from hakuriver.errors import HakuRiverError
from jupyter_ext.magics.cell import Cell
from jupyter_ext.magics.commands import COMMANDS
from jupyter_ext.magics.errors import brief
from jupyter_ext.magics.feed import Feed
from jupyter_ext.magics.lines import parse_line
from jupyter_ext.magics.parsers import HelpShown, cell_parser, parse
from jupyter_ext.magics.session import Session
from jupyter_ext.magics.sweeps import run_cell, run_line

if TYPE_CHECKING:
    import argparse

    from IPython.core.interactiveshell import InteractiveShell

    from hakuriver.client.futures import Batch, Task


@magics_class
class HakuRiverMagics(Magics):
    """``%hakuriver COMMAND`` and ``%%hakuriver [options]`` over a cell."""

    def __init__(self, shell: InteractiveShell) -> None:
        super().__init__(shell)
        self.session = Session()

    @needs_local_scope
    @no_var_expand
    @line_cell_magic
    def hakuriver(
        self, line: str, cell: str | None = None, local_ns: dict[str, Any] | None = None
    ) -> object:
        """Run a cell on the cluster, or look after the cluster.

        ``%%hakuriver [options]`` sends the cell's text, as it is, to a node and shows its output
        and state here while it runs. It runs as Python unless its first line starts with ``#!``.
        An interrupt kills it. With ``--detach`` the cell's value is the future, at once, and the
        output goes on here. ``%%hakuriver --help`` lists the options.

        ``%hakuriver COMMAND`` looks after the cluster (up, down, connect URL, nodes, drain,
        resume and forget NODE), after tasks (tasks, status, logs, kill and rerun ID, kill-batch)
        and after futures (submit … -- COMMAND, attach ID, wait, last). ``%hakuriver --help``
        tells more.
        """
        names = {**self._user_names(), **(local_ns or {})}
        try:
            if cell is None:
                options = parse_line(line, names)
                return COMMANDS[options.command](self.session, options)
            return self._run_cell(parse(cell_parser(), line, names), cell)
        except HelpShown:
            pass
        except HakuRiverError as error:
            raise brief(error) from None
        return None

    @needs_local_scope
    @no_var_expand
    @line_cell_magic
    def hakurun(
        self, line: str, cell: str | None = None, local_ns: dict[str, Any] | None = None
    ) -> object:
        """Run something over all combinations of parameters.

        ``%hakurun [options] APP ARGS…`` takes what the command ``hakurun`` takes. Over a cell,
        ``%%hakurun [options] NAME=span:[…] …`` runs the cell's text once for each combination,
        in a process of its own, with the names as variables. A table shows how far it is; the
        value is a DataFrame of the results where there is pandas. ``%hakurun results [SWEEP]``
        gives those of an earlier one.
        """
        names = {**self._user_names(), **(local_ns or {})}
        store = self._user_names().__setitem__
        try:
            if cell is None:
                return run_line(line, names, store)
            return run_cell(line, cell, names, store)
        except HelpShown:
            return None
        except HakuRiverError as error:
            raise brief(error) from None

    def _run_cell(self, options: argparse.Namespace, body: str) -> Task | Batch | None:
        """Run `body`; its future goes to the variable asked for, or is returned with --detach."""
        submit_options = SubmitOptions.from_namespace(options, os.environ)
        client = self.session.client()
        interpreter = [options.python] if options.python else ["sh"] if options.shell else None

        def submit() -> Task | Batch:
            arguments = submit_options.as_arguments()
            future: Task | Batch = client.run_script(body, interpreter=interpreter, **arguments)
            return future

        def store(future: Task | Batch) -> None:
            self.session.keep(future)
            if options.out:
                self._user_names()[options.out] = future

        cell = Cell(Feed(submit, follow), store=store, on_interrupt=options.on_interrupt)
        if options.detach:
            return cell.detach(self.session.show_behind)
        cell.run(raise_error=not options.no_raise_error)
        return None

    def _user_names(self) -> dict[str, Any]:
        return cast("dict[str, Any]", cast("Any", self.shell).user_ns)
