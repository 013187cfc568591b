"""Test of the benchmark of what qferry adds to a call; the numbers are for people to look at, on a quiet machine."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCHMARK = Path(__file__).parents[2] / "bench" / "overhead.py"


def test_benchmark_of_the_overhead_runs_and_prints_json(qdrant: Any) -> None:
    """It measures both clients and says by how much they differ."""
    ran = subprocess.run(  # noqa: S603  this very Python
        [sys.executable, str(BENCHMARK), "--url", qdrant.url, "--calls", "5"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    result = json.loads(ran.stdout)
    assert result["calls"] == 5
    assert result["plain_us"] > 0
    assert result["ferry_us"] > 0
    assert isinstance(result["overhead_us"], float)
