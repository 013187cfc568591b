"""One simulated collection: its points, the filters that choose among them, and the updates that change them."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any
from uuid import UUID

Json = Any
Id = int | str
# The server works through the ids of a partial update in chunks, and stops after the first that misses one.
CHUNK = 32


class Refusal(Exception):
    """The server's answer is an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@lru_cache(maxsize=100_000)
def position(point_id: Id) -> tuple[int, int]:
    """Where an id stands in the server's order: numbers first, then UUIDs."""
    return (0, point_id) if isinstance(point_id, int) else (1, UUID(point_id).int)


def vectors_of(params: Json) -> dict[str, Json]:
    """The vectors a configuration names; an unnamed one is called ``""``."""
    vectors = params.get("vectors") or {}
    return {"": vectors} if "size" in vectors else dict(vectors)


class Collection:
    """Points by id, each a payload and vectors, both replaced and never changed in place."""

    def __init__(self, name: str, config: Mapping[str, Json]) -> None:
        self.name = name
        self.config = config
        self.indexes: dict[str, Json] = {}
        self.points: dict[Id, tuple[Json, Json]] = {}
        self.vector_names = set(vectors_of(config["params"]))
        self.broken = False  # half restored from a snapshot when the server crashed
        self.accepted: list[Callable[[], None]] = []  # answered for, but not applied yet; in order
        self._order: list[tuple[tuple[int, int], Id]] = []
        self._kinds: dict[Id, Json] = {}  # an index of the payload field that qferry's own records are chosen by

    def put(self, point_id: Id, payload: Json, vectors: Json) -> None:
        """Write a whole point."""
        if point_id not in self.points:
            insort(self._order, (position(point_id), point_id))
            if "kind" in payload:
                self._kinds[point_id] = payload["kind"]
        self.points[point_id] = (payload, vectors)

    def remove(self, point_id: Id) -> None:
        """Delete a point; one that is not there is no error."""
        self._kinds.pop(point_id, None)
        if self.points.pop(point_id, None) is not None:
            del self._order[bisect_left(self._order, (position(point_id),))]

    def replace(self, points: Mapping[Id, tuple[Json, Json]]) -> None:
        """Have these points and no others, as after a recovery."""
        for point_id in list(self.points):
            self.remove(point_id)
        for point_id, (payload, vectors) in points.items():
            self.put(point_id, payload, vectors)
        self.broken = False

    def after(self, offset: Id | None) -> Iterable[Id]:
        """The ids from `offset` on, in the server's order."""
        start = 0 if offset is None else bisect_left(self._order, (position(offset),))
        return [point_id for _, point_id in self._order[start:]]

    def matching(self, condition: Json, offset: Id | None = None) -> list[Id]:
        """The ids a filter chooses, from `offset` on, in the server's order."""
        found = [i for i in self._candidates(condition, offset) if matches(condition, i, self.points[i][0])]
        vectors = [must["has_vector"] for must in _listed(condition.get("must")) if "has_vector" in must]
        return [i for i in found if all(vector in self.points[i][1] for vector in vectors)]

    def _candidates(self, condition: Json, offset: Id | None) -> Iterable[Id]:
        start = None if offset is None else position(offset)
        for must in _listed(condition.get("must")):
            chosen: Iterable[Id] | None = None
            if "has_id" in must:
                chosen = [i for i in must["has_id"] if i in self.points]
            elif must.get("key") == "kind" and "value" in must["match"]:
                chosen = [i for i, kind in self._kinds.items() if kind == must["match"]["value"]]
            if chosen is not None:
                return sorted((i for i in chosen if start is None or position(i) >= start), key=position)
        return self.after(offset)

    def of_kind(self, kind: str) -> list[Json]:
        """The payloads of one of qferry's kinds of records."""
        return [self.points[i][0] for i, found in self._kinds.items() if found == kind]

    def apply_accepted(self) -> None:
        """Work off what was accepted earlier: a shard applies in the order it accepted."""
        waiting, self.accepted = self.accepted, []
        for operation in waiting:
            operation()


