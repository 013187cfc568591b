"""Readers whose target fails, hangs or is slow, against two real servers."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from qdrant_client import QdrantClient
from staging import FAST, PAIRINGS, Caller, Migrating, Pairing, named, vector
from tests.chaos.proxy import Proxy
from typing_extensions import Self

from qferry import Misuse, Refused, caller, commands
from qferry.cli import shapes
from qferry.connection import Connection
from qferry.control import records
from qferry.flows.coordinator import Coordinator
from qferry.flows.effects import Flow
from qferry.protocol.phases import Phase
from qferry.protocol.records import CONTROL_COLLECTION
from qferry.server import QdrantServer

HOST = "127.0.0.1"


@dataclass
class Away:
    """A migration whose target is on another server, behind a link that can be disturbed."""

    migrating: Migrating
    server: QdrantServer
    proxy: Proxy

    def disturb(self, what: str) -> None:
        """Make the target slow, failing or silent."""
        match what:
            case "slow":
                self.proxy.set("target", delay_s=0.5)
            case "silent":
                self.proxy.set("target", hold=True)
            case "refusing":
                self.proxy.set("target", refuse=True)
            case "paused":
                self.server.pause()
            case "killed":
                self.server.kill()

    def mend(self, what: str) -> None:
        """Make it well again."""
        self.proxy.set("target")
        if what == "paused":
            self.server.resume()
        if what == "killed":
            self.server.restart()


@pytest.fixture
def away(
    plain: QdrantClient, connection: Connection, collection: str, open_ferry: Callable[..., Caller]
) -> Iterator[Away]:
    """Give such a migration; nothing has begun.  Its records go with it, as they name a server that will be gone."""
    assert open_ferry is not None  # clients are closed after this
    with QdrantServer.start() as server, contextlib.closing(Proxy()) as proxy:
        port = proxy.open("target", HOST, 0, server.http_port)
        there = replace(connection, target_url=f"http://{HOST}:{port}", target_grpc_port=0)
        migrating = Migrating(there, plain, collection, f"{collection}-target")
        yield Away(migrating, server, proxy)
        with contextlib.suppress(Exception):
            commands.abort(there, collection)
        for found in plain.scroll(CONTROL_COLLECTION, named("source", collection), limit=10)[0]:
            plain.delete(CONTROL_COLLECTION, [found.id])
        plain.delete(CONTROL_COLLECTION, named("kind", "writer"))


class Reader:
    """Reads with a client in threads of its own; the answers must always be right."""

    def __init__(self, client: Caller, collection: str, threads: int = 2) -> None:
        self.wrong: list[Any] = []
        self.reads = 0
        self._client, self._collection = client, collection
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._read) for _ in range(threads)]

    def _read(self) -> None:
        expected = None
        while not self._stop.wait(0.005):
            try:
                answer = self._client.call("query_points", self._collection, query=vector("q"), limit=5).points
            except Exception as error:  # noqa: BLE001  told by the test
                self.wrong.append(error)
                return
            expected = expected or [found.id for found in answer]
            self.reads += 1
            if [found.id for found in answer] != expected:
                self.wrong.append(answer)

    def __enter__(self) -> Self:
        """Begin."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


def until(holds: Callable[[], bool], within_s: float = 30.0) -> None:
    """Wait for something to come about."""
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, "it has not come about"
        time.sleep(0.01)


def percent(client: Caller, migrating: Migrating) -> int:
    """Return the share of its reads that a client sends to the target."""
    route = client.client._session.route(migrating.source)
    return route.read_percent if route is not None else 0


def steps(migrating: Migrating) -> list[str]:
    """Return the reasons that the history tells of."""
    lines = commands.history(migrating.connection, migrating.source)
    return [line.details["reason"] for line in lines if line.what == "reads stepped back to the source"]


def record(migrating: Migrating) -> Any:
    """Return the migration's record, without asking the target's server."""
    return commands.find(migrating.connection, migrating.source)


