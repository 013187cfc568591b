"""What is drawn, as plain figures; the templates turn them into HTML and SVG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qferry.cli.shapes import ALL_READS, proven
from qferry.protocol.parity import GATES
from qferry.protocol.phases import TARGET_IS_TRUTH, Phase, Routing
from qferry.protocol.records import Migration, Strategy
from qferry.protocol.shadow import COMPARED_MIN, OVERLAP_MIN, Totals
from qferry.web.watching import LOOK_EVERY_S, Sample

WIDTH, HEIGHT = 600, 96
# Nobody was watching for so long: the line is broken there, in seconds.
_GAP_S = 5 * LOOK_EVERY_S
_LINE_MAX_S = 600.0


@dataclass(frozen=True)
class Step:
    """One step of the way: `done`, `now`, `later`, or `bad` where it stands because of something."""

    name: str
    state: str
    detail: str = ""


_STEPS = ("Start", "Copy", "Verify", "Switch", "Finish", "Clean up")
_AT: dict[Phase, int] = {
    Phase.PREPARING: 0,
    Phase.ANNOUNCED: 0,
    Phase.STARTING: 0,
    Phase.CAPTURING: 1,
    Phase.COPYING: 1,
    Phase.COPIED: 2,
    Phase.SWITCHED: 3,
    Phase.FINISHING: 4,
    Phase.FINISHED: 5,
    Phase.CLEANED: 6,
}


def way(m: Migration, *, failed: bool = False) -> list[Step]:
    """
    The whole way of a migration with the place where it stands.

    Args:
        m: The migration.
        failed: Whether its last verification has found differences.
    """
    if m.phase in (Phase.ABORTING, Phase.ABORTED):
        return [Step(name, "later") for name in _STEPS]
    at = _AT[m.phase]
    if m.phase is Phase.STARTING and m.strategy is Strategy.SNAPSHOT:
        at = 1
    if m.phase is Phase.COPIED and proven(m):
        at += 1
    details = _details(m, at, failed=failed)
    steps = []
    for place, name in enumerate(_STEPS):
        state = "done" if place < at else "now" if place == at else "later"
        unproven = name == "Verify" and place <= at and (_unlike(m) or failed or bool(m.suspicions))
        back = name == "Switch" and m.phase is Phase.SWITCHED and bool(m.stepped_back)
        steps.append(Step(name, "bad" if unproven or back else state, details.get(name, "")))
    return steps


def _unlike(m: Migration) -> bool:
    """Whether searches were compared and the target's are worse."""
    return m.parity is not None and not m.searches_proven


def _details(m: Migration, at: int, *, failed: bool) -> dict[str, str]:
    said = {"Start": m.created_at[:10] if at else m.phase.value}
    if m.phase is Phase.CAPTURING:
        said["Copy"] = "by snapshot"
    elif m.phase is Phase.COPYING:
        said["Copy"] = f"{share(m.copied_points, m.expected_points):.0%}"
    elif m.copied_points:
        said["Copy"] = f"{m.copied_points:,} points"
    if proven(m):
        said["Verify"] = "equal"
    elif m.verified is not None:
        said["Verify"] = "searches differ" if _unlike(m) else "but searches"
    elif m.suspicions:
        said["Verify"] = "suspect"
    elif failed:
        said["Verify"] = "differences"
    elif m.phase is Phase.COPIED:
        said["Verify"] = "not yet"
    if m.phase is Phase.SWITCHED:
        said["Switch"] = (
            "stepped back" if m.stepped_back else "held" if m.reads_held else f"{m.read_percent} % of reads"
        )
    if m.finished_at:
        said["Finish"] = m.finished_at[:10]
    if m.phase is Phase.FINISHED and m.cleanup_after:
        said["Clean up"] = f"from {m.cleanup_after[:10]}"
    return said


def share(part: float, whole: float) -> float:
    """How much of it, from 0 to 1."""
    return min(1.0, max(0.0, part / whole)) if whole > 0 else 0.0


@dataclass(frozen=True)
class Traffic:
    """Where the application's reads and writes go: shares in per cent, and whether writes arrive."""

    source_reads: int
    target_reads: int
    source_writes: bool
    target_writes: bool
    truth: str


def traffic(m: Migration) -> Traffic:
    """Where reads and writes go."""
    if m.phase in TARGET_IS_TRUTH:
        return Traffic(0, ALL_READS, m.routing is Routing.DUAL, target_writes=True, truth="target")
    reads = 0 if m.reads_held or m.stepped_back else m.read_percent
    return Traffic(
        ALL_READS - reads, reads, source_writes=True, target_writes=m.routing is Routing.DUAL, truth="source"
    )


