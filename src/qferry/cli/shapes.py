"""The JSON of `status`, flat and without what only the protocol needs; and what to do next."""

from __future__ import annotations

import dataclasses
import shlex
from typing import Any

from qferry.commands import Status, Throttled
from qferry.protocol.comparison import Comparison
from qferry.protocol.phases import ENDED, Phase
from qferry.protocol.records import Migration, Writer
from qferry.protocol.shadow import Totals

ALL_READS = 100


def status_data(status: Status) -> dict[str, Any]:
    """One migration as docs/cli.md describes it."""
    m = status.migration
    return {
        "id": m.id,
        "source": m.source,
        "target": m.target,
        "phase": m.phase.value,
        "routing": m.routing.value,
        "truth": m.truth.value,
        "read_percent": m.read_percent,
        "reads_held": m.reads_held,
        "stepped_back": m.stepped_back or None,
        "max_errors_percent": m.canary_max_errors_percent,
        "max_read_ms": m.canary_max_ms,
        "shadow": shadow_data(m, status.shadow) if status.shadow is not None else None,
        "epoch": m.epoch,
        "policy": m.policy.value,
        "strategy": m.strategy.value,
        "copied_points": m.copied_points,
        "expected_points": m.expected_points,
        "debt": status.debt,
        "verified": m.verified,
        "parity": m.parity,
        "comparison": comparison_data(status),
        "suspicions": m.suspicions,
        "source_points": status.source_points,
        "target_points": status.target_points,
        "target_status": status.target_status,
        "target_failure": status.target_failure or None,
        "writers": [writer_data(m, writer) for writer in status.writers],
        "coordinator": m.claim_by or None,
        "limits": dataclasses.asdict(m.limits),
        "pace": m.pace or None,
        "created_at": m.created_at,
        "finished_at": m.finished_at,
        "cleanup_after": m.cleanup_after,
        "checklist": [dataclasses.asdict(metric) for metric in status.checklist],
        "next": next_step(m, status.comparison),
    }


def shadow_data(m: Migration, found: Totals) -> dict[str, Any]:
    """What shadow reads have found since they were asked for."""
    ratio = found.latency_ratio
    return {
        "percent": m.shadow_percent,
        "since_epoch": found.since,
        "compared": found.compared,
        "mean_overlap": None if found.mean_overlap is None else round(found.mean_overlap, 4),
        "mismatches": found.mismatches,
        "max_score_delta": found.score_delta,
        "latency_ratio": None if ratio is None else round(ratio, 3),
        "errors": found.errors,
        "dropped": found.dropped,
        "worse": found.worse(m.canary_max_errors_percent) or None,
    }


def comparison_data(status: Status) -> dict[str, Any] | None:
    """What the last verification has compared, and what differed."""
    known = status.comparison
    if known is None:
        return None
    return {
        "began_at": known.began_at,
        "ended_at": known.ended_at or None,
        "points": known.plan.copied,
        "ranges": len(known.plan.stretches),
        "ranges_left": len(known.plan.left),
        "differing": known.total,
        "differences": [{"id": i, "what": list(what)} for i, what in known.differing],
    }


def writer_data(m: Migration, writer: Writer) -> dict[str, Any]:
    """One writer, as far as this migration is concerned."""
    acknowledged = writer.acked.get(m.id, 0)
    return {
        "host": writer.host,
        "pid": writer.pid,
        "since": writer.since,
        "acknowledged_epoch": acknowledged,
        "behind": acknowledged < m.epoch,
        "debt": writer.debts.get(m.id, 0),
        "busy_s": writer.busy_s,
        "p99_ms": writer.p99_ms,
        "failed": writer.failed.get(m.id, 0),
        "suspect": m.id in writer.suspects,
        "pins": writer.pins.describe(),
    }


def throttle_data(found: Throttled) -> dict[str, Any]:
    """How fast a migration may go and goes, as docs/cli.md describes it."""
    return {
        "source": found.source,
        "target": found.target,
        "limits": dataclasses.asdict(found.limits),
        "coordinator": found.coordinator or None,
        "pace": found.pace or None,
    }


def proven(m: Migration) -> bool:
    """Whether there is all the evidence that readers may see the target."""
    return m.verified is not None and m.searches_proven


def differs(m: Migration, comparison: Comparison | None) -> bool:
    """Whether the last comparison of every point has ended with differences, and none has passed since."""
    return m.verified is None and comparison is not None and bool(comparison.ended_at) and comparison.total > 0


def next_step(m: Migration, comparison: Comparison | None = None) -> str:
    """
    What to do next, as a sentence with the command in it.

    Args:
        m: The migration.
        comparison: What its last verification has compared; None: there is none.
    """
    source, target = shlex.quote(m.source), shlex.quote(m.target)
    again = " --again" if m.verified is not None else ""  # only searches are left to be compared
    if m.phase not in ENDED and m.suspicions and m.phase in (Phase.COPIED, Phase.SWITCHED):
        return f"Run `qferry verify {source} --repair`: only a full check clears the suspicion."
    match m.phase:
        case Phase.PREPARING | Phase.ANNOUNCED | Phase.STARTING:
            return f"Run `qferry start {source} {target}` again to complete it."
        case Phase.CAPTURING | Phase.COPYING:
            return f"Run `qferry backfill {source}`."
        case Phase.COPIED | Phase.SWITCHED if differs(m, comparison):
            return f"The two sides differ: find out who writes past qferry, then run `qferry verify {source} --repair`."
        case Phase.COPIED if not proven(m):
            return f"Run `qferry verify {source}{again}`."
        case Phase.COPIED:
            return f"Run `qferry switch {source} --percent 10`, or more of the reads at once."
        case Phase.SWITCHED if m.stepped_back:
            return (
                f"Readers went back to the source by themselves. Look at the target's server, then run `qferry switch "
                f"{source} --percent {m.read_percent}` again, or `qferry rollback {source}`."
            )
        case Phase.SWITCHED if m.reads_held:
            return (
                f"Points are being repaired, and reads stay on the source meanwhile. If no command is at work, run "
                f"`qferry switch {source} --percent {m.read_percent}`."
            )
        case Phase.SWITCHED if not proven(m):
            return f"Run `qferry verify {source}{again}`, or `qferry rollback {source}`."
        case Phase.SWITCHED if m.read_percent == 0:
            return f"Run `qferry switch {source} --percent 10`, or `qferry rollback {source}`."
        case Phase.SWITCHED if m.read_percent < ALL_READS:
            return f"Run `qferry switch {source} --percent 100`, or `qferry rollback {source}`."
        case Phase.SWITCHED:
            return f"Run `qferry finish {source}` (after it there is no way back), or `qferry rollback {source}`."
        case Phase.FINISHING:
            return f"Run `qferry finish {source}` again to complete it; it is past the point of no return."
        case Phase.FINISHED:
            return f"Run `qferry cleanup {source}`, not before {m.cleanup_after}."
        case Phase.ABORTING:
            return f"Run `qferry abort {source}` again to complete it."
        case Phase.ABORTED:
            return f"Nothing: `{m.source}` is as it was."
        case Phase.CLEANED:
            return f"Nothing: it is complete, and `{m.source}` leads to `{m.target}`."
