"""
Migrations as Prometheus sees them: what `qferry status` reads, read anew for each scrape, and what a command reports.

Labels are the names of migrating collections and words from fixed sets.  Needs `qferry[metrics]`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooLate
from datetime import datetime, timezone
from typing import Any

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from qferry import commands
from qferry.commands import Status
from qferry.connection import Connection
from qferry.errors import FerryError, Misuse, Unreachable
from qferry.flows.effects import Report
from qferry.logs import logger
from qferry.protocol.phases import Phase
from qferry.protocol.records import LEASE_MARGIN_S, LEASE_S, Writer
from qferry.protocol.shadow import Totals
from qferry.protocol.throttle import REASONS, points_per_s_of, reason_of

# Reports whose numbers say how far a command is.
PROGRESS = ("copy", "verify", "settle", "index", "soak")
# A scrape is answered within this, in seconds, or nobody waits for the answer: Prometheus's own patience is ten.
SCRAPE_S = 5
_ALL = 100
_MS = 1000


class MigrationMetrics(Collector):
    """
    Every migration on a server that is not over.

    Args:
        connection: The servers.
        clock: Tells the seconds, by a clock that never goes back.

    Attributes:
        port: Where it is served.
    """

    port = 0

    def __init__(self, connection: Connection, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._connection = dataclasses.replace(connection, timeout_s=min(SCRAPE_S, connection.timeout_s))
        self._clock = clock
        self._heard: dict[str, tuple[int, float]] = {}  # writer -> its beat, and since when
        self._progress: dict[str, float] = {}
        self._repaired = 0
        self._lock = threading.Lock()  # two scrapes at once would disagree on who is silent
        self._look: Future[tuple[Status, ...]] | None = None

    def report(self, report: Report) -> None:
        """Take note of what a command reports."""
        if report.stage in PROGRESS and report.done is not None and report.total:
            self._progress[report.stage] = min(1.0, report.done / report.total)
        self._repaired += report.repaired

    def describe(self) -> list[Metric]:
        """Nothing, or it would be collected to be registered; its names are unique by what follows."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All of it, as it is now; `qferry_up` alone if the server does not answer in `SCRAPE_S`."""
        up = GaugeMetricFamily("qferry_up", "Whether the records could be read; if not, nothing else is known.")
        try:
            found = self._seen()
            with self._lock:
                families = self._families(found)
            up.add_metric((), 1)
        except FerryError as error:
            logger.warning("%s", error, extra={"event": "scrape_failed", "error_type": type(error).__name__})
            families = []
            up.add_metric((), 0)
        yield up
        yield from families
        progress = GaugeMetricFamily(
            "qferry_command_progress_ratio", "How far this very command is, by stage.", labels=("stage",)
        )
        for stage, ratio in list(self._progress.items()):
            progress.add_metric((stage,), ratio)
        yield progress
        yield CounterMetricFamily(
            "qferry_command_repaired_points", "Points this very command has repaired.", value=self._repaired
        )

    def _seen(self) -> tuple[Status, ...]:
        """Look, or wait for the look that is under way: scrapes of a server that hangs do not pile up."""
        with self._lock:
            look = self._look
            if look is None or look.done():
                look = self._look = Future()
                threading.Thread(target=self._see, args=(look,), daemon=True, name="qferry-metrics look").start()
        try:
            return look.result(SCRAPE_S)
        except TooLate:
            raise Unreachable(f"The server has not said within {SCRAPE_S} s where migrations stand.") from None

    def _see(self, look: Future[tuple[Status, ...]]) -> None:
        try:
            look.set_result(commands.status(self._connection, live=True))
        except Exception as error:  # noqa: BLE001  it is raised where the result is awaited
            look.set_exception(error)

    def _families(self, found: tuple[Status, ...]) -> list[Metric]:
        told = _Families()
        listed = {w.id: w for status in found for w in status.writers}
        silent = self._silent(listed)
        # Names given to several migrations stand for the latest: records come oldest first.
        for status in {status.migration.source: status for status in found}.values():
            _tell(told, status, {w.id for w in status.writers} & silent)
        return told.families()

    def _silent(self, writers: dict[str, Writer]) -> set[str]:
        """Those whose beat has not moved for longer than a lease, by this process's clock."""
        now = self._clock()
        before, self._heard = self._heard, {}
        for writer in writers.values():
            beat, since = before.get(writer.id, (-1, now))
            self._heard[writer.id] = (beat, since) if beat == writer.beat else (writer.beat, now)
        return {i for i, (_, since) in self._heard.items() if now - since > LEASE_S + LEASE_MARGIN_S}


class _Families:
    """Gauges by name, each with the label `source`."""

    def __init__(self) -> None:
        self._by_name: dict[str, GaugeMetricFamily] = {}

    def add(self, name: str, help_text: str, source: str, value: float | None, **labels: str) -> None:
        """Add a value; None is not known, and not told."""
        if name not in self._by_name:
            self._by_name[name] = GaugeMetricFamily(f"qferry_migration_{name}", help_text, labels=("source", *labels))
        if value is not None:
            self._by_name[name].add_metric((source, *labels.values()), value)

    def families(self) -> list[Metric]:
        """All of them."""
        return list(self._by_name.values())


