"""The simulated application: processes with a client each, the calls they make, and what they are told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from qdrant_client.http.exceptions import UnexpectedResponse

from qferry.errors import LeaseLost, Rejected
from qferry.protocol.records import Pins
from qferry.protocol.session import Session

from .calls import PHASES, Planned, flow_of
from .clients import Client
from .network import GRACE_S, LATE_S
from .possible_states import Call, State, as_state
from .world import Accidents, Task, World

SOURCE, TARGET = "old", "new"
_NEVER_COMES_S = 150.0  # what has not come about by then is not waited for
_LIVES = 2  # how often a process that died is started again


@dataclass(frozen=True)
class ClientPlan:
    """
    What is in store for one process of the application.

    Args:
        name: What the trace calls it.
        streams: Calls it makes one after the other; two streams run side by side.
        accidents: What happens to it.
        pins: What its environment fixes.
        journal_before: Whether it makes ids durable before each write.
    """

    name: str
    streams: tuple[tuple[Planned, ...], ...]
    accidents: Accidents
    pins: Pins
    journal_before: bool


class Application:
    """
    The processes and what they were told.

    Args:
        world: Where they live.
        phase: Where the migration stands.
        deferred_s: How long a write that was not waited for may stay invisible.
        both_names: Whether calls may name the target; one that does fails after an abort, and rightly so.
    """

    def __init__(self, world: World, phase: Callable[[], str], deferred_s: float, *, both_names: bool) -> None:
        self.world = world
        self.calls: list[Call] = []
        self.open: set[str] = set()  # the processes that still have calls to make
        self.both_names = both_names
        self.deferred_s = deferred_s
        self._phase = phase
        self._waiting: list[tuple[Planned, Callable[[], None]]] = []
        world.after(_NEVER_COMES_S, self.look_at_phase)

    def start(self, plan: ClientPlan, generation: int = 0) -> None:
        """Start a process; one that is killed is started anew and makes the calls that are left."""
        self.open.add(plan.name)
        _Life(self, plan, generation).look()

    def when_due(self, planned: Planned, call: Callable[[], None]) -> None:
        """Let `call` happen once the migration has come as far as the call wants it."""
        now = self._phase()
        never = now not in PHASES or self.world.now >= _NEVER_COMES_S
        if never or PHASES.index(now) >= PHASES.index(planned.phase):
            self.world.after(planned.pause_s, call)
        else:
            self._waiting.append((planned, call))

    def look_at_phase(self) -> None:
        """Let the calls go on whose phase has come."""
        waiting, self._waiting = self._waiting, []
        for planned, call in waiting:
            self.when_due(planned, call)


class _Life:
    """One process of the application, from its start to its goodbye or its death."""

    def __init__(self, application: Application, plan: ClientPlan, generation: int) -> None:
        name = f"{plan.name}.{generation}" if generation else plan.name
        self._application = application
        self._world = application.world
        self._plan = plan
        self._generation = generation
        self._chance = random.Random(f"{self._world.seed} {name} session")
        session = Session(
            writer_id=f"{self._chance.getrandbits(32):08x}-0000-4000-8000-{self._chance.getrandbits(48):012x}",
            host=name,
            pid=1,
            since="",
            pins=plan.pins,
            random=self._chance.random,
            grace_s=GRACE_S,
            journal_before=plan.journal_before,
        )
        self._client = Client(self._world, name, plan.accidents if not generation else {}, session)
        self._left = [list(stream) for stream in plan.streams]
        self._running = len(self._left)
        self._calls: list[tuple[Call, int]] = []  # each with the session's term when it began
        for calls in self._left:
            self._go_on(calls)

    def look(self) -> None:
        """See whether the process has died, or has nothing more to do."""
        plan, done = self._plan, self._application.open.discard
        if not self._client.alive:
            for call, term in self._calls:  # what it had sent has landed by then, or never does
                call.outlived_lease |= call.end == inf and self._client.session.term != term
                call.end = min(call.end, self._client.killed_at + LATE_S)
            rest = tuple(tuple(calls) for calls in self._left if calls)
            if rest and self._generation < _LIVES:
                self._application.start(replace(plan, streams=rest), self._generation + 1)
            else:
                done(plan.name)
        elif self._running or self._client.closing:
            self._world.after(1.0, self.look)
        elif plan.pins != Pins() or self._chance.random() < 0.7:  # a pinned process holds up the operator
            self._client.close(lambda: done(plan.name))
            self._world.after(1.0, self.look)  # it may be killed as it says goodbye
        else:  # it stays, and its heart beats on
            done(plan.name)

    def _go_on(self, calls: list[Planned]) -> None:
        if calls and self._client.alive:
            planned = calls.pop(0)
            self._application.when_due(planned, lambda: self._call(planned, calls))
        else:
            self._running -= 1

    def _call(self, planned: Planned, calls: list[Planned]) -> None:
        client, world = self._client, self._world
        if not client.alive:
            return
        call = Call(client.name, world.now, planned.steps, planned.reads)
        self._application.calls.append(call)
        term = client.session.term
        self._calls.append((call, term))
        world.note(client.name, "calls", planned)

        def ended(task: Task, value: Any, error: BaseException | None) -> None:
            self._note(call, planned, task, value, error, term)
            self._go_on(calls)

        task = client.run(flow_of(client.session, planned, self._name_to_call()), ended)

        def cancel() -> None:
            if call.end == inf:
                task.cancel(asyncio.CancelledError())

        if planned.cancel_after_s is not None:
            world.after(planned.cancel_after_s, cancel)

    def _name_to_call(self) -> str:
        """The source's name or, from the moment the process has seen the migration, either."""
        known = self._application.both_names and self._client.session.route(TARGET) is not None
        return self._client.random.choice((SOURCE, TARGET)) if known else SOURCE

    def _note(
        self, call: Call, planned: Planned, task: Task, value: Any, error: BaseException | None, term: int
    ) -> None:
        """Write down what the application was told."""
        call.end = call.seen_by = self._world.now
        call.outlived_lease = self._client.session.term != term
        if not planned.wait or planned.upload:
            call.seen_by += self._application.deferred_s
            call.waited = False
        call.served_by = task.last_call.collection if task.last_call is not None else ""
        if error is None:
            call.outcome = "ok" if planned.reads or planned.upload or _done(value) else "unknown"
            if planned.reads:
                found = {record["id"]: _state(record) for record in value}
                call.answer = {i: found.get(i) for i in planned.reads}
        else:
            call.outcome = _outcome(error, planned)
            call.error = f"{type(error).__name__}: {error}".splitlines()[0]
            call.excuse = "cancelled" if isinstance(error, asyncio.CancelledError) else task.hurt
            if isinstance(error, LeaseLost) and "took longer than its lease" in error.message:
                call.excuse = "stopped"  # it was, and the batch is of those that are not carried out twice
            if call.outcome == "missing":
                call.error = "a point was not found"
        if (call.outcome == "ok" or planned.upload) and planned.steps and task.hurt:
            # It was tried again, as uploads are: the request that got no answer may still land, migration or not.
            self._application.calls.append(replace(call, outcome="unknown", error=""))
        self._world.note(call.who, f"is told {call.outcome}", call.error or value)


def _done(value: Any) -> bool:
    results = value if isinstance(value, list) else [value]
    return all(result.status in ("completed", "acknowledged") for result in results)


def _state(record: dict[str, Any]) -> State:
    return as_state(record["payload"], record["vector"])


def _outcome(error: BaseException, planned: Planned) -> str:
    if isinstance(error, UnexpectedResponse) and error.status_code == 404 and b"No point with id" in error.content:
        # One that is tried again may have been carried out earlier, and may be still.
        return "missing" if not planned.upload else "unknown"
    if isinstance(error, Rejected) and error.final:
        return "rejected"
    return "unknown"
