"""
How much memory a coordinator takes to move a collection: `python bench/memory.py 50000 500000`.

For each size: a server, that many points of 16 dimensions, and one `qferry run` as a process of its own, whose peak
resident memory the operating system reports.  Prints one JSON object per size.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from qdrant_client import QdrantClient, models

from qferry.server import QdrantServer

DIMENSIONS = 16
SOURCE, TARGET = "project_bench_code", "project-bench"


def points(count: int) -> Iterator[models.PointStruct]:
    """Small points: a short vector and two payload fields."""
    rnd = random.Random(count)
    for i in range(count):
        yield models.PointStruct(
            id=i, vector=[rnd.random() for _ in range(DIMENSIONS)], payload={"n": i, "group": f"g{i % 50}"}
        )


def measure(count: int) -> dict[str, float]:
    """Move `count` points and return what that took."""
    with QdrantServer.start() as server:
        client = QdrantClient(url=server.url, check_compatibility=False, timeout=60)
        config = models.VectorParams(size=DIMENSIONS, distance=models.Distance.COSINE)
        client.create_collection(SOURCE, vectors_config=config)
        client.upload_points(SOURCE, points(count), batch_size=1000, wait=True)
        client.close()
        command = [sys.executable, "-m", "qferry", "run", SOURCE, TARGET, "--url", server.url, "--json"]
        command += ["--grpc-port", str(server.grpc_port)]
        began = time.monotonic()
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
            _, status, usage = os.wait4(process.pid, 0)  # of this very child, not of the server as well
            process.returncode = os.waitstatus_to_exitcode(status)
            seconds = time.monotonic() - began
            if process.returncode:
                output.seek(0)
                sys.exit(output.read().decode())
    peak_bytes = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"points": count, "seconds": round(seconds, 1), "coordinator_peak_mb": round(peak_bytes / 1e6, 1)}


if __name__ == "__main__":
    for size in sys.argv[1:]:
        print(json.dumps(measure(int(size))), flush=True)