@pytest.mark.parametrize("pairing", [pairing for pairing in PAIRINGS if not pairing.grpc], ids=str)
@pytest.mark.parametrize(
    ("what", "limits", "words"),
    [
        ("slow", {"max_read_ms": 600}, "p95 of"),
        ("refusing", {}, "have failed"),
        ("silent", {}, "without an answer"),
        ("paused", {}, "without an answer"),
        ("killed", {}, "have failed"),
    ],
)
def test_readers_leave_a_target_that_is_not_well_and_come_back_when_they_are_sent(
    away: Away,
    open_ferry: Callable[..., Caller],
    what: str,
    limits: dict[str, Any],
    words: str,
    pairing: Pairing,
) -> None:
    """Nobody's read fails; whoever reads little is told by whoever reads much; the operator is told why."""
    migrating = away.migrating
    reader, idle = open_ferry(pairing), open_ferry()
    migrating.switch(50)
    commands.switch(migrating.connection, migrating.source, percent=50, **limits)
    idle.call("count", migrating.source)
    with Reader(reader, migrating.source) as reading:
        until(lambda: reading.reads > 50)
        assert percent(reader, migrating) == 50
        away.disturb(what)
        until(lambda: percent(reader, migrating) == 0)
        until(lambda: percent(idle, migrating) == 0)
        until(lambda: bool(steps(migrating)))
        away.mend(what)
    assert reading.wrong == []
    m = record(migrating)
    assert (m.phase, m.read_percent) == (Phase.SWITCHED, 50)
    assert words in m.stepped_back
    assert steps(migrating) == [m.stepped_back]
    assert "by themselves" in shapes.next_step(m)

    commands.switch(migrating.connection, migrating.source, percent=100)
    assert record(migrating).stepped_back == ""
    until(lambda: percent(reader, migrating) == percent(idle, migrating) == 100)
    assert migrating.verify().passed


@pytest.mark.parametrize("asynchronous", [False, True], ids=["blocking", "asyncio"])
def test_target_that_hangs_is_left_by_grpc_too(
    away: Away, open_ferry: Callable[..., Caller], asynchronous: bool
) -> None:
    """There the target's server is reached directly."""
    migrating = away.migrating
    options = replace(FAST, target_grpc_port=away.server.grpc_port)
    reader = open_ferry(Pairing(asynchronous, grpc=True), options)
    migrating.switch(50)
    with Reader(reader, migrating.source) as reading:
        until(lambda: reading.reads > 50)
        away.disturb("paused")
        until(lambda: percent(reader, migrating) == 0)
        until(lambda: bool(record(migrating).stepped_back))
        away.mend("paused")
    assert reading.wrong == []


def test_finish_waits_for_readers_and_doctor_says_what_to_do(away: Away, open_ferry: Callable[..., Caller]) -> None:
    """A target that was left a moment ago is not to become the only truth."""
    migrating = away.migrating
    reader = open_ferry()
    migrating.switch(100)
    with Reader(reader, migrating.source) as reading:
        away.disturb("refusing")
        until(lambda: bool(record(migrating).stepped_back))
        away.mend("refusing")
    assert reading.wrong == []
    with pytest.raises(Refused, match="Readers have stepped back to the source: ") as refused:
        commands.finish(migrating.connection, migrating.source)
    assert "qferry switch" in refused.value.hint
    (finding,) = [f for f in commands.doctor(migrating.connection, migrating.source).findings if f.topic == "reads"]
    assert finding.problem
    assert f"qferry switch {migrating.source} --percent 100" in finding.mend
    assert record(migrating).phase is Phase.SWITCHED
    commands.switch(migrating.connection, migrating.source, percent=100)
    commands.finish(migrating.connection, migrating.source)
    assert record(migrating).phase is Phase.FINISHED


def test_rollback_forgets_that_readers_stepped_back(away: Away, open_ferry: Callable[..., Caller]) -> None:
    """They are on the source by the operator's word; the history keeps it."""
    migrating = away.migrating
    reader = open_ferry()
    migrating.switch(100)
    with Reader(reader, migrating.source):
        away.disturb("refusing")
        until(lambda: bool(steps(migrating)))
        away.mend("refusing")
    commands.rollback(migrating.connection, migrating.source)
    assert record(migrating).stepped_back == ""
    assert len(steps(migrating)) == 1


def test_mistakes_of_the_application_send_nobody_back(migrating: Migrating, open_ferry: Callable[..., Caller]) -> None:
    """They fail on both sides."""
    client = open_ferry()
    migrating.switch(100)
    for _ in range(20):
        with pytest.raises(Exception, match="vector"):
            client.call("query_points", migrating.source, query=vector("q"), using="no such vector")
    beat = client.client._session.beat
    until(lambda: client.client._session.beat > beat + 1)
    assert percent(client, migrating) == 100
    assert migrating.migration.stepped_back == ""


