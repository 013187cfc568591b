"""
What a verification has compared so far, and what that rests on, so that another one can go on.

A point that was found equal stays so, or is in the journal, by rule (J): whoever compares the rest later has compared
everything, as if it had been done in one go.  That holds while nobody is suspected of more than was suspected when it
began, and while both sides are what they were; the argument, with its traces, is in docs/adr/0017.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

from qferry.errors import Refused
from qferry.protocol.journal import PointId
from qferry.protocol.ranges import Plan, Stretch
from qferry.protocol.records import FORMAT, Migration

# More differing points than this are not kept: the copy itself is in question then.
KEPT_MAX = 10_000


@dataclass(frozen=True)
class Comparison:
    """
    One comparison of every point, complete or not.

    Args:
        began_at: When it began.
        basis: The fingerprint of both sides' configurations then.
        suspicions: What was suspected before it began, and nothing of those suspected can land any more; after one that
            has passed, nothing.
        plan: The ranges, and how far each has come.
        differing: Points that differ: so far, or, once it has ended, to the last; of the latter it is known how.
        total: How many they are, if not all are kept.
        ended_at: When every point had been compared; empty: not yet.
        unexplained: Whether points differed although nothing was suspected: somebody writes who uses no qferry.
    """

    began_at: str
    basis: str
    suspicions: tuple[str, ...]
    plan: Plan
    differing: tuple[tuple[PointId, tuple[str, ...]], ...] = ()
    total: int = 0
    ended_at: str = ""
    unexplained: bool = False

    @property
    def ids(self) -> list[PointId]:
        """The points that differ."""
        return [point_id for point_id, _ in self.differing]

    def advanced(self, number: int, points: int, following: PointId | None, *, done: bool) -> Comparison:
        """The comparison after more of a range: so many points, up to the one that follows."""
        return replace(self, plan=self.plan.advanced(number, points, following, done=done))

    def with_differing(self, ids: Sequence[PointId]) -> Comparison:
        """The comparison after more points were found to differ."""
        return replace(self, differing=(*self.differing, *((i, ()) for i in ids)), total=self.total + len(ids))

    def unfit(self, m: Migration, basis: str, *, again: bool, marked: bool, replicated: bool) -> str:
        """
        Why its result cannot be relied on; empty: it can.

        Args:
            m: The migration, after every writer has been heard.
            basis: The fingerprint of both sides' configurations now.
            again: Whether only what differed is to be looked at again, rather than the rest to be compared.
            marked: Whether both collections are still the ones the migration began with.
            replicated: Whether the target is on a cluster.
        """
        reasons = (
            (replicated, "on a cluster a copy that was away meanwhile may have gone back"),
            (not marked, "one of the collections has been made anew since"),
            (self.suspicions != m.suspicions, "a suspicion has been raised since"),
            (self.basis != basis, "a configuration or an index has been changed since"),
            (again and self.unexplained, "points differed although nothing was suspected: somebody writes past qferry"),
            (self.total > len(self.differing), f"more than {KEPT_MAX:,} points differed"),
        )
        return next((reason for holds, reason in reasons if holds), "")

    def to_payload(self, migration_id: str) -> dict[str, Any]:
        """As a record's payload."""
        return {
            "kind": "comparison",
            "migration": migration_id,
            "format": FORMAT,
            "began_at": self.began_at,
            "basis": self.basis,
            "suspicions": list(self.suspicions),
            "ranges": [astuple(stretch) for stretch in self.plan.stretches],
            "differing": [[i, list(what)] for i, what in self.differing[:KEPT_MAX]],
            "total": self.total,
            "ended_at": self.ended_at,
            "unexplained": self.unexplained,
        }

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> Comparison:
        """
        Read a record.

        Raises:
            Refused: It was written in a format this version does not know.
        """
        if payload.get("format") != FORMAT:
            raise Refused(
                f"A comparison's record has format {payload.get('format')!r}, and this version of qferry knows only "
                f"{FORMAT}.",
                hint="Use the version of qferry that wrote it; nothing was changed.",
            )
        return cls(
            payload["began_at"],
            payload["basis"],
            tuple(payload["suspicions"]),
            Plan(tuple(Stretch(*row) for row in payload["ranges"])),
            tuple((i, tuple(what)) for i, what in payload["differing"]),
            payload["total"],
            payload["ended_at"],
            payload["unexplained"],
        )
