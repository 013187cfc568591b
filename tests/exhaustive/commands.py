"""What the coordinators of the scopes do: the flows that ship, from where the scope begins to where it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qferry.control import records, wire
from qferry.errors import Refused
from qferry.flows import lifecycle
from qferry.flows import settle as settling
from qferry.flows.coordinator import Coordinator, claim
from qferry.flows.copy import copy as copying
from qferry.flows.effects import Flow
from qferry.flows.verify import verify
from qferry.protocol.phases import TARGET_IS_TRUTH, Event, Phase
from qferry.protocol.records import HOME, Migration

from .processes import TODAY, P

Command = Callable[[Migration], Flow[Any]]
HOLDER = "first"  # the claim's token at the beginning
# A writer of which nothing is heard, and then a full check, are followed by cycles until one is clean.
_CHECKS = 6


def holder(m: Migration) -> Coordinator:
    """The coordinator that holds the claim at the beginning, its fence up."""
    return Coordinator(m, HOLDER, HOLDER, fence=m.fence(HOLDER))


def start(m: Migration) -> Flow[None]:
    """Publish dual writes, wait for the writers, copy."""
    co = holder(m)
    yield from co.move(Event.CREATED, "dual writes begin")
    yield from lifecycle.start(co)
    yield from copying(co)


def copy(m: Migration) -> Flow[None]:
    """Copy the source."""
    yield from copying(holder(m))


def settle(m: Migration) -> Flow[None]:
    """Settle what is in the journal."""
    yield from settling.drain(holder(m))


def repair(m: Migration) -> Flow[None]:
    """Make the target equal to the source."""
    yield from settling.repair(holder(m), [P])


def seal(m: Migration) -> Flow[None]:
    """Finish, up to the point of no return."""
    yield from lifecycle._seal(holder(m), TODAY)


def leave(m: Migration) -> Flow[None]:
    """Finish, from the point of no return."""
    co = holder(m)
    yield from co.drop_fence()
    yield from co.move(Event.SEALED, "point of no return")
    yield from lifecycle.finish(co, TODAY)


def resume(_: Migration) -> Flow[None]:
    """Take over from one that has died or failed, without waiting for its claim to lapse, and go on."""
    (m,) = yield from records.migrations()
    co = yield from claim(m, "again", at_once=True)
    yield from co.fenced()
    if co.migration.phase is Phase.COPYING:
        yield from copying(co)
    yield from settling.drain(co)


def take_over_and_seal(_: Migration) -> Flow[None]:
    """Take the claim from the one at work, and finish, up to the point of no return."""
    (m,) = yield from records.migrations()
    co = yield from claim(m, "second", at_once=True)
    yield from lifecycle._seal(co, TODAY)


def check(_: Migration) -> Flow[None]:
    """
    The end of every run: complete what was left, then cycles as `finish` makes them, until one is clean.

    Raises:
        Refused: None is clean, although the application has nothing more to do.
    """
    (m,) = yield from records.migrations()
    if m.phase in TARGET_IS_TRUTH:
        return
    co = holder(m)
    standing = [alias["alias_name"] for alias in (yield wire.aliases(HOME))["aliases"]]
    if m.claim != co.token or co.fence not in standing:
        co = yield from claim(m, "check", at_once=True)
        yield from co.fenced()
    if m.phase is Phase.STARTING:
        yield from lifecycle.start(co)
    if co.migration.phase is Phase.COPYING:
        yield from copying(co)
    for _ in range(_CHECKS):
        done = yield from settling.cycle(co, "check")
        if co.migration.suspicions:
            yield from verify(co, mend=True, queries=0)
        elif not done.repaired and not done.left:
            return
    raise Refused("The cycles keep finding differences.")
