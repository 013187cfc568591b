"""How history gets to the target, on real servers: what arrives, what stays behind, and what goes wrong."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from qdrant_client import QdrantClient, models
from staging import Migrating, ask, contents, named, point

from qferry import FerryClient, commands
from qferry.connection import Connection
from qferry.errors import Conflict, Refused, RemoteFailure
from qferry.flows import restore
from qferry.flows.effects import Flow, Report
from qferry.protocol.phases import Phase
from qferry.protocol.records import Migration, Strategy
from qferry.server import QdrantServer

PATIENCE_S = 30.0


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare commands most of the wait for what an earlier one may have sent."""
    monkeypatch.setattr("qferry.flows.coordinator.LANDING_S", 0.5)
    monkeypatch.setattr(restore, "LANDING_S", 0.5)


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[QdrantServer]:
    """Give a second server."""
    with QdrantServer.start() as server:
        yield server


def phase(connection: Connection, source: str) -> Phase:
    """Return where a migration stands."""
    return commands.status(connection, source)[0].migration.phase


def littered(plain: QdrantClient, source: str) -> list[str]:
    """Return what attempts have left: snapshots of the source, collections and aliases with a fence's name."""
    found = [s["name"] for s in ask(plain, "GET", f"/collections/{source}/snapshots")]
    names = [c["name"] for c in ask(plain, "GET", "/collections")["collections"]]
    names += [a["alias_name"] for a in ask(plain, "GET", "/aliases")["aliases"]]
    return found + [name for name in names if "_fence_" in name]


def test_what_is_written_meanwhile_arrives(migrating: Migrating, ferry: FerryClient) -> None:
    """Upserts, updates, deletes and filters before, during and after the restore: all of it, and nothing else."""
    m = migrating
    m.plain.create_payload_index(m.source, "n", models.PayloadSchemaType.INTEGER, wait=True)
    started = commands.start(m.connection, m.source, m.target)
    assert started.strategy == "snapshot"
    assert phase(m.connection, m.source) is Phase.CAPTURING
    ferry.delete(m.source, [1, 2], wait=True)
    ferry.set_payload(m.target, {"late": True}, [3])
    assert m.plain.count(m.target).count == 0
    stop, failed = threading.Event(), list[Exception]()

    def write() -> None:
        number = 1000
        try:
            while not stop.is_set():
                number += 1
                ferry.upsert(m.source, [point(number, late=True)])
                ferry.set_payload(m.source, {"again": number}, [number - 1 if number > 1001 else 5])
                ferry.delete(m.source, models.FilterSelector(filter=named("again", number - 7)), wait=number % 2 > 0)
        except Exception as error:  # noqa: BLE001  the test tells of it
            failed.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        done = commands.backfill(m.connection, m.source)
    finally:
        stop.set()
        writer.join(PATIENCE_S)
    assert not failed
    assert done.phase == "copied"
    verification = commands.verify(m.connection, m.source)
    assert verification.passed, verification
    assert contents(m.plain, m.source) == contents(m.plain, m.target)
    assert not littered(m.plain, m.source)
    commands.switch(m.connection, m.source, percent=100)
    assert ferry.retrieve(m.source, [3])[0].payload["late"]