@pytest.mark.parametrize("pairing", PAIRINGS, ids=str)
def test_reads_of_one_caller_are_served_by_one_side(
    migrating: Migrating, open_ferry: Callable[..., Caller], plain: QdrantClient, pairing: Pairing
) -> None:
    """And who is on the target at 30 % stays there at 60 %."""
    client = open_ferry(pairing)
    migrating.switch(30)
    plain.delete(migrating.target, list(range(30)), wait=True)  # behind everyone's back: that tells the sides apart
    keys = [f"tenant-{n}" for n in range(40)]

    def served_by_target() -> set[str]:
        found = set()
        for key in keys:
            with caller(key):
                counts = {client.call("count", migrating.source).count for _ in range(3)}
            assert len(counts) == 1
            found |= {key} if counts == {30} else set()
        return found

    few = served_by_target()
    assert set() < few < set(keys)
    assert migrating.verify(repair=True).passed
    commands.switch(migrating.connection, migrating.source, percent=60)
    plain.delete(migrating.target, list(range(30)), wait=True)
    assert few < served_by_target() < set(keys)
    without_key = {client.call("count", migrating.source).count for _ in range(60)}
    assert without_key == {30, 60}


@pytest.mark.parametrize("key", [7, None, b"tenant"])
def test_key_of_a_caller_is_text(key: Any) -> None:
    """Whatever else would be hashed differently in another process."""
    with pytest.raises(Misuse, match="A caller's key is text"), caller(key):
        pass


def test_callers_may_be_nested_and_end(migrating: Migrating, open_ferry: Callable[..., Caller]) -> None:
    """The innermost counts; afterwards, and after an error, it is as before."""
    session = open_ferry().client._session
    assert migrating.source
    with caller("outer"):
        with contextlib.suppress(ValueError), caller("inner"):
            assert session.caller() == "inner"
            raise ValueError
        assert session.caller() == "outer"
    assert session.caller() is None


def test_step_back_at_the_last_moment_keeps_finish_from_sealing(
    migrating: Migrating, plain: QdrantClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the two, the server carries out one; writers may bring points that the target lacks again."""
    migrating.switch(100)
    drop = Coordinator.drop_fence

    def then_step_back(self: Coordinator) -> Flow[None]:
        sealing = self.fence and self.migration.phase is Phase.SWITCHED
        yield from drop(self)
        if sealing:
            yield records.step_back(self.migration, "web-1 pid 7: it is slow")

    with monkeypatch.context() as patched:
        patched.setattr(Coordinator, "drop_fence", then_step_back)
        with pytest.raises(Refused, match="Readers have stepped back to the source: web-1 pid 7: it is slow"):
            commands.finish(migrating.connection, migrating.source)
    m = migrating.migration
    assert (m.phase, m.stepped_back) == (Phase.SWITCHED, "web-1 pid 7: it is slow")
    assert m.mend in {alias.alias_name for alias in plain.get_collection_aliases(migrating.target).aliases}
    commands.switch(migrating.connection, migrating.source, percent=100)
    commands.finish(migrating.connection, migrating.source)


@pytest.mark.parametrize("then", ["switch", "rollback", "finish", "another step"])
def test_step_back_that_lands_late_changes_nothing(migrating: Migrating, then: str) -> None:
    """It speaks of an epoch that is over, or of what somebody has said already."""
    migrating.switch(100)
    before = migrating.migration

    def late(reason: str) -> Flow[None]:
        yield records.step_back(before, reason)

    with migrating.connection.driver() as driver:
        match then:
            case "switch":
                commands.switch(migrating.connection, migrating.source, percent=100)
            case "rollback":
                commands.rollback(migrating.connection, migrating.source)
            case "finish":
                commands.finish(migrating.connection, migrating.source)
            case "another step":
                driver.run(late("web-1 was first"))
        record_before = migrating.migration
        driver.run(late("web-2 was late"))
    assert migrating.migration == record_before
    assert migrating.migration.stepped_back == ("web-1 was first" if then == "another step" else "")


def test_record_of_an_earlier_version_can_be_stepped_back_from(migrating: Migrating, plain: QdrantClient) -> None:
    """It has no such field."""
    migrating.switch(100)
    m = migrating.migration
    plain.delete_payload(CONTROL_COLLECTION, ["stepped_back"], [m.id], wait=True)

    def step() -> Flow[None]:
        yield records.step_back(m, "slow")

    with migrating.connection.driver() as driver:
        driver.run(step())
    assert migrating.migration.stepped_back == "slow"