def matches(condition: Json, point_id: Id, payload: Json) -> bool:
    """Whether a point passes a filter, or one condition of it; other kinds than these are not simulated."""
    if "has_id" in condition:
        return point_id in condition["has_id"]
    if "has_vector" in condition:
        return True  # whoever has the vectors looks: `Collection.matching`
    if "is_empty" in condition:
        return payload.get(condition["is_empty"]["key"]) in (None, [])
    if "key" in condition:
        found = payload.get(condition["key"])
        values = found if isinstance(found, list) else [found]
        wanted = condition["match"]
        accepted = wanted["any"] if "any" in wanted else [wanted["value"]]
        return any(type(v) is type(w) and v == w for v in values for w in accepted)
    condition = condition.get("filter", condition)
    must, should, must_not = (_listed(condition.get(k)) for k in ("must", "should", "must_not"))
    return (
        all(matches(c, point_id, payload) for c in must)
        and (not should or any(matches(c, point_id, payload) for c in should))
        and not any(matches(c, point_id, payload) for c in must_not)
    )


def _listed(conditions: Json) -> Sequence[Json]:
    if conditions is None:
        return ()
    return conditions if isinstance(conditions, list) else [conditions]


def update(found: Collection, operation: str, body: Json) -> None:
    """
    Apply one update operation, named as in the server's `points/batch`.

    Raises:
        Refusal: The collection has no such vector, or a point is missing; what came before stays applied.
    """
    if operation == "upsert":
        _upsert(found, body["points"])
    elif operation == "delete":
        for point_id in body["points"] if "points" in body else found.matching(body["filter"]):
            found.remove(point_id)
    elif operation == "update_vectors":
        given = {p["id"]: p["vector"] for p in body["points"]}
        for vector in given.values():
            _known_vectors(found, vector)
        _in_chunks(found, list(given), lambda i, p, v: (p, {**v, **_named(given[i])}))
    else:
        change = _CHANGES[operation](body)
        if body.get("points") is not None:
            _in_chunks(found, body["points"], change)
        else:
            for point_id in found.matching(body["filter"]):
                found.points[point_id] = change(point_id, *found.points[point_id])


Change = Callable[[Id, Json, Json], tuple[Json, Json]]
_CHANGES: dict[str, Callable[[Json], Change]] = {
    "set_payload": lambda b: lambda _, p, v: ({**p, **b["payload"]}, v),
    "overwrite_payload": lambda b: lambda _, __, v: (b["payload"], v),
    "delete_payload": lambda b: lambda _, p, v: ({k: x for k, x in p.items() if k not in b["keys"]}, v),
    "clear_payload": lambda _: lambda _, __, v: ({}, v),
    "delete_vectors": lambda b: lambda _, p, v: (p, {k: x for k, x in v.items() if k not in b["vector"]}),
}


def _upsert(found: Collection, points: Json) -> None:
    for point in points:
        # The server goes through them in no particular order, so those before the one that fails stay written.
        _known_vectors(found, point.get("vector") or {})
        found.put(point["id"], point.get("payload") or {}, _named(point.get("vector") or {}))


def _named(vector: Json) -> dict[str, Json]:
    return {"": vector} if isinstance(vector, list) else vector


def _known_vectors(found: Collection, vector: Json) -> None:
    for name in _named(vector):
        if name not in found.vector_names:
            raise Refusal(400, f"Wrong input: Not existing vector name error: {name}")


def _in_chunks(found: Collection, ids: Sequence[Id], change: Change) -> None:
    for start in range(0, len(ids), CHUNK):
        missing = None
        for point_id in ids[start : start + CHUNK]:
            if point_id in found.points:
                found.points[point_id] = change(point_id, *found.points[point_id])
            elif missing is None:
                missing = point_id
        if missing is not None:
            raise Refusal(404, f"Not found: No point with id {missing} found")
