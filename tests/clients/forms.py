"""Every write of qdrant-client in every form of its arguments, on a block of points of its own."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from qdrant_client import grpc, models
from qdrant_client.conversions.conversion import RestToGrpc
from staging import named, vector

NUMBERS = 5
WIDTH = 8  # ids a block has for itself; those from NUMBERS on do not exist
VECTORS = {
    "a": models.VectorParams(size=8, distance=models.Distance.COSINE),
    "b": models.VectorParams(size=8, distance=models.Distance.DOT),
}
SPARSE_VECTORS = {"s": models.SparseVectorParams()}


@dataclass(frozen=True)
class Block:
    """Five numbered points and one with a UUID, which one call may write as it likes."""

    index: int

    @property
    def numbers(self) -> list[int]:
        """The numbered ids that exist."""
        return [self.index * WIDTH + k for k in range(NUMBERS)]

    @property
    def missing(self) -> int:
        """A numbered id that does not exist."""
        return self.index * WIDTH + NUMBERS

    @property
    def new(self) -> int:
        """Another one."""
        return self.missing + 1

    @property
    def uuid(self) -> uuid.UUID:
        """The UUID that exists."""
        return uuid.UUID(int=0xABCDEF << 80 | self.index)

    @property
    def new_uuid(self) -> uuid.UUID:
        """A UUID that does not exist."""
        return uuid.UUID(int=0xFEDCBA << 80 | self.index)

    @property
    def shouted(self) -> str:
        """The UUID in upper case, which the server takes for the same point."""
        return str(self.uuid).upper()

    @property
    def ids(self) -> list[Any]:
        """Every id a call on this block may touch."""
        return [*range(self.index * WIDTH, (self.index + 1) * WIDTH), str(self.uuid), str(self.new_uuid)]

    @property
    def filter(self) -> models.Filter:
        """A filter for half of the numbered points."""
        return models.Filter(must=[*(named("block", self.index).must or []), *(named("half", 1).must or [])])

    @property
    def nobody(self) -> models.Filter:
        """A filter that no point matches."""
        return models.Filter(must=[*(named("block", self.index).must or []), *(named("half", 99).must or [])])

    def points(self) -> Iterator[models.PointStruct]:
        """The block as it is before the call."""
        for k, point_id in enumerate([*self.numbers, str(self.uuid)]):
            payload = {"block": self.index, "half": k % 2, "n": k, "deep": {"x": k, "y": [k]}}
            yield models.PointStruct(id=point_id, vector=vectors(point_id), payload=payload)


def vectors(seed: object) -> dict[str, Any]:
    """Return all three vectors of a point."""
    sparse = models.SparseVector(indices=[1, 5], values=[0.5, round(vector(seed)[0], 3)])
    return {"a": vector((seed, "a")), "b": vector((seed, "b")), "s": sparse}


def fresh(point_id: Any) -> models.PointStruct:
    """Return a point that differs from what is stored under its id."""
    return models.PointStruct(
        id=point_id, vector=vectors(("fresh", str(point_id))), payload={"fresh": True, "é": [1, 1.0]}
    )


def moved(point_id: Any, *names: str) -> models.PointVectors:
    """Return other vectors for a point."""
    every = vectors(("moved", str(point_id)))
    return models.PointVectors(id=point_id, vector={name: every[name] for name in names or every})


def protobuf(point: models.PointStruct) -> grpc.PointStruct:
    """Return the point as gRPC's own message."""
    return RestToGrpc.convert_point_struct(point)


def selector(ids: list[Any]) -> grpc.PointsSelector:
    """Return a selector of ids as gRPC's own message."""
    return RestToGrpc.convert_points_selector(models.PointIdsList(points=ids))


@dataclass(frozen=True)
class Form:
    """One call: a method, and arguments made for a block."""

    name: str
    method: str
    arguments: Callable[[Block], dict[str, Any]]

    def __str__(self) -> str:
        return f"{self.method}-{self.name}"


