"""
Writes: to one side, or to both at once with a journal.

In `dual` and `capture` a write is the server's update operations, with known ids.  The ids enter the journal before
anything is sent and are *in flight* until every side has answered; see protocol/journal.py for what follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from qdrant_client import models

from qferry.control import wire
from qferry.errors import FerryError, NotAllowed, TargetWriteFailed
from qferry.flows import operations as ops
from qferry.flows.effects import Call, Flow, Fresh, Now, Outcome, Sleep, Together
from qferry.flows.fate import Fate, fate_of, text_of
from qferry.flows.heartbeat import flush
from qferry.flows.missing import (
    MEND_AFTER_S,
    Lacking,
    batches,
    missing_point,
    pass_over_missing,
    present,
    until_settled,
)
from qferry.flows.operations import Operation
from qferry.flows.routed import one_place, one_sided, routed
from qferry.protocol.doubt import Doubt
from qferry.protocol.journal import PointId
from qferry.protocol.phases import Phase, Routing, Side
from qferry.protocol.session import Route, Session, View

# Ids of one page when a filter is resolved, and of one operation after it.
RESOLVE_POINTS = 1000
# Options of a call that hold for each of its operations.
_OPTIONS = ("ordering", "timeout")
# Between two tries of an upload's piece, or of a call that waits for the next command, in seconds.
RETRY_S = 0.2
# How often a delete is sent again of which points have come back.
DELETES_MAX = 3
# How long a call tries again that found the target to lack a point which nobody may bring just now: rather late than
# failed because of the migration.
LACKING_PATIENCE_S = 30.0
UPLOAD_BATCH = 64  # upstream's default
_PARALLEL_BATCHES = 256


def write(session: Session, method: str, collection: str, arguments: Mapping[str, Any]) -> Flow[Any]:
    """
    A write of points, routed.

    Args:
        session: The client's state.
        method: The writing method of qdrant-client that was called.
        collection: The name it was called with.
        arguments: Its arguments by name, without the collection.

    Returns:
        What the method returns without qferry, from the side that is truth.

    Raises:
        TargetWriteFailed: The truth has the write, the other side may not; repeating it is safe.
        LeaseLost: Nothing was sent; or the call outlived its lease and cannot be carried out again.
        Exception: The truth's own error, unchanged.
    """
    given = arguments
    chosen: dict[int, Sequence[PointId]] = {}  # what the filters matched in the first attempt, by operation
    may_repeat = True

    def attempt(view: View, route: Route | None) -> Flow[Any]:
        nonlocal may_repeat
        arguments = _as_chosen(method, given, chosen)
        if route is None or route.writes in (Routing.SOURCE_ONLY, Routing.TARGET_ONLY):
            server, name = one_place(route, collection)
            may_repeat = may_repeat and repeatable(method, arguments)
            return (yield from one_sided(view, Call(server, method, name, (), _leaving(route, arguments))))
        if method == "batch_update_points" and not arguments.get("update_operations"):
            server, name = one_place(route, collection)
            return (yield from one_sided(view, Call(server, method, name, (), arguments)))
        operations = ops.understood(method, arguments)
        if not operations:
            return (yield from _not_understood(session, view, route, method, arguments))
        results = yield from journalled(session, view, route, operations, _options(arguments), chosen)
        return results if method == "batch_update_points" else results[-1]

    gave_up_at: float | None = None
    while True:
        try:
            return (yield from routed(session, collection, attempt, repeatable=lambda: may_repeat, timed=True))
        except TargetWriteFailed as error:
            now: float = yield Now()
            gave_up_at = gave_up_at or now + LACKING_PATIENCE_S
            if not isinstance(error.__cause__, Lacking) or now > gave_up_at:
                session.note_failed(session.live_migration_of(collection))
                raise
            # `finish` has closed the door, and waits for this very call; or `verify` has put up another one.  The call
            # ends, for them, and begins again on the routing of now.
            yield Sleep(RETRY_S)
            with suppress(FerryError):
                yield Fresh(renew=True)


def _leaving(route: Route | None, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """
    The arguments of a one-sided write; one that leaves dual writes is waited for, whatever the caller said.

    Others may still be dual, and resolve a filter: what was acknowledged and not applied yet would escape it (ADR 7).
    """
    if route is not None and route.migration.phase is Phase.ABORTING:
        return {**arguments, "wait": True}
    return arguments


def _not_understood(session: Session, view: View, route: Route, method: str, arguments: Mapping[str, Any]) -> Flow[Any]:
    """
    A call that makes no sense (an id that is none, a missing argument): upstream or the server tell the caller.

    Should it mean something to them after all, only a full check can speak for what it touched.
    """
    server, name = route.migration.server(route.truth), route.migration.collection(route.truth)
    result = yield from one_sided(view, Call(server, method, name, (), arguments))
    session.suspect(route.migration.id)
    return result


def repeatable(method: str, arguments: Mapping[str, Any]) -> bool:
    """
    Whether a call that was sent as it is may be carried out again.

    Not if one of its filters might then match what its other operations made of points the first time.
    """
    if method != "batch_update_points" or len(arguments["update_operations"]) == 1:
        return True
    return all(ops.filter_of(operation) is None for operation in arguments["update_operations"])


def _as_chosen(method: str, given: Mapping[str, Any], chosen: Mapping[int, Sequence[PointId]]) -> Mapping[str, Any]:
    """
    The arguments of a batch that is carried out again: a filter is limited to what it matched the first time.

    Besides, it may match what the batch has written anew before it: those points are as the batch made them, whatever
    became of them since.
    """
    if method != "batch_update_points" or not chosen:
        return given
    operations: list[Operation] = []
    anew: list[PointId] = []
    for n, operation in enumerate(given["update_operations"]):
        operations.append(ops.narrowed(operation, list({*chosen[n], *anew})) if n in chosen else operation)
        if isinstance(operation, models.UpsertOperation):
            anew += ops.ids_of(operation)
    return {**given, "update_operations": operations}


def _options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: arguments[name] for name in _OPTIONS if arguments.get(name) is not None}


def journalled(
    session: Session,
    view: View,
    route: Route,
    operations: Sequence[Operation],
    options: Mapping[str, Any],
    chosen: dict[int, Sequence[PointId]],
) -> Flow[list[models.UpdateResult]]:
    """
    Carry out operations in order, to both sides or (`capture`) to the truth alone; one result per operation.

    Notes in `chosen` which ids a filter has matched, by the operation's place.
    """
    if route.pinned_off:
        raise NotAllowed(
            "ENABLE_DUAL_WRITE=false keeps this process from the target, but readers already see the target.",
            hint="Remove the variable and restart the process, or roll the reads back with `qferry rollback`.",
        )
    results: list[models.UpdateResult] = []
    for run in ops.runs(operations):
        condition = ops.filter_of(run[0])
        if condition is None:
            ids = list(dict.fromkeys(i for operation in run for i in ops.ids_of(operation)))
            results += yield from _send(session, view, route, run, ids, options)
            continue
        found = yield from _resolve(route, condition)
        chosen.setdefault(len(results), found)
        result: list[models.UpdateResult] = []
        for start in range(0, max(len(found), 1), RESOLVE_POINTS):
            ids = found[start : start + RESOLVE_POINTS]
            result = yield from _send(session, view, route, [ops.narrowed(run[0], ids)], ids, options)
        results += result
    return results


def _resolve(route: Route, chosen: models.Filter) -> Flow[list[PointId]]:
    """
    The ids a filter matches on any side that the write goes to.

    Two processes that wrote a point at the same instant may have left each side with a state of its own.  A point that
    only one of them shows to the filter must not escape it there, least of all after the last repair (ADR 7).

    While writers take up the journal or dual writes, or leave them, some may have writes under way that were
    acknowledged but not yet applied (`wait=false`), which the filter would have met in the server's own order: a
    barrier lets them land first.

    Raises:
        TargetWriteFailed: The other side could not be asked, and the write must reach both; nothing was sent.
    """
    m = route.migration
    if m.phase in (Phase.CAPTURING, Phase.STARTING, Phase.FINISHING):
        yield wire.barrier(m.server(route.truth), m.collection(route.truth))
    condition = chosen.model_dump(mode="json", exclude_none=True)
    ids: dict[PointId, None] = {}
    offsets: dict[Side, PointId | None] = dict.fromkeys(_sides(route))
    while offsets:
        pages: list[Outcome] = yield Together(
            tuple(
                wire.scroll(
                    m.server(s), m.collection(s), filter=condition, offset=after, limit=RESOLVE_POINTS, payload=False
                )
                for s, after in offsets.items()
            )
        )
        for side, page in zip(list(offsets), pages, strict=True):
            if page.error is None:
                ids.update(dict.fromkeys(point["id"] for point in page.value["points"]))
                offsets[side] = page.value["next_page_offset"]
            elif side is route.truth:
                raise page.error
            elif route.must_reach_both:
                raise _unresolved(route, page.error) from page.error
            else:
                offsets[side] = None
        offsets = {side: after for side, after in offsets.items() if after is not None}
    return list(ids)


def _sides(route: Route) -> list[Side]:
    """The sides a write goes to, the one that is truth first."""
    return [route.truth, route.truth.other] if route.writes is Routing.DUAL else [route.truth]


def _unresolved(route: Route, error: Exception) -> TargetWriteFailed:
    other = route.truth.other
    return TargetWriteFailed(
        f"Nothing was written: the {other.value} `{route.migration.collection(other)}` could not be asked which points "
        f"the filter matches there: {text_of(error)}",
        hint="Repeating the call is safe.",
        side=other.value,
    )


def _send(
    session: Session,
    view: View,
    route: Route,
    run: Sequence[Operation],
    ids: Sequence[PointId],
    options: Mapping[str, Any],
) -> Flow[list[models.UpdateResult]]:
    """Send one run to the sides the route names, and keep the journal about it."""
    m = route.migration
    journal = session.journal(m)
    sides = _sides(route)
    yield from until_settled(journal, ids)
    doubt: Doubt | None = Doubt(map(m.server, sides))  # until the answers say otherwise
    journal.begin(ids)
    try:
        if session.journal_before:
            yield from flush(session, m, journal)
        began: float = yield Now()
        outcomes: list[Outcome] = list((yield Together(batches(route, sides, run, options))))
        if len(outcomes) > 1 and outcomes[0].error is None and missing_point(outcomes[1]):
            outcomes[1] = yield from pass_over_missing(session, route, sides[1], run, ids, options)
        if m.phase is Phase.SWITCHED and all(outcome.error is None for outcome in outcomes):
            yield from _delete_again(route, sides, run, ids, options, outcomes, began)
        unknown = [m.server(side) for side, outcome in zip(sides, outcomes, strict=True) if _in_doubt(outcome)]
        doubt = Doubt(unknown) if unknown else None
    finally:
        journal.end(ids, doubt)
        if doubt is not None:
            view.doubts.append(doubt)
    error = outcomes[0].error
    if error is None:
        error = yield from _judge_other(session, route, outcomes[1:], ids)
    elif m.phase is Phase.SWITCHED and not _in_doubt(outcomes[0]) and any(map(_in_doubt, outcomes[1:])):
        error = _half_refused(route, error, outcomes[1].error, ids)
    if error is not None:
        raise error
    return _weaker(outcomes)


def _delete_again(
    route: Route,
    sides: Sequence[Side],
    run: Sequence[Operation],
    ids: Sequence[PointId],
    options: Mapping[str, Any],
    outcomes: list[Outcome],
    began: float,
) -> Flow[None]:
    """
    Delete once more what a delete has removed from the two sides so far apart that a point may have been brought back.

    Whoever finds that the target lacks a point of the source brings it after `MEND_AFTER_S` (flows/missing.py).  If
    it lacks the point because this very delete has reached the target and not yet the source, that undoes it there.
    The call is not over, so deleting that again is only deleting later.  An outcome that is not a success replaces the
    first one.  Should it happen time and again, the rest is left to the journal.
    """
    deleted = ops.deleted_in_the_end(run, ids)
    for _ in range(DELETES_MAX):
        now: float = yield Now()
        # By this process's clock, which may differ in rate from that of the one which waited.
        if not deleted or now - began < 0.8 * MEND_AFTER_S:
            return
        began = now
        found = yield from present(route.migration, deleted)
        back = deleted if found is None else [i for i in deleted if i in found[1] and i not in found[0]]
        if not back:
            return
        # What a filter has chosen is deleted only if it still matches: others may have written it since.
        chosen = ops.filter_of(run[-1]) is not None
        delete = (
            ops.narrowed(run[-1], back)
            if chosen
            else models.DeleteOperation(delete=models.PointIdsList(points=[*back]))
        )
        again: list[Outcome] = yield Together(batches(route, sides, [delete], options))
        for n, outcome in enumerate(again):
            if outcome.error is not None:
                outcomes[n] = outcome
            elif _in_doubt(outcome):
                status = outcome.value[0].status
                outcomes[n] = Outcome([result.model_copy(update={"status": status}) for result in outcomes[n].value])
        if any(outcome.error is not None or _in_doubt(outcome) for outcome in outcomes):
            return


def _in_doubt(outcome: Outcome) -> bool:
    if isinstance(outcome.error, Lacking):
        return False
    if outcome.error is not None:
        return fate_of(outcome.error) is Fate.UNKNOWN
    return any(result.status != models.UpdateStatus.COMPLETED for result in outcome.value)


def _judge_other(
    session: Session, route: Route, others: Sequence[Outcome], ids: Sequence[PointId]
) -> Flow[Exception | None]:
    """What a failure on the side that is not truth means for the caller."""
    failed = next((outcome.error for outcome in others if outcome.error is not None), None)
    if failed is None:
        return None
    m = route.migration
    if not route.must_reach_both:
        session.note_failed(m)
        yield from flush(session, m, session.journal(m))  # durable before the caller hears of success
        return None
    truth, other = route.truth, route.truth.other
    error = TargetWriteFailed(
        f"The {truth.value} `{m.collection(truth)}` has the write, the {other.value} `{m.collection(other)}` "
        f"may not: {text_of(failed)}",
        hint="Repeating the call is safe; the points stay in the journal until both sides are equal.",
        point_ids=list(ids),
        side=other.value,
    )
    error.__cause__ = failed
    return error


def _half_refused(
    route: Route, refusal: Exception, lost: Exception | None, ids: Sequence[PointId]
) -> TargetWriteFailed:
    """A refusal is no verdict while readers see the target, and it may still carry the write out."""
    error = TargetWriteFailed(
        f"The source did not take the write ({text_of(refusal)}), but the target `{route.migration.target}` has not "
        "answered and may still carry it out.",
        hint="Repeat the call; the points stay in the journal until both sides are equal.",
        point_ids=list(ids),
        side=Side.TARGET.value,
    )
    error.__cause__ = lost  # never the refusal, which would make the whole look decided
    return error


def _weaker(outcomes: Sequence[Outcome]) -> list[models.UpdateResult]:
    """The truth's results; where the other side is not through yet, its status, so that nobody takes it for done."""
    results: list[models.UpdateResult] = outcomes[0].value
    for outcome in outcomes[1:]:
        if outcome.error is None and len(outcome.value) == len(results):
            results = [
                mine
                if theirs.status == models.UpdateStatus.COMPLETED
                else mine.model_copy(update={"status": theirs.status})
                for mine, theirs in zip(results, outcome.value, strict=True)
            ]
    return results


