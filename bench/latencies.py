"""
What a call costs during a migration, against the same call of a plain client on the same server.

All callers (threads of one process) make a few calls of one kind, wait for each other, and go on with the next kind.
So whatever the machine does at the moment happens to all kinds, and no dual write is the load that a single write is
measured under, which would make the two look alike.
"""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from qdrant_client import QdrantClient, models

from bench import coordinator, corpus
from bench.place import Place
from bench.scale import Scale
from qferry import FerryClient

DIM = 384
POINTS = 1_000
CALLERS = (1, 4, 16)
PROTOCOLS = ("rest", "grpc")
SOURCE, TARGET, SINGLE = "bench_called", "bench-called", "bench_single"
_CALLS_PER_TURN = 5
_PREPARED = 200

Kind = Callable[[random.Random], Any]


def _measure(kinds: Mapping[str, Kind], callers: int, turns: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in kinds}
    names = list(kinds)
    barrier = threading.Barrier(callers)

    def work(number: int) -> None:
        rnd = random.Random(number)
        try:
            for turn in range(turns + 1):
                first = turn % len(names)
                for name in names[first:] + names[:first]:
                    barrier.wait()
                    mine = [_timed(kinds[name], rnd) for _ in range(_CALLS_PER_TURN)]
                    if turn:  # the first one warms up
                        times[name] += mine
        except BaseException:
            barrier.abort()
            raise

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times


def _timed(call: Kind, rnd: random.Random) -> float:
    began = time.perf_counter()
    call(rnd)
    return time.perf_counter() - began


try:
    # Seconds of every call of each kind, from `measure(kinds, callers, turns)`.
    from bench.dual_write import measure as measure_calls
except ImportError:
    measure_calls = _measure


@dataclass(frozen=True)
class _Stage:
    """A migration under way, and a plain and a qferry client for each protocol."""

    place: Place
    target: Place
    clients: Mapping[str, tuple[QdrantClient, FerryClient]]
    topology: str


def measure(
    place: Place, other: Place, scale: Scale, say: Callable[[str], None], *, writes: bool, reads: bool
) -> dict[str, list[dict[str, Any]]]:
    """
    Compare calls on one server, then with the target on another one.

    Returns:
        `writes` and `reads`: rows of topology, protocol, callers, method, and p50 and p99 in milliseconds of each
        kind: `single` and `dual` for writes, `plain` and `routed` for reads.  Reads also have `served_by`.
    """
    found: dict[str, list[dict[str, Any]]] = {"writes": [], "reads": []}
    for topology, target in (("one server", place), ("two servers", other)):
        say(f"calls: {topology}")
        with _migrating(place, target, topology) as stage:
            if writes:
                found["writes"] += _rows(stage, {"upsert": _writes}, scale.turns, say)
            if reads:
                found["reads"] += _rows(stage, _reads(SOURCE), scale.turns, say, served_by="source")
                coordinator.run(place, ["verify", SOURCE], ["switch", SOURCE, "--percent", "100"])
                found["reads"] += _rows(stage, _reads(TARGET), scale.turns, say, served_by="target")
    return found


@contextmanager
def _migrating(place: Place, target: Place, topology: str) -> Iterator[_Stage]:
    target_url = target.url if target != place else ""
    for name in (SOURCE, SINGLE):
        corpus.fill(place, name, POINTS, DIM)
    # Over gRPC a FerryClient reaches another server on the port number of its own, and no two of one machine share it.
    protocols = PROTOCOLS if target == place else ("rest",)
    clients = {
        protocol: (place.client(prefer_grpc=protocol == "grpc"), place.ferry(prefer_grpc=protocol == "grpc"))
        for protocol in protocols
    }
    try:
        for _, ferry in clients.values():
            ferry.count(SOURCE)  # from here on it takes part
        verbs = (coordinator.start(SOURCE, TARGET, strategy="stream"), coordinator.backfill(SOURCE))
        coordinator.run(place, *verbs, target_url=target_url)
        yield _Stage(place, target, clients, topology)
    finally:
        for pair in clients.values():
            for client in pair:
                client.close()
    coordinator.run(place, ["abort", SOURCE, "--yes"])
    place.drop(SOURCE, SINGLE)


_Methods = Mapping[str, Callable[[_Stage, QdrantClient, QdrantClient], dict[str, Kind]]]


def _rows(
    stage: _Stage, methods: _Methods, turns: int, say: Callable[[str], None], **more: str
) -> Iterator[dict[str, Any]]:
    for protocol, (plain, ferry) in stage.clients.items():
        for method, kinds_of in methods.items():
            say(f"calls: {stage.topology}, {protocol}, {method} {' '.join(more.values())}".rstrip())
            for callers in CALLERS:
                # Few callers make few calls in a turn.
                times = measure_calls(kinds_of(stage, plain, ferry), callers, max(turns, turns * 4 // callers))
                yield {
                    "topology": stage.topology,
                    "protocol": protocol,
                    "callers": callers,
                    "method": method,
                    **more,
                    **{kind: percentiles(found.wall) for kind, found in times.items()},
                }


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Give p50 and p99 in milliseconds, and of how many calls."""
    p99 = statistics.quantiles(seconds, n=100, method="inclusive")[98]
    return {"p50_ms": statistics.median(seconds) * 1e3, "p99_ms": p99 * 1e3, "calls": len(seconds)}


def _writes(_stage: _Stage, plain: QdrantClient, ferry: QdrantClient) -> dict[str, Kind]:
    # Made beforehand, as an embedding model's answer would be.
    vectors = corpus.vectors(POINTS, _PREPARED, DIM).tolist()
    points = [[models.PointStruct(id=n * 5, vector=v, payload=corpus.payload(n))] for n, v in enumerate(vectors)]
    return {
        "single": lambda rnd: plain.upsert(SINGLE, rnd.choice(points), wait=True),
        "dual": lambda rnd: ferry.upsert(SOURCE, rnd.choice(points), wait=True),
    }


def _reads(served: str) -> _Methods:
    """Both clients read the very same collection; an application goes on to call it by the source's name."""
    queries = corpus.vectors(POINTS + 1, _PREPARED, DIM).tolist()

    def directly(stage: _Stage, plain: QdrantClient) -> QdrantClient:
        # Reads of a target on another server go there directly.
        elsewhere = served == TARGET and stage.target != stage.place
        return stage.target.client() if elsewhere else plain

    def retrieve(stage: _Stage, plain: QdrantClient, ferry: QdrantClient) -> dict[str, Kind]:
        direct = directly(stage, plain)
        return {
            "plain": lambda rnd: direct.retrieve(served, [rnd.randrange(POINTS)], with_vectors=True),
            "routed": lambda rnd: ferry.retrieve(SOURCE, [rnd.randrange(POINTS)], with_vectors=True),
        }

    def query_points(stage: _Stage, plain: QdrantClient, ferry: QdrantClient) -> dict[str, Kind]:
        direct = directly(stage, plain)
        return {
            "plain": lambda rnd: direct.query_points(served, rnd.choice(queries), limit=10),
            "routed": lambda rnd: ferry.query_points(SOURCE, rnd.choice(queries), limit=10),
        }

    return {"retrieve": retrieve, "query_points": query_points}
