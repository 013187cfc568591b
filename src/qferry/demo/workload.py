"""
The traffic of one application: an endless, seeded mix of reads and writes over points shared by all.

A request names a method of the Qdrant client and its arguments, so the same traffic runs through any client.
Every write carries a token of its own (a payload value, a vector's bits), by which the checker recognises it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from qdrant_client import models

from qferry.demo.call_log import Action, Effect
from qferry.demo.embedding import nearby
from qferry.demo.fingerprint import Vectors, payload_fingerprint, vector_fingerprint
from qferry.demo.orders import GROUP_KEY

# The processes meet on few hot points, and they create points that were not indexed.
HOT_POINTS = 40
HOT_SHARE = 0.25
NEW_SHARE = 0.10
NEW_POINTS_PER_INDEXED = 0.1

POINTS_PER_GROUP = 10
MAX_POINTS_PER_UPSERT = 5
READ_LIMIT = 10

# This share of the rewritten points leave their group: filter writes must not reach them any more.
LEAVING_SHARE = 0.5


@dataclass(frozen=True)
class Request:
    """A client method, its arguments but the collection, and what it changes; a read changes nothing."""

    method: str
    arguments: Mapping[str, Any]
    effects: tuple[Effect, ...] = ()


def group_of(point: int, indexed_points: int) -> int:
    """The group a point belongs to: about POINTS_PER_GROUP indexed points share one."""
    return point % max(1, indexed_points // POINTS_PER_GROUP)


def indexed_payload(point: int, chunks: Sequence[Mapping[str, Any]], indexed_points: int) -> dict[str, Any]:
    """The payload with which a point is indexed: its chunk, which copy of it this is, and its group."""
    chunk, copy = chunks[point % len(chunks)], point // len(chunks)
    return {**chunk, "copy": copy, GROUP_KEY: group_of(point, indexed_points)}


class Workload:
    """The requests of one process."""

    def __init__(
        self,
        process: str,
        *,
        seed: int,
        indexed_points: int,
        chunks: Sequence[Mapping[str, Any]],
        vectors: Vectors,
        queries: Vectors,
    ) -> None:
        """
        Prepare the mix.

        Args:
            process: The process's name, part of every token; no two processes of a run share one.
            seed: The same seed and process give the same requests.
            indexed_points: Ids 0 up to this were indexed before.
            chunks: Payloads to choose from.
            vectors: The vectors of the chunks.
            queries: Vectors to search with.
        """
        self._process = process
        self._indexed_points = indexed_points
        self._chunks = chunks
        self._vectors = vectors
        self._queries = queries
        self._random = random.Random(f"{seed}/{process}")  # noqa: S311 - repeatable on purpose
        self._noise = np.random.default_rng(self._random.getrandbits(64))
        self._tokens = 0
        # The same hot points in every process.
        shared = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self._hot = shared.sample(range(indexed_points), min(HOT_POINTS, indexed_points))
        self._mix: dict[Callable[[], Request], int] = {
            self._search: 25,
            self._retrieve: 15,
            self._scroll_group: 6,
            self._count_group: 4,
            self._upsert: 18,
            self._delete: 6,
            self._set_payload: 9,
            self._overwrite_payload: 4,
            self._delete_payload: 4,
            self._update_vector: 5,
            self._set_payload_of_group: 2,
            self._delete_group: 1,
            self._batch: 3,
        }

    def next_request(self) -> Request:
        """The next request of this process."""
        return self._random.choices(list(self._mix), list(self._mix.values()))[0]()

    def _point(self) -> int:
        choice = self._random.random()
        if choice < HOT_SHARE:
            return self._random.choice(self._hot)
        if choice < HOT_SHARE + NEW_SHARE:
            new_points = max(1, int(self._indexed_points * NEW_POINTS_PER_INDEXED))
            return self._indexed_points + self._random.randrange(new_points)
        return self._random.randrange(self._indexed_points)

    def _group(self) -> int:
        return group_of(self._point(), self._indexed_points)

    def _token(self) -> str:
        self._tokens += 1
        return f"{self._process}-{self._tokens}"

    def _vector_near(self, point: int) -> Vectors:
        return nearby(self._vectors[point % len(self._vectors)], self._noise)

    # -- reads

    def _search(self) -> Request:
        query = self._random.choice(self._queries).tolist()
        return Request("query_points", {"query": query, "limit": READ_LIMIT})

    def _retrieve(self) -> Request:
        return Request("retrieve", {"ids": [self._point() for _ in range(READ_LIMIT // 2)]})

    def _scroll_group(self) -> Request:
        return Request("scroll", {"scroll_filter": _in_group(self._group()), "limit": READ_LIMIT})

    def _count_group(self) -> Request:
        return Request("count", {"count_filter": _in_group(self._group()), "exact": True})

    # -- writes

    def _upsert(self) -> Request:
        points = {self._point() for _ in range(self._random.randint(1, MAX_POINTS_PER_UPSERT))}
        pairs = [self._new_point(point) for point in sorted(points)]
        return Request("upsert", {"points": [point for point, _ in pairs]}, tuple(effect for _, effect in pairs))

    def _new_point(self, point: int) -> tuple[models.PointStruct, Effect]:
        vector = self._vector_near(point)
        payload = indexed_payload(point, self._chunks, self._indexed_points) | {"revision": self._token()}
        effect = Effect(Action.UPSERT, point, vector=vector_fingerprint(vector), payload=payload_fingerprint(payload))
        return models.PointStruct(id=point, vector=vector.tolist(), payload=payload), effect

    def _delete(self) -> Request:
        point = self._point()
        return Request("delete", {"points_selector": [point]}, (Effect(Action.DELETE, point),))

    def _set_payload(self) -> Request:
        point, payload = self._point(), {"reviewed": self._token()}
        effect = Effect(Action.SET_PAYLOAD, point, payload=payload_fingerprint(payload))
        return Request("set_payload", {"payload": payload, "points": [point]}, (effect,))

    def _overwrite_payload(self) -> Request:
        point = self._point()
        payload: dict[str, Any] = {"path": "rewritten.py", "revision": self._token()}
        if self._random.random() >= LEAVING_SHARE:
            payload[GROUP_KEY] = group_of(point, self._indexed_points)
        effect = Effect(Action.OVERWRITE_PAYLOAD, point, payload=payload_fingerprint(payload))
        return Request("overwrite_payload", {"payload": payload, "points": [point]}, (effect,))

    def _delete_payload(self) -> Request:
        point, keys = self._point(), [self._random.choice(["reviewed", "campaign", "text"])]
        effect = Effect(Action.DELETE_KEYS, point, keys=tuple(keys))
        return Request("delete_payload", {"keys": keys, "points": [point]}, (effect,))

    def _update_vector(self) -> Request:
        point = self._point()
        vector = self._vector_near(point)
        effect = Effect(Action.UPDATE_VECTOR, point, vector=vector_fingerprint(vector))
        points = [models.PointVectors(id=point, vector=vector.tolist())]
        return Request("update_vectors", {"points": points}, (effect,))

    def _set_payload_of_group(self) -> Request:
        group, payload = self._group(), {"campaign": self._token()}
        effect = Effect(Action.SET_PAYLOAD, group=group, payload=payload_fingerprint(payload))
        return Request("set_payload", {"payload": payload, "points": _in_group(group)}, (effect,))

    def _delete_group(self) -> Request:
        group = self._group()
        selector = models.FilterSelector(filter=_in_group(group))
        return Request("delete", {"points_selector": selector}, (Effect(Action.DELETE, group=group),))

    def _batch(self) -> Request:
        """Upsert a point, mark it, mark a group and delete another point, in one call."""
        point, other, group = self._point(), self._point(), self._group()
        written, upsert = self._new_point(point)
        mark, campaign = {"reviewed": self._token()}, {"campaign": self._token()}
        operations: list[models.UpdateOperation] = [
            models.UpsertOperation(upsert=models.PointsList(points=[written])),
            models.SetPayloadOperation(set_payload=models.SetPayload(payload=mark, points=[point])),
            models.SetPayloadOperation(set_payload=models.SetPayload(payload=campaign, filter=_in_group(group))),
            models.DeleteOperation(delete=models.PointIdsList(points=[other])),
        ]
        effects = (
            upsert,
            Effect(Action.SET_PAYLOAD, point, payload=payload_fingerprint(mark)),
            Effect(Action.SET_PAYLOAD, group=group, payload=payload_fingerprint(campaign)),
            Effect(Action.DELETE, other),
        )
        return Request("batch_update_points", {"update_operations": operations}, effects)


def _in_group(group: int) -> models.Filter:
    return models.Filter(must=[models.FieldCondition(key=GROUP_KEY, match=models.MatchValue(value=group))])
