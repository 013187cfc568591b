"""
A call of the application, from its admission to its answer.

`routed` wraps every call: it acts on a valid view, is counted on that view while it runs, and looks at the lease
again when it ends.  A process may be stopped for an hour between its check and its send; the look afterwards finds
that out before the caller is told anything, and the call is carried out again on the routing of now.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple, TypeVar

from qferry.control import records
from qferry.errors import FerryError, LeaseLost, NotAllowed, Rejected, RemoteFailure
from qferry.flows.effects import Call, Flow, Fresh, Now, Outcome, Sleep
from qferry.flows.fate import Fate, fate_of
from qferry.protocol.doubt import Doubt
from qferry.protocol.phases import Routing, Side
from qferry.protocol.records import HOME, Migration
from qferry.protocol.seen import note_fallback
from qferry.protocol.session import Quiet, Route, Session, View

T = TypeVar("T")
# A call that outlives its lease so often has a server too slow for any answer to count.
REPEATS_MAX = 3
# A look at the record that fails is taken again after so many seconds.
LOOK_AGAIN_S = 0.2


def routed(
    session: Session,
    collection: str,
    attempt: Callable[[View, Route | None], Flow[T]],
    *,
    writes: bool = True,
    repeatable: Callable[[], bool] = lambda: True,
    timed: bool = False,
) -> Flow[T]:
    """
    Carry out `attempt` on the route for `collection`, again if the lease ran out meanwhile and the route has changed.

    Every write of the server is absolute ("set to", never "add"), so carrying one out twice within one call is
    carrying it out at the later moment.  That also holds when the first time failed: its collection may be gone.

    Args:
        session: The client's state.
        collection: The name the call was made with.
        attempt: The call, on a route.
        writes: Whether it writes anything.
        repeatable: Whether it may be carried out again; False once several operations have been sent of which one is
            chosen by a filter that might match, the second time, what the others did the first time.
        timed: Whether it tells how the application is served: reads and writes of points do.

    Raises:
        LeaseLost: The routing could not be renewed and nothing was sent on old routing, or the call was overtaken by
            a change of routing and cannot be repeated.
    """
    session.calls += 1
    repeats = 0
    while True:
        now: float = yield Now()
        if not session.valid(now):
            yield from _renew()
        if writes and session.observer:
            raise NotAllowed(
                "This client's key may not write to `_qferry`, so no migration could count on its writes.",
                hint="Give the key write access to the collections `_qferry` and `_qferry_journal_*`.",
            )
        view, route, term = session.view, session.route(collection), session.term
        view.enter(now)
        failed: Exception | None = None
        try:
            result = yield from attempt(view, route)
        except Exception as error:  # noqa: BLE001  raised again below, unless its routing is out of date
            failed = error
        finally:
            view.leave()
        began = now if timed else None
        if (yield from confirmed(session, view, term, collection, writes=writes, began=began)):
            if failed is not None:
                raise failed
            return result
        repeats += 1
        if writes and failed is not None and fate_of(failed.__cause__ or failed) is Fate.UNKNOWN:
            # What was sent may still land; behind a second attempt it would undo what others write after that.
            raise failed
        if not repeatable() or repeats > REPEATS_MAX:
            raise failed or overtaken()


def overtaken() -> LeaseLost:
    """The error of a call that outlived its lease and cannot be repeated."""
    return LeaseLost(
        "This call took longer than its lease (its process was stopped, or a server slow), and cannot be carried out "
        "again.",
        hint="Check what the call did, then repeat what is missing.",
    )


def confirmed(
    session: Session, view: View, term: int, collection: str, *, writes: bool = True, began: float | None = None
) -> Flow[bool]:
    """
    Whether the outcome of a call that acted on `view` may be given to the caller.

    It may if the lease has held throughout (`term` is the one in which the call began: a heartbeat may have renewed a
    lapsed lease before the call itself woke up), or if one side is written and the routing is still the same.
    Otherwise the call has to be carried out again.  So it is in dual writes even on the same routing: the coordinator
    has given this process up meanwhile, and may have repaired between the writes to the one side and to the other.
    """
    now: float = yield Now()
    if began is not None:
        session.time(view, now - began)
    if session.holds(term, now):
        return True
    try:
        yield from _renew()
    except LeaseLost:
        view.doubts.append(Doubt([HOME]))  # it was carried out, but on routing that nobody can vouch for
        raise
    before, after = view.routes.get(collection), session.route(collection)
    dual = before is not None and before.writes is Routing.DUAL
    if _alike(before, after) and not (dual and writes):
        return True
    if after is not None and not dual:
        # What the call touched is in no journal.  Named ids are journalled by the second attempt; points chosen by
        # a filter may no longer match it, so only a full check can speak for them.
        session.suspect(after.migration.id)
    return False


def _alike(before: Route | None, after: Route | None) -> bool:
    if before is None or after is None:
        return before is after
    return (before.migration.id, before.writes, before.truth, before.read_percent) == (
        after.migration.id,
        after.writes,
        after.truth,
        after.read_percent,
    )


def first_look(session: Session) -> Flow[None]:
    """
    Read the routing for the first time, on behalf of a call that is about to begin.

    Raises:
        LeaseLost: It cannot be read, and the call could not be carried out either.
    """
    session.calls += 1  # a client without calls stays silent
    try:
        yield from _renew()
    finally:
        session.calls -= 1


def _renew(*, renew: bool = False) -> Flow[None]:
    try:
        yield Fresh(renew=renew)
    except FerryError as error:
        raise LeaseLost(
            f"The migration state cannot be read, so nothing may be sent: {error.message}",
            hint=error.hint or "Retry when the server answers again.",
        ) from error


class Answered(NamedTuple):
    """A read's answer, and where it is from."""

    value: Any
    route: Route | None
    side: Side
    seconds: float


