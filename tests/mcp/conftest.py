"""A small collection to move, and clients of the tools."""

import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from mcp import Client
from operating import POINTS, Opener, Person
from qdrant_client import QdrantClient, models

from qferry import commands
from qferry.connection import Connection
from qferry.errors import FerryError
from qferry.mcp.calls import Operator
from qferry.mcp.server import operator_server
from qferry.naming import CollectionNaming
from qferry.protocol.records import Migration, Strategy


@pytest.fixture
def connection(qdrant: Any) -> Connection:
    """Give what the commands need to reach the shared server."""
    return Connection(url=qdrant.url, api_key=qdrant.api_key, grpc_port=qdrant.grpc_port)


@pytest.fixture
def source(qdrant: Any, connection: Connection) -> Iterator[str]:
    """Give a collection with a legacy name and a few points; its migration is aborted in the end."""
    project = uuid.uuid4().hex
    name, target = f"project_{project}_code", f"project-{project}"
    plain = QdrantClient(url=qdrant.url, api_key=qdrant.api_key, check_compatibility=False)
    plain.create_collection(name, vectors_config=models.VectorParams(size=4, distance=models.Distance.COSINE))
    plain.upsert(name, [models.PointStruct(id=i, vector=[i + 1, 1, 2, 3]) for i in range(POINTS)], wait=True)
    yield name
    with contextlib.suppress(FerryError):
        commands.abort(connection, name)
    for collection in (name, target):
        plain.delete_collection(collection)
    plain.close()


@pytest.fixture
def target(source: str) -> str:
    """Give the canonical name of `source`."""
    return f"project-{source.removeprefix('project_').removesuffix('_code')}"


@pytest.fixture
def started(connection: Connection, source: str, target: str) -> Callable[[], Migration]:
    """Give a migration that has begun, as what reads its record."""
    commands.start(connection, source, target, strategy=Strategy.STREAM)
    return lambda: commands.find(connection, source)


@pytest.fixture
def tools(connection: Connection) -> Opener:
    """Give what opens a client of the tools; without a person it can ask nobody."""

    @contextlib.asynccontextmanager
    async def opened(
        person: Person | None = None, *, mode: str = "auto", allow_changes: bool = False, to: Connection = connection
    ) -> AsyncIterator[Client]:
        server = operator_server(Operator(to, CollectionNaming.from_environ({}), allow_changes))
        reply = person.reply if person is not None else None
        async with Client(server, mode=mode, elicitation_callback=reply) as client:
            yield client

    return opened


@pytest.fixture(autouse=True)
def spare_waits(nobody_unseen: None) -> None:
    """Spare commands waits that lead to nothing here."""
