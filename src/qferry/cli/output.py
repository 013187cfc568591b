"""
What a verb leaves behind: an answer on stdout or one sentence of error, and the exit code (docs/cli.md).

Data goes to stdout, everything else to stderr.  With `--json` stdout carries exactly one JSON object on one line,
for errors too.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import sys
from collections.abc import Mapping
from typing import Any

import orjson
import typer
from rich.console import Console, RenderableType
from rich.text import Text

from qferry.cli import log_lines
from qferry.errors import FerryError
from qferry.logs import tell

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
# What is piped into a file or a pager is not cut to the 80 columns that rich assumes where there is no terminal.
_WIDTH_OF_FILES = 200


@dataclasses.dataclass(frozen=True)
class Answer:
    """
    What a verb has found or done.

    Args:
        data: The JSON object, without `ok`.
        picture: The same for people.
        ok: Whether it is done: exit code 0 rather than 1.
        beside: Whether stdout has carried something else, so that the picture goes to stderr.
    """

    data: Mapping[str, Any]
    picture: RenderableType
    ok: bool = True
    beside: bool = False


class Stop(Exception):
    """A verb ends here, for a reason the command line itself has found; the fields are those of a `FerryError`."""

    def __init__(self, kind: str, exit_code: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.exit_code = exit_code
        # A server's or typer's own words may lack the full stop, and a hint follows.
        self.message = message if message.endswith((".", "?", "!")) else f"{message}."
        self.hint = hint


def usage(message: str, hint: str = "") -> Stop:
    """The error of a command that was typed wrong; nothing was sent to any server."""
    return Stop("Usage", USAGE, message, hint)


def interrupted(hint: str = "Run the same command again to go on.") -> Stop:
    """The end by Ctrl-C."""
    return Stop("Interrupted", INTERRUPTED, "Stopped.", hint)


def stop_for(error: Exception) -> Stop:
    """Any error that a person may be shown as a sentence, in the one form in which it is shown."""
    if isinstance(error, Stop):
        return error
    if isinstance(error, FerryError):
        return Stop(type(error).__name__, FAILED, error.message, error.hint)
    if isinstance(error, typer.TyperException):
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "qferry"
        return usage(error.format_message(), f"`{command} --help` shows what fits.")
    # Ctrl-C or Ctrl-D at a question.
    return interrupted("Nothing was changed.")


def plain(result: Any) -> dict[str, Any]:
    """A frozen result as the members of a JSON object."""
    return dataclasses.asdict(result)


def stdout() -> Console:
    """Where data goes."""
    return _console(Console(highlight=False))


def stderr() -> Console:
    """Where messages and progress go."""
    return _console(Console(stderr=True, highlight=False))


def _console(console: Console) -> Console:
    if not console.is_terminal:
        console.width = _WIDTH_OF_FILES
    return console


def write_answer(answer: Answer, *, as_json: bool) -> int:
    """Write an answer and return the exit code."""
    if as_json:
        _write_json({"ok": answer.ok, **answer.data})
    else:
        (stderr() if answer.beside else stdout()).print(answer.picture, crop=False)
    return DONE if answer.ok else FAILED


def write_error(stop: Stop, *, as_json: bool) -> int:
    """Write an error and return the exit code."""
    if as_json:
        _write_json({"error": {"type": stop.kind, "message": stop.message, "hint": stop.hint}})
    if log_lines.active():
        facts = {"error_type": stop.kind, "hint": stop.hint, "exit_code": stop.exit_code}
        tell(logging.ERROR, "command_failed", stop.message, **facts)
    elif not as_json:
        style = "" if stop.exit_code == INTERRUPTED else "red"
        # As Text: names in square brackets are names, not markup.
        stderr().print(Text(f"{stop.message} {stop.hint}".rstrip(), style=style), soft_wrap=True)
    return stop.exit_code


def write_note(message: str) -> None:
    """Tell the person something that is neither data nor an error."""
    if log_lines.active():
        tell(logging.WARNING, "note", message)
    else:
        stderr().print(Text(message, style="yellow"), soft_wrap=True)


def tolerate_any_character() -> None:
    """Let no terminal's character set end a command: what it cannot show is shown as an escape or `?`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace" if stream is sys.stdout else "backslashreplace")


def _write_json(data: Mapping[str, Any]) -> None:
    sys.stdout.write(orjson.dumps(data).decode() + "\n")
    sys.stdout.flush()
