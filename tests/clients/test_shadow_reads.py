"""Shadow reads against a real server: both clients, by REST and by gRPC."""

import gc
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from qdrant_client import QdrantClient, models
from staging import FAST, PAIRINGS, Caller, Migrating, Pairing, point, vector

from qferry import FerryClient, Misuse, Refused, commands
from qferry.cli import shapes
from qferry.flows.effects import Flow, Now
from qferry.protocol.shadow import COMPARED_MIN, QUEUE, SHADOWED, WORKERS, Totals

# With sixty points a search looks at all of them, so both sides answer exactly.
CALLS: dict[str, dict[str, Any]] = {
    "query_points": {"query": vector("q"), "limit": 7},
    "query_batch_points": {"requests": [models.QueryRequest(query=vector(n), limit=3) for n in range(2)]},
    "query_points_groups": {"query": vector("q"), "group_by": "group", "limit": 3},
    "scroll": {"limit": 20},
    "retrieve": {"ids": [1, 2, 3]},
    "count": {},
}


def shadows(migrating: Migrating, percent: int = 0, shadow: float = 100.0) -> None:
    """Ask for shadow reads."""
    commands.switch(migrating.connection, migrating.source, percent=percent, shadow_percent=shadow)


@pytest.fixture
def shadowed(migrating: Migrating) -> Migrating:
    """Give a migration all of whose reads are repeated on the target."""
    migrating.switch(0)
    shadows(migrating)
    return migrating


def own(caller: Caller, migrating: Migrating) -> Totals:
    """Return what the shadow reads of a client have found."""
    found: Totals = caller.client._session.shadows.get(migrating.migration.id, Totals())
    return found


def until(holds: Callable[[], bool], within_s: float = 20.0) -> None:
    """Wait for something to come about."""
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end, "it has not come about"
        time.sleep(0.01)


def reported(migrating: Migrating) -> Totals:
    """Return what `status` shows."""
    found = migrating.status.shadow
    assert found is not None
    return found


@pytest.mark.parametrize("pairing", PAIRINGS, ids=str)
def test_every_kind_of_read_is_compared(
    shadowed: Migrating, open_ferry: Callable[..., Caller], pairing: Pairing
) -> None:
    """Each is repeated once, agrees, and is reported with a heartbeat."""
    assert set(CALLS) == SHADOWED
    client = open_ferry(pairing)
    for method, arguments in CALLS.items():
        client.call(method, shadowed.source, **arguments)
    until(lambda: reported(shadowed).compared == len(CALLS))
    found = reported(shadowed)
    assert (found.mean_overlap, found.mismatches, found.errors, found.dropped) == (1.0, 0, 0, 0)
    assert found.source_s > 0
    assert found.target_s > 0


@pytest.mark.parametrize("pairing", PAIRINGS, ids=str)
def test_target_that_lacks_points_is_seen(
    shadowed: Migrating, open_ferry: Callable[..., Caller], plain: QdrantClient, pairing: Pairing
) -> None:
    """Behind everyone's back half of them are gone; the caller's answer is the source's."""
    plain.delete(shadowed.target, list(range(30)), wait=True)
    client = open_ferry(pairing)
    assert client.call("count", shadowed.source).count == 60
    until(lambda: own(client, shadowed).compared == 1)
    assert own(client, shadowed).overlap == 0.5
    assert own(client, shadowed).mismatches == 1


@pytest.mark.parametrize("pairing", PAIRINGS, ids=str)
def test_target_that_fails_is_counted_and_the_caller_does_not_notice(
    shadowed: Migrating, open_ferry: Callable[..., Caller], plain: QdrantClient, pairing: Pairing
) -> None:
    """Its collection is gone."""
    client = open_ferry(pairing)
    plain.delete_collection(shadowed.target)
    assert client.call("count", shadowed.source).count == 60
    until(lambda: own(client, shadowed).errors == 1)
    assert own(client, shadowed).compared == 0


