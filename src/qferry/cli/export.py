"""Points that differ, written to a file as JSON lines: whole, or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import orjson

from qferry.cli.output import Stop, usage
from qferry.flows.differences import Difference

STDOUT = "-"
Write = Callable[[Sequence[Difference]], None]


@contextlib.contextmanager
def exporting(to: str | None, *, as_json: bool) -> Iterator[Write]:
    """
    Where to write points that differ, known to be writable before anything else is done.

    Args:
        to: A file, which is replaced at the end; `-`: stdout; None: nowhere.
        as_json: Whether stdout is to carry a JSON object.

    Raises:
        Stop: It cannot be written to.
    """
    if to is None:
        yield lambda _: None
    elif not to:
        raise usage("--export names no file.", "Nothing was done. Give a file, or `-` for stdout.")
    elif to == STDOUT:
        if as_json:
            raise usage(
                "--export - and --json both want stdout.", "Give a file, or leave --json out: it has `differences`."
            )
        yield lambda found: _write_to_stdout(lines(found))
    else:
        with _replacing(to) as write:
            yield lambda found: write(lines(found))


def lines(found: Sequence[Difference]) -> bytes:
    """Each point as a JSON object on a line of its own."""
    return b"".join(orjson.dumps(dataclasses.asdict(difference)) + b"\n" for difference in found)


def _write_to_stdout(content: bytes) -> None:
    sys.stdout.write(content.decode())
    sys.stdout.flush()


@contextlib.contextmanager
def _replacing(to: str) -> Iterator[Callable[[bytes], None]]:
    """
    What writes a file beside the one of that name and puts it in its place; if nothing is written, nothing is left.

    A link stays one: what it leads to is replaced.
    """
    path, beside = Path(to), ""
    try:
        path = path.resolve()
        if path.is_dir():
            raise _unwritable(path, "it is a folder")
        if path.exists() and not path.is_file():
            raise _unwritable(path, "it is no file, and would have to be replaced by one")
        if path.exists() and not os.access(path, os.W_OK):
            raise _unwritable(path, "permission denied")
        # Readable by its owner alone: there are payloads in it.
        handle, beside = tempfile.mkstemp(prefix=f".{path.name[:50]}.", dir=path.parent)
    except (OSError, ValueError, RuntimeError) as error:  # links in a circle: RuntimeError, from Python 3.13 OSError
        raise _unwritable(path, getattr(error, "strerror", "") or str(error)) from error

    def write(content: bytes) -> None:
        try:
            with open(handle, "wb", closefd=False) as file:
                file.write(content)
                file.flush()
                os.fsync(handle)
            Path(beside).replace(path)
        except OSError as error:
            reason = f"The differences could not be written to {path}: {error.strerror}"
            hint = "They are recorded: `qferry status` names them."
            raise Stop("Unwritable", 1, reason, hint) from error

    try:
        yield write
    finally:
        os.close(handle)
        Path(beside).unlink(missing_ok=True)


def _unwritable(path: Path, reason: str) -> Stop:
    return usage(f"--export: {path} cannot be written to: {reason}.", "Nothing was done. Give another file.")
