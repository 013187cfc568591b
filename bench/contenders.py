"""
Ways to give a collection another name, each as a function that copies and says how long its steps took.

Each runs in a process of its own, on the same server and the same source.  `copy` is the step that brings the points
over, every write waited for; the others are what that way needs besides.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from qdrant_client import QdrantClient, models
from qdrant_client import grpc as proto
from qdrant_client.migrate import migrate

from bench import child, coordinator, corpus
from bench.child import BenchError
from bench.place import Place

_PAGE_POINTS = 1_000
_RANGES = 4


@dataclass(frozen=True, kw_only=True)
class Job:
    """A copy to be made."""

    place: Place
    source: str
    target: str
    points: int
    dim: int


class Steps(dict[str, float]):
    """Seconds by step."""

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Time a step."""
        began = time.perf_counter()
        yield
        self[step] = self.get(step, 0.0) + time.perf_counter() - began


def _qferry(job: Job, strategy: str) -> Steps:
    verbs = (coordinator.start(job.source, job.target, strategy=strategy), ["backfill", job.source])
    done = coordinator.carry_out(job.place, [*verbs, ["verify", job.source, "--queries", "0"]])
    return Steps({"copy" if step["verb"] == "backfill" else step["verb"]: step["seconds"] for step in done})


def qferry_snapshot(job: Job) -> Steps:
    """Start, backfill and verify by snapshot."""
    return _qferry(job, "snapshot")


def qferry_stream(job: Job) -> Steps:
    """Start, backfill and verify by streaming."""
    return _qferry(job, "stream")


class _Renamed:
    """A client to which one collection is known by another name: `migrate` itself cannot rename."""

    def __init__(self, client: QdrantClient, name: str) -> None:
        self._client = client
        self._name = name

    def get_collections(self) -> models.CollectionsResponse:
        # The source is on the same server and would be taken for a collision.
        return models.CollectionsResponse(collections=[])

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(collection_name: str, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG001  replaced on purpose
            return getattr(self._client, method)(self._name, *args, **kwargs)

        return call


def migrates_way(job: Job) -> Steps:
    """`qdrant_client.migrate.migrate` as it is: create with the source's configuration, pages of 100, uploads of 64."""
    steps = Steps()
    client = job.place.client()
    with steps.timed("copy"):
        migrate(client, _Renamed(client, job.target), [job.source])  # type: ignore[arg-type]  # it has what is called
    return steps


def _plain_loop(job: Job, *, grpc: bool) -> Steps:
    steps = Steps()
    client = job.place.client(prefer_grpc=grpc)
    with steps.timed("create"):
        corpus.create(client, job.target, job.dim)
    with steps.timed("copy"):
        offset: Any = None
        while True:
            records, offset = client.scroll(job.source, offset=offset, limit=_PAGE_POINTS, with_vectors=True)
            points = [models.PointStruct(id=r.id, vector=r.vector or {}, payload=r.payload) for r in records]
            client.upsert(job.target, points, wait=True)
            if offset is None:
                return steps


def plain_rest_loop(job: Job) -> Steps:
    """Scroll and upsert, pages of 1,000, over REST."""
    return _plain_loop(job, grpc=False)


def plain_grpc_loop(job: Job) -> Steps:
    """Scroll and upsert, pages of 1,000, with `prefer_grpc=True` and nothing else."""
    return _plain_loop(job, grpc=True)


def _raw(job: Job, ranges: int) -> Steps:
    """Copy serialized pages and leave indexing for later: what gRPC allows when nothing is promised."""
    steps = Steps()
    client = job.place.client()
    with steps.timed("create"):
        corpus.create(client, job.target, job.dim)
        threshold = client.get_collection(job.source).config.optimizer_config.indexing_threshold
        client.update_collection(job.target, optimizers_config=models.OptimizersConfigDiff(indexing_threshold=0))
    # The corpus has ids from 0 on; somebody else's loop would have to find its ranges first.
    bounds = [job.points * n // ranges for n in range(ranges + 1)]
    with steps.timed("copy"), ThreadPoolExecutor(ranges) as pool:
        for done in [pool.submit(_raw_range, job, *bound) for bound in itertools.pairwise(bounds)]:
            done.result()
    with steps.timed("restore"):
        client.update_collection(
            job.target, optimizers_config=models.OptimizersConfigDiff(indexing_threshold=threshold)
        )
    return steps


def _raw_range(job: Job, start: int, end: int) -> None:
    raw = job.place.raw()
    while start < end:
        page = raw.Scroll(
            proto.ScrollPoints(
                collection_name=job.source,
                offset=proto.PointId(num=start),
                limit=min(_PAGE_POINTS, end - start),
                with_payload=proto.WithPayloadSelector(enable=True),
                with_vectors=proto.WithVectorsSelector(enable=True),
            )
        )
        # What is read and what is written have different types and the same encoding.
        points = [
            proto.PointStruct(
                id=p.id, payload=p.payload, vectors=proto.Vectors.FromString(p.vectors.SerializeToString())
            )
            for p in page.result
        ]
        raw.Upsert(proto.UpsertPoints(collection_name=job.target, wait=True, points=points))
        start += len(points)


def raw_grpc_loop(job: Job) -> Steps:
    """One raw gRPC loop."""
    return _raw(job, 1)


def raw_grpc_ranges(job: Job) -> Steps:
    """Four raw gRPC loops at once."""
    return _raw(job, _RANGES)


SNAPSHOT, STREAM, MIGRATE, RAW = "qferry snapshot", "qferry stream", "qdrant_client.migrate", "raw gRPC loop"
CONTENDERS: dict[str, Callable[[Job], Steps]] = {
    SNAPSHOT: qferry_snapshot,
    STREAM: qferry_stream,
    MIGRATE: migrates_way,
    "plain REST loop": plain_rest_loop,
    "plain gRPC loop": plain_grpc_loop,
    RAW: raw_grpc_loop,
    "raw gRPC in 4 ranges": raw_grpc_ranges,
}
QFERRY = (SNAPSHOT, STREAM)


def run(name: str, job: Job) -> dict[str, Any]:
    """
    Let one of them copy in a process of its own, and remove its target afterwards.

    Returns:
        `steps` in seconds; with `green` (the wait for it after the last step) their sum `total_s`; `peak_mb` of that
        process; `indexed_vectors` of the target.

    Raises:
        NotAvailable: This version of qferry cannot.
        BenchError: It failed, or points are missing.
    """
    if name in QFERRY:
        coordinator.start(job.source, job.target, strategy=name.removeprefix("qferry "))
    # After a failure or Ctrl-C nothing is removed: the server goes too.
    done = child.run("contenders", {"name": name, **asdict(job)})
    _remove(name, job)
    job.place.until_green(job.source)
    return done


def _remove(name: str, job: Job) -> None:
    if name in QFERRY:
        coordinator.run(job.place, ["abort", job.source, "--yes"])
    else:
        job.place.drop(job.target)


def _work(given: dict[str, Any]) -> dict[str, Any]:
    name = given.pop("name")
    job = Job(**{**given, "place": Place(**given["place"])})
    steps = CONTENDERS[name](job)
    steps["green"] = job.place.until_green(job.target)
    client = job.place.client()
    arrived = client.count(job.target, exact=True).count
    if arrived != job.points:
        raise BenchError(f"{name} left {arrived:,} of {job.points:,} points.")
    indexed = client.get_collection(job.target).indexed_vectors_count
    return {"points": arrived, "steps": steps, "total_s": sum(steps.values()), "indexed_vectors": indexed}


if __name__ == "__main__":
    child.serve(_work)
