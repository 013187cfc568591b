"""
What a FerryClient adds to a call while nobody migrates.

Plain and qferry calls of the same method alternate in one process, against the same server, so that whatever the
machine does at the moment happens to both.  Prints JSON, in microseconds: each client's median, and the median of the
differences between the two calls of a pair.

    python bench/overhead.py [--url http://localhost:6333] [--calls 2000]

Without `--url` a server is started for the purpose.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
from qdrant_client import QdrantClient

from qferry import FerryClient
from qferry.server import QdrantServer

WARM_UP_CALLS = 100


@contextlib.contextmanager
def server_url(given: str | None) -> Iterator[str]:
    """Give the server's URL, of one started here if none is given."""
    if given:
        yield given
        return
    with QdrantServer.start() as server:
        yield server.url


def measure(plain: Callable[[], Any], ferry: Callable[[], Any], rounds: int) -> list[tuple[float, float]]:
    """Return the times of a plain and a qferry call made one after the other, in microseconds, for each round."""
    pairs: list[tuple[float, float]] = []
    for number in range(WARM_UP_CALLS + rounds):
        # Neither is always the first of its pair: the second one may find a warmer cache.
        if number % 2:
            ferry_us = timed_us(ferry)
            plain_us = timed_us(plain)
        else:
            plain_us = timed_us(plain)
            ferry_us = timed_us(ferry)
        pairs.append((plain_us, ferry_us))
    return pairs[WARM_UP_CALLS:]


def timed_us(call: Callable[[], Any]) -> float:
    """Return how long a call takes, in microseconds."""
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a server on which nobody migrates; by default one is started")
    parser.add_argument("--calls", type=int, default=2000, help="calls of each client (default: %(default)s)")
    options = parser.parse_args()
    with server_url(options.url) as url:
        arguments: dict[str, Any] = {
            "url": url,
            "api_key": os.environ.get("QDRANT_API_KEY"),
            "check_compatibility": False,
            # Connections are kept open, as they are to any server but one on loopback.
            "limits": httpx.Limits(),
        }
        plain, ferry = QdrantClient(**arguments), FerryClient(**arguments)
        pairs = measure(lambda: plain.collection_exists("c"), lambda: ferry.collection_exists("c"), options.calls)
        plain.close()
        ferry.close()
    result = {
        "method": "collection_exists",
        "calls": options.calls,
        "plain_us": round(statistics.median(plain_us for plain_us, _ in pairs), 1),
        "ferry_us": round(statistics.median(ferry_us for _, ferry_us in pairs), 1),
        "overhead_us": round(statistics.median(ferry_us - plain_us for plain_us, ferry_us in pairs), 1),
    }
    json.dump(result, sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
