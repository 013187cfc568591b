"""Test of the benchmark as a program; its figures are for people to look at, on a quiet machine."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from bench import coordinator, plot, report
from bench.contenders import MIGRATE, RAW, SNAPSHOT, STREAM
from bench.growth import fits
from bench.latencies import CALLERS, PROTOCOLS
from bench.load import THROTTLED, THROTTLED_BULK
from bench.ratios import ratios

ROOT = Path(__file__).parents[2]
COPIED = {"copy": 2.0, "green": 1.0}


def copied(points: int, steps: dict[str, float]) -> dict[str, Any]:
    """Give a contender's figures."""
    return {
        "available": True,
        "points": points,
        "steps": steps,
        "copy_s": steps["copy"],
        "total_s": sum(steps.values()),
        "peak_mb": 100.0 + steps["copy"],
        "verified": "verify" in steps,
    }


def called(milliseconds: float) -> dict[str, float]:
    """Give percentiles of calls."""
    return {"p50_ms": milliseconds, "p99_ms": 3 * milliseconds, "calls": 100}


@pytest.fixture
def figures() -> dict[str, Any]:
    """Give what a run measures, without its ratios."""
    qferry = {"start": 0.5, "copy": 2.0, "verify": 1.0, "green": 0.25}
    everywhere = [
        {"topology": topology, "protocol": protocol, "callers": callers}
        for topology in ("one server", "two servers")
        for protocol in PROTOCOLS
        for callers in CALLERS
    ]
    rows = [
        {"contender": STREAM, "dim": 8, "points": n, "available": True, "steps": qferry, "work_s": s, "peak_mb": 90.0}
        for n, s in ((1000, 2.0), (2000, 3.0), (4000, 5.0))
    ]
    return {
        "about": {"points": 4000, "dim": 8},
        "copies": {
            SNAPSHOT: {"available": False, "reason": "not available: why"},
            STREAM: copied(4000, qferry),
            MIGRATE: copied(4000, {"copy": 30.0, "green": 30.0}),
            RAW: copied(4000, {"create": 0.1, "copy": 1.6, "restore": 0.1, "green": 30.0}),
        },
        "writes": [{**row, "method": "upsert", "single": called(2.0), "dual": called(2.5)} for row in everywhere],
        "reads": [
            {**row, "method": method, "served_by": "source", "plain": called(plain), "routed": called(plain + 0.01)}
            for row in everywhere
            for method, plain in (("retrieve", 1.0), ("query_points", 3.0))
        ],
        "load": {
            "calls_per_s": 100.0,
            "windows": {
                "before": {"available": True, "seconds": 3.0, "failed": 0, "all": called(2.0), "read": called(1.0)},
                "dual writes": {"available": True, "seconds": 3.0, "failed": 0, "all": called(3.0)},
                THROTTLED: {"available": True, "seconds": 6.0, "failed": 0, "all": called(4.0)},
                THROTTLED_BULK: {"available": True, "seconds": 6.0, "failed": 0, "all": called(3.5)},
            },
            "peak_mb": 120.0,
        },
        "growth": {"rows": rows, "fits": fits(rows)},
    }


def numbers_in(data: Any) -> set[float]:
    """Every number in a JSON value."""
    if isinstance(data, dict):
        return set().union(*(numbers_in(value) for value in data.values()))
    if isinstance(data, list):
        return set().union(*(numbers_in(value) for value in data))
    return {data} if isinstance(data, (int, float)) else set()


