"""Tests of what clients show of themselves: metrics, spans and log, by a real migration."""

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import REGISTRY
from qdrant_client import QdrantClient
from qdrant_client.http.exceptions import UnexpectedResponse
from staging import Caller, Migrating, Pairing, point

from qferry import FerryClient, FerryOptions, LeaseLost, commands
from qferry.clients import watching
from qferry.clients.watching import Beats
from qferry.errors import Refused, Unreachable
from qferry.flows.effects import Report
from qferry.protocol.records import LEASE_S

WATCHED = FerryOptions(heartbeat_s=0.2, metrics=True)
KINDS = [Pairing(asynchronous=False, grpc=False), Pairing(asynchronous=True, grpc=False)]


@pytest.fixture(params=KINDS, ids=str)
def caller(request: pytest.FixtureRequest, open_ferry: Callable[..., Caller]) -> Caller:
    """Give a client of each kind that reports metrics."""
    return open_ferry(request.param, WATCHED)


@pytest.fixture(scope="session")
def exporter() -> InMemorySpanExporter:
    """Give what keeps the spans of this process, which may set a tracer provider only once."""
    found = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(found))
    trace.set_tracer_provider(provider)
    return found


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Iterator[Callable[[str], list[dict[str, Any]]]]:
    """Give what tells the attributes of the spans of one name so far."""
    exporter.clear()
    yield lambda name: [dict(span.attributes or {}) for span in exporter.get_finished_spans() if span.name == name]
    exporter.clear()


def value(name: str, **labels: str) -> float | None:
    """Return one value that a scrape of this process would find."""
    return REGISTRY.get_sample_value(name, labels)


def until(found: Callable[[], Any], deadline_s: float = 20.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + deadline_s
    while not found():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_calls_without_a_migration_leave_no_trace(
    caller: Caller, collection: str, spans: Callable[[str], list[dict[str, Any]]]
) -> None:
    """What no migration concerns is neither counted nor traced."""
    caller.call("upsert", collection, [point(1000)])
    caller.call("count", collection)
    assert not spans("qferry.write")
    assert not spans("qferry.read")
    assert value("qferry_client_writes_total", source=collection, routing="dual", outcome="ok") is None
    assert value("qferry_client_epoch", source=collection) is None


def test_calls_are_counted_by_side_routing_and_outcome(
    caller: Caller, migrating: Migrating, plain: QdrantClient
) -> None:
    """Reads by the side they went to, writes by their routing, each with how long it took."""
    migrating.backfill()
    source = migrating.source
    caller.call("upsert", source, [point(1000)])
    caller.call("count", source)
    with pytest.raises(UnexpectedResponse):
        caller.call("upsert", source, [point(1001).model_copy(update={"vector": [1.0]})])
    commands.verify(migrating.connection, source)
    commands.switch(migrating.connection, source, percent=100)
    until(lambda: value("qferry_client_read_share_ratio", source=source) == 1)
    caller.call("count", source)
    plain.delete_collection(migrating.target)
    caller.call("count", source)
    assert value("qferry_client_writes_total", source=source, routing="dual", outcome="ok") == 1
    assert value("qferry_client_writes_total", source=source, routing="dual", outcome="error") == 1
    assert value("qferry_client_write_duration_seconds_count", source=source, routing="dual") == 2
    assert value("qferry_client_reads_total", source=source, side="source", outcome="ok") == 1
    assert value("qferry_client_reads_total", source=source, side="target", outcome="ok") == 1
    assert value("qferry_client_reads_total", source=source, side="target", outcome="fell_back") == 1
    assert value("qferry_client_read_duration_seconds_count", source=source, side="target") == 2


def test_state_is_read_when_it_is_asked_for(caller: Caller, migrating: Migrating) -> None:
    """Lease, epochs, read share and debt are those of this very moment."""
    migrating.start()
    source = migrating.source
    caller.call("upsert", source, [point(1000)])
    until(lambda: value("qferry_client_acknowledged_epoch", source=source) == migrating.migration.epoch)
    assert value("qferry_client_epoch", source=source) == migrating.migration.epoch
    assert value("qferry_client_read_share_ratio", source=source) == 0
    until(lambda: value("qferry_client_journal_debt_points", source=source) == 0)  # flushed
    journal = caller.client._session.journal(migrating.migration)
    journal.begin([1, 2])
    debt = value("qferry_client_journal_debt_points", source=source)
    journal.end([1, 2])
    assert debt == 2
    left = value("qferry_client_lease_remaining_seconds")
    assert left is not None
    assert left <= LEASE_S
    assert (value("qferry_client_clients") or 0) >= 1


def test_without_the_option_nothing_is_counted(open_ferry: Callable[..., Caller], migrating: Migrating) -> None:
    """Metrics are asked for."""
    caller = open_ferry()
    migrating.start()
    caller.call("upsert", migrating.source, [point(1000)])
    assert value("qferry_client_writes_total", source=migrating.source, routing="dual", outcome="ok") is None


def test_library_is_imported_only_where_it_is_used() -> None:
    """Neither prometheus-client nor OpenTelemetry is loaded by a client that reports nothing."""
    program = (
        "import sys, qferry; qferry.FerryClient(url='http://127.0.0.1:9', check_compatibility=False); "
        "print([name for name in sys.modules if name.startswith(('prometheus_client', 'opentelemetry'))])"
    )
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)  # noqa: S603  this very Python
    assert ran.stdout.strip() == "[]"


