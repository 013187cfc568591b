"""
Processes of their own, each with a job as JSON and an answer as JSON on stdout.

A child reports its own peak memory.  What `wait4` reports of it would include the peak of the process that started
it: Linux carries `ru_maxrss` over an `exec`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


class BenchError(Exception):
    """A measurement could not be made; the message says why."""


def command(module: str, job: Mapping[str, Any]) -> list[str]:
    """Give the command line of a child."""
    return [sys.executable, "-m", f"bench.{module}", json.dumps(job)]


def environment() -> dict[str, str]:
    """Give the environment without the settings of the person's shell."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("QDRANT_", "QFERRY_", "ENABLE_"))}


def run(module: str, job: Mapping[str, Any]) -> dict[str, Any]:
    """
    Run a child to its end and return its answer.

    Raises:
        BenchError: It failed; the message carries the end of its error output.
    """
    # A session of its own: Ctrl-C reaches only the harness, which then ends the child.
    done = subprocess.run(
        command(module, job),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    if done.returncode:
        tail = "\n".join(done.stderr.splitlines()[-12:])
        raise BenchError(f"{module} {json.dumps(job)} ended with exit code {done.returncode}:\n{tail}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def serve(work: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """Be a child: do the job on the command line and answer."""
    answer = work(json.loads(sys.argv[1]))
    print(json.dumps({**answer, "peak_mb": peak_mb()}))


def peak_mb() -> float:
    """Give this process's peak resident memory in MB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return round(int(found[1]) * 1024 / 1e6, 1) if found else 0.0
