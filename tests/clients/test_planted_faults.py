"""Faults planted among 100,000 points, one of each kind: `verify` finds every one of them, and nothing else."""

from __future__ import annotations

import random
import struct
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from qdrant_client import QdrantClient
from staging import Migrating, ask

from qferry import commands
from qferry.connection import Connection
from qferry.flows.verify import Verification
from qferry.protocol.records import Strategy

POINTS, BATCH = 100_000, 5_000
INDEX = {"type": "integer", "lookup": True, "range": False}
CONFIG: dict[str, Any] = {
    "vectors": {"dense": {"size": 4, "distance": "Euclid"}},
    "sparse_vectors": {"words": {}},
    # What is compared here is points; an index would only take time.
    "optimizers_config": {"indexing_threshold": 0},
}


def content(i: int) -> dict[str, Any]:
    """Return a point that depends on its id alone."""
    chance = random.Random(i)
    dense = [chance.uniform(-1, 1) for _ in range(4)]
    sparse = {"indices": [i % 100, 200 + i % 7], "values": [1.0, 0.5]}
    return {"id": i, "vector": {"dense": dense, "words": sparse}, "payload": {"n": 1, "group": i % 50}}


@pytest.fixture(scope="module")
def large(qdrant: Any, plain: QdrantClient) -> Iterator[Migrating]:
    """Give a large collection, copied."""
    name = f"test-{uuid.uuid4().hex}"
    connection = Connection(url=qdrant.url, api_key=qdrant.api_key, grpc_port=qdrant.grpc_port)
    ask(plain, "PUT", f"/collections/{name}", CONFIG)
    for start in range(0, POINTS, BATCH):
        points = [content(i) for i in range(start, start + BATCH)]
        ask(plain, "PUT", f"/collections/{name}/points?wait=true", {"points": points})
    ask(plain, "PUT", f"/collections/{name}/index?wait=true", {"field_name": "group", "field_schema": INDEX})
    m = Migrating(connection, plain, name, f"{name}-target")
    commands.start(connection, m.source, m.target, strategy=Strategy.STREAM)
    commands.backfill(connection, m.source)
    yield m
    m.sweep()


def write(m: Migrating, point: dict[str, Any]) -> None:
    """Write a point to the target, past qferry."""
    ask(m.plain, "PUT", f"/collections/{m.target}/points?wait=true", {"points": [point]})


def one_bit(m: Migrating, i: int) -> None:
    """The last bit of one number."""
    stored = ask(m.plain, "POST", f"/collections/{m.source}/points", {"ids": [i], "with_vector": True})[0]["vector"]
    (bits,) = struct.unpack("<I", struct.pack("<f", stored["dense"][2]))
    (stored["dense"][2],) = struct.unpack("<f", struct.pack("<I", bits ^ 1))
    write(m, content(i) | {"vector": stored})


def missing(m: Migrating, i: int) -> None:
    """No such point."""
    ask(m.plain, "POST", f"/collections/{m.target}/points/delete?wait=true", {"points": [i]})


def extra(m: Migrating, i: int) -> None:
    """One that the source has not."""
    write(m, content(i) | {"id": POINTS + i})


def other_type(m: Migrating, i: int) -> None:
    """1.0 instead of 1."""
    ask(m.plain, "POST", f"/collections/{m.target}/points/payload?wait=true", {"payload": {"n": 1.0}, "points": [i]})


def dropped_sparse_vector(m: Migrating, i: int) -> None:
    """The named one is left."""
    body = {"points": [i], "vector": ["words"]}
    ask(m.plain, "POST", f"/collections/{m.target}/points/vectors/delete?wait=true", body)


def stale(m: Migrating, i: int) -> None:
    """The source has been written since."""
    ask(m.plain, "POST", f"/collections/{m.source}/points/payload?wait=true", {"payload": {"n": 2}, "points": [i]})


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("plant", [one_bit, missing, extra, other_type, dropped_sparse_vector, stale])
def test_one_point_among_a_hundred_thousand_is_found(large: Migrating, plant: Callable[[Migrating, int], None]) -> None:
    """Wherever it is, it and no other; and it is repaired."""
    number = random.Random(plant.__name__).randrange(POINTS)
    plant(large, number)
    found = commands.verify(large.connection, large.source, repair=False, queries=0)
    assert found.differing == (number + POINTS if plant is extra else number,), (plant.__name__, number)
    assert found.points == POINTS
    repaired = commands.verify(large.connection, large.source, repair=True, queries=0)
    assert (repaired.passed, repaired.repaired) == (True, 1)


def failed(found: Verification) -> dict[str, str]:
    """Return what did not pass, in words."""
    return {check.name: check.detail for check in found.checks if not check.passed}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_missing_parameter_of_an_index_is_found(large: Migrating) -> None:
    """And put right."""
    path = f"/collections/{large.target}/index"
    ask(large.plain, "DELETE", f"{path}/group?wait=true")
    ask(large.plain, "PUT", f"{path}?wait=true", {"field_name": "group", "field_schema": {"type": "integer"}})
    found = commands.verify(large.connection, large.source, queries=0)
    assert list(failed(found)) == ["payload indexes"]
    assert "range" in failed(found)["payload indexes"]
    assert commands.verify(large.connection, large.source, repair=True, queries=0).passed
