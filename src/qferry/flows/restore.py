"""
The backfill by snapshot: the server's own copy of the source's files becomes the target, indexes included.

It is taken while writes go to the source alone and are journalled; whatever it misses is in the journal.

*Recovering* puts the whole snapshot in the target's place, so one that was sent by somebody who is no longer at work,
or whose answer was lost, must not land later.  It goes through the fence like every write to the target: the server
resolves the name only when it has fetched the snapshot, and changes no alias between that and the end (up to 1.16;
docs/adr/0013).  So once a fence has been dropped, no recovery through it can touch the target any more.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from qferry.control import wire
from qferry.errors import Conflict, FerryError, Refused, Rejected, RemoteFailure
from qferry.flows import configuration
from qferry.flows.coordinator import LANDING_S, POLL_S, Coordinator, carries_marker
from qferry.flows.effects import Await, Begin, Carry, Flow, Json, Outcome, Report, Request, Sleep
from qferry.flows.throttle import Throttle
from qferry.protocol.phases import Event, Phase, Side
from qferry.protocol.records import HOME, Migration

LOOK_S = 1.0
# How 1.16 says that it could not fetch the snapshot, or got something else; it is carried there then.
_NOT_FETCHED = ("error sending request", "failed to download", "checksum mismatch")
_HINT = (
    "The source is untouched, and the command may be run again.  If a proxy gives up waiting for a large snapshot, or "
    "there is no room for one, run `qferry abort` and start with --strategy stream."
)
# Snapshots are named by the second; one of the same second has the same name.
_NAMED_ANEW_S = 1.1


@dataclass(frozen=True)
class Origin:
    """
    Where the target's server can fetch the snapshot.

    Args:
        url: The source's server.
        api_key: Its key, which the target's server is told.
    """

    url: str
    api_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Errand:
    """One request that takes long, as a piece of work, so that the claim can be kept meanwhile."""

    effect: Request | Carry

    def flow(self) -> Generator[Request | Carry, Any, Any]:
        """Send it."""
        return (yield self.effect)


def restore(co: Coordinator, origin: Origin | None) -> Flow[None]:
    """
    Take a snapshot of the source and put it in the target's place; writers may take up dual writes then.

    Without an `origin` the snapshot is carried to the target's server through this process.

    Retry: safe.  Another attempt begins anew, and makes sure first that nothing of an earlier one can land any more.

    Raises:
        Refused: The source's configuration has changed since the start, or the target is not the one that was made.
        RemoteFailure: A server could not do it; the source is untouched.
    """
    if co.migration.phase is not Phase.CAPTURING:
        return
    yield from co.acknowledged(co.migration.epoch)
    yield from discard(co)
    yield from _shut_out(co)
    yield from _may_begin(co)
    m = co.migration
    yield from _unchanged(m)
    # Writes acknowledged with wait=false before the clients kept a journal must have been applied before.
    yield wire.barrier(HOME, m.source)
    taken = yield from _take(co)
    try:
        yield from _recover(co, origin, taken)
    except RemoteFailure:
        with suppress(FerryError):  # it is large, and no attempt will ask for it again
            yield from discard(co)
        raise
    through = co.fence
    yield from discard(co)
    if through in (yield from _shut_out(co)):
        raise Conflict(
            "Another coordinator has interfered, and the snapshot was restored beside the target.",
            hint="Look at `qferry status`, then run the command again.",
        )
    points = yield from _complete(co)
    yield from co.move(Event.RESTORED, "restored from a snapshot", {"copied_points": points}, points=points)


def _take(co: Coordinator) -> Flow[Json]:
    m = co.migration
    # A server gives a snapshot its name.  If we never learn it, this is what it can be told by.
    before = yield from _kept(m)
    yield from co.save({"archive": {"before": before}})
    while True:
        taken = yield from _taken(co, before)
        if taken["name"] not in before:
            yield from co.save({"archive": {"name": taken["name"], "checksum": taken["checksum"]}})
            return taken
        # It has taken the place of somebody's backup of the very same second, which must not be deleted.
        yield Sleep(_NAMED_ANEW_S)


def _taken(co: Coordinator, before: Sequence[str]) -> Flow[Json]:
    """Take a snapshot, and remove it again if the claim is gone by then."""
    m = co.migration
    number: int = yield Begin(Errand(wire.create_snapshot(HOME, m.source)))
    taken: Json = None
    try:
        taken = yield from _awaited(co, number, Report("snapshot", text="of the source"))
        yield from co.still_mine()
    except Conflict:
        if taken is None:
            for _, outcome in (yield Await((number,), wire.ARCHIVE_S)):
                taken = outcome.value
        if taken is not None and taken["name"] not in before:
            yield from _tolerant(wire.delete_snapshot(HOME, m.source, taken["name"]))
        raise
    return taken


def _may_begin(co: Coordinator) -> Flow[None]:
    """Wait while the operator lets nothing be copied; then it goes at once, and no pace is kept."""
    throttle = Throttle(co, only_reads=True)
    while (yield from throttle.look(0)).stands_still:
        yield Report("restore", text=co.pace)
        yield from co.stay()
        yield Sleep(LOOK_S)
    co.pace = ""


def _recover(co: Coordinator, origin: Origin | None, taken: Json) -> Flow[None]:
    """
    Let the target's server fetch the snapshot; carry it there if it cannot, or should not.

    Raises:
        RemoteFailure: Neither was possible; the target may hold anything, and is replaced by the next attempt.
    """
    m = co.migration
    download = wire.download_snapshot(HOME, m.source, taken["name"])
    if origin is not None:
        location = origin.url.rstrip("/") + download.path
        fetch = wire.recover(m.target_url, co.fence, location, taken["checksum"], origin.api_key)
        with co.owing():
            if (yield from _fetched(co, fetch)):
                return
        yield Report("restore", text="the target's server cannot fetch the snapshot; it is carried there")
        yield from _shut_out(co)
    # The server keeps what it is sent, under the fence's name.
    yield from co.save({"archive": {**co.migration.archive, "carried": co.fence}})
    with co.owing():
        bring = Carry(download, wire.upload_snapshot(m.target_url, co.fence, taken["checksum"]))
        yield from _at_length(co, bring)


def _fetched(co: Coordinator, fetch: Request) -> Flow[bool]:
    """Let the target's server fetch and restore; False if it has only found that it cannot fetch."""
    try:
        yield from _at_length(co, fetch)
    except Rejected as error:
        if not any(words in error.message.lower() for words in _NOT_FETCHED):
            raise
        return False
    return True


