"""Tests of the blocking client's life: its lease, its goodbye, and the ends a process can come to."""

import gc
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from qdrant_client import QdrantClient, models
from staging import FAST, Caller, Migrating, Opener, named, point

from qferry import FerryClient, FerryOptions, LeaseLost, Refused, commands
from qferry.connection import Connection
from qferry.protocol.session import View
from qferry.server import QdrantServer

LONG_AGO, FOREVER = float("-inf"), float("inf")

PROGRAM = """
import os, sys
import httpx
from qdrant_client import models
from qferry import FerryClient, FerryOptions
url, grpc_port, source, grpc = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4] == "grpc"
client = FerryClient(
    url=url,
    grpc_port=grpc_port,
    prefer_grpc=grpc,
    check_compatibility=False,
    limits=httpx.Limits(),  # connections are kept open, as to any server that is not on loopback
    ferry=FerryOptions(heartbeat_s=0.1),
)
def write(point_id):
    client.upsert(source, [models.PointStruct(id=point_id, vector=[1.0] * 8, payload={"pid": os.getpid()})])
def say(*words):
    print(*words, flush=True)
def wait():
    sys.stdin.readline()
"""


@contextmanager
def program(qdrant: Any, source: str, body: str, *, grpc: bool = False) -> Iterator[subprocess.Popen[str]]:
    """Run an application of its own, which has `client`, `write`, `say` and `wait`."""
    arguments = [qdrant.url, str(qdrant.grpc_port), source, "grpc" if grpc else "rest"]
    with subprocess.Popen(  # noqa: S603  this very Python
        [sys.executable, "-c", PROGRAM + body, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def heard(process: subprocess.Popen[str]) -> str:
    """Return the next line the application says."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def answer(process: subprocess.Popen[str]) -> None:
    """Let the application go on from `wait`."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def on_old_routing(client: FerryClient, lease_until: float) -> None:
    """Put a client where one is that last looked before the migration began; its heartbeat has not woken yet."""
    client._session.view = View(0, {}, {})
    client._session.lease_until = lease_until


def stopped_during(monkeypatch: pytest.MonkeyPatch, client: FerryClient, method: str) -> list[str]:
    """Let the client's lease run out while its next call of `method` is under way; returns what is called."""
    connection = client._client
    original = getattr(connection, method)
    calls: list[str] = []

    def slow(*args: Any, collection_name: str, **kwargs: Any) -> Any:
        result = original(*args, collection_name=collection_name, **kwargs)
        calls.append(collection_name)
        client._session.lease_until = LONG_AGO
        return result

    monkeypatch.setattr(connection, method, slow)
    return calls


def test_expired_lease_is_renewed_before_a_write(migrating: Migrating, open_ferry: Callable[..., Caller]) -> None:
    """A process that was stopped while a migration began does not write on the routing it knew."""
    client: FerryClient = open_ferry().client
    migrating.start()
    on_old_routing(client, lease_until=LONG_AGO)
    client.upsert(migrating.source, [point(1, new=True)])
    source, target = migrating.sides([1])
    assert source[1] == target[1]
    assert source[1][0]["new"] is True


def test_valid_lease_is_not_renewed_by_a_call(migrating: Migrating, ferry: FerryClient) -> None:
    """A call asks nobody for leave while the lease runs."""
    on_old_routing(ferry, lease_until=FOREVER)
    view = ferry._session.view
    ferry.retrieve(migrating.source, [1])
    assert ferry._session.view is view
    assert ferry._session.beat == 0


def test_write_that_outlives_its_lease_is_repeated_on_the_new_routing(
    migrating: Migrating, ferry: FerryClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process stopped between its check and its send finds out before its caller is told anything."""
    migrating.backfill()
    on_old_routing(ferry, lease_until=FOREVER)
    calls = stopped_during(monkeypatch, ferry, "upsert")
    result = ferry.upsert(migrating.source, [point(1, new=True)])
    assert calls == [migrating.source]  # once on the old routing; in `dual` it is sent in another form
    assert result.status == models.UpdateStatus.COMPLETED
    source, target = migrating.sides([1])
    assert source[1] == target[1]
    assert source[1][0]["new"] is True


def test_write_that_outlives_its_lease_is_not_repeated_when_the_routing_is_the_same(
    migrating: Migrating, ferry: FerryClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing has changed, so the first answer counts."""
    calls = stopped_during(monkeypatch, ferry, "upsert")
    ferry.upsert(migrating.source, [point(1, new=True)])
    assert calls == [migrating.source]


def test_filter_write_of_a_paused_client_makes_the_migration_suspect(
    migrating: Migrating, ferry: FerryClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    What it changed on the source alone no longer matches its filter there, so it is in no journal for sure.

    Carried out again it matches on the target, but only a full check may say that nothing escaped.
    """
    migrating.backfill()
    assert migrating.verify().passed
    on_old_routing(ferry, lease_until=FOREVER)
    stopped_during(monkeypatch, ferry, "set_payload")
    ferry.set_payload(migrating.source, {"group": 77}, named("group", 3))
    with pytest.raises(Refused, match="was stopped in the middle of a write"):
        commands.switch(migrating.connection, migrating.source, percent=1)
    assert migrating.verify(repair=True).passed
    source, target = migrating.sides()
    assert source == target


def test_suspicion_of_a_client_that_closes_is_not_forgotten(
    migrating: Migrating, open_ferry: Callable[..., Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A goodbye says that nothing is owed; a client that cannot know what it touched must not take that with it."""
    client: FerryClient = open_ferry().client
    migrating.backfill()
    assert migrating.verify().passed
    on_old_routing(client, lease_until=FOREVER)
    stopped_during(monkeypatch, client, "set_payload")
    client.set_payload(migrating.source, {"group": 77}, named("group", 3))
    client.close()
    with pytest.raises(Refused, match="suspect"):
        commands.switch(migrating.connection, migrating.source, percent=1)


def test_call_without_a_server_raises_lease_lost(fresh_qdrant: QdrantServer) -> None:
    """With the lease run out and nobody to renew it, neither a write nor a read is sent."""
    client = FerryClient(url=fresh_qdrant.url, check_compatibility=False, ferry=FAST)
    client.create_collection("c", vectors_config=models.VectorParams(size=8, distance=models.Distance.DOT))
    fresh_qdrant.kill()
    client._session.lease_until = LONG_AGO
    for call in (lambda: client.upsert("c", [point(1)]), lambda: client.retrieve("c", [1])):
        with pytest.raises(LeaseLost, match="migration state cannot be read, so nothing may be sent") as lost:
            call()
        assert lost.value.hint
    client.close()


def test_call_after_the_server_is_back_succeeds(fresh_qdrant: QdrantServer) -> None:
    """LeaseLost says to retry, and a retry works."""
    client = FerryClient(url=fresh_qdrant.url, check_compatibility=False, ferry=FAST)
    client.create_collection("c", vectors_config=models.VectorParams(size=8, distance=models.Distance.DOT))
    fresh_qdrant.kill()
    client._session.lease_until = LONG_AGO
    with pytest.raises(LeaseLost):
        client.count("c")
    fresh_qdrant.restart()
    client.upsert("c", [point(1)])
    assert client.count("c").count == 1
    client.close()


def test_client_writes_nothing_to_a_server_nobody_migrates_on(fresh_qdrant: QdrantServer) -> None:
    """Until the first `qferry start` a client only looks."""
    with_ferry = FerryClient(url=fresh_qdrant.url, check_compatibility=False, ferry=FAST)
    with_ferry.create_collection("c", vectors_config=models.VectorParams(size=8, distance=models.Distance.DOT))
    with_ferry.upsert("c", [point(1)])
    with_ferry.close()
    plain = QdrantClient(url=fresh_qdrant.url, check_compatibility=False)
    assert [c.name for c in plain.get_collections().collections] == ["c"]
    plain.close()


def test_closed_client_has_said_goodbye(migrating: Migrating, open_ferry: Callable[..., Caller]) -> None:
    """Its ids are durable, its record is gone, and no suspicion is left."""
    client: FerryClient = open_ferry().client
    migrating.start()
    client.upsert(migrating.source, [point(1000)])
    writer = client._session.writer_id
    assert writer in {w.id for w in migrating.status.writers}
    client.close()
    assert writer not in {w.id for w in migrating.status.writers}
    assert 1000 in migrating.journal()
    commands.backfill(migrating.connection, migrating.source)
    assert migrating.verify().passed
    assert migrating.migration.suspicions == ()


def test_client_may_be_closed_twice(ferry: FerryClient, collection: str) -> None:
    """A second close has nothing left to do."""
    ferry.count(collection)
    ferry.close()
    ferry.close()


def test_forgotten_client_says_goodbye_and_its_thread_ends(opener: Opener, migrating: Migrating) -> None:
    """A client that nobody holds any more leaves neither a record, nor a suspicion, nor a thread behind."""
    migrating.backfill()
    client = FerryClient(url=opener.url, api_key=opener.api_key, check_compatibility=False, ferry=FAST)
    client.upsert(migrating.source, [point(1000)])
    thread, writer = client._thread, client._session.writer_id
    assert thread is not None
    del client
    gc.collect()
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert writer not in {w.id for w in migrating.status.writers}
    assert 1000 in migrating.journal()


@pytest.mark.parametrize("grpc", [False, True], ids=["rest", "grpc"])
def test_process_that_exits_without_closing_has_said_goodbye(qdrant: Any, migrating: Migrating, grpc: bool) -> None:
    """Ordinary programs do not close their client; they leave no suspicion behind all the same."""
    migrating.backfill()
    with program(qdrant, migrating.source, "write(1000); say('written')", grpc=grpc) as process:
        assert heard(process) == "written"
        assert process.wait(timeout=30) == 0
    assert migrating.status.writers == ()
    assert 1000 in migrating.journal()
    assert migrating.verify().passed
    assert migrating.migration.suspicions == ()


def test_process_that_is_killed_makes_the_migration_suspect(qdrant: Any, migrating: Migrating) -> None:
    """It may have taken ids with it; a full check clears that, and repairs what it left apart."""
    migrating.backfill()
    with program(qdrant, migrating.source, "write(1000); say('written'); wait()") as process:
        assert heard(process) == "written"
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
    # What a process killed between its two sends leaves behind.
    migrating.plain.delete(migrating.target, [7])
    with pytest.raises(Refused, match="vanished without saying goodbye") as refused:
        commands.switch(migrating.connection, migrating.source, percent=1)
    assert "qferry verify --repair" in refused.value.hint
    report = migrating.verify(repair=True)
    assert report.passed
    assert report.repaired == 1
    assert migrating.migration.suspicions == ()
    commands.switch(migrating.connection, migrating.source, percent=1)


FORK = """
write(1000)
child = os.fork()
first = 2000 if child == 0 else 3000
wrong = 0
for k in range(first, first + 50):
    write(k)
    wrong += [p.id for p in client.retrieve(source, [k])] != [k]
say("child" if child == 0 else "parent", client._session.writer_id, wrong)
if child == 0:
    client.close()
    os._exit(0)
os.waitpid(child, 0)
"""


def test_forked_child_is_a_writer_of_its_own(qdrant: Any, migrating: Migrating) -> None:
    """Parent and child write at the same time, each on connections, with a journal and under an id of its own."""
    migrating.backfill()
    with program(qdrant, migrating.source, FORK) as process:
        said = [heard(process).split() for _ in range(2)]
        assert process.wait(timeout=30) == 0
    assert {who: wrong for who, _, wrong in said} == {"parent": "0", "child": "0"}
    assert len({writer for _, writer, _ in said}) == 2
    assert {1000, *range(2000, 2050), *range(3000, 3050)} <= migrating.journal()
    assert migrating.verify().passed
    assert migrating.migration.suspicions == ()


def test_threads_of_one_client_write_at_the_same_time(migrating: Migrating, ferry: FerryClient) -> None:
    """A client may be shared by threads, through every step of a migration."""
    stop, errors = threading.Event(), []

    def work(first: int) -> None:
        k = 0
        while not stop.is_set():
            try:
                ferry.upsert(migrating.source, [point(first + k % 50, k=k)])
            except Exception as error:  # noqa: BLE001  told below
                errors.append(error)
            k += 1

    threads = [threading.Thread(target=work, args=(1000 * (i + 1),)) for i in range(4)]
    for thread in threads:
        thread.start()
    try:
        migrating.finish()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert errors == []
    source, target = migrating.sides()
    assert source.keys() == target.keys()


def test_journal_before_makes_ids_durable_before_the_write(
    migrating: Migrating, open_ferry: Callable[..., Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For those who pay a round trip, a process that is killed leaves nothing that only a full check can find."""
    migrating.start()
    client: FerryClient = open_ferry(ferry=FerryOptions(journal_before=True)).client
    original, seen = client._client.batch_update_points, []

    def look(*args: Any, **kwargs: Any) -> Any:
        seen.append(1000 in migrating.journal())
        return original(*args, **kwargs)

    monkeypatch.setattr(client._client, "batch_update_points", look)
    client.upsert(migrating.source, [point(1000)])
    assert seen == [True, True]


def test_client_of_another_server_is_not_concerned(
    migrating: Migrating, fresh_qdrant: QdrantServer, connection: Connection
) -> None:
    """A collection of the same name elsewhere has nothing to do with the migration."""
    migrating.start()
    client = FerryClient(url=fresh_qdrant.url, check_compatibility=False, ferry=FAST)
    client.create_collection(migrating.source, vectors_config=models.VectorParams(size=8, distance=models.Distance.DOT))
    client.upsert(migrating.source, [point(5000)])
    assert 5000 not in migrating.sides()[0]
    client.delete_collection(migrating.source)
    client.close()
    assert commands.status(connection, migrating.source)[0].migration.phase.value == "copying"
