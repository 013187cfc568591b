"""What the tests of `transfer/` share: collections of every kind on a real server, asked by REST."""

from typing import Any

import httpx
import orjson
import pytest
from qdrant_client import grpc as qdrant

from qferry.transfer.channel import Channel

# One vector of each kind the server knows.
EVERY_KIND = {
    "vectors": {
        "cosine": {"size": 3, "distance": "Cosine"},
        "a.b/ü [0]": {"size": 2, "distance": "Dot"},
        "half": {"size": 2, "distance": "Euclid", "datatype": "float16"},
        "byte": {"size": 2, "distance": "Manhattan", "datatype": "uint8"},
        "multi": {"size": 2, "distance": "Dot", "multivector_config": {"comparator": "max_sim"}},
    },
    "sparse_vectors": {"sparse": {}, "sparse_half": {"index": {"datatype": "float16"}}},
}
UUID_LOW, UUID_HIGH = "00000000-0000-0000-0000-00000000000a", "ffffffff-ffff-4fff-bfff-ffffffffffff"

# A payload of every kind gRPC can carry; and points of every shape, in the server's order.
PAYLOAD = {
    "int": -(2**63),
    "big": 2**63 - 1,
    "float": 1.0,
    "minus": -0.0,
    "huge": 1e300,
    "tiny": 5e-324,
    "truth": True,
    "none": None,
    "text": "ü\u0000\n",
    "": "no name",
    "a.b": {"c.d": [1, 1.5, None, {}, [], [[]], {"": {}}]},
    "empty": {},
    "list": [],
    "place": {"lon": 13.40495, "lat": 52.52},
    "when": "2026-01-02T03:04:05.678Z",
}
POINTS: list[dict[str, Any]] = [
    {"id": 0, "vector": {"cosine": [1.0, 2.0, 3.0]}, "payload": PAYLOAD},
    {"id": 1, "vector": {"a.b/ü [0]": [-0.0, 1e-40], "half": [0.1, 65504.0], "byte": [255.0, 0.0]}},
    {"id": 2, "vector": {"multi": [[1.5, 2.5]]}, "payload": {"rows": 1}},
    {"id": 3, "vector": {"multi": [[1.5, 2.5], [3.5, -0.0], [0.0, 1.5]]}, "payload": {}},
    {"id": 4, "vector": {"sparse": {"indices": [9, 3, 4294967295], "values": [1.0, 0.0, -0.0]}}},
    {
        "id": 5,
        "vector": {"sparse": {"indices": [], "values": []}, "sparse_half": {"indices": [7, 1], "values": [1, 2]}},
    },
    {"id": 6, "vector": {}, "payload": {"no": "vectors"}},
    {"id": 2**64 - 1, "vector": {"cosine": [0.0, 0.0, 0.0]}, "payload": {"last": "number"}},
    {"id": UUID_LOW, "vector": {"cosine": [0.1, 0.2, 0.3]}},
    {"id": UUID_HIGH, "vector": {"cosine": [0.1, 0.2, 0.3]}},
]
# Integers that REST keeps and gRPC shows as doubles, and their neighbours that it does not.
BEYOND_INT64 = [2**63, 2**63 + 1, 2**64 - 1025, 2**64 - 1]


class Rest:
    """The server by REST; every request must succeed."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        self._http = httpx.Client(base_url=url, headers={"api-key": api_key} if api_key else {}, timeout=60.0)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The result of a request."""
        answer = self._http.request(method, path, content=None if body is None else orjson.dumps(body))
        assert answer.status_code == 200, answer.text
        return orjson.loads(answer.content)["result"]

    def create(self, collection: str, config: Any) -> None:
        """Create a collection."""
        self.ask("PUT", f"/collections/{collection}", config)

    def write(self, collection: str, points: Any) -> None:
        """Write points."""
        self.ask("PUT", f"/collections/{collection}/points?wait=true", {"points": points})

    def points(self, collection: str) -> list[bytes]:
        """All points as JSON that is equal exactly when REST shows the same."""
        body = {"limit": 100_000, "with_payload": True, "with_vector": True}
        points = self.ask("POST", f"/collections/{collection}/points/scroll", body)["points"]
        return [orjson.dumps(point, option=orjson.OPT_SORT_KEYS) for point in points]

    def close(self) -> None:
        """Let the connection go."""
        self._http.close()


def write_typed(channel: Channel, collection: str, *points: qdrant.PointStruct) -> None:
    """Write points as gRPC alone can carry them, such as NaN."""
    channel.call("Points/Upsert", qdrant.UpsertPoints(collection_name=collection, wait=True, points=points))


def nested(depth: int, opening: str = '{"a":', closing: str = "}") -> Any:
    """Objects (or lists) in one another."""
    return orjson.loads(opening * depth + "1" + closing * depth)


def vectors_of(values: list[float]) -> qdrant.Vectors:
    """An unnamed dense vector."""
    return qdrant.Vectors(vector=qdrant.Vector(dense=qdrant.DenseVector(data=values)))


nested_kinds = pytest.mark.parametrize(
    "payload",
    [{"p": nested(33)}, {"p": nested(49, "[", "]")}, {"p": nested(120)}],
    ids=["33 objects", "49 lists", "120 objects"],
)
