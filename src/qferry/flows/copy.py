"""
The backfill by streaming: read a page of the source, write it to the target, then save progress.

Plain and unlocked.  A write that overlaps a page is in the journal and is checked after the copy; a write that
starts after a page has landed reaches both sides by itself.

The ids are drawn into ranges, once.  Several are copied at once, piece by piece, each piece by a worker of its own:
a thread, or a process elsewhere.  What a worker that was lost had sent may still land, so the fence is put up anew
before anything else is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

from qferry.control import records, wire
from qferry.errors import FerryError, Rejected, RemoteFailure
from qferry.flows import configuration
from qferry.flows.coordinator import Coordinator
from qferry.flows.effects import Await, Begin, Flow, NewId, Now, Outcome, Report, Request, Room, Sleep, Together
from qferry.flows.pages import Page, as_page, to_write, whole
from qferry.flows.ranges import carried_out_here, drawn
from qferry.flows.throttle import PIECE_S, Share, Throttle, keep_pace, page_points
from qferry.protocol.journal import PointId
from qferry.protocol.phases import Event, Phase
from qferry.protocol.ranges import Plan, position
from qferry.protocol.records import HOME, Strategy, dashed
from qferry.protocol.throttle import INF, Pace

# A page is about this large: larger ones were slower to copy (transfer/channel.py).  REST takes requests up to 32 MB.
PAGE_BYTES = 1_500_000
PAGE_POINTS, PAGE_POINTS_MAX = 100, 2_000
_REQUEST_BYTES_MAX = 24_000_000
# A server that needs longer than this for a page gets smaller ones.
SLOW_S = 2.0
# A range has at least so many points, and a plan at most so many ranges.
RANGE_POINTS, RANGES_MAX = 10_000, 256
# How many ranges are copied at once on this machine, and how many points a worker copies before it reports.
WORKERS = 4
PIECE_POINTS = 8_000
# The coordinator itself keeps its claim between two pieces, so its own are small.
OWN_PIECE_POINTS = 1_000
# After so many failures in a row the command gives up; what was copied stays copied.
FAILURES_MAX = 10
LOOK_S = 1.0


@dataclass(frozen=True)
class Copied:
    """
    What became of a piece.

    Args:
        points: How many points were applied.
        following: The id to go on from.
        done: Whether nothing is left of the range.
        page_points: How many points a page has had in the end.
        unread: Why the next page could not be read, if it could not; everything before it is applied.
    """

    points: int
    following: PointId | None
    page_points: int
    done: bool = False
    unread: FerryError | None = None


@dataclass(frozen=True)
class Piece:
    """
    A piece of a range, to be copied.

    Args:
        source: The source, on the home server.
        target_url: The target's server.
        fence: The alias through which to write.
        start: The id to begin with; None is the first.
        end: The first id that is not to be copied any more; None is none.
        points: After how many points to stop.
        page_points: How many points the first page has.
        points_per_s: How fast to go.
    """

    source: str
    target_url: str
    fence: str
    start: PointId | None
    end: PointId | None
    points: int
    page_points: int
    points_per_s: float = INF

    def flow(self) -> Flow[Copied]:
        """
        Copy it, for a second at most: while one page is written, the next is read.

        Raises:
            RemoteFailure: A page could not be written; nobody knows how much of the piece was.
        """
        most = page_points(self.points_per_s, PAGE_POINTS_MAX)
        limit, budget, applied = min(self.page_points, most), PAGE_BYTES, 0
        started: float = yield Now()
        cursor = self.start
        ahead: Outcome | None = None
        while True:
            if ahead is None:
                (ahead,) = yield Together((self._read(cursor, limit),))
            if isinstance(ahead.error, FerryError):
                return Copied(applied, cursor, limit, unread=ahead.error)
            page = as_page(ahead.result()).before(self.end)
            applied, cursor = applied + page.count, page.next_offset
            if page.count:
                limit = max(1, min(most, 2 * limit, page.count * budget // page.size_bytes))
            done = cursor is None or (self.end is not None and position(cursor) >= position(self.end))
            began: float = yield Now()
            is_last = done or applied >= self.points or began - started >= PIECE_S
            ahead = yield from self._write(page, None if is_last else self._read(cursor, limit))
            ended: float = yield Now()
            budget = budget // 2 if ended - began > SLOW_S else min(PAGE_BYTES, 2 * budget)
            yield from keep_pace(self.points_per_s, started, applied)
            if is_last:
                return Copied(applied, cursor, limit, done=done)

    def _read(self, cursor: PointId | None, limit: int) -> Request:
        return wire.read_page(HOME, self.source, offset=cursor, limit=limit)

    def _write(self, page: Page, following: Request | None) -> Flow[Outcome | None]:
        """Write a page, in halves while it is too large for a request; carry out `following` beside the last of it."""
        if page.size_bytes > _REQUEST_BYTES_MAX and page.count > 1:
            first, rest = page.halves()
            yield from self._write(first, None)
            return (yield from self._write(rest, following))
        requests = [wire.write_page(self.target_url, self.fence, to_write(page))] if page.count else []
        requests += [following] if following is not None else []
        outcomes: list[Outcome] = (yield Together(tuple(requests))) if requests else []
        if page.count:
            refused = outcomes[0].error
            if isinstance(refused, Rejected) and refused.status == HTTPStatus.BAD_REQUEST:
                yield from self._by_rest(page.ids)  # gRPC does not take what is nested deeply
            else:
                outcomes[0].result()
                yield from self._by_rest(page.doubtful)
        return outcomes[-1] if following is not None else None

    def _by_rest(self, ids: Sequence[PointId]) -> Flow[None]:
        """Copy single points by REST, which carries everything."""
        for start in range(0, len(ids), PAGE_POINTS):
            points = yield wire.retrieve(HOME, self.source, ids[start : start + PAGE_POINTS])
            if points:
                yield wire.upsert(self.target_url, self.fence, [whole(point) for point in points])


def copy(co: Coordinator) -> Flow[int]:
    """
    Copy the whole source, from where an earlier coordinator left off; returns the points copied in total.

    Retry: safe.  Progress is saved only after it was applied; what was applied but not saved is copied again, which
    changes nothing that the journal does not put right.

    Raises:
        RemoteFailure: The source could not be read, or the target has failed time and again.
    """
    yield from co.fenced()
    if co.migration.phase is not Phase.COPYING:
        return co.migration.copied_points
    work = _Backfill(co, (yield from _plan(co)), PAGE_POINTS, Throttle(co))
    failures = 0
    while work.plan.left:
        before = work.plan.copied
        yield from work.advance()
        failures = failures + 1 if work.plan.copied == before else 0
        if failures > FAILURES_MAX:
            raise work.failed[0]
    co.pace = ""
    m = co.migration
    if m.strategy is Strategy.BULK:
        yield from co.still_mine()
        yield from configuration.let_index(m.target_url, m.target, (yield wire.info(HOME, m.source)), m.overrides)
    drawn, copied = co.migration.plan, work.plan.copied
    yield from co.move(Event.COPY_DONE, "copied", {"copied_points": copied, "plan": ""}, points=copied)
    yield records.forget(drawn)
    return copied


def _plan(co: Coordinator) -> Flow[Plan]:
    """The copy's ranges: those that were drawn before, or new ones."""
    m = co.migration
    if m.plan and (known := (yield from records.read_plan(m.plan))) is not None:
        return known
    plan = yield from drawn(m, min(RANGES_MAX, m.expected_points // RANGE_POINTS))
    # Under a name of its own: one that an overtaken coordinator writes late is named by no record.
    token: str = yield NewId()
    yield records.put(dashed(token), plan.to_payload(m.id))
    yield from co.save({"plan": dashed(token)})
    return plan


@dataclass
class _Backfill:
    """The copy, as one coordinator has it carried out."""

    co: Coordinator
    plan: Plan
    page_points: int
    throttle: Throttle
    failed: list[RemoteFailure] = field(default_factory=list)  # by writes, or workers, since the last advance began
    unread: list[FerryError] = field(default_factory=list)  # by reads of the source
    _running: dict[int, int] = field(default_factory=dict)  # piece of work -> number of its range

    def advance(self) -> Flow[None]:
        """
        Copy until every range is done, or something has failed and nothing is under way any more that could land.

        Raises:
            FerryError: The source could not be read, or the target's server has refused a page for good.
        """
        self.failed.clear()
        with self.co.owing():
            while self._running or (self.plan.left and not self.failed and not self.unread):
                pace = yield from self.throttle.look(self.plan.copied)
                ended = yield from self._some_pieces(pace)
                for number, outcome in ended:
                    self._take(number, outcome)
                if ended:
                    yield from self._save()
                expected = max(self.co.migration.expected_points, self.plan.copied)
                yield Report("copy", self.plan.copied, expected, str(pace))
                yield from self.co.stay()
            if self.failed:
                # Any of them may still land; one that the server has refused need not be outlasted.
                yield from self.co.outlast(min(self.failed, key=_is_settled))
                self.page_points = max(1, self.page_points // 2)
        if self.unread:
            raise self.unread[0]

    def _some_pieces(self, pace: Pace) -> Flow[list[tuple[int, Outcome]]]:
        """Let pieces be copied; those of them that have ended, by the number of their range."""
        if pace.stands_still and not self._running:
            yield Sleep(LOOK_S)
            return []
        idle = [n for n in self.plan.left if n not in self._running.values()] if not pace.stands_still else []
        if len(self.plan.left) == 1 and idle:  # nothing to do beside it, so it needs no worker
            piece = self._piece(idle[0], Share.of(pace, 1, OWN_PIECE_POINTS))
            return [(idle[0], (yield from carried_out_here(piece.flow())))]
        if not self.failed and not self.unread:
            room: int = yield Room(WORKERS)
            share = Share.of(pace, room, PIECE_POINTS)
            for n in idle[: max(0, share.workers - len(self._running))]:
                self._running[(yield Begin(self._piece(n, share)))] = n
        ended: list[tuple[int, Outcome]] = yield Await(tuple(self._running), LOOK_S)
        return [(self._running.pop(number), outcome) for number, outcome in ended]

    def _piece(self, number: int, share: Share) -> Piece:
        m, stretch = self.co.migration, self.plan.stretches[number]
        return Piece(
            m.source,
            m.target_url,
            self.co.fence,
            stretch.at,
            stretch.end,
            share.piece_points,
            self.page_points,
            share.points_per_s,
        )

    def _take(self, number: int, outcome: Outcome) -> None:
        """Note what became of a piece."""
        if isinstance(outcome.error, RemoteFailure):
            self.failed.append(outcome.error)
            return
        copied: Copied = outcome.result()
        self.plan = self.plan.advanced(number, copied.points, copied.following, done=copied.done)
        self.page_points = copied.page_points
        if copied.unread is not None:
            self.unread.append(copied.unread)

    def _save(self) -> Flow[None]:
        # Order matters: applied first, saved second (docs/guarantee.md).
        m = self.co.migration
        yield records.put(m.plan, self.plan.to_payload(m.id))
        yield from self.co.save({"copied_points": self.plan.copied, "claim_beat": m.claim_beat + 1})


def _is_settled(error: RemoteFailure) -> bool:
    return isinstance(error, Rejected) and (error.missing or error.final)