def read(
    session: Session, method: str, collection: str, arguments: dict[str, Any], *, from_source: float | None = None
) -> Flow[Any]:
    """The answer of `read_somewhere` alone."""
    return (yield from read_somewhere(session, method, collection, arguments, from_source=from_source)).value


def read_somewhere(
    session: Session, method: str, collection: str, arguments: dict[str, Any], *, from_source: float | None = None
) -> Flow[Answered]:
    """
    A read: from the source, or from the target for the read share; from the source again if the target fails.

    The source must have been truth when it was read in the target's place; so that is looked up afterwards.  A client
    that reads where its route leads needs no such look: `finish` waits until nobody's leads to the source.

    Args:
        session: The client's state.
        method: The reading method of qdrant-client that was called.
        collection: The name it was called with.
        arguments: Its arguments by name, without the collection.
        from_source: The target has failed this read already, which began then: from the source, if that is truth.

    Raises:
        LeaseLost: The source has answered in the target's place, and nobody can tell whether it was truth; the read may
            be repeated.
    """

    def attempt(view: View, route: Route | None) -> Flow[Answered]:
        if route is None:
            return Answered((yield Call(HOME, method, collection, (), arguments)), None, Side.SOURCE, 0.0)
        m = route.migration
        again = from_source is not None and route.truth is Side.SOURCE
        if from_source is not None:
            note_fallback()
        side = Side.SOURCE if again else session.side_to_read(route)
        call = Call(m.server(side), method, m.collection(side), (), arguments)
        began: float = yield Now()
        if side is route.truth:
            value = yield call
        else:
            try:
                value = yield from _watched(session, route, call, began)
            except Exception:  # noqa: BLE001  whatever ails the target, the source is still truth and answers for it
                note_fallback()
                value = yield Call(HOME, method, m.source, (), arguments)
                side, again = Side.SOURCE, True
        ended: float = yield Now()
        if again:
            # The source has answered: that was not the caller's mistake.
            session.watch(route).fail(ended, began=began if from_source is None else from_source)
            if not (yield from _source_is_truth(session, m)):
                # It was not truth any more, and others may have been told of writes that it has missed.
                yield from _renew(renew=True)
                return (yield from attempt(view, session.route(collection)))
        return Answered(value, route, side, ended - began)

    return (yield from routed(session, collection, attempt, writes=False, timed=True))


def _source_is_truth(session: Session, m: Migration) -> Flow[bool]:
    """
    Whether the source is still truth, so that what it has answered a moment ago is right.

    Neither the lease nor an acknowledgement that this client owes can vouch for that: a seal makes the target the truth
    at once, and who has heard of it may be told of writes that this client's read of the source has missed.

    Raises:
        LeaseLost: The record cannot be read, although it was tried until the lease was over.
    """
    until = session.lease_until
    while True:
        try:
            return (yield from records.read_migration(m.id)).truth is Side.SOURCE
        except FerryError as error:
            now: float = yield Now()
            passing = isinstance(error, RemoteFailure) and not (isinstance(error, Rejected) and _refuses(error))
            if not passing or now + LOOK_AGAIN_S >= until:
                raise LeaseLost(
                    "The target has failed this read, and the source has answered; but the migration's record cannot "
                    f"be read, so nobody knows whether that answer is still right: {error.message}",
                    hint="Repeat the read.",
                ) from error
        yield Sleep(LOOK_AGAIN_S)


