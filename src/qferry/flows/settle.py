"""
Check, repair, and the settling of the journal: where rule (J) is kept.

A settled entry is one whose check found both sides equal, and that check began after the entry was read; the entry
was flushed after its write had ended, or will be flushed again.  Nothing is settled while a copy runs, and only the
holder of the claim repairs, through its fence: every copy and repair that read the point earlier has landed or
cannot land any more.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import orjson

from qferry.control import wire
from qferry.errors import Refused
from qferry.flows.configuration import is_replicated
from qferry.flows.coordinator import Coordinator
from qferry.flows.effects import Flow, Json, Report, Sleep, Together
from qferry.flows.pages import whole
from qferry.logs import tell
from qferry.protocol.journal import PointId
from qferry.protocol.phases import Phase, Side
from qferry.protocol.records import HOME, Migration
from qferry.transfer.fidelity import settled_payload

CHECK_POINTS = 256
# A write under way reaches the two sides a moment apart: look again before calling it a difference, in seconds.
SECOND_LOOK_S = 0.05
# A point that still differs after so many repairs is being written all the time; its entry stays for the next cycle.
REPAIR_ROUNDS = 5
# After so many journal cycles that found something to repair, the command gives up and says so.
CYCLES_MAX = 30

_MAY_SETTLE = frozenset({Phase.COPIED, Phase.SWITCHED})


@dataclass(frozen=True)
class Settled:
    """What one pass over the journal did."""

    checked: int = 0
    repaired: int = 0  # points that were written to the target
    left: int = 0  # entries that were still different when the pass left them

    def __add__(self, other: Settled) -> Settled:
        return Settled(self.checked + other.checked, self.repaired + other.repaired, self.left + other.left)


def content(point: Json | None) -> bytes:
    """
    A point's payload and vectors as bytes that are equal exactly when the data is: 1 is not 1.0, 0.0 not -0.0.

    Empty for a point that is not there.
    """
    if point is None:
        return b""
    return dumped([point.get("payload") or {}, point.get("vector")])


def dumped(value: Json) -> bytes:
    """JSON as bytes that are equal exactly when it is."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def same(one: Json | None, other: Json | None) -> bool:
    """
    Whether two points are equal as far as a server keeps them.

    A double may change in its last bits whenever the server stores it anew, on each side in its own time
    (transfer/fidelity.py); two that end in the same place are the same.
    """
    if content(one) == content(other):
        return True
    if one is None or other is None:
        return False
    return content(_settled(one)) == content(_settled(other))


def _settled(point: Json) -> Json:
    return {**point, "payload": settled_payload(point.get("payload") or {})}


def check(migration: Migration, ids: Sequence[PointId]) -> Flow[dict[PointId, Json | None]]:
    """The points among `ids` that differ: the source's state of each, None where it has none. Reads only."""
    m = migration
    sides = (Side.SOURCE, Side.TARGET)
    answers = yield Together(tuple(wire.retrieve(m.server(s), m.collection(s), ids) for s in sides))
    for answer in answers:
        if answer.error is not None:
            raise answer.error
    source, target = ({point["id"]: point for point in answer.value} for answer in answers)
    absent = [i for i in ids if i not in source and i not in target]
    if absent and is_replicated(m.overrides):
        # Read from all copies, a point that one of them has kept looks as deleted as it should be.
        kept = yield wire.count_anywhere(m.target_url, m.target, wire.points_in(absent))
        absent = absent if kept["count"] else []
    else:
        absent = []
    return dict.fromkeys(absent) | {i: source.get(i) for i in ids if not same(source.get(i), target.get(i))}


def repair(co: Coordinator, ids: Sequence[PointId]) -> Flow[tuple[int, set[PointId]]]:
    """
    Make the target equal to the source on `ids`; what is already equal is not written.

    Readers do not see the target meanwhile, nor before `show_target`.

    Returns:
        How many points were written, and the ids that still differed at the last look.
    """
    m = co.migration
    written = 0
    differing: dict[PointId, Any] = yield from check(m, ids)
    for _ in range(REPAIR_ROUNDS):
        if not differing:
            break
        yield Sleep(SECOND_LOOK_S)
        differing = yield from check(m, list(differing))
        if differing and co.must_hold_reads:
            yield from co.hold_reads()
            differing = yield from check(m, list(differing))
        present = [point for point in differing.values() if point is not None]
        absent = [i for i, point in differing.items() if point is None]
        known = True
        if present:
            known = yield from co.write_target(wire.upsert(m.target_url, co.fence, [whole(p) for p in present]))
        if absent and known:
            yield from co.write_target(wire.delete(m.target_url, co.fence, {"points": absent}))
        written += len(differing)
        differing = yield from check(m, list(differing))
    return written, set(differing)


