"""Tests of `qferry metrics`, `--metrics-listen` and `--log-format json`."""

import contextlib
import json
import logging
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from qdrant_client import QdrantClient

from qferry import commands, exporter
from qferry.cli import log_lines
from qferry.cli.metrics import listen_address
from qferry.cli.output import Stop
from qferry.connection import Connection
from qferry.exporter import MigrationMetrics, serving
from qferry.flows.effects import Report
from qferry.protocol.phases import Phase
from qferry.protocol.records import CONTROL_COLLECTION, LEASE_MARGIN_S, LEASE_S, Strategy, Writer

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def connection(qdrant: Any) -> Connection:
    """Give what the commands need to reach the shared server."""
    return Connection(url=qdrant.url, api_key=qdrant.api_key, grpc_port=qdrant.grpc_port)


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def scraped(port: int) -> Samples:
    """Return what a scrape finds, by name and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def one(samples: Samples, name: str, **labels: str) -> float | None:
    """Return one value."""
    return samples.get((name, frozenset(labels.items())))


def test_scrape_tells_where_a_migration_stands(connection: Connection, source: str, target: str) -> None:
    """What `status` reads, anew for each scrape; and nothing of a migration that is over."""
    port = free_port()
    with serving(connection, "127.0.0.1", port):
        assert one(scraped(port), "qferry_migration_epoch", source=source) is None
        commands.start(connection, source, target, strategy=Strategy.STREAM)
        found = scraped(port)
        assert one(found, "qferry_up") == 1
        phases = {p: one(found, "qferry_migration_phase", source=source, phase=p.value) for p in Phase}
        assert [p for p, value in phases.items() if value] == [Phase.COPYING]
        assert None not in phases.values()
        commands.backfill(connection, source)
        commands.verify(connection, source)
        found = scraped(port)
        assert one(found, "qferry_migration_phase", source=source, phase="copied") == 1
        points = one(found, "qferry_migration_source_points", source=source)
        assert points
        assert one(found, "qferry_migration_copied_points", source=source) == points
        assert one(found, "qferry_migration_target_points", source=source) == points
        assert one(found, "qferry_migration_verified", source=source) == 1
        verified_at = one(found, "qferry_migration_verified_timestamp_seconds", source=source)
        assert verified_at is not None
        assert abs(time.time() - verified_at) < 300
        commands.switch(connection, source, percent=25)
        assert one(scraped(port), "qferry_migration_read_share_ratio", source=source) == 0.25
        commands.rollback(connection, source)
        commands.abort(connection, source)
        assert one(scraped(port), "qferry_migration_epoch", source=source) is None


def test_throttle_is_told_by_a_reason_of_a_fixed_set(connection: Connection, source: str, target: str) -> None:
    """Nothing holds it up while no command is at work."""
    commands.start(connection, source, target, strategy=Strategy.STREAM)
    families = {family.name: family for family in MigrationMetrics(connection).collect()}
    reasons = [s for s in families["qferry_migration_throttled"].samples if s.labels["source"] == source]
    assert {s.labels["reason"] for s in reasons} == set(exporter.REASONS)
    assert not any(s.value for s in reasons)


def test_writer_without_a_heartbeat_is_silent_after_a_lease(connection: Connection) -> None:
    """By the exporter's own clock; one whose beat moves is not."""
    now = [100.0]
    metrics = MigrationMetrics(connection, clock=lambda: now[0])

    def look(*beats: int) -> set[str]:
        return metrics._silent({str(n): Writer(str(n), "h", 1, "", b, {}, {}, {}) for n, b in enumerate(beats)})

    assert look(1, 1) == set()
    now[0] += LEASE_S + LEASE_MARGIN_S + 0.1
    assert look(1, 2) == {"0"}
    now[0] += 1
    assert look(2, 2) == set()


def test_command_tells_how_far_it_is_and_what_it_repaired(connection: Connection) -> None:
    """Stages that count, as a share; others not at all."""
    metrics = MigrationMetrics(connection)
    metrics.report(Report("verify", 30, 120))
    metrics.report(Report("claim", text="waiting for h pid 1"))
    metrics.report(Report("settle", 5, 5, repaired=2))
    metrics.report(Report("settle", 9, 9, repaired=1))
    samples = {(s.name, s.labels.get("stage")): s.value for family in metrics.collect() for s in family.samples}
    assert samples["qferry_command_progress_ratio", "verify"] == 0.25
    assert ("qferry_command_progress_ratio", "claim") not in samples
    assert samples["qferry_command_repaired_points_total", None] == 3


