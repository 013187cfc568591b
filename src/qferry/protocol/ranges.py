"""
Ranges of ids, and the persisted plan of a copy: which ranges there are, and how far each has come.

A range's copy is the same whoever carries it out, so a plan outlives its workers: it is made once, kept with the
migration, and gone on with by any number of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, replace
from itertools import pairwise
from typing import Any
from uuid import UUID

from qferry.errors import Refused
from qferry.protocol.journal import PointId
from qferry.protocol.records import FORMAT


def position(point_id: PointId) -> tuple[int, int]:
    """Where an id stands in the server's order: numbers first, then UUIDs."""
    return (0, point_id) if isinstance(point_id, int) else (1, UUID(point_id).int)


def split(sample: Iterable[PointId], parts: int) -> list[tuple[PointId | None, PointId | None]]:
    """
    At most `parts` ranges of about as many points each, going by a random sample of the ids.

    Returns:
        The first id of each range and the first that is not in it any more; None is the beginning and the end.
    """
    ids = sorted(dict.fromkeys(sample), key=position)
    bounds = dict.fromkeys(ids[len(ids) * n // parts] for n in range(1, parts)) if ids else {}
    return list(pairwise([None, *bounds, None]))


@dataclass(frozen=True)
class Stretch:
    """
    One range of a copy.

    Args:
        at: The id to go on from; None is the beginning.
        end: The first id that is not in it any more; None is the end.
        copied: The points copied so far.
        done: Whether that is all of it.
    """

    at: PointId | None
    end: PointId | None
    copied: int = 0
    done: bool = False


@dataclass(frozen=True)
class Plan:
    """A copy's ranges, in order."""

    stretches: tuple[Stretch, ...]

    @classmethod
    def of(cls, bounds: Iterable[tuple[PointId | None, PointId | None]]) -> Plan:
        """A plan of which nothing is done."""
        return cls(tuple(Stretch(start, end) for start, end in bounds))

    @property
    def left(self) -> list[int]:
        """The numbers of the ranges that are not done."""
        return [n for n, stretch in enumerate(self.stretches) if not stretch.done]

    @property
    def copied(self) -> int:
        """The points copied so far."""
        return sum(stretch.copied for stretch in self.stretches)

    def advanced(self, number: int, copied: int, following: PointId | None, *, done: bool) -> Plan:
        """The plan after more of a range was applied: so many points, up to the one that follows."""
        before = self.stretches[number]
        after = replace(before, copied=before.copied + copied, at=following, done=done)
        return replace(self, stretches=(*self.stretches[:number], after, *self.stretches[number + 1 :]))

    def to_payload(self, migration_id: str) -> dict[str, Any]:
        """The plan as a record's payload."""
        rows = [astuple(stretch) for stretch in self.stretches]
        return {"kind": "plan", "migration": migration_id, "format": FORMAT, "ranges": rows}

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> Plan:
        """
        Read a plan.

        Raises:
            Refused: It was written in a format this version does not know.
        """
        if payload.get("format") != FORMAT:
            raise Refused(
                f"The copy's plan has format {payload.get('format')!r}; this version of qferry knows only {FORMAT}.",
                hint="Go on with the version of qferry that began the copy; nothing was changed.",
            )
        return cls(tuple(Stretch(*row) for row in payload["ranges"]))
