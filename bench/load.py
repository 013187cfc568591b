"""What the application notices of a migration: its latency before, during dual writes, and during each kind of copy."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from bench import application, coordinator, corpus
from bench.application import Call, Traffic
from bench.coordinator import NotAvailable
from bench.latencies import percentiles
from bench.place import Place
from bench.scale import Scale

SOURCE, TARGET = "bench_loaded", "bench-loaded"
CALLS_PER_S = 100.0
# A throttled copy takes this many windows.
_THROTTLED_WINDOWS = 2
_SETTLE_S = 1.0

STREAM, SNAPSHOT = "unthrottled stream", "unthrottled snapshot"
THROTTLED, THROTTLED_BULK = "throttled stream", "throttled bulk"


def measure(place: Place, scale: Scale, say: Callable[[str], None]) -> dict[str, Any]:
    """
    Keep an application busy and migrate under it, four times.

    Returns:
        `windows` by name, each with its `seconds` and with p50 and p99 of `all` calls, of `read`s and of `write`s, and
        the number of `failed` calls; or why it is not `available`.  `before`: nobody migrates; `dual writes`: writes
        reach both sides and nobody copies; then each `backfill` by itself, and the `indexing` of the target after it.
        `peak_mb` is the largest coordinator's.
    """
    say(f"load: a collection of {scale.points:,} points of {scale.dim} dimensions")
    corpus.fill(place, SOURCE, scale.points, scale.dim)
    throttle = max(1, int(scale.points / (_THROTTLED_WINDOWS * scale.window_s)))
    ways = {
        STREAM: ("stream", None),
        SNAPSHOT: ("snapshot", None),
        THROTTLED: ("stream", throttle),
        THROTTLED_BULK: ("bulk", throttle),
    }
    spans: dict[str, tuple[float, float]] = {}
    missing: dict[str, str] = {}
    peaks: list[float] = []
    traffic = Traffic(place=place, collection=SOURCE, points=scale.points, dim=scale.dim, calls_per_s=CALLS_PER_S)
    with application.running(traffic) as stop:
        time.sleep(_SETTLE_S)
        say("load: before")
        spans["before"] = _pass(scale.window_s)
        for name, (strategy, points_per_s) in ways.items():
            try:
                begin = coordinator.start(SOURCE, TARGET, strategy=strategy)
                fill = coordinator.backfill(SOURCE, max_points_per_s=points_per_s)
            except NotAvailable as error:
                missing[name] = str(error)
                continue
            started = coordinator.run(place, begin)
            if "dual writes" not in spans and strategy == "stream":
                say("load: dual writes")
                spans["dual writes"] = _pass(scale.window_s)
            say(f"load: {name}")
            done = coordinator.run(place, fill)
            step = done["steps"][0]
            ended = step["began"] + step["seconds"]
            spans[name] = (step["began"], ended)
            spans[f"{name}, indexing"] = (ended, ended + place.until_green(TARGET))
            peaks += [started["peak_mb"], done["peak_mb"]]
            coordinator.run(place, ["abort", SOURCE, "--yes"])
            time.sleep(_SETTLE_S)
        calls = stop()
    place.drop(SOURCE)
    windows = {name: _window(calls, *span) for name, span in spans.items()}
    windows |= {name: {"available": False, "reason": reason} for name, reason in missing.items()}
    return {
        "calls_per_s": CALLS_PER_S,
        "throttled_points_per_s": throttle,
        "windows": windows,
        "failed": sum(not ok for _, _, _, ok in calls),
        "peak_mb": max(peaks),
    }


def _pass(seconds: float) -> tuple[float, float]:
    began = time.monotonic()
    time.sleep(seconds)
    return began, time.monotonic()


def _window(calls: list[Call], began: float, ended: float) -> dict[str, Any]:
    """The calls that were due in a span of time."""
    within = [call for call in calls if began <= call[0] < ended]
    found: dict[str, Any] = {"available": True, "seconds": ended - began, "failed": sum(not ok for *_, ok in within)}
    for kind in ("all", "read", "write"):
        latencies = [latency for _, latency, this, ok in within if ok and kind in ("all", this)]
        if len(latencies) > 1:
            found[kind] = percentiles(latencies)
    return found
