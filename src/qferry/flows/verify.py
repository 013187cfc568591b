"""
Verification: configuration, payload indexes, exact counts, every point on both sides, bit by bit, and then searches.

A difference counts only if it outlasts the journal: the application writes on while this runs, so a point that
differs is looked at again after everything journalled has been settled.  What still differs then was written by
somebody who does not use qferry, or was lost with a process that vanished.  It never checks less than it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from qferry.control import wire
from qferry.flows import configuration
from qferry.flows.compare import DIFFERENCES_MAX, every_point
from qferry.flows.coordinator import Coordinator
from qferry.flows.effects import Flow, NewId, Now, Report, Sleep, Today
from qferry.flows.parity import QUERIES, parity
from qferry.flows.settle import check, drain, drain_well, show_target
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
    """What a verification found."""

    checks: tuple[Check, ...]
    points: int
    differing: tuple[PointId, ...]
    repaired: int
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)


def verify(
    co: Coordinator, *, mend: bool = False, queries: int = QUERIES, green_timeout_s: float = GREEN_TIMEOUT_S
) -> Flow[Verification]:
    """
    Check everything; with `mend`, also make the target equal where it is not.

    What passes becomes the evidence the switch asks for.  That every point is equal also clears every suspicion raised
    before it began, and stands whatever becomes of the searches.

    Args:
        co: The claim must be held.
        mend: Whether to repair.
        queries: How many points to search with, for each vector; 0 leaves searches out, and they are not proven then.
        green_timeout_s: How long to wait for the target's indexes, before searches are compared.
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
    config, indexes = yield from _configuration(co, mend=mend)
    points, unequal, complete = yield from every_point(co)
    differing: Sequence[PointId] = yield from _still_differing(co, unequal)
    repaired = len(differing) if mend else 0
    if mend and differing:
        differing = yield from _mend(co, differing)
        repaired -= len(differing)
    counts = yield from _counts(co)
    ended: float = yield Now()
    equal = Check(
        "every point",
        complete and not differing,
        ("" if complete else f"stopped after more than {DIFFERENCES_MAX:,} differences, run it again; ")
        + f"{points:,} points compared bit by bit, {_told(differing)}"
        + (f", {repaired:,} repaired" if repaired else ""),
    )
    report = Verification((config, indexes, counts, equal), points, tuple(differing), repaired, round(ended - began, 2))
    yield from _conclude(co, report, heard)
    if report.passed and queries:
        yield from show_target(co)  # the index may take its time
        searches = yield from _searches(co, queries, green_timeout_s)
        ended = yield Now()
        report = replace(report, checks=(*report.checks, searches), seconds=round(ended - began, 2))
    if not (yield from show_target(co)):
        yield Report("held", text="reads stay on the source: no journal cycle without a difference was found")
    return report


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


def _configuration(co: Coordinator, *, mend: bool) -> Flow[tuple[Check, Check]]:
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


def _conclude(co: Coordinator, report: Verification, heard: int) -> Flow[None]:
    """Record the outcome; suspicions beyond the first `heard` are newer than the check and stay."""
    details = {check.name: check.detail for check in report.checks}
    if not report.passed:
        yield from co.publish({"verified": None, "parity": None}, "verification failed", **details)
        return
    raised_since = co.migration.suspicions[heard:]
    at: str = yield Today()
    evidence = {"at": at, "epoch": co.migration.epoch, "points": report.points, "repaired": report.repaired}
    changes: dict[str, Any] = {"suspicions": raised_since, "parity": None}
    if not raised_since:
        changes["verified"] = evidence
    yield from co.publish(changes, "verified", **details)


def _searches(co: Coordinator, queries: int, green_timeout_s: float) -> Flow[Check]:
    """Compare searches, and record what came of it if every point still counts as equal."""
    found = yield from parity(co, queries, green_timeout_s)
    if co.migration.verified is None:
        why = "not proven: a suspicion was raised meanwhile, run it again"
        return Check(SEARCHES, passed=False, detail=why)
    evidence = found.evidence
    if evidence is not None:
        at: str = yield Today()
        evidence = {"at": at, "epoch": co.migration.epoch, **evidence}
    what = "searches compared" if found.passed else "search parity failed" if evidence else "search parity not proven"
    yield from co.publish({"parity": evidence}, what, **{SEARCHES: found.detail})
    return Check(SEARCHES, found.passed, found.detail)
