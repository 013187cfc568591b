"""In what single points differ, in words and excerpts that a person can look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qferry.control import wire
from qferry.flows.effects import Flow, Json, Outcome, Together
from qferry.flows.settle import dumped
from qferry.protocol.journal import PointId
from qferry.protocol.phases import Side
from qferry.protocol.records import Migration
from qferry.transfer.fidelity import settled_payload

PAGE_POINTS = 100
# A vector of more numbers, or a value of more characters, is not shown whole.
_NUMBERS, _CHARACTERS, _FIELDS = 8, 200, 20


@dataclass(frozen=True)
class Difference:
    """
    A point that differs.

    Args:
        id: Its id.
        what: In what, in words: "missing on the target", "extra on the target", "payload", "vector NAME", ...
        source: What is unlike, as the source has it, shortened; None: it has no such point.
        target: The same of the target.
    """

    id: PointId
    what: tuple[str, ...]
    source: Mapping[str, Any] | None
    target: Mapping[str, Any] | None


def described(m: Migration, ids: Sequence[PointId]) -> Flow[list[Difference]]:
    """In what these points differ, as they are now."""
    found: list[Difference] = []
    for start in range(0, len(ids), PAGE_POINTS):
        page = ids[start : start + PAGE_POINTS]
        answers: list[Outcome] = yield Together(
            tuple(wire.retrieve(m.server(side), m.collection(side), page) for side in Side)
        )
        source, target = ({point["id"]: point for point in answer.result()} for answer in answers)
        found += [difference(i, source.get(i), target.get(i)) for i in page]
    return found


def difference(point_id: PointId, source: Json | None, target: Json | None) -> Difference:
    """In what two states of a point differ; None is none."""
    if source is None or target is None:
        return Difference(point_id, (_lacking(source, target),), _whole(source), _whole(target))
    ours, theirs = settled_payload(source.get("payload") or {}), settled_payload(target.get("payload") or {})
    fields = [name for name in sorted({*ours, *theirs}) if _unlike(ours, theirs, name)]
    vectors, others = _vectors(source), _vectors(target)
    names = [name for name in sorted({*vectors, *others}) if _unlike(vectors, others, name)]
    what = [f"payload field {name}" for name in fields[:_FIELDS]]
    what += [f"{len(fields) - _FIELDS} more payload fields"] if len(fields) > _FIELDS else []
    what += [_of_vector(name, vectors, others) for name in names]
    return Difference(
        point_id,
        tuple(what) or ("equal when it was looked at again",),
        _excerpt(ours, vectors, fields, names, others),
        _excerpt(theirs, others, fields, names, vectors),
    )


def _lacking(source: Json | None, target: Json | None) -> str:
    if source is not None:
        return "missing on the target"
    # Read from all copies a point looks deleted that one of a cluster's has kept.
    return "extra on the target" if target is not None else "on neither side, or kept by one copy of the target alone"


def _of_vector(name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    called = f"vector {name}" if name else "vector"
    if name not in theirs:
        return f"{called} missing on the target"
    return called if name in ours else f"{called} extra on the target"


def _unlike(one: Mapping[str, Any], other: Mapping[str, Any], name: str) -> bool:
    if (name in one) != (name in other):
        return True
    return dumped(one[name]) != dumped(other[name])


def _vectors(point: Json) -> Mapping[str, Any]:
    found = point.get("vector")
    return found if isinstance(found, Mapping) else {} if found is None else {"": found}


def _whole(point: Json | None) -> Mapping[str, Any] | None:
    if point is None:
        return None
    payload, vectors = point.get("payload") or {}, _vectors(point)
    return _excerpt(payload, vectors, sorted(payload), sorted(vectors), {})


def _excerpt(
    payload: Mapping[str, Any],
    vectors: Mapping[str, Any],
    fields: Sequence[str],
    names: Sequence[str],
    others: Mapping[str, Any],
) -> Mapping[str, Any]:
    shown = {name: _shortened(payload[name]) for name in fields[:_FIELDS] if name in payload}
    seen = {name: _numbers_of(vectors[name], others.get(name)) for name in names if name in vectors}
    return {**({"payload": shown} if shown else {}), **({"vector": seen} if seen else {})}


def _shortened(value: Any) -> Any:
    text = dumped(value).decode()
    return value if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS]}…"


def _numbers_of(vector: Any, other: Any) -> Any:
    """A vector, or of a large one how many numbers are unlike the other's, and the first of those."""
    numbers, theirs = _flat(vector), _flat(other)
    if len(numbers) <= _NUMBERS:
        return vector
    unlike = [n for n, value in enumerate(numbers) if n >= len(theirs) or dumped(value) != dumped(theirs[n])]
    found: dict[str, Any] = {"numbers": len(numbers)}
    if theirs and unlike:
        found |= {"unlike": len(unlike), "first": unlike[0], "value": numbers[unlike[0]]}
    return found


def _flat(vector: Any) -> list[Any]:
    """The numbers of a vector: of a sparse one index and value in turn, of a multivector row after row."""
    if vector is None:
        return []
    if isinstance(vector, Mapping):
        pairs = zip(vector["indices"], vector["values"], strict=True)
        return [number for pair in pairs for number in pair]
    if vector and isinstance(vector[0], list):
        return [number for row in vector for number in row]
    return list(vector)
