"""
The explorer: every order in which the pending things of a scope can happen.

A state is everything that decides what can still happen and how it will be judged: what the servers hold, where each
process stands and which answers are on their way to it, which lost requests may still land, what the application was
told in which order.  States are visited depth first, each once.

What is not explored, and why nothing is missed by that:

1. *An answer to a process with a single flow arrives when it sets out.*  Nothing else can happen in that process in
   between, and nothing that happens elsewhere depends on the arrival.  A call then ends as early as it can, which
   only leaves the judge fewer excuses.
2. *A request is carried out at once if nothing that can still be sent elsewhere changes what it does, or is changed by
   it*: it concerns a collection that nobody else will touch any more; a configuration; a record that only its sender
   changes; or what of a record does not change (`_disturbs_nobody`).  Everything else then happens as it would have.
3. *A poll that finds nothing new leads back to the same state* and is not followed again.
4. *Heartbeats are counted.*  A scope lets some begin at any moment (`beats`), and some when there is something to learn
   or to acknowledge and a coordinator is at work (`news`).  Beyond these, all hearts beat, one after the other, when
   nothing else can happen and a coordinator waits.
5. *The check at the end* runs in one order: the application has nothing more to do then.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from math import inf
from typing import Any

from qferry.protocol.phases import Phase
from qferry.protocol.records import CONTROL_COLLECTION, LEASE_MARGIN_S, LEASE_S

from .commands import HOLDER
from .judge import History, Verdict
from .machines import CONTROL, DEAD, JOURNAL, POINTS, REPORTS, UNBORN, Machine
from .processes import BEAT, CALL, COMMAND, NO_ANSWER, Event
from .servers import Content, Servers

# Content of the servers, a stage per process, requests that may land late, what was told, faults left, and whether
# no call has begun since the epoch was raised last.
State = tuple[Content, tuple[int, ...], tuple[int, ...], int, int, bool]
Move = tuple[Any, ...]
# Everybody is put aside for longer than any lease.
PAUSE_S = LEASE_S + LEASE_MARGIN_S + 0.5
# After a fault time passes while nothing else can happen; the leases hold.
_TICK_S = 2.0
_WORLD = -1
HEARTS, FINAL = (_WORLD, "hearts"), (_WORLD, "final")


@dataclass
class Setting:
    """
    What is explored.

    Args:
        servers: The servers, with what they hold at the beginning.
        content: That.
        writers: The application's processes.
        operators: The coordinators; those in `later` begin only when the one before has died or failed.
        final: The check at the end, if the scope needs one.
        later: Operators that wait.
        faults: Which may happen: `calls`, `commands` (an answer is lost), `writer`, `operator` (is killed), `pause`.
        lonely: Whether only one coordinator ever changes aliases.
        verdict: The judge.
        ids: The writers' ids.
        names: Every process's name.
        still: Whether no coordinator changes the migration's record.
    """

    servers: Servers
    content: Content
    writers: list[Machine]
    operators: list[Machine]
    final: Machine | None
    verdict: Verdict
    ids: tuple[str, ...]
    names: tuple[str, ...]
    later: frozenset[int] = frozenset()
    faults: frozenset[str] = frozenset()
    lonely: bool = True
    still: bool = False


@dataclass
class Found:
    """
    What an exploration came to.

    Args:
        states: How many there are.
        transitions: How many ways from one of them to another.
        schedules: How many ways from the beginning to an end.
        ends: How many states nothing follows.
        circles: How many states all of whose successors lead back to what led to them; a run might never end there.
        complete: Whether every state was visited.
        violation: What is wrong; empty if nothing is.
        path: The moves that led to it.
    """

    states: int = 0
    transitions: int = 0
    schedules: float = 0.0
    ends: int = 0
    circles: int = 0
    complete: bool = False
    violation: str = ""
    path: list[Move] = field(default_factory=list)


class Violation(Exception):
    """A promise is broken in the state being looked at."""


class Explorer:
    """
    Visits every state of a setting.

    Args:
        setting: What is explored.
        chance: Decides what is looked at first; by default the process that moved last, which keeps traces readable.
    """

    def __init__(self, setting: Setting, chance: random.Random | None = None) -> None:
        self.setting = setting
        self._chance = chance
        self.servers = setting.servers
        self.verdict = setting.verdict
        self.machines = [*setting.writers, *setting.operators, *([setting.final] if setting.final else [])]
        self._writers = range(len(setting.writers))
        self._operators = range(len(setting.writers), len(setting.writers) + len(setting.operators))
        self._final = len(self.machines) - 1 if setting.final else None
        self._control = self.servers.names.index(CONTROL_COLLECTION) + 1
        self._journal = self._control + 1
        self._records: dict[int, tuple[int, tuple[bool, ...], bool]] = {}
        self._faults = 1 if setting.faults else 0

    def first(self) -> State:
        """The state at the beginning."""
        stages = [m.first for m in self.setting.writers] + [UNBORN] * (len(self.machines) - len(self._writers))
        state: State = (self.setting.content, tuple(stages), (), History.NOTHING, self._faults, False)
        for i in self._operators:
            if i - len(self._writers) not in self.setting.later:
                state = self._begin(state, i)
        return state

    def explore(self, limit: float = inf) -> Found:
        """Visit every state, or stop at the first violation, or after `limit` states."""
        found = Found()
        first = self.first()
        visited: dict[State, float] = {first: 0.0}
        path: list[tuple[Move, State, Iterator[tuple[Move, State]]]] = []
        try:
            path.append((("start",), first, iter(self.successors(first, None))))
            while path and len(visited) <= limit:
                _, state, left = path[-1]
                for following, after in left:
                    found.transitions += 1
                    known = visited.get(after)
                    if known is not None:
                        visited[state] += known
                        continue
                    visited[after] = 0.0
                    # On the path before its successors are known: should they break a promise, it is part of the story.
                    path.append((following, after, iter(())))
                    found_next = self.successors(after, following)
                    path[-1] = (following, after, iter(found_next))
                    if not found_next:
                        visited[after] = 1.0
                        found.ends += 1
                    break
                else:
                    path.pop()
                    found.circles += not visited[state]
                    if path:
                        visited[path[-1][1]] += visited[state]
        except Violation as violation:
            found.violation = str(violation)
            found.path = [move for move, _, _ in path][1:]
        found.states = len(visited)
        found.schedules = visited[first]
        found.complete = not path
        return found

    def successors(self, state: State, last: Move | None) -> list[tuple[Move, State]]:
        """
        What can happen next, and what it leads to; the process that moved last comes first, to keep traces readable.

        Raises:
            Violation: Nothing can happen although something is left to do, or what is left breaks a promise.
        """
        found = [(move, after) for move in self.moves(state) if (after := self.after(state, move)) != state]
        if found:
            if self._chance is not None:
                self._chance.shuffle(found)
            elif last is not None and len(found) > 1:
                found.sort(key=lambda one: one[0][0] != last[0])
            if not self.setting.lonely and not self._faults and self._only_overtaken(state, found):
                found += [(HEARTS, after) for after in [self._hearts(state)] if after != state]
            return found
        return self._when_nothing_moves(state)

    def _only_overtaken(self, state: State, found: list[tuple[Move, State]]) -> bool:
        """Whether only a coordinator that has lost its claim can move: it may be stopped, and nobody waits for it."""
        first = self._operators[0]
        others_done = all(not self.machines[i].stages[state[1][i]].local.waiting for i in self._writers)
        return others_done and self._record(state[0])[2] and all(move[0] == first for move, _ in found)

    def moves(self, state: State) -> list[Move]:
        """Everything that can happen."""
        content, stages, late, _, left, _ = state
        final = self._final is not None and stages[self._final] != UNBORN
        now = [machine.stages[number] for machine, number in zip(self.machines, stages, strict=True)]
        touches = [stage.touches for stage in now]
        heard = any(touches[self._operators.start : self._operators.stop])
        found: list[Move] = []
        for i, stage in enumerate(now):
            if final and i != self._final:
                continue
            local = stage.local
            for slot in stage.lands:
                if self._disturbs_nobody(state, i, local.slots[slot].request, touches):
                    return [(i, "land", slot)]
                found.append((i, "land", slot))
            found += [(i, "go", task) for task in stage.goes if not late or task not in local.patient]
            if final:
                continue
            if local.may_call:
                found.append((i, CALL))
            if local.may_beat:
                news = heard and local.hearty and (local.eager or local.epoch != self._record(content)[0])
                if local.spare_beats or news:
                    found.append((i, BEAT))
        found += [(_WORLD, "late", request) for request in dict.fromkeys(late)]
        if left and not final:
            found += self._faults_now(state)
        return found

    def _disturbs_nobody(self, state: State, i: int, request: int, touches: list[int]) -> bool:
        """Whether nothing that can still happen elsewhere changes what a request does, nor is changed by it."""
        content, stages, late, _, left, _ = state
        sent = self.servers.sent[request]
        operator = i not in self._writers
        hears = self.machines[i].stages[stages[i]].local.hears
        if operator:
            if sent.keeps_plan and self.setting.lonely and not self._faults:
                return True  # no writer looks at it, and nobody takes over
            if sent.of_the_frame or (self.setting.lonely and (sent.lists_aliases or sent.reads_record)):
                return True
            if sent.lists_writers and not hears and not self._faults:
                return True  # it asks for their pins, and those do not change
        elif not self._faults and (sent.reports or sent.reads_migrations):
            if sent.reports:
                return self.servers.land(content, request)[0] == content
            if self._record_stands_still(state, i):
                return True
        place = self.servers.place(content, request)
        if late or left or not place or hears:  # one that waits for acknowledgements is to be disturbed
            return False
        if place == self._journal:
            matters = JOURNAL if any(touches[self._operators.start :]) else 0  # else nobody reads which entry stays
        elif place == self._control:
            matters = CONTROL | REPORTS if operator else CONTROL  # a writer's own record is no other writer's business
        else:
            matters = POINTS
        return not any(touched & matters for j, touched in enumerate(touches) if j != i)

    def _record_stands_still(self, state: State, i: int) -> bool:
        """Whether the migration's record cannot change before a writer's next step."""
        content, stages, *_ = state
        if self.setting.still:
            return True
        hearing = all(self.machines[j].stages[stages[j]].hears_or_quiet for j in self._operators)
        return hearing and not self._record(content)[1][i]

    def _faults_now(self, state: State) -> Iterator[Move]:
        _, stages, _, _, _, _ = state
        faults = self.setting.faults
        for i in [*self._writers, *self._operators]:
            stage = self.machines[i].stages[stages[i]]
            if stages[i] in (UNBORN, DEAD) or (stage.quiet and i in self._operators):
                continue
            who = ("calls", "writer") if i in self._writers else ("commands", "operator")
            on_the_way = [n for n, answer in enumerate(stage.answers) if not answer]
            writes = [n for n in on_the_way if self.servers.sent[stage.local.slots[n].request].writes]
            if who[0] in faults:
                for n in on_the_way:
                    for fate in ("never", "late", "landed") if n in writes else ("never",):
                        yield (i, "lose", n, fate)
            if who[1] in faults:
                for fates in product(("never", "late"), repeat=len(writes)):
                    yield (i, "kill", tuple(n for n, fate in zip(writes, fates, strict=True) if fate == "late"))
        if "pause" in faults:
            yield (_WORLD, "pause")

    def after(self, state: State, move: Move) -> State:
        """The state that a move leads to."""
        i, what, *more = move
        if i == _WORLD:
            return self._world(state, what, more)
        content, stages, late, history, left, calm = state
        machine = self.machines[i]
        if what == "land":
            return self._land(state, i, more[0])
        if what == "go":
            number, events = machine.go(stages[i], more[0])
            return self._gone_on(state, i, number, events)
        if what == "lose":
            return self._lose(state, i, *more)
        if what == "kill":
            slots = machine.stages[stages[i]].local.slots
            late = tuple(sorted((*late, *(slots[n].request for n in more[0]))))
            state = (content, (*stages[:i], DEAD, *stages[i + 1 :]), late, history, left - 1, calm)
            return self._succeed(state, i)
        number, events = machine.feed(stages[i], (what,))
        return self._gone_on(state, i, number, events)

    def _land(self, state: State, i: int, slot: int) -> State:
        content, stages, late, history, left, calm = state
        machine = self.machines[i]
        request = machine.stages[stages[i]].local.slots[slot].request
        new, answer = self.servers.land(content, request)
        if i in self._operators or self.verdict.has_reads:
            history, calm = self._watch(content, new, request, history, calm=calm)
        number = machine.landed(stages[i], slot, answer)
        return self._gone_on((new, stages, late, history, left, calm), i, number, ())

    def _watch(self, old: Content, new: Content, request: int, history: int, *, calm: bool) -> tuple[int, bool]:
        """Take note of what the judge wants to know."""
        sent = self.servers.sent[request]
        if sent.mends and new != old and self.verdict.has_reads:
            history = self.verdict.history.and_then(history, (("mended",),))
        if "epoch" in sent.changes and new != old:
            if self.setting.still:
                raise AssertionError("This scope was to have no command that changes the migration's record.")
            if calm and sent.changes.get("phase") == Phase.FINISHING.value:
                why = self.verdict.unequal(self.servers, new)
                if why:
                    raise Violation(f"3: at finish both sides are equal: {why}")
            calm = True
        return history, calm

    def _lose(self, state: State, i: int, slot: int, fate: str) -> State:
        content, stages, late, history, left, calm = state
        machine = self.machines[i]
        request = machine.stages[stages[i]].local.slots[slot].request
        if fate == "landed":
            new, _ = self.servers.land(content, request)
            history, calm = self._watch(content, new, request, history, calm=calm)
            content = new
        elif fate == "late":
            late = tuple(sorted((*late, request)))
        number = machine.landed(stages[i], slot, self.servers.answer(NO_ANSWER))
        return self._gone_on((content, stages, late, history, left - 1, calm), i, number, ())

    def _gone_on(self, state: State, i: int, number: int, events: tuple[Event, ...]) -> State:
        """Take a process's new stage; while it has a single flow that has its answers, that goes on at once."""
        content, stages, late, history, left, calm = state
        machine = self.machines[i]
        stage = machine.stages[number]
        told = events
        while (task := stage.follows) or (stage.learns and not left and machine.learns_nothing(number)):
            number, events = machine.go(number, task or BEAT)
            told += events
            stage = machine.stages[number]
        if told:
            history = self.verdict.history.and_then(history, told)
            calm = calm and all(event[0] != "begins" for event in told)
        state = (content, (*stages[:i], number, *stages[i + 1 :]), late, history, left, calm)
        failed = any(event[0] == f"{COMMAND} ends" and event[2] != "ok" for event in told)
        return self._succeed(state, i) if failed and left < self._faults else state

    def _succeed(self, state: State, i: int) -> State:
        """Let the next operator begin, if one waits for this one's end."""
        following = i + 1
        waits = following in self._operators and following - len(self._writers) in self.setting.later
        return self._begin(state, following) if waits and state[1][following] == UNBORN else state

    def _begin(self, state: State, i: int) -> State:
        machine = self.machines[i]
        number, events = machine.feed(machine.first, (COMMAND,))
        return self._gone_on(state, i, number, events)

    def _world(self, state: State, what: str, more: list[Any]) -> State:
        content, stages, late, history, left, calm = state
        if what == "late":
            (request,) = more
            new, _ = self.servers.land(content, request)
            history, calm = self._watch(content, new, request, history, calm=calm)
            rest = list(late)
            rest.remove(request)
            return (new, stages, tuple(rest), history, left, calm)
        if what == "pause":
            return self._pass((content, stages, late, history, left - 1, calm), PAUSE_S)
        if what == "final":
            assert self._final is not None
            return self._begin(state, self._final)
        return self._hearts(state)

    def _pass(self, state: State, seconds: float) -> State:
        content, stages, *rest = state
        passed = [
            number if number in (UNBORN, DEAD) else machine.feed(number, ("pass", seconds))[0]
            for machine, number in zip(self.machines, stages, strict=True)
        ]
        return (content, tuple(passed), *rest)  # type: ignore[return-value]

    def _hearts(self, state: State) -> State:
        """Every living writer's heart beats once, one after the other; after a fault some time passes first."""
        if state[4] < self._faults:
            state = self._pass(state, _TICK_S)
        for i in self._writers:
            machine = self.machines[i]
            if state[1][i] == DEAD:
                continue
            state = self._gone_on(state, i, *machine.feed(state[1][i], (BEAT,)))
            while BEAT in machine.stages[state[1][i]].local.waiting:
                stage = machine.stages[state[1][i]]
                state = self.after(state, (i, "land", stage.lands[0]) if stage.lands else (i, "go", BEAT))
        return state

    def _when_nothing_moves(self, state: State) -> list[tuple[Move, State]]:
        stages = state[1]
        busy = [i for i, number in enumerate(stages) if not self.machines[i].stages[number].quiet]
        if any(i in self._writers for i in busy):
            raise Violation("a call can never end")
        if busy:
            return self._follow(state, HEARTS)
        if self._final is not None and stages[self._final] == UNBORN:
            return self._follow(state, FINAL)
        why = self.verdict.of(self.servers, state[0], state[3], faultless=state[4] == self._faults)
        if why:
            raise Violation(why)
        return []

    def _follow(self, state: State, move: Move) -> list[tuple[Move, State]]:
        after = self.after(state, move)
        if after == state:
            raise Violation("a command can never end: it waits for writers that have nothing more to say")
        return [(move, after)]

    def _record(self, content: Content) -> tuple[int, tuple[bool, ...], bool]:
        """The record's epoch, which writers have acknowledged it, and whether the first coordinator is overtaken."""
        number = content[self._control]
        if number not in self._records:
            points = [payload for payload, _ in self.servers.points(content, CONTROL_COLLECTION).values()]
            (record,) = [payload for payload in points if payload["kind"] == "migration"]
            acked = {p["id"]: p["acked"].get(record["id"], 0) for p in points if p["kind"] == "writer"}
            told = tuple(acked.get(name, 0) >= record["epoch"] for name in self.setting.ids)
            self._records[number] = record["epoch"], told, record["claim"] != HOLDER
        return self._records[number]
