"""
The clients of this process as Prometheus sees them.

Calls are counted as they end; everything else is read from the clients when it is asked for.  Labels are the names of
migrating collections and words from fixed sets.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client import REGISTRY, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from qferry.protocol.phases import ENDED
from qferry.protocol.records import LEASE_S
from qferry.protocol.seen import Seen
from qferry.protocol.session import Route, Session

_ALL = 100
# From a point read on the same machine to the patience of a caller.
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


_READ_OUTCOMES = ("ok", "fell_back", "error", "lease_lost", "interrupted")
_WRITE_OUTCOMES = ("ok", "target_failed", "error", "lease_lost", "interrupted")


class ClientMetrics(Collector):
    """Everything about the clients of one process; the process's own registry is asked to collect it."""

    def __init__(self) -> None:
        self._clients: weakref.WeakSet[Any] = weakref.WeakSet()
        self._registering = threading.Lock()
        self._registered = False
        self._begun: set[tuple[Counter, tuple[str, ...]]] = set()
        self.reads = Counter(
            "qferry_client_reads",
            "Reads of migrating collections, by the side they were sent to. fell_back: the target failed at it and the "
            "source answered.",
            ("source", "side", "outcome"),
            registry=None,
        )
        self.writes = Counter(
            "qferry_client_writes",
            "Writes to migrating collections, by routing. target_failed: one side has it, the other may not.",
            ("source", "routing", "outcome"),
            registry=None,
        )
        self.read_seconds = Histogram(
            "qferry_client_read_duration_seconds",
            "How long these reads took.",
            ("source", "side"),
            registry=None,
            buckets=_BUCKETS_S,
        )
        self.write_seconds = Histogram(
            "qferry_client_write_duration_seconds",
            "How long these writes took; routing=dual: to both sides.",
            ("source", "routing"),
            registry=None,
            buckets=_BUCKETS_S,
        )
        self.mending_writes = Counter(
            "qferry_client_mending_writes",
            "Writes that brought points which the target lacked.",
            ("source",),
            registry=None,
        )

    def add(self, client: Any) -> None:
        """Report a client's state from now on, as long as it lives."""
        with self._registering:
            if not self._registered:
                REGISTRY.register(self)
                self._registered = True
        self._clients.add(client)

    def count(self, route: Route, seen: Seen, outcome: str, seconds: float, *, write: bool) -> None:
        """Count a call that has ended."""
        source = route.migration.source
        if write:
            self._begin(self.writes, _WRITE_OUTCOMES, source, route.writes.value)
            self.writes.labels(source, route.writes.value, outcome).inc()
            self.write_seconds.labels(source, route.writes.value).observe(seconds)
            self.mending_writes.labels(source).inc(seen.mended)
            return
        side = (seen.side or route.truth).value
        self._begin(self.reads, _READ_OUTCOMES, source, side)
        self.reads.labels(source, side, outcome).inc()
        self.read_seconds.labels(source, side).observe(seconds)

    def _begin(self, counter: Counter, outcomes: Sequence[str], *labels: str) -> None:
        """Count every outcome from 0: of a series that begins with its first failure no rate tells of that failure."""
        if (counter, labels) not in self._begun:
            self._begun.add((counter, labels))
            for outcome in outcomes:
                counter.labels(*labels, outcome)

    def collect(self) -> Iterator[Metric]:
        """All of it, as it is now."""
        for counted in (self.reads, self.writes, self.read_seconds, self.write_seconds, self.mending_writes):
            yield from counted.collect()
        sessions = [client._session for client in list(self._clients)]  # noqa: SLF001  of the same layer
        yield GaugeMetricFamily(
            "qferry_client_clients", "Clients in this process that report metrics.", value=len(sessions)
        )
        yield _lease(sessions)
        yield from _migrations(sessions)


def _lease(sessions: list[Session]) -> Metric:
    """An idle client lets its lease lapse before the first migration, so only registered ones count."""
    left = GaugeMetricFamily(
        "qferry_client_lease_remaining_seconds",
        f"Until calls are refused unless a heartbeat succeeds, of the client that is worst off; {LEASE_S:.0f} after "
        "each heartbeat, negative once it has lapsed.",
    )
    now = time.monotonic()
    registered = [s.lease_until - now for s in sessions if s.registered]
    if registered:
        left.add_metric((), min(registered))
    return left


def _migrations(sessions: list[Session]) -> Iterator[Metric]:
    labels = ("source",)
    epoch = GaugeMetricFamily("qferry_client_epoch", "The epoch by which new calls are routed.", labels=labels)
    acked = GaugeMetricFamily(
        "qferry_client_acknowledged_epoch", "The epoch before which no call is under way any more.", labels=labels
    )
    share = GaugeMetricFamily(
        "qferry_client_read_share_ratio", "The share of the reads that is sent to the target.", labels=labels
    )
    debt = GaugeMetricFamily(
        "qferry_client_journal_debt_points", "Points that would be lost sight of with this process.", labels=labels
    )
    suspects = GaugeMetricFamily(
        "qferry_client_suspects", "Clients that cannot account for a write of theirs.", labels=labels
    )
    for source, routed in _by_source(sessions).items():
        own = [(session, route.migration) for session, route in routed]
        epoch.add_metric((source,), min(m.epoch for _, m in own))
        acked.add_metric((source,), min(session.acked.get(m.id, 0) for session, m in own))
        share.add_metric((source,), max(route.read_percent for _, route in routed) / _ALL)
        # A copy first: calls in other threads open and drop journals meanwhile.
        debt.add_metric((source,), sum(j.debt for s, m in own for i, j in dict(s.journals).items() if i == m.id))
        suspects.add_metric((source,), sum(m.id in session.suspects for session, m in own))
    yield from (epoch, acked, share, debt, suspects)


def _by_source(sessions: list[Session]) -> dict[str, list[tuple[Session, Route]]]:
    """The routes of living migrations, by the source's name."""
    found: dict[str, list[tuple[Session, Route]]] = {}
    for session in sessions:
        for name, route in session.view.routes.items():
            if name == route.migration.source and route.migration.phase not in ENDED:
                found.setdefault(name, []).append((session, route))
    return found


CLIENTS = ClientMetrics()