def test_a_server_that_may_not_know_the_key_is_brought_it(
    migrating: Migrating, elsewhere: QdrantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that may not be told the source's key gets the snapshot carried, and keeps nothing of it."""
    m = migrating
    there = replace(m.connection, target_url=elsewhere.url, target_grpc_port=elsewhere.grpc_port)
    monkeypatch.setattr(Connection, "origin", property(lambda _: None))  # as if the source had a key
    commands.start(there, m.source, m.target)
    try:
        commands.backfill(there, m.source)
        assert commands.verify(there, m.source).passed
        other = QdrantClient(url=elsewhere.url, check_compatibility=False)
        with contextlib.closing(other):
            assert contents(m.plain, m.source) == contents(other, m.target)
            names = [c["name"] for c in ask(other, "GET", "/collections")["collections"]]
        assert names == [m.target]
        assert not list(elsewhere.folder.glob("**/*.snapshot"))
        assert not littered(m.plain, m.source)
    finally:
        commands.abort(there, m.source)


def test_the_key_stays_at_home() -> None:
    """Another server fetches only what needs no key; an address is the one that qdrant-client would call."""
    keyed = Connection(url="http://qdrant", api_key="secret")
    assert keyed.origin is not None
    assert keyed.origin.url == "http://qdrant:6333"
    assert "secret" not in repr(keyed.origin)
    assert replace(keyed, target_url="http://other:6333").origin is None
    assert replace(keyed, api_key=None, target_url="http://other:6333").origin is not None


def test_a_server_that_cannot_fetch_is_brought_it(migrating: Migrating, monkeypatch: pytest.MonkeyPatch) -> None:
    """The URL by which the command reaches the server need not be one by which the server reaches itself."""
    m = migrating
    monkeypatch.setattr(Connection, "origin", property(lambda _: restore.Origin("http://127.0.0.1:9")))
    told: list[Report] = []
    commands.start(m.connection, m.source, m.target)
    commands.backfill(m.connection, m.source, report=told.append)
    assert any("cannot fetch" in report.text for report in told)
    assert commands.verify(m.connection, m.source).passed
    assert not littered(m.plain, m.source)


class SlowArchive:
    """A server of snapshots that begins to answer, and ends when it is let."""

    def __init__(self, url: str) -> None:
        self.asked, self.let = threading.Event(), threading.Event()
        slow = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                content = httpx.get(url + self.path, headers={"Accept-Encoding": "identity"}).content
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[:1000])
                slow.asked.set()
                slow.let.wait(PATIENCE_S)
                self.wfile.write(content[1000:])

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Let whoever waits, and stop."""
        self.let.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def slow(migrating: Migrating, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowArchive]:
    """Let the target's server fetch from a slow server."""
    archive = SlowArchive(migrating.connection.url)
    monkeypatch.setattr(Connection, "origin", property(lambda _: restore.Origin(archive.url)))
    yield archive
    archive.close()


def in_the_background(command: Callable[[], Any]) -> tuple[threading.Thread, list[BaseException]]:
    """Run a command beside the test; returns its thread and what it ended in, if that is an error."""
    ended: list[BaseException] = []

    def run() -> None:
        try:
            command()
        except BaseException as error:  # noqa: BLE001  the test looks at it
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, ended


def test_an_abort_while_it_is_restored_leaves_nothing(migrating: Migrating, slow: SlowArchive) -> None:
    """It waits until the server is through, whatever the server then makes of a fence that is gone."""
    m = migrating
    before = contents(m.plain, m.source)
    commands.start(m.connection, m.source, m.target)
    backfill, ended = in_the_background(lambda: commands.backfill(m.connection, m.source))
    assert slow.asked.wait(PATIENCE_S)

    def let(report: Report) -> None:
        if "through with earlier" in report.text:
            slow.let.set()

    commands.abort(m.connection, m.source, report=let)
    assert slow.let.is_set()
    backfill.join(PATIENCE_S)
    assert isinstance(ended[0], Conflict)
    assert not littered(m.plain, m.source)
    assert not m.plain.collection_exists(m.target)
    assert contents(m.plain, m.source) == before


