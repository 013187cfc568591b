"""
What shadow reads cost the callers: one client, blocks of searches with and without them, in turn, in one process.

Both collections hold the same points on one server; the migration is switched with no reads on the target.  A block
without shadow reads begins when those of the block before are through.  Prints JSON, in milliseconds: the median over
the blocks of each block's p50, p95 and p99, and of the p50 of the callers' own computing, which a machine that is busy
otherwise disturbs less; and what blocks take for 1 of those without.  Every round has a second block without: how far
that one is from 1 is what the machine's noise alone makes of a ratio.

    python -m bench.shadow [--shadow 5] [--callers 1] [--rounds 40] [--calls 200]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from qdrant_client import QdrantClient, models

from qferry import FerryClient, commands
from qferry.connection import Connection
from qferry.protocol.records import Strategy
from qferry.server import QdrantServer

SOURCE, TARGET = "old", "new"
_BATCH = 1000
_SETTLES_S = 0.02


def prepare_source(url: str, points: int, dim: int) -> None:
    """Fill a collection."""
    chance = random.Random(1)
    with_points = QdrantClient(url=url, check_compatibility=False, timeout=600)
    with_points.create_collection(SOURCE, vectors_config=models.VectorParams(size=dim, distance=models.Distance.COSINE))
    for start in range(0, points, _BATCH):
        ids = range(start, min(start + _BATCH, points))
        vectors = [[chance.gauss(0, 1) for _ in range(dim)] for _ in ids]
        rows = [
            models.PointStruct(id=i, vector=v, payload={"n": i, "text": f"point {i}"})
            for i, v in zip(ids, vectors, strict=True)
        ]
        with_points.upsert(SOURCE, rows, wait=True)
    with_points.close()


def prepare(connection: Connection) -> None:
    """Bring its migration to the switch, with all reads on the source."""
    commands.start(connection, SOURCE, TARGET, strategy=Strategy.STREAM)
    commands.backfill(connection)
    commands.verify(connection)
    commands.switch(connection, percent=0, shadow_percent=0)


class Block:
    """Searches with one client, from some threads at once."""

    def __init__(self, client: FerryClient, dim: int, callers: int, calls: int) -> None:
        self._client = client
        self._calls = calls
        self._callers = callers
        self._pool = ThreadPoolExecutor(callers)
        chance = random.Random(2)
        self._queries = [[chance.gauss(0, 1) for _ in range(dim)] for _ in range(64)]

    def run(self) -> list[tuple[float, float]]:
        """Return what each call has taken, and what of that its thread has computed, in milliseconds."""
        shares = [self._pool.submit(self._some, number) for number in range(self._callers)]
        return [ms for share in shares for ms in share.result()]

    def _some(self, number: int) -> list[tuple[float, float]]:
        taken = []
        for n in range(self._calls // self._callers):
            query = self._queries[(n + number) % len(self._queries)]
            began, computed = time.perf_counter(), time.thread_time()
            self._client.query_points(SOURCE, query=query, limit=10)
            taken.append(((time.perf_counter() - began) * 1000, (time.thread_time() - computed) * 1000))
        return taken


def set_shadow(client: FerryClient, percent: float) -> None:
    """Let the client act as if the record said so; it adopts nothing else while the epoch stays."""
    session: Any = client._session  # noqa: SLF001  a command would take a second for each block
    view = session.view
    for name, route in view.routes.items():
        view.routes[name] = replace(route, shadow_percent=percent)


def compared(client: FerryClient) -> dict[str, float]:
    """Return what the shadow reads have found."""
    found = client._session.shadows  # noqa: SLF001
    return next(iter(found.values())).plain() if found else {}


def settle(client: FerryClient) -> None:
    """Wait until no shadow read is under way."""
    before = None
    while before != (before := compared(client)) or client._shadows._waiting:  # noqa: SLF001
        time.sleep(_SETTLES_S)


def quantiles(block: list[tuple[float, float]]) -> dict[str, float]:
    """Return p50, p95 and p99, and the p50 of what the callers' threads have computed."""
    found = statistics.quantiles([ms for ms, _ in block], n=100)
    cpu = statistics.median(ms for _, ms in block)
    return {"p50": found[49], "p95": found[94], "p99": found[98], "cpu_p50": cpu}


def ratios(one: list[dict[str, float]], other: list[dict[str, float]]) -> dict[str, float]:
    """Return what `other` takes for 1 of `one`: by the medians of all blocks, and in the median of the rounds."""
    found = {}
    for name in ("p50", "cpu_p50"):
        mine, theirs = ([block[name] for block in blocks] for blocks in (one, other))
        found[name] = round(statistics.median(theirs) / statistics.median(mine), 4)
        found[f"{name}_by_round"] = round(statistics.median(b / a for a, b in zip(mine, theirs, strict=True)), 4)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shadow", type=float, default=5.0, help="per cent of the searches (default: %(default)s)")
    parser.add_argument("--callers", type=int, default=1, help="at the same time (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=40, help="of three blocks (default: %(default)s)")
    parser.add_argument("--calls", type=int, default=200, help="searches of a block (default: %(default)s)")
    parser.add_argument("--points", type=int, default=20_000, help="(default: %(default)s)")
    parser.add_argument("--dim", type=int, default=256, help="(default: %(default)s)")
    options = parser.parse_args()
    load = [os.getloadavg()[0]]
    with QdrantServer.start() as server:
        connection = Connection(url=server.url, grpc_port=server.grpc_port)
        prepare_source(server.url, options.points, options.dim)
        prepare(connection)
        client = FerryClient(url=server.url, check_compatibility=False)
        block = Block(client, options.dim, options.callers, options.calls)
        block.run()
        kinds = {"without": 0.0, "without_again": 0.0, "with": options.shadow}
        blocks: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
        orders = list(itertools.permutations(kinds))  # none is always the first
        for number in range(options.rounds):
            for kind in orders[number % len(orders)]:
                set_shadow(client, kinds[kind])
                blocks[kind].append(quantiles(block.run()))
                settle(client)
        found = compared(client)
        client.close()
    load.append(os.getloadavg()[0])
    medians = {
        f"{kind}_ms": {name: round(statistics.median(one[name] for one in found_of), 3) for name in found_of[0]}
        for kind, found_of in blocks.items()
    }
    result = {
        **vars(options),
        "cpus": os.cpu_count(),
        "load_before_and_after": [round(value, 2) for value in load],
        **medians,
        "ratios": {kind: ratios(blocks["without"], blocks[kind]) for kind in ("without_again", "with")},
        "shadow_reads": found,
    }
    json.dump(result, sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
