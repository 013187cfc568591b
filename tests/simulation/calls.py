"""The calls of the simulated application: chosen by chance, and in the forms that qdrant-client takes them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from qdrant_client import models

from qferry.flows import routed, write
from qferry.flows.effects import Flow
from qferry.protocol.session import Session

from .possible_states import Step

VECTORS = ("a", "b")
GROUPS = (0, 1)
# A stream's calls are spread over the life of the migration; an abort skips those in between.
PHASES = (
    "",
    "preparing",
    "announced",
    "capturing",
    "starting",
    "copying",
    "copied",
    "switched",
    "finishing",
    "finished",
)
_PARTIAL = (
    "set_payload",
    "overwrite_payload",
    "delete_payload",
    "clear_payload",
    "update_vectors",
    "delete_vectors",
)


@dataclass(frozen=True)
class Planned:
    """
    One call to come.

    Args:
        pause_s: How long to wait before it.
        phase: Wait until the migration has come this far first, if that does not take too long.
        steps: What it writes.
        reads: What it reads, if it writes nothing.
        upload: Whether an upsert is an upload.
        wait: Whether it waits until the write is applied.
        cancel_after_s: After how long it is cancelled.
    """

    pause_s: float
    phase: str = ""
    steps: tuple[Step, ...] = ()
    reads: tuple[int, ...] = ()
    upload: bool = False
    wait: bool = True
    cancel_after_s: float | None = None


def planned_stream(
    chance: random.Random, serial: int, points: Sequence[int], phases: Sequence[str], busy: float
) -> tuple[Planned, ...]:
    """
    Calls chosen by chance, to be made one after the other; every value written is unique.

    Args:
        chance: The seed's randomness.
        serial: Unique among the streams; keeps values apart.
        points: The points it works on.
        phases: The phase that each call waits for.
        busy: The longest pause between two calls, in seconds.
    """
    values = iter(range(serial * 1000, serial * 1000 + 1000))
    in_order = sorted(phases, key=PHASES.index)
    return tuple(_planned(chance, points, busy, phase, values) for phase in in_order)


def _planned(chance: random.Random, points: Sequence[int], busy: float, phase: str, values: Iterator[int]) -> Planned:
    pause = chance.uniform(0, busy) if chance.random() < 0.6 else chance.uniform(0, 0.05)
    some = tuple(chance.sample(points, chance.randint(1, min(2, len(points)))))
    drawn = chance.random()
    if drawn < 0.4:
        return Planned(pause, phase, reads=some)
    steps = [chosen_step(chance, some, values)]
    if drawn > 0.88:
        steps += [chosen_step(chance, some, values) for _ in range(chance.randint(1, 2))]
    alone = len(steps) == 1
    return Planned(
        pause,
        phase,
        tuple(steps),
        upload=alone and steps[0].kind == "upsert" and chance.random() < 0.2,
        wait=chance.random() > 0.05,
        cancel_after_s=chance.uniform(0, 0.02) if chance.random() < 0.03 else None,
    )


def chosen_step(chance: random.Random, ids: tuple[int, ...], values: Iterator[int]) -> Step:
    """An update chosen by chance, of `ids` or of what a filter matches."""
    value = next(values)
    drawn = chance.random()
    if drawn < 0.3:
        payload = {"v": value, "g": chance.choice(GROUPS)}
        return Step("upsert", ids, payload=payload, vectors={name: (float(value),) for name in VECTORS})
    if drawn < 0.5:
        return Step("delete", ids)
    if drawn < 0.6:
        where = ("g", chance.choice(GROUPS))
        if chance.random() < 0.4:
            return Step("delete", where=where)
        return Step("set_payload", where=where, payload={"w": value})
    kind = chance.choice(_PARTIAL)
    if kind in ("set_payload", "overwrite_payload"):
        key = chance.choice(("v", "w"))
        payload = {key: value} if chance.random() < 0.7 else {key: value, "g": chance.choice(GROUPS)}
        return Step(kind, ids, payload=payload)
    if kind == "delete_payload":
        return Step(kind, ids, names=(chance.choice(("v", "w")),))
    if kind == "update_vectors":
        return Step(kind, ids, vectors={chance.choice(VECTORS): (float(value),)})
    return Step(kind, ids, names=(chance.choice(VECTORS),) if kind == "delete_vectors" else ())


def _selector(step: Step) -> Any:
    if step.where is None:
        return list(step.ids)
    key, value = step.where
    return models.Filter(must=[models.FieldCondition(key=key, match=models.MatchValue(value=value))])


def _points(step: Step) -> list[models.PointStruct]:
    vectors: Any = {name: list(v) for name, v in step.vectors.items()}
    return [models.PointStruct(id=i, payload=dict(step.payload), vector=vectors) for i in step.ids]


def arguments(step: Step) -> dict[str, Any]:
    """The step as arguments of qdrant-client's method of that name."""
    if step.kind == "upsert":
        return {"points": _points(step)}
    if step.kind == "update_vectors":
        vectors: Any = {name: list(v) for name, v in step.vectors.items()}
        return {"points": [models.PointVectors(id=i, vector=vectors) for i in step.ids]}
    if step.kind in ("delete", "clear_payload"):
        return {"points_selector": _selector(step)}
    given: dict[str, Any] = {"points": _selector(step)}
    if step.kind in ("set_payload", "overwrite_payload"):
        return {**given, "payload": dict(step.payload)}
    return {**given, "vectors" if step.kind == "delete_vectors" else "keys": list(step.names)}


