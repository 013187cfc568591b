"""Whether the time grows with the points, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import groupby
from typing import Any

import numpy as np

from bench import contenders, corpus
from bench.contenders import QFERRY, Job
from bench.coordinator import NotAvailable
from bench.place import Place
from bench.scale import Scale

SOURCE, TARGET = "bench_growing", "bench-grown"
_LINE_SIZES_MIN, _FIT_SIZES_MIN = 2, 3


def measure(place: Place, scale: Scale, say: Callable[[str], None]) -> dict[str, Any]:
    """
    Migrate collections of growing size by each of qferry's strategies.

    Their vectors are not indexed: building an index is the server's work, takes far longer than what is measured here,
    and would go on beside it.

    Returns:
        `rows`, one for each size and strategy; and `fits`, a line through the sizes of each strategy and dimension.
    """
    rows: list[dict[str, Any]] = []
    for points, dim in scale.growth:
        say(f"growth: a collection of {points:,} points of {dim} dimensions")
        corpus.fill(place, SOURCE, points, dim, indexed=False)
        for name in QFERRY:
            say(f"growth: {name}, {points:,} points")
            job = Job(place=place, source=SOURCE, target=TARGET, points=points, dim=dim)
            try:
                done = {"available": True, **contenders.run(name, job)}
            except NotAvailable as error:
                done = {"available": False, "reason": str(error)}
            rows.append(_row(name, points, dim, done))
            if done["available"]:
                say(f"growth: took {rows[-1]['work_s']:.2f} s, {rows[-1]['peak_mb']:.0f} MB")
        place.drop(SOURCE)
    return {"rows": rows, "fits": fits([row for row in rows if row["available"]])}


def _row(name: str, points: int, dim: int, done: Mapping[str, Any]) -> dict[str, Any]:
    row = {"contender": name, "points": points, "dim": dim, "available": done["available"]}
    if not done["available"]:
        return {**row, "reason": done["reason"]}
    work_s = sum(seconds for step, seconds in done["steps"].items() if step != "green")
    return {**row, "steps": done["steps"], "work_s": work_s, "peak_mb": done["peak_mb"]}


def fits(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    Fit `seconds = fixed_s + s_per_million * points / 1e6` to qferry's own work, for each strategy and dimension.

    `largest_us` and `before_us` are what a point costs in the two largest collections, in microseconds.
    """
    found = []
    order = sorted(rows, key=lambda row: (row["contender"], row["dim"], row["points"]))
    for (name, dim), group in groupby(order, key=lambda row: (row["contender"], row["dim"])):
        own = list(group)
        if len(own) < _LINE_SIZES_MIN:
            continue
        points = np.array([row["points"] for row in own], dtype=float)
        seconds = np.array([row["work_s"] for row in own])
        slope, fixed = np.polyfit(points, seconds, 1)
        residual = seconds - (slope * points + fixed)
        # Any two points are on a line.
        fitted = len(own) >= _FIT_SIZES_MIN
        r_squared = 1 - float(residual @ residual) / float(((seconds - seconds.mean()) ** 2).sum()) if fitted else None
        per_point_us = seconds / points * 1e6
        found.append(
            {
                "contender": name,
                "dim": dim,
                "fixed_s": float(fixed),
                "s_per_million": float(slope * 1e6),
                "r_squared": r_squared,
                "points": [row["points"] for row in own],
                "largest_us": float(per_point_us[-1]),
                "before_us": float(per_point_us[-2]),
            }
        )
    return found
