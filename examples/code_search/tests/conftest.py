"""Fixtures for the example's tests: a real Qdrant, a project of the test's own, and a model that takes no time."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from code_search_support import FAST, CountingEmbedder, Project
from qdrant_client import AsyncQdrantClient, QdrantClient

from code_search.collection import ProjectCollection
from code_search.indexing import IndexerService
from code_search.searching import CodeSearch
from code_search.settings import Settings
from qferry.naming import CollectionNaming
from qferry.server import QdrantServer
from qferry.transfer.channel import GRPC_PORT


@dataclass(frozen=True)
class Server:
    """Where a server is reached."""

    url: str
    grpc_port: int
    api_key: str | None = None


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Give the server that the example's tests share: the one `QDRANT_URL` names, else a local one."""
    if url := os.environ.get("QDRANT_URL"):
        yield Server(url, int(os.environ.get("QDRANT_GRPC_PORT") or GRPC_PORT), os.environ.get("QDRANT_API_KEY"))
        return
    with QdrantServer.start() as local:
        yield Server(local.url, local.grpc_port)


@pytest.fixture(params=["REST", "gRPC"])
def settings(request: pytest.FixtureRequest, server: Server) -> Settings:
    """Give settings by which the server is called by REST, and such by which it is by gRPC: it makes no difference."""
    port = server.grpc_port if request.param == "gRPC" else 0
    return Settings(project="", qdrant_url=server.url, qdrant_api_key=server.api_key, grpc_port=port, ferry=FAST)


@pytest.fixture
def anyio_backend() -> str:
    """Run asynchronous tests on asyncio, the only loop the Qdrant client supports."""
    return "asyncio"


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[AsyncQdrantClient]:
    """Give the client that the application uses."""
    opened = settings.client()
    yield opened
    await opened.close()


@pytest.fixture
def embedder() -> CountingEmbedder:
    """Give a model that remembers what it has embedded."""
    return CountingEmbedder()


@pytest.fixture
def project_name(server: Server) -> Iterator[str]:
    """Give the name of a project that is not indexed yet; its collection is deleted afterwards, by any of its names."""
    project = f"test-{uuid.uuid4().hex}"
    yield project
    plain = QdrantClient(url=server.url, api_key=server.api_key, check_compatibility=False)
    for name in CollectionNaming().possible(project):
        plain.delete_collection(name)
    plain.close()


@pytest.fixture
def collection(client: AsyncQdrantClient, project_name: str) -> ProjectCollection:
    """Give the collection of that project, whatever it is called."""
    return ProjectCollection(client, project_name, CollectionNaming())


@pytest.fixture
def indexer(client: AsyncQdrantClient, collection: ProjectCollection, embedder: CountingEmbedder) -> IndexerService:
    """Give the indexer of that project."""
    return IndexerService(client, collection, embedder)


@pytest.fixture
def search(client: AsyncQdrantClient, collection: ProjectCollection, embedder: CountingEmbedder) -> CodeSearch:
    """Give the search of that project."""
    return CodeSearch(client, collection, embedder)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Give a folder with a few files in it."""
    made = Project(tmp_path / "project")
    made.write("app/queue.py", "class Queue:\n    def put(self, item):\n        self.items.append(item)\n")
    made.write("app/files.py", "def read(path):\n    return open(path).read()\n\n\ndef size(path):\n    return 1\n")
    made.write("web/main.js", "function start() {\n  listen(8080)\n}\n")
    made.write("README.md", "# A project\n\nIt serves pages.\n")
    return made
