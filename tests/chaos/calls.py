"""
What an application writes down about its calls: a line before each one and a line after its answer.

A start line is handed to the operating system before the call leaves the process, so a process killed in the middle
leaves a call without an end, never an effect without a start.  Times are CLOCK_MONOTONIC in nanoseconds, which all
processes of one Linux machine share.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from .content import FIELDS, State, group_of, written

OK = "ok"
MISSING = "missing"  # "no point with id": a normal answer to a partial update, if there was none
REJECTED = "rejected"  # an answer that says no: applied in part at most, and not later
UNKNOWN = "unknown"  # no verdict: may have been, or may yet be, carried out

Changes = tuple[tuple[int, Any], ...]


@dataclass(frozen=True)
class Effect:
    """
    One change, of the points in `ids` or of those that carry `group`.

    Args:
        kind: `upsert`, `delete`, `set`, `overwrite`, `drop`, `clear`, `vectors` or `unvector`.
        ids: The points it names; empty if a filter chooses them.
        group: The group the filter asks for.
        token: The write's token; of an upsert the first one, each further point has the next.
        fields: The fields of `State` it concerns.
    """

    kind: str
    ids: tuple[int, ...] = ()
    group: int | None = None
    token: int = 0
    fields: tuple[str, ...] = ()

    def upserted(self, groups: int) -> list[tuple[int, State]]:
        """The points of an upsert and what it makes of them."""
        return [(point, written(point, self.token + i, groups)) for i, point in enumerate(self.ids)]

    def changes(self, groups: int) -> Changes:
        """What a partial update sets, by the position in `State`."""
        if self.kind == "overwrite":
            group = None if self.group is not None else group_of(self.ids[0], self.token, groups)
            return ((2, group), (3, self.token), (4, None), (5, None))
        if self.kind == "clear":
            return tuple((i, None) for i in range(2, 6))
        value = self.token if self.kind in ("set", "vectors") else None
        return tuple((FIELDS.index(name), value) for name in self.fields)


@dataclass
class Call:
    """One call of one lane (a thread or task of an application, which makes one call after the other)."""

    lane: str
    method: str
    start: int
    effects: tuple[Effect, ...] = ()
    ids: tuple[int, ...] = ()  # what a read asks for
    group: int | None = None
    limit: int = 0
    end: int | None = None  # None while it has not ended, and if its process was killed
    outcome: str = UNKNOWN
    answer: Any = None
    error: str = ""
    points: int = field(default=0, repr=False)  # points it names or, chosen by a filter, one


class CallLog:
    """Appends one lane's calls to its file, each line handed to the operating system at once."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._number = 0

    def begin(self, method: str, effects: Sequence[Effect], asked: dict[str, Any]) -> int:
        """Write the start line of a call; returns its number."""
        self._number += 1
        what = [[e.kind, e.ids, e.group, e.token, e.fields] for e in effects]
        self._write({"n": self._number, "m": method, "w": what, "q": asked, "s": time.monotonic_ns()})
        return self._number

    def end(self, number: int, outcome: str, answer: Any = None, error: str = "") -> None:
        """Write the end line of a call."""
        self._write({"n": number, "e": time.monotonic_ns(), "o": outcome, "r": answer, "x": error})

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _write(self, line: dict[str, Any]) -> None:
        # One write() of one whole line: a SIGKILL before it loses the line, one after it cannot.
        os.write(self._file, orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS))


def read_calls(path: Path) -> list[Call]:
    """
    Read one lane's log; the file's stem is the lane's name.

    Args:
        path: A file written by `CallLog`; a torn last line (of a killed process) is ignored.

    Returns:
        The calls in the order in which the lane made them.
    """
    text = path.read_bytes()
    calls: dict[int, Call] = {}
    for line in map(orjson.loads, text[: text.rfind(b"\n") + 1].splitlines()):
        if "m" in line:
            calls[line["n"]] = _started(path.stem, line)
        else:
            call = calls[line["n"]]
            call.end, call.outcome, call.error = line["e"], line["o"], line["x"]
            call.answer = _answer(line["r"])
    return list(calls.values())


def _started(lane: str, line: dict[str, Any]) -> Call:
    effects = tuple(
        Effect(kind, tuple(ids), group, token, tuple(names)) for kind, ids, group, token, names in line["w"]
    )
    asked = line["q"]
    return Call(
        lane,
        line["m"],
        line["s"],
        effects,
        tuple(asked.get("ids", ())),
        asked.get("group"),
        asked.get("limit", 0),
        points=sum(max(1, len(effect.ids)) for effect in effects),
    )


def _answer(found: Any) -> Any:
    if isinstance(found, dict):
        return {int(point): State(*state) for point, state in found.items()}
    return found
