"""
Processes as values: what an input makes of a process, worked out once and remembered.

A suspended flow cannot be copied.  So a state of a process is known by its fingerprint and by the inputs that first
led to it; when another input is to be tried in it, a new process is led there again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from types import GeneratorType
from typing import Any

from qferry.flows.coordinator import Coordinator
from qferry.flows.effects import Fresh
from qferry.protocol.records import CONTROL_COLLECTION

from .processes import BEAT, CALL, Event, Input, Process, Writer, requests_of, waits_for_landings
from .servers import Servers

_ACKNOWLEDGED = Coordinator.acknowledged.__code__
# The states of a process that has not begun, and of one that has been killed.
UNBORN, DEAD = 0, 1
# What requests may concern: the application's points, the journal, the control records, and of those a writer's own.
POINTS, JOURNAL, CONTROL, REPORTS = 1, 2, 4, 8


@dataclass
class Slot:
    """One request that a flow waits for: whose it is, and its number."""

    task: str
    request: int


@dataclass(eq=False)
class Local:
    """
    A state of a process, apart from what has become of its requests.

    Args:
        parent: The state before the last input.
        given: That input.
        slots: The requests it waits for.
        waiting: The flows under way.
        patient: Those of them that wait until no lost request can land any more.
        leaning: Those of them that wait for another flow of the process.
        alone: One flow, and no other will ever begin: nothing in this process can come between two of its steps.
        may_call: Its next call may begin.
        may_beat: A heartbeat may begin.
        spare_beats: How many may begin even if they have nothing to say.
        hearty: A heartbeat may begin when it has something new to say.
        eager: It has.
        touches: What it may still send requests to, as bits.
        shared: All that its flows share.
        calm: Nothing has gone astray.
        hears: It waits for acknowledgements.
        epoch: That of its view.
        process: A process in this state, unless it has moved on.
        steps: By input: the state after it, the flows that wait as before, and what the application was told.
    """

    parent: Local | None
    given: Input
    slots: tuple[Slot, ...]
    waiting: tuple[str, ...]
    patient: frozenset[str]
    leaning: frozenset[str]
    alone: bool
    may_call: bool
    may_beat: bool
    spare_beats: int
    hearty: bool
    eager: bool
    touches: int
    shared: Hashable
    calm: bool
    hears: bool
    epoch: int
    process: Process | None = None
    steps: dict[Input, tuple[Local, frozenset[str], tuple[Event, ...]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """
    A state of a process with what has become of its requests.

    Args:
        local: The process.
        answers: Per slot the number of its answer; 0 while it is on its way.
        lands: The slots whose requests are on their way.
        goes: The flows that have what they wait for.
        follows: The one of them that goes on at once, because it is the only flow and waits for nothing else.
        learns: Whether a heartbeat has just heard from the records.
        quiet: It waits for nothing and has nothing left to do.
        hears_or_quiet: That, or it is a coordinator that waits for acknowledgements.
        touches: What it may still send requests to, as bits.
    """

    local: Local
    answers: tuple[int, ...] = ()
    lands: tuple[int, ...] = ()
    goes: tuple[str, ...] = ()
    follows: str = ""
    learns: bool = False
    quiet: bool = True
    hears_or_quiet: bool = True
    touches: int = 0


class Machine:
    """
    Every state that one process has been seen in.

    Args:
        make: Makes the process as it is at the beginning.
        servers: Numbers its requests and answers.
    """

    def __init__(self, make: Callable[[], Process], servers: Servers) -> None:
        self.stages: list[Stage] = []
        self._make = make
        self._servers = servers
        self._locals: dict[Hashable, Local] = {}
        self._numbers: dict[tuple[int, tuple[int, ...]], int] = {}
        self._landed: dict[tuple[int, int, int], int] = {}
        self._goes: dict[tuple[int, str], tuple[int, tuple[Event, ...]]] = {}
        self._starts: dict[tuple[int, Input], tuple[int, tuple[Event, ...]]] = {}
        nothing = Local(
            None, (), (), (), frozenset(), frozenset(), True, False, False, 0, False, False, 0, None, False, False, 0
        )
        for _ in (UNBORN, DEAD):
            self.stages.append(Stage(nothing))
        self.first = self._stage(self._local(make(), None, ()), ())

    @property
    def locals(self) -> int:
        """How many states of the process have been seen."""
        return len(self._locals)

    def landed(self, number: int, slot: int, answer: int) -> int:
        """The stage after an answer has set out to a flow."""
        key = number, slot, answer
        if key not in self._landed:
            stage = self.stages[number]
            self._landed[key] = self._stage(stage.local, (*stage.answers[:slot], answer, *stage.answers[slot + 1 :]))
        return self._landed[key]

    def go(self, number: int, task: str) -> tuple[int, tuple[Event, ...]]:
        """The stage after a flow has taken its answers, and what the application was told in between."""
        if (number, task) not in self._goes:
            stage = self.stages[number]
            mine = [a for slot, a in zip(stage.local.slots, stage.answers, strict=True) if slot.task == task]
            given = ("go", task, tuple(self._servers.answers[a] for a in mine))
            self._goes[number, task] = self._fed(stage, given)
        return self._goes[number, task]

    def learns_nothing(self, number: int) -> bool:
        """
        Whether a heartbeat has heard nothing new, so that it may go on at once whatever the process's call does.

        What its steps after a report and after reading the records look at (epochs, lease, requests gone astray) no
        call changes while nothing can go astray any more; and the step itself leaves alone what the flows share.
        """
        after, events = self.go(number, BEAT)
        return not events and self.stages[after].local.shared == self.stages[number].local.shared

    def feed(self, number: int, given: Input) -> tuple[int, tuple[Event, ...]]:
        """The stage after any other input."""
        if (number, given) not in self._starts:
            self._starts[number, given] = self._fed(self.stages[number], given)
        return self._starts[number, given]

    def _fed(self, stage: Stage, given: Input) -> tuple[int, tuple[Event, ...]]:
        before = stage.local
        if given not in before.steps:
            process = self._alive(before)
            turns = {key: task.turn for key, task in process.tasks.items()}
            process.feed(given)
            events = tuple(process.events)
            process.events.clear()
            kept = frozenset(k for k, task in process.tasks.items() if turns.get(k) == task.turn)
            before.steps[given] = self._local(process, before, given), kept, events
        after, kept, events = before.steps[given]
        known: dict[str, list[int]] = {}
        for slot, answer in zip(before.slots, stage.answers, strict=True):
            known.setdefault(slot.task, []).append(answer)
        answers = tuple(known[slot.task].pop(0) if slot.task in kept else 0 for slot in after.slots)
        return self._stage(after, answers), events

    def _alive(self, local: Local) -> Process:
        """A process in this state, led there by the inputs it has had."""
        if local.process is not None:
            process, local.process = local.process, None
            return process
        inputs = []
        at: Local = local
        while at.parent is not None:
            inputs.append(at.given)
            at = at.parent
        process = self._make()
        for given in reversed(inputs):
            process.feed(given)
        process.events.clear()
        return process

    def _local(self, process: Process, parent: Local | None, given: Input) -> Local:
        key = process.state()
        known = self._locals.get(key)
        if known is None:
            known = self._locals[key] = self._new(process, parent, given)
        elif known.process is None:
            known.process = process
        return known

    def _new(self, process: Process, parent: Local | None, given: Input) -> Local:
        slots = tuple(
            Slot(key, self._servers.request(effect))
            for key, task in process.tasks.items()
            for effect in requests_of(task.waits)
        )
        patient = frozenset(k for k, task in process.tasks.items() if waits_for_landings(task.waits))
        leaning = frozenset(k for k, task in process.tasks.items() if isinstance(task.waits, Fresh))
        writer = process if isinstance(process, Writer) else None
        spare = writer.spare_beats if writer else 0
        more = writer is not None and (writer.made < len(writer.calls) or spare > 0 or writer.news_beats > 0)
        return Local(
            parent,
            given,
            slots,
            tuple(process.tasks),
            patient,
            leaning,
            alone=len(process.tasks) == 1 and not more,
            may_call=writer is not None and writer.may_call,
            may_beat=writer is not None and writer.may_beat,
            spare_beats=spare,
            hearty=writer is not None and writer.news_beats > 0,
            eager=writer is not None and writer.has_something_to_say,
            touches=_touched_by(process),
            shared=process.shared() if writer else None,
            calm=writer is not None and writer.calm,
            hears=any(_acknowledging(task.flow) for task in process.tasks.values()),
            epoch=next(iter(writer.epochs.values()), 0) if writer else 0,
            process=process,
        )

    def _stage(self, local: Local, answers: tuple[int, ...]) -> int:
        answers = answers or (0,) * len(local.slots)
        key = id(local), answers
        if key not in self._numbers:
            self._numbers[key] = len(self.stages)
            self.stages.append(self._new_stage(local, answers))
        return self._numbers[key]

    def _new_stage(self, local: Local, answers: tuple[int, ...]) -> Stage:
        on_the_way = {slot.task for slot, answer in zip(local.slots, answers, strict=True) if not answer}
        goes = tuple(t for t in local.waiting if t not in on_the_way and t not in local.leaning)
        heard_from = {self._servers.sent[slot.request].collection for slot in local.slots if slot.task == BEAT}
        quiet = not local.waiting and not local.may_call
        return Stage(
            local,
            answers,
            lands=tuple(i for i, answer in enumerate(answers) if not answer),
            goes=goes,
            follows=goes[0] if local.alone and goes and goes[0] not in local.patient else "",
            learns=BEAT in goes and local.calm and heard_from == {CONTROL_COLLECTION},
            quiet=quiet,
            hears_or_quiet=quiet or local.hears,
            touches=local.touches,
        )


def _touched_by(process: Process) -> int:
    """What a process may still send requests to."""
    if not isinstance(process, Writer):
        return POINTS | JOURNAL | CONTROL if process.tasks else 0
    touched = POINTS if CALL in process.tasks or process.may_call else 0
    if BEAT in process.tasks or process.spare_beats or process.news_beats:
        touched |= JOURNAL | REPORTS
    return touched


def _acknowledging(flow: Any) -> bool:
    """Whether a flow is suspended somewhere inside `Coordinator.acknowledged`, the one that ships."""
    while isinstance(flow, GeneratorType):
        if flow.gi_code is _ACKNOWLEDGED:
            return True
        flow = flow.gi_yieldfrom
    return False
