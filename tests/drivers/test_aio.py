"""Tests of the asyncio driver."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from driving import MIGRATION, one, session
from qdrant_client import AsyncQdrantClient, models

from qferry.drivers.aio import AsyncioDriver
from qferry.errors import Rejected, Unreachable
from qferry.flows import write
from qferry.flows.effects import Call, Flow, Fresh, NewId, Now, Report, Request, Sleep, Today, Together

DEADLINE_S = 10


async def no_heartbeat(_: bool) -> None:
    """Do nothing."""


@pytest.fixture
async def client() -> AsyncIterator[AsyncQdrantClient]:
    """Give a client of a server that does not exist."""
    found = AsyncQdrantClient(url="http://127.0.0.1:9", check_compatibility=False)
    yield found
    await found.close()


@pytest.fixture
async def driver(client: AsyncQdrantClient) -> AsyncioDriver:
    """Give a driver whose every server is that client."""
    return AsyncioDriver(lambda _: client, fresh=no_heartbeat)


def count(collection: str) -> Call:
    """Return a call of `count`."""
    return Call("", "count", collection, (), {"exact": True})


async def test_flow_s_result_is_returned(driver: AsyncioDriver) -> None:
    """A flow that ends returns what it returned."""

    def flow() -> Flow[str]:
        yield Now()
        return "done"

    assert await driver.run(flow()) == "done"


async def test_flow_s_error_is_raised_and_the_flow_is_closed(driver: AsyncioDriver) -> None:
    """What a flow raises is raised to the caller, after the flow's own last words."""
    ended = []

    def flow() -> Flow[None]:
        try:
            yield Now()
            raise ValueError("no")
        finally:
            ended.append(True)

    with pytest.raises(ValueError, match="no"):
        await driver.run(flow())
    assert ended == [True]


async def test_effects_are_carried_out(driver: AsyncioDriver) -> None:
    """Clock, date and ids; a report has nobody to hear it."""
    before = time.monotonic()
    assert before <= await driver.run(one(Now())) <= time.monotonic()
    assert (await driver.run(one(Today()))).endswith("Z")
    first, second = await driver.run(one(NewId())), await driver.run(one(NewId()))
    assert first != second
    assert await driver.run(one(Sleep(0.0))) is None
    assert await driver.run(one(Report("copy"))) is None


@pytest.mark.parametrize("renew", [False, True])
async def test_fresh_is_passed_on(client: AsyncQdrantClient, renew: bool) -> None:
    """Whether a heartbeat is due is the client's to say."""
    asked: list[bool] = []

    async def fresh(given: bool) -> None:
        asked.append(given)

    await AsyncioDriver(lambda _: client, fresh=fresh).run(one(Fresh(renew=renew)))
    assert asked == [renew]


async def test_error_of_a_call_is_thrown_into_the_flow_unchanged(
    driver: AsyncioDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The application's errors are upstream's own."""
    failure = RuntimeError("upstream's own")

    async def fail(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr(AsyncQdrantClient, "count", fail)
    with pytest.raises(RuntimeError) as raised:
        await driver.run(one(count("c")))
    assert raised.value is failure


async def test_request_without_an_answer_is_unreachable(driver: AsyncioDriver) -> None:
    """A request of qferry's own ends in one of qferry's errors, with upstream's as its cause."""
    with pytest.raises(Unreachable, match="The server gave no answer to GET /: ConnectError") as raised:
        await driver.run(one(Request("", "version", "GET", "/")))
    assert raised.value.__cause__ is not None


async def test_request_that_a_server_refuses_is_rejected(qdrant: Any) -> None:
    """A real server's 404, and a real server's answer."""
    client = AsyncQdrantClient(url=qdrant.url, api_key=qdrant.api_key, check_compatibility=False)
    driver = AsyncioDriver(lambda _: client, fresh=no_heartbeat)
    with pytest.raises(Rejected) as raised:
        await driver.run(one(Request("", "info", "GET", "/collections/nowhere")))
    assert raised.value.missing
    assert "version" in await driver.run(one(Request("", "version", "GET", "/")))
    await client.close()


async def test_effects_together_are_all_under_way_before_any_is_answered(
    driver: AsyncioDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The latency of a dual write is that of the slower side, not the sum."""
    under_way: set[str] = set()
    both = asyncio.Event()

    async def wait(_: AsyncQdrantClient, collection: str, **__: Any) -> str:
        under_way.add(collection)
        if len(under_way) == 2:
            both.set()
        await asyncio.wait_for(both.wait(), DEADLINE_S)
        return collection

    monkeypatch.setattr(AsyncQdrantClient, "count", wait)
    outcomes = await driver.run(one(Together((count("a"), count("b")))))
    assert [(outcome.value, outcome.error) for outcome in outcomes] == [("a", None), ("b", None)]


async def test_effects_together_fail_each_for_itself(driver: AsyncioDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """One side's failure hides nothing of the other's outcome, and nothing is thrown."""

    async def fail_on_a(_: AsyncQdrantClient, collection: str, **__: Any) -> str:
        if collection == "a":
            raise RuntimeError("no")
        return collection

    monkeypatch.setattr(AsyncQdrantClient, "count", fail_on_a)
    first, second = await driver.run(one(Together((count("a"), count("b")))))
    assert isinstance(first.error, RuntimeError)
    assert (second.value, second.error) == ("b", None)


@pytest.mark.parametrize("answered", [[], ["a"], ["b"]], ids=["neither", "source", "target"])
async def test_cancellation_of_a_dual_write_leaves_its_ids_in_the_journal(
    driver: AsyncioDriver, monkeypatch: pytest.MonkeyPatch, answered: list[str]
) -> None:
    """Whichever side has answered by then, the other may have carried the write out, or may yet do so."""
    under_way: set[str] = set()
    both, never = asyncio.Event(), asyncio.Event()

    async def hang(_: AsyncQdrantClient, collection: str, **__: Any) -> list[models.UpdateResult]:
        under_way.add(collection)
        if len(under_way) == 2:
            both.set()
        if collection not in answered:
            await never.wait()
        return [models.UpdateResult(operation_id=1, status=models.UpdateStatus.COMPLETED)]

    monkeypatch.setattr(AsyncQdrantClient, "batch_update_points", hang)
    found = session()
    points = [models.PointStruct(id=1, vector=[1.0])]
    task = asyncio.create_task(driver.run(write.write(found, "upsert", "a", {"points": points})))
    await asyncio.wait_for(both.wait(), DEADLINE_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    journal = found.journal(MIGRATION)
    journal.flushed(journal.start_flush())
    assert journal.start_flush().ids == (1,)
    assert len(found.unanswered()) == 1
    assert found.view.active == 0