def _at_length(co: Coordinator, effect: Request | Carry) -> Flow[None]:
    number: int = yield Begin(Errand(effect))
    yield from _awaited(co, number, Report("restore", text="the target"))


def _awaited(co: Coordinator, number: int, meanwhile: Report) -> Flow[Any]:
    """
    What came of a piece of work that takes long; the claim is kept meanwhile.

    Raises:
        RemoteFailure: It failed; whatever the server makes of it then, the next attempt waits for.
    """
    while True:
        yield meanwhile
        ended: list[tuple[int, Outcome]] = yield Await((number,), LOOK_S)
        if ended:
            error = ended[0][1].error
            if isinstance(error, RemoteFailure) and not error.hint:
                error.hint = _HINT
            return ended[0][1].result()
        yield from co.stay()


def discard(co: Coordinator) -> Flow[None]:
    """Delete the snapshot, so that whoever has not fetched it yet never will; say which may have been left."""
    m = co.migration
    name, before = m.archive.get("name"), m.archive.get("before")
    if name:
        yield from _tolerant(wire.delete_snapshot(HOME, m.source, name))
    elif before is not None:
        yield from _until_idle(co)
        left = [name for name in (yield from _kept(m)) if name not in before]
        if left:
            # One of them may be somebody else's backup.
            names = ", ".join(left)
            yield Report("left", text=f"an interrupted attempt may have left this snapshot of `{m.source}`: {names}")
            yield from co.note("a snapshot may have been left", snapshots=left)
    if m.archive:
        yield from co.save({"archive": {key: m.archive[key] for key in ("carried",) if key in m.archive}})


def _kept(m: Migration) -> Flow[list[str]]:
    """The names of the source's snapshots; none if somebody has deleted it."""
    try:
        kept = yield wire.snapshots(HOME, m.source)
    except Rejected as error:
        if not error.missing:
            raise
        return []
    return [snapshot["name"] for snapshot in kept]