def pieces(points: Iterable[models.PointStruct], arguments: Mapping[str, Any]) -> Iterator[list[models.PointStruct]]:
    """
    What an upload sends under one routing: a batch, or with `parallel` enough batches to be worth its processes.

    The points come from the caller's own code, which may take its time or use the same client; so they are fetched
    here and not inside a flow.
    """
    size = int(arguments.get("batch_size", UPLOAD_BATCH))
    stream = iter(points)
    while piece := list(islice(stream, size * (1 if arguments.get("parallel", 1) == 1 else _PARALLEL_BATCHES))):
        yield piece


def upload(
    session: Session, collection: str, piece: Sequence[models.PointStruct], arguments: Mapping[str, Any]
) -> Flow[None]:
    """
    One piece of `upload_points` or `upload_collection`, on the routing of its moment.

    While a migration journals, batches are sent one after the other and waited for, whatever `parallel` and `wait`
    say.  One that fails is tried `max_retries` more times, as upstream does.
    """
    rest = {k: v for k, v in arguments.items() if k not in ("points", "vectors", "payload", "ids")}
    size, retries = int(rest.get("batch_size", UPLOAD_BATCH)), int(rest.get("max_retries", 3))

    def attempt(view: View, route: Route | None) -> Flow[None]:
        if route is None or route.writes in (Routing.SOURCE_ONLY, Routing.TARGET_ONLY):
            server, name = one_place(route, collection)
            yield from one_sided(
                view, Call(server, "upload_points", name, (), _leaving(route, {**rest, "points": piece}))
            )
            return
        named = {k: rest.get(k) for k in ("shard_key_selector", "update_filter", "update_mode")}
        for start in range(0, len(piece), size):
            batch = ops.operations_of("upsert", {**named, "points": piece[start : start + size]})
            yield from _persistently(session, view, route, batch, retries)

    yield from routed(session, collection, attempt)


