"""Deliberate mistakes, each a replacement of one function of what ships, and the scope that must notice it."""

# ruff: noqa: ARG001  a replacement takes what the shipped function takes

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from qferry.control import records, wire
from qferry.flows import heartbeat
from qferry.flows.coordinator import Coordinator
from qferry.flows.copy import Copied, _Backfill
from qferry.flows.effects import Flow, Now, Outcome, Request
from qferry.protocol.journal import Flush, Journal
from qferry.protocol.records import Writer
from qferry.protocol.session import Session

_SHIPPED_DELETE = wire.delete
_SHIPPED_FLUSH = heartbeat.flush_all
_SHIPPED_TAKE = _Backfill._take
_SHIPPED_END = Journal.end


@dataclass(frozen=True)
class Variant:
    """
    A mistake.

    Args:
        owner: The module or class of the function that is replaced.
        name: The function's name.
        replacement: What is put in its place.
        scope: The scope that must notice it.
        seed: The order in which that is explored to find it soon; if it is not found, others are tried.
    """

    owner: Any
    name: str
    replacement: Callable[..., Any]
    scope: str
    seed: int | None


VARIANTS: dict[str, Variant] = {}


def variant(
    owner: Any, name: str, scope: str, seed: int | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a replacement for `owner.name`; its docstring says what is wrong with it."""

    def register(replacement: Callable[..., Any]) -> Callable[..., Any]:
        VARIANTS[replacement.__name__] = Variant(owner, name, replacement, scope, seed)
        return replacement

    return register


@contextmanager
def broken(found: Variant) -> Iterator[None]:
    """Put a variant in place, wherever the shipped function has been imported to."""
    shipped = getattr(found.owner, found.name)
    with ExitStack() as stack:
        stack.enter_context(patch.object(found.owner, found.name, found.replacement))
        for module in [m for n, m in sys.modules.items() if n.startswith("qferry") and m is not found.owner]:
            if getattr(module, found.name, None) is shipped:
                stack.enter_context(patch.object(module, found.name, found.replacement))
        yield


@variant(wire, "delete", "settle, upsert x delete")
def settling_whatever_the_token(server: str, collection: str, selector: Any) -> Request:
    """Settle an entry even if the point has been touched again since the entry was read."""
    if "_journal_" in collection:
        selector = {"points": selector["filter"]["must"][0]["has_id"]}
    return _SHIPPED_DELETE(server, collection, selector)


@variant(Journal, "start_flush", "settle, upsert x delete")
def forgetting_what_was_in_flight(self: Journal) -> Flush:
    """Take a flush to cover also the writes that were in flight when it began."""
    ids = dict.fromkeys([*self._ended, *self._doubtful(), *self._in_flight])
    return Flush(tuple(ids), self._serial + len(self._in_flight))


@variant(heartbeat, "flush_all", "seal, an early heartbeat", seed=4)
def acknowledging_before_flushing(session: Session) -> Flow[bool]:
    """Acknowledge first, and make durable afterwards what the acknowledgement rests on."""
    now: float = yield Now()
    session.acknowledge(session.settled_view(now))
    yield from heartbeat._report(session)
    return (yield from _SHIPPED_FLUSH(session))


@variant(Coordinator, "fences", "take over", seed=46)
def repairing_after_the_finish(self: Coordinator) -> Flow[list[str]]:
    """Take over without putting down the predecessor's fence, so that its repair may land when all is over."""
    yield Now()
    return []


@variant(Coordinator, "acknowledged", "start, delete x set_payload")
def not_waiting_for_acknowledgements(self: Coordinator, epoch: int, *, seen: bool = False) -> Flow[list[Any]]:
    """Take it that every writer follows at once."""
    listed: list[Any] = yield from records.writers()
    return listed


@variant(_Backfill, "_take", "copy, an answer lost")
def taking_no_answer_for_done(self: _Backfill, number: int, outcome: Outcome) -> None:
    """Go on after a lost answer as if the page had been written."""
    if outcome.error is not None:
        outcome = Outcome(Copied(0, None, 1, done=True))
    _SHIPPED_TAKE(self, number, outcome)


@variant(Journal, "end", "settle, an answer lost")
def dropping_ids_of_unknown_fate(self: Journal, ids: Any, doubt: Any = None) -> None:
    """Treat a write without an answer like one that has ended."""
    _SHIPPED_END(self, ids)


@variant(Coordinator, "_bury", "settle, the only writer killed")
def burying_without_suspicion(self: Coordinator, writer: Writer) -> Flow[None]:
    """Take a writer that has vanished off the list as if it had said goodbye."""
    yield records.forget(writer.id)
