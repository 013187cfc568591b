"""One round: a fresh collection, applications under load, faults, one migration to its end, and the verdict."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from .case import Case, initial_points
from .content import DIMENSIONS, GROUP, as_payload, as_vectors
from .coordinator import Operator, StuckError, journey
from .faults import Cast, script
from .fleet import LANES, Fleet, Load
from .injection import Injector, Reach
from .judge import Verdict
from .stage import Server, Stage, ask, read_collection
from .workload import Population

_PAGE_POINTS = 1000


@dataclass(frozen=True)
class Plan:
    """
    What a round is.

    Args:
        seed: The same seed gives the same traffic and the same script of faults.
        number: The round, counted from 1.
        points: How many points there may be.
        calls_per_s: The most calls a lane makes in a second.
        control_s: Seconds of traffic without any migration; None for a migration.
        brisk: A short migration without detours.
        faults_s: For how long faults begin, in seconds; after that the migration goes straight on.
    """

    seed: str
    number: int = 1
    points: int = 20_000
    calls_per_s: float = 20.0
    control_s: float | None = None
    brisk: bool = False
    faults_s: float = inf


@dataclass
class Outcome:
    """What came of a round; `phase` is where the migration ended."""

    verdict: Verdict
    phase: str
    injected: Counter[str]
    seconds: float
    refusals: Counter[str] = field(default_factory=Counter)


def play(plan: Plan, stage: Stage, folder: Path, told: Callable[[str], None]) -> Outcome:
    """
    Play one round.

    Args:
        plan: What it is.
        stage: Where.
        folder: An empty folder for the logs.
        told: Receives a line now and then.

    Returns:
        The verdict and some figures.
    """
    began = time.monotonic()
    source, target = f"chaos-{plan.number}-old", f"chaos-{plan.number}-new"
    population = Population(plan.points, len(stage.applications) * LANES)
    _create(stage.home, source, population)
    load = Load(source, plan.seed, population, plan.calls_per_s, control=plan.control_s is not None)
    fleet = Fleet(load, stage.applications, folder)
    operator = None
    if plan.control_s is None:
        operator = Operator(
            url=stage.coordinator.url,
            grpc_port=stage.coordinator.grpc_port,
            target_url=stage.target_url,
            overrides=stage.overrides,
            home=stage.home,
            names=(source, target),
            folder=folder,
        )
    injector = _injector(plan, stage, fleet, operator, told)
    stuck = _run(plan, fleet, operator, injector, told)
    surviving, where = source, stage.home
    if operator is not None and operator.look() in ("finishing", "finished", "cleaned"):
        surviving, where = target, stage.target
    case = Case(
        population=population,
        subjects={
            name: [*stage.servers, *stage.applications[place].links, name] for name, place in fleet.places.items()
        },
        windows=[(window.subject, window.start, window.end) for window in injector.windows],
        killed=fleet.killed,
        crashes=[*stuck, *fleet.crashes, *(operator.crashes if operator is not None else ())],
        surviving=read_collection(where, surviving),
    )
    case.save(folder)
    told(f"judges what {surviving} holds")
    verdict = case.verdict(folder)
    for server, name in ((stage.home, source), (stage.target, target)):
        ask(server, "DELETE", f"/collections/{name}")
    return Outcome(
        verdict,
        operator.phase if operator is not None else "control",
        injector.injected,
        time.monotonic() - began,
        operator.refusals if operator is not None else Counter(),
    )


def _create(server: Server, name: str, population: Population) -> None:
    vectors = {vector: {"size": size, "distance": "Euclid"} for vector, size in DIMENSIONS.items()}
    ask(server, "PUT", f"/collections/{name}", {"vectors": vectors})
    ask(server, "PUT", f"/collections/{name}/index?wait=true", {"field_name": GROUP, "field_schema": "integer"})
    initial = initial_points(population)
    points = [{"id": i, "vector": as_vectors(s), "payload": as_payload(s)} for i, s in initial.items()]
    for start in range(0, len(points), _PAGE_POINTS):
        page = {"points": points[start : start + _PAGE_POINTS]}
        ask(server, "PUT", f"/collections/{name}/points?wait=true", page)


def _injector(
    plan: Plan, stage: Stage, fleet: Fleet, operator: Operator | None, told: Callable[[str], None]
) -> Injector:
    cast = Cast(
        servers=tuple(stage.servers),
        applications=[f"app:{i}" for i in range(len(stage.applications))],
        coordinator="coordinator",
        links=stage.links,
        own_links=[link for link in stage.links if link.startswith("link:app")],
    )
    reach = Reach(dict(stage.servers), fleet, operator, stage.proxy)
    return Injector(script(plan.seed, cast), reach, told)


def _run(
    plan: Plan, fleet: Fleet, operator: Operator | None, injector: Injector, told: Callable[[str], None]
) -> list[str]:
    """Traffic, faults and migration, to the end of all three; returns why the migration got stuck, if it did."""
    stuck: list[str] = []
    with _all_ended(fleet, operator):
        fleet.start()
        until = time.monotonic() + plan.faults_s
        injector.start(until)
        try:
            if operator is None:
                threading.Event().wait(plan.control_s)
            else:
                for step in journey(random.Random(f"journey of {plan.seed}"), brisk=plan.brisk):
                    told(f"qferry {step.verb} {' '.join(step.options)}")
                    operator.take(step)
                    time.sleep(max(0.0, min(step.pause_s, until - time.monotonic())))
        except StuckError as error:
            stuck.append(str(error))
        finally:
            injector.stop()
        if operator is not None:
            operator.outlast()
        fleet.stop()
    return stuck


@contextlib.contextmanager
def _all_ended(fleet: Fleet, operator: Operator | None) -> Iterator[None]:
    try:
        yield
    finally:
        fleet.kill_all()
        if operator is not None:
            operator.kill_all()