def test_shadow_reads_are_told_as_counts_and_ratios() -> None:
    """Of nothing compared there is no ratio."""

    def told(shadow: Any) -> dict[str, float]:
        found: dict[str, float] = {}
        exporter._tell_shadow(
            lambda name, _, value, **labels: found.update({" ".join((name, *labels.values())): value}), shadow
        )
        return found

    nothing = told(None)
    assert nothing["shadow_reads compared"] == 0
    assert math.isnan(nothing["shadow_overlap_ratio"])
    assert math.isnan(nothing["shadow_latency_ratio"])
    some = SimpleNamespace(compared=8, mismatches=2, errors=1, dropped=3, mean_overlap=0.9, latency_ratio=None)
    found = told(some)
    assert [found[f"shadow_reads {o}"] for o in ("compared", "mismatched", "failed", "dropped")] == [8, 2, 1, 3]
    assert found["shadow_overlap_ratio"] == 0.9
    assert math.isnan(found["shadow_latency_ratio"])


def test_server_that_is_down_is_a_scrape_that_says_so() -> None:
    """The exporter lives on; only `qferry_up` and the command's own figures are left."""
    down = Connection(url="http://127.0.0.1:9", timeout_s=2)
    samples = [s for family in MigrationMetrics(down).collect() for s in family.samples]
    assert [(s.name, s.value) for s in samples if not s.name.startswith("qferry_command")] == [("qferry_up", 0)]