def test_metrics_without_their_package_are_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for metrics is told what to install."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "qferry.clients.metrics", raising=False)
    with pytest.raises(Exception, match=r"pip install .qferry\[metrics\]"):
        FerryClient(url="http://127.0.0.1:9", check_compatibility=False, ferry=WATCHED)


def test_spans_tell_operation_side_routing_and_outcome(
    caller: Caller, migrating: Migrating, plain: QdrantClient, spans: Callable[[str], list[dict[str, Any]]]
) -> None:
    """By the semantic conventions for databases, and what only qferry knows."""
    migrating.backfill()
    source = migrating.source
    caller.call("upsert", source, [point(1000)])
    caller.call("scroll", source, limit=1)
    (write,), (read,) = spans("qferry.write"), spans("qferry.read")
    common = {"db.system.name": "qdrant", "db.collection.name": source, "qferry.routing": "dual"}
    assert write.items() >= {**common, "db.operation.name": "upsert", "qferry.outcome": "ok"}.items()
    assert read.items() >= {**common, "db.operation.name": "scroll", "qferry.side": "source"}.items()
    assert write["qferry.epoch"] == migrating.migration.epoch
    with pytest.raises(UnexpectedResponse):
        caller.call("upsert", source, [point(1001).model_copy(update={"vector": [1.0]})])
    failed = spans("qferry.write")[-1]
    assert (failed["qferry.outcome"], failed["error.type"]) == ("error", "UnexpectedResponse")
    commands.verify(migrating.connection, source)
    commands.switch(migrating.connection, source, percent=100)
    until(lambda: caller.client._session.route(source).read_percent == 100)
    plain.delete_collection(migrating.target)
    caller.call("count", source)
    fallen = spans("qferry.read")[-1]
    assert (fallen["qferry.side"], fallen["qferry.outcome"]) == ("target", "fell_back")


def test_span_is_a_child_of_the_application_s_and_current_within(
    caller: Caller, migrating: Migrating, exporter: InMemorySpanExporter
) -> None:
    """A trace through the application goes on through qferry, and ends where it began."""
    if caller.client._session.term:
        pytest.skip("a call has been made")
    migrating.start()
    exporter.clear()
    with trace.get_tracer("application").start_as_current_span("request") as request:
        caller.call("count", migrating.source)
        assert trace.get_current_span() is request
    by_name = {span.name: span for span in exporter.get_finished_spans()}
    parent = by_name["qferry.read"].parent
    assert parent is not None
    assert parent.span_id == request.get_span_context().span_id


def test_command_has_a_span_and_its_stages_have_one_inside(
    migrating: Migrating, exporter: InMemorySpanExporter
) -> None:
    """What took how long, also of a command that was refused; reports still arrive."""
    migrating.start()
    exporter.clear()
    reports: list[Report] = []
    commands.backfill(migrating.connection, migrating.source, report=reports.append)
    *stages, command = exporter.get_finished_spans()
    assert command.name == "qferry.backfill"
    assert [span.name for span in stages] == ["qferry.stage.copy"]
    assert reports[-1].stage == "copy"
    context = command.get_span_context()
    assert context is not None
    assert all(span.parent is not None and span.parent.span_id == context.span_id for span in stages)
    exporter.clear()
    with pytest.raises(Refused):
        commands.switch(migrating.connection, migrating.source, percent=10)
    (refused,) = (span for span in exporter.get_finished_spans() if span.name == "qferry.switch")
    assert refused.attributes is not None
    assert refused.attributes["error.type"] == "Refused"
    assert not refused.status.is_ok
    assert not refused.events


