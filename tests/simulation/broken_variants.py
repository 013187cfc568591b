"""
Deliberately broken variants of qferry, each a patch of one function of what ships.

They show that the simulator has teeth: every one must break a promise within a few thousand schedules, and the flows
that ship must not in the same schedule.  A mistake is given the shipped function first, so that it can be the shipped
one with something left out, and goes on fitting when that changes.

When a change of the scenarios or of the flows has moved the schedules, search anew:
`python -m tests.simulation.broken_variants --within 3000 [--only NAME]`.
"""

# ruff: noqa: ARG001  a mistake takes what the shipped function takes

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any
from unittest.mock import patch

from qdrant_client import models

from qferry.control import records, wire
from qferry.errors import Rejected
from qferry.flows import copy, lifecycle, missing, restore, settle, write
from qferry.flows.coordinator import Coordinator
from qferry.flows.effects import Begin, Effect, Flow, Now, Outcome, Request, Sleep, Together
from qferry.protocol.doubt import Doubt
from qferry.protocol.journal import Flush, Journal
from qferry.protocol.phases import Phase, Routing, Side
from qferry.protocol.records import CONTROL_COLLECTION, HOME, Migration
from qferry.protocol.session import Route, Session

from .scenario import Scenario
from .simulation import Result, simulate

WITHIN = 3000
# An error of the variant's own making says that it does not fit what ships, and not that a promise was broken.
_MISFITS = re.compile(r"\b(TypeError|AttributeError|KeyError|NameError|ValueError|IndexError|UnboundLocalError)\b")


@dataclass(frozen=True)
class Variant:
    """
    One mistake.

    Args:
        owner: The module or class whose function it replaces.
        name: That function.
        replacement: What takes its place.
        wrong: What is wrong with it, in a sentence.
    """

    owner: Any
    name: str
    replacement: Any
    wrong: str


VARIANTS: dict[str, Variant] = {}
Mistake = Callable[..., Any]


def variant(owner: Any, name: str) -> Callable[[Mistake], Mistake]:
    """Register a mistake that takes the place of `owner.name`; it is given the shipped function first."""

    def register(mistake: Mistake) -> Mistake:
        shipped = inspect.getattr_static(owner, name)
        function: Any = shipped
        if isinstance(shipped, property | classmethod):
            function = shipped.fget if isinstance(shipped, property) else shipped.__func__

        @wraps(function)
        def replacement(*args: Any, **kwargs: Any) -> Any:
            return mistake(function, *args, **kwargs)

        kind = type(shipped) if function is not shipped else lambda plain: plain
        VARIANTS[mistake.__name__] = Variant(owner, name, kind(replacement), inspect.getdoc(mistake) or "")
        return mistake

    return register


@contextmanager
def broken(name: str) -> Iterator[None]:
    """Put a variant in place, wherever the shipped function has been imported to."""
    found = VARIANTS[name]
    shipped = inspect.getattr_static(found.owner, found.name)
    # Under pytest this package is called `simulation`.
    importing = [m for n, m in sys.modules.items() if n.startswith(("qferry", "tests.simulation", "simulation."))]
    with ExitStack() as stack:
        stack.enter_context(patch.object(found.owner, found.name, found.replacement))
        for module in importing:
            if module is not found.owner and vars(module).get(found.name) is shipped:
                stack.enter_context(patch.object(module, found.name, found.replacement))
        yield


def promise_broken(result: Result) -> str:
    """
    The promise that a run has broken, in words; empty if it kept them all.

    That a command never comes to its end is an inconvenience and not counted.

    Raises:
        TypeError: The variant does not fit what ships any more.
    """
    found = [v for v in result.violations if not v.promise.startswith("every command")]
    misfit = next((v.text for v in found if _MISFITS.search(v.text)), None)
    if misfit is not None:
        raise TypeError(f"The variant raises an error of its own, adapt it to what ships: {misfit}")
    return f"{found[0].promise}: {found[0].text}" if found else _only_verification_knew(result)


