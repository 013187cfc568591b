"""What the demo is asked and what it answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from qferry.demo.call_log import Call
from qferry.demo.checker import Fault, Finding, Verdict
from qferry.demo.embedding import BUILT_IN_MODEL
from qferry.demo.fingerprint import Payload, PointState

DEFAULT_POINTS = 10_000
# With the migration's own steps, the indexing and the check this makes two to three minutes on two cores.
DEFAULT_TRAFFIC_S = 60.0

_MESSAGE_CHARACTERS = 300
_PERIODS = ("before", "during", "after")


@dataclass(frozen=True)
class DemoOptions:
    """
    What to run.

    Args:
        points: Points to index, at least 100.
        seconds: Aim for this much traffic in all, in seconds; None for DEFAULT_TRAFFIC_S. The migration's own
            steps take as long as they take; the time between them is what scales.
        seed: The same seed gives every application the same requests.
        naive: Migrate by the document's recipe instead of qferry.
        url: A server to use instead of starting one; it must ask for no key.
        model: `all-MiniLM-L6-v2` (built in) or the name of a fastembed model.
        keep: Leave the applications' logs in place and say where they are.
    """

    points: int = DEFAULT_POINTS
    seconds: float | None = None
    seed: int = 1
    naive: bool = False
    url: str | None = None
    model: str = BUILT_IN_MODEL
    keep: bool = False


@dataclass(frozen=True)
class DemoResult:
    """
    What the applications were told, compared with what is there.

    `errors` counts failed calls, and points whose answers contradict each other in every order of events.
    Latencies are in milliseconds; `seconds_per_phase` is in the order in which the phases ran.
    """

    mode: str
    points: int
    seed: int
    acknowledged_writes: int
    reads: int
    errors: int
    missing: int
    stale: int
    resurrected: int
    extra: int
    latency_ms: dict[str, dict[str, dict[str, float | None]]]
    seconds_per_phase: dict[str, float]
    examples: tuple[str, ...] = field(default=(), repr=False)

    @property
    def passed(self) -> bool:
        """Whether no call failed and every point is right."""
        return not (self.errors or self.missing or self.stale or self.resurrected or self.extra)

    def as_json(self) -> dict[str, Any]:
        """The result as one JSON-ready object, without the examples."""
        names = [name for name in self.__dataclass_fields__ if name != "examples"]
        return {name: getattr(self, name) for name in names}


def summarise(
    calls: Sequence[Call],
    verdict: Verdict,
    *,
    during_ns: tuple[int, int],
    seconds_per_phase: dict[str, float],
    mode: str,
    points: int,
    seed: int,
) -> DemoResult:
    """
    Put the figures together.

    Args:
        calls: Every call of every application.
        verdict: The checker's.
        during_ns: When the migration began and ended, on the calls' clock.
        seconds_per_phase: As measured.
        mode: `ferry` or `naive`.
        points: Points indexed.
        seed: The demo's seed.

    Returns:
        The result.
    """
    answered = [call for call in calls if call.outcome is not None and not call.failed]
    failures = [call for call in calls if call.failed]
    return DemoResult(
        mode=mode,
        points=points,
        seed=seed,
        acknowledged_writes=sum(call.is_write for call in answered),
        reads=sum(not call.is_write for call in answered),
        errors=len(failures) + len(verdict.contradictions) + len(verdict.undecided),
        **{fault.value: verdict.count(fault) for fault in Fault},
        latency_ms=_latencies(calls, during_ns),
        seconds_per_phase=seconds_per_phase,
        examples=tuple(_examples(failures, verdict)),
    )


def show(result: DemoResult, console: Console) -> None:
    """
    Print the closing tables.

    Args:
        result: What to show.
        console: Where.
    """
    way = "the document's recipe" if result.mode == "naive" else "qferry"
    outcome = Table(title=f"{result.points:,} points moved by {way}, under load", title_justify="left")
    outcome.add_column("What the applications were told, against what is there")
    outcome.add_column("", justify="right")
    outcome.add_row("writes acknowledged", f"{result.acknowledged_writes:,}")
    outcome.add_row("reads answered", f"{result.reads:,}", end_section=True)
    for name, value in (
        ("calls that failed, or got an answer that cannot be true", result.errors),
        ("points missing", result.missing),
        ("points stale (an acknowledged write is not there)", result.stale),
        ("deleted points that came back", result.resurrected),
        ("points nobody wrote", result.extra),
    ):
        outcome.add_row(name, f"[bold {'red' if value else 'green'}]{value:,}[/]")
    console.print(outcome)
    latency = Table(title="What a call took, p50 / p99 in ms", title_justify="left")
    latency.add_column("")
    for period in _PERIODS:
        latency.add_column(f"{period} the migration" if period == "during" else period, justify="right")
    for kind, periods in result.latency_ms.items():
        latency.add_row(
            kind, *(f"{_ms(periods[period]['p50'])} / {_ms(periods[period]['p99'])}" for period in _PERIODS)
        )
    console.print(latency)
    for example in result.examples:
        console.print(example, markup=False, highlight=False, soft_wrap=True)
    verdict = "[bold green]Nothing was lost.[/]" if result.passed else "[bold red]Not everything is right.[/]"
    console.print(verdict)


def percentile(sorted_values: Sequence[float], percent: float) -> float | None:
    """
    The nearest-rank percentile.

    Args:
        sorted_values: In ascending order.
        percent: Above 0, up to 100.

    Returns:
        A value of the list, or None when it is empty.
    """
    if not sorted_values:
        return None
    rank = -(-len(sorted_values) * percent // 100)
    return sorted_values[int(rank) - 1]


def _latencies(calls: Iterable[Call], during_ns: tuple[int, int]) -> dict[str, dict[str, dict[str, float | None]]]:
    began, ended = during_ns
    taken: dict[str, dict[str, list[float]]] = {kind: {period: [] for period in _PERIODS} for kind in ("read", "write")}
    for call in calls:
        if call.end_ns is not None:
            period = "before" if call.start_ns < began else "during" if call.start_ns < ended else "after"
            kind = "write" if call.is_write else "read"
            taken[kind][period].append((call.end_ns - call.start_ns) / 1e6)
    return {
        kind: {period: _summary(sorted(values)) for period, values in periods.items()}
        for kind, periods in taken.items()
    }


def _summary(values: list[float]) -> dict[str, float | None]:
    figures = {"p50": percentile(values, 50), "p99": percentile(values, 99)}
    return {name: None if value is None else round(value, 2) for name, value in figures.items()}


def _examples(failures: Sequence[Call], verdict: Verdict, *, limit: int = 3) -> Iterable[str]:
    for call in failures[:limit]:
        message = " ".join(call.message.split())[:_MESSAGE_CHARACTERS]
        yield f"failed: {call.process} call {call.number}, {call.method}: {message}"
    for finding in verdict.findings[:limit]:
        yield _describe(finding)
    for point in verdict.contradictions[:limit]:
        yield f"contradiction: no order of events explains the answers about point {point}"
    for point in verdict.undecided[:limit]:
        yield f"undecided: too many calls of unknown fate touched point {point}"


def _describe(finding: Finding) -> str:
    """Say what is there and what might be, without the parts that are the same."""
    same = frozenset.intersection(*map(_parts, (finding.found, *finding.allowed)))
    found, *allowed = (
        "nothing" if state is None else str(sorted(_parts(state) - same))[:_MESSAGE_CHARACTERS]
        for state in (finding.found, *finding.allowed)
    )
    may_hold = " or ".join(sorted(allowed))
    return f"{finding.fault.value}: point {finding.point} holds {found}, allowed is {may_hold}"


def _parts(state: PointState) -> Payload:
    return frozenset() if state is None else state[1] | {("its vector", state[0])}


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
