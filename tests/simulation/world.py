"""
The third driver: flows on virtual time.

Every request has its own moments: it is sent, it arrives and is carried out, it is answered; each takes as long as
the seed says, so that the seed chooses the interleaving.  A process is advanced like the blocking driver advances
one: a flow runs undisturbed between two effects, several flows of a process take turns.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from math import inf
from typing import Any

from qferry.errors import Unreachable
from qferry.flows.effects import (
    Await,
    Begin,
    Call,
    Carry,
    Effect,
    Flow,
    Fresh,
    NewId,
    Now,
    Outcome,
    Report,
    Request,
    Room,
    Sleep,
    Today,
    Together,
    Work,
)

from .network import Answered, Network

# At which of a process's effects what happens: `kill`, or for how many seconds it is stopped before that effect.
Accidents = dict[int, str | float]
_EPOCH = datetime(2026, 1, 1, tzinfo=timezone.utc)
ROUGHNESS = (0.02, 0.1, 0.3, 0.8)
# How often a thread of a process is held up before an effect, and for how long, in seconds: mostly less than a lease.
SLUGGISHNESS = (0.0, 0.0, 0.01, 0.06)
HELD_UP_S = (0.5, 1.0, 1.5, 4.0)
# A process is sometimes put aside between two effects, even if nothing has to be waited for.
_PUT_ASIDE = 0.05
# In a run with accidents: how often a worker meets one, within how many effects, and when it is known to be lost.
_LOST, _LOST_WITHIN, LOST_AFTER_S = 0.15, 12, 3.0


class World:
    """Virtual time, the network, and the order of everything."""

    def __init__(self, seed: int, network: Network) -> None:
        self.seed = seed
        self.now = 0.0
        self.random = random.Random(f"{seed} world")
        # In most runs the network is quick: whether leases and waits run out is then a matter of accidents and faults.
        self.pace = self.random.choice((0.1, 0.2, 0.6))
        self.accidental = False  # whether workers meet with accidents
        self.network = network
        network.world = self
        self.processes: list[Process] = []
        self.trace: list[tuple[float, str, str, object]] = []
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = 0

    def after(self, delay: float, action: Callable[[], None]) -> None:
        """Let `action` happen `delay` seconds from now."""
        self._serial += 1
        heapq.heappush(self._queue, (self.now + delay, self._serial, action))

    def run_until(self, done: Callable[[], bool], at_latest: float) -> bool:
        """Let things happen until `done`; False if that has not come about in time."""
        while not done():
            if not self._queue or self._queue[0][0] > at_latest:
                return False
            self.now, _, action = heapq.heappop(self._queue)
            action()
        return True

    def end(self, within: float) -> None:
        """End every process, and let what is on its way arrive."""
        self.network.calm = True
        for process in self.processes:
            process.alive = False
        self.run_until(lambda: False, self.now + within)

    def note(self, who: str, what: str, about: object = "") -> None:
        """Write a line of the trace; `about` is put into words only if somebody reads it."""
        self.trace.append((self.now, who, what, about))


class Process:
    """
    One process: its clock, its flows, and the accidents in store for it.

    Args:
        world: Where it lives.
        name: What the trace calls it.
        accidents: What is in store for it.
    """

    # Which share of the network's faults is for its requests.
    exposure = 0.2

    def __init__(self, world: World, name: str, accidents: Accidents | None = None) -> None:
        self.world = world
        self.name = name
        self.random = random.Random(f"{world.seed} {name}")
        self.alive = True
        world.processes.append(self)
        self.stopped_until = 0.0
        self.killed_at = inf
        self.mourners: list[Callable[[], None]] = []  # told, a while later, that it was killed
        self.roughness = self.random.choice(ROUGHNESS)  # how often its requests take long, without anything being wrong
        self._sluggishness = self.random.choice(SLUGGISHNESS)
        self._accidents = accidents or {}
        self._effects = 0
        self._pieces: list[Outcome | None] = []  # what became of the pieces of work it has begun, by number
        self._awaiting: Callable[[], None] = lambda: None
        self._offset = self.random.uniform(0, 1e6)
        self._rate = self.random.uniform(0.995, 1.005)

    def clock(self) -> float:
        """Its monotonic clock: any origin, and a rate of its own."""
        return self._offset + self.world.now * self._rate

    def run(self, flow: Flow[Any], on_end: Callable[[Task, Any, BaseException | None], None]) -> Task:
        """Start a flow."""
        task = Task(self, flow, on_end)
        self.world.after(0.0, task.resume)
        return task

    def accident(self) -> float | None:
        """What happens at this effect: for how many seconds it is held up, or None if the process dies."""
        self._effects += 1
        if self._sluggishness and self.random.random() < self._sluggishness:
            return self.random.uniform(0.0, self.random.choice(HELD_UP_S))
        fate = self._accidents.get(self._effects, 0.0)
        if fate == "kill":
            self.kill()
            return None
        if fate:
            self.world.note(self.name, f"is stopped for {fate:.1f} s")
            self.stopped_until = self.world.now + float(fate)
        return float(fate)

    def kill(self) -> None:
        """End here and now; what was sent is on its way."""
        self.world.note(self.name, "is killed")
        self.alive = False
        self.killed_at = self.world.now
        for mourner in self.mourners:
            self.world.after(self.random.uniform(0, LOST_AFTER_S), mourner)

    def begin(self, work: Work) -> int:
        """Let a piece of work be carried out by a process of its own, which outlives this one."""
        number = len(self._pieces)
        accidents: Accidents = {}
        if self.world.accidental and self.random.random() < _LOST:
            accidents[self.random.randint(1, _LOST_WITHIN)] = self.random.choice(("kill", self.random.uniform(1, 8)))
        worker = Process(self.world, f"{self.name}/{number}", accidents)
        worker.run(work.flow(), lambda _, value, error: self._piece_ended(number, Outcome(value, error)))  # type: ignore[arg-type]
        worker.mourners.append(lambda: self._piece_ended(number, Outcome(error=Unreachable("The worker was lost."))))
        self._pieces.append(None)
        return number

    def _piece_ended(self, number: int, outcome: Outcome) -> None:
        self._pieces[number] = outcome
        self._awaiting()

    def ended(self, numbers: tuple[int, ...]) -> list[tuple[int, Outcome]]:
        """Those of the pieces that have ended."""
        return [(n, outcome) for n in numbers if (outcome := self._pieces[n]) is not None]

    def await_piece(self, wake: Callable[[], None]) -> None:
        """Let `wake` be called when a piece of work ends."""
        self._awaiting = wake

    def fresh(self, answered: Answered, renew: bool) -> None:
        """Carry out `Fresh`; only a client can."""
        raise NotImplementedError(f"{self.name} has no session to renew")


class Task:
    """A flow under way."""

    def __init__(
        self, process: Process, flow: Flow[Any], on_end: Callable[[Task, Any, BaseException | None], None]
    ) -> None:
        self.process = process
        self.hurt = ""  # the injected fault that one of its requests met
        self.last_call: Call | None = None
        self.abandoned = False
        self._flow = flow
        self._on_end = on_end
        self._turn = 0  # how many effects it has yielded: an answer to an earlier one comes too late

    def resume(self, value: Any = None, error: BaseException | None = None) -> None:
        """Go on with the result of the last effect, until something has to be waited for."""
        process, world = self.process, self.process.world
        if process.stopped_until > world.now:
            turn = self._turn

            def go_on() -> None:
                if turn == self._turn:
                    self.resume(value, error)

            world.after(process.stopped_until - world.now, go_on)
            return
        while process.alive and not self.abandoned:
            try:
                effect = self._flow.throw(error) if error is not None else self._flow.send(value)
            except StopIteration as stop:
                self._on_end(self, stop.value, None)
                return
            except BaseException as raised:  # noqa: BLE001  the driver passes on whatever the flow ends in
                self._on_end(self, None, raised)
                return
            error = None
            if isinstance(effect, Room):  # its driver knows that, so nothing can happen meanwhile
                value = effect.here
                continue
            self._turn += 1
            stopped = process.accident()
            if stopped is None:
                return
            if stopped:
                self._held_up(effect, self._turn, stopped)
                return
            if not isinstance(effect, Now | NewId | Today | Report) or process.random.random() < _PUT_ASIDE:
                self._perform(effect)
                return
            value = self._at_once(effect)

    def _held_up(self, effect: Effect, turn: int, seconds: float) -> None:
        process, world = self.process, self.process.world

        def go_on() -> None:
            if turn != self._turn or not process.alive:
                return
            if process.stopped_until > world.now:
                self._held_up(effect, turn, process.stopped_until - world.now)
            else:
                self._perform(effect)

        world.after(seconds, go_on)

    def cancel(self, error: BaseException) -> None:
        """Interrupt the effect it waits for, like asyncio's cancellation does; what was sent is on its way."""
        if self._turn:
            self._turn += 1
            self.resume(None, error)

    def _at_once(self, effect: Effect) -> Any:
        match effect:
            case Now():
                return self.process.clock()
            case NewId():
                return f"{self.process.random.getrandbits(128):032x}"
            case Today():
                today = _EPOCH + timedelta(seconds=self.process.world.now)
                return today.strftime("%Y-%m-%dT%H:%M:%SZ")
        return None

    def _perform(self, effect: Effect) -> None:
        world, turn = self.process.world, self._turn

        def answered(value: Any, error: BaseException | None, hurt: str) -> None:
            self.hurt = self.hurt or hurt
            if turn == self._turn:
                self.resume(value, error)

        match effect:
            case Sleep(seconds):
                world.after(seconds / self.process._rate, lambda: answered(None, None, ""))
            case Fresh(renew):
                self.process.fresh(answered, renew)
            case Request() | Call():
                self.last_call = effect if isinstance(effect, Call) else self.last_call
                world.network.send(self.process, effect, answered)
            case Carry(download, upload):
                self._carry(download, upload, answered)
            case Together(effects):
                self._together(effects, answered)
            case Begin(work):
                number = self.process.begin(work)
                world.after(self.process.random.uniform(0, 0.01), lambda: answered(number, None, ""))
            case Await(numbers, seconds):
                self._await(numbers, seconds, answered)
            case _:
                value = self._at_once(effect)
                world.after(self.process.random.uniform(0, 0.002), lambda: answered(value, None, ""))

    def _await(
        self,
        numbers: tuple[int, ...],
        seconds: float,
        answered: Callable[[Any, BaseException | None, str], None],
    ) -> None:
        process = self.process

        def look() -> None:
            found = process.ended(numbers)
            if found:
                process.await_piece(lambda: None)
                process.world.after(process.random.uniform(0, 0.01), lambda: answered(found, None, ""))

        process.await_piece(look)
        process.world.after(seconds / process._rate, lambda: answered(process.ended(numbers), None, ""))
        look()

    def _carry(self, download: Request, upload: Request, answered: Answered) -> None:
        def bring(value: Any, error: BaseException | None, hurt: str) -> None:
            if error is not None or not self.process.alive:
                answered(value, error, hurt)
            else:
                self.process.world.network.send(self.process, replace(upload, body=value), answered)

        self.process.world.network.send(self.process, download, bring)

    def _together(
        self, effects: tuple[Request | Call, ...], answered: Callable[[Any, BaseException | None, str], None]
    ) -> None:
        outcomes: list[Outcome | None] = [None] * len(effects)
        hurts: list[str] = []

        def one(index: int, value: Any, error: Exception | None, hurt: str) -> None:
            outcomes[index] = Outcome(value, error)
            hurts.append(hurt)
            if None not in outcomes:
                answered(outcomes, None, next(filter(None, hurts), ""))

        for index, effect in enumerate(effects):
            self.process.world.network.send(self.process, effect, lambda v, e, h, i=index: one(i, v, e, h))
