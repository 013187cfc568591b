"""The operator: runs the commands that move the collection, again and again until they have, two at once at times."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from qferry.control import records
from qferry.errors import FerryError, Refused
from qferry.flows import lifecycle
from qferry.flows.cleanup import cleanup
from qferry.flows.coordinator import Coordinator, claim
from qferry.flows.copy import copy
from qferry.flows.effects import Flow
from qferry.flows.restore import Origin, restore
from qferry.flows.settle import drain_well
from qferry.flows.verify import verify
from qferry.protocol.phases import TRANSITIONS, Event, Phase
from qferry.protocol.records import CONTROL_COLLECTION, Migration, Strategy, WritePolicy

from .application import SOURCE, TARGET
from .prepared import carried_out
from .world import Accidents, Process, Task, World

ACK_TIMEOUT_S = 10.0
HOME_URL = "http://home"
# In so many runs somebody limits how fast copies and comparisons may go, and changes their mind again and again.
_THROTTLED = 0.2
# So many verifications look again only at what differed, where they may.
_AGAIN = 0.5
_UNLIMITED = {"max_points_per_s": 0, "max_latency_ms": 0, "paused": False}
_LIMITS = (
    {"paused": True},
    {"paused": False},
    {"max_points_per_s": 1},
    {"max_points_per_s": 5},
    {"max_latency_ms": 5},
    {"max_latency_ms": 0},
    _UNLIMITED,
)
_ABORTABLE = {p.value for p in Phase if Event.ABANDONED in TRANSITIONS[p]} | {Phase.SWITCHED.value}
_BEGINNING = (Phase.PREPARING, Phase.ANNOUNCED, Phase.STARTING)


@dataclass(frozen=True)
class Goal:
    """What the operator wants next: `switch` to a share, `rollback`, `abort`, `finish` or `cleanup`."""

    what: str
    percent: int = 0


def _start(target_url: str, policy: WritePolicy, strategy: Strategy) -> Flow[None]:
    """What `commands.start` does, without the plan."""
    found = yield from lifecycle.open_migrations()
    mine = [m for m in found if SOURCE in m.names]
    if mine:
        migration = lifecycle.one_of(mine, SOURCE)
    else:
        yield from lifecycle.ensure_control_collection()
        migration = yield from lifecycle.record(SOURCE, TARGET, target_url, {}, (), policy, strategy)
    yield from _claimed(migration, lifecycle.start)


def _claimed(migration: Migration, command: Callable[[Coordinator], Flow[Any]], *, at_once: bool = False) -> Flow[Any]:
    """What `commands._claimed` does: claim, run, and give the claim back also when the command fails."""
    co = yield from claim(migration, "operator", ack_timeout_s=ACK_TIMEOUT_S, at_once=at_once)
    try:
        result = yield from command(co)
    except FerryError:
        yield from _release(co)
        raise
    yield from _release(co)
    return result


def _release(co: Coordinator) -> Flow[None]:
    try:
        yield from co.release()
    except FerryError:
        return  # the claim lapses by itself


def _backfill(co: Coordinator) -> Flow[None]:
    yield from restore(co, Origin(HOME_URL))
    if co.migration.phase is Phase.STARTING:
        yield from lifecycle.take_up_dual_writes(co)
    yield from copy(co)
    yield from drain_well(co)


def _finish(co: Coordinator) -> Flow[None]:
    yield from lifecycle.finish(co, "2026-01-01T00:00:00Z")


class Operator:
    """
    Works off goals by running commands, each a process of its own.

    Args:
        world: Where it works.
        goals: What it wants, in order; then it is done.
        accidents: For the n-th command it runs.
        target_url: The target's server.
        policy: The write policy.
        strategy: How history gets to the target.
        doubled: Commands, by number, for which a second coordinator is started at once.
    """

    def __init__(
        self,
        world: World,
        goals: Sequence[Goal],
        accidents: dict[int, Accidents],
        target_url: str,
        policy: WritePolicy,
        strategy: Strategy,
        doubled: frozenset[int],
    ) -> None:
        self.world = world
        self.goals = list(goals)
        self.target_url = target_url
        self.policy = policy
        self.strategy = strategy
        self.problems: list[str] = []  # how commands ended that did not succeed
        self.running: dict[str, Process] = {}
        self._accidents = accidents
        self._doubled = doubled
        self._commands = 0
        self._repair_first = False
        self._patience_s = 0.0  # after a failure it looks again a little later
        self._random = random.Random(f"{world.seed} operator")
        self._moody = random.Random(f"{world.seed} limits")
        self._hasty = random.Random(f"{world.seed} again")
        if self._moody.random() < _THROTTLED:
            world.after(0.0, self._limit)

    @property
    def done(self) -> bool:
        """Whether all goals are reached and no command is under way."""
        return not self.goals and not self.running

    def migration(self) -> Migration | None:
        """The record as it stands, read without a request: the operator is no part of what is tested."""
        record = self._record()
        return Migration.from_payload(record) if record else None

    def _record(self) -> dict[str, Any] | None:
        home = self.world.network.servers[""].qdrant.collections.get(CONTROL_COLLECTION)
        found = home.of_kind("migration") if home is not None else []
        return max(found, key=lambda m: (m["phase"] != "preparing", m["created_at"], m["id"]), default=None)

    def phase(self) -> str:
        """Where the migration stands; empty before there is one."""
        record = self._record()
        return record["phase"] if record else ""

    def prepare(self, phase: str) -> None:
        """Bring the migration to where the run begins; empty: it does not exist yet."""
        goals, self.goals = self.goals, [Goal("switch", 100)]
        for number in count():
            if not phase or self.phase() == phase:
                break
            carried_out(self._next_command()[1], self.world.network, f"{self.world.seed} prepared {number}")
        self.goals = goals

    def look(self) -> None:
        """Run the next command if none is getting on: it has ended, has died, or does not seem to move."""
        for name, process in list(self.running.items()):
            if not process.alive:
                del self.running[name]
        stuck = [p for p in self.running.values() if p.stopped_until > self.world.now + 2]
        while self.goals and self._reached(self.goals[0]):
            self.goals.pop(0)
        if self.goals and len(stuck) == len(self.running):
            self._run_next()
        if not self.done:
            self.world.after(self._random.uniform(0.2, 1.0 + self._patience_s), self.look)

    def give_up(self) -> None:
        """Abort in the middle of whatever is under way, if there is something and it is not too late for that."""
        if self.goals and self.phase() in _ABORTABLE:
            self.goals = [Goal("abort")]
            self._run_next()

    def _limit(self) -> None:
        """Change a limit of the migration that is under way, without its claim; in the end there is none."""
        calm = self.world.network.calm
        m = self.migration()
        if m is not None:
            changes = _UNLIMITED if calm else self._moody.choice(_LIMITS)

            def flow() -> Flow[None]:
                yield records.change_limits(m.id, changes)

            Process(self.world, "limits").run(flow(), lambda *_: None)
        if not (calm and m is not None) and not self.done:
            self.world.after(self._moody.uniform(0.2, 3.0), self._limit)

    def _run_next(self) -> None:
        self._commands += 1
        number = self._commands
        self._run(f"coordinator-{number}", self._accidents.get(number, {}))
        if number in self._doubled:
            self.world.after(self._random.uniform(0, 2), lambda: self._run(f"coordinator-{number}b", {}))

    def _next_command(self) -> tuple[str, Flow[Any]]:
        m, goal = self.migration(), self.goals[0]
        if m is None or (m.phase in _BEGINNING and goal.what != "abort"):
            return "start", _start(self.target_url, self.policy, self.strategy)
        if goal.what == "abort":
            return "abort", _claimed(m, lifecycle.abort, at_once=True)
        if m.phase in (Phase.CAPTURING, Phase.COPYING):
            return "backfill", _claimed(m, _backfill)
        proven = m.verified is not None and m.searches_proven and not m.suspicions and not self._repair_first
        if m.phase in (Phase.COPIED, Phase.SWITCHED) and goal.what != "rollback" and not proven:
            self._repair_first = False
            again = self._hasty.random() < _AGAIN
            return "verify", _claimed(m, lambda co: verify(co, mend=True, again=again))
        commands: dict[str, Callable[[Coordinator], Flow[Any]]] = {
            "switch": lambda co: lifecycle.switch(co, goal.percent),
            "rollback": lifecycle.rollback,
            "finish": _finish,
            "cleanup": cleanup,
        }
        what = goal.what
        on_target = m.read_percent == lifecycle.ALL_READS and not m.stepped_back
        if what == "finish" and m.phase is Phase.SWITCHED and not on_target:
            return "switch", _claimed(m, lambda co: lifecycle.switch(co, lifecycle.ALL_READS))
        return what, _claimed(m, commands[what])

    def _run(self, name: str, accidents: Accidents) -> None:
        if not self.goals:
            return
        what, flow = self._next_command()
        self.world.note(name, f"runs `qferry {what}`")
        self.running[name] = Process(self.world, name, accidents)
        self.running[name].run(flow, lambda *ended: self._ended(what, name, *ended))

    def _ended(self, what: str, name: str, _: Task, __: Any, error: BaseException | None) -> None:
        self.running.pop(name, None)
        self._patience_s = 0.0 if error is None else 2.0
        self.world.note(name, f"`qferry {what}` ends", error or "well")
        if error is None:
            return
        if not isinstance(error, FerryError):
            raise error
        self.problems.append(f"{what}: {type(error).__name__}: {error}")
        self._repair_first = isinstance(error, Refused) and what in ("switch", "finish")

    def _reached(self, goal: Goal) -> bool:
        record = self._record()
        if record is None:
            return False
        if goal.what == "switch":
            return bool(record["phase"] == "switched" and record["read_percent"] == goal.percent)
        reached = {"rollback": "copied", "finish": "finished", "cleanup": "cleaned", "abort": "aborted"}
        return bool(record["phase"] == reached[goal.what])