def test_log_tells_what_changes_and_nothing_for_each_call(
    caller: Caller, migrating: Migrating, caplog: pytest.LogCaptureFixture
) -> None:
    """One record for each change of routing, with its facts as attributes; calls and heartbeats are silent."""
    caplog.set_level(logging.INFO, logger="qferry")
    migrating.backfill()
    for number in range(20):
        caller.call("upsert", migrating.source, [point(1000 + number)])
        caller.call("count", migrating.source)
    commands.verify(migrating.connection, migrating.source)
    commands.switch(migrating.connection, migrating.source, percent=30)
    until(lambda: caller.client._session.route(migrating.source).read_percent == 30)

    def told() -> list[Any]:
        adopted = [r for r in caplog.records if getattr(r, "event", "") == "routing_adopted"]
        return [(r.phase, r.read_percent) for r in adopted if r.source == migrating.source]  # type: ignore[attr-defined]

    until(lambda: ("switched", 30) in told())
    # A switch opens the gates first, and then moves readers; a heartbeat may see both or the latter only.
    assert [one for one in told() if one != ("switched", 0)] == [("copied", 0), ("switched", 30)]
    ours = [r for r in caplog.records if getattr(r, "source", "") == migrating.source and hasattr(r, "routing")]
    assert all(r.routing == "dual" and r.epoch for r in ours)  # type: ignore[attr-defined]


def test_read_that_falls_back_is_told_once_a_minute(
    caller: Caller,
    migrating: Migrating,
    plain: QdrantClient,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many fail meanwhile, which the next record counts."""
    migrating.switch()
    caller.call("count", migrating.source)
    plain.delete_collection(migrating.target)
    for _ in range(5):
        caller.call("count", migrating.source)
    fell = [r for r in caplog.records if getattr(r, "event", "") == "read_fell_back"]
    assert [r.since_last_told for r in fell] == [0]  # type: ignore[attr-defined]
    monkeypatch.setattr(watching, "TELL_EVERY_S", 0.0)
    caller.call("count", migrating.source)
    fell = [r for r in caplog.records if getattr(r, "event", "") == "read_fell_back"]
    assert [r.since_last_told for r in fell] == [0, 4]  # type: ignore[attr-defined]


def test_heartbeat_and_lease_are_told_when_they_fail_and_recover(
    ferry: FerryClient, migrating: Migrating, caplog: pytest.LogCaptureFixture
) -> None:
    """Failing once, lapsed once, recovered once; repetitions are for the debugger."""
    migrating.start()
    ferry.count(migrating.source)
    with ferry._beating:  # its own thread must not renew the lease meanwhile
        session, beats = ferry._session, Beats(ferry._session)
        beats.heard()
        caplog.clear()
        caplog.set_level(logging.INFO, logger="qferry")
        beats.failed(Unreachable("The server gave no answer."))
        beats.failed(Unreachable("The server gave no answer."))
        until_then, session.lease_until = session.lease_until, time.monotonic() - 1
        beats.failed(Unreachable("The server gave no answer."))
        session.lease_until = until_then
        beats.heard()
        beats.heard()
    events = [r.event for r in caplog.records if hasattr(r, "event")]
    assert events == ["heartbeat_failing", "lease_lapsed", "heartbeat_recovered", "lease_renewed"]


def test_call_that_cannot_begin_is_told_as_a_lost_lease() -> None:
    """The first look is the call's own: without a server it says what the call would say."""
    client = FerryClient(url="http://127.0.0.1:9", check_compatibility=False)
    with pytest.raises(LeaseLost):
        client.count("x")
    client.close()


def test_facts_can_be_written_as_json(
    migrating: Migrating, ferry: FerryClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever formatter an application has, the attributes are plain values."""
    caplog.set_level(logging.DEBUG, logger="qferry")
    migrating.start()
    ferry.count(migrating.source)
    plain_attributes = vars(logging.makeLogRecord({}))
    for record in caplog.records:
        if hasattr(record, "event"):
            json.dumps({k: v for k, v in vars(record).items() if k not in plain_attributes})