def _persistently(session: Session, view: View, route: Route, batch: Sequence[Operation], retries: int) -> Flow[None]:
    for left in range(retries, -1, -1):
        try:
            yield from journalled(session, view, route, batch, {}, {})
        except Exception as error:
            if not left or (fate_of(error) is Fate.REJECTED and not isinstance(error, TargetWriteFailed)):
                raise
            yield Sleep(RETRY_S)
        else:
            return


def configure(session: Session, method: str, collection: str, arguments: Mapping[str, Any]) -> Flow[Any]:
    """
    A change of a collection's configuration or payload indexes: to both sides in `dual`, or to the truth alone.

    Raises:
        TargetWriteFailed: The truth has the change, the other side has not.
    """

    def attempt(view: View, route: Route | None) -> Flow[Any]:
        if route is None or route.writes is not Routing.DUAL:
            server, name = one_place(route, collection)
            return (yield from one_sided(view, Call(server, method, name, (), arguments)))
        m = route.migration
        sides = (route.truth, route.truth.other)
        first, second = yield Together(
            tuple(Call(m.server(side), method, m.collection(side), (), arguments) for side in sides)
        )
        if first.error is not None:
            raise first.error
        if second.error is not None:
            raise TargetWriteFailed(
                f"The {sides[0].value} has the change, the {sides[1].value} `{m.collection(sides[1])}` has not: "
                f"{text_of(second.error)}",
                hint="Repeat the call; `qferry verify` compares the configurations.",
                side=sides[1].value,
            ) from second.error
        return first.value

    return (yield from routed(session, collection, attempt))
