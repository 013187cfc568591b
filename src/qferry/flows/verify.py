"""
Verification: configuration, payload indexes, exact counts, every point on both sides, bit by bit, and then searches.

A difference counts only if it outlasts the journal: the application writes on while this runs, so a point that
differs is looked at again after everything journalled has been settled.  What still differs then was written by
somebody who does not use qferry, or was lost with a process that vanished.  It never checks less than it says.

One that was interrupted is gone on with, and one that is complete may be followed by one that looks again at what
differed then, and at nothing else: where rule (J) vouches for the rest (protocol/comparison.py, docs/adr/0017).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from qferry.control import records, wire
from qferry.flows import configuration
from qferry.flows.compare import DIFFERENCES_MAX, Progress, every_point, ranges
from qferry.flows.coordinator import Coordinator, carries_marker
from qferry.flows.differences import Difference, described
from qferry.flows.effects import Flow, NewId, Now, Report, Sleep, Today
from qferry.flows.parity import QUERIES, parity
from qferry.flows.settle import check, drain, drain_well, show_target
from qferry.protocol.comparison import Comparison
from qferry.protocol.journal import PointId
from qferry.protocol.phases import Side
from qferry.protocol.records import HEARTBEAT_S, HOME
from qferry.protocol.session import GRACE_S

PAGE_POINTS = 1000
# How often a point that differs is looked at again before it counts.
LOOKS = 3
# How long to wait for the target's indexes.
GREEN_TIMEOUT_S = 3600.0
# The last of the checks.
SEARCHES = "search parity"
# Of how many points that differ it is told how, unless more are asked for.
DESCRIBED = 1_000
_COUNT_TRIES = 30
_NAMED = 5  # ids in the summary


@dataclass(frozen=True)
class Check:
    """One check's verdict."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Verification:
    """
    What a verification found.

    Args:
        checks: Each check's verdict.
        points: How many points have been compared.
        differing: Those that differ in the end.
        repaired: How many were made equal.
        seconds: How long it took.
        differences: How points differ; the first ones, if they are very many.
    """

    checks: tuple[Check, ...]
    points: int
    differing: tuple[PointId, ...]
    repaired: int
    seconds: float
    differences: tuple[Difference, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)


@dataclass(frozen=True)
class _Scope:
    """What is compared: everything, the rest of it, or what differed before."""

    known: Comparison
    resumed: bool = False
    again: bool = False
    why: str = ""  # why everything, although less was to be expected

    def told(self, points: int) -> str:
        """In words; `points` are those looked at again."""
        known = self.known
        compared = f"{known.plan.copied:,} points compared bit by bit"
        if self.again:
            return f"{compared} at {known.ended_at}, of those that differed then {points:,} again now"
        return f"{compared} since {known.began_at}, by more than one command" if self.resumed else compared