def _only_verification_knew(result: Result) -> str:
    """
    What a full check found although nothing was suspected; empty if there is nothing of the kind.

    Everything the simulated application writes goes through qferry.  So by rule (J) what differs is in the journal, or
    a suspicion is; what only the full check knew of, the journal had lost.  Repaired, it breaks no other promise.
    """
    home = result.world.network.servers[HOME].qdrant.collections.get(CONTROL_COLLECTION)
    events = home.of_kind("event") if home is not None else []
    suspected = False
    for event in sorted(events, key=lambda e: e["epoch"]):
        found = event["details"].get("every point", "")
        if not suspected and (", none differ" not in found or "repaired" in found) and found:
            return f"J: what differs is in the journal until it is equal: {found}"
        suspected = (suspected or event["what"] == "suspect") and event["what"] != "verified"
    return ""


def tampered(flow: Flow[Any], tamper: Callable[[Effect], Flow[Any]]) -> Flow[Any]:
    """Run a flow, but carry each of its effects out by `tamper`, which may change it or leave it out."""
    value: Any = None
    error: Exception | None = None
    try:
        while True:
            try:
                effect = flow.throw(error) if error is not None else flow.send(value)
            except StopIteration as stop:
                return stop.value
            value, error = None, None
            try:
                value = yield from tamper(effect)
            except Exception as raised:  # noqa: BLE001  the flow is given what its effect ended in
                error = raised
    finally:
        flow.close()


def _journalled_entries(m: Migration) -> Flow[list[Any]]:
    """The ids in the durable journal."""
    found: list[Any] = []
    offset = None
    while True:
        page = yield wire.scroll(HOME, m.journal_collection, offset=offset)
        found += [point["id"] for point in page["points"]]
        offset = page["next_page_offset"]
        if offset is None:
            return found


# Writing.


@variant(write, "journalled")
def documents_recipe(
    _: Any, session: Any, view: Any, route: Any, operations: Any, options: Any, *__: Any, **___: Any
) -> Flow[Any]:
    """Write to one side and then to the other, without a journal; whatever the target says is the caller's."""
    for side in (Side.SOURCE, Side.TARGET):
        (outcome,) = yield Together(missing.batches(route, [side], operations, options))
        if outcome.error is not None:
            raise outcome.error
    return outcome.value


@variant(missing, "_leave_out_missing")
def handing_the_targets_404_to_the_caller(_: Any, *__: Any, **___: Any) -> Flow[Outcome]:
    """Let a partial update fail because the target lacks the point."""
    yield Now()
    return Outcome(error=Rejected("The target has no such point.", status=404))


@variant(write, "_judge_other")
def acknowledging_what_the_target_lacks(_: Any, *__: Any, **___: Any) -> Flow[None]:
    """Tell the caller of success whatever became of the write on the other side."""
    yield Now()


@variant(write, "_resolve")
def resolving_filters_on_one_side(shipped: Any, route: Any, chosen: Any) -> Flow[list[Any]]:
    """Ask only the side that is truth which points a filter matches."""

    def of_the_truth(effect: Effect) -> Flow[Any]:
        if not isinstance(effect, Together):
            return (yield effect)
        first, *others = effect.effects
        answered = yield Together((first,))
        return [*answered, *(Outcome({"points": [], "next_page_offset": None}) for _ in others)]

    return (yield from tampered(shipped(route, chosen), of_the_truth))


# The journal in a writer's memory.


@variant(write.ops, "ids_of")
def not_journalling_deletes(shipped: Any, operation: Any) -> list[Any]:
    """Note what is written, and not what is deleted."""
    return [] if isinstance(operation, models.DeleteOperation) else list(shipped(operation))


@variant(Journal, "start_flush")
def never_flushing(shipped: Any, journal: Journal) -> Flush:
    """Keep the journal in memory."""
    return replace(shipped(journal), ids=())


