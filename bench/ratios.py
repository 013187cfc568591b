"""What the figures of one run say about the targets that were set before anything was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from bench.contenders import MIGRATE, QFERRY, RAW, SNAPSHOT, STREAM
from bench.latencies import CALLERS, PROTOCOLS
from bench.load import THROTTLED, THROTTLED_BULK

# p50 of a dual write as a multiple of a single one's, by callers.
DUAL_WRITE_MAX = {"grpc": {1: 1.3, 4: 1.45, 16: 1.7}, "rest": {1: 1.4, 4: 1.55, 16: 1.7}}
ROUTED_READ_MAX = 1.03
SNAPSHOT_MIN = 12.0
STREAM_MIN = 10.0
STREAM_MAX = 1.35
VERIFIED_POINTS_PER_S_MIN = 25_000.0
THROTTLED_MAX = 1.5
# A point of the largest collection costs at most this much of one of the collection before it.
PER_POINT_MAX = 1.15
COORDINATOR_MB_MAX = 250.0

Report = Mapping[str, Any]


@dataclass(frozen=True)
class Ratio:
    """
    One comparison.

    Args:
        name: What is compared.
        numerator: A measured figure, or None where it was not measured.
        denominator: The other one; 1 where the figure itself has the target.
        bound: Which side of the target is good.
        target: The target.
    """

    name: str
    numerator: float | None
    denominator: float | None
    bound: Literal["at least", "at most"]
    target: float

    @property
    def value(self) -> float | None:
        """The ratio."""
        return self.numerator / self.denominator if self.numerator is not None and self.denominator else None

    @property
    def met(self) -> bool | None:
        """Whether the target is met, if that was measured."""
        if self.value is None:
            return None
        return self.value >= self.target if self.bound == "at least" else self.value <= self.target

    def data(self) -> dict[str, Any]:
        """Give it as JSON."""
        return {**asdict(self), "value": self.value, "met": self.met}


def ratios(report: Report) -> list[Ratio]:
    """Compute every ratio whose part was measured; those of contenders that are missing have no value."""
    parts = (
        ("copies", _copies),
        ("writes", _writes),
        ("reads", _reads),
        ("load", _load),
        ("growth", _growth),
    )
    found = [ratio for part, of_part in parts if part in report for ratio in of_part(report[part])]
    peaks = list(coordinator_peaks_mb(report))
    if peaks:
        found.append(Ratio("coordinator's peak memory, MB", max(peaks), 1, "at most", COORDINATOR_MB_MAX))
    return found


def coordinator_peaks_mb(report: Report) -> Iterator[float]:
    """Give the peak of every process that ran qferry's commands on the collections that were measured."""
    yield from (one["peak_mb"] for name, one in report.get("copies", {}).items() if name in QFERRY and one["available"])
    yield from (row["peak_mb"] for row in report.get("growth", {}).get("rows", ()) if row["available"])
    if "load" in report:
        yield report["load"]["peak_mb"]


def _copies(copies: Report) -> Iterator[Ratio]:
    def figure(name: str, *keys: str) -> float | None:
        found: Any = copies.get(name)
        if not found or not found["available"]:
            return None
        for key in keys:
            found = found[key]
        return float(found)

    migrate_copy, raw_copy = figure(MIGRATE, "copy_s"), figure(RAW, "copy_s")
    migrate_total, stream_copy = figure(MIGRATE, "total_s"), figure(STREAM, "copy_s")
    yield Ratio(
        "qdrant_client.migrate until green / qferry snapshot until verified and green",
        migrate_total,
        figure(SNAPSHOT, "total_s"),
        "at least",
        SNAPSHOT_MIN,
    )
    yield Ratio("qdrant_client.migrate's copy / qferry stream's", migrate_copy, stream_copy, "at least", STREAM_MIN)
    yield Ratio("qferry stream's copy / raw gRPC loop's", stream_copy, raw_copy, "at most", STREAM_MAX)
    for name in QFERRY:
        points = figure(name, "points")
        seconds = figure(name, "steps", "verify")
        label = f"points verified per second, {name}"
        yield Ratio(label, points, seconds, "at least", VERIFIED_POINTS_PER_S_MIN)


def _writes(rows: list[Report]) -> Iterator[Ratio]:
    for protocol in PROTOCOLS:
        for callers in CALLERS:
            row = next(r for r in _of(rows, protocol, callers))
            yield Ratio(
                f"dual write / single write, p50, {protocol}, {callers} at once",
                row["dual"]["p50_ms"],
                row["single"]["p50_ms"],
                "at most",
                DUAL_WRITE_MAX[protocol][callers],
            )


def _reads(rows: list[Report]) -> Iterator[Ratio]:
    for protocol in PROTOCOLS:
        for callers in CALLERS:
            # Two methods, each served by the source and by the target: one of each.
            same = _of(rows, protocol, callers)
            yield Ratio(
                f"routed reads / plain reads, sum of p50s, {protocol}, {callers} at once",
                sum(row["routed"]["p50_ms"] for row in same),
                sum(row["plain"]["p50_ms"] for row in same),
                "at most",
                ROUTED_READ_MAX,
            )


def _of(rows: list[Report], protocol: str, callers: int) -> list[Report]:
    return [
        row for row in rows if (row["topology"], row["protocol"], row["callers"]) == ("one server", protocol, callers)
    ]


def _load(load: Report) -> Iterator[Ratio]:
    def p99(name: str) -> float | None:
        found = load["windows"].get(name, {}).get("all")
        return found["p99_ms"] if found else None

    for way in (THROTTLED, THROTTLED_BULK):
        label = f"application's p99 during a {way} / without a backfill"
        yield Ratio(label, p99(way), p99("dual writes"), "at most", THROTTLED_MAX)


def _growth(growth: Report) -> Iterator[Ratio]:
    for fit in growth["fits"]:
        *_, before, largest = fit["points"]
        label = f"µs per point, {largest:,} points / {before:,}, {fit['dim']}-d, {fit['contender']}"
        yield Ratio(label, fit["largest_us"], fit["before_us"], "at most", PER_POINT_MAX)
