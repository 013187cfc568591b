"""
The heartbeat: flush what was touched, report, read the control records, adopt them; in that order.

1. *Flush before report.*  The report acknowledges an epoch; an acknowledgement never precedes the flush it rests on.
2. *Report before read.*  The first report is the registration.  The coordinator publishes an epoch before it lists
   the writers, so either it sees this writer or this writer's read sees the epoch.
3. *The lease runs from the sending* of the whole beat, so it is over for the client before it is for anyone else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from qferry.control import records, wire
from qferry.errors import LeaseLost, Rejected, RemoteFailure
from qferry.flows.effects import Flow, Fresh, Now, Today, Together
from qferry.protocol.journal import Flush, Journal, PointId
from qferry.protocol.records import CONTROL_COLLECTION, HOME, Migration
from qferry.protocol.session import Session

# Ids in one flush request; a payload of one short token each.
FLUSH_POINTS = 1000
# While an epoch is not acknowledged, the coordinator waits for it: look again after this many seconds.
SOON_S = 0.1


def beat(session: Session) -> Flow[None]:
    """
    One heartbeat.

    Raises:
        RemoteFailure: A server did not answer; the lease runs on from the last beat that succeeded.
        Refused: A record is of a format this version does not know.
    """
    sent: float = yield Now()
    for journal in session.journals.values():
        journal.expire_doubts(sent)
    session.look_at_targets(sent)
    settled = session.settled_view(sent)
    if session.registered:
        if (yield from flush_all(session)):
            session.acknowledge(settled)
        yield from _report(session)
        yield from _step_back(session)
    found = yield from _read_migrations()
    if found is not None and not session.registered and not session.observer:
        yield from _report(session)
        found = yield from _read_migrations()
    lost = session.lost(found or [])
    if lost is not None:
        raise LeaseLost(
            f"The record of the migration of `{lost.source}` to `{lost.target}` has vanished from "
            f"`{CONTROL_COLLECTION}`, so nobody knows where writes belong.",
            hint="Bring it back, or restart the application once you know which collection is right.",
        )
    if found is None:
        session.registered = False
    now: float = yield Now()
    session.adopt(found or [], sent, now)
    session.calls_at_last_beat = session.calls
    yield from _tell_of_steps(session)
    yield from _settle_doubts(session)
    session.looked_at = yield Now()  # a server that keeps a heartbeat waiting does not make the next one late


def _read_migrations() -> Flow[list[Migration] | None]:
    """The migrations on this server; None while nobody has ever started one, which costs one small request."""
    found: list[Migration] = []
    offset = None
    while True:
        try:
            page = yield records.migrations_page(offset)
        except Rejected as error:
            if error.missing:
                return None
            raise
        found += [Migration.from_payload(point["payload"]) for point in page["points"]]
        offset = page["next_page_offset"]
        if offset is None:
            return found


def _report(session: Session) -> Flow[None]:
    session.beat += 1
    now: float = yield Now()
    try:
        report, told = session.record(now), len(session.timed_s)
        yield records.put_writer(report)
        del session.timed_s[:told]
    except Rejected as error:
        if error.missing:
            return  # there is no control collection (any more); the read that follows decides what that means
        if error.forbidden and not session.journals:
            # A read-only key: the server refuses this client's writes anyway, and its reads follow its leases.
            session.observer = True
            return
        raise
    session.registered = True


def _step_back(session: Session) -> Flow[None]:
    """
    Record for all readers that the target fails this client's reads, or is too slow.

    The read of the records that follows takes it up.  If a coordinator has raised the epoch meanwhile this has no
    effect, and is decided anew.
    """
    for migration_id, step in list(session.steps.items()):
        m = session.view.migrations[migration_id]
        if not m.stepped_back:
            # The records are read whatever comes of it, and the lease renewed; it is tried again with the next beat.
            with suppress(RemoteFailure):
                yield records.step_back(m, step.reason)


def _tell_of_steps(session: Session) -> Flow[None]:
    """Write the line of history if it was this client whose step back is recorded."""
    for migration_id, step in list(session.steps.items()):
        m = session.view.migrations[migration_id]
        if m.stepped_back == step.reason:
            at: str = yield Today()
            who = f"{session.host} pid {session.pid}"
            line = {
                "migration": m.id,
                "at": at,
                "who": who,
                "epoch": m.epoch,
                "what": "reads stepped back to the source",
            }
            try:
                yield records.put_event(records.step_event(m), {**line, "details": {"reason": step.reason}})
            except RemoteFailure:
                continue  # this beat has renewed the lease by now; the next one tells it
        if m.stepped_back:
            session.steps.pop(migration_id, None)


def flush_all(session: Session) -> Flow[bool]:
    """
    Make every journal durable.

    Returns:
        False if one of them is gone: its migration was aborted while this process could not look.  The records will
        say so; if they do not, nothing was forgotten and nothing may be acknowledged.
    """
    complete = True
    for migration_id, journal in list(session.journals.items()):
        migration = session.view.migrations.get(migration_id)
        if migration is None:
            continue
        try:
            yield from flush(session, migration, journal)
        except Rejected as error:
            if not error.missing:
                raise
            complete = False
    return complete


def flush(session: Session, migration: Migration, journal: Journal) -> Flow[None]:
    """
    Make what `journal` holds durable.

    Raises:
        RemoteFailure: Some of it may not be; nothing was forgotten.
    """
    attempt = journal.start_flush()
    for ids in _chunks(attempt):
        # One token per request: a request that times out and lands late must not look like one that came after it.
        session.flushes += 1
        token = f"{session.writer_id}:{session.flushes}"
        points = [{"id": i, "vector": {}, "payload": {"token": token}} for i in ids]
        yield wire.upsert(HOME, migration.journal_collection, points)
    journal.flushed(attempt)


def _chunks(attempt: Flush) -> Iterator[Sequence[PointId]]:
    for start in range(0, len(attempt.ids), FLUSH_POINTS):
        yield attempt.ids[start : start + FLUSH_POINTS]


def _settle_doubts(session: Session) -> Flow[None]:
    """Ask the servers that still owe an answer since a request to them went missing."""
    doubts = session.unanswered()
    for server in sorted({server for doubt in doubts for server in doubt.unanswered}):
        (outcome,) = yield Together((wire.version(server),))
        if outcome.error is None:
            now: float = yield Now()
            for doubt in doubts:
                doubt.answered(server, now + session.grace_s)


def goodbye(session: Session) -> Flow[None]:
    """
    Leave in order: let no new call begin, flush everything, then remove the writer's record.

    Raises:
        RemoteFailure: It could not be done; the coordinator will treat this writer as one that vanished.
    """
    session.lease_until = float("-inf")
    if not session.registered:
        return
    yield from flush_all(session)
    if not session.accounted_for():
        raise RemoteFailure(
            "The client was closed while it could not account for every point it has written.",
            hint="If a migration is under way it needs a full check: run `qferry verify`.",
        )
    yield records.forget(session.writer_id)
    session.registered = False


def pulse(session: Session, heartbeat_s: float) -> Flow[float]:
    """
    What the background does each time it wakes: a heartbeat if one is due.

    Until the first migration on its server, a client that makes no calls stays silent; its lease lapses, and its next
    call renews it.

    Returns:
        Seconds until it should wake again.
    """
    session.heartbeat_s = heartbeat_s
    if not session.registered and session.calls == session.calls_at_last_beat:
        return heartbeat_s
    yield Fresh(renew=True)
    return min(heartbeat_s, SOON_S) if session.awaiting_acknowledgement() else heartbeat_s