def test_scrape_is_answered_though_the_server_hangs(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """In time, and a single look is waited for however many scrapes there are; afterwards all is as before."""
    looks: list[int] = []
    answers = threading.Event()

    def hangs(asked: Connection, **_: Any) -> tuple[()]:
        looks.append(asked.timeout_s)
        assert answers.wait(60)
        return ()

    monkeypatch.setattr(commands, "status", hangs)
    monkeypatch.setattr(exporter, "SCRAPE_S", 0.01)
    metrics = MigrationMetrics(connection)

    def up() -> float:
        return next(family for family in metrics.collect() if family.name == "qferry_up").samples[0].value

    assert [up() for _ in range(5)] == [0] * 5
    assert looks == [0.01]
    monkeypatch.setattr(exporter, "SCRAPE_S", 60)
    answers.set()
    assert up() == 1


def test_target_whose_server_is_dead_takes_its_own_figures_only(
    connection: Connection, source: str, target: str
) -> None:
    """The exporter is up, and tells the rest of this migration and of all others."""
    commands.start(connection, source, target, strategy=Strategy.STREAM)
    m = commands.find(connection, source)
    with contextlib.closing(QdrantClient(url=connection.url, api_key=connection.api_key)) as client:
        client.set_payload(CONTROL_COLLECTION, {"target_url": "http://127.0.0.1:9"}, [m.id], wait=True)
        told = {
            sample.name: sample.value
            for family in MigrationMetrics(connection).collect()
            for sample in family.samples
            if sample.labels.get("source") in (None, source)
        }
        client.set_payload(CONTROL_COLLECTION, {"target_url": m.target_url}, [m.id], wait=True)
    assert told["qferry_up"] == 1
    assert told["qferry_migration_source_points"] == 120
    assert told["qferry_migration_target_answers"] == 0
    assert "qferry_migration_target_points" not in told


def test_verb_serves_until_ctrl_c(qdrant: Any) -> None:
    """It says where, also if the system has chosen the port, answers, and ends well."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("QDRANT_", "QFERRY_"))}
    environ |= {"QDRANT_API_KEY": qdrant.api_key} if qdrant.api_key else {}
    command = [sys.executable, "-m", "qferry", "metrics", "--url", qdrant.url, "--metrics-listen", "127.0.0.1:0"]
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603  this very Python
        assert process.stderr is not None
        while (announced := re.search(r"127\.0\.0\.1:(\d+)", line := process.stderr.readline())) is None:
            assert line, "it ended before it served"
        assert one(scraped(int(announced[1])), "qferry_up") == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0


def test_command_at_work_is_scraped_meanwhile(
    qferry: Any, source: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--metrics-listen` answers while the verb works, and no longer."""
    port = free_port()
    assert qferry("start", source, target).exit_code == 0
    seen: list[Samples] = []
    backfill = commands.backfill

    def spied(*args: Any, report: Callable[[Report], None], **kwargs: Any) -> Any:
        done = backfill(*args, report=report, **kwargs)
        seen.append(scraped(port))
        return done

    monkeypatch.setattr(commands, "backfill", spied)
    assert qferry("backfill", source, "--metrics-listen", f"127.0.0.1:{port}").exit_code == 0
    assert one(seen[0], "qferry_command_progress_ratio", stage="copy") == 1
    assert one(seen[0], "qferry_migration_phase", source=source, phase="copied") == 1
    with pytest.raises(OSError, match="refused"):
        scraped(port)


def test_port_in_use_is_refused_before_anything_is_done(qferry: Any, source: str, connection: Connection) -> None:
    """One sentence, and nothing has changed."""
    port = free_port()
    with serving(connection, "127.0.0.1", port):
        outcome = qferry("start", source, "--metrics-listen", f"127.0.0.1:{port}")
    assert outcome.exit_code == 1
    assert f"127.0.0.1:{port}" in outcome.stderr
    assert all(status.migration.source != source for status in commands.status(connection))


@pytest.mark.parametrize(
    "text", ["", "9464", ":9464", "host", "host:", "host:x", "host:99999", "a@host:1", "http://host:1", "host:1/x"]
)
def test_address_that_is_none_is_a_usage_error(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(Stop) as stopped:
        listen_address(text)
    assert stopped.value.exit_code == 2


def test_address_may_be_of_any_kind() -> None:
    """A name, either protocol's loopback, or every interface."""
    assert listen_address("127.0.0.1:9464") == ("127.0.0.1", 9464)
    assert listen_address("[::1]:80") == ("::1", 80)
    assert listen_address("0.0.0.0:80") == ("0.0.0.0", 80)  # noqa: S104  that is what is tested
    assert listen_address(None) is None


def test_missing_package_is_told_in_a_sentence(qferry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install, exit code 1."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "qferry.exporter")
    outcome = qferry("metrics")
    assert outcome.exit_code == 1
    assert 'pip install "qferry[metrics]"' in outcome.stderr


def test_log_format_json_makes_every_line_of_stderr_an_object(qferry: Any, source: str, target: str) -> None:
    """History, progress and errors, each with an event and its facts; stdout is as ever."""
    started = qferry("start", source, target, "--log-format", "json", "--json")
    lines = [json.loads(line) for line in started.stderr.splitlines()]
    assert started.json["target"] == target
    history = [line for line in lines if line["event"] == "history"]
    assert history
    for line in history:
        assert line["source"] == source
        assert line.keys() >= {"time", "level", "logger", "message", "what", "who", "epoch", "phase", "details"}
    assert "claimed" in {line["event"] for line in lines}
    copied = qferry("backfill", source, "--log-format", "json")
    events = {json.loads(line)["event"] for line in copied.stderr.splitlines()}
    assert events >= {"history", "progress"}
    refused = qferry("finish", source, "--yes", "--log-format", "json")
    last = json.loads(refused.stderr.splitlines()[-1])
    assert (last["event"], last["level"], last["exit_code"]) == ("command_failed", "error", refused.exit_code)
    assert not log_lines.active()


def test_traceback_is_not_lost_in_json() -> None:
    """It is what a fault is mended by."""
    try:
        int("odd")
    except ValueError:
        record = logging.LogRecord("qferry", logging.ERROR, __file__, 1, "a fault", None, sys.exc_info())
    line = json.loads(log_lines.JsonLine().format(record))
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: invalid literal for int() with base 10: 'odd'")


def test_log_format_is_plain_by_default(qferry: Any, source: str, target: str) -> None:
    """What people see is as it was: no history on stderr."""
    plain = qferry("start", source, target, "--json")
    assert plain.stderr == ""
    assert logging.getLogger("qferry").level == logging.NOTSET
