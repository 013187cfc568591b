"""
What a dual write does about points that the side which is not truth lacks.

A partial update of a point that is not there answers 404 after changing others.  The truth has said yes, so the
caller must not hear of it.  Before readers see the target, what it lacks is left to the copy and the journal.  From
the switch on, readers must see what was acknowledged, and nobody may be at work on the journal: so the write waits for
the point, whose own write is on its way or has ended differently on the two sides, and in the end brings it itself
(docs/adr/0005).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qdrant_client import models

from qferry.control import wire
from qferry.errors import Rejected, RemoteFailure
from qferry.flows import operations as ops
from qferry.flows.effects import Call, Flow, Now, Outcome, Sleep, Together
from qferry.flows.fate import Fate, fate_of
from qferry.flows.operations import Operation
from qferry.flows.pages import whole
from qferry.flows.settle import same
from qferry.protocol.journal import Journal, PointId
from qferry.protocol.phases import Phase, Side
from qferry.protocol.records import LEASE_S, Migration
from qferry.protocol.seen import note_mended
from qferry.protocol.session import Route, Session

# How long a write waits for points that another write is about to bring to the target.
MISSING_PATIENCE_S, MISSING_RETRY_S = LEASE_S, 0.05
# After this long nobody is bringing them: the write does it itself.
MEND_AFTER_S = 0.5
MEND_ROUNDS = 5
# How often points may vanish between the look and the update that leaves out what was missing.
_TRIES = 3


class Lacking(RemoteFailure):
    """The target lacks points that the source has, and nothing is under way that would bring them."""


def batches(
    route: Route, sides: Iterable[Side], run: Sequence[Operation], options: Mapping[str, Any]
) -> tuple[Call, ...]:
    """A run of operations, sent to each of these sides and waited for."""
    m = route.migration
    # One for all sides, so that a driver can see that it may encode it once.
    arguments = {"update_operations": list(run), "wait": True, **options}
    return tuple(Call(m.server(side), "batch_update_points", m.collection(side), (), arguments) for side in sides)


def missing_point(outcome: Outcome) -> bool:
    """Whether the server's answer is that a point is not there."""
    return outcome.error is not None and fate_of(outcome.error) is Fate.MISSING_POINT


def until_settled(journal: Journal, ids: Sequence[PointId]) -> Flow[None]:
    """
    Let a write begin only when no other call of this process waits for one of its points on the target, or brings it.

    What is brought there was read before, and what the other call sends there again was acknowledged to nobody yet.
    """
    while journal.waiting and not journal.waiting.keys().isdisjoint(ids):
        yield Sleep(MISSING_RETRY_S)


def pass_over_missing(
    session: Session,
    route: Route,
    side: Side,
    run: Sequence[Operation],
    ids: Sequence[PointId],
    options: Mapping[str, Any],
) -> Flow[Outcome]:
    """
    Bring a run to a side that lacks some of its points, once the truth has carried it out.

    While readers see that side, a point may only be passed over if it is on neither side and nobody seems to be
    writing it: otherwise this run would be acknowledged and not be seen, or be undone by a write that the truth has
    had before it.
    """
    if route.migration.phase is not Phase.SWITCHED:
        sent: Outcome = yield from _leave_out_missing(route, side, run, ids, options)
        return Outcome(value=[]) if isinstance(sent.error, Lacking) else sent
    journal = session.journal(route.migration)
    for point_id in ids:
        journal.waiting[point_id] = journal.waiting.get(point_id, 0) + 1
    try:
        return (yield from _wait_and_send(journal, route, side, run, ids, options))
    finally:
        for point_id in ids:
            journal.waiting[point_id] -= 1
            if not journal.waiting[point_id]:
                del journal.waiting[point_id]


def _wait_and_send(
    journal: Journal,
    route: Route,
    side: Side,
    run: Sequence[Operation],
    ids: Sequence[PointId],
    options: Mapping[str, Any],
) -> Flow[Outcome]:
    presumed = ops.presumed(run)
    undoes_itself = bool(ops.deleted_in_the_end(run))  # then that the source lacks a point says nothing
    began: float = yield Now()
    sent: Outcome | None = None
    while True:
        lacking, on_source = yield from _lacking(route, ids if sent is not None else presumed)
        waited = (yield Now()) - began
        nowhere = not on_source and waited > (MISSING_PATIENCE_S if undoes_itself else MEND_AFTER_S)
        if sent is None and (not lacking or nowhere):
            sent = yield from _leave_out_missing(route, side, run, ids, options)
            if sent.error is not None:
                return sent
            # Not to be sent once more: others may have written these points since.
            lacking, on_source = yield from _lacking(route, ids)
        if sent is not None and not on_source:
            return sent
        if waited > MISSING_PATIENCE_S:
            return Outcome(error=Lacking(f"it lacks {len(on_source)} of these points"))
        if waited > MEND_AFTER_S and on_source and _undisturbed(journal, on_source):
            # It comes from the source, and so with what this run has done there.
            error: Exception | None = yield from _bring(journal, route, on_source)
            if error is not None:
                return Outcome(error=error)
        yield Sleep(MISSING_RETRY_S)


