"""
What a write touches, and the forms it can be sent in.

Every write of qdrant-client is one or several of the server's update operations (`points/batch`).  While a migration
journals, qferry sends writes in that one form; the caller's result is unchanged.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from qdrant_client import grpc, models
from qdrant_client.conversions.conversion import GrpcToRest

from qferry.errors import NotAllowed
from qferry.protocol.journal import PointId

Operation: TypeAlias = (
    models.UpsertOperation
    | models.DeleteOperation
    | models.SetPayloadOperation
    | models.OverwritePayloadOperation
    | models.DeletePayloadOperation
    | models.ClearPayloadOperation
    | models.UpdateVectorsOperation
    | models.DeleteVectorsOperation
)

_LARGEST_ID = 2**64 - 1
_SELECTED = ("delete", "clear_payload")  # operations that are a selector; the others carry `points` and `filter`


def operations_of(method: str, arguments: Mapping[str, Any]) -> list[Operation]:
    """
    The update operations a call of `method` stands for.

    Args:
        method: A writing method of qdrant-client.
        arguments: Its arguments by name.

    Raises:
        NotAllowed: The call uses shard keys, which a migration does not support yet.
    """
    if _uses_shard_keys(arguments):
        raise NotAllowed(
            "Writes with shard keys are not supported while a migration lives.",
            hint="Custom sharding is refused by `qferry plan`; abort the migration to write with shard keys.",
        )
    if method == "batch_update_points":
        return list(arguments["update_operations"])
    return [_BUILDERS[method](arguments)]


def understood(method: str, arguments: Mapping[str, Any]) -> list[Operation]:
    """The operations of a call whose every id and argument makes sense; none if something does not."""
    try:
        operations = operations_of(method, arguments)
        for operation in operations:
            filter_of(operation)
            ids_of(operation)
    except (AttributeError, KeyError, TypeError, ValueError):
        return []
    return operations


def _uses_shard_keys(arguments: Mapping[str, Any]) -> bool:
    return arguments.get("shard_key_selector") is not None


def _upsert(a: Mapping[str, Any]) -> Operation:
    conditions = {k: a[k] for k in ("update_filter", "update_mode") if a.get(k) is not None}
    if "update_filter" in conditions:
        conditions["update_filter"] = _rest_filter(conditions["update_filter"])
    points = a["points"]
    if isinstance(points, models.Batch):
        return models.UpsertOperation(upsert=models.PointsBatch(batch=points, **conditions))
    rest = [GrpcToRest.convert_point_struct(p) if isinstance(p, grpc.PointStruct) else p for p in points]
    return models.UpsertOperation(upsert=models.PointsList(points=rest, **conditions))


def _update_vectors(a: Mapping[str, Any]) -> Operation:
    conditions: dict[str, Any] = {}
    if a.get("update_filter") is not None:
        conditions["update_filter"] = _rest_filter(a["update_filter"])
    return models.UpdateVectorsOperation(update_vectors=models.UpdateVectors(points=list(a["points"]), **conditions))


def _set_payload(a: Mapping[str, Any]) -> models.SetPayload:
    return models.SetPayload(payload=a["payload"], key=a.get("key"), **_selection(a["points"]))


_BUILDERS: dict[str, Any] = {
    "upsert": _upsert,
    "delete": lambda a: models.DeleteOperation(delete=_selector(a["points_selector"])),
    "set_payload": lambda a: models.SetPayloadOperation(set_payload=_set_payload(a)),
    "overwrite_payload": lambda a: models.OverwritePayloadOperation(overwrite_payload=_set_payload(a)),
    "delete_payload": lambda a: models.DeletePayloadOperation(
        delete_payload=models.DeletePayload(keys=list(a["keys"]), **_selection(a["points"]))
    ),
    "clear_payload": lambda a: models.ClearPayloadOperation(clear_payload=_selector(a["points_selector"])),
    "update_vectors": _update_vectors,
    "delete_vectors": lambda a: models.DeleteVectorsOperation(
        delete_vectors=models.DeleteVectors(vector=list(a["vectors"]), **_selection(a["points"]))
    ),
}


def _rest_filter(given: Any) -> models.Filter:
    converted: models.Filter = GrpcToRest.convert_filter(given) if isinstance(given, grpc.Filter) else given
    return converted


def _selector(given: Any) -> models.PointIdsList | models.FilterSelector:
    """Any of the forms in which qdrant-client lets a caller select points, as one of the server's two."""
    if isinstance(given, grpc.PointsSelector):
        given = GrpcToRest.convert_points_selector(given)
    if isinstance(given, models.PointIdsList | models.FilterSelector):
        return given
    if isinstance(given, models.Filter | grpc.Filter):
        return models.FilterSelector(filter=_rest_filter(given))
    if not isinstance(given, list | tuple):
        raise TypeError(f"Unsupported points selector type: {type(given)}")
    return models.PointIdsList(points=[canonical_id(i) for i in given])


def _selection(given: Any) -> dict[str, Any]:
    selector = _selector(given)
    return {"points": selector.points} if isinstance(selector, models.PointIdsList) else {"filter": selector.filter}


def canonical_id(given: Any) -> PointId:
    """
    An id the way the server prints it, so that one point is one journal entry.

    Raises:
        ValueError: it is neither an unsigned integer nor a UUID.
    """
    if isinstance(given, grpc.PointId):
        given = given.num if given.WhichOneof("point_id_options") == "num" else given.uuid
    if isinstance(given, uuid.UUID):
        return str(given)
    if isinstance(given, str):
        return str(uuid.UUID(given))
    number = int(given)
    if not 0 <= number <= _LARGEST_ID:
        raise ValueError(f"{number} is no point id")
    return number


