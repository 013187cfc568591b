"""
The heartbeat: flush what was touched, report, read the control records, adopt them; in that order.

1. *Flush before report.*  The report acknowledges an epoch; an acknowledgement never precedes the flush it rests on.
2. *Report before read.*  The first report is the registration.  The coordinator publishes an epoch before it lists
   the writers, so either it sees this writer or this writer's read sees the epoch.
3. *The lease runs from the sending* of the whole beat, so it is over for the client before it is for anyone else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from qferry.control import records, wire
from qferry.errors import LeaseLost, Rejected, RemoteFailure
from qferry.flows.effects import Flow, Fresh, Now, Together
from qferry.protocol.journal import Flush, Journal, PointId
from qferry.protocol.phases import ENDED
from qferry.protocol.records import CONTROL_COLLECTION, HOME, Migration
from qferry.protocol.session import Session

# Ids in one flush request; a payload of one short token each.
FLUSH_POINTS = 1000
# While an epoch is not acknowledged, the coordinator waits for it: look again after this many seconds.
SOON_S = 0.1
# A client without calls and without a live migration takes itself off the list of writers after this many beats.
IDLE_BEATS = 60


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
    settled = session.settled_view(sent)
    if session.registered:
        try:
            yield from flush_all(session)
            session.acknowledge(settled)
        except Rejected as error:
            if not error.missing:
                raise
            # The journal is gone: the migration was aborted while this process could not look.  The records say so;
            # if they do not, nothing is acknowledged and nothing is forgotten.
        yield from _report(session)
    found = yield from _read_migrations()
    if found is None:
        if session.view.migrations:
            raise LeaseLost(
                f"The control collection `{CONTROL_COLLECTION}` has vanished, so nobody knows where writes belong.",
                hint="Bring it back, or restart the application once you know which collection is right.",
            )
        session.registered = False
        session.adopt([], sent)
        return
    if not session.registered and not session.observer:
        yield from _report(session)
        found = yield from _read_migrations()
    session.adopt(found or [], sent)
    session.calls_at_last_beat = session.calls
    yield from _settle_doubts(session)


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
        yield records.put_writer(session.record(now))
    except Rejected as error:
        if error.missing:
            return  # there is no control collection (any more); the read that follows decides what that means
        if error.forbidden and not session.journals:
            # A read-only key: the server refuses this client's writes anyway, and its reads follow its leases.
            session.observer = True
            return
        raise
    session.registered = True


def flush_all(session: Session) -> Flow[None]:
    """Make every journal durable."""
    for migration_id, journal in list(session.journals.items()):
        migration = session.view.migrations.get(migration_id)
        if migration is not None:
            yield from flush(session, migration, journal)


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
        yield wire.upsert(HOME, migration.journal_collection, points, strong=True)
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
    Leave in order: flush everything, then remove the writer's record.

    Raises:
        RemoteFailure: It could not be done; the coordinator will treat this writer as one that vanished.
    """
    if not session.registered:
        return
    yield from flush_all(session)
    if session.suspects:
        yield from _report(session)  # it stays on the list, and is heard or buried as one that vanished
    owing = [i for i, journal in session.journals.items() if journal.debt]
    unheard = [i for i in session.suspects if i in session.view.migrations]
    if owing or unheard:
        raise RemoteFailure(
            "The client was closed while it could not account for every point it has written.",
            hint="The migration needs a full check: run `qferry verify`.",
        )
    yield records.forget(session.writer_id)
    session.registered = False


def pulse(session: Session, heartbeat_s: float) -> Flow[float]:
    """
    What the background does each time it wakes: a heartbeat if one is due.

    A client that makes no calls while nobody migrates stays silent; its lease lapses, and its next call renews it.

    Returns:
        Seconds until it should wake again.
    """
    idle = session.calls == session.calls_at_last_beat
    if not session.registered and idle:
        return heartbeat_s
    live = any(m.phase not in ENDED for m in session.view.migrations.values())
    session.idle_beats = session.idle_beats + 1 if idle and not live else 0
    if session.idle_beats > IDLE_BEATS:
        session.idle_beats = 0
        session.lease_until = float("-inf")
        yield from goodbye(session)
        return heartbeat_s
    yield Fresh(renew=True)
    return min(heartbeat_s, SOON_S) if session.awaiting_acknowledgement() else heartbeat_s
