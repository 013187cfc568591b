"""Tests of the blocking driver."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from driving import MIGRATION, one, session
from qdrant_client import QdrantClient, models

from qferry.drivers.blocking import BlockingDriver
from qferry.errors import Rejected, Unreachable
from qferry.flows import write
from qferry.flows.effects import Call, Flow, Fresh, NewId, Now, Report, Request, Sleep, Today, Together

NOWHERE = "http://127.0.0.1:9"
DEADLINE_S = 10


@pytest.fixture
def client() -> Iterator[QdrantClient]:
    """Give a client of a server that does not exist."""
    found = QdrantClient(url=NOWHERE, check_compatibility=False)
    yield found
    found.close()


@pytest.fixture
def driver(client: QdrantClient) -> Iterator[BlockingDriver]:
    """Give a driver whose every server is that client."""
    found = BlockingDriver(lambda _: client)
    yield found
    found.close()


def count(collection: str) -> Call:
    """Return a call of `count`."""
    return Call("", "count", collection, (), {"exact": True})


def test_flow_s_result_is_returned(driver: BlockingDriver) -> None:
    """A flow that ends returns what it returned."""

    def flow() -> Flow[str]:
        yield Now()
        return "done"

    assert driver.run(flow()) == "done"


def test_flow_s_error_is_raised_and_the_flow_is_closed(driver: BlockingDriver) -> None:
    """What a flow raises is raised to the caller, after the flow's own last words."""
    ended = []

    def flow() -> Flow[None]:
        try:
            yield Now()
            raise ValueError("no")
        finally:
            ended.append(True)

    with pytest.raises(ValueError, match="no"):
        driver.run(flow())
    assert ended == [True]


def test_effects_are_carried_out(driver: BlockingDriver) -> None:
    """Clock, date, ids and reports."""
    reports: list[Report] = []
    driver._report = reports.append
    before = time.monotonic()
    assert before <= driver.run(one(Now())) <= time.monotonic()
    assert driver.run(one(Today())).endswith("Z")
    first, second = driver.run(one(NewId())), driver.run(one(NewId()))
    assert first != second
    assert len(first) == 32
    assert driver.run(one(Sleep(0.0))) is None
    driver.run(one(Report("copy", 1, 2)))
    assert reports == [Report("copy", 1, 2)]


@pytest.mark.parametrize("renew", [False, True])
def test_fresh_is_passed_on(client: QdrantClient, renew: bool) -> None:
    """Whether a heartbeat is due is the client's to say."""
    asked: list[bool] = []
    BlockingDriver(lambda _: client, fresh=asked.append).run(one(Fresh(renew=renew)))
    assert asked == [renew]


