"""Fixtures for tests against a real Qdrant: a shared server, one of the test's own, and fresh names."""

import os
import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest

from qferry.flows import verify
from qferry.flows.coordinator import Coordinator
from qferry.flows.effects import Flow
from qferry.server import QdrantServer

# A shell's background job ignores Ctrl-C, and so would every process the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@dataclass(frozen=True)
class Endpoint:
    """Where a server is reached; its arguments fit `QdrantClient(url=..., grpc_port=..., api_key=...)`."""

    url: str
    grpc_port: int
    http_port: int
    api_key: str | None = field(default=None, repr=False)


@pytest.fixture(scope="session")
def qdrant() -> Iterator[Endpoint]:
    """Give the server all tests share: the one `QDRANT_URL` names, else a local one."""
    url = os.environ.get("QDRANT_URL")
    if url:
        yield Endpoint(
            url=url,
            grpc_port=int(os.environ.get("QDRANT_GRPC_PORT", "6334")),
            http_port=urlsplit(url).port or 6333,
            api_key=os.environ.get("QDRANT_API_KEY"),
        )
        return
    with QdrantServer.start() as server:
        yield Endpoint(url=server.url, grpc_port=server.grpc_port, http_port=server.http_port)


@pytest.fixture
def fresh_qdrant() -> Iterator[QdrantServer]:
    """Give a server of the test's own, to be killed, paused or filled at will."""
    with QdrantServer.start() as server:
        yield server


@pytest.fixture
def collection_name() -> str:
    """Give a collection name that no other test uses, on a server that may be shared."""
    # Not the seeded generator: each test starts with the same seed.
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
def anyio_backend() -> str:
    """Run asynchronous tests on asyncio, the only loop the Qdrant client supports."""
    return "asyncio"


@pytest.fixture
def nobody_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Spare commands the waits for clients that are on no list, and for requests that nobody knows of.

    There are neither in these tests, and the waits are of 6 and 10 seconds; tests/simulation holds them to account.
    """

    def at_once(_: Coordinator) -> Flow[None]:
        yield from ()

    monkeypatch.setattr(Coordinator, "outlast_observers", at_once)
    monkeypatch.setattr(verify, "_let_land", at_once)