def _selections(b: Block) -> dict[str, Any]:
    """Return every way to say which points are meant."""
    return {
        "ids": b.numbers[:3],
        "uuid-in-upper-case": [b.shouted],
        "uuid-object": [b.uuid],
        "id-twice": [b.numbers[0], b.numbers[0]],
        "grpc-id": [grpc.PointId(num=b.numbers[0]), grpc.PointId(uuid=str(b.uuid))],
        "ids-list-object": models.PointIdsList(points=[*b.numbers[2:4], str(b.uuid)]),
        "filter": b.filter,
        "filter-selector": models.FilterSelector(filter=b.filter),
        "filter-that-matches-nothing": b.nobody,
        "grpc-selector": selector(b.numbers[1:4]),
        "grpc-filter": RestToGrpc.convert_filter(b.filter),
        "grpc-filter-selector": RestToGrpc.convert_points_selector(models.FilterSelector(filter=b.filter)),
        "missing-id": [b.missing],
        "missing-uuid": [str(b.new_uuid)],
        "present-and-missing-id": [b.numbers[0], b.missing, b.numbers[1]],
        "no-ids": [],
        "id-that-is-no-uuid": ["no uuid"],
        "negative-id": [-1],
        "nothing-selectable": 3.5,
    }


# The methods that select points, in which argument, and with what else.
_SELECTING: dict[str, tuple[str, dict[str, Any]]] = {
    "delete": ("points_selector", {}),
    "set_payload": ("points", {"payload": {"n": 77, "new": None}}),
    "clear_payload": ("points_selector", {}),
    "overwrite_payload": ("points", {"payload": {"only": [1, 2.5, "é"]}}),
    "delete_payload": ("points", {"keys": ["n", "never there"]}),
    "delete_vectors": ("points", {"vectors": ["a"]}),
}
# Selections are understood in the same two places for all of them: the first two try every form, the others these.
_EVERY_FORM = ("delete", "set_payload")
_SOME_FORMS = (
    "ids",
    "uuid-in-upper-case",
    "ids-list-object",
    "filter",
    "filter-that-matches-nothing",
    "grpc-selector",
    "missing-id",
    "present-and-missing-id",
)


def _selecting_forms() -> Iterator[Form]:
    for method, (argument, others) in _SELECTING.items():
        for name in _selections(Block(0)) if method in _EVERY_FORM else _SOME_FORMS:

            def arguments(b: Block, name: str = name, argument: str = argument, others: Any = others) -> dict[str, Any]:
                return {argument: _selections(b)[name], **others}

            yield Form(name, method, arguments)


def _batch(b: Block) -> list[Any]:
    """Return operations by id and by filter, each depending on the ones before it."""
    return [
        models.UpsertOperation(upsert=models.PointsList(points=[fresh(b.new), fresh(b.numbers[0])])),
        models.SetPayloadOperation(
            set_payload=models.SetPayload(payload={"half": 5, "block": b.index}, points=[b.new])
        ),
        models.SetPayloadOperation(
            set_payload=models.SetPayload(
                payload={"seen": 1},
                filter=models.Filter(must=[*(named("block", b.index).must or []), *(named("half", 5).must or [])]),
            )
        ),
        models.OverwritePayloadOperation(
            overwrite_payload=models.SetPayload(payload={"whole": 1}, points=[b.numbers[1]])
        ),
        models.DeletePayloadOperation(delete_payload=models.DeletePayload(keys=["n"], filter=b.filter)),
        models.DeleteVectorsOperation(delete_vectors=models.DeleteVectors(vector=["b"], points=[b.numbers[2]])),
        models.UpdateVectorsOperation(update_vectors=models.UpdateVectors(points=[moved(b.shouted, "a")])),
        models.ClearPayloadOperation(clear_payload=models.PointIdsList(points=[b.numbers[3]])),
        models.DeleteOperation(delete=models.FilterSelector(filter=b.filter)),
    ]


