"""
Comparing every point of both sides, range by range; reads only.

Both sides are read in the order of their ids and merged.  Several ranges are compared at once, each piece by a worker
of its own; one that was lost is begun anew.  On a cluster every read must go through the coordinator's own flow
(flows/cluster.py), one piece after the other.

How far each range has come is recorded, so that a verification that was interrupted is gone on with, where that is
sound (protocol/comparison.py, docs/adr/0017).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol

import orjson

from qferry.control import records, wire
from qferry.errors import RemoteFailure
from qferry.flows.configuration import is_replicated
from qferry.flows.coordinator import Coordinator
from qferry.flows.effects import Await, Begin, Flow, NewId, Now, Outcome, Report, Room, Sleep, Together
from qferry.flows.ranges import carried_out_here, drawn
from qferry.flows.settle import check, content, dumped
from qferry.flows.throttle import PIECE_S, Share, Throttle, keep_pace, page_points
from qferry.protocol.comparison import KEPT_MAX, Comparison
from qferry.protocol.journal import PointId
from qferry.protocol.phases import Side
from qferry.protocol.ranges import Plan, position
from qferry.protocol.records import Migration, dashed
from qferry.protocol.throttle import INF
from qferry.transfer.fidelity import settled_payload

PAGE_POINTS = 300
# How many ranges are compared at once on this machine, how many points a worker compares before it reports, and how
# large a range is.
WORKERS, PIECE_POINTS, RANGE_POINTS, RANGES_MAX = 3, 6_000, 10_000, 256
# The coordinator itself keeps its claim between two pieces, so its own are small.
OWN_PIECE_POINTS = 1_500
# More differing points than this and the copy itself is in question: stop looking and say so.
DIFFERENCES_MAX = 200_000
# A worker may be lost, or a server not answer, so many times in a row.
FAILURES_MAX = 3
LOOK_S = 1.0
# How often progress is recorded: so much is compared again after an interruption.
SAVE_S = 2.0


class Digests(Protocol):
    """Consecutive points of one side, each as bytes that are equal exactly when it is."""

    @property
    def ids(self) -> Sequence[PointId]:
        """Their ids, in order."""

    @property
    def contents(self) -> Sequence[bytes]:
        """Their contents, in the same order."""

    @property
    def next_offset(self) -> PointId | None:
        """The id of the point after them; None if there is none."""

    @property
    def doubtful(self) -> frozenset[PointId]:
        """Those of which the bytes may not say everything."""

    def before(self, end: PointId | None) -> Digests:
        """The points before `end`; all of them for None."""

    def same(self, one: bytes, other: bytes) -> bool:
        """Whether two contents that are not equal are the same point's all the same, as far as a server keeps it."""


@dataclass(frozen=True)
class JsonDigests:
    """Points as the server's REST interface gives them."""

    ids: Sequence[PointId]
    contents: Sequence[bytes]
    next_offset: PointId | None
    doubtful: frozenset[PointId] = frozenset()

    def before(self, end: PointId | None) -> JsonDigests:
        """The points before `end`; all of them for None."""
        cut = sum(end is None or position(i) < position(end) for i in self.ids)
        return JsonDigests(self.ids[:cut], self.contents[:cut], self.next_offset)

    def same(self, one: bytes, other: bytes) -> bool:
        """Whether they are equal when all doubles are settled."""
        (ours, vector), (theirs, other_vector) = orjson.loads(one), orjson.loads(other)
        return dumped([settled_payload(ours), vector]) == dumped([settled_payload(theirs), other_vector])


def as_digests(result: Any) -> Digests:
    """What `wire.read_digests` has brought."""
    if not isinstance(result, dict):
        found: Digests = result
        return found
    points = result["points"]
    return JsonDigests([p["id"] for p in points], [content(p) for p in points], result["next_page_offset"])


@dataclass(frozen=True)
class Compared:
    """
    What became of a piece.

    Args:
        points: How many points of the source were compared.
        differing: Ids of those that one side lacks, or that are not equal.
        following: The id to go on from.
        done: Whether nothing is left of the range.
    """

    points: int
    differing: tuple[PointId, ...]
    following: PointId | None
    done: bool


@dataclass(frozen=True)
class Piece:
    """
    A piece of a range, to be compared.

    Args:
        migration: Whose sides.
        start: The id to begin with; None is the first.
        end: The first id that is not to be compared any more; None is none.
        points: After how many points to stop.
        points_per_s: How fast to go.
    """

    migration: Migration
    start: PointId | None
    end: PointId | None
    points: int
    points_per_s: float = INF

    def flow(self) -> Flow[Compared]:
        """
        Compare it, for a second at most.

        Raises:
            RemoteFailure: A side could not be read.
        """
        m, seen, start = self.migration, 0, self.start
        differing: list[PointId] = []
        limit = page_points(self.points_per_s, PAGE_POINTS)
        began: float = yield Now()
        while True:
            pages: list[Outcome] = yield Together(
                tuple(wire.read_digests(m.server(s), m.collection(s), offset=start, limit=limit) for s in Side)
            )
            found = [as_digests(page.result()) for page in pages]
            ends = [e for e in (self.end, *(page.next_offset for page in found)) if e is not None]
            end = min(ends, key=position, default=None)
            source, target = (page.before(end) for page in found)
            seen += len(source.ids)
            differing += _unequal(source, target)
            # Page by page: gRPC may show nothing of a whole collection as it is (transfer/fidelity.py).
            doubtful = [*(source.doubtful | target.doubtful)]
            differing += (yield from check(m, doubtful)) if doubtful else ()
            now = yield from keep_pace(self.points_per_s, began, seen)
            if end is None or end == self.end:
                return Compared(seen, tuple(differing), end, done=True)
            if seen >= self.points or now - began >= PIECE_S:
                return Compared(seen, tuple(differing), end, done=False)
            start = end