def dismantle(co: Coordinator) -> Flow[None]:
    """Remove the target together with whatever may have been on its way to it."""
    m = co.migration
    yield from discard(co)
    fences = yield from co.fences()
    if fences:
        yield wire.change_aliases(m.target_url, drop=fences)
        yield Report("fence", text="waiting until nothing of an earlier coordinator can be under way any more")
        yield Sleep(LANDING_S)
    yield from _until_idle(co)
    yield from sweep(m)


def _shut_out(co: Coordinator) -> Flow[list[str]]:
    """
    Put up a new fence, and see to it that no recovery through an earlier one can touch the target any more.

    Returns the fences through which one has missed the target, because they had been dropped by then.

    All requests of a server wait while it waits to change an alias, so what it has begun is let come to its end before.
    """
    yield from _until_idle(co)
    yield from co.drop_fence()
    yield from co.raise_fence()
    yield from _until_idle(co)
    missed: list[str] = yield from sweep(co.migration)
    if "carried" in co.migration.archive:
        yield from co.save({"archive": {key: v for key, v in co.migration.archive.items() if key != "carried"}})
    return missed


def _until_idle(co: Coordinator) -> Flow[None]:
    while (yield from _busy(co.migration)):
        yield Report("restore", text="waiting until the servers are through with earlier snapshots")
        yield from co.stay()
        yield Sleep(POLL_S)


def _busy(m: Migration) -> Flow[bool]:
    """Whether a server is taking a snapshot of the source, or restoring one through a fence of this migration."""
    here = yield wire.telemetry(HOME, details_level=2)
    there = (yield wire.telemetry(m.target_url, details_level=2)) if m.target_url else here
    takes = any(work["id"] == m.source and work.get("running_snapshots") for work in _works(here))
    return takes or any(
        work["id"].startswith(m.fence_prefix) and work.get("running_snapshot_recovery") for work in _works(there)
    )


def _works(telemetry: Json) -> list[Json]:
    return (telemetry.get("collections") or {}).get("snapshots") or []


def sweep(m: Migration) -> Flow[list[str]]:
    """
    Remove what recoveries through dropped fences have made: collections that bear a fence's name; returns their names.

    An archive that was carried to the target's server is kept there under such a name, and goes the same way.
    """
    listed = yield wire.collections(m.target_url)
    found = [c["name"] for c in listed["collections"] if c["name"].startswith(m.fence_prefix)]
    kept = [m.archive["carried"]] if "carried" in m.archive else []
    for name in {*found, *kept}:
        if name not in found:
            yield from _tolerant(wire.create_collection(m.target_url, name, {"vectors": {}}))
        for snapshot in (yield wire.snapshots(m.target_url, name)):
            yield from _tolerant(wire.delete_snapshot(m.target_url, name, snapshot["name"]))
        yield from _tolerant(wire.delete_collection(m.target_url, name))
    return found


def _tolerant(request: Request) -> Flow[None]:
    """Make or remove something that somebody else may have made or removed."""
    try:
        yield request
    except Rejected as error:
        if not error.missing and not error.exists:
            raise


def _complete(co: Coordinator) -> Flow[int]:
    """
    See that the target is what it should be, register its payload indexes, and count its points.

    A recovery brings the indexes' data; the collection knows of them only when each is created once more (1.16.3).
    """
    m = co.migration
    if not (yield from carries_marker(m, Side.TARGET)):
        raise Refused(
            f"`{m.target}` is not the collection that this migration has made.",
            hint="Run `qferry abort`, then start again; the source is untouched.",
        )
    source, target = yield from _unchanged(m)
    wanted, found = configuration.indexes(source), configuration.indexes(target)
    for name in found:
        if found[name] != wanted.get(name):
            yield wire.delete_index(m.target_url, co.fence, name)
    for name, schema in wanted.items():
        yield wire.create_index(m.target_url, co.fence, name, schema)
    return int((yield wire.count(m.target_url, m.target))["count"])


def _unchanged(m: Migration) -> Flow[tuple[Json, Json]]:
    """
    What both sides are.

    Raises:
        Refused: The source is not configured any more as the target was made.
    """
    source, target = (yield wire.info(HOME, m.source)), (yield wire.info(m.target_url, m.target))
    unlike = configuration.differences(source, target, m.overrides)
    if unlike:
        raise Refused(
            f"The source's configuration has changed since the start: {unlike[0]}.",
            hint="Run `qferry abort`, then start again; the source is untouched.",
        )
    return source, target
