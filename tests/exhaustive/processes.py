"""
The processes: what ships, driven one input at a time.

A process is a deterministic machine: its flows run undisturbed until each of them waits, and then only an input lets
one go on: an answer to what it has sent, a call that begins, a heartbeat that begins, time that has passed.  Which
input comes next is the explorer's business.

`Now`, `NewId`, `Today` and `Report` are answered at once: they touch nothing that another process could see, and the
clock stands still but for explicit inputs.  (`careful` writers let their other flow run at each `Now` too, as threads
do.)  A coordinator's `Sleep` is over at once: one that has slept is no different from one whose next request is on its
way and takes its time.  Only a sleep for as long as the landing of lost requests takes waits for those.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import orjson
from httpx import Headers
from qdrant_client import models
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse
from tests.simulation.possible_states import Step

from qferry.errors import Rejected, Unreachable
from qferry.flows import routed, write
from qferry.flows.coordinator import LANDING_S
from qferry.flows.effects import Call, Effect, Flow, Fresh, NewId, Now, Outcome, Report, Request, Sleep, Today, Together
from qferry.flows.heartbeat import beat
from qferry.protocol.records import CONTROL_COLLECTION
from qferry.protocol.session import Session

from .fingerprint import fingerprint

SOURCE, TARGET = "old", "new"
P = 1  # the point
TODAY = "2026-01-01T00:00:00Z"
CALL, BEAT, COMMAND = "call", "beat", "command"

Input = tuple[Any, ...]
Event = tuple[Any, ...]


@dataclass(frozen=True)
class Answer:
    """
    What came of a request.

    Args:
        value: The result as JSON.
        status: The HTTP status of a refusal; 0 is none, -1 that there was no answer.
        text: The refusal's words.
    """

    value: bytes = b"null"
    status: int = 0
    text: str = ""

    def to(self, effect: Request | Call) -> Outcome:
        """The answer as a driver hands it to a flow."""
        if not self.status:
            value = orjson.loads(self.value)
            if isinstance(effect, Call) and effect.method != "retrieve":
                found = [models.UpdateResult(**one) for one in (value if isinstance(value, list) else [value])]
                return Outcome(found if isinstance(value, list) else found[0])
            return Outcome(value)
        if isinstance(effect, Call):
            if self.status < 0:
                return Outcome(error=ResponseHandlingException(ConnectionError("no answer")))
            content = orjson.dumps({"status": {"error": self.text}, "time": 0.0})
            return Outcome(error=UnexpectedResponse(self.status, "simulated", content, Headers()))
        told = f"{effect.method} {effect.path}: {self.text}"
        if self.status < 0:
            return Outcome(error=Unreachable(f"The server gave no answer to {told}"))
        return Outcome(error=Rejected(f"The server answered {self.status} to {told}", status=self.status))


NO_ANSWER = Answer(status=-1)


@dataclass(frozen=True)
class Read:
    """A call that reads points."""

    ids: tuple[int, ...]
    name: str = SOURCE


@dataclass
class Task:
    """A flow under way, and what it waits for."""

    flow: Flow[Any]
    waits: Effect = field(default_factory=Now)
    turn: int = 0  # how many effects it has waited for
    owner: str = ""  # of a heartbeat: the flow that asked for it


class Process:
    """
    Flows that share a state.

    Args:
        name: What the trace calls it.
    """

    sleeps = False  # whether the end of a sleep is a moment of its own, and moves the clock

    def __init__(self, name: str) -> None:
        self.name = name
        self.clock = 0.0
        self.tasks: dict[str, Task] = {}
        self.events: list[Event] = []
        self._ids = 0

    def feed(self, given: Input) -> None:
        """Take one input, and run until every flow waits."""
        if given[0] == "go":
            self._go_on(given[1], given[2])
        elif given[0] == "pass":
            self.clock += given[1]
        else:
            self.start(given[0])

    def start(self, what: str) -> None:
        """Begin a flow."""
        raise NotImplementedError

    def ended(self, key: str, value: Any, error: Exception | None) -> None:
        """A flow has ended."""
        raise NotImplementedError

    def state(self) -> Hashable:
        """The fingerprint of everything in this process."""
        waiting = [
            (key, type(t.waits).__name__, [identity(e) for e in requests_of(t.waits)], t.owner, t.flow)
            for key, t in self.tasks.items()
        ]
        return self.clock, self._ids, fingerprint(waiting, *self.roots())

    def shared(self) -> Hashable:
        """The fingerprint of what its flows share."""
        return self.clock, self._ids, fingerprint(*self.roots())

    def roots(self) -> tuple[object, ...]:
        """What its flows share."""
        return ()

    def _go_on(self, key: str, answers: tuple[Answer, ...]) -> None:
        waits = self.tasks[key].waits
        match waits:
            case Together(effects):
                self.advance(key, [a.to(e) for a, e in zip(answers, effects, strict=True)])
            case Request() | Call():
                outcome = answers[0].to(waits)
                self.advance(key, outcome.value, outcome.error)
            case Sleep(seconds) if self.sleeps:
                self.clock += seconds
                self.advance(key, None)
            case _:
                self.advance(key, self._at_once(waits))

    def advance(self, key: str, value: Any = None, error: Exception | None = None) -> None:
        """Run a flow until it waits, or ends."""
        task = self.tasks[key]
        while True:
            try:
                effect = task.flow.throw(error) if error is not None else task.flow.send(value)
            except StopIteration as stop:
                del self.tasks[key]
                self.ended(key, stop.value, None)
                return
            except Exception as raised:  # noqa: BLE001  a driver passes on whatever a flow ends in
                del self.tasks[key]
                self.ended(key, None, raised)
                return
            error = None
            if self.must_wait(effect):
                task.waits, task.turn = effect, task.turn + 1
                if isinstance(effect, Fresh):
                    self.freshen(key, effect)
                return
            value = self._at_once(effect)

    def must_wait(self, effect: Effect) -> bool:
        """Whether a flow waits here until an input lets it go on."""
        if isinstance(effect, Request):
            return not writes_history(effect) and not counts_journal(effect)
        if isinstance(effect, Sleep):
            return self.sleeps or waits_for_landings(effect)
        return isinstance(effect, Call | Together | Fresh)

    def freshen(self, key: str, effect: Fresh) -> None:
        """Carry out `Fresh`."""
        raise NotImplementedError

    def _at_once(self, effect: Effect) -> Any:
        match effect:
            case Now():
                return self.clock
            case NewId():
                self._ids += 1
                return f"{crc32(self.name.encode()):08x}{self._ids:024}"
            case Today():
                return TODAY
            case Report() | Sleep():
                return None
        return {"count": 0} if counts_journal(effect) else {"status": "completed"}


class Writer(Process):
    """
    A process of the application: its calls one after the other, its heartbeats beside them.

    Args:
        name: What the trace calls it.
        session: Its state.
        calls: What it writes and reads, in order.
        beats: How many heartbeats may begin even if they have nothing to say.
        news: How many more may begin when they have something to learn or to acknowledge.
        careful: Whether the heartbeat may run between two stretches of a call that are parted by a look at the clock.
        counted: Whether its heartbeats are told from one another; nothing depends on their number while no time passes.
    """

    sleeps = True

    def __init__(
        self,
        name: str,
        session: Session,
        calls: tuple[Step | Read, ...],
        *,
        beats: int = 0,
        news: int = 0,
        careful: bool = False,
        counted: bool = False,
    ) -> None:
        super().__init__(name)
        self.session = session
        self.calls = calls
        self.made = 0
        self.spare_beats = beats
        self.news_beats = news
        self._careful = careful
        self._counted = counted
        self._owner_of_last_beat = ""
        self._waiting: list[str] = []
        self._said_seen = session.acked  # what new calls follow, as reported last

    def roots(self) -> tuple[object, ...]:
        """The session and what has been done."""
        return (
            self.session,
            self.made,
            self.spare_beats,
            self.news_beats,
            self._waiting,
            self._said_seen,
            self.session.beat if self._counted else None,
        )

    def must_wait(self, effect: Effect) -> bool:
        """Also at a look at the clock, if it is careful; what is reported is remembered."""
        if isinstance(effect, Request) and (seen := seen_in(effect)) is not None:
            self._said_seen = seen
        return super().must_wait(effect) or (self._careful and isinstance(effect, Now))

    def start(self, what: str) -> None:
        """Begin the next call, or a heartbeat."""
        if what == BEAT:
            if self.spare_beats:
                self.spare_beats -= 1
            elif self.news_beats:
                self.news_beats -= 1
            self._beat("")
            return
        planned = self.calls[self.made]
        self.events.append(("begins", self.name, self.made))
        self.made += 1
        self.tasks[CALL] = Task(flow_of(self.session, planned))
        self.advance(CALL)

    def _beat(self, owner: str) -> None:
        self.tasks[BEAT] = Task(beat(self.session), owner=owner)
        self.advance(BEAT)

    def freshen(self, key: str, effect: Fresh) -> None:
        """Renew the lease by a heartbeat; only one runs at a time, and whoever waited for one looks again."""
        if BEAT in self.tasks:
            self._waiting.append(key)
        elif effect.renew or not self.session.valid(self.clock):
            self._beat(key)
        else:
            self.advance(key)

    def ended(self, key: str, value: Any, error: Exception | None) -> None:
        """Note what the application is told; a heartbeat lets those go on who waited for it."""
        if key == CALL:
            told = "ok" if error is None else f"{type(error).__name__}: {error}".splitlines()[0]
            missing = isinstance(error, UnexpectedResponse) and b"No point with id" in error.content
            found = orjson.dumps(value) if isinstance(self.calls[self.made - 1], Read) and error is None else b""
            self.events.append(("ends", self.name, self.made - 1, "missing" if missing else told, found))
            return
        waiting, self._waiting = self._waiting, []
        owner = self._owner_of_last_beat
        if owner:
            self.advance(owner, None, error)
        for one in waiting:
            task = self.tasks.get(one)
            if task is not None and isinstance(task.waits, Fresh):
                self.freshen(one, task.waits)

    def advance(self, key: str, value: Any = None, error: Exception | None = None) -> None:
        """Remember, before a heartbeat may end, who asked for it."""
        if key == BEAT:
            self._owner_of_last_beat = self.tasks[BEAT].owner
        super().advance(key, value, error)

    @property
    def may_call(self) -> bool:
        """Whether its next call may begin."""
        return CALL not in self.tasks and self.made < len(self.calls)

    @property
    def may_beat(self) -> bool:
        """Whether a heartbeat may begin."""
        return BEAT not in self.tasks

    @property
    def epochs(self) -> Mapping[str, int]:
        """The epochs of its present view."""
        return self.session.view.epochs

    @property
    def has_something_to_say(self) -> bool:
        """Whether a heartbeat would acknowledge something, or say of something that it is seen, for the first time."""
        session = self.session
        view = next((v for v in session.retired if not v.ended(self.clock)), session.view)
        return view.epochs != session.acked or session.view.epochs != self._said_seen

    @property
    def calm(self) -> bool:
        """Whether its lease holds, no request of its has gone astray, and it suspects nothing of itself."""
        session = self.session
        doubts = any(view.doubts for view in [*session.retired, session.view])
        return session.valid(self.clock) and session.registered and not doubts and not session.suspects

    @property
    def owes(self) -> bool:
        """Whether anything is left that a later heartbeat will have to do."""
        return not self.session.accounted_for() or self.session.acked != self.epochs


class Operator(Process):
    """
    A coordinator's process: one command.

    Args:
        name: What the trace calls it.
        command: Makes the command's flow.
    """

    def __init__(self, name: str, command: Callable[[], Flow[Any]]) -> None:
        super().__init__(name)
        self._command = command

    def start(self, what: str) -> None:
        """Run the command."""
        self.tasks[what] = Task(self._command())
        self.advance(what)

    def ended(self, key: str, _: Any, error: Exception | None) -> None:
        """Note how it ended."""
        told = "ok" if error is None else f"{type(error).__name__}: {error}"
        self.events.append((f"{key} ends", self.name, told))


def flow_of(session: Session, planned: Step | Read) -> Flow[Any]:
    """The flow that the client's method of that call runs."""
    if isinstance(planned, Read):
        given = {"ids": list(planned.ids), "with_payload": True, "with_vectors": True}
        return routed.read(session, "retrieve", planned.name, given)
    return write.write(session, planned.kind, SOURCE, _arguments(planned))