def _tell(told: _Families, status: Status, silent: set[str]) -> None:
    """One migration."""
    m, source = status.migration, status.migration.source

    def add(name: str, help_text: str, value: float | None, **labels: str) -> None:
        told.add(name, help_text, source, value, **labels)

    add(
        "info",
        "What moves where, and how; always 1.",
        1,
        target=m.target,
        strategy=m.strategy.value,
        policy=m.policy.value,
    )
    for phase in Phase:
        add("phase", "1 for the phase it is in, 0 for the others.", phase is m.phase, phase=phase.value)
    add("epoch", "Rises with each change that writers must follow.", m.epoch)
    add("created_timestamp_seconds", "When it began.", _timestamp(m.created_at))
    add("copied_points", "Points the backfill has copied.", m.copied_points)
    add("expected_points", "Points the backfill expected to copy.", m.expected_points)
    add("source_points", "Points in the source.", status.source_points)
    add("target_points", "Points in the target.", status.target_points)
    add(
        "target_green",
        "Whether the target has built its indexes.",
        None if status.target_status is None else status.target_status == "green",
    )
    add("target_answers", "Whether the target's server says how the target is.", not status.target_failure)
    add("journal_entries", "Written points that have not been found equal since.", status.debt)
    add("read_share_ratio", "The share of the reads that readers are to send to the target.", m.read_percent / _ALL)
    add("reads_held", "Whether readers see the source meanwhile, because points are being repaired.", m.reads_held)
    add("stepped_back", "Whether readers were sent back by themselves.", bool(m.stepped_back))
    add("suspicions", "Reasons why only a full check may be trusted.", len(m.suspicions))
    add("verified", "Whether a full check has passed that nothing has invalidated since.", m.verified is not None)
    at = (m.verified or {}).get("at")
    add("verified_timestamp_seconds", "When that check passed.", _timestamp(at))
    add("finished_timestamp_seconds", "When the application left the source.", _timestamp(m.finished_at))
    add("cleanup_timestamp_seconds", "When the safety period is over.", _timestamp(m.cleanup_after))
    add("coordinator", "Whether a command is at work on it.", bool(m.claim))
    add(
        "throttle_points_per_second",
        "How fast the command at work lets itself go; absent while nothing holds it up.",
        points_per_s_of(m.pace),
    )
    for reason in REASONS:
        add("throttled", "1 for the reason why it goes no faster.", reason == reason_of(m.pace), reason=reason)
    _tell_writers(add, status, silent)
    _tell_shadow(add, status.shadow)


def _tell_shadow(add: Callable[..., None], shadow: Totals | None) -> None:
    """What reads that were repeated on the other side have found; a ratio of nothing is not a number."""
    found = shadow or Totals()
    counts = {
        "compared": found.compared,
        "mismatched": found.mismatches,
        "failed": found.errors,
        "dropped": found.dropped,
    }
    for outcome, count in counts.items():
        add(
            "shadow_reads",
            "Reads repeated on the other side since that was asked for; mismatched ones are among the compared.",
            count,
            outcome=outcome,
        )
    overlap, latency = (math.nan if ratio is None else ratio for ratio in (found.mean_overlap, found.latency_ratio))
    add("shadow_overlap_ratio", "How far the two sides' answers overlap, in the mean.", overlap)
    add("shadow_latency_ratio", "What the target takes for what the source takes 1 for.", latency)


def _tell_writers(add: Callable[..., None], status: Status, silent: set[str]) -> None:
    m, writers = status.migration, status.writers
    behind = [m.epoch - w.acked.get(m.id, 0) for w in writers]
    p99_ms = [w.p99_ms for w in writers if w.p99_ms is not None]
    add("writers", "Clients that take part.", len(writers))
    add(
        "writers_silent",
        "Those without a heartbeat for longer than a lease, as far as this exporter saw.",
        len(silent),
    )
    add("writers_behind", "Those that have not acknowledged the epoch.", sum(epochs > 0 for epochs in behind))
    add("acknowledgement_lag_epochs", "By how many epochs the last one is behind.", max([0, *behind]))
    add("writers_busy_seconds", "How long the call has been running that holds up an acknowledgement.",
        max([0.0, *(w.busy_s for w in writers)]))  # fmt: skip
    add("writers_debt_points", "Points that writers have touched and not made durable.",
        sum(w.debts.get(m.id, 0) for w in writers))  # fmt: skip
    add("writers_suspect", "Those that cannot account for a write.", sum(m.id in w.suspects for w in writers))
    add("application_p99_seconds", "What the slowest calls of the slowest client took since its last heartbeat.",
        max(p99_ms) / _MS if p99_ms else None)  # fmt: skip


def _timestamp(at: Any) -> float | None:
    """Seconds since 1970 of a time as records have it."""
    if not at:
        return None
    return datetime.strptime(at, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc).timestamp()


@contextlib.contextmanager
def serving(connection: Connection, host: str, port: int) -> Iterator[MigrationMetrics]:
    """
    Answer scrapes at `http://host:port/metrics` meanwhile.

    Raises:
        Misuse: Nobody can listen there.
    """
    metrics = MigrationMetrics(connection)
    registry = CollectorRegistry()
    registry.register(metrics)
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except (OSError, OverflowError) as error:
        raise Misuse(
            f"Nobody can listen at {host}:{port} for scrapes: {error}.",
            hint="Choose another address with --metrics-listen.",
        ) from error
    metrics.port = server.server_port
    try:
        yield metrics
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