def _undisturbed(journal: Journal, ids: Sequence[PointId]) -> bool:
    """
    Whether no other call of this process brings these points, or has writes to them under way on both sides.

    One that waits here as well has written the source already, so what is brought from there includes it.
    """
    return journal.brought.isdisjoint(ids) and all(journal.in_flight(i) == journal.waiting[i] for i in ids)


def _lacking(route: Route, ids: Sequence[PointId]) -> Flow[tuple[list[PointId], list[PointId]]]:
    """Those of `ids` that the target lacks, and those of them that the source has; all of them if a side is silent."""
    if not ids:
        return [], []
    m = route.migration
    found = yield from present(m, ids)
    if found is None:
        return list(ids), list(ids)
    on_source, on_target = found
    lacking = [i for i in ids if i not in on_target]
    return lacking, [i for i in lacking if i in on_source]


def present(m: Migration, ids: Sequence[PointId]) -> Flow[tuple[set[PointId], set[PointId]] | None]:
    """Which of `ids` the source has, and which the target; None if a side is silent."""
    answers = yield Together(
        tuple(wire.retrieve(m.server(s), m.collection(s), ids, payload=False, vector=False) for s in Side)
    )
    if any(answer.error is not None for answer in answers):
        return None
    on_source, on_target = ({point["id"] for point in answer.value} for answer in answers)
    return on_source, on_target


def _leave_out_missing(
    route: Route, side: Side, run: Sequence[Operation], ids: Sequence[PointId], options: Mapping[str, Any]
) -> Flow[Outcome]:
    """
    Send a run again so that points the side does not have (yet) are passed over.

    They are in the journal, like all of `ids`: the copy brings them, or the check after it does (docs/adr/0005).
    """
    m = route.migration
    for _ in range(_TRIES):
        present: set[PointId] = set()
        if any(isinstance(operation, models.UpdateVectorsOperation) for operation in run):
            (found,) = yield Together(
                (wire.retrieve(m.server(side), m.collection(side), ids, payload=False, vector=False),)
            )
            if found.error is not None:
                return Outcome(error=found.error)
            present = {point["id"] for point in found.value}
        tolerant = ops.all_tolerant(run, present)
        if not tolerant:
            return Outcome(value=[])
        (outcome,) = yield Together(batches(route, [side], tolerant, options))
        answer: Outcome = outcome
        if not missing_point(answer):
            return answer
    # A point vanishes between each look and its update: it is being deleted and written anew all the time.
    return Outcome(error=Lacking("points of this write come and go on it"))


def _bring(journal: Journal, route: Route, ids: Sequence[PointId]) -> Flow[Exception | None]:
    """
    Bring points that the target lacks over from the source, as they are; the error if that failed, or may have.

    Two processes have written them at the same instant in different order, or a write has failed on the target; the
    journal has them, but nobody may be at work on it, and this caller must neither fail nor be told what readers
    cannot see.  The points are in flight until this write ends, so what it overtakes is checked afterwards; and they
    go through a door that `verify` changes and `finish` closes, so a process that is stopped in here for an hour
    finds it gone (docs/adr/0005).  Another write may come in between, so it looks again until both sides are equal;
    other writes of this process to these points wait (`until_settled`).  What has come to the target by itself is left
    alone: it may be newer there than on the source, where its write has yet to land.
    """
    m = route.migration
    journal.brought.update(ids)
    brought: set[PointId] = set()
    try:
        for _ in range(MEND_ROUNDS):
            answers = yield Together(tuple(wire.retrieve(m.server(s), m.collection(s), ids) for s in Side))
            if any(answer.error is not None for answer in answers):
                return None
            source, target = ({point["id"]: point for point in answer.value} for answer in answers)
            wrong = [i for i in ids if (i not in target or i in brought) and not same(source.get(i), target.get(i))]
            points = [whole(source[i]) for i in wrong if i in source]
            gone = [i for i in wrong if i not in source]
            requests = [wire.upsert(m.target_url, m.mend, points)] if points else []
            requests += [wire.delete(m.target_url, m.mend, {"points": gone})] if gone else []
            if not requests:
                return None
            note_mended()
            brought.update(wrong)
            errors = [sent.error for sent in (yield Together(tuple(requests))) if sent.error is not None]
            unknown: Exception | None = next((e for e in errors if fate_of(e) is Fate.UNKNOWN), None)
            if unknown is not None:
                return unknown
            if any(isinstance(e, Rejected) and e.missing for e in errors):
                return Lacking(f"it lacks {len(ids)} of these points, and they may not be brought just now")
        return None
    finally:
        journal.brought.difference_update(ids)
