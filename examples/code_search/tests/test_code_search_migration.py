"""The index while its collection is moved from the legacy name to the canonical one, under searches and runs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from anyio import to_thread
from code_search_support import CountingEmbedder, Project, places
from qdrant_client import AsyncQdrantClient, models

from code_search.collection import ProjectCollection
from code_search.indexing import IndexerService
from code_search.searching import CodeSearch
from qferry import commands
from qferry.connection import Connection
from qferry.flows import verify
from qferry.flows.coordinator import Coordinator
from qferry.flows.effects import Flow
from qferry.naming import CollectionNaming
from qferry.protocol.records import Strategy


@pytest.fixture(autouse=True)
def spare_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare commands the waits for clients that are on no list and requests that nobody knows of; there are none."""

    def at_once(_: Coordinator) -> Flow[None]:
        yield from ()

    monkeypatch.setattr(Coordinator, "outlast_observers", at_once)
    monkeypatch.setattr(verify, "_let_land", at_once)


@pytest.mark.slow
async def test_application_notices_nothing_of_a_migration(
    server: Any,
    client: AsyncQdrantClient,
    collection: ProjectCollection,
    embedder: CountingEmbedder,
    indexer: IndexerService,
    search: CodeSearch,
    project: Project,
) -> None:
    """Every search finds what it should and every run does what it should, from before the start to after cleanup."""
    canonical, legacy, *_ = CollectionNaming().possible(collection.project)
    await client.create_collection(
        legacy, vectors_config=models.VectorParams(size=128, distance=models.Distance.COSINE)
    )
    await indexer.index_project(project.root)
    assert await collection.name() == legacy
    connection = Connection(url=server.url, api_key=server.api_key, grpc_port=0)
    over = asyncio.Event()

    async def keep_searching() -> int:
        searches = 0
        while not over.is_set():
            hits = await search.search("put item items append")
            assert hits[0].symbol == "Queue.put"
            searches += 1
        return searches

    async def keep_editing() -> int:
        runs = 0
        while not over.is_set():
            project.write("app/counter.py", f"# run {runs}\n\ndef count():\n    return {runs}\n")
            report = await indexer.index_project(project.root)
            assert report.chunks == 8
            found = await search.search("count return", path="app/counter.py")
            assert {hit.snippet for hit in found} == {f"# run {runs}", f"def count():\n    return {runs}"}
            runs += 1
        return runs

    async def migrate() -> None:
        try:
            # Streamed: while Qdrant 1.16.3 takes a snapshot, for whomever, its searches may miss what was written a
            # moment ago (as in qdrant/qdrant#9116).
            await to_thread.run_sync(lambda: commands.start(connection, legacy, canonical, strategy=Strategy.STREAM))
            await to_thread.run_sync(lambda: commands.backfill(connection, legacy))
            assert (await to_thread.run_sync(lambda: commands.verify(connection, legacy))).passed
            await to_thread.run_sync(lambda: commands.switch(connection, legacy, percent=100))
            await to_thread.run_sync(lambda: commands.finish(connection, legacy, safety_days=0))
            await to_thread.run_sync(lambda: commands.cleanup(connection, legacy, confirm=legacy))
        finally:
            over.set()

    searches, runs, _ = await asyncio.gather(keep_searching(), keep_editing(), migrate())
    assert searches > 10
    assert runs > 2
    # A process that starts now, and one that has kept the old name.
    late = ProjectCollection(client, collection.project, CollectionNaming())
    assert await late.name() == canonical
    assert await places(client, late) == await places(client, collection)
    assert (await IndexerService(client, late, embedder).index_project(project.root)).unchanged == 8