def operation(step: Step) -> Any:
    """The step as one operation of `batch_update_points`."""
    if step.kind == "upsert":
        return models.UpsertOperation(upsert=models.PointsList(points=_points(step)))
    if step.kind == "update_vectors":
        return models.UpdateVectorsOperation(update_vectors=models.UpdateVectors(**arguments(step)))
    chosen = _selector(step)
    selected: dict[str, Any] = {"points": chosen} if isinstance(chosen, list) else {"filter": chosen}
    match step.kind:
        case "delete":
            return models.DeleteOperation(delete=_as_selector(selected))
        case "clear_payload":
            return models.ClearPayloadOperation(clear_payload=_as_selector(selected))
        case "set_payload":
            return models.SetPayloadOperation(set_payload=models.SetPayload(payload=dict(step.payload), **selected))
        case "overwrite_payload":
            whole = models.SetPayload(payload=dict(step.payload), **selected)
            return models.OverwritePayloadOperation(overwrite_payload=whole)
        case "delete_payload":
            keys = models.DeletePayload(keys=list(step.names), **selected)
            return models.DeletePayloadOperation(delete_payload=keys)
    vectors = models.DeleteVectors(vector=list(step.names), **selected)
    return models.DeleteVectorsOperation(delete_vectors=vectors)


def _as_selector(selected: dict[str, Any]) -> models.PointIdsList | models.FilterSelector:
    return models.PointIdsList(**selected) if "points" in selected else models.FilterSelector(**selected)


def flow_of(session: Session, planned: Planned, collection: str) -> Flow[Any]:
    """The flow that the client's method of that call runs."""
    if planned.reads:
        given = {"ids": list(planned.reads), "with_payload": True, "with_vectors": True}
        return routed.read(session, "retrieve", collection, given)
    wait = {} if planned.wait else {"wait": False}
    first = planned.steps[0]
    if planned.upload:
        return write.upload(session, collection, _points(first), {"points": (), "batch_size": 1, "max_retries": 1})
    if len(planned.steps) == 1:
        return write.write(session, first.kind, collection, {**arguments(first), **wait})
    operations = [operation(step) for step in planned.steps]
    return write.write(session, "batch_update_points", collection, {"update_operations": operations, **wait})
