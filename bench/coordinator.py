"""
The `qferry` command, timed: a process that runs one verb after the other and says how long each took.

It is the real command line down to its JSON, in one process and without the second that starting Python takes.
Which options this version has is decided here and nowhere else, so that a missing one is reported, not a crash.
"""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import typer.main

from bench import child
from bench.child import BenchError
from bench.place import Place
from qferry import cli
from qferry.cli.app import app
from qferry.connection import Connection
from qferry.flows.lifecycle import ensure_control_collection

# What a child is told to do: the words after `qferry`.
Verb = Sequence[str]


class NotAvailable(BenchError):
    """An option that this version of qferry does not have."""


@cache
def _options(verb: str) -> frozenset[str]:
    parameters = typer.main.get_command(app).commands[verb].params  # type: ignore[attr-defined]  # it is a group
    return frozenset(option for parameter in parameters for option in parameter.opts)


def start(source: str, target: str, *, strategy: str) -> list[str]:
    """
    Give the `start` of a migration by `snapshot` or `stream`.

    Raises:
        NotAvailable: There is no choice yet, and streaming is what there is.
    """
    if "--strategy" in _options("start"):
        return ["start", source, target, "--strategy", strategy]
    if strategy == "stream":
        return ["start", source, target]
    raise NotAvailable("not available: `qferry start` has no --strategy")


def backfill(source: str, *, max_points_per_s: int | None = None) -> list[str]:
    """
    Give the `backfill`, throttled or not.

    Raises:
        NotAvailable: There is no throttle yet.
    """
    if max_points_per_s is None:
        return ["backfill", source]
    if "--max-points-per-s" not in _options("backfill"):
        raise NotAvailable("not available: `qferry backfill` has no --max-points-per-s")
    return ["backfill", source, "--max-points-per-s", str(max_points_per_s)]


def run(place: Place, *verbs: Verb, target_url: str = "") -> dict[str, Any]:
    """
    Carry verbs out in a process of their own.

    Returns:
        `{"steps": [{"verb": ..., "began": ..., "seconds": ..., "answer": ...}], "peak_mb": ...}`; `began` is on the
        machine's monotonic clock.
    """
    job = {"place": vars(place), "verbs": [list(verb) for verb in verbs], "target_url": target_url}
    return child.run("coordinator", job)


def warm_up(place: Place) -> None:
    """
    Do what the first `start` on a server does before anything else.

    It creates the control collection and gives every client six seconds to notice; no later `start` waits for that.
    """
    with Connection(url=place.url).driver() as driver:
        driver.run(ensure_control_collection())


def carry_out(place: Place, verbs: Sequence[Verb], target_url: str = "") -> list[dict[str, Any]]:
    """
    Carry verbs out in this process.

    Raises:
        BenchError: One failed; the message is the command's own.
    """
    steps = []
    for verb in verbs:
        words = [*verb, "--url", place.url, "--grpc-port", str(place.grpc_port), "--json"]
        words += ["--target-url", target_url] if target_url and verb[0] == "start" else []
        said = io.StringIO()
        began = time.monotonic()
        with contextlib.redirect_stdout(said):
            code = cli.main(words)
        seconds = time.monotonic() - began
        if code:
            raise BenchError(f"`qferry {' '.join(words)}` ended with exit code {code}: {said.getvalue().strip()}")
        steps.append({"verb": verb[0], "began": began, "seconds": seconds, "answer": json.loads(said.getvalue())})
    return steps


def _work(job: dict[str, Any]) -> dict[str, Any]:
    return {"steps": carry_out(Place(**job["place"]), job["verbs"], job["target_url"])}


if __name__ == "__main__":
    child.serve(_work)
