"""One shadow read: a read that has been answered is repeated on the other side, and the answers are compared."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qferry.flows.effects import Call, Flow, Now, Sleep
from qferry.flows.routed import Answered
from qferry.flows.settle import SECOND_LOOK_S
from qferry.protocol.phases import Side
from qferry.protocol.records import Migration
from qferry.protocol.session import Route, Session
from qferry.protocol.shadow import TIMEOUT_S, Gist, Pair, Totals, compared, gist


@dataclass(frozen=True)
class Repeat:
    """
    A read to be repeated, as it was when it was answered: none of the caller's objects, which may change, is in it.

    Args:
        route: How it was routed; while this very route is in force, nothing has changed.
        term: The term of the lease in which it was answered.
        method: What was called.
        arguments: The arguments by name, packed.
        side: The side that has answered.
        answer: What the answer comes down to.
        seconds: What it has taken.
    """

    route: Route
    term: int
    method: str
    arguments: bytes
    side: Side
    answer: Gist
    seconds: float

    @classmethod
    def of(
        cls, session: Session, route: Route, method: str, arguments: Mapping[str, Any], found: Answered
    ) -> Repeat | None:
        """
        The read that has just been answered; to be made before the caller gets that answer.

        None if it cannot be repeated, because an argument can be used only once, such as a generator.
        """
        try:
            packed = pickle.dumps(dict(arguments), pickle.HIGHEST_PROTOCOL)
        except Exception:  # noqa: BLE001  whatever an object raises that is not meant to be copied
            return None
        return cls(route, session.term, method, packed, found.side, gist(method, found.value), found.seconds)

    def call(self, side: Side) -> Call:
        """The read, on one of the sides."""
        m = self.route.migration
        arguments = {**pickle.loads(self.arguments), "timeout": TIMEOUT_S}  # noqa: S301  packed by this very process
        return Call(m.server(side), self.method, m.collection(side), (), arguments)


def dropped(session: Session, migration: Migration) -> Flow[None]:
    """Count a read that is not repeated, because too many are under way or it cannot be."""
    session.shadow(migration, Totals(dropped=1))
    yield from ()


def compare(session: Session, repeat: Repeat) -> Flow[None]:
    """
    Repeat a read on the other side and count how the answers compare.

    A write may have come in between the two; so what differs is asked once more, of both sides.  Nothing is counted if
    the routing has changed meanwhile, or may have.
    """
    m = repeat.route.migration
    now: float = yield Now()
    if not _holds(session, repeat, now):
        return
    other, seconds = yield from _look(repeat, repeat.side.other)
    answer = repeat.answer
    if other is not None and compared(answer, other)[0] < 1:
        yield Sleep(SECOND_LOOK_S)
        again, _ = yield from _look(repeat, repeat.side)
        other, _ = yield from _look(repeat, repeat.side.other)
        if again is None:
            return  # the side that has answered cannot any more: nothing can be said
        answer = again
    ended: float = yield Now()
    if not _holds(session, repeat, ended):
        return
    if other is None:
        session.shadow(m, Totals(errors=1))
        return
    overlap, delta = compared(answer, other)
    session.shadow(m, Pair(repeat.side, overlap, delta, repeat.seconds, seconds).totals)


def _holds(session: Session, repeat: Repeat, now: float) -> bool:
    """Whether the read would still be routed the same way."""
    return session.route(repeat.route.migration.source) is repeat.route and session.holds(repeat.term, now)


def _look(repeat: Repeat, side: Side) -> Flow[tuple[Gist | None, float]]:
    """What the read comes to on a side, None if it fails; and what it takes, in seconds."""
    began: float = yield Now()
    try:
        answer: Any = yield repeat.call(side)
    except Exception:  # noqa: BLE001  whatever it is, it is counted as one
        return None, 0.0
    ended: float = yield Now()
    return gist(repeat.method, answer), ended - began
