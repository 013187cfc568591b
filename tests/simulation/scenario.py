"""What happens in a run, chosen by its seed: the processes, their calls, the operator's goals, and the accidents."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from qferry.protocol.records import Pins, Strategy, WritePolicy

from .application import ClientPlan
from .calls import PHASES, planned_stream
from .network import FAULTS
from .operators import Goal
from .world import Accidents

TARGET_SERVER = "http://target"
# From then on nothing fails any more, so that every run can come to its end.
CALM_AT_S = 20.0


# Where a run begins: mostly in the middle, since what comes later is then tried more often.
_SNAPSHOTS = 0.3  # the share of runs in which a snapshot is restored
_BEGINNINGS = ("", "copying", "copied", "copied", "switched", "switched", "switched")


@dataclass(frozen=True)
class Incident:
    """Something that happens to a server."""

    at: float
    server: str
    what: str  # crash or stop
    seconds: float


@dataclass(frozen=True)
class Scenario:
    """A whole run; everything in it follows from the seed."""

    seed: int
    points: tuple[int, ...]
    present: tuple[int, ...]  # those that exist at the beginning
    target_url: str
    policy: WritePolicy
    strategy: Strategy
    gives_up_at: float | None  # when the operator aborts, whatever is under way
    fetches: bool  # whether the target's server can fetch a snapshot by itself
    clients: tuple[ClientPlan, ...]
    goals: tuple[Goal, ...]
    coordinator_accidents: dict[int, Accidents]
    doubled: frozenset[int]
    faults: dict[str, float]
    incidents: tuple[Incident, ...]
    begins: str  # the phase in which the migration is at the beginning; empty: it does not exist yet
    settled: bool  # an earlier migration has made the control collection

    @classmethod
    def of(cls, seed: int) -> Scenario:
        """The scenario of a seed."""
        chance = random.Random(seed)
        points = tuple(range(1, 1 + chance.choice((1, 2, 3, 4, 7))))
        # Most calls of a run fall into one phase, so that each phase is put under load by some runs.
        begins = chance.choice(_BEGINNINGS)
        other = random.Random(f"{seed} strategy")
        strategy = Strategy.SNAPSHOT if other.random() < _SNAPSHOTS else Strategy.STREAM
        phases = tuple(p for p in PHASES if strategy is Strategy.SNAPSHOT or p != "capturing")
        if strategy is Strategy.SNAPSHOT and begins in ("copying", "copied"):
            begins = "capturing"
        goals = _goals(chance, begins)
        ends = "finished" if goals[-1].what in ("finish", "cleanup", "abort") else "switched"
        to_come = phases[phases.index(begins) : phases.index(ends) + 1]
        focus = chance.choice(to_come[3:] if not begins else to_come)
        target_url = TARGET_SERVER if chance.random() < 0.3 else ""
        accidental = chance.random() < 0.5
        faulty = chance.random() < 0.6
        return cls(
            seed=seed,
            points=points,
            present=tuple(p for p in points if chance.random() < 0.7),
            target_url=target_url,
            policy=chance.choice(tuple(WritePolicy)),
            strategy=strategy,
            fetches=other.random() < 0.7,
            gives_up_at=other.uniform(0, 10) if other.random() < 0.1 else None,
            clients=tuple(_client(chance, i, points, focus, to_come, accidental) for i in range(chance.randint(2, 3))),
            goals=goals,
            begins=begins,
            coordinator_accidents=_accidents_of_commands(chance) if accidental else {},
            doubled=frozenset(n for n in range(1, 12) if accidental and chance.random() < 0.05),
            faults=_faults(chance) if faulty else {},
            incidents=_incidents(chance, target_url) if faulty else (),
            settled=bool(begins) or chance.random() < 0.7,
        )

    def parts(self) -> list[str]:
        """The names of all that can be left out of it."""
        names = [
            f"{client.name}/{stream}/{n}"
            for client in self.clients
            for stream, calls in enumerate(client.streams)
            for n in range(len(calls))
        ]
        names += [f"{c.name} {effect}" for c in self.clients for effect in c.accidents]
        names += [f"command {n} {effect}" for n, found in self.coordinator_accidents.items() for effect in found]
        names += [f"doubled {n}" for n in sorted(self.doubled)]
        names += [f"fault {name}" for name in self.faults]
        return names + [f"incident {n}" for n in range(len(self.incidents))]

    def without(self, left_out: frozenset[str]) -> Scenario:
        """The same with some parts left out."""
        return replace(
            self,
            clients=tuple(_less(c, left_out) for c in self.clients),
            coordinator_accidents={
                n: {e: fate for e, fate in found.items() if f"command {n} {e}" not in left_out}
                for n, found in self.coordinator_accidents.items()
            },
            doubled=frozenset(n for n in self.doubled if f"doubled {n}" not in left_out),
            faults={name: share for name, share in self.faults.items() if f"fault {name}" not in left_out},
            incidents=tuple(i for n, i in enumerate(self.incidents) if f"incident {n}" not in left_out),
        )


def _less(client: ClientPlan, left_out: frozenset[str]) -> ClientPlan:
    streams = tuple(
        tuple(call for n, call in enumerate(calls) if f"{client.name}/{s}/{n}" not in left_out)
        for s, calls in enumerate(client.streams)
    )
    accidents = {e: fate for e, fate in client.accidents.items() if f"{client.name} {e}" not in left_out}
    return replace(client, streams=streams, accidents=accidents)


def _client(
    chance: random.Random,
    index: int,
    points: tuple[int, ...],
    focus: str,
    to_come: Sequence[str],
    accidental: bool,
) -> ClientPlan:
    name = f"app-{index + 1}"
    drawn = chance.random()
    pins = Pins(new_reads=True) if drawn < 0.05 else Pins(new_reads=False) if drawn < 0.08 else Pins()
    if pins != Pins():  # nobody gets past the switch before such a process has ended
        to_come = [phase for phase in to_come if phase not in ("finishing", "finished")]
        focus = focus if focus in to_come else to_come[-1]
    busy = chance.choice((0.05, 0.5, 2.0))
    streams = tuple(
        planned_stream(chance, 10 * (index + 1) + s, points, _phases(chance, focus, to_come), busy)
        for s in range(chance.choice((1, 1, 2)))
    )
    accidents: Accidents = {}
    if accidental and chance.random() < 0.5:
        accidents[chance.randint(1, 250)] = "kill" if chance.random() < 0.4 else chance.uniform(1, 8)
    return ClientPlan(name, streams, accidents, pins, chance.random() < 0.15)


def _phases(chance: random.Random, focus: str, to_come: Sequence[str]) -> list[str]:
    return [focus if chance.random() < 0.6 else chance.choice(to_come) for _ in range(chance.randint(5, 14))]


def _goals(chance: random.Random, begins: str) -> tuple[Goal, ...]:
    """What is wanted: the rest of the way, with a detour at times, or only a part of it."""
    drawn = chance.random()
    if drawn < 0.1:
        return (Goal("abort"),)
    goals = [] if begins == "switched" else [Goal("switch", chance.choice((30, 100, 100)))]
    if drawn < 0.25:
        goals += [Goal("rollback"), Goal("switch", 50)]
    if drawn < 0.3:
        return (*goals, Goal("abort"))
    if not begins and drawn < 0.7:
        return tuple(goals)
    goals.append(Goal("finish"))
    return (*goals, Goal("cleanup")) if chance.random() < 0.3 else tuple(goals)


def _accidents_of_commands(chance: random.Random) -> dict[int, Accidents]:
    return {
        n: {chance.randint(1, 60): chance.choice(("kill", chance.uniform(1, 4), chance.uniform(4, 10)))}
        for n in range(1, 12)
        if chance.random() < 0.2
    }


def _faults(chance: random.Random) -> dict[str, float]:
    return {name: chance.choice((0.005, 0.02, 0.05)) for name in FAULTS if chance.random() < 0.4}


def _incidents(chance: random.Random, target_url: str) -> tuple[Incident, ...]:
    return tuple(
        Incident(
            chance.uniform(0, 15),
            chance.choice(("", target_url)),
            chance.choice(("crash", "stop")),
            chance.choice((0.2, 1.5, 5.0)),
        )
        for _ in range(chance.choice((0, 0, 1, 2)))
    )
