"""Test of the benchmark of calls during a migration; the numbers are for people to look at, on a quiet machine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "bench" / "dual_write.py"


@pytest.mark.slow
def test_benchmark_of_dual_writes_runs_and_prints_json() -> None:
    """It brings a real migration to both phases, and compares each kind with the plain client's."""
    ran = subprocess.run(  # noqa: S603  this very Python
        [sys.executable, str(BENCHMARK), "--json", "--rounds", "1", "--callers", "2", "--protocols", "grpc"],
        check=True,
        capture_output=True,
        text=True,
        timeout=110,
    )
    rows = json.loads(ran.stdout)
    assert [(row["phase"], row["method"]) for row in rows] == [
        ("copied", "upsert"),
        ("copied", "retrieve"),
        ("copied", "query_points"),
        ("switched", "retrieve"),
        ("switched", "query_points"),
    ]
    assert all(kind["ratio"] > 0 for row in rows for kind in row["kinds"].values())
