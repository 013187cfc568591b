"""Fixtures for tests of `transfer/`: a channel and a REST connection to the shared server, and two collections."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from transferring import Rest

from qferry.transfer.channel import Channel
from qferry.transfer.relay import Relay


@pytest.fixture
def channel(qdrant: Any) -> Iterator[Channel]:
    """Give a channel to the shared server."""
    channel = Channel(qdrant.url, grpc_port=qdrant.grpc_port, api_key=qdrant.api_key)
    yield channel
    channel.close()


@pytest.fixture
def relay(channel: Channel) -> Relay:
    """Give a relay on that channel."""
    return Relay(channel)


@pytest.fixture
def rest(qdrant: Any) -> Iterator[Rest]:
    """Give the shared server by REST."""
    rest = Rest(qdrant.url, qdrant.api_key)
    yield rest
    rest.close()


@pytest.fixture
def other_name() -> str:
    """Give a second collection name that no other test uses."""
    return f"test-{uuid.uuid4().hex}"