def test_call_is_upstream_s_method(
    driver: BlockingDriver, client: QdrantClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The application's own call goes to upstream's method of that name, whatever the client overrides."""
    seen = []
    monkeypatch.setattr(QdrantClient, "count", lambda self, *args, **kwargs: seen.append((self, args, kwargs)) or 7)
    assert driver.run(one(count("c"))) == 7
    assert seen == [(client, ("c",), {"exact": True})]


def test_error_of_a_call_is_thrown_into_the_flow_unchanged(
    driver: BlockingDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The application's errors are upstream's own, and a flow may answer them."""
    failure = RuntimeError("upstream's own")

    def fail(*_: Any, **__: Any) -> None:
        raise failure

    def flow() -> Flow[str]:
        try:
            yield count("c")
        except RuntimeError as error:
            return str(error)
        return ""

    monkeypatch.setattr(QdrantClient, "count", fail)
    assert driver.run(flow()) == "upstream's own"
    with pytest.raises(RuntimeError) as raised:
        driver.run(one(count("c")))
    assert raised.value is failure


def test_request_without_an_answer_is_unreachable(driver: BlockingDriver) -> None:
    """A request of qferry's own ends in one of qferry's errors, with upstream's as its cause."""
    with pytest.raises(Unreachable, match="The server gave no answer to GET /: ConnectError") as raised:
        driver.run(one(Request("", "version", "GET", "/")))
    assert raised.value.__cause__ is not None


def test_request_that_a_server_refuses_is_rejected(qdrant: Any) -> None:
    """A real server's 404, and a real server's answer."""
    client = QdrantClient(url=qdrant.url, api_key=qdrant.api_key, check_compatibility=False)
    driver = BlockingDriver(lambda _: client)
    with pytest.raises(Rejected) as raised:
        driver.run(one(Request("", "info", "GET", "/collections/nowhere")))
    assert raised.value.missing
    assert "version" in driver.run(one(Request("", "version", "GET", "/")))
    client.close()


def test_effects_together_are_all_under_way_before_any_is_answered(
    driver: BlockingDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The latency of a dual write is that of the slower side, not the sum."""
    both = threading.Barrier(2, timeout=DEADLINE_S)

    def wait(_: QdrantClient, collection: str, **__: Any) -> str:
        both.wait()  # broken, and the test fails, unless the other one is under way, too
        return collection

    monkeypatch.setattr(QdrantClient, "count", wait)
    outcomes = driver.run(one(Together((count("a"), count("b")))))
    assert [(outcome.value, outcome.error) for outcome in outcomes] == [("a", None), ("b", None)]


def test_effects_together_fail_each_for_itself(driver: BlockingDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """One side's failure hides nothing of the other's outcome, and nothing is thrown."""

    def fail_on_a(_: QdrantClient, collection: str, **__: Any) -> str:
        if collection == "a":
            raise RuntimeError("no")
        return collection

    monkeypatch.setattr(QdrantClient, "count", fail_on_a)
    first, second = driver.run(one(Together((count("a"), count("b")))))
    assert isinstance(first.error, RuntimeError)
    assert (second.value, second.error) == ("b", None)


def test_single_effect_together_needs_no_thread(driver: BlockingDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is started for a write to one side."""
    monkeypatch.setattr(QdrantClient, "count", lambda *_, **__: threading.current_thread())
    (outcome,) = driver.run(one(Together((count("a"),))))
    assert outcome.value is threading.current_thread()
    assert driver._pool is None


def test_flow_runs_undisturbed_between_two_effects(driver: BlockingDriver) -> None:
    """Two flows never run between effects at the same time, however many threads there are."""
    inside, seen = [], []

    def flow() -> Flow[None]:
        for _ in range(200):
            yield Now()
            inside.append(1)
            seen.append(len(inside))
            inside.pop()

    threads = [threading.Thread(target=lambda: driver.run(flow())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert set(seen) == {1}


def test_effect_is_carried_out_while_other_flows_go_on(driver: BlockingDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that waits for a server holds nobody else up."""
    waiting, answer = threading.Event(), threading.Event()

    def wait(*_: Any, **__: Any) -> str:
        waiting.set()
        assert answer.wait(DEADLINE_S)
        return "answered"

    monkeypatch.setattr(QdrantClient, "count", wait)
    results: list[str] = []
    thread = threading.Thread(target=lambda: results.append(driver.run(one(count("c")))))
    thread.start()
    assert waiting.wait(DEADLINE_S)
    assert driver.run(one(NewId()))
    answer.set()
    thread.join(DEADLINE_S)
    assert results == ["answered"]


def test_interrupt_of_a_dual_write_leaves_its_ids_in_the_journal(
    driver: BlockingDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle of a write: it may have been carried out on either side, or may yet be."""

    def interrupt(_: QdrantClient, collection: str, **__: Any) -> list[models.UpdateResult]:
        if collection == MIGRATION.source:
            raise KeyboardInterrupt
        return [models.UpdateResult(operation_id=1, status=models.UpdateStatus.COMPLETED)]

    monkeypatch.setattr(QdrantClient, "batch_update_points", interrupt)
    found = session()
    points = [models.PointStruct(id=1, vector=[1.0])]
    with pytest.raises(KeyboardInterrupt):
        driver.run(write.write(found, "upsert", "a", {"points": points}))
    journal = found.journal(MIGRATION)
    assert journal.start_flush().ids == (1,)
    journal.flushed(journal.start_flush())
    assert journal.debt == 1  # until the servers have answered something newer, and the grace period has passed
    assert len(found.unanswered()) == 1
    assert found.view.active == 0