FORMS = [
    Form("new-and-present", "upsert", lambda b: {"points": [fresh(b.numbers[0]), fresh(b.new)]}),
    Form("uuid-in-upper-case", "upsert", lambda b: {"points": [fresh(b.shouted)]}),
    Form("uuid-object", "upsert", lambda b: {"points": [fresh(b.uuid), fresh(b.new_uuid)]}),
    Form("without-payload", "upsert", lambda b: {"points": [models.PointStruct(id=b.new, vector={"a": vector(1)})]}),
    Form("numpy", "upsert", lambda b: {"points": [models.PointStruct(id=b.new, vector={"a": np.ones(8, np.float32)})]}),
    Form("grpc-points", "upsert", lambda b: {"points": [protobuf(fresh(b.numbers[1])), protobuf(fresh(b.new))]}),
    Form(
        "batch",
        "upsert",
        lambda b: {
            "points": models.Batch(
                ids=[b.numbers[0], b.new],
                vectors={"a": [vector(1), vector(2)], "b": [vector(3), vector(4)]},
                payloads=[{"n": 1}, {}],
            )
        },
    ),
    Form("strong-ordering", "upsert", lambda b: {"points": [fresh(b.new)], "ordering": models.WriteOrdering.STRONG}),
    Form("update-filter-matches", "upsert", lambda b: {"points": [fresh(b.numbers[1])], "update_filter": b.filter}),
    Form("update-filter-differs", "upsert", lambda b: {"points": [fresh(b.numbers[0])], "update_filter": b.filter}),
    Form("one-id-twice", "upsert", lambda b: {"points": [fresh(b.new), models.PointStruct(id=b.new, vector={})]}),
    Form("no-points", "upsert", lambda _: {"points": []}),
    Form("wrong-dimension", "upsert", lambda b: {"points": [models.PointStruct(id=b.new, vector={"a": [1.0]})]}),
    Form("unknown-vector", "upsert", lambda b: {"points": [models.PointStruct(id=b.new, vector={"z": vector(1)})]}),
    Form("id-that-is-no-uuid", "upsert", lambda _: {"points": [fresh("no uuid")]}),
    Form("negative-id", "upsert", lambda _: {"points": [fresh(-1)]}),
    Form("too-large-id", "upsert", lambda _: {"points": [fresh(2**64)]}),
    Form("missing-argument", "upsert", lambda _: {}),
    Form("unknown-argument", "upsert", lambda b: {"points": [fresh(b.new)], "colour": "green"}),
    *_selecting_forms(),
    Form("key", "set_payload", lambda b: {"points": b.numbers[:2], "payload": {"x": 9}, "key": "deep"}),
    Form("nested-key", "delete_payload", lambda b: {"points": b.numbers[:2], "keys": ["deep.x"]}),
    Form("no-keys", "delete_payload", lambda b: {"points": b.numbers[:2], "keys": []}),
    Form("several-vectors", "delete_vectors", lambda b: {"points": b.numbers[:2], "vectors": ["b", "s"]}),
    Form("unknown-vector", "delete_vectors", lambda b: {"points": b.numbers[:2], "vectors": ["z"]}),
    Form("all", "update_vectors", lambda b: {"points": [moved(i) for i in b.numbers[:3]]}),
    Form("some", "update_vectors", lambda b: {"points": [moved(b.numbers[0], "a"), moved(b.numbers[1], "s")]}),
    Form("uuid-object", "update_vectors", lambda b: {"points": [moved(b.uuid, "b")]}),
    Form(
        "grpc-points",
        "update_vectors",
        lambda b: {"points": [RestToGrpc.convert_point_vectors(moved(b.numbers[0], "b"))]},
    ),
    Form("missing-id", "update_vectors", lambda b: {"points": [moved(b.missing, "a")]}),
    Form("present-and-missing-id", "update_vectors", lambda b: {"points": [moved(b.numbers[0]), moved(b.missing)]}),
    Form(
        "wrong-dimension",
        "update_vectors",
        lambda b: {"points": [models.PointVectors(id=b.numbers[0], vector={"a": [1.0]})]},
    ),
    Form("no-points", "update_vectors", lambda _: {"points": []}),
    Form("everything", "batch_update_points", lambda b: {"update_operations": _batch(b)}),
    Form("one-operation", "batch_update_points", lambda b: {"update_operations": _batch(b)[:1]}),
    Form("one-filter", "batch_update_points", lambda b: {"update_operations": _batch(b)[-1:]}),
    Form("no-operations", "batch_update_points", lambda _: {"update_operations": []}),
    Form(
        "missing-id-in-the-middle",
        "batch_update_points",
        lambda b: {
            "update_operations": [
                _batch(b)[0],
                models.SetPayloadOperation(set_payload=models.SetPayload(payload={"n": 1}, points=[b.missing])),
                _batch(b)[-1],
            ]
        },
    ),
]