def _unequal(source: Digests, target: Digests) -> list[PointId]:
    """The ids of points that one side lacks or that are not equal; not of those of which the bytes do not say it."""
    if source.contents == target.contents and source.ids == target.ids:
        return []
    ours = dict(zip(source.ids, source.contents, strict=True))
    theirs = dict(zip(target.ids, target.contents, strict=True))
    certain = (i for i in dict.fromkeys([*ours, *theirs]) if i not in source.doubtful and i not in target.doubtful)
    unequal = [i for i in certain if ours.get(i) != theirs.get(i)]
    return [i for i in unequal if i not in ours or i not in theirs or not source.same(ours[i], theirs[i])]


@dataclass
class Progress:
    """
    A comparison under way, and its record.

    Args:
        co: The coordinator that holds the claim.
        known: How far it has come.
        record: The record's id; empty: there is none.
    """

    co: Coordinator
    known: Comparison
    record: str = ""
    _saved_at: float = -inf

    def keep(self) -> Flow[None]:
        """Record it, instead of what was recorded before, under a name that nobody else writes to."""
        old, token = self.co.migration.comparison, (yield NewId())
        self.record = dashed(token)
        # An overtaken coordinator goes on writing to the record it has made; no migration names that any more.
        yield from self._put()
        yield from self.co.save({"comparison": self.record})
        if old:
            yield records.forget(old)

    def save(self) -> Flow[None]:
        """Record how far it has come, now and then: after it was compared, and with all that was found there."""
        now: float = yield Now()
        if self.record and now - self._saved_at >= SAVE_S and self.known.total <= KEPT_MAX:
            self._saved_at = now
            yield from self._put()

    def end(self, known: Comparison) -> Flow[None]:
        """Record what has come of it."""
        self.known = known
        yield from self._put()

    def _put(self) -> Flow[None]:
        yield records.put(self.record, self.known.to_payload(self.co.migration.id))


def ranges(m: Migration) -> Flow[Plan]:
    """The ranges of a new comparison."""
    most = 1 if is_replicated(m.overrides) else min(RANGES_MAX, m.expected_points // RANGE_POINTS)
    return (yield from drawn(m, most))


def every_point(co: Coordinator, progress: Progress) -> Flow[bool]:
    """
    Compare all points that are left to compare; `progress` has what differs at a first look.

    Returns:
        Whether it got through; it ends early where very many points differ.

    Raises:
        RemoteFailure: A side could not be read, time and again.
    """
    m = co.migration
    alone = is_replicated(m.overrides)
    running: dict[int, int] = {}
    failures = 0
    throttle = Throttle(co, only_reads=True)
    while (plan := progress.known.plan).left and progress.known.total <= DIFFERENCES_MAX:
        pace = yield from throttle.look(plan.copied)
        idle = [n for n in plan.left if n not in running.values()] if not pace.stands_still else []
        ended: list[tuple[int, Outcome]] = []
        if pace.stands_still and not running:
            yield Sleep(LOOK_S)
        elif len(plan.left) == 1 and idle:
            piece = _piece(m, plan, idle[0], Share.of(pace, 1, OWN_PIECE_POINTS))
            ended = [(idle[0], (yield from carried_out_here(piece.flow())))]
        else:
            room: int = yield Room(WORKERS)
            share = Share.of(pace, room, PIECE_POINTS)
            for n in idle[: max(0, share.workers - len(running))]:
                running[(yield Begin(_piece(m, plan, n, share)))] = n
            ended = [(running.pop(number), outcome) for number, outcome in (yield Await(tuple(running), LOOK_S))]
        failed = [outcome.error for _, outcome in ended if isinstance(outcome.error, RemoteFailure)]
        failures += bool(failed)  # a worker is lost with all of its pieces at once
        if failed and (alone or failures > FAILURES_MAX):
            raise failed[0]
        if failed:
            yield Sleep(LOOK_S)
        for n, outcome in ended:
            if isinstance(outcome.error, RemoteFailure):
                continue
            compared: Compared = outcome.result()
            failures = 0
            advanced = progress.known.advanced(n, compared.points, compared.following, done=compared.done)
            progress.known = advanced.with_differing(compared.differing)
        copied = progress.known.plan.copied
        yield Report("verify", copied, max(copied, m.expected_points), str(pace) or "comparing every point")
        yield from progress.save()
        yield from co.stay()
    co.pace = ""
    return not progress.known.plan.left


def _piece(m: Migration, plan: Plan, number: int, share: Share) -> Piece:
    stretch = plan.stretches[number]
    return Piece(m, stretch.at, stretch.end, share.piece_points, share.points_per_s)