def test_reads_of_the_target_are_repeated_on_the_source(
    migrating: Migrating, open_ferry: Callable[..., Caller], plain: QdrantClient
) -> None:
    """It is always the other side, and the answer the caller has stays the target's."""
    migrating.switch(100)
    shadows(migrating, percent=100)
    plain.delete(migrating.target, list(range(30)), wait=True)
    client = open_ferry()
    assert client.call("count", migrating.source).count == 30
    until(lambda: own(client, migrating).mismatches == 1)


@pytest.mark.parametrize("pairing", PAIRINGS, ids=str)
def test_arguments_that_the_caller_changes_afterwards_are_repeated_as_they_were(
    shadowed: Migrating, open_ferry: Callable[..., Caller], pairing: Pairing
) -> None:
    """They are the caller's, to be used again."""
    client = open_ferry(pairing)
    ids = [1, 2, 3]
    for _ in range(10):
        answer = client.call("retrieve", shadowed.source, ids=ids)
        answer.clear()
        ids.clear()
        ids += [4, 5, 6, 7]
    until(lambda: own(client, shadowed).compared == 10)
    assert own(client, shadowed).mismatches == 0


@pytest.mark.parametrize("what", ["gist", "put"])
@pytest.mark.parametrize("pairing", PAIRINGS, ids=str)
def test_nothing_about_a_shadow_read_reaches_the_caller(
    shadowed: Migrating,
    open_ferry: Callable[..., Caller],
    pairing: Pairing,
    what: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither an answer that cannot be taken apart, nor a thread or task that cannot be begun."""

    def fail(*_: Any) -> None:
        raise RuntimeError("can't")

    client = open_ferry(pairing)
    if what == "gist":
        monkeypatch.setattr("qferry.flows.shadow.gist", fail)
    else:
        monkeypatch.setattr(client.client._shadows, "put", fail)
    for _ in range(2):
        assert client.call("count", shadowed.source).count == 60
    assert own(client, shadowed).dropped == 2


def test_share_of_the_reads_is_repeated(shadowed: Migrating, open_ferry: Callable[..., Caller]) -> None:
    """Drawn one by one, like the read share."""
    shadows(shadowed, shadow=25.0)
    client = open_ferry()
    for _ in range(400):
        client.call("count", shadowed.source)
    until(lambda: own(client, shadowed).compared + own(client, shadowed).dropped > 50)
    assert own(client, shadowed).compared + own(client, shadowed).dropped < 150


class Stuck:
    """Holds up a client's shadow reads."""

    def __init__(self, client: Any) -> None:
        self.go = threading.Event()
        self.waiting = 0
        run = client._shadows._run

        def wait(flow: Any) -> Any:
            self.waiting += 1
            self.go.wait(30)
            return run(flow)

        client._shadows._run = wait


def shadow_threads() -> list[threading.Thread]:
    """Return the threads that repeat reads."""
    return [thread for thread in threading.enumerate() if thread.name == "qferry-shadow"]


@pytest.fixture
def no_other_threads() -> Iterator[None]:
    """Wait until those of earlier tests have ended."""
    until(lambda: not shadow_threads())
    yield
    until(lambda: not shadow_threads())


@pytest.mark.usefixtures("no_other_threads")
def test_what_is_too_much_is_dropped_and_counted(shadowed: Migrating, open_ferry: Callable[..., Caller]) -> None:
    """Few at a time, few that wait; the caller is not held up by a target that hangs."""
    client = open_ferry()
    stuck = Stuck(client.client)
    for _ in range(WORKERS + QUEUE + 10):
        client.call("count", shadowed.source)
        until(lambda: stuck.waiting == len(shadow_threads()))
    assert len(shadow_threads()) == WORKERS
    assert own(client, shadowed).dropped == 10
    stuck.go.set()
    until(lambda: own(client, shadowed).compared == WORKERS + QUEUE)
    client.call("close")


@pytest.mark.usefixtures("no_other_threads")
def test_without_shadow_reads_there_is_no_thread(migrating: Migrating, open_ferry: Callable[..., Caller]) -> None:
    """Nor for methods that are not repeated."""
    migrating.switch(0)
    client = open_ferry()
    client.call("count", migrating.source)
    shadows(migrating)
    client.call("collection_exists", migrating.source)
    assert not shadow_threads()


@pytest.mark.usefixtures("no_other_threads")
def test_close_drops_what_waits(shadowed: Migrating, open_ferry: Callable[..., Caller]) -> None:
    """And waits for nothing."""
    client = open_ferry()
    stuck = Stuck(client.client)
    for _ in range(WORKERS + 5):
        client.call("count", shadowed.source)
    until(lambda: stuck.waiting == WORKERS)
    client.call("close")
    assert not client.client._shadows._waiting
    stuck.go.set()


@pytest.mark.usefixtures("no_other_threads")
def test_shadow_reads_do_not_hold_a_client(shadowed: Migrating) -> None:
    """One that nobody holds any more is collected, and its threads end."""
    client = FerryClient(
        url=shadowed.connection.url, api_key=shadowed.connection.api_key, check_compatibility=False, ferry=FAST
    )
    client.count(shadowed.source)
    session = client._session
    until(lambda: bool(session.shadows))
    reference = weakref.ref(client)
    del client

    def gone() -> bool:
        gc.collect()
        return reference() is None

    until(gone)


@pytest.mark.usefixtures("no_other_threads")
def test_forked_child_has_shadows_of_its_own(shadowed: Migrating, open_ferry: Callable[..., Caller]) -> None:
    """Threads do not survive a fork, and a lock that one held would never be given back."""
    client = open_ferry()
    client.call("count", shadowed.source)
    until(lambda: own(client, shadowed).compared == 1)
    child = os.fork()
    if not child:
        code = 1
        try:
            session = client.client._session
            client.client.count(shadowed.source)
            end = time.monotonic() + 20
            while not session.shadows and time.monotonic() < end:
                time.sleep(0.01)
            code = 0 if next(iter(session.shadows.values())).compared == 1 else 1
            client.client.close()
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_answers_that_differ_are_a_gate(
    shadowed: Migrating, open_ferry: Callable[..., Caller], plain: QdrantClient
) -> None:
    """Neither more readers nor the finish, until they are asked for anew or given up."""
    plain.delete(shadowed.target, list(range(30)), wait=True)
    client = open_ferry()
    for _ in range(COMPARED_MIN):
        client.call("count", shadowed.source)
    until(lambda: reported(shadowed).compared >= COMPARED_MIN)
    with pytest.raises(Refused, match=r"overlap by 0\.500 in the mean of \d+ shadow reads; 0\.85 is asked for"):
        commands.switch(shadowed.connection, shadowed.source, percent=10)
    assert shadowed.migration.read_percent == 0
    (finding,) = [f for f in commands.doctor(shadowed.connection, shadowed.source).findings if f.topic == "reads"]
    assert finding.problem
    assert "do not answer alike" in finding.what
    assert "overlap by" in (shapes.status_data(shadowed.status)["shadow"]["worse"] or "")
    assert shadowed.verify(repair=True).passed
    shadows(shadowed)
    assert reported(shadowed).compared == 0
    with pytest.raises(Refused, match=f"Too few shadow reads have been compared yet: 0 of {COMPARED_MIN}"):
        commands.switch(shadowed.connection, shadowed.source, percent=10)
    for _ in range(COMPARED_MIN):
        client.call("count", shadowed.source)
    until(lambda: reported(shadowed).compared >= COMPARED_MIN)
    commands.switch(shadowed.connection, shadowed.source, percent=10)
    assert shadowed.migration.shadow_percent == 100


def test_evidence_that_has_gone_with_its_process_is_not_replaced_by_none(
    shadowed: Migrating, open_ferry: Callable[..., Caller], plain: QdrantClient
) -> None:
    """The one that has found the answers to differ is closed; with `--shadow 0` one goes without, at once."""
    plain.delete(shadowed.target, list(range(30)), wait=True)
    client = open_ferry()
    for _ in range(COMPARED_MIN):
        client.call("count", shadowed.source)
    until(lambda: reported(shadowed).compared >= COMPARED_MIN)
    client.call("close")
    with pytest.raises(Refused, match="Too few shadow reads have been compared yet"):
        commands.switch(shadowed.connection, shadowed.source, percent=10)
    assert shadowed.verify(repair=True).passed
    shadows(shadowed, percent=10, shadow=0.0)
    assert (shadowed.migration.read_percent, shadowed.migration.shadow_percent) == (10, 0)


def test_finish_is_refused_while_answers_differ(
    migrating: Migrating, open_ferry: Callable[..., Caller], plain: QdrantClient
) -> None:
    """It is the last moment to look."""
    migrating.switch(100)
    shadows(migrating, percent=100)
    plain.delete(migrating.target, list(range(30)), wait=True)
    client = open_ferry()
    for _ in range(COMPARED_MIN):
        client.call("count", migrating.source)
    until(lambda: reported(migrating).compared >= COMPARED_MIN)
    with pytest.raises(Refused, match="do not answer alike"):
        commands.finish(migrating.connection, migrating.source)


def test_rollback_ends_shadow_reads(shadowed: Migrating, open_ferry: Callable[..., Caller]) -> None:
    """The target need not be equal for readers any more."""
    commands.rollback(shadowed.connection, shadowed.source)
    assert shadowed.migration.shadow_percent == 0
    assert shadowed.status.shadow is None
    client = open_ferry()
    client.call("count", shadowed.source)
    assert own(client, shadowed) == Totals()


def test_writes_between_the_two_looks_do_not_count(shadowed: Migrating, open_ferry: Callable[..., Caller]) -> None:
    """A reader of points that are being written sees them on both sides in the end."""
    client, writer = open_ferry(), open_ferry()
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            writer.call("upsert", shadowed.source, [point(1000 + number % 3)])
            writer.call("delete", shadowed.source, [1000 + number % 3])

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(50):
            client.call("retrieve", shadowed.source, ids=[1, 2, 3])
        until(lambda: own(client, shadowed).compared > 0 and not client.client._shadows._waiting)
    finally:
        stop.set()
        thread.join()
    assert own(client, shadowed).mismatches == 0


@pytest.mark.parametrize(
    "given",
    [
        {"shadow_percent": 101.0},
        {"shadow_percent": -1.0},
        {"shadow_percent": float("nan")},
        {"percent": 101},
        {"percent": -1},
        {"max_errors_percent": 100.5},
        {"max_read_ms": -1.0},
    ],
    ids=str,
)
def test_what_is_no_share_or_limit_is_refused(migrating: Migrating, given: dict[str, Any]) -> None:
    """Before anything is asked of a server."""
    with pytest.raises(Misuse) as refused:
        commands.switch(migrating.connection, migrating.source, **{"percent": 0, **given})
    assert "othing was changed" in refused.value.hint


def test_client_that_is_forgotten_in_the_middle_of_a_shadow_read_lives_until_its_end() -> None:
    """Its goodbye would wait for the lock under which the very thread that collects it advances a flow."""
    client = FerryClient(url="http://127.0.0.1:9", check_compatibility=False, ferry=FAST)
    client.itself = client  # only the collector finds a circle
    reference = weakref.ref(client)
    begun, forgotten, held = threading.Event(), threading.Event(), threading.Event()

    def flow() -> Flow[None]:
        yield Now()
        begun.set()
        forgotten.wait(30)
        gc.collect()
        if reference() is not None:
            held.set()

    client._shadows.put(flow())
    assert begun.wait(10)
    del client
    forgotten.set()
    assert held.wait(10)

    def gone() -> bool:
        gc.collect()
        return reference() is None

    until(gone)
