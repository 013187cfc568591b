"""A small collection to move, and the dashboard of the server it is on."""

import contextlib
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from qdrant_client import QdrantClient, models

from qferry import commands
from qferry.connection import Connection
from qferry.errors import FerryError
from qferry.protocol.records import Migration, Strategy

POINTS = 120


@pytest.fixture
def connection(qdrant: Any) -> Connection:
    """Give what the commands need to reach the shared server."""
    return Connection(url=qdrant.url, api_key=qdrant.api_key, grpc_port=qdrant.grpc_port)


@pytest.fixture
def plain(qdrant: Any) -> Iterator[QdrantClient]:
    """Give a client that knows nothing of migrations."""
    client = QdrantClient(url=qdrant.url, api_key=qdrant.api_key, check_compatibility=False)
    yield client
    client.close()


@pytest.fixture
def source(connection: Connection, plain: QdrantClient) -> Iterator[str]:
    """Give a collection with a legacy name and a few points; its migration is aborted in the end."""
    project = uuid.uuid4().hex
    name, target = f"project_{project}_code", f"project-{project}"
    plain.create_collection(name, vectors_config=models.VectorParams(size=4, distance=models.Distance.COSINE))
    plain.upsert(name, [models.PointStruct(id=i, vector=[i + 1, 1, 2, 3]) for i in range(POINTS)], wait=True)
    yield name
    with contextlib.suppress(FerryError):
        commands.abort(connection, name)
    for collection in (name, target):
        plain.delete_collection(collection)


@pytest.fixture
def target(source: str) -> str:
    """Give the canonical name of `source`."""
    return f"project-{source.removeprefix('project_').removesuffix('_code')}"


@pytest.fixture
def started(connection: Connection, source: str, target: str) -> Callable[[], Migration]:
    """Give a migration that has begun, as what reads its record."""
    commands.start(connection, source, target, strategy=Strategy.STREAM)
    return lambda: commands.find(connection, source)


@pytest.fixture(autouse=True)
def spare_waits(nobody_unseen: None) -> None:
    """Spare commands waits that lead to nothing here."""