def test_a_successor_does_not_mind_what_its_predecessor_has_sent(
    migrating: Migrating, slow: SlowArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recovery that ends when another coordinator has taken over does not touch the target."""
    m = migrating
    monkeypatch.setattr("qferry.flows.coordinator.CLAIM_S", 0.0)
    commands.start(m.connection, m.source, m.target)
    first, ended = in_the_background(lambda: commands.backfill(m.connection, m.source))
    assert slow.asked.wait(PATIENCE_S)
    stands_still: Callable[..., Flow[None]] = lambda *_: iter(())  # noqa: E731  the first one has been stopped
    monkeypatch.setattr("qferry.flows.coordinator.Coordinator.stay", stands_still)
    monkeypatch.setattr(restore, "_until_idle", stands_still)  # and the second one is in a hurry
    monkeypatch.setattr(Connection, "origin", property(lambda self: restore.Origin(self.url)))
    commands.backfill(m.connection, m.source)
    before = contents(m.plain, m.target)
    m.plain.upsert(m.target, [point(9999)], wait=True)
    slow.let.set()
    first.join(PATIENCE_S)
    assert isinstance(ended[0], Conflict)
    assert contents(m.plain, m.target).keys() == {*before, 9999}
    (beside,) = littered(m.plain, m.source)  # what the first one has sent went there, and nobody waited to remove it
    m.plain.delete_collection(beside)


def test_a_changed_configuration_is_found_before_anything_is_copied(migrating: Migrating) -> None:
    """The command says so, the source is untouched, and after an abort it can begin anew."""
    m = migrating
    commands.start(m.connection, m.source, m.target)
    ask(m.plain, "PATCH", f"/collections/{m.source}", {"optimizers_config": {"indexing_threshold": 123_456}})
    with pytest.raises(Refused, match="configuration has changed"):
        commands.backfill(m.connection, m.source)
    assert not littered(m.plain, m.source)
    commands.abort(m.connection, m.source)
    commands.start(m.connection, m.source, m.target)
    commands.backfill(m.connection, m.source)
    assert commands.verify(m.connection, m.source).passed


def test_somebody_s_backup_survives(migrating: Migrating) -> None:
    """Also one that was there before, and whatever the servers call ours."""
    m = migrating
    backup = ask(m.plain, "POST", f"/collections/{m.source}/snapshots")["name"]
    commands.start(m.connection, m.source, m.target)
    commands.backfill(m.connection, m.source)
    assert littered(m.plain, m.source) == [backup]
    ask(m.plain, "DELETE", f"/collections/{m.source}/snapshots/{backup}")


def test_a_failed_attempt_is_begun_anew(migrating: Migrating, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the middle leaves the source alone, and the next attempt whole."""
    m = migrating
    commands.start(m.connection, m.source, m.target)

    def no_room(*_: object) -> Flow[None]:
        raise RemoteFailure("No space left on device.")
        yield

    with monkeypatch.context() as patched:
        patched.setattr(restore, "_fetched", no_room)
        with pytest.raises(RemoteFailure, match="No space left"):
            commands.backfill(m.connection, m.source)
    assert phase(m.connection, m.source) is Phase.CAPTURING
    assert not ask(m.plain, "GET", f"/collections/{m.source}/snapshots")
    commands.backfill(m.connection, m.source)
    assert commands.verify(m.connection, m.source).passed
    assert not littered(m.plain, m.source)


def test_a_pause_holds_it_back(migrating: Migrating) -> None:
    """What the operator has paused does not begin, and does when it is resumed."""
    m = migrating
    commands.start(m.connection, m.source, m.target)
    commands.throttle(m.connection, m.source, limits={"paused": True})
    waits = threading.Event()

    def heard(report: Report) -> None:
        if "pause" in report.text:
            waits.set()

    backfill, ended = in_the_background(lambda: commands.backfill(m.connection, m.source, report=heard))
    assert waits.wait(PATIENCE_S)
    assert phase(m.connection, m.source) is Phase.CAPTURING
    commands.throttle(m.connection, m.source, limits={"paused": False})
    backfill.join(PATIENCE_S)
    assert not ended
    assert phase(m.connection, m.source) is Phase.COPIED


@pytest.mark.parametrize(
    ("overrides", "why"),
    [({}, ""), ({"on_disk_payload": False}, "configured differently")],
)
def test_a_strategy_is_chosen_and_accounted_for(migrating: Migrating, overrides: dict[str, Any], why: str) -> None:
    """A snapshot wherever that is possible; asking for one where it is not is refused, and changes nothing."""
    m = migrating
    planned = commands.plan(m.connection, m.source, m.target, overrides)
    assert planned.strategy == ("stream" if why else "snapshot")
    assert why in planned.because
    assert commands.plan(m.connection, m.source, m.target, overrides, Strategy.STREAM).because == "asked for"
    if why:
        with pytest.raises(Refused, match=why):
            commands.start(m.connection, m.source, m.target, overrides=overrides, strategy=Strategy.SNAPSHOT)
        assert not m.plain.collection_exists(m.target)


def test_records_without_a_strategy_are_streamed() -> None:
    """As they were written before there was a choice."""
    known = json.loads(json.dumps(Migration("m", "a", "b", ("a", "b")).to_payload()))
    del known["strategy"], known["archive"]
    assert Migration.from_payload(known).strategy is Strategy.STREAM


def test_a_target_copied_in_bulk_is_indexed_in_the_end(migrating: Migrating) -> None:
    """Nothing is indexed while pages arrive; then the target is configured as the source is."""
    m = migrating

    def optimizers(collection: str) -> dict[str, Any]:
        found: dict[str, Any] = ask(m.plain, "GET", f"/collections/{collection}")["config"]["optimizer_config"]
        return found

    overrides = {"optimizers_config": {"flush_interval_sec": 7}}
    commands.start(m.connection, m.source, m.target, overrides=overrides, strategy=Strategy.BULK)
    assert optimizers(m.target)["indexing_threshold"] == 0
    commands.backfill(m.connection, m.source)
    assert optimizers(m.target) == {**optimizers(m.source), "flush_interval_sec": 7}
    assert commands.verify(m.connection, m.source).passed


def test_who_loses_the_claim_takes_its_snapshot_along(migrating: Migrating, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is told before the snapshot has been taken or right after."""
    m = migrating
    commands.start(m.connection, m.source, m.target)
    gone = Conflict("Another coordinator has taken this migration over.")

    def lost(*_: object) -> Flow[None]:
        raise gone
        yield

    for look in ("stay", "still_mine"):
        with monkeypatch.context() as patched:
            patched.setattr(restore, "LOOK_S", 0.0)
            patched.setattr(restore, "_may_begin", lambda _: iter(()))
            patched.setattr(f"qferry.flows.coordinator.Coordinator.{look}", lost)
            with pytest.raises(Conflict):
                commands.backfill(m.connection, m.source)
        assert not littered(m.plain, m.source)


def test_a_backup_of_the_very_same_second_is_not_taken_for_ours(
    migrating: Migrating, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers name snapshots by the second: if ours has the name of one that was there, another one is taken."""
    m = migrating
    backup = ask(m.plain, "POST", f"/collections/{m.source}/snapshots")["name"]
    taken, original = [], restore._taken

    def of_the_same_second(*arguments: Any) -> Flow[Any]:
        snapshot = yield from original(*arguments)
        taken.append(snapshot["name"])
        if len(taken) > 1:
            return snapshot
        if snapshot["name"] != backup:  # it was not the same second, so it is made to look so
            ask(m.plain, "DELETE", f"/collections/{m.source}/snapshots/{snapshot['name']}")
        return {**snapshot, "name": backup}

    monkeypatch.setattr(restore, "_taken", of_the_same_second)
    commands.start(m.connection, m.source, m.target)
    commands.backfill(m.connection, m.source)
    assert len(taken) == 2
    assert littered(m.plain, m.source) == [backup]
    assert commands.verify(m.connection, m.source).passed


def test_an_abort_does_not_need_the_source(migrating: Migrating) -> None:
    """Somebody has deleted it before a snapshot was taken: what the migration has made can still be removed."""
    m = migrating
    commands.start(m.connection, m.source, m.target)
    m.plain.delete_collection(m.source)
    commands.abort(m.connection, m.source)
    assert not m.plain.collection_exists(m.target)
    assert phase(m.connection, m.source) is Phase.ABORTED


def test_a_server_that_was_updated_meanwhile_gets_no_snapshot(
    migrating: Migrating, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was true of its version at the start is asked again before the recovery."""
    m = migrating
    commands.start(m.connection, m.source, m.target)

    def obstacle(*_: object) -> Flow[str]:
        yield from ()
        return "one runs 1.17"

    with monkeypatch.context() as updated:
        updated.setattr("qferry.planning.obstacle", obstacle)
        with pytest.raises(Refused, match=r"one runs 1\.17"):
            commands.backfill(m.connection, m.source)
    assert not littered(m.plain, m.source)
    commands.backfill(m.connection, m.source)