def verify(
    co: Coordinator,
    *,
    mend: bool = False,
    again: bool = False,
    queries: int = QUERIES,
    green_timeout_s: float = GREEN_TIMEOUT_S,
    describe: int = DESCRIBED,
) -> Flow[Verification]:
    """
    Check everything; with `mend`, also make the target equal where it is not.

    What passes becomes the evidence the switch asks for.  That every point is equal also clears every suspicion raised
    before it began, and stands whatever becomes of the searches.

    Args:
        co: The claim must be held.
        mend: Whether to repair.
        again: Of the points, compare only those that differed the last time, where that is enough.
        queries: How many points to search with, for each vector; 0 leaves searches out, and they are not proven then.
        green_timeout_s: How long to wait for the target's indexes, before searches are compared.
        describe: Of how many points to tell how they differ.
    """
    began: float = yield Now()
    yield from co.fenced()
    yield from co.roll_call("verification began")
    heard = len(co.migration.suspicions)
    if heard:
        yield from co.open_mending()  # a vanished writer that wakes up finds its door gone
        yield from _let_land(co)
    else:
        yield from co.keep_mending()
    held = co.migration.reads_held
    yield from drain_well(co)
    if not held:  # by somebody who has died, for reasons that only the whole check may clear
        yield from show_target(co)  # the comparison may be told to take its time
    config, indexes, basis = yield from _configuration(co, mend=mend)
    scope = yield from _scope(co, basis, heard, again=again)
    progress = Progress(co, scope.known)
    yield from progress.keep()
    complete = scope.again or (yield from every_point(co, progress))
    scope = replace(scope, known=progress.known)
    candidates = scope.known.ids
    differing: Sequence[PointId] = yield from _still_differing(co, candidates)
    unexplained = scope.known.unexplained or (bool(differing) and not heard)
    repaired = len(differing) if mend else 0
    if mend and differing:
        # Before anything is mended: whoever goes on, if this dies now, finds those points equal.
        yield from progress.end(replace(scope.known, unexplained=unexplained))
        differing = yield from _mend(co, differing)
        repaired -= len(differing)
    counts = yield from _counts(co)
    ended: float = yield Now()
    equal = Check(
        "every point",
        complete and not differing,
        ("" if complete else f"stopped after more than {DIFFERENCES_MAX:,} differences, run it again; ")
        + f"{scope.told(len(candidates))}, {_told(differing)}"
        + (f", {repaired:,} repaired" if repaired else "")
        + (f"; all of them, because {scope.why}" if scope.why else ""),
    )
    differences = yield from described(co.migration, differing[:describe])
    report = Verification(
        (config, indexes, counts, equal),
        scope.known.plan.copied,
        tuple(differing),
        repaired,
        round(ended - began, 2),
        tuple(differences),
    )
    at: str = yield Today()
    known = dict.fromkeys(differing, ()) | {d.id: d.what for d in differences}
    cleared = report.passed and len(co.migration.suspicions) == heard
    yield from progress.end(
        replace(
            scope.known,
            suspicions=() if cleared else scope.known.suspicions,
            differing=tuple(known.items()),
            total=len(differing),
            ended_at=scope.known.ended_at or (at if complete else ""),
            # If counts differ although all that was compared, or can have changed since, is equal, it was not all.
            unexplained=unexplained or (complete and not differing and not counts.passed),
        )
    )
    evidence: dict[str, Any] = {"at": at, "points": report.points, "repaired": repaired}
    if scope.again:
        evidence |= {"at": scope.known.ended_at, "again": {"at": at, "points": len(candidates)}}
    if scope.resumed:
        evidence["since"] = scope.known.began_at
    yield from _conclude(co, report, heard, evidence)
    if report.passed and queries:
        yield from show_target(co)  # the index may take its time
        searches = yield from _searches(co, progress, queries, green_timeout_s)
        ended = yield Now()
        report = replace(report, checks=(*report.checks, searches), seconds=round(ended - began, 2))
    if not (yield from show_target(co)):
        yield Report("held", text="reads stay on the source: no journal cycle without a difference was found")
    return report


def _scope(co: Coordinator, basis: str, heard: int, *, again: bool) -> Flow[_Scope]:
    """What to compare, given what has been compared before and what has happened since."""
    m = co.migration
    known = yield from records.read_comparison(m)
    why = "there is no complete comparison to rely on" if again and known is None else ""
    if known is not None and (again or not known.ended_at):
        marked = (yield from carries_marker(m, Side.SOURCE)) and (yield from carries_marker(m, Side.TARGET))
        replicated = configuration.is_replicated(m.overrides)
        why = known.unfit(m, basis, again=bool(known.ended_at), marked=marked, replicated=replicated)
        if not why:
            scope = _Scope(known, resumed=not known.ended_at, again=bool(known.ended_at))
            left = "what differed then" if scope.again else f"{len(known.plan.left)} ranges that are left"
            yield Report("verify", text=f"relies on the comparison of {known.began_at}; compares {left}")
            return scope
    if why:
        yield Report("verify", text=f"compares every point, because {why}")
    began_at: str = yield Today()
    plan = yield from ranges(m)
    # A suspicion heard later than those is of somebody whose last requests may still land.
    return _Scope(Comparison(began_at, basis, m.suspicions[:heard], plan), why=why)


def _let_land(co: Coordinator) -> Flow[None]:
    """What a writer had sent before it vanished may still be on its way; nothing may land behind the check."""
    m = co.migration
    yield Report("wait", text="waiting until nothing of a vanished writer can be under way any more")
    yield from co.stay()
    yield Sleep(GRACE_S)
    for side in Side:
        yield wire.barrier(m.server(side), m.collection(side))


def _told(differing: Sequence[PointId]) -> str:
    if not differing:
        return "none differ"
    some = ", ".join(str(i) for i in differing[:_NAMED])
    return f"{len(differing):,} differ ({some}{', …' if len(differing) > _NAMED else ''})"


