"""Fixtures for tests of the clients: clients that are closed again, and a collection about to migrate."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from qdrant_client import QdrantClient, models
from staging import DIMENSIONS, FAST, Caller, Migrating, Opener, Pairing, point

from qferry import FerryClient, FerryOptions
from qferry.connection import Connection

POINTS = 60


@pytest.fixture(scope="session")
def portal() -> Iterator[BlockingPortal]:
    """Give an event loop that runs in a thread of its own, so that asynchronous clients beat while a test waits."""
    with start_blocking_portal("asyncio") as found:
        yield found


@pytest.fixture(scope="session")
def plain(qdrant: Any) -> Iterator[QdrantClient]:
    """Give a client that no migration sees: a test's own eyes and hands."""
    client = QdrantClient(
        url=qdrant.url, grpc_port=qdrant.grpc_port, api_key=qdrant.api_key, check_compatibility=False, timeout=30
    )
    yield client
    client.close()


@pytest.fixture(scope="session")
def opener(qdrant: Any, portal: BlockingPortal) -> Opener:
    """Give what makes clients of every kind for the shared server."""
    return Opener(qdrant.url, qdrant.grpc_port, qdrant.api_key, portal)


@pytest.fixture
def open_ferry(opener: Opener) -> Iterator[Callable[..., Caller]]:
    """Give a function that opens clients of qferry and sees to it that they are closed."""
    opened: list[Caller] = []

    def open_one(pairing: Pairing = Pairing(asynchronous=False, grpc=False), ferry: FerryOptions = FAST) -> Caller:  # noqa: B008  a frozen value
        opened.append(opener.ferry(pairing, ferry))
        return opened[-1]

    yield open_one
    for caller in opened:
        caller.call("close")


@pytest.fixture
def ferry(open_ferry: Callable[..., Caller]) -> FerryClient:
    """Give a blocking client of qferry."""
    client: FerryClient = open_ferry().client
    return client


@pytest.fixture
def connection(qdrant: Any) -> Connection:
    """Give what the commands need to reach the shared server."""
    return Connection(url=qdrant.url, api_key=qdrant.api_key, grpc_port=qdrant.grpc_port)


@pytest.fixture(autouse=True)
def litter() -> Iterator[list[Migrating]]:
    """
    Give the list of migrations that are swept away after the test.

    Every client reads the records of all migrations with each heartbeat, so those of past tests would slow down the
    later ones.  An automatic fixture comes first and so goes last, when the test's clients are closed.
    """
    found: list[Migrating] = []
    yield found
    for migrating in found:
        migrating.sweep()


@pytest.fixture(autouse=True)
def spare_waits(nobody_unseen: None) -> None:
    """Spare commands waits that lead to nothing here."""


@pytest.fixture
def collection(plain: QdrantClient, collection_name: str) -> Iterator[str]:
    """Give a small collection: ids 0 to 59, payload field `group` from 0 to 5."""
    plain.create_collection(
        collection_name,
        vectors_config=models.VectorParams(size=DIMENSIONS, distance=models.Distance.COSINE),
    )
    plain.upsert(collection_name, [point(i, group=i % 6) for i in range(POINTS)])
    yield collection_name
    plain.delete_collection(collection_name)


@pytest.fixture
def migrating(plain: QdrantClient, connection: Connection, collection: str, litter: list[Migrating]) -> Migrating:
    """Give that collection and the name it is to move to; nothing has begun."""
    found = Migrating(connection, plain, collection, f"{collection}-target")
    litter.append(found)
    return found