@variant(Journal, "end")
def dropping_ids_of_unknown_fate(shipped: Any, journal: Journal, ids: Any, doubt: Doubt | None = None) -> None:
    """Take a write that got no answer for one that never was."""
    ids = list(ids)
    shipped(journal, ids)
    for point_id in ids if doubt is not None else ():
        journal._ended.pop(point_id, None)


# Leases, registration and acknowledgements, as a writer keeps them.


@variant(Session, "valid")
def a_lease_that_never_expires(_: Any, session: Session, now: float) -> bool:
    """Act on routing that was read once, however long ago."""
    return session.lease_until > float("-inf")


@variant(Session, "valid")
def a_lease_on_the_wall_clock(shipped: Any, session: Session, now: float) -> bool:
    """Look at a clock that somebody may set back, and has: by ten seconds."""
    return bool(shipped(session, now - 10.0))


# The coordinator's word and ear.


@variant(Coordinator, "acknowledged")
def not_waiting_for_acknowledgements(_: Any, co: Coordinator, epoch: int, *, seen: bool = False) -> Flow[list[Any]]:
    """Take it that every writer follows at once."""
    listed: list[Any] = yield from records.writers()
    return listed


@variant(Coordinator, "_bury")
def never_suspecting(_: Any, co: Coordinator, writer: Any) -> Flow[None]:
    """Take a writer off the list that has vanished with what it had not flushed."""
    yield records.forget(writer.id)


# Copy, check, repair.


@variant(copy.Piece, "_write")
def settling_during_the_copy(shipped: Any, piece: copy.Piece, page: Any, following: Any) -> Flow[Any]:
    """Settle what is equal while a page is between its reading and its writing."""
    yield Sleep(3.0)
    journal = f"{CONTROL_COLLECTION}_journal_{piece.fence.split('_')[2]}"
    entries = yield wire.scroll(HOME, journal, limit=1000, payload=False)
    ids = [entry["id"] for entry in entries["points"]]
    source = {point["id"]: point for point in (yield wire.retrieve(HOME, piece.source, ids))}
    target = {point["id"]: point for point in (yield wire.retrieve(piece.target_url, piece.fence, ids))}
    equal = [i for i in ids if settle.same(source.get(i), target.get(i))]
    yield wire.delete(HOME, journal, {"filter": wire.points_in(equal)})
    return (yield from shipped(piece, page, following))


@variant(copy._Backfill, "_some_pieces")
def saving_progress_before_applying(shipped: Any, work: Any, pace: Any) -> Flow[Any]:
    """Save that every range is done when the copy of one begins."""

    def saved_first(effect: Effect) -> Flow[Any]:
        if isinstance(effect, Begin):
            done = work.plan
            for number in done.left:
                done = done.advanced(number, 0, None, done=True)
            yield records.put(work.co.migration.plan, done.to_payload(work.co.migration.id))
        return (yield effect)

    return (yield from tampered(shipped(work, pace), saved_first))


@variant(copy._Backfill, "_take")
def taking_a_lost_worker_for_done(shipped: Any, work: Any, number: int, outcome: Outcome) -> None:
    """Go on after a worker was lost as if its piece had been copied."""
    if outcome.error is not None:
        stretch = work.plan.stretches[number]
        outcome = Outcome(copy.Copied(0, stretch.end, 1, done=True))
    shipped(work, number, outcome)


@variant(settle, "_settle")
def settling_newer_touches(shipped: Any, co: Coordinator, *entries: Any, **given: Any) -> Flow[Any]:
    """Remove a journal entry one heartbeat after it was checked, also if it was touched again."""

    def whatever_the_token(effect: Effect) -> Flow[Any]:
        if isinstance(effect, Request) and effect.op == "delete" and "_journal_" in effect.path:
            yield from co.roll_call("settling newer touches")
            effect = replace(effect, body={"filter": {"must": effect.body["filter"]["must"][:1]}})
        return (yield effect)

    return (yield from tampered(shipped(co, *entries, **given), whatever_the_token))


