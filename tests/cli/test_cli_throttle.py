"""Tests of `qferry throttle` against a real server: what is set holds within a moment, also for a command at work."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from qdrant_client import QdrantClient, models

from qferry import FerryClient, FerryOptions, commands
from qferry.connection import Connection

POINTS = 1_000


@pytest.fixture
def connection(qdrant: Any) -> Connection:
    """Give a connection to the shared server."""
    return Connection(url=qdrant.url, api_key=qdrant.api_key, grpc_port=qdrant.grpc_port)


@pytest.fixture
def large(source: str, client: QdrantClient, request: pytest.FixtureRequest) -> str:
    """Give the source with more points."""
    number = getattr(request, "param", POINTS)
    points = [models.PointStruct(id=i, vector=[i + 1, 1, 2, 3], payload={"group": i % 7}) for i in range(number)]
    client.upsert(source, points, wait=True)
    return source


class Backfill(threading.Thread):
    """A backfill that is under way."""

    def __init__(self, connection: Connection, source: str, **limits: Any) -> None:
        super().__init__()
        self.error: BaseException | None = None
        self.texts: list[str] = []
        self._run = lambda: commands.backfill(
            connection, source, limits=limits, report=lambda report: self.texts.append(report.text)
        )

    def run(self) -> None:
        """Carry it out."""
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001  told by the test
            self.error = error


@pytest.fixture
def backfill(connection: Connection, large: str, qferry: Any) -> Iterator[Backfill]:
    """Give a backfill that has begun, at a hundred points a second."""
    qferry("start", large)
    running = Backfill(connection, large, max_points_per_s=100)
    running.start()
    yield running
    qferry("throttle", large, "--resume", "--max-points-per-s", "0", "--quiet-hours", "")
    running.join(60)
    assert running.error is None


def copied(client: QdrantClient, source: str) -> int:
    """Return how many points the target has."""
    return client.count(f"project-{source.removeprefix('project_').removesuffix('_code')}").count


def speed(client: QdrantClient, source: str, seconds: float) -> float:
    """Return how many points a second arrive."""
    before, began = copied(client, source), time.monotonic()
    time.sleep(seconds)
    return (copied(client, source) - before) / (time.monotonic() - began)


@pytest.mark.parametrize("large", [4 * POINTS], indirect=True)  # more than any machine gets done before the pause
def test_limits_are_kept_and_changed_while_a_backfill_runs(
    qferry: Any, client: QdrantClient, large: str, backfill: Backfill
) -> None:
    """Slow, faster, not at all, and to the end; both sides are equal then."""
    time.sleep(1)
    assert 60 <= speed(client, large, 2) <= 120
    qferry("throttle", large, "--max-points-per-s", "200")
    time.sleep(2)
    assert 120 <= speed(client, large, 1) <= 240
    assert qferry("throttle", large, "--pause").exit_code == 0
    time.sleep(2.2)
    assert speed(client, large, 1.5) == 0
    assert copied(client, large) < 4 * POINTS
    shown = qferry("throttle", large, "--json").json
    assert shown["limits"] == {"max_points_per_s": 200, "max_latency_ms": 0, "quiet_hours": "", "paused": True}
    assert shown["pace"] == "stands still: paused; `qferry throttle --resume` lets it go on"
    assert "stands still" in qferry("status", large).stdout
    qferry("throttle", large, "--resume", "--max-points-per-s", "0")
    backfill.join(20)
    assert not backfill.is_alive()
    assert "100 points/s: the limit that is set" in backfill.texts
    assert qferry("throttle", large, "--json").json["pace"] is None
    assert qferry("verify", large).exit_code == 0


@pytest.mark.usefixtures("backfill")
def test_a_backfill_waits_for_the_quiet_hours(qferry: Any, client: QdrantClient, large: str) -> None:
    """Without giving up its claim; when they are lifted it goes on."""
    hour = time.gmtime().tm_hour
    qferry("throttle", large, "--quiet-hours", f"{(hour + 5) % 24:02}:00-{(hour + 6) % 24:02}:00")
    time.sleep(2.2)
    assert speed(client, large, 1) == 0
    data = qferry("status", large, "--json").json["migrations"][0]
    assert data["coordinator"] is not None
    assert "quiet hours" in data["pace"]
    assert qferry("backfill", large).exit_code == 1


def test_verify_keeps_to_the_limit_too(qferry: Any, large: str) -> None:
    """It reads both sides; what was given once stays."""
    qferry("start", large)
    qferry("backfill", large)
    began = time.monotonic()
    assert qferry("verify", large, "--max-points-per-s", "500").exit_code == 0
    assert time.monotonic() - began >= 1.8
    assert qferry("throttle", large, "--json").json["limits"]["max_points_per_s"] == 500


def test_a_backfill_backs_off_for_an_application_that_is_slow(
    qferry: Any, client: QdrantClient, large: str, qdrant: Any, connection: Connection
) -> None:
    """Its clients report what their calls take; any call takes longer than the limit here."""
    application = FerryClient(
        url=qdrant.url,
        api_key=qdrant.api_key,
        check_compatibility=False,
        ferry=FerryOptions(heartbeat_s=0.2),
    )
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.02):
            application.retrieve(large, [1])

    thread = threading.Thread(target=work)
    thread.start()
    try:
        qferry("start", large)
        running = Backfill(connection, large, max_latency_ms=0.01, max_points_per_s=150)
        running.start()
        time.sleep(5)
        assert any("points/s: the application's p99 is" in text for text in running.texts)
        assert 30 <= speed(client, large, 2) <= 70
        status = qferry("status", large, "--json").json["migrations"][0]
        assert status["writers"][0]["p99_ms"] > 0
    finally:
        qferry("throttle", large, "--max-latency-ms", "0", "--max-points-per-s", "0")
        stop.set()
        thread.join()
        application.close()
    running.join(30)
    assert running.error is None


def test_throttle_changes_only_what_is_given(qferry: Any, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment says, which is for the commands that do the work."""
    qferry("start", source)
    monkeypatch.setenv("QFERRY_MAX_POINTS_PER_S", "7")
    monkeypatch.setenv("QFERRY_QUIET_HOURS", "01:00-02:00")
    qferry("throttle", source, "--max-latency-ms", "40")
    qferry("throttle", source, "--max-points-per-s", "900")
    told = qferry("throttle", source)
    assert "900 points/s, p99 of the application 40 ms" in told.stdout
    assert "no command" in told.stdout
    assert qferry("backfill", source, "--quiet-hours", "").exit_code == 0
    limits = qferry("throttle", source, "--json").json["limits"]
    assert limits == {"max_points_per_s": 7, "max_latency_ms": 40, "quiet_hours": "", "paused": False}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--max-points-per-s", "-1"),
        ("--max-points-per-s", "many"),
        ("--max-latency-ms", "nan"),
        ("--quiet-hours", "22-6"),
        ("--quiet-hours", "10:00-10:00"),
    ],
)
def test_a_limit_that_cannot_be_is_refused_before_anything_is_sent(qferry: Any, option: str, value: str) -> None:
    """In one sentence, with exit code 2."""
    for verb in ("throttle", "backfill", "verify"):
        outcome = qferry(verb, option, value, "--url", "http://localhost:1")
        assert (outcome.exit_code, outcome.stdout) == (2, "")
        assert option in outcome.stderr or value in outcome.stderr
        assert outcome.stderr.count("\n") == 1


def test_a_migration_that_is_over_has_no_limits_to_change(qferry: Any, source: str) -> None:
    """It is refused, and nothing is changed."""
    qferry("start", source)
    qferry("abort", source, "--yes")
    outcome = qferry("throttle", source, "--pause")
    assert outcome.exit_code == 1
    assert "nothing to slow down" in outcome.stderr
    assert not qferry("throttle", source, "--json").json["limits"]["paused"]


def test_run_sets_its_limits_once(
    qferry: Any, source: str, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever changes them between two of its steps is not overruled by the next one."""
    backfill = commands.backfill

    def changed_afterwards(*arguments: Any, **options: Any) -> commands.Done:
        done = backfill(*arguments, **options)
        commands.throttle(connection, source, limits={"max_points_per_s": 900})
        return done

    monkeypatch.setattr(commands, "backfill", changed_afterwards)
    assert qferry("run", source, "--percent", "0", "--max-points-per-s", "500").exit_code == 0
    assert qferry("throttle", source, "--json").json["limits"]["max_points_per_s"] == 900