def drain(co: Coordinator, *, mend: bool = True) -> Flow[Settled]:
    """
    One pass over the journal: check every entry, repair what differs (with `mend`), settle what is equal.

    Raises:
        Refused: The copy has not finished; its pages may still land on points that were found equal.
    """
    m = co.migration
    if m.phase not in _MAY_SETTLE:
        raise Refused(f"The journal is not settled while the migration is {m.phase.value}.")
    total = Settled()
    offset: PointId | None = None
    expected = (yield wire.count(HOME, m.journal_collection))["count"]
    while True:
        page = yield wire.scroll(HOME, m.journal_collection, offset=offset, limit=CHECK_POINTS, payload=["token"])
        entries = {point["id"]: point["payload"]["token"] for point in page["points"]}
        if entries:
            done = yield from _settle(co, entries, mend=mend)
            total += done
            checked = min(total.checked, expected)
            yield Report("settle", checked, expected, "checking written points", repaired=done.repaired)
        yield from co.stay()
        offset = page["next_page_offset"]
        if offset is None:
            break
    if total.checked:
        facts = {"checked": total.checked, "repaired": total.repaired, "left": total.left}
        said = f"{total.checked:,} written points checked, {total.repaired:,} repaired, {total.left:,} left"
        tell(logging.INFO, "settled", f"`{m.source}` to `{m.target}`: {said}.", source=m.source, **facts)
    return total


def _settle(co: Coordinator, entries: dict[PointId, str], *, mend: bool) -> Flow[Settled]:
    m = co.migration
    differing = yield from check(m, list(entries))
    written = 0
    left: set[PointId] = set()
    if differing and mend:
        written, left = yield from repair(co, list(differing))
    elif differing:
        yield Sleep(SECOND_LOOK_S)
        left = set((yield from check(m, list(differing))))
    equal = [i for i in entries if i not in left]
    # A newer touch carries a token that this page has not seen and survives.  A token seen on this page is of a
    # flush that began before the page was read, so the check also came after the writes it stands for.
    condition = {
        "must": [
            {"has_id": equal},
            {"key": "token", "match": {"any": sorted({entries[i] for i in equal})}},
        ]
    }
    if equal:
        yield wire.delete(HOME, m.journal_collection, {"filter": condition})
    return Settled(len(entries), written, len(left))


def drain_well(co: Coordinator, *, small: int = 1000, passes: int = 20) -> Flow[Settled]:
    """Drain until what remains is only what was written in the last moments, or does not become less."""
    total = Settled()
    before: float = inf
    for _ in range(passes):
        done = yield from drain(co)
        total += done
        if done.checked <= small or done.checked >= before:
            break
        before = done.checked
    return total


def cycle(co: Coordinator, what: str, *, mend: bool = True) -> Flow[Settled]:
    """
    One journal cycle: hear every writer, then check everything that is in the journal.

    It is clean if `repaired` and `left` are 0: every write in flight when it began has ended and been flushed, every
    entry was found equal, and no repair wrote anything since it began.
    """
    yield from co.roll_call(what)
    done: Settled = yield from drain(co, mend=mend)
    return done


def show_target(co: Coordinator) -> Flow[bool]:
    """
    Give back the reads that were held during repairs, after a clean cycle: what a repair has undone is mended by then.

    Returns:
        Whether readers see the target.  They do not while only a full check can be trusted, and not if the cycles
        keep finding differences.
    """
    for attempt in range(1, CYCLES_MAX + 1):
        if co.migration.phase is not Phase.SWITCHED or not co.migration.reads_held:
            return True
        yield Report("cycle", attempt, CYCLES_MAX, "looking for a journal cycle without a difference")
        yield from drain_well(co)
        done = yield from cycle(co, "journal cycle before readers see the target")
        if co.migration.verified is None:
            return False
        if not done.repaired and not done.left:
            yield from co.give_reads_back()
    return not co.migration.reads_held


def never_clean(what: str) -> Refused:
    """The error of a command for which no journal cycle was clean."""
    return Refused(
        f"{CYCLES_MAX} journal cycles in a row found differences: several processes keep writing the same points at "
        f"the same instant. {what}",
        hint="Run the command again when they write less; nothing was lost.",
    )
