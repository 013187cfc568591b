"""
What a call costs during a migration, against the same call of a plain client on the same server.

    python bench/dual_write.py [--json] [--rounds 40] [--callers 1 4 16] [--protocols grpc rest]

A server is started and a real migration brought to `copied`, where writes go to both sides, and later to `switched`,
where all reads go to the target.  Each write upserts one point of 384 dimensions with a small payload and waits.
Compared are

    plain    one `upsert` of a `QdrantClient`
    dual     the same `upsert` of a `FerryClient` during the migration
    in turn  two `upsert`s of a `QdrantClient`, one after the other: what an application would do by itself

and, for reads, `retrieve` of one point with its vector and `query_points` for the ten nearest.

The kinds alternate in one process: all callers (threads) make a few calls of one kind, wait for each other, and go on
with the next kind, so that whatever the machine does at the moment happens to all of them, and no caller's dual
writes are the load that another one's plain writes are measured under.  A ratio compares the median of all calls of a
kind with the plain client's.  Clients have no compatibility check and otherwise their default options, so over REST
each request to this machine opens a connection of its own (upstream's default for loopback); `--keep-alive` keeps
them open, as upstream does for any other host.  Beside the latency stands the CPU time that this process took per
call, heartbeats included: where client and server share few cores, latency tells what else the machine had to do.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ApiException

from qferry import FerryClient, commands
from qferry.connection import Connection
from qferry.protocol.records import Strategy
from qferry.server import QdrantServer

DIMENSIONS = 384
POINTS = 2000
CALLS_PER_TURN = 5
SOURCE, TARGET = "bench_source", "bench-target"
# What a server does with a write depends on what it was given before, so that no two kinds share a collection.
PLAIN, FIRST, SECOND = "bench_plain", "bench_first", "bench_second"

Kind = Callable[[random.Random], Any]


def vector(rnd: random.Random) -> list[float]:
    """Return a vector."""
    return [rnd.uniform(-1, 1) for _ in range(DIMENSIONS)]


def prepared(rnd: random.Random) -> list[list[models.PointStruct]]:
    """Return points to write; made beforehand, as an embedding model's answer would be."""
    return [
        [models.PointStruct(id=rnd.randrange(POINTS), vector=vector(rnd), payload={"n": i, "text": "some words"})]
        for i in range(200)
    ]