def _configuration(co: Coordinator, *, mend: bool) -> Flow[tuple[Check, Check, str]]:
    m = co.migration
    source = yield wire.info(HOME, m.source)
    target = yield wire.info(m.target_url, m.target)
    if mend and configuration.index_differences(source, target):
        yield from configuration.copy_indexes(m.target_url, m.target, source, target)
        target = yield wire.info(m.target_url, m.target)
    unlike = configuration.differences(source, target, m.overrides)
    unlike_indexes = configuration.index_differences(source, target)
    count = len(configuration.indexes(source))
    return (
        Check("configuration", not unlike, "; ".join(unlike) or "equal, apart from the overrides asked for"),
        Check("payload indexes", not unlike_indexes, "; ".join(unlike_indexes) or f"{count} equal"),
        configuration.fingerprint(source, target),
    )


def _counts(co: Coordinator) -> Flow[Check]:
    """
    Exact counts: the target's lies between two readings of the source's.

    While points come and go two counts are never of one moment; the reading is repeated until they fit.
    """
    m = co.migration
    before = (yield wire.count(HOME, m.source))["count"]
    target = 0
    for _ in range(_COUNT_TRIES):
        target = most = (yield wire.count(m.target_url, m.target))["count"]
        if configuration.is_replicated(m.overrides):
            most = (yield wire.count_anywhere(m.target_url, m.target))["count"]
        after = (yield wire.count(HOME, m.source))["count"]
        if min(before, after) <= target <= most <= max(before, after):
            return Check("exact counts", passed=True, detail=f"{target:,} on both sides")
        before = after
        yield from drain(co)
    found = f"{target:,}" if target == most else f"{target:,} to {most:,}, depending on the copy,"
    return Check("exact counts", passed=False, detail=f"{before:,} on the source, {found} on the target")


def _still_differing(co: Coordinator, ids: Sequence[PointId]) -> Flow[list[PointId]]:
    """Those of `ids` that differ even after all that is journalled, and was in flight, has been settled."""
    left = list(ids)
    for look in range(LOOKS):
        if not left:
            break
        if look:
            yield Sleep(HEARTBEAT_S)
            yield from co.roll_call("verification looks again")
            yield from drain_well(co)
        found: list[PointId] = []
        for start in range(0, len(left), PAGE_POINTS):
            differing: dict[PointId, Any] = yield from check(co.migration, left[start : start + PAGE_POINTS])
            found += differing
            yield from co.stay()
        left = found
    return left


def _mend(co: Coordinator, ids: Sequence[PointId]) -> Flow[list[PointId]]:
    """Put ids into the journal, where they are repaired like any written point; returns those that still differ."""
    token: str = yield NewId()
    for start in range(0, len(ids), PAGE_POINTS):
        points = [{"id": i, "vector": {}, "payload": {"token": token}} for i in ids[start : start + PAGE_POINTS]]
        yield wire.upsert(HOME, co.migration.journal_collection, points)
    yield from drain_well(co)
    return (yield from _still_differing(co, ids))


def _conclude(co: Coordinator, report: Verification, heard: int, evidence: Mapping[str, Any]) -> Flow[None]:
    """Record the outcome; suspicions beyond the first `heard` are newer than the check and stay."""
    details = {check.name: check.detail for check in report.checks}
    if not report.passed:
        yield from co.publish({"verified": None, "parity": None}, "verification failed", **details)
        return
    raised_since = co.migration.suspicions[heard:]
    changes: dict[str, Any] = {"suspicions": raised_since, "parity": None}
    if not raised_since:
        changes["verified"] = {**evidence, "epoch": co.migration.epoch}
    yield from co.publish(changes, "verified", **details)


def _searches(co: Coordinator, progress: Progress, queries: int, green_timeout_s: float) -> Flow[Check]:
    """Compare searches, and record what came of it if every point still counts as equal."""
    suspect = Check(SEARCHES, passed=False, detail="not proven: a suspicion was raised meanwhile, run it again")
    if co.migration.suspicions:
        return suspect
    found = yield from parity(co, queries, green_timeout_s)
    if found.unequal:
        yield from progress.end(replace(progress.known, unexplained=True))
    if co.migration.verified is None:
        return suspect
    evidence = found.evidence
    if evidence is not None:
        at: str = yield Today()
        evidence = {"at": at, "epoch": co.migration.epoch, **evidence}
    what = "searches compared" if found.passed else "search parity failed" if evidence else "search parity not proven"
    yield from co.publish({"parity": evidence}, what, **{SEARCHES: found.detail})
    return Check(SEARCHES, found.passed, found.detail)
