"""MCP clients search a project while its collection goes through every phase of a migration."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread
from mcp import Client
from mcp_sessions import ANSWERS, FILES, environment, http_server, in_process, over_stdio, write_project
from qdrant_client import QdrantClient

from code_search.traffic import Account, Traffic, search
from qferry import commands
from qferry.connection import Connection
from qferry.server import QdrantServer

PROJECT = "corner-shop"
LEGACY, CANONICAL = f"project_{PROJECT}_code", f"project-{PROJECT}"
STEPS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("start", {"target": CANONICAL}),
    ("backfill", {}),
    ("verify", {}),
    ("switch", {"percent": 1}),
    ("switch", {"percent": 50}),
    ("switch", {"percent": 100}),
    ("rollback", {}),
    ("switch", {"percent": 100}),
    ("finish", {"safety_days": 0}),
    ("cleanup", {"confirm": LEGACY}),
)
# A file with this word is written and indexed after the step of that number.
WORDS = {0: "voucher", 2: "discount", 4: "warranty", 6: "complaint", 8: "giftwrap", 9: "newsletter"}


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_search_goes_on_through_a_whole_migration(tmp_path: Path) -> None:
    """
    Of four clients on three servers none gets an error, nothing, or another file first; what is written is found.

    One of the servers calls Qdrant by REST, and two by gRPC, among them the one that writes.
    """
    root = write_project(tmp_path / "project")
    traffic = Traffic(ANSWERS)
    with QdrantServer.start() as qdrant:
        environ = environment(qdrant.url, PROJECT, root)
        # The application as it was: its template gave the names that are legacy now.
        async with in_process({**environ, "COLLECTION_NAME_TEMPLATE": "project_{name}_code"}) as client:
            await index(client, added=True)
        connection = Connection(url=qdrant.url, grpc_port=qdrant.grpc_port)
        by_grpc = {**environ, "QDRANT_GRPC_PORT": str(qdrant.grpc_port)}
        with http_server(by_grpc) as url:
            sessions = [partial(over_stdio, environ), partial(over_stdio, by_grpc), *[partial(Client, url)] * 2]
            async with traffic.running(sessions), Client(url) as writer:
                for number, (verb, options) in enumerate(STEPS):
                    await traffic.next_round()
                    await to_thread.run_sync(partial(getattr(commands, verb), connection, LEGACY, **options))
                    if word := WORDS.get(number):
                        (root / f"{word}.py").write_text(f"def {word}():\n    pass\n")
                        await index(writer, added=True)
                        assert (await search(writer, word))[0]["path"] == f"{word}.py"
                await traffic.next_round()
        # A server that knows nothing of it all finds the same by the new name, and nothing left to do.
        async with in_process(environ) as client:
            status = (await client.call_tool("index_status")).structured_content
            for word in WORDS.values():
                assert (await search(client, word))[0]["path"] == f"{word}.py"
            await index(client, added=False)
        there = files_by_collection(qdrant.url)
    assert traffic.account == Account(searches=traffic.account.searches)
    assert status is not None
    assert status["collection"] == CANONICAL
    assert there == {CANONICAL: FILES.keys() | {f"{word}.py" for word in WORDS.values()}}


async def index(client: Client, *, added: bool) -> None:
    """Bring the index up to date, which has to add something or not."""
    report = await client.call_tool("index_project")
    assert not report.is_error, report.content
    assert report.structured_content is not None
    assert (report.structured_content["added"] > 0) is added


def files_by_collection(url: str) -> dict[str, set[str]]:
    """Return what a plain client finds: by collection, the files that it has points of."""
    client = QdrantClient(url=url, check_compatibility=False)
    names = [collection.name for collection in client.get_collections().collections]
    found = {
        name: {(point.payload or {})["path"] for point in client.scroll(name, limit=1_000)[0]}
        for name in names
        if not name.startswith("_qferry")
    }
    client.close()
    return found