def _arguments(step: Step) -> dict[str, Any]:
    if step.kind == "upsert":
        points = [models.PointStruct(id=i, payload=dict(step.payload), vector=list(step.vectors[""])) for i in step.ids]
        return {"points": points}
    chosen: Any = list(step.ids)
    if step.where is not None:
        key, value = step.where
        chosen = models.Filter(must=[models.FieldCondition(key=key, match=models.MatchValue(value=value))])
    if step.kind == "delete":
        return {"points_selector": chosen}
    return {"points": chosen, "payload": dict(step.payload)}


def requests_of(effect: Effect) -> tuple[Request | Call, ...]:
    """The requests an effect sends."""
    if isinstance(effect, Together):
        return effect.effects
    return (effect,) if isinstance(effect, Request | Call) else ()


def identity(effect: Request | Call) -> tuple[Hashable, ...]:
    """What tells a request from another."""
    if isinstance(effect, Request):
        body = orjson.dumps(effect.body, option=orjson.OPT_SORT_KEYS)
        return effect.server, effect.method, effect.path, body, tuple(effect.params.items())
    arguments = orjson.dumps(effect.kwargs, default=lambda m: m.model_dump(mode="json", exclude_none=True))
    return effect.server, effect.method, effect.collection, arguments


def writes_history(effect: Request) -> bool:
    """Whether it appends a line of history, which no flow ever reads."""
    if effect.op != "upsert" or CONTROL_COLLECTION not in effect.path:
        return False
    return any(point["payload"].get("kind") == "event" for point in effect.body["points"])


def seen_in(effect: Request) -> Mapping[str, int] | None:
    """The epochs that a writer's report says its new calls follow; None if it is no such report."""
    if effect.op != "upsert" or CONTROL_COLLECTION not in effect.path:
        return None
    payload: Mapping[str, Any] = effect.body["points"][0]["payload"]
    return payload["seen"] if payload.get("kind") == "writer" else None


def counts_journal(effect: Effect) -> bool:
    """Whether it counts the journal, which is done for a line of progress only."""
    return isinstance(effect, Request) and effect.op == "count" and "_journal_" in effect.path


def waits_for_landings(effect: Effect) -> bool:
    """Whether it is a wait after which no lost request can land any more (docs/guarantee.md, assumptions)."""
    return isinstance(effect, Sleep) and effect.seconds >= LANDING_S