@functools.cache
def _name(kind: type[Operation]) -> str:
    (name,) = kind.model_fields  # pydantic looks it up at length, and every write asks several times
    return name


def _body(operation: Operation) -> tuple[str, Any]:
    name = _name(type(operation))
    return name, getattr(operation, name)


def filter_of(operation: Operation) -> models.Filter | None:
    """The filter that selects the operation's points; None when they are named. Named ids take precedence."""
    name, body = _body(operation)
    if name in ("upsert", "update_vectors") or getattr(body, "points", None) is not None:
        return None
    found: models.Filter | None = body.filter
    return found


def ids_of(operation: Operation) -> list[PointId]:
    """The ids the operation names; empty when a filter selects its points."""
    name, body = _body(operation)
    if name == "upsert":
        given = body.batch.ids if isinstance(body, models.PointsBatch) else [p.id for p in body.points]
    elif name == "update_vectors":
        given = [p.id for p in body.points]
    else:
        given = getattr(body, "points", None) or []
    return [canonical_id(i) for i in given]


def narrowed(operation: Operation, ids: Sequence[PointId]) -> Operation:
    """The filter operation, limited to `ids`: both sides then touch the same set."""
    chosen = filter_of(operation) or models.Filter()
    return _with_filter(operation, models.Filter(must=[chosen, _has_id(ids)]))


def _has_id(ids: Iterable[PointId]) -> models.HasIdCondition:
    return models.HasIdCondition(has_id=[*ids])


def tolerant(operation: Operation, present: frozenset[PointId]) -> Operation | None:
    """
    The operation in a form that does not fail where a point is missing; None when nothing is left to do.

    A partial update that names a missing id answers 404 after changing others; selected by filter it just passes
    over what is not there.  Vectors can only be updated by name, so there the ids that are present are kept.

    Source: Qdrant 1.16.3, `shard/src/update/{payload,vectors}.rs`; held against a server by
    tests/simulation/test_conformance.py.
    """
    name, body = _body(operation)
    if name in ("upsert", "delete") or filter_of(operation) is not None:
        return operation
    if name == "update_vectors":
        kept = [p for p in body.points if canonical_id(p.id) in present]
        return models.UpdateVectorsOperation(update_vectors=body.model_copy(update={"points": kept})) if kept else None
    return _with_filter(operation, models.Filter(must=[_has_id(ids_of(operation))]))


def all_tolerant(run: Iterable[Operation], present: Iterable[PointId]) -> list[Operation]:
    """
    The operations of a run in tolerant form, on a side where the points `present` are.

    What an operation makes is there for those after it.
    """
    there = set(present)
    forms: list[Operation] = []
    for operation in run:
        form = tolerant(operation, frozenset(there))
        if form is not None:
            forms.append(form)
        if makes_points(operation):
            there.update(ids_of(operation))
        elif isinstance(operation, models.DeleteOperation):
            there.difference_update(ids_of(operation))
    return forms


def presumed(run: Iterable[Operation]) -> list[PointId]:
    """The ids that must have existed for a run to succeed: named by a partial update, and not made by the run."""
    found: dict[PointId, None] = {}
    made: set[PointId] = set()
    for operation in run:
        name, _ = _body(operation)
        ids = ids_of(operation)
        if name == "upsert":
            made.update(ids if makes_points(operation) else ())
        elif name == "delete":
            made.difference_update(ids)
        else:
            found.update(dict.fromkeys(i for i in ids if i not in made))
    return list(found)


def makes_points(operation: Operation) -> bool:
    """Whether it is an upsert that writes points which are not there yet; one in mode `update_only` does not."""
    if not isinstance(operation, models.UpsertOperation):
        return False
    mode = getattr(operation.upsert, "update_mode", None)
    return mode is None or str(getattr(mode, "value", mode)) != "update_only"


def deleted_in_the_end(run: Sequence[Operation], chosen: Sequence[PointId] = ()) -> list[PointId]:
    """
    The ids that a run deletes and does not make anew after that.

    Args:
        run: The operations; a filter stands alone in its run.
        chosen: What the filter, if there is one, has been resolved to.
    """
    ids: dict[PointId, None] = {}
    for operation in run:
        if isinstance(operation, models.DeleteOperation):
            ids.update(dict.fromkeys(chosen if filter_of(operation) is not None else ids_of(operation)))
        elif makes_points(operation):
            for point_id in ids_of(operation):
                ids.pop(point_id, None)
    return list(ids)


def _with_filter(operation: Operation, chosen: models.Filter) -> Operation:
    name, body = _body(operation)
    if name in _SELECTED:
        changed: Any = models.FilterSelector(filter=chosen)
    else:
        changed = body.model_copy(update={"points": None, "filter": chosen})
    return type(operation)(**{name: changed})


def runs(operations: Iterable[Operation]) -> Iterator[list[Operation]]:
    """
    The operations in order, cut so that each filter stands alone.

    A filter is resolved to ids first, and what it matches may depend on the operations before it.
    """
    named: list[Operation] = []
    for operation in operations:
        if filter_of(operation) is None:
            named.append(operation)
            continue
        if named:
            yield named
            named = []
        yield [operation]
    if named:
        yield named
