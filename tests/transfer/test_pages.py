"""Tests of what travels by gRPC when commands run: which points must not, and what happens when it cannot."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from qdrant_client import QdrantClient
from transferring import Rest

from qferry import commands
from qferry.connection import Connection
from qferry.flows.effects import Report
from qferry.protocol.records import Strategy
from qferry.server import QdrantServer

pytestmark = pytest.mark.usefixtures("nobody_unseen")
BEYOND_INT64 = 2**64 - 3
# A double that changes each time the server stores it, for a while.
DRIFTING = 1.2345678901234567e-25


def deep(levels: int) -> dict[str, Any]:
    """Return a payload nested so deeply."""
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


# What gRPC carries, and what it does not.
PAYLOADS: dict[int, dict[str, Any]] = {
    1: {"n": 1},
    2: {"h": BEYOND_INT64},
    3: deep(60),
    4: {"d": DRIFTING, "e": [1.0, 1]},
    5: {},
}
PLANTED = [(1, {"n": 1.0}), (2, {"h": BEYOND_INT64 - 1}), (3, deep(59)), (4, {"d": 2 * DRIFTING, "e": [1.0, 1]})]


def point(point_id: int, payload: dict[str, Any]) -> dict[str, Any]:
    """Return a point as it is written."""
    return {"id": point_id, "vector": [float(point_id), 1.0], "payload": payload}


@pytest.fixture
def rest(qdrant: Any) -> Iterator[Rest]:
    """Give the shared server by REST."""
    found = Rest(qdrant.url, qdrant.api_key)
    yield found
    found.close()


@pytest.fixture
def source(qdrant: Any, rest: Rest) -> Iterator[str]:
    """Give a collection of such points; its migration is aborted in the end."""
    name = f"pages-{uuid.uuid4().hex}"
    rest.create(name, {"vectors": {"size": 2, "distance": "Dot"}})
    rest.write(name, [point(*each) for each in PAYLOADS.items()])
    yield name
    with contextlib.suppress(commands.FerryError):
        commands.abort(Connection(url=qdrant.url, api_key=qdrant.api_key), name)
    for collection in (name, f"{name}-2"):
        rest.ask("DELETE", f"/collections/{collection}")


@pytest.mark.parametrize("by_grpc", [True, False])
def test_every_point_arrives_and_every_difference_is_found(qdrant: Any, rest: Rest, source: str, by_grpc: bool) -> None:
    """Large integers and deep payloads go by REST, and a double that drifts is no difference."""
    connection = Connection(url=qdrant.url, api_key=qdrant.api_key, grpc_port=qdrant.grpc_port if by_grpc else 0)
    target = f"{source}-2"
    told: list[Report] = []
    commands.start(connection, source, target, strategy=Strategy.STREAM)
    commands.backfill(connection, source, report=told.append)
    assert not any(report.stage == "rest" for report in told)
    verification = commands.verify(connection, source)
    assert verification.passed, verification.checks
    ours, theirs = rest.points(source), rest.points(target)
    assert len(ours) == len(theirs) == len(PAYLOADS)
    assert ours[:3] == theirs[:3]
    assert str(BEYOND_INT64).encode() in theirs[1]
    for point_id, payload in PLANTED:
        rest.write(target, [point(point_id, payload)])
        assert commands.verify(connection, source).differing == (point_id,)
        rest.write(target, [point(point_id, PAYLOADS[point_id])])


def test_another_server_s_port_is_not_used(qdrant: Any, source: str) -> None:
    """A port that leads to another Qdrant, with a collection of that name, is as good as none."""
    with QdrantServer.start() as other:
        client = QdrantClient(url=other.url, check_compatibility=False)
        client.create_collection(source, vectors_config={})
        client.close()
        told: list[Report] = []
        connection = Connection(url=qdrant.url, api_key=qdrant.api_key, grpc_port=other.grpc_port)
        commands.start(connection, source, f"{source}-2", strategy=Strategy.STREAM)
        commands.backfill(connection, source, report=told.append)
        assert any(report.stage == "rest" for report in told)
        assert commands.verify(connection, source).passed
