"""The data: the same vectors and payloads for the same size, about 200 bytes of payload, one payload index."""

from __future__ import annotations

from typing import Any

import numpy as np
from qdrant_client import QdrantClient, models
from qdrant_client import grpc as proto

from bench.place import Place

_BATCH_POINTS = 1_000
_GROUPS = 50
_WORDS = ("collection", "vector", "payload", "segment", "replica", "snapshot", "filter", "journal", "migrate", "point")


def create(client: QdrantClient, name: str, dim: int, *, indexed: bool = True) -> None:
    """Create an empty collection as all in this harness are; or one whose vectors the server never indexes."""
    never = None if indexed else models.OptimizersConfigDiff(indexing_threshold=0)
    client.create_collection(
        name, models.VectorParams(size=dim, distance=models.Distance.COSINE), optimizers_config=never
    )
    client.create_payload_index(name, "group", models.PayloadSchemaType.INTEGER, wait=True)


def fill(place: Place, name: str, points: int, dim: int, *, indexed: bool = True) -> None:
    """Create a collection with that many points and wait until the server has nothing more to do with it."""
    client = place.client()
    create(client, name, dim, indexed=indexed)
    client.close()
    raw = place.raw()
    for start in range(0, points, _BATCH_POINTS):
        batch = [
            proto.PointStruct(
                id=proto.PointId(num=start + offset),
                payload={key: _value(value) for key, value in payload(start + offset).items()},
                vectors=proto.Vectors(vector=proto.Vector(dense=proto.DenseVector(data=vector))),
            )
            for offset, vector in enumerate(vectors(start, min(_BATCH_POINTS, points - start), dim).tolist())
        ]
        raw.Upsert(proto.UpsertPoints(collection_name=name, wait=True, points=batch))
    place.until_green(name)


def vectors(seed: int, count: int, dim: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Give vectors, the same ones for the same arguments."""
    return np.random.default_rng([seed, dim]).standard_normal((count, dim), dtype=np.float32)


def payload(number: int) -> dict[str, Any]:
    """Give the payload of a point."""
    text = " ".join(_WORDS[(number // 10**place + place) % len(_WORDS)] for place in range(15))
    return {"group": number % _GROUPS, "line": number, "path": f"src/package_{number % 97}/module.py", "text": text}


def _value(value: Any) -> proto.Value:
    return proto.Value(integer_value=value) if isinstance(value, int) else proto.Value(string_value=value)
