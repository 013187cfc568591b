"""
Looks, once a second, whether a copy or a comparison may go on, and how fast.

The limits are fields of the migration's record, which the coordinator reads anyway; whoever changes them needs no
claim.  As long as nothing is limited, the only thing asked for beside is the state of the target.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from qferry.control import records, wire
from qferry.flows.coordinator import Coordinator
from qferry.flows.effects import Flow, Json, Now, Outcome, Sleep, Today, Together
from qferry.protocol.records import HOME, Migration
from qferry.protocol.throttle import INF, Governor, Pace, Signals

LOOK_S = 1.0
# An answer that takes longer is none; a few of these in a row are less than the claim lasts.
ANSWER_S = 2.0
# Telemetry has a line for each collection on the server, so it is asked for less often.
MEMORY_EVERY_S = 10.0
# A piece of work ends after this long, so that a change takes effect.
PIECE_S = 1.0
# A limited pace is kept by pages of equal size: this many in a second, and no more points by one worker.
PAGES_PER_S, WORKER_POINTS_PER_S = 20, 5_000
# A client that has not reported for this long says nothing about the present.
REPORT_AGE_S = 3.0
# A single slow read means nothing; the median of so many does.
_PROBES = 3
_KB = 1024


@dataclass(frozen=True)
class Share:
    """What one worker gets of a pace: how many points a second, in pages and pieces of how many."""

    workers: int
    points_per_s: float
    piece_points: int

    @classmethod
    def of(cls, pace: Pace, workers: int, piece_points: int) -> Share:
        """The share of each of at most so many workers, perhaps none, whose pieces have at most so many points."""
        if not workers or pace.points_per_s == INF:
            return cls(workers, INF, piece_points)
        workers = int(min(workers, 1 + pace.points_per_s // WORKER_POINTS_PER_S))
        each = pace.points_per_s / workers
        return cls(workers, each, max(1, min(piece_points, int(each * PIECE_S))))


def page_points(points_per_s: float, most: int) -> int:
    """How many points a page may have at that pace."""
    return max(1, int(min(most, points_per_s / PAGES_PER_S)))


def keep_pace(points_per_s: float, began: float, points: int) -> Flow[float]:
    """Wait until so many points since `began` are not too many; returns the time."""
    now: float = yield Now()
    wait_s = began + points / points_per_s - now
    if wait_s <= 0:
        return now
    yield Sleep(wait_s)
    return now + wait_s


@dataclass
class Throttle:
    """What one command knows about how fast it may go."""

    co: Coordinator
    only_reads: bool = False  # then the target's troubles are no reason: nothing is added to them
    _governor: Governor = field(default_factory=Governor)
    _pace: Pace = field(default_factory=Pace)
    _looked_at: float | None = None
    _done: int = 0
    _memory: tuple[float, float | None] = (-INF, None)  # when it was asked for, and the share
    _probes: list[float] = field(default_factory=list)
    _heard: dict[str, tuple[int, float]] = field(default_factory=dict)  # writer -> its beat, and since when

    def look(self, done: int) -> Flow[Pace]:
        """
        How fast it may go; looks anew at most once a second.

        Args:
            done: The points that are done, of which the speed is told.
        """
        now: float = yield Now()
        before = self._looked_at
        if before is not None and now - before < LOOK_S:
            return self._pace
        signals: dict[str, Any] = {}
        if before is None:
            self._done = done
        else:
            yield from self.co.stay(every_s=LOOK_S)
            signals = yield from self._signals(now)
            signals["points_per_s"] = (done - self._done) / (now - before)
        limits = self.co.migration.limits
        if limits.quiet_hours:
            today: str = yield Today()
            signals["minute"] = int(today[11:13]) * 60 + int(today[14:16])
        self._looked_at, self._done = now, done
        self._pace = self._governor.pace(limits, Signals(**signals))
        self.co.pace = str(self._pace)
        return self._pace

    def _signals(self, now: float) -> Flow[dict[str, Any]]:
        m = self.co.migration
        found: dict[str, Any] = {}
        if not self.only_reads:
            info = yield from _answer(wire.info(m.target_url, m.target))
            if info is not None:
                found["failing"] = info["status"] == "red" or info.get("optimizer_status", "ok") != "ok"
                found["queue"] = (info.get("update_queue") or {}).get("length")
            if now - self._memory[0] >= MEMORY_EVERY_S:
                self._memory = now, memory_share((yield from _answer(wire.telemetry(m.target_url))))
            found["memory_share"] = self._memory[1]
        if m.limits.max_latency_ms:
            found["application_p99_ms"] = yield from self._application_p99_ms(m)
            found["probe_ms"] = yield from self._probe_ms(m)
        return found

    def _application_p99_ms(self, m: Migration) -> Flow[float | None]:
        """The slowest of those that have reported lately."""
        listed = yield from records.writers()
        now: float = yield Now()
        worst: float | None = None
        for writer in listed:
            beat, since = self._heard.get(writer.id, (-1, now))
            if writer.beat != beat:
                since = now
                self._heard[writer.id] = writer.beat, now
            if m.id in writer.seen and writer.p99_ms is not None and now - since < REPORT_AGE_S:
                worst = max(worst or 0.0, writer.p99_ms)
        return worst

    def _probe_ms(self, m: Migration) -> Flow[float]:
        """How long it takes to read one point of the source."""
        sent: float = yield Now()
        yield from _answer(wire.scroll(HOME, m.source, limit=1))
        now: float = yield Now()
        self._probes = [*self._probes, (now - sent) * 1000][-_PROBES:]
        return median(self._probes)


def _answer(request: Any) -> Flow[Json]:
    """What is answered soon; None otherwise: what cannot be known is no reason, and the claim must be kept."""
    outcomes: list[Outcome] = yield Together((replace(request, timeout_s=ANSWER_S),))
    return outcomes[0].value


def memory_share(telemetry: Mapping[str, Any] | None) -> float | None:
    """The share of its machine's memory that a server holds; None if its telemetry does not say."""
    resident = ((telemetry or {}).get("memory") or {}).get("resident_bytes")
    there_is = (((telemetry or {}).get("app") or {}).get("system") or {}).get("ram_size")
    return resident / (there_is * _KB) if resident and there_is else None
