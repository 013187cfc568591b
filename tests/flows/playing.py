"""A driver that plays a flow to an audience: it notes every effect and answers from a script."""

from collections.abc import Callable
from typing import Any

from qferry.flows.effects import Call, Flow, Fresh, NewId, Now, Outcome, Request, Sleep, Today, Together
from qferry.protocol.phases import Phase
from qferry.protocol.records import Migration, Pins
from qferry.protocol.session import Session

MIGRATION = Migration("m1-00000-rest", "a", "b", ("a", "b"), phase=Phase.COPIED, epoch=1)
Answer = Callable[[Request | Call], Any]


def session(migration: Migration | None = MIGRATION, pins: Pins | None = None) -> Session:
    """Return a session whose lease runs until 1000."""
    found = Session("w", "host", 1, "now", pins or Pins(), random=lambda: 0.5)
    found.adopt([migration] if migration else [], sent_at=995.0, now=0.0)
    return found


class Play:
    """
    Runs flows with a clock of its own.

    Args:
        answer: What a request or call comes to; an exception it returns is raised into the flow.
        fresh: What `Fresh` does.
    """

    def __init__(self, answer: Answer = lambda _: None, fresh: Callable[[], None] = lambda: None) -> None:
        self.answer = answer
        self.fresh = fresh
        self.now = 1.0
        self.sent: list[Request | Call] = []
        self.slept: list[float] = []

    @property
    def told(self) -> list[str]:
        """What was sent, in a word each: the operation or method, and where to."""
        return [e.op if isinstance(e, Request) else f"{e.method} {e.collection}" for e in self.sent]

    def run(self, flow: Flow[Any]) -> Any:
        """Run a flow to its end."""
        value: Any = None
        while True:
            try:
                effect = flow.throw(value) if isinstance(value, BaseException) else flow.send(value)
            except StopIteration as stop:
                return stop.value
            value = self._perform(effect)

    def _perform(self, effect: Any) -> Any:
        match effect:
            case Now():
                return self.now
            case Today():
                return "2026-01-01T00:00:00Z"
            case NewId():
                return f"{len(self.sent):032x}"
            case Sleep(seconds):
                self.slept.append(seconds)
                self.now += seconds
            case Fresh():
                try:
                    self.fresh()
                except Exception as error:  # noqa: BLE001  thrown into the flow
                    return error
            case Together(effects):
                answers = [self._send(one) for one in effects]
                return [Outcome(error=a) if isinstance(a, Exception) else Outcome(value=a) for a in answers]
            case Request() | Call():
                return self._send(effect)
        return None

    def _send(self, effect: Request | Call) -> Any:
        self.sent.append(effect)
        return self.answer(effect)
