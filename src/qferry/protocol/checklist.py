"""
The success metrics of a migration, phase by phase, each with what proves it.

They are those of the document that asked for qferry, in its order.  A line is `proven` only by something that was
recorded or is read now; what nobody has looked at is `missing`, not assumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from qferry.protocol.phases import TARGET_IS_TRUTH, Phase, Routing, Side
from qferry.protocol.records import Migration, Writer
from qferry.protocol.shadow import Totals

ALL_READS = 100
# Lines of history that prove something.
DUAL_BEGAN = "all writers write to both"
COPIED, RESTORED = "copied", "restored from a snapshot"
VERIFIED = "verified"
SEARCHED, NOT_ALIKE = "searches compared", "search parity failed"
ALL_SWITCHED = f"reads {ALL_READS} % on the target"
STEPPED_BACK = "reads stepped back to the source"
SEALED = "point of no return: the target is truth"
DELETED = "source deleted"
PROOFS = (DUAL_BEGAN, COPIED, RESTORED, VERIFIED, SEARCHED, NOT_ALIKE, ALL_SWITCHED, STEPPED_BACK, SEALED, DELETED)

_BEFORE_DUAL = frozenset({Phase.PREPARING, Phase.ANNOUNCED, Phase.CAPTURING, Phase.STARTING})
_GIVEN_UP = frozenset({Phase.ABORTING, Phase.ABORTED})


class State(str, Enum):
    """How a metric stands."""

    PROVEN = "proven"
    MISSING = "missing"  # it is this phase's turn, and nothing proves it yet
    FAILED = "failed"  # something speaks against it
    LATER = "later"  # its phase has not come


@dataclass(frozen=True)
class Metric:
    """
    One success metric.

    Args:
        phase: Which of the document's four phases it belongs to.
        name: What is to be true.
        state: Whether it is.
        proof: What says so, or what is missing; empty while its phase has not come.
        at: When that was recorded, as ISO 8601 in UTC; empty for what was read just now.
    """

    phase: int
    name: str
    state: State
    proof: str = ""
    at: str = ""


@dataclass(frozen=True)
class Known:
    """
    What is known of a migration besides its record.

    Args:
        writers: The processes that take part, as they last reported themselves.
        source_points: How many points the source has; None: there is none.
        target_points: The same of the target.
        events: Those lines of its history whose text is one of `PROOFS`, oldest first.
        old_name: Whether the target's name is one that the naming would replace.
        shadow: What shadow reads have found; None: there are none.
        target_failure: Why the target's server says nothing of it; empty: it does.
        registered: All processes that are connected to the server, also when the migration is over.
    """

    writers: Sequence[Writer]
    source_points: int | None
    target_points: int | None
    events: Sequence[Mapping[str, Any]]
    old_name: bool
    shadow: Totals | None = None
    target_failure: str = ""
    registered: Sequence[Writer] = ()

    def last(self, *what: str) -> Mapping[str, Any] | None:
        """The latest of these lines of history."""
        return next((event for event in reversed(self.events) if event["what"] in what), None)


def checklist(m: Migration, seen: Known) -> tuple[Metric, ...]:
    """All twelve metrics, in order; none for a migration that was given up."""
    if m.phase in _GIVEN_UP:
        return ()
    return (*_dual_writes(m, seen), *_data(m, seen), *_reads(m, seen), *_end(m, seen))


def _dual_writes(m: Migration, seen: Known) -> Iterator[Metric]:
    begun = seen.last(DUAL_BEGAN)
    began = begun["at"] if begun is not None else ""
    name = "Dual writes active for all new data"
    kept = [w for w in seen.writers if w.pins.dual_write is False]
    behind = [w for w in seen.writers if w.acked.get(m.id, 0) < m.epoch]
    if m.phase in _BEFORE_DUAL:
        yield Metric(1, name, State.LATER)
    elif m.routing is Routing.TARGET_ONLY:
        yield Metric(1, name, State.PROVEN, "they were, until every application had moved to the target", began)
    elif kept:
        yield Metric(1, name, State.FAILED, f"{kept[0].describe()} is kept from it by ENABLE_DUAL_WRITE=false")
    elif behind:
        yield Metric(1, name, State.MISSING, f"{_processes(behind)} not acknowledged epoch {m.epoch} yet")
    elif not seen.writers:
        yield Metric(1, name, State.PROVEN, "no process is connected; whoever connects begins with them", began)
    else:
        yield Metric(1, name, State.PROVEN, f"acknowledged by all {len(seen.writers)} process(es)", began)

    name = "No errors in dual-write operations"
    if m.phase in _BEFORE_DUAL:
        yield Metric(1, name, State.LATER)
    elif m.suspicions:
        yield Metric(1, name, State.FAILED, m.suspicions[0])
    else:
        yield _unharmed(m, seen, 1, name)

    name = "New collection created alongside the old one"
    if seen.target_points is not None:
        beside = f"`{m.source}` and `{m.target}` exist"
        beside = beside if seen.source_points is not None else f"`{m.target}` exists, `{m.source}` is gone"
        yield Metric(1, name, State.PROVEN, beside)
    elif m.phase in _BEFORE_DUAL:
        yield Metric(1, name, State.LATER)
    elif seen.target_failure:
        yield Metric(1, name, State.MISSING, f"nothing can be said of `{m.target}` while its server does not")
    else:
        yield Metric(1, name, State.FAILED, f"`{m.target}` is gone")


def _unharmed(m: Migration, seen: Known, phase: int, name: str) -> Metric:
    """Whether a write has failed on one side: as the processes say now, or said when the target became truth."""
    sealed = seen.last(SEALED) if m.truth is Side.TARGET else None
    writers = len(seen.writers) if sealed is None else sealed["details"]["writers"]
    failed = sum(w.failed.get(m.id, 0) for w in seen.writers) if sealed is None else sealed["details"]["failed"]
    at = sealed["at"] if sealed is not None else ""
    if failed:
        return Metric(
            phase, name, State.FAILED, f"{failed:,} write(s) have failed on one side; their points were journalled", at
        )
    if not writers:
        return Metric(phase, name, State.MISSING, "no process is connected that could tell", at)
    return Metric(phase, name, State.PROVEN, f"{writers} process(es) report no write that failed on one side", at)


def _processes(writers: Sequence[Writer]) -> str:
    who = writers[0].describe()
    return f"{who} has" if len(writers) == 1 else f"{who} and {len(writers) - 1} more have"


def _data(m: Migration, seen: Known) -> Iterator[Metric]:
    name = "100 % of historical data backfilled"
    copied = seen.last(COPIED, RESTORED)
    verified = m.verified or {}
    if m.phase in _BEFORE_DUAL:
        yield Metric(2, name, State.LATER)
    elif m.phase is Phase.COPYING or copied is None:
        yield Metric(2, name, State.MISSING, f"{m.copied_points:,} of {m.expected_points:,} points copied")
    else:
        yield Metric(2, name, State.PROVEN, f"{m.copied_points:,} points {copied['what']}", copied["at"])

    name = "Point counts match between old and new"
    checked = seen.last(VERIFIED)
    if m.phase in _BEFORE_DUAL | {Phase.COPYING}:
        yield Metric(2, name, State.LATER)
    elif m.verified is None or checked is None:
        yield Metric(2, name, State.MISSING, "no comparison of every point counts at present")
    else:
        found = checked["details"]
        proof = f"{found.get('exact counts', 'counts equal')}; {found.get('every point', 'every point equal')}"
        yield Metric(2, name, State.PROVEN, proof, verified.get("at", ""))

    name = "Sample searches return identical results"
    if m.phase in _BEFORE_DUAL | {Phase.COPYING}:
        yield Metric(2, name, State.LATER)
    else:
        yield _searched(m, seen, 2, name)


def _searched(m: Migration, seen: Known, phase: int, name: str) -> Metric:
    compared = seen.last(SEARCHED, NOT_ALIKE)
    if m.parity is None or compared is None:
        return Metric(phase, name, State.MISSING, "no comparison of searches counts at present")
    state = State.PROVEN if m.searches_proven else State.FAILED
    return Metric(phase, name, state, "; ".join(compared["details"].values()), compared["at"])


def _reads(m: Migration, seen: Known) -> Iterator[Metric]:
    switched = seen.last(ALL_SWITCHED)
    begun = m.phase in {Phase.SWITCHED, *TARGET_IS_TRUTH}
    kept = [w for w in seen.writers if w.pins.new_reads is False]
    name = "All reads switched to the new collection"
    if not begun:
        yield Metric(3, name, State.LATER)
    elif m.phase is Phase.SWITCHED and m.stepped_back:
        yield Metric(3, name, State.FAILED, m.stepped_back)
    elif m.phase is Phase.SWITCHED and m.reads_held:
        yield Metric(3, name, State.MISSING, "held on the source while points are repaired")
    elif m.phase is Phase.SWITCHED and m.read_percent < ALL_READS:
        yield Metric(3, name, State.MISSING, f"{m.read_percent} % of them")
    elif m.phase is Phase.SWITCHED and kept:
        yield Metric(3, name, State.FAILED, f"{kept[0].describe()} is kept from it by ENABLE_NEW_READS=false")
    else:
        yield Metric(3, name, State.PROVEN, "100 % of them", switched["at"] if switched is not None else "")

    name = "Search functionality working correctly"
    if not begun:
        yield Metric(3, name, State.LATER)
    elif m.stepped_back:
        yield Metric(3, name, State.FAILED, m.stepped_back)
    elif seen.shadow is not None and (worse := seen.shadow.worse(m.canary_max_errors_percent)):
        yield Metric(3, name, State.FAILED, worse)
    else:
        found, live = _searched(m, seen, 3, name), seen.shadow
        alike = f"{live.mean_overlap:.3f}" if live is not None and live.mean_overlap is not None else ""
        also = f"; {live.compared:,} of the application's own reads overlap by {alike}" if live and alike else ""
        yield replace(found, proof=f"{found.proof}{also}")

    name = "Zero user-visible impact"
    stepped = seen.last(STEPPED_BACK)
    if not begun:
        yield Metric(3, name, State.LATER)
    elif stepped is not None:  # a later try may be fine; what users met before stays true
        yield Metric(3, name, State.FAILED, f"readers stepped back: {stepped['details']['reason']}", stepped["at"])
    elif m.stepped_back:
        yield Metric(3, name, State.FAILED, m.stepped_back)
    else:
        found = _unharmed(m, seen, 3, name)
        slowest = max((w.p99_ms for w in seen.writers if w.p99_ms is not None), default=None)
        yield found if slowest is None else replace(found, proof=f"{found.proof}, p99 at most {slowest:g} ms")


def _end(m: Migration, seen: Known) -> Iterator[Metric]:
    name = "Legacy collection deleted"
    deleted = seen.last(DELETED)
    if m.phase is Phase.CLEANED and deleted is not None:
        snapshot = (deleted["details"] or {}).get("snapshot") or {}
        kept = f", final snapshot {snapshot['name']}" if snapshot else ""
        yield Metric(4, name, State.PROVEN, f"`{m.source}` is deleted{kept}", deleted["at"])
    elif m.phase is Phase.FINISHED:
        yield Metric(4, name, State.MISSING, f"`{m.source}` is kept until {m.cleanup_after}")
    else:
        yield Metric(4, name, State.LATER)

    over = m.phase in (Phase.FINISHED, Phase.CLEANED)
    name = "Code simplified: no dual-write logic"
    flags = [w for w in seen.registered if w.pins.describe()]
    if not over:
        yield Metric(4, name, State.LATER)
    elif flags:
        yield Metric(4, name, State.MISSING, f"{flags[0].describe()} is still started with {flags[0].pins.describe()}")
    elif not seen.registered:
        yield Metric(4, name, State.MISSING, "no process is connected that could tell")
    else:
        yield Metric(4, name, State.PROVEN, "no process writes twice, and none is started with a flag that would")

    name = "Single naming standard enforced"
    if not over:
        yield Metric(4, name, State.LATER)
    elif seen.old_name:
        yield Metric(4, name, State.FAILED, f"`{m.target}` is itself a legacy name")
    else:
        yield Metric(4, name, State.PROVEN, f"`{m.source}` leads to `{m.target}`")
