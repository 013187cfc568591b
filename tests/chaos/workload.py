"""
The traffic of one lane: an endless, seeded mix of every kind of write, and of reads.

Lanes meet on a few hot points and, now and then, anywhere; most of what a lane writes is its own.  (Two that never
stop writing the same points at the same instant keep a migration from finishing, which is documented.)

What is written moves through the points as time goes by, and what lies behind is left alone: damage done at any moment
of the migration is still there at its end, where it would otherwise be healed by the next upsert.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from qdrant_client import models

from .calls import Effect
from .content import DIMENSIONS, GROUP, POINTS_PER_GROUP, TOKENS_PER_LANE, as_payload, as_vectors, state_of, vector

HOT_POINTS = 24
HOT_SHARE, OWN_SHARE = 0.12, 0.9
SMALL_BATCH, LARGE_BATCH = 20, 100
# Most writes fall into a window that moves on, in points and points per second.
WINDOW_POINTS, WINDOW_POINTS_PER_S = 800, 60
READ_POINTS = 10
# Far above the size of a group: a scroll that comes back with fewer has seen all of it.
SCROLL_LIMIT = 200

Answer = Callable[[Any], Any]


@dataclass(frozen=True)
class Population:
    """The points of a round: their number, and that of the lanes that share them."""

    points: int
    lanes: int

    @property
    def groups(self) -> int:
        """How many groups the points form."""
        return max(2, self.points // POINTS_PER_GROUP)


@dataclass(frozen=True)
class Request:
    """A method of the client, its arguments but the collection, what it changes or asks, and how to read its answer."""

    method: str
    arguments: Mapping[str, Any]
    effects: tuple[Effect, ...] = ()
    asked: Mapping[str, Any] | None = None
    answer: Answer = lambda _: None


class Workload:
    """The requests of one lane."""

    def __init__(self, *, seed: str, lane: int, place: int, population: Population) -> None:
        """
        Prepare the mix.

        Args:
            seed: The same seed gives the same requests.
            lane: The lane's number, part of every token; no two lanes of a round share one.
            place: Which share of the points is its own; those that run at the same time have different ones.
            population: The points.
        """
        self._random = random.Random(f"{seed}/{lane}")
        self._population = population
        self._place = place
        self._window = 0
        self._next_token = lane * TOKENS_PER_LANE + 1
        # The same hot points for everybody.
        self._hot = range(min(HOT_POINTS, population.points))
        self._mix: dict[Callable[[], Request], int] = {
            self._upsert_batch: 16,
            self._upsert: 14,
            self._delete: 7,
            self._delete_group: 1,
            self._set_payload: 8,
            self._set_payload_of_group: 2,
            self._overwrite_payload: 4,
            self._overwrite_payload_of_group: 1,
            self._delete_payload: 4,
            self._clear_payload: 2,
            self._update_vectors: 5,
            self._delete_vectors: 3,
            self._batch: 4,
            self._batch_with_filter: 1,
            self._retrieve: 14,
            self._scroll_group: 6,
            self._count_group: 3,
            self._search: 5,
        }

    def next_request(self, elapsed_s: float) -> Request:
        """
        The next request of this lane.

        Args:
            elapsed_s: Seconds since the round began.
        """
        self._window = int(elapsed_s * WINDOW_POINTS_PER_S)
        return self._random.choices(list(self._mix), list(self._mix.values()))[0]()

    def _point(self) -> int:
        return self._random.choice(self._hot) if self._random.random() < HOT_SHARE else self._cool_point()

    def _cool_point(self) -> int:
        population = self._population
        if self._random.random() >= OWN_SHARE:
            return self._random.randrange(population.points)
        point = (self._window + self._random.randrange(min(WINDOW_POINTS, population.points))) % population.points
        mine = point - point % population.lanes + self._place
        return mine if mine < population.points else self._place

    def _points(self, most: int) -> tuple[int, ...]:
        return tuple(sorted({self._point() for _ in range(self._random.randint(1, most))}))

    def _many_points(self, least: int, most: int) -> tuple[int, ...]:
        """Points for a batch, at most one of them hot; otherwise every batch would write every hot point."""
        points = {self._point()}
        wanted = self._random.randint(least, most)
        while len(points) < wanted:
            points.add(self._cool_point())
        return tuple(sorted(points))

    def _group(self) -> int:
        return self._point() % self._population.groups

    def _token(self, count: int = 1) -> int:
        token = self._next_token
        self._next_token += count
        return token

    # -- reads

    def _retrieve(self) -> Request:
        ids = self._points(READ_POINTS)
        arguments = {"ids": list(ids), "with_payload": True, "with_vectors": True}
        return Request("retrieve", arguments, (), {"ids": ids}, _states)

    def _scroll_group(self) -> Request:
        group = self._group()
        arguments = {
            "scroll_filter": _in_group(group),
            "limit": SCROLL_LIMIT,
            "with_payload": True,
            "with_vectors": True,
        }
        return Request("scroll", arguments, (), {"group": group, "limit": SCROLL_LIMIT}, lambda a: _states(a[0]))

    def _count_group(self) -> Request:
        group = self._group()
        arguments = {"count_filter": _in_group(group), "exact": True}
        return Request("count", arguments, (), {"group": group}, lambda a: a.count)

    def _search(self) -> Request:
        query = list(vector(self._random.randrange(1, self._next_token), DIMENSIONS["a"]))
        arguments = {"query": query, "using": "a", "limit": READ_POINTS, "with_payload": True, "with_vectors": True}
        return Request("query_points", arguments, (), {}, lambda a: _states(a.points))

    # -- writes

    def _upsert_batch(self) -> Request:
        return self._upsert(self._many_points(SMALL_BATCH, min(LARGE_BATCH, self._population.points // 8)))

    def _upsert(self, ids: tuple[int, ...] = ()) -> Request:
        effect, points = self._upserted(ids or (self._point(),))
        return Request("upsert", {"points": points}, (effect,))

    def _upserted(self, ids: tuple[int, ...]) -> tuple[Effect, list[models.PointStruct]]:
        effect = Effect("upsert", ids, token=self._token(len(ids)))
        points = [
            models.PointStruct(id=point, vector=as_vectors(state), payload=as_payload(state))
            for point, state in effect.upserted(self._population.groups)
        ]
        return effect, points

    def _delete(self) -> Request:
        ids = self._points(3)
        return Request("delete", {"points_selector": list(ids)}, (Effect("delete", ids),))

    def _delete_group(self) -> Request:
        group = self._group()
        selector = models.FilterSelector(filter=_in_group(group))
        return Request("delete", {"points_selector": selector}, (Effect("delete", group=group),))

    def _set_payload(self) -> Request:
        effect = Effect("set", self._points(4), token=self._token(), fields=(self._random.choice(("k1", "k2")),))
        return Request("set_payload", {"payload": _payload(effect), "points": list(effect.ids)}, (effect,))

    def _set_payload_of_group(self) -> Request:
        effect = Effect("set", group=self._group(), token=self._token(), fields=("k2",))
        return Request("set_payload", {"payload": _payload(effect), "points": _chosen(effect)}, (effect,))

    def _overwrite_payload(self) -> Request:
        effect = Effect("overwrite", (self._point(),), token=self._token())
        payload = self._overwriting(effect)
        return Request("overwrite_payload", {"payload": payload, "points": list(effect.ids)}, (effect,))

    def _overwrite_payload_of_group(self) -> Request:
        """The points leave their group by it: later filter writes must not reach them any more."""
        effect = Effect("overwrite", group=self._group(), token=self._token())
        payload = self._overwriting(effect)
        return Request("overwrite_payload", {"payload": payload, "points": _chosen(effect)}, (effect,))

    def _overwriting(self, effect: Effect) -> dict[str, int]:
        values = dict(effect.changes(self._population.groups))
        payload = {GROUP: values[2], "rev": effect.token}
        return {key: value for key, value in payload.items() if value is not None}

    def _delete_payload(self) -> Request:
        effect = Effect("drop", self._points(3), fields=(self._random.choice(("k1", "k2", GROUP)),))
        return Request("delete_payload", {"keys": list(effect.fields), "points": list(effect.ids)}, (effect,))

    def _clear_payload(self) -> Request:
        effect = Effect("clear", self._points(2))
        return Request("clear_payload", {"points_selector": list(effect.ids)}, (effect,))

    def _update_vectors(self) -> Request:
        effect = Effect("vectors", self._points(4), token=self._token(), fields=(self._random.choice(("a", "b")),))
        return Request("update_vectors", {"points": _point_vectors(effect)}, (effect,))

    def _delete_vectors(self) -> Request:
        effect = Effect("unvector", self._points(3), fields=("b",))
        return Request("delete_vectors", {"vectors": ["b"], "points": list(effect.ids)}, (effect,))

    def _batch(self) -> Request:
        """Upsert points, mark them, give others a vector and delete a third kind, in one call."""
        ids = self._many_points(10, 20)
        first, others = ids[: len(ids) // 2], ids[len(ids) // 2 :]
        upsert, points = self._upserted(first)
        mark = Effect("set", first[:2], token=self._token(), fields=("k2",))
        remove = Effect("delete", others[-2:])
        operations: list[models.UpdateOperation] = [
            models.UpsertOperation(upsert=models.PointsList(points=points)),
            models.SetPayloadOperation(set_payload=models.SetPayload(payload=_payload(mark), points=list(mark.ids))),
            models.DeleteOperation(delete=models.PointIdsList(points=list(remove.ids))),
        ]
        return Request("batch_update_points", {"update_operations": operations}, (upsert, mark, remove))

    def _batch_with_filter(self) -> Request:
        """Upsert points, then mark a group: what the filter meets may depend on the upsert before it."""
        upsert, points = self._upserted(self._points(5))
        mark = Effect("set", group=self._group(), token=self._token(), fields=("k2",))
        operations: list[models.UpdateOperation] = [
            models.UpsertOperation(upsert=models.PointsList(points=points)),
            models.SetPayloadOperation(set_payload=models.SetPayload(payload=_payload(mark), filter=_chosen(mark))),
        ]
        return Request("batch_update_points", {"update_operations": operations}, (upsert, mark))


def _payload(effect: Effect) -> dict[str, int]:
    return dict.fromkeys(effect.fields, effect.token)


def _point_vectors(effect: Effect) -> list[models.PointVectors]:
    (name,) = effect.fields
    return [
        models.PointVectors(id=point, vector={name: list(vector(effect.token, DIMENSIONS[name]))})
        for point in effect.ids
    ]


def _chosen(effect: Effect) -> models.Filter:
    if effect.group is None:
        raise ValueError("The effect names its points.")
    return _in_group(effect.group)


def _in_group(group: int) -> models.Filter:
    return models.Filter(must=[models.FieldCondition(key=GROUP, match=models.MatchValue(value=group))])


def _states(points: Any) -> dict[int, tuple[Any, ...]]:
    return {point.id: tuple(state_of(point.vector, point.payload)) for point in points}