@dataclass
class Times:
    """What the calls of one kind took, in seconds."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)  # of this process, per call; the mean of each turn
    failed: int = 0  # calls that ended in an error; not in `wall`


def measure(kinds: Mapping[str, Kind], callers: int, rounds: int) -> dict[str, Times]:
    """Return the times of all calls of each kind; one round is a turn of every kind."""
    times = {name: Times() for name in kinds}
    barrier = threading.Barrier(callers)

    def work(number: int) -> None:
        rnd = random.Random(number)
        for count in range(rounds + 1):
            # Each round begins with another kind: what follows a costly kind may find a warmer or a busier server.
            order = list(kinds)[count % len(kinds) :] + list(kinds)[: count % len(kinds)]
            for name in order:
                barrier.wait()
                began_cpu = time.process_time()
                mine = [timed(kinds[name], rnd) for _ in range(CALLS_PER_TURN)]
                barrier.wait()
                if count:  # the first round warms up
                    times[name].wall += [seconds for seconds in mine if seconds is not None]
                    times[name].failed += mine.count(None)
                    if number == 0:
                        times[name].cpu.append((time.process_time() - began_cpu) / callers / CALLS_PER_TURN)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times


def timed(call: Kind, rnd: random.Random) -> float | None:
    """
    Return how long a call takes, in seconds; None if it fails.

    A plain client with upstream's defaults for loopback may fail by itself when many threads share it: one of them
    closes the idle connection that another one has just been given.
    """
    began = time.perf_counter()
    try:
        call(rnd)
    except (ApiException, grpc.RpcError) as error:
        print(f"a call has failed: {error!r}", file=sys.stderr)
        return None
    return time.perf_counter() - began


def summary(times: Mapping[str, Times], baseline: str) -> dict[str, dict[str, float]]:
    """Return p50 and p99 of each kind, its p50 as a multiple of the baseline's, and the same for this process's CPU."""
    wall, cpu = (statistics.median(found) for found in (times[baseline].wall, times[baseline].cpu))
    return {
        name: {
            "p50_ms": round(statistics.median(found.wall) * 1e3, 3),
            "p99_ms": round(statistics.quantiles(found.wall, n=100)[98] * 1e3, 3),
            "ratio": round(statistics.median(found.wall) / wall, 3),
            "cpu_ms": round(statistics.median(found.cpu) * 1e3, 3),
            "cpu_ratio": round(statistics.median(found.cpu) / cpu, 3),
            "failed": found.failed,
        }
        for name, found in times.items()
    }


def writes(plain: QdrantClient, ferry: QdrantClient, points: list[list[models.PointStruct]]) -> dict[str, Kind]:
    """Return the kinds of writes."""

    def in_turn(rnd: random.Random) -> None:
        point = rnd.choice(points)
        plain.upsert(FIRST, point)
        plain.upsert(SECOND, point)

    return {
        "plain": lambda rnd: plain.upsert(PLAIN, rnd.choice(points)),
        "dual": lambda rnd: ferry.upsert(SOURCE, rnd.choice(points)),
        "in turn": in_turn,
    }


def reads(
    plain: QdrantClient, ferry: QdrantClient, place: str, vectors: list[list[float]]
) -> dict[str, dict[str, Kind]]:
    """Return the kinds of reads, by method; both clients read the very same collection."""
    return {
        "retrieve": {
            "plain": lambda rnd: plain.retrieve(place, [rnd.randrange(POINTS)], with_vectors=True),
            "routed": lambda rnd: ferry.retrieve(SOURCE, [rnd.randrange(POINTS)], with_vectors=True),
        },
        "query_points": {
            "plain": lambda rnd: plain.query_points(place, rnd.choice(vectors), limit=10),
            "routed": lambda rnd: ferry.query_points(SOURCE, rnd.choice(vectors), limit=10),
        },
    }


def bench(server: QdrantServer, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure everything; yield one row per protocol, phase, method and number of callers."""
    rnd = random.Random(7)
    points, vectors = prepared(rnd), [vector(rnd) for _ in range(100)]
    connection = Connection(url=server.url)
    with_options: dict[str, Any] = {"check_compatibility": False, "url": server.url, "grpc_port": server.grpc_port}
    if options.keep_alive:
        with_options["limits"] = httpx.Limits()
    setup = QdrantClient(**with_options)
    for name in (SOURCE, PLAIN, FIRST, SECOND):
        setup.create_collection(name, models.VectorParams(size=DIMENSIONS, distance=models.Distance.COSINE))
        setup.upload_points(name, (models.PointStruct(id=i, vector=vector(rnd)) for i in range(POINTS)), wait=True)
    clients = {
        protocol: tuple(kind(**with_options, prefer_grpc=protocol == "grpc") for kind in (QdrantClient, FerryClient))
        for protocol in options.protocols
    }
    for _, ferry in clients.values():
        ferry.count(SOURCE)
    commands.start(connection, SOURCE, TARGET, strategy=Strategy.STREAM)
    commands.backfill(connection, SOURCE)
    for phase, place in (("copied", SOURCE), ("switched", TARGET)):
        if phase == "switched":
            commands.verify(connection, SOURCE)
            commands.switch(connection, SOURCE, percent=100)
        for protocol, (plain, ferry) in clients.items():
            compared = {"upsert": writes(plain, ferry, points)} if phase == "copied" else {}
            if not options.only_writes:
                compared |= reads(plain, ferry, place, vectors)
            for method, kinds in compared.items():
                for callers in options.callers:
                    rounds = max(options.rounds, options.rounds * 4 // callers)
                    found = summary(measure(kinds, callers, rounds), "plain")
                    yield {"protocol": protocol, "phase": phase, "method": method, "callers": callers, "kinds": found}
    for pair in clients.values():
        for client in pair:
            client.close()
    setup.close()


def line(row: Mapping[str, Any]) -> str:
    """Return a row of the table."""
    told = [
        f"{name} {found['p50_ms']:.2f} / {found['p99_ms']:.2f}, {found['cpu_ms']:.2f} ms"
        f" ({found['ratio']:.2f}x, {found['cpu_ratio']:.2f}x)"
        for name, found in row["kinds"].items()
    ]
    return f"{row['protocol']:4}  {row['phase']:8}  {row['method']:12}  {row['callers']:2}  " + "   ".join(told)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON list instead of a table")
    parser.add_argument("--rounds", type=int, default=40, help="turns of each kind (default: %(default)s)")
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 4, 16], help="threads (default: 1 4 16)")
    parser.add_argument("--protocols", nargs="+", choices=["grpc", "rest"], default=["grpc", "rest"])
    parser.add_argument("--keep-alive", action="store_true", help="keep REST connections open")
    parser.add_argument("--only-writes", action="store_true", help="leave the reads out")
    options = parser.parse_args()
    rows = []
    with QdrantServer.start() as server:
        if not options.json:
            print(
                "protocol  phase  method  callers  kind p50 / p99, CPU of this process per call (p50, CPU as multiples)"
            )
        for row in bench(server, options):
            rows.append(row)
            if not options.json:
                print(line(row), flush=True)
    if options.json:
        json.dump(rows, sys.stdout, indent=2)
        sys.stdout.write("\n")


if __name__ == "__main__":
    main()
