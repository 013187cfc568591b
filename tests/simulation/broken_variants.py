"""
Deliberately broken variants of qferry, each a patch of one function of what ships.

They show that the simulator has teeth: every one must break a promise within a few thousand schedules.
"""

# ruff: noqa: ARG001  a replacement takes what the shipped function takes

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from qferry.control import records
from qferry.errors import Rejected
from qferry.flows import write
from qferry.flows.coordinator import Coordinator
from qferry.flows.effects import Flow, Now, Outcome, Together
from qferry.protocol.phases import Side

VARIANTS: dict[str, tuple[Any, str, Callable[..., Any]]] = {}


def variant(owner: Any, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a replacement for `owner.name`; its docstring says what is wrong with it."""

    def register(broken: Callable[..., Any]) -> Callable[..., Any]:
        VARIANTS[broken.__name__] = (owner, name, broken)
        return broken

    return register


@contextmanager
def broken(name: str) -> Iterator[None]:
    """Put a variant in place, wherever the shipped function has been imported to."""
    owner, attribute, replacement = VARIANTS[name]
    shipped = getattr(owner, attribute)
    with ExitStack() as stack:
        stack.enter_context(patch.object(owner, attribute, replacement))
        for module in [
            m for n, m in sys.modules.items() if n.startswith(("qferry", "tests.simulation", "simulation."))
        ]:
            if module is not owner and getattr(module, attribute, None) is shipped:
                stack.enter_context(patch.object(module, attribute, replacement))
        yield


@variant(write, "journalled")
def documents_recipe(session: Any, view: Any, route: Any, operations: Any, options: Any) -> Flow[Any]:
    """Write to one side and then to the other, without a journal; whatever the target says is the caller's."""
    for side in (Side.SOURCE, Side.TARGET):
        (outcome,) = yield Together((write._batch(route, side, operations, options),))
        if outcome.error is not None:
            raise outcome.error
    return outcome.value


@variant(write, "_leave_out_missing")
def handing_the_targets_404_to_the_caller(route: Any, side: Side, run: Any, ids: Any, options: Any) -> Flow[Outcome]:
    """Let a partial update fail because the target lacks the point."""
    yield Now()
    return Outcome(error=Rejected("The target has no such point.", status=404))


@variant(Coordinator, "acknowledged")
def not_waiting_for_acknowledgements(self: Coordinator, epoch: int, *, seen: bool = False) -> Flow[list[Any]]:
    """Take it that every writer follows at once."""
    listed: list[Any] = yield from records.writers()
    return listed
