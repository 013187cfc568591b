"""How long it takes to give a collection another name, by each way, and how much memory."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from bench import contenders, corpus
from bench.contenders import Job
from bench.coordinator import NotAvailable
from bench.place import Place
from bench.scale import Scale

SOURCE, TARGET = "bench_copied", "bench-copy"


def measure(place: Place, scale: Scale, ways: Sequence[str], say: Callable[[str], None]) -> dict[str, Any]:
    """
    Let contenders copy the same collection, in turns.

    Returns:
        By contender: `rounds` with every figure, and the medians of `steps`, `copy_s` and `total_s`, the largest
        `peak_mb`, and whether it has `verified` every point; or why it is not `available`.
    """
    say(f"copy: a collection of {scale.points:,} points of {scale.dim} dimensions")
    corpus.fill(place, SOURCE, scale.points, scale.dim)
    job = Job(place=place, source=SOURCE, target=TARGET, points=scale.points, dim=scale.dim)
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    missing: dict[str, str] = {}
    for number in range(scale.rounds):
        for name in ways:
            if name in missing:
                continue
            say(f"copy: {name}, round {number + 1} of {scale.rounds}")
            try:
                rounds[name].append(contenders.run(name, job))
            except NotAvailable as error:
                missing[name] = str(error)
    place.drop(SOURCE)
    return {
        name: {"available": False, "reason": missing[name]} if name in missing else summary(rounds[name])
        for name in ways
    }


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Give the medians of some rounds."""
    steps = {step: statistics.median(r["steps"][step] for r in rounds) for step in rounds[0]["steps"]}
    return {
        "available": True,
        "steps": steps,
        "points": rounds[0]["points"],
        "copy_s": steps["copy"],
        "total_s": statistics.median(r["total_s"] for r in rounds),
        "peak_mb": max(r["peak_mb"] for r in rounds),
        "verified": "verify" in steps,
        "rounds": rounds,
    }