def _refuses(error: Rejected) -> bool:
    return error.final and error.status != HTTPStatus.TOO_MANY_REQUESTS


def _watched(session: Session, route: Route, call: Call, began: float) -> Flow[Any]:
    """A read on the target, which may lose its readers by it."""
    watch = session.watch(route)
    number = watch.begin(began)
    try:
        value = yield call
    except GeneratorExit:  # nobody waits for it any more, nor can the time be asked for
        watch.end(number, began, answered=False, heard=False)
        raise
    except BaseException as error:
        now: float = yield Now()
        watch.end(number, now, answered=False, heard=_heard(error))
        raise
    ended: float = yield Now()
    watch.end(number, ended, answered=True, heard=True)
    return value


def _heard(error: BaseException | None) -> bool:
    """Whether a server has said that a read has ended like this; it has not if it took too long, or was cancelled."""
    return isinstance(error, Exception) and fate_of(error) is not Fate.UNKNOWN


def one_sided(view: View, call: Call) -> Flow[Any]:
    """A write that goes to one side only, unchanged; its view learns if nobody knows what became of it."""
    try:
        return (yield call)
    except BaseException as error:
        note_doubt(view, error, call.server)
        raise


def leave(quiet: Quiet, outcome: Outcome, now: float, *, write: bool) -> None:
    """End a call that was carried out without a flow, on the client's own server."""
    view = quiet.view
    if write and outcome.interrupted:
        view.doubts.append(Doubt([HOME]))
    elif write and outcome.error is not None:
        note_doubt(view, outcome.error, HOME)
    if quiet.watch is not None:
        answered = not outcome.interrupted and outcome.error is None
        quiet.watch.end(quiet.number, now, answered=answered, heard=answered or _heard(outcome.error))
    view.leave()


def note_doubt(view: View, error: BaseException, server: str) -> None:
    """Remember on `view` that a write which ended in `error` may still be carried out by `server`."""
    if not isinstance(error, Exception) or fate_of(error) is Fate.UNKNOWN:
        view.doubts.append(Doubt([server]))


def one_place(route: Route | None, collection: str) -> tuple[str, str]:
    """Server and collection of a call that concerns one side only: the one that is truth."""
    if route is None:
        return HOME, collection
    return route.migration.server(route.truth), route.migration.collection(route.truth)


def on_truth(session: Session, method: str, collection: str, arguments: dict[str, Any]) -> Flow[Any]:
    """A call that concerns the collection itself (its snapshots, its cluster state): on the side that is truth."""

    def attempt(view: View, route: Route | None) -> Flow[Any]:
        server, name = one_place(route, collection)
        return (yield from one_sided(view, Call(server, method, name, (), arguments)))

    return (yield from routed(session, collection, attempt))


def guarded(session: Session, method: str, collection: str, arguments: dict[str, Any]) -> Flow[Any]:
    """A call that would pull a collection from under a migration: refused while one lives."""

    def attempt(view: View, _: Route | None) -> Flow[Any]:
        yield from refuse_if_live(session, method, [collection])
        server, name = one_place(session.route(collection), collection)
        return (yield from one_sided(view, Call(server, method, name, (), arguments)))

    return (yield from routed(session, collection, attempt))


def refuse_if_live(session: Session, method: str, collections: Sequence[str]) -> Flow[None]:
    """
    Refuse `method` if a migration has one of `collections` in hand; looks again first, so as not to be out of date.

    Raises:
        NotAllowed: with the migration, its phase and the way out.
    """
    if any(session.live_migration_of(collection) for collection in collections):
        yield Fresh(renew=True)
    for collection in collections:
        m = session.live_migration_of(collection)
        if m is not None:
            raise NotAllowed(
                f"`{method}` is refused: `{collection}` belongs to the migration of `{m.source}` to `{m.target}`, "
                f"which is {m.phase.value}.",
                hint="Abort it (`qferry abort`) or complete it (`qferry finish`, `qferry cleanup`) first.",
                collection=collection,
            )