@variant(settle, "check")
def a_check_that_overlooks_resurrected_points(shipped: Any, migration: Migration, ids: Any) -> Flow[dict[Any, Any]]:
    """Compare what the source has, and not what the target has besides."""
    differing = yield from shipped(migration, ids)
    return {i: point for i, point in differing.items() if point is not None}


@variant(settle, "content")
def a_check_that_skips_payloads(shipped: Any, point: Any) -> bytes:
    """Compare vectors only."""
    return bytes(shipped(point and {"vector": point["vector"]}))


@variant(settle, "content")
def a_check_that_skips_vectors(shipped: Any, point: Any) -> bytes:
    """Compare payloads only."""
    return bytes(shipped(point and {"payload": point["payload"]}))


# Reads on the target.


@variant(Route, "of")
def reading_the_target_before_it_is_verified(shipped: Any, cls: type[Route], migration: Migration, pins: Any) -> Route:
    """Read from the target as soon as writes go there, as ENABLE_NEW_READS would have it."""
    route: Route = shipped(cls, migration, pins)
    return replace(route, read_percent=100) if route.writes is Routing.DUAL else route


# The snapshot.


@variant(restore, "_shut_out")
def recovering_through_a_fence_that_stays(_: Any, co: Coordinator) -> Flow[list[str]]:
    """Keep the fence that stands, so that what was sent through it earlier may come late."""
    if not co.fence:
        standing = yield from co.fences()
        co.fence = standing[0] if standing else ""
    yield from co.fenced()
    return []


@variant(Migration, "routing")
def a_snapshot_without_a_journal(shipped: Any, migration: Migration) -> Routing:
    """Go on without a journal until the target has been restored."""
    return Routing.SOURCE_ONLY if migration.phase is Phase.CAPTURING else Routing(shipped(migration))


# The finish.


@variant(lifecycle, "_clean_cycle")
def finishing_without_a_clean_cycle(_: Any, co: Coordinator) -> Flow[None]:
    """Finish as soon as the evidence is there."""
    yield from lifecycle.require_evidence(co)


@variant(lifecycle, "_move_aliases")
def repairing_after_the_finish(shipped: Any, co: Coordinator) -> Flow[None]:
    """Go through the journal once more when the target has become the only truth."""
    yield from co.fenced()
    for point_id in (yield from _journalled_entries(co.migration)):
        yield from settle.repair(co, [point_id])
    yield from shipped(co)


@variant(Migration, "routing")
def truth_and_writes_moving_at_once(shipped: Any, migration: Migration) -> Routing:
    """Let writers leave the source in the very step in which the target becomes truth."""
    return Routing.TARGET_ONLY if migration.phase is Phase.FINISHING else Routing(shipped(migration))


def keeps_all(result: Result) -> bool:
    """Whether a run of what ships went as it should."""
    return not result.violations and not promise_broken(result)


def caught(name: str, scenario: Scenario) -> str:
    """The promise that a variant breaks in a schedule in which what ships breaks none; empty if there is none."""
    with broken(name):
        promise = promise_broken(simulate(scenario))
    return promise if promise and keeps_all(simulate(scenario)) else ""


def search(name: str, seeds: Sequence[int]) -> tuple[int, str] | None:
    """The first of the seeds whose schedule catches a variant, and the promise broken there."""
    for seed in seeds:
        promise = caught(name, Scenario.of(seed))
        if promise:
            return seed, promise
    return None


def main() -> int:
    """Search for the first schedule that catches each variant; 1 if one survives."""
    parser = argparse.ArgumentParser(prog="tests.simulation.broken_variants", description=__doc__)
    parser.add_argument("--within", type=int, default=WITHIN, help="how many schedules to try")
    parser.add_argument("--only", choices=VARIANTS, metavar="NAME", help="one variant instead of all")
    given = parser.parse_args()
    survivors = 0
    for name in [given.only] if given.only else VARIANTS:
        found = search(name, range(given.within))
        survivors += found is None
        told = f"{found[0]:5} {found[1][:120]}" if found is not None else "      survives"
        sys.stdout.write(f"{name:42} {told}\n")
        sys.stdout.flush()
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
