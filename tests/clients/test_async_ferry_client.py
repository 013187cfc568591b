"""Tests of what is the asyncio client's own: its task, its cancellation, and its end without a loop."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from anyio import to_thread
from staging import FAST, Migrating, point

from qferry import AsyncFerryClient

DEADLINE_S = 10


@pytest.fixture
async def client(qdrant: Any) -> AsyncIterator[AsyncFerryClient]:
    """Give a client on the test's own loop."""
    found = AsyncFerryClient(url=qdrant.url, api_key=qdrant.api_key, check_compatibility=False, ferry=FAST)
    yield found
    await found.close()


async def test_client_takes_up_a_migration_in_the_background(client: AsyncFerryClient, migrating: Migrating) -> None:
    """`qferry start` returns when the client's own task has acknowledged."""
    await client.count(migrating.source)
    await to_thread.run_sync(migrating.backfill)
    await client.upsert(migrating.source, [point(1000)])
    source, target = await to_thread.run_sync(migrating.sides)
    assert source == target
    assert 1000 in source


async def test_many_calls_at_once_are_all_carried_out(client: AsyncFerryClient, migrating: Migrating) -> None:
    """Tasks share a client, while a migration goes through all its steps."""

    async def work(first: int) -> None:
        for k in range(first, first + 40):
            await client.upsert(migrating.source, [point(k)])

    moving = asyncio.create_task(to_thread.run_sync(migrating.finish))
    await asyncio.gather(*(work(1000 * (i + 1)) for i in range(8)), moving)
    _, target = await to_thread.run_sync(migrating.sides)
    assert {k for i in range(8) for k in range(1000 * (i + 1), 1000 * (i + 1) + 40)} <= target.keys()


async def test_cancelled_write_is_in_the_journal_and_is_settled(
    client: AsyncFerryClient, migrating: Migrating, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that was cancelled after one side had it is found by the journal, not left apart."""
    await client.count(migrating.source)
    await to_thread.run_sync(migrating.backfill)
    client._session.grace_s = 0.0  # a doubt is over when the server has answered once more
    original, on_source, never = client._client.batch_update_points, asyncio.Event(), asyncio.Event()

    async def hang_on_the_target(*args: Any, collection_name: str, **kwargs: Any) -> Any:
        if collection_name == migrating.target:
            await never.wait()
        result = await original(*args, collection_name=collection_name, **kwargs)
        on_source.set()
        return result

    monkeypatch.setattr(client._client, "batch_update_points", hang_on_the_target)
    task = asyncio.create_task(client.upsert(migrating.source, [point(1000)]))
    await asyncio.wait_for(on_source.wait(), DEADLINE_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(3):  # the journal with the doubt in it, the server's answer, the journal once more
        await client._fresh(renew=True)
    assert 1000 in await to_thread.run_sync(migrating.journal)
    assert client._session.journals[migrating.migration.id].debt == 0
    report = await to_thread.run_sync(migrating.verify)
    assert report.passed
    source, target = migrating.sides([1000])
    assert source == target
    assert 1000 in source


async def test_client_may_be_closed_twice(qdrant: Any, collection: str) -> None:
    """A second close has nothing left to do."""
    client = AsyncFerryClient(url=qdrant.url, api_key=qdrant.api_key, check_compatibility=False, ferry=FAST)
    await client.count(collection)
    await client.close()
    await client.close()


async def test_closed_client_has_no_task_left(qdrant: Any, collection: str) -> None:
    """Nothing of a closed client runs on."""
    client = AsyncFerryClient(url=qdrant.url, api_key=qdrant.api_key, check_compatibility=False, ferry=FAST)
    await client.count(collection)
    await client.close()
    assert [t.get_name() for t in asyncio.all_tasks() if t.get_name() == "qferry-heartbeat"] == []


async def test_closed_client_has_said_goodbye(qdrant: Any, migrating: Migrating) -> None:
    """Its ids are durable, its record is gone, and no suspicion is left."""
    await to_thread.run_sync(migrating.start)
    client = AsyncFerryClient(url=qdrant.url, api_key=qdrant.api_key, check_compatibility=False, ferry=FAST)
    await client.upsert(migrating.source, [point(1000)])
    writer = client._session.writer_id
    await client.close()
    assert writer not in {w.id for w in migrating.status.writers}
    assert 1000 in migrating.journal()


PROGRAM = """
import asyncio, sys
from qdrant_client import models
from qferry import AsyncFerryClient, FerryOptions
async def main():
    client = AsyncFerryClient(url=sys.argv[1], check_compatibility=False, ferry=FerryOptions(heartbeat_s=0.1))
    await client.upsert(sys.argv[2], [models.PointStruct(id=1000, vector=[1.0] * 8)])
    return client
client = asyncio.run(main())
"""


def test_process_that_exits_without_closing_has_said_goodbye(qdrant: Any, migrating: Migrating) -> None:
    """At exit there is no loop any more; the goodbye is said all the same."""
    migrating.backfill()
    subprocess.run([sys.executable, "-c", PROGRAM, qdrant.url, migrating.source], check=True, timeout=60)  # noqa: S603  this very Python
    assert migrating.status.writers == ()
    assert 1000 in migrating.journal()
    assert migrating.verify().passed
    assert migrating.migration.suspicions == ()


def test_client_that_outlives_its_loop_still_works_on_the_next(qdrant: Any, migrating: Migrating) -> None:
    """One `asyncio.run` after the other, as scripts and test suites do it; the heartbeat starts anew on each."""
    migrating.backfill()
    client = AsyncFerryClient(url=qdrant.url, api_key=qdrant.api_key, check_compatibility=False, ferry=FAST)

    async def write(point_id: int) -> None:
        await client.upsert(migrating.source, [point(point_id)])
        await asyncio.gather(*(client._fresh(renew=True) for _ in range(3)))  # as calls and the heartbeat may meet

    async def last() -> None:
        await write(1001)
        await client.close()

    asyncio.run(write(1000))
    asyncio.run(last())
    source, target = migrating.sides()
    assert source == target
    assert {1000, 1001} <= source.keys()
