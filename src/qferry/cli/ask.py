"""Questions before what cannot be taken back; on stderr, because stdout is for data."""

from __future__ import annotations

import sys

import typer

from qferry import commands
from qferry.cli.output import FAILED, Stop, usage
from qferry.connection import Connection
from qferry.errors import Refused
from qferry.protocol.records import Migration


def confirmed(connection: Connection, source: str | None, question: str) -> None:
    """
    Return if the person says yes.

    Args:
        connection: The servers.
        source: The migration, as it was typed.
        question: With `{}` in the place of the migration.

    Raises:
        Stop: There is nobody to ask, or the answer is no.
    """
    if not _at_a_terminal():
        raise usage("This needs a confirmation, and there is no terminal to ask at.", "Add --yes if it is meant.")
    m = _the_one(connection, source)
    name = f"`{m.source}` → `{m.target}`" if m else "the migration"
    if not typer.confirm(question.format(name), err=True):
        raise Stop("Declined", FAILED, "Nothing was changed.")


def typed_name(connection: Connection, source: str | None) -> str:
    """
    Let the person type the name of the collection that is to be deleted.

    Raises:
        Stop: There is nobody to ask.
    """
    if not _at_a_terminal():
        raise usage(
            "The name of the collection to delete is needed, and there is no terminal to ask at.", "Add --confirm NAME."
        )
    m = _the_one(connection, source)
    name = f"`{m.source}`" if m else "the source"
    answer: str = typer.prompt(f"This deletes {name} for good. Type its name", err=True)
    return answer


def _at_a_terminal() -> bool:
    return sys.stdin.isatty()


def _the_one(connection: Connection, source: str | None) -> Migration | None:
    """The migration that is meant; None where that is not clear, which the command itself will refuse."""
    try:
        return commands.find(connection, source)
    except Refused:
        if source is not None:
            raise
        return None
