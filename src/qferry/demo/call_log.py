"""
What an application writes down about its calls: a line before each one and a line after its answer.

The log is the only thing the checker believes. A start line is in the file before the call leaves the
process, so a process killed in the middle leaves a call without an end, never an effect without a start.
Times are CLOCK_MONOTONIC, which all processes of one Linux machine share.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import orjson

from qferry.demo.fingerprint import Payload


class Action(str, Enum):
    """What a write does to one point."""

    UPSERT = "upsert"
    DELETE = "delete"
    SET_PAYLOAD = "set_payload"
    OVERWRITE_PAYLOAD = "overwrite_payload"
    DELETE_KEYS = "delete_keys"
    UPDATE_VECTOR = "update_vector"


class Outcome(str, Enum):
    """What the application was told."""

    OK = "ok"
    NOT_FOUND = "not_found"  # a partial update of a point that is not there: a normal answer
    REFUSED = "refused"  # an error that came as an answer: applied wholly, partly or not, but not later
    UNKNOWN = "unknown"  # time-out or broken connection: may still be applied at any later time


@dataclass(frozen=True)
class Effect:
    """
    One change of one point (`point`) or of every point that carries a group number (`group`).

    Exactly one of `point` and `group` is set. A call may have several effects; they happen in order.
    """

    action: Action
    point: int | None = None
    group: int | None = None
    vector: str = ""
    payload: Payload = frozenset()
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Call:
    """One call of one process; `end_ns` and `outcome` are None when the process died during the call."""

    process: str
    number: int
    method: str
    effects: tuple[Effect, ...]
    start_ns: int
    end_ns: int | None = None
    outcome: Outcome | None = None
    message: str = ""

    @property
    def is_write(self) -> bool:
        """Whether the call was meant to change anything."""
        return bool(self.effects)

    @property
    def failed(self) -> bool:
        """Whether the application was given an error that is not a normal answer."""
        return self.outcome in (Outcome.REFUSED, Outcome.UNKNOWN)


class CallLog:
    """Appends one process's calls to its log file, each line handed to the operating system at once."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._number = 0

    def begin(self, method: str, effects: Iterable[Effect] = ()) -> int:
        """Write the start line of a call; returns the call's number for `end`."""
        self._number += 1
        what = [_effect_as_json(effect) for effect in effects]
        self._write({"n": self._number, "method": method, "effects": what, "start": time.monotonic_ns()})
        return self._number

    def end(self, number: int, outcome: Outcome, message: str = "") -> None:
        """Write the end line of a call."""
        self._write({"n": number, "end": time.monotonic_ns(), "outcome": outcome, "message": message})

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _write(self, line: dict[str, Any]) -> None:
        # One write() of one whole line: a SIGKILL before it loses the line, one after it cannot.
        os.write(self._file, orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))


def read_calls(path: Path) -> list[Call]:
    """
    Read one process's log; the file's stem is the process's name.

    Args:
        path: A file written by `CallLog`; a torn last line (of a killed process) is ignored.

    Returns:
        The calls in the order in which the process made them.
    """
    text = path.read_bytes()
    whole_lines = text[: text.rfind(b"\n") + 1].splitlines()
    started: dict[int, dict[str, Any]] = {}
    for record in map(orjson.loads, whole_lines):
        started.setdefault(record["n"], {}).update(record)
    return [_call_from_json(path.stem, record) for record in started.values()]


def _call_from_json(process: str, record: dict[str, Any]) -> Call:
    outcome = record.get("outcome")
    return Call(
        process=process,
        number=record["n"],
        method=record["method"],
        effects=tuple(_effect_from_json(effect) for effect in record["effects"]),
        start_ns=record["start"],
        end_ns=record.get("end"),
        outcome=None if outcome is None else Outcome(outcome),
        message=record.get("message", ""),
    )


def _effect_as_json(effect: Effect) -> dict[str, Any]:
    every_field = {
        "action": effect.action,
        "point": effect.point,
        "group": effect.group,
        "vector": effect.vector,
        "payload": dict(effect.payload),
        "keys": effect.keys,
    }
    return {name: value for name, value in every_field.items() if value not in (None, "", {}, ())}


def _effect_from_json(record: dict[str, Any]) -> Effect:
    return Effect(
        action=Action(record["action"]),
        point=record.get("point"),
        group=record.get("group"),
        vector=record.get("vector", ""),
        payload=frozenset(record.get("payload", {}).items()),
        keys=tuple(record.get("keys", ())),
    )