@pytest.mark.slow
def test_benchmark_of_a_copy_runs_and_prints_json() -> None:
    """It copies by two ways, calls, and prints one JSON object whose ratios are of its own figures."""
    options = [
        "--quick",
        "--json",
        "--only",
        "copy,writes",
        "--turns",
        "1",
        "--ways",
        f"{STREAM},{RAW}",
        "--points",
        "200",
        "--dim",
        "8",
    ]
    ran = subprocess.run(  # noqa: S603  this very Python
        [sys.executable, "-m", "bench", *options],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ran.stdout.count("\n") == 1
    result = json.loads(ran.stdout)
    assert set(result) == {"about", "copies", "writes", "ratios"}
    assert {row["callers"] for row in result["writes"]} == {1, 4, 16}
    stream, raw = result["copies"][STREAM], result["copies"][RAW]
    assert list(stream["steps"]) == ["start", "copy", "verify", "green"]
    assert (stream["verified"], raw["verified"]) == (True, False)
    assert stream["points"] == raw["points"] == 200
    for one in (stream, raw):
        assert one["total_s"] == pytest.approx(sum(one["steps"].values()))
        assert 50 < one["peak_mb"] < 500
    by_name = {ratio["name"]: ratio for ratio in result["ratios"]}
    against_raw = by_name["qferry stream's copy / raw gRPC loop's"]
    assert against_raw["value"] == pytest.approx(stream["copy_s"] / raw["copy_s"])
    assert by_name["qdrant_client.migrate's copy / qferry stream's"]["met"] is None


def test_every_ratio_is_one_of_measured_figures(figures: dict[str, Any]) -> None:
    """Numerator and denominator are figures of the run, or sums of them, and the verdict follows from both."""
    measured = numbers_in(figures) | {1, 8.02 / 2, 1.01 + 3.01}
    found = ratios(figures)
    assert len(found) == 5 + 6 + 6 + 2 + 1 + 1
    for ratio in found:
        if ratio.value is None:
            assert SNAPSHOT.removeprefix("qferry ") in ratio.name
            assert ratio.met is None
            continue
        assert {ratio.numerator, ratio.denominator} <= measured, ratio
        assert ratio.value == ratio.numerator / ratio.denominator
        assert ratio.met is (ratio.value >= ratio.target if ratio.bound == "at least" else ratio.value <= ratio.target)


def test_ratios_of_a_part_that_was_not_measured_are_left_out(figures: dict[str, Any]) -> None:
    """A run of one part says nothing about the others."""
    assert ratios({"about": figures["about"]}) == []
    del figures["copies"], figures["reads"], figures["load"], figures["growth"]
    assert len(ratios(figures)) == 6


def test_a_straight_line_is_fitted_exactly(figures: dict[str, Any]) -> None:
    """One second and a thousandth for each point is what comes out."""
    (fit,) = figures["growth"]["fits"]
    assert fit["fixed_s"] == pytest.approx(1.0)
    assert fit["s_per_million"] == pytest.approx(1000.0)
    assert fit["r_squared"] == pytest.approx(1.0)


def test_tables_and_pictures_show_every_part(
    figures: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is missing is named with its reason, and the pictures are well-formed."""
    report.show({**figures, "ratios": [ratio.data() for ratio in ratios(figures)]})
    shown = capsys.readouterr().out
    for words in (STREAM, "not available: why", "two servers", "dual writes", "R²", "routed reads", "not measured"):
        assert words in shown
    pictures = plot.write_all(figures, tmp_path)
    assert len(pictures) == 4
    for picture in pictures:
        assert ET.parse(picture).getroot().tag.endswith("svg")  # noqa: S314  written by ourselves


def test_a_missing_option_of_qferry_is_told_apart_from_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streaming needs no option while there is no choice; a snapshot and a throttle do."""
    monkeypatch.setattr(coordinator, "_options", lambda _: frozenset())
    assert coordinator.start("a", "b", strategy="stream") == ["start", "a", "b"]
    with pytest.raises(coordinator.NotAvailable, match="--strategy"):
        coordinator.start("a", "b", strategy="snapshot")
    with pytest.raises(coordinator.NotAvailable, match="--max-points-per-s"):
        coordinator.backfill("a", max_points_per_s=5)
    monkeypatch.setattr(coordinator, "_options", lambda _: frozenset({"--strategy", "--max-points-per-s"}))
    assert coordinator.start("a", "b", strategy="snapshot") == ["start", "a", "b", "--strategy", "snapshot"]
    assert coordinator.backfill("a", max_points_per_s=5) == ["backfill", "a", "--max-points-per-s", "5"]
