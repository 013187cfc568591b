"""
An application of the load part: reads and writes at a fixed rate through a FerryClient, in a process of its own.

Calls are due at fixed times, whether or not earlier ones have been answered, and a call's latency counts from when it
was due.  So a server that stalls for a second shows in a hundred calls, not in one.  It runs until its input is closed
and then answers with every call: `[due, latency_s, "read" or "write", ok]`, `due` on the machine's monotonic clock.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from qdrant_client import models

from bench import child, corpus
from bench.place import Place
from qferry import FerryClient

_WORKERS = 16
_PREPARED = 500
_READ_SHARE = 0.8
_SEARCH_SHARE = 0.75  # of the reads
_UPSERT_SHARE = 0.75  # of the writes

# Due, latency in seconds, kind, and whether it succeeded.
Call = tuple[float, float, str, bool]


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What an application does."""

    place: Place
    collection: str
    points: int
    dim: int
    calls_per_s: float


@contextlib.contextmanager
def running(traffic: Traffic) -> Iterator[Callable[[], list[Call]]]:
    """Run an application; what is given stops it and returns its calls."""
    process = subprocess.Popen(
        child.command("application", asdict(traffic)),
        cwd=child.ROOT,
        env=child.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )

    def stop() -> list[Call]:
        said, _ = process.communicate()
        if process.returncode:
            raise child.BenchError(f"The application ended with exit code {process.returncode}.")
        return [tuple(call) for call in json.loads(said)["calls"]]

    try:
        if process.stdout is None or not process.stdout.readline():
            raise child.BenchError("The application did not start.")
        yield stop
    finally:
        process.kill()
        process.wait()


def _work(job: dict[str, Any]) -> dict[str, Any]:
    traffic = Traffic(**{**job, "place": Place(**job["place"])})
    client = traffic.place.ferry()
    vectors = corpus.vectors(traffic.points, _PREPARED, traffic.dim).tolist()
    calls: list[Call] = []
    numbers, stopping = itertools.count(), threading.Event()
    client.count(traffic.collection)
    began = time.monotonic()

    def worker(seed: int) -> None:
        rnd = random.Random(seed)
        while True:
            due = began + next(numbers) / traffic.calls_per_s
            if stopping.wait(max(0.0, due - time.monotonic())):
                return
            kind, call = _next_call(client, traffic, vectors, rnd)
            ok = True
            try:
                call()
            except Exception as error:  # noqa: BLE001  whatever a client raises is a failed call
                ok = False
                print(f"{kind} failed: {error!r}", file=sys.stderr)
            calls.append((due, time.monotonic() - due, kind, ok))

    threads = [threading.Thread(target=worker, args=(seed,), daemon=True) for seed in range(_WORKERS)]
    for thread in threads:
        thread.start()
    print("ready", flush=True)
    sys.stdin.read()
    stopping.set()
    for thread in threads:
        thread.join()
    client.close()
    return {"calls": sorted(calls)}


def _next_call(
    client: FerryClient, traffic: Traffic, vectors: list[list[float]], rnd: random.Random
) -> tuple[str, Callable[[], Any]]:
    point, vector, name = rnd.randrange(traffic.points), rnd.choice(vectors), traffic.collection
    if rnd.random() < _READ_SHARE:
        if rnd.random() < _SEARCH_SHARE:
            return "read", lambda: client.query_points(name, vector, limit=10)
        return "read", lambda: client.retrieve(name, [point], with_vectors=True)
    if rnd.random() < _UPSERT_SHARE:
        points = [models.PointStruct(id=point, vector=vector, payload=corpus.payload(point))]
        return "write", lambda: client.upsert(name, points)
    return "write", lambda: client.set_payload(name, {"line": point + 1}, [point])


if __name__ == "__main__":
    child.serve(_work)
