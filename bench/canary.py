"""
How soon readers are back on the source when the target is made slow, silent or failing.

The target is on a second server, behind a link that can be disturbed (tests/chaos/proxy.py).  One client reads, from
four threads, with a share of its reads on the target; another one only listens.  Heartbeats are the default, one a
second.  Prints JSON: for each way of being unwell, seconds from the disturbance until the reader's own reads, and until
those of the other client, are back; how many reads have failed; and the slowest of them.

    python -m bench.canary [--rounds 3] [--percent 10] [--max-read-ms 250]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from tests.chaos.proxy import Proxy

from qferry import FerryClient, commands
from qferry.connection import Connection
from qferry.protocol.records import Strategy
from qferry.server import QdrantServer

from .shadow import SOURCE, TARGET, prepare_source

HOST = "127.0.0.1"
POINTS, DIM = 2000, 32
_PACE_S = 0.01
_PATIENCE_S = 60.0


class Reader:
    """Reads all the time, and notes what it takes."""

    def __init__(self, client: FerryClient, threads: int = 4) -> None:
        self.errors = 0
        self.slowest_s = 0.0
        self._client = client
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._read, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        while not self._stop.wait(_PACE_S):
            began = time.monotonic()
            try:
                self._client.query_points(SOURCE, query=[1.0] * DIM, limit=5)
            except Exception:  # noqa: BLE001  counted
                self.errors += 1
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)

    def stop(self) -> None:
        """Stop, and wait for what is under way."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


def share(client: FerryClient) -> int:
    """Return the share of its reads that a client sends to the target."""
    route = client._session.route(SOURCE)  # noqa: SLF001
    return route.read_percent if route is not None else 0


def until(holds: Callable[[], bool]) -> float:
    """Wait, and return when it held."""
    end = time.monotonic() + _PATIENCE_S
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError("readers have not stepped back")
        time.sleep(0.005)
    return time.monotonic()


def disturbances(proxy: Proxy, server: QdrantServer) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Return how to make the target unwell, and well again."""

    def well() -> None:
        proxy.set("target")

    return {
        "slow": (lambda: proxy.set("target", delay_s=0.4), well),
        "link silent": (lambda: proxy.set("target", hold=True), well),
        "connections refused": (lambda: proxy.set("target", refuse=True), well),
        "server paused": (server.pause, server.resume),
        "server killed": (server.kill, server.restart),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of each kind (default: %(default)s)")
    parser.add_argument("--percent", type=int, default=10, help="of the reads on the target (default: %(default)s)")
    parser.add_argument("--max-read-ms", type=float, default=250.0, help="(default: %(default)s)")
    options = parser.parse_args()
    load = [os.getloadavg()[0]]
    found: dict[str, list[dict[str, float]]] = {}
    with (
        QdrantServer.start() as home,
        QdrantServer.start() as away,
        contextlib.closing(Proxy()) as proxy,
    ):
        port = proxy.open("target", HOST, 0, away.http_port)
        connection = Connection(
            url=home.url, grpc_port=home.grpc_port, target_url=f"http://{HOST}:{port}", target_grpc_port=0
        )
        prepare_source(home.url, POINTS, DIM)
        commands.start(connection, SOURCE, TARGET, strategy=Strategy.STREAM)
        commands.backfill(connection)
        commands.verify(connection)
        reading, listening = (FerryClient(url=home.url, check_compatibility=False) for _ in range(2))
        for kind, (disturb, mend) in disturbances(proxy, away).items():
            for _ in range(options.rounds):
                commands.switch(connection, percent=options.percent, max_read_ms=options.max_read_ms)
                listening.count(SOURCE)
                reader = Reader(reading)
                until(lambda: share(reading) == share(listening) == options.percent)
                time.sleep(2)  # some good reads are in the window, as they would be
                began = time.monotonic()
                disturb()
                own = until(lambda: share(reading) == 0) - began
                others = until(lambda: share(listening) == 0) - began
                reader.stop()
                mend()
                told = {"own_s": own, "others_s": others, "failed_reads": reader.errors, "slowest_s": reader.slowest_s}
                found.setdefault(kind, []).append({name: round(value, 2) for name, value in told.items()})
        for client in (reading, listening):
            client.close()
    load.append(os.getloadavg()[0])
    worst = {kind: {name: max(one[name] for one in rounds) for name in rounds[0]} for kind, rounds in found.items()}
    about = {**vars(options), "cpus": os.cpu_count(), "load_before_and_after": [round(value, 2) for value in load]}
    json.dump({**about, "worst": worst, "rounds_of_each": found}, sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