@dataclass(frozen=True)
class Line:
    """
    A line over time, in a box of `WIDTH` by `HEIGHT`.

    Args:
        strokes: The points of each unbroken part, as SVG wants them.
        top: What its upper edge stands for.
        last: The latest figure.
        seconds: How long it is.
    """

    strokes: tuple[str, ...]
    top: int
    last: int
    seconds: float


def debt_line(samples: Sequence[Sample]) -> Line | None:
    """How long the journal was lately; None if that is not known yet."""
    recent = [s for s in samples if samples[-1].at - s.at <= _LINE_MAX_S]
    if len(recent) < 2:  # noqa: PLR2004  a line has two ends
        return None
    begun, span = recent[0].at, recent[-1].at - recent[0].at
    top = max(1, *(s.debt for s in recent))
    strokes: list[list[str]] = []
    before: Sample | None = None
    for s in recent:
        if before is None or s.at - before.at > _GAP_S:
            strokes.append([])
        x = WIDTH * (s.at - begun) / span
        y = HEIGHT - (HEIGHT - 4) * s.debt / top - 2
        strokes[-1].append(f"{x:.1f},{y:.1f}")
        before = s
    return Line(tuple(" ".join(points) for points in strokes), top, recent[-1].debt, span)


@dataclass(frozen=True)
class Measure:
    """
    One figure of the target, drawn as a bar beside the source's and across a gate.

    Args:
        name: What was measured.
        figures: It in words, one for each column of its table.
        target: How long its bar is, from 0 to 1.
        source: The same of the source's; None: it has none.
        gate: Where the gate is; None: there is none.
        state: `good`, `bad`, or `warn` where it misses the gate and counts all the same.
    """

    name: str
    figures: tuple[str, ...]
    target: float
    source: float | None = None
    gate: float | None = None
    state: str = "good"


@dataclass(frozen=True)
class Searched:
    """
    Searches in one vector, filtered or not.

    Args:
        vector: The vector's name; empty for the unnamed one.
        filtered: Whether they had a filter.
        searches: How many they were.
        differing: How many of the exact ones find something else on the target.
        recall: What the others find, of what there is; empty for what is always searched exactly.
    """

    vector: str
    filtered: bool
    searches: int
    differing: int
    recall: tuple[Measure, ...]


def searched(evidence: Mapping[str, Any]) -> list[Searched]:
    """What a comparison of searches has found, vector by vector (flows/parity.py)."""
    return [
        Searched(group["vector"], group["filtered"], group["searches"], group["differing"], tuple(_recalls(group)))
        for group in evidence["vectors"]
    ]


def _recalls(group: Mapping[str, Any]) -> Iterator[Measure]:
    for name, gate in GATES.items() if "recall" in group else ():
        ours, theirs = (group["recall"][side][name] for side in ("target", "source"))
        state = "bad" if name in group["short"] else "warn" if name in group["excused"] else "good"
        title = name.upper() if name == "p5" else name
        yield Measure(title, (f"{ours:.3f}", f"{theirs:.3f}", f"{gate:.2f}"), ours, theirs, gate, state)


def shadowed(m: Migration, found: Totals) -> list[Measure]:
    """What shadow reads have found, against their gates; empty while none were compared."""
    rows: list[Measure] = []
    counted = found.compared + found.errors >= COMPARED_MIN
    if found.mean_overlap is not None:
        overlap = found.mean_overlap
        state = "good" if overlap >= OVERLAP_MIN else "bad" if counted else "warn"
        figures = (f"{overlap:.3f}", f"at least {OVERLAP_MIN:g}")
        rows.append(Measure("overlap, mean", figures, overlap, gate=OVERLAP_MIN, state=state))
    if found.compared or found.errors:
        failed, most = found.errors_percent, m.canary_max_errors_percent
        state = "good" if failed <= most else "bad" if counted else "warn"
        top = max(2 * most, failed, 1.0)
        rows.append(
            Measure("errors", (f"{failed:.1f} %", f"at most {most:g} %"), failed / top, None, most / top, state)
        )
    ratio = found.latency_ratio
    if ratio is not None:
        top = max(ratio, 1.0)
        figures = (f"{ratio:.2f} \N{MULTIPLICATION SIGN}", "the source\N{RIGHT SINGLE QUOTATION MARK}s")
        rows.append(Measure("latency", figures, ratio / top, 1 / top))
    return rows
