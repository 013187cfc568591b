"""A process of the application as the clients make it: a session, one heartbeat at a time, and a goodbye."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from qferry.errors import FerryError
from qferry.flows.effects import Flow, Sleep
from qferry.flows.heartbeat import beat, goodbye, pulse
from qferry.protocol.session import Session

from .network import Answered
from .world import Accidents, Process, Task, World

# A lease has room for two of them, or for one: most heartbeats of a run find nothing to do.
HEARTBEATS_S = (0.8, 1.2, 2.0)
_IMPATIENT, _STEPS_BACK = 0.3, 0.3


class Client(Process):
    """
    A process with a session.

    Args:
        world: Where it lives.
        name: What the trace calls it.
        accidents: What is in store for it.
        session: Its state.
    """

    exposure = 1.0

    def __init__(self, world: World, name: str, accidents: Accidents, session: Session) -> None:
        super().__init__(world, name, accidents)
        self.session = session
        self.closing = False
        self._heartbeat_s = self.random.choice(HEARTBEATS_S)
        self._beating = False
        self._heart: Task | None = None
        self._waiting: list[tuple[Answered, bool]] = []
        # In so many runs it finds fault with the target again and again, for no reason.
        self._moody = random.Random(f"{world.seed} {name} patience")
        self._impatient = self._moody.random() < _IMPATIENT

    def fresh(self, answered: Answered, renew: bool) -> None:
        """Carry out `Fresh`: one heartbeat at a time, like the clients do."""
        if self._heart is None:
            self._heart = self.run(_heartbeats(self.session, self._heartbeat_s), lambda *_: None)
        self._waiting.append((answered, renew))
        if not self._beating:
            self._next_in_line()

    def _next_in_line(self) -> None:
        while self._waiting:
            answered, renew = self._waiting.pop(self.random.randrange(len(self._waiting)))
            if renew or not self.session.valid(self.clock()):
                self._beating = True
                if self._impatient and not self.world.network.calm:
                    self._step_back()
                self.run(beat(self.session), lambda t, _, error, a=answered: self._beaten(t, a, error))
                return
            self.world.after(0.0, lambda a=answered: a(None, None, ""))

    def _step_back(self) -> None:
        """Send its reads back to the source, perhaps."""
        for m in list(self.session.view.migrations.values()):
            route = self.session.route(m.source)
            if route is not None and route.may_step_back and self._moody.random() < _STEPS_BACK:
                self.session.step_back(m, f"{self.name} has no patience: {self._moody.random()}")

    def _beaten(self, beating: Task, answered: Answered, error: BaseException | None) -> None:
        self._beating = False
        self.world.after(0.0, lambda: answered(None, error, beating.hurt))
        self._next_in_line()

    def close(self, on_end: Callable[[], None]) -> None:
        """Say goodbye and end."""
        self.closing = True
        if self._beating:
            self.world.after(0.01, lambda: self.close(on_end))
            return

        def ended(*_: Any) -> None:
            self.alive = False
            on_end()

        if self._heart is not None:
            self._heart.abandoned = True
        self._beating = True
        self.run(goodbye(self.session), ended)


def _heartbeats(session: Session, heartbeat_s: float) -> Flow[None]:
    """What the clients' heartbeat thread does."""
    wait_s = 0.0
    while True:
        yield Sleep(wait_s)
        wait_s = heartbeat_s
        try:
            wait_s = yield from pulse(session, heartbeat_s)
        except FerryError:
            continue
