"""
The scopes that are explored.

Two writers (one, where it says so) of one point, with one or two calls each: whatever can go wrong between two sides
goes wrong with one point, and a third writer of it adds no new neighbour to any step (that is an experience, not a
proof; many points and writers are the random simulator's).  What is left out of a scope to keep it complete in seconds
is named in its line; `python -m tests.exhaustive` says how many states each has.
"""

from __future__ import annotations

from dataclasses import replace

from tests.simulation.possible_states import Step

from qferry.protocol.phases import Phase

from . import commands
from .processes import P, Read
from .scope import Scope


def upsert(value: int) -> Step:
    """A call that writes the whole point."""
    return Step("upsert", (P,), payload={"v": value}, vectors={"": (float(value),)})


def set_payload(value: int) -> Step:
    """A call that updates the point in part."""
    return Step("set_payload", (P,), payload={"w": value})


def delete() -> Step:
    """A call that deletes the point."""
    return Step("delete", (P,))


def delete_where(value: int) -> Step:
    """A call that deletes what a filter matches."""
    return Step("delete", where=("v", value))


RACES: dict[str, tuple[tuple[Step, ...], tuple[Step, ...]]] = {
    "upsert x delete": ((upsert(2),), (delete(),)),
    "upsert x set_payload": ((upsert(2),), (set_payload(3),)),
    "delete x set_payload": ((delete(),), (set_payload(3),)),
    "upsert x delete where": ((upsert(2),), (delete_where(2),)),
}
_ALONE = ((upsert(2),),)

# Two heartbeats follow an epoch: one learns of it, the next acknowledges it.
_START = Scope(
    "two writers take up dual writes, each at its own pace, until the copy has ended",
    Phase.ANNOUNCED,
    _ALONE,
    commands.start,
    target={},
    news=2,
)
_COPY = Scope(
    "a page overtakes, and is overtaken by, two writers' writes and flushes",
    Phase.COPYING,
    _ALONE,
    commands.copy,
    target={},
    beats=1,
)
_SETTLE = Scope(
    "an entry is settled, or repaired, while two writers write and flush",
    Phase.COPIED,
    _ALONE,
    commands.settle,
    journal={P: "earlier"},
    beats=1,
    still=True,
)
_SEAL = Scope(
    "a clean cycle while two writers write, to the point of no return; one cycle is tried",
    Phase.SWITCHED,
    _ALONE,
    commands.seal,
    news=2,
    refusals={"first": "found differences"},
)
_LEAVE = Scope(
    "the target becomes truth, then the only one, each writer at its own pace",
    Phase.SWITCHED,
    _ALONE,
    commands.leave,
    news=2,
    mending=False,
)
_MEND = Scope(
    "two writers race while readers see the target; a third write, and a read, meet what they have left",
    Phase.SWITCHED,
    ((upsert(2), set_payload(3)), (delete(), Read((P,)))),
)
_TAKE_OVER = Scope(
    "a second coordinator takes over between a read and its repair, and seals; one writer",
    Phase.SWITCHED,
    _ALONE,
    commands.repair,
    second=commands.take_over_and_seal,
    target={},
    journal={P: "earlier"},
    news=2,
    refusals={"first": "Conflict", "second": "found differences"},
)


def _faulty(scope: Scope, about: str, *faults: str) -> Scope:
    again = commands.resume if {"operator", "commands"} & {*faults} else None
    return replace(scope, about=about, again=again, faults=frozenset(faults), still=False)


_BOTH = RACES["upsert x delete"]
SCOPES: dict[str, Scope] = {
    "start, delete x set_payload": replace(_START, calls=RACES["delete x set_payload"]),
    **{f"copy, {name}": replace(_COPY, calls=race) for name, race in RACES.items() if "where" not in name},
    **{f"settle, {name}": replace(_SETTLE, calls=RACES[name]) for name in ("upsert x delete", "delete x set_payload")},
    "settle, careful": replace(
        _SETTLE, about="the same, one writer whose heart may beat between any two steps of a call", careful=True
    ),
    "seal, an early heartbeat": replace(
        _SEAL, about="the same; a heartbeat of each has begun before anything else", calls=_BOTH, beating=True, news=1
    ),
    "seal, delete x set_payload": replace(_SEAL, calls=RACES["delete x set_payload"], news=1),
    **{f"leave, {name}": replace(_LEAVE, calls=RACES[name]) for name in ("upsert x delete", "upsert x delete where")},
    "leave, delete x set_payload": replace(_LEAVE, calls=RACES["delete x set_payload"], news=1),
    "mend": _MEND,
    "mend, an answer lost": _faulty(_MEND, "the same, and an answer to a writer is lost", "calls"),
    "take over": _TAKE_OVER,
    "start, a long pause": _faulty(
        replace(_START, news=1), "everybody is put aside for longer than a lease, once; one writer", "pause"
    ),
    "copy, coordinator killed": _faulty(
        replace(_COPY, calls=_BOTH, beats=0), "the coordinator is killed, its requests land late or never", "operator"
    ),
    "copy, an answer lost": _faulty(
        replace(_COPY, calls=_BOTH, beats=0, source={P: 1, 2: 5}), "an answer to the coordinator is lost", "commands"
    ),
    "settle, an answer lost": _faulty(
        replace(_SETTLE, calls=((upsert(2), upsert(4)),)), "an answer to the one writer is lost", "calls"
    ),
    "settle, one of two writers killed": _faulty(
        replace(_SETTLE, calls=_BOTH, beats=0), "a writer is killed", "writer"
    ),
    "settle, the only writer killed": _faulty(_SETTLE, "the one writer is killed", "writer"),
    "settle, coordinator killed": _faulty(
        replace(_SETTLE, calls=_BOTH, beats=0), "the coordinator is killed", "operator"
    ),
}
