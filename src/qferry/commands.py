"""
What the `qferry` command does, as plain functions: connect, run a flow, return a frozen result.

The command line, and whatever else is to come, are thin layers over these.  Every function that changes a migration
claims it first and gives the claim back, also when it fails; run it again after any failure and it goes on.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any, TypeVar

from qferry import planning
from qferry.connection import Connection, Reporter
from qferry.control import records, wire
from qferry.drivers.blocking import BlockingDriver
from qferry.drivers.workers import Crew
from qferry.errors import FerryError, InvalidName, Misuse, Refused, Rejected, RemoteFailure, Unreachable
from qferry.flows import configuration, diagnosis, leftovers, lifecycle
from qferry.flows.cleanup import cleanup as cleanup_flow
from qferry.flows.cleanup import restoring
from qferry.flows.cluster import on_cluster
from qferry.flows.coordinator import Coordinator, claim
from qferry.flows.copy import copy
from qferry.flows.diagnosis import Finding
from qferry.flows.effects import Flow, Json, Today
from qferry.flows.leftovers import Leftover
from qferry.flows.parity import QUERIES
from qferry.flows.restore import restore
from qferry.flows.settle import drain_well
from qferry.flows.verify import DESCRIBED, GREEN_TIMEOUT_S, Verification
from qferry.flows.verify import verify as verify_flow
from qferry.naming import CollectionNaming, Proposal
from qferry.preflight import rights
from qferry.preflight.gates import Line
from qferry.preflight.look import look
from qferry.preflight.report import Forecast
from qferry.protocol.canary import Tolerance
from qferry.protocol.checklist import PROOFS, Known, Metric, checklist
from qferry.protocol.comparison import Comparison
from qferry.protocol.phases import ENDED, JOURNALLED, Phase, out_of_order
from qferry.protocol.records import CONTROL_COLLECTION, HOME, Migration, Strategy, WritePolicy, Writer
from qferry.protocol.shadow import Totals, total
from qferry.protocol.throttle import Limits
from qferry.tracing import traced

T = TypeVar("T")

DEFAULT_SAFETY_DAYS = 30.0
# A look does not wait longer for a target's server, in seconds: the migration can be led back without it.
_TARGET_LOOK_S = 3.0
# Where `start` begins, or goes on.
_STARTS = (Phase.PREPARING, Phase.ANNOUNCED, Phase.CAPTURING, Phase.STARTING)


@dataclass(frozen=True)
class Survey:
    """Every legacy collection on a server, and the name it would get."""

    proposals: tuple[Proposal, ...]
    collections: int


@dataclass(frozen=True)
class Started:
    """A migration whose writers all write to both sides, or, before a snapshot, all keep its journal."""

    source: str
    target: str
    migration: str
    writers: tuple[str, ...]
    points: int
    strategy: str


@dataclass(frozen=True)
class Done:
    """A command that leaves nothing to tell but where the migration stands."""

    source: str
    target: str
    phase: str
    detail: str


@dataclass(frozen=True)
class Cleaned(Done):
    """
    A source that is deleted.

    Args:
        restore: The request that brings it back from its final snapshot, under a name of its own; empty if there is
            none.
    """

    restore: str


@dataclass(frozen=True)
class Reclaimed:
    """What migrations that are over have left behind; of a `dry_run` nothing was removed."""

    dry_run: bool
    leftovers: tuple[Leftover, ...]


@dataclass(frozen=True)
class Throttled:
    """How fast a migration may go, and how fast it goes."""

    source: str
    target: str
    limits: Limits
    coordinator: str  # the command at work; empty if there is none
    pace: str  # what it makes of the limits, and why; empty while nothing holds it up


@dataclass(frozen=True)
class Status:
    """Where one migration stands."""

    migration: Migration
    writers: tuple[Writer, ...]
    debt: int  # entries in the durable journal
    source_points: int | None
    target_points: int | None
    target_status: str | None
    checklist: tuple[Metric, ...]
    shadow: Totals | None = None  # what shadow reads have found since they were asked for; None: they are not
    comparison: Comparison | None = None  # what the last verification has compared, and what differed
    target_failure: str = ""  # why the target's server says nothing of the target; empty: it does


@dataclass(frozen=True)
class HistoryLine:
    """One line of history."""

    at: str
    epoch: int
    who: str
    what: str
    details: Mapping[str, Any]


@dataclass(frozen=True)
class HistoryPage:
    """A part of a migration's history."""

    lines: tuple[HistoryLine, ...]  # newest first
    older: tuple[int, int] | None  # what to ask for those that come after; None: that is all


@dataclass(frozen=True)
class Seen:
    """What somebody was shown of a migration when deciding what to do to it."""

    migration: str  # its id
    phase: str
    read_percent: int
    stepped_back: str | None = None  # None: it makes no difference, as to the way back

    @classmethod
    def of(cls, m: Migration) -> Seen:
        """What there is to see just now."""
        return cls(m.id, m.phase.value, m.read_percent, m.stepped_back)

    def check(self, m: Migration) -> None:
        """
        Return if nothing of that has changed.

        Not the epoch: a command at work raises it for purposes of its own, and the way back must not wait for it.

        Raises:
            Refused: Something has; the message says what.
        """
        now = Seen.of(m)
        if now == (self if self.stepped_back is not None else replace(self, stepped_back=now.stepped_back)):
            return
        if now.migration != self.migration:
            what = f"the migration of `{m.source}` is another one, to `{m.target}`"
        elif now.phase != self.phase:
            what = f"the migration has gone from {self.phase} to {now.phase}"
        elif now.read_percent == self.read_percent:
            why = f"have stepped back to the source: {now.stepped_back}" if now.stepped_back else "see the target again"
            what = f"readers {why}"
        else:
            what = f"the share of the reads has gone from {self.read_percent} % to {now.read_percent} %"
        raise Refused(f"Meanwhile {what}; nothing was changed.", hint="Look at where it stands now, then decide again.")


@dataclass(frozen=True)
class Examination:
    """What was found when migrations were looked at."""

    migrations: int
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """Whether nobody has to act."""
        return not any(finding.problem for finding in self.findings)


def me() -> str:
    """The running process, for the records."""
    return f"{socket.gethostname()} pid {os.getpid()}"


def survey(connection: Connection, naming: CollectionNaming) -> Survey:
    """Find every collection with a legacy name and propose its canonical one. Changes nothing."""
    with connection.driver() as driver:
        driver.run(planning.server_version(HOME))
        listed = _one(driver, wire.collections(HOME))
        names = [c["name"] for c in listed["collections"] if not c["name"].startswith(CONTROL_COLLECTION)]
        return Survey(tuple(naming.proposals(names)), len(names))


def _one(driver: BlockingDriver, request: Any) -> Any:
    def flow() -> Flow[Any]:
        return (yield request)

    return driver.run(flow())


def plan(
    connection: Connection,
    source: str,
    target: str,
    overrides: Mapping[str, Any] | None = None,
    strategy: Strategy | None = None,
) -> Forecast:
    """
    Read everything a migration needs to know and say what would happen. Changes nothing.

    Reads at most 2,000 points of the source, for about 2 seconds.

    Raises:
        Refused: It cannot be done; the message says why.
        InvalidName: A name no server would accept.
        RemoteFailure: A server does not answer, or does not accept the key.
    """
    sides = {"source": HOME} | ({"target": connection.target_url} if connection.target_url else {})
    keys = {server: rights.key(side, connection.key(server)) for side, server in sides.items()}
    overrides = overrides or {}
    with connection.driver() as driver:
        try:
            planned = driver.run(planning.plan(connection.target_url, source, target, overrides, strategy))
        except Rejected as error:
            raise driver.run(rights.explained(error, keys)) from error
        with connection.pages_of(planned.source) as pages:
            lines = {
                side: Line(
                    connection.port(server),
                    pages is not None if server == HOME else connection.answers_by_grpc(server),
                )
                for side, server in sides.items()
            }
            driver.pages = pages if all(line.answers for line in lines.values()) else None
            found = driver.run(
                look(
                    planned,
                    connection.target_url,
                    overrides,
                    keys=keys,
                    lines=lines,
                    fetched=connection.origin is not None,
                )
            )
    return Forecast(**{field.name: getattr(planned, field.name) for field in fields(planned)}, preflight=found)


@traced
def start(
    connection: Connection,
    source: str,
    target: str,
    *,
    overrides: Mapping[str, Any] | None = None,
    policy: WritePolicy = WritePolicy.BOTH,
    strategy: Strategy | None = None,
    ack_timeout_s: float = 60.0,
    report: Reporter = lambda _: None,
) -> Started:
    """
    Create the target and let every client write to both; returns when all of them do.

    With a snapshot, which is what no `strategy` means where it is possible, they keep the journal and write to the
    source alone until the target has been restored.

    Raises:
        Refused: It cannot be done, or a writer does not acknowledge; run it again to go on.
    """
    with connection.driver(report) as driver:
        found = driver.run(lifecycle.open_migrations())
        mine = [m for m in found if source in m.names and m.target == target]
        migration = lifecycle.one_of(mine, source) if mine else None
        if migration is not None and migration.phase not in _STARTS:
            raise out_of_order(migration.phase, f"qferry start {source} {target}")
        if migration is not None and (migration.overrides, migration.policy, migration.strategy) != (
            dict(overrides or {}),
            policy,
            strategy or migration.strategy,
        ):
            raise Refused(
                "An earlier, interrupted start of this migration was given other settings.",
                hint="Repeat them exactly, or give that one up with `qferry abort`.",
            )
        if migration is None:  # otherwise an earlier start was interrupted: go on with it
            planned = driver.run(planning.plan(connection.target_url, source, target, overrides or {}, strategy))
            driver.run(lifecycle.ensure_control_collection())
            migration = driver.run(
                lifecycle.record(
                    planned.source,
                    target,
                    connection.target_url,
                    overrides or {},
                    planned.aliases,
                    policy,
                    Strategy(planned.strategy),
                )
            )
        with _claimed(driver, migration, ack_timeout_s) as co:
            writers = driver.run(lifecycle.start(co))
            m = co.migration
            named = tuple(w.describe() for w in writers)
            return Started(m.source, m.target, m.id, named, m.expected_points, m.strategy.value)


@contextlib.contextmanager
def _claimed(
    driver: BlockingDriver, migration: Migration, ack_timeout_s: float = 60.0, *, at_once: bool = False
) -> Iterator[Coordinator]:
    co = driver.run(claim(migration, me(), ack_timeout_s=ack_timeout_s, at_once=at_once))
    try:
        yield co
    finally:
        # If this fails too, the claim lapses by itself; the error under way is what the operator must see.
        with contextlib.suppress(FerryError):
            driver.run(co.release())


def _coordinate(
    connection: Connection,
    source: str | None,
    flow: Callable[[Coordinator], Flow[T]],
    report: Reporter,
    *,
    seen: Seen | None = None,
    at_once: bool = False,
    by_pages: bool = False,
    dask: str | None = None,
) -> tuple[T, Migration]:
    """
    Run `flow` as the coordinator.

    With `at_once`, the way back, it asks nothing of the target's nodes; with `by_pages` it moves many points, and with
    `dask` it lets the workers of that cluster do it.  Nothing is done to a migration that is not as it was `seen`.
    """
    with _dask(dask) as crew_for, connection.driver(report) as driver:
        migration = lifecycle.one_of(driver.run(records.migrations()), source)
        if seen is not None:
            seen.check(migration)  # before another coordinator is stopped for it
        with _claimed(driver, migration, at_once=at_once) as co:
            migration = co.migration  # as it is now that nobody else changes it
            if seen is not None:
                seen.check(migration)
            if migration.phase in JOURNALLED and not at_once:
                driver.run(planning.still_as_planned(migration))
            on_target = not at_once and configuration.is_replicated(migration.overrides)
            if crew_for is not None and migration.phase is not Phase.CAPTURING:  # a snapshot is the servers' own work
                driver.crew = crew_for(connection, co.migration, report)
            with connection.pages(co.migration, report) if by_pages else contextlib.nullcontext() as driver.pages:
                return driver.run(on_cluster(co, flow(co)) if on_target else flow(co)), co.migration


@contextlib.contextmanager
def _dask(address: str | None) -> Iterator[Callable[[Connection, Migration, Reporter], Crew] | None]:
    """What makes a crew of the Dask cluster at `address`, if any; it must answer before anything is claimed."""
    if address is None:
        yield None
        return
    try:
        from qferry import dask_crew  # noqa: PLC0415  its packages are an extra
    except ImportError as error:
        raise Misuse(
            f"To work on a Dask cluster needs packages that are not installed: {error}.",
            hint='Install them with `pip install "qferry[dask]"`, or leave --dask out.',
        ) from error
    with dask_crew.connected(address) as client:
        yield partial(dask_crew.DaskCrew, client)


def _done(migration: Migration, detail: str) -> Done:
    return Done(migration.source, migration.target, migration.phase.value, detail)


@traced
def backfill(
    connection: Connection,
    source: str | None = None,
    *,
    dask: str | None = None,
    limits: Mapping[str, Any] | None = None,
    seen: Seen | None = None,
    report: Reporter = lambda _: None,
) -> Done:
    """
    Copy history, then settle the journal; goes on where an interrupted one stopped.

    Args:
        connection: The servers.
        source: The collection that is moved, if several are.
        dask: The scheduler of a Dask cluster whose workers are to copy, such as `tcp://scheduler:8786`.
        limits: As for `throttle`.
        seen: What was decided on; if that has changed, nothing is done.
        report: Receives progress.

    Raises:
        Misuse: `qferry[dask]` is not installed.
        Unreachable: The scheduler does not answer; nothing was changed.
    """

    def flow(co: Coordinator) -> Flow[tuple[int, int]]:
        m = co.migration
        restored = m.phase is Phase.STARTING and m.strategy is Strategy.SNAPSHOT
        if m.phase not in (Phase.CAPTURING, Phase.COPYING, Phase.COPIED) and not restored:
            raise out_of_order(m.phase, "qferry backfill")
        if limits:
            yield from co.save(_limits(limits))
        yield from restore(co, connection.origin)
        if co.migration.phase is Phase.STARTING:
            yield from lifecycle.take_up_dual_writes(co)
        copied = yield from copy(co)
        settled = yield from drain_well(co)
        return copied, settled.repaired

    (copied, repaired), migration = _coordinate(connection, source, flow, report, seen=seen, by_pages=True, dask=dask)
    return _done(migration, f"{copied:,} points copied, {repaired:,} of those written meanwhile brought up to date")


@traced
def verify(
    connection: Connection,
    source: str | None = None,
    *,
    repair: bool = False,
    again: bool = False,
    queries: int = QUERIES,
    green_timeout_s: float = GREEN_TIMEOUT_S,
    describe: int = DESCRIBED,
    dask: str | None = None,
    limits: Mapping[str, Any] | None = None,
    seen: Seen | None = None,
    report: Reporter = lambda _: None,
) -> Verification:
    """
    Compare both sides completely, then searches on them; goes on where an interrupted one stopped, if that is sound.

    Args:
        connection: The servers.
        source: The migration.
        repair: Whether to make the target equal where it is not.
        again: Of the points, compare only those that differed the last time, if that is sound; otherwise all of them.
        queries: How many points to search with, for each vector; 0: none, and `switch` is refused then.
        green_timeout_s: How long to wait for the target's indexes, before searches are compared.
        describe: Of how many points to tell how they differ.
        dask: As for `backfill`.
        limits: As for `throttle`.
        seen: As for `backfill`.
        report: Receives progress.
    """

    def flow(co: Coordinator) -> Flow[Verification]:
        if co.migration.phase not in (Phase.COPIED, Phase.SWITCHED):
            raise out_of_order(co.migration.phase, "qferry verify")
        if limits:
            yield from co.save(_limits(limits))
        return (
            yield from verify_flow(
                co, mend=repair, again=again, queries=queries, green_timeout_s=green_timeout_s, describe=describe
            )
        )

    return _coordinate(connection, source, flow, report, seen=seen, by_pages=True, dask=dask)[0]


def _limits(changes: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        return Limits.checked(changes)
    except ValueError as error:
        raise Misuse(f"That is not a limit: {error}.", hint="Nothing was changed.") from error


def throttle(
    connection: Connection,
    source: str | None = None,
    *,
    limits: Mapping[str, Any] | None = None,
    seen: Seen | None = None,
) -> Throttled:
    """
    Change how fast copies and comparisons may go, also of a command that is at work; without changes, only look.

    Args:
        connection: The servers.
        source: The migration.
        limits: Fields of `Limits` by name, those that are to change.
        seen: As for `backfill`.

    Raises:
        Misuse: A limit is none, or out of range.
        Refused: The migration is over.
    """
    with connection.driver() as driver:
        m = lifecycle.one_of(driver.run(records.migrations()), source)
        if seen is not None:
            seen.check(m)
        if limits:
            if m.phase in ENDED:
                raise Refused(
                    f"The migration of `{m.source}` is {m.phase.value}, so there is nothing to slow down.",
                    hint="Nothing was changed.",
                )
            _one(driver, records.change_limits(m.id, _limits(limits)))
            m = driver.run(records.read_migration(m.id))
        return Throttled(m.source, m.target, m.limits, m.claim_by, m.pace)


@traced
def switch(
    connection: Connection,
    source: str | None = None,
    *,
    percent: int,
    green_timeout_s: float = GREEN_TIMEOUT_S,
    shadow_percent: float | None = None,
    max_errors_percent: float | None = None,
    max_read_ms: float | None = None,
    seen: Seen | None = None,
    report: Reporter = lambda _: None,
) -> Done:
    """
    Send `percent` (0 to 100) of the reads to the target, also if readers have stepped back from it.

    What is not given stays as it is.

    Args:
        connection: The servers.
        source: The migration.
        percent: The share of the reads that the target serves.
        green_timeout_s: How long to wait for the target's indexes, in seconds.
        shadow_percent: The share of the reads that is repeated on the other side, to compare; 0: none.
        max_errors_percent: The share of the target's reads that may fail before readers go back to the source.
        max_read_ms: What 95 of 100 reads on the target may take before that, in milliseconds; 0: as long as they like.
        seen: As for `backfill`.
        report: Receives progress.

    Raises:
        Misuse: A share, or a limit, is none; nothing was changed.
        Refused: A gate is not passed.
    """
    settings = _canary(percent, shadow_percent, {"max_errors_percent": max_errors_percent, "max_ms": max_read_ms})
    _, migration = _coordinate(
        connection,
        source,
        lambda co: lifecycle.switch(co, percent, green_timeout_s=green_timeout_s, settings=settings),
        report,
        seen=seen,
    )
    shadows = migration.shadow_percent
    compared = f"; {shadows:g} % are repeated on the other side, to compare" if shadows else ""
    return _done(migration, f"{percent} % of the reads are served by `{migration.target}`{compared}")


def _canary(percent: float, shadow_percent: float | None, limits: Mapping[str, float | None]) -> dict[str, float]:
    """Fields of the record that `switch` changes, checked."""
    for share in (percent, shadow_percent):
        if share is not None and not 0 <= share <= lifecycle.ALL_READS:  # nor is NaN
            raise Misuse(f"{share:g} % is no share of the reads.", hint="Give 0 to 100; nothing was changed.")
    try:
        settings = Tolerance.checked(limits)
    except ValueError as error:
        raise Misuse(f"That is not a limit: {error}.", hint="Nothing was changed.") from error
    return settings if shadow_percent is None else {**settings, "shadow_percent": float(shadow_percent)}


@traced
def rollback(
    connection: Connection,
    source: str | None = None,
    *,
    seen: Seen | None = None,
    report: Reporter = lambda _: None,
) -> Done:
    """Send all reads back to the source; a coordinator that is at work is stopped. `seen` as for `backfill`."""
    _, migration = _coordinate(connection, source, lifecycle.rollback, report, seen=seen, at_once=True)
    return _done(migration, f"all reads are served by `{migration.source}`; writes still reach both")


@traced
def soak(
    connection: Connection, source: str | None = None, *, seconds: float, report: Reporter = lambda _: None
) -> Done:
    """Settle the journal for a while."""
    repaired, migration = _coordinate(connection, source, lambda co: lifecycle.soak(co, seconds), report)
    return _done(migration, f"{repaired:,} points repaired in {seconds:.0f} s")


@traced
def abort(
    connection: Connection,
    source: str | None = None,
    *,
    seen: Seen | None = None,
    report: Reporter = lambda _: None,
) -> Done:
    """Give the migration up: writes on the source alone, target and journal removed; `seen` as for `backfill`."""
    _, migration = _coordinate(connection, source, lifecycle.abort, report, seen=seen, at_once=True)
    return _done(migration, f"`{migration.source}` is as it was; `{migration.target}` is removed")


@traced
def finish(
    connection: Connection,
    source: str | None = None,
    *,
    safety_days: float = DEFAULT_SAFETY_DAYS,
    seen: Seen | None = None,
    report: Reporter = lambda _: None,
) -> Done:
    """
    Let the application leave the source.

    There is no way back but a new migration the other way.  `seen` as for `backfill`.
    """

    def flow(co: Coordinator) -> Flow[None]:
        today: str = yield Today()
        until = datetime.strptime(today, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc) + timedelta(
            days=safety_days
        )
        yield from lifecycle.finish(co, until.strftime("%Y-%m-%dT%H:%M:%SZ"))

    _, migration = _coordinate(connection, source, flow, report, seen=seen)
    return _done(
        migration,
        f"`{migration.target}` is the truth; `{migration.source}` may be deleted from {migration.cleanup_after}",
    )


@traced
def cleanup(
    connection: Connection,
    source: str | None = None,
    *,
    confirm: str,
    keep_alias: bool = False,
    seen: Seen | None = None,
    report: Reporter = lambda _: None,
) -> Cleaned:
    """
    Delete the source after a final snapshot; `confirm` is its real name, typed by hand; `seen` as for `backfill`.

    With `keep_alias` its name becomes an alias of the target, for clients without qferry.
    """

    def flow(co: Coordinator) -> Flow[Json]:
        if confirm != co.migration.source:
            raise Refused(
                f"`{confirm}` is not the name of the source, `{co.migration.source}`; nothing was deleted.",
                hint="Type the name of the collection that is to be deleted.",
            )
        return (yield from cleanup_flow(co, keep_alias=keep_alias))

    snapshot, m = _coordinate(connection, source, flow, report, seen=seen)
    kept = (
        f"; final snapshot {snapshot['name']}, sha256 {snapshot.get('checksum')}, in the server's snapshots folder"
        if snapshot
        else ""
    )
    alias = f", and its name is an alias of `{m.target}`" if keep_alias else ""
    restore = restoring(m, snapshot) if snapshot else ""
    return Cleaned(m.source, m.target, m.phase.value, f"`{m.source}` is deleted{alias}{kept}", restore)


def reclaim(
    connection: Connection,
    source: str | None = None,
    *,
    remove: bool = False,
    confirm: str | None = None,
    report: Reporter = lambda _: None,
) -> Reclaimed:
    """
    Find what migrations that are over have left behind; with `remove`, take away what nothing keeps.

    A final snapshot is the last copy of its source, and goes only if `confirm` is that source's name, typed by hand.

    Raises:
        Refused: There is no migration of `source` that is over, or no final snapshot of `confirm` that may go.
    """
    with connection.driver(report) as driver:
        driver.run(planning.server_version(HOME))
        found = driver.run(leftovers.find(source))
        mine = [left for left in found if left.kind == leftovers.FINAL and left.source == confirm]
        if confirm is not None and not any(not left.kept for left in mine):
            raise Refused(
                f"There is no final snapshot of `{confirm}` that may go; nothing was removed.",
                hint=mine[0].kept if mine else "`qferry cleanup --reclaim` lists what there is.",
            )
        for place, left in enumerate(found):
            if remove and not left.kept and (left.kind != leftovers.FINAL or left in mine):
                driver.run(leftovers.remove(left, me()))
                found[place] = replace(left, removed=True)
        return Reclaimed(dry_run=not remove, leftovers=tuple(found))


def status(
    connection: Connection, source: str | None = None, *, live: bool = False, naming: CollectionNaming | None = None
) -> tuple[Status, ...]:
    """
    Where migrations stand: all of them, those that are not over (`live`), or the one of `source`. Changes nothing.

    `naming`, by default that of ADR-0039, says whether a target has a name to keep.  A target's server that does not
    answer takes nothing away but what it alone knows.
    """
    rules = naming or CollectionNaming()
    silent: dict[str, str] = {}
    with connection.driver() as driver:
        chosen = [m for m in _chosen(driver, source) if not live or m.phase not in ENDED]
        return tuple(driver.run(_status_of(m, rules, silent)) for m in chosen)


def status_of(connection: Connection, migration_id: str, *, naming: CollectionNaming | None = None) -> Status:
    """
    Where the migration with this id stands, also one that is over; `naming` as for `status`. Changes nothing.

    Raises:
        Conflict: There is none.
    """

    def flow() -> Flow[Status]:
        m = yield from records.read_migration(migration_id)
        return (yield from _status_of(m, naming or CollectionNaming(), {}))

    with connection.driver() as driver:
        return driver.run(flow())


def record_of(connection: Connection, migration_id: str) -> Migration:
    """
    The record of the migration with this id, for which no target's server is asked. Changes nothing.

    Raises:
        Conflict: There is none.
    """
    with connection.driver() as driver:
        return driver.run(records.read_migration(migration_id))


def _chosen(driver: BlockingDriver, source: str | None) -> list[Migration]:
    """All migrations on the server, or the one of `source`."""
    driver.run(planning.server_version(HOME))
    found = driver.run(records.migrations())
    return found if source is None else [lifecycle.one_of(found, source)]


def _status_of(m: Migration, naming: CollectionNaming, silent: dict[str, str]) -> Flow[Status]:
    """Where one migration stands; of the targets' servers those that are `silent`, and why, are not asked (again)."""
    writers = yield from records.writers()
    debt = yield from _count_or_none(HOME, m.journal_collection)
    # Once it is deleted its name may be an alias of the target, or be given to another collection.
    ours = None if m.phase is Phase.CLEANED else (yield from _count_or_none(HOME, m.source))
    theirs, state, failure = yield from _target_of(m, silent)
    concerned = tuple(w for w in writers if m.id in w.seen) if m.phase not in ENDED else ()
    shadow = total([w.shadow[m.id] for w in writers if m.id in w.shadow], m.shadow_since) if m.shadow_percent else None
    comparison = yield from records.read_comparison(m)
    proofs = yield from records.events(m.id, PROOFS)
    known = Known(concerned, ours, theirs, proofs, _is_old(naming, m.target), shadow, failure, writers)
    metrics = checklist(m, known)
    return Status(m, concerned, debt or 0, ours, theirs, state, metrics, shadow, comparison, failure)


def _target_of(m: Migration, silent: dict[str, str]) -> Flow[tuple[int | None, str | None, str]]:
    """How many points the target has, how it is, and why its server, if it is another one, does not say so."""
    if m.phase is Phase.ABORTED:  # it is removed
        return None, None, ""
    if m.target_url in silent:
        return None, None, silent[m.target_url]
    patience_s = None if m.target_url == HOME else _TARGET_LOOK_S
    try:
        replaced = m.phase is Phase.CAPTURING
        points = yield from _count_or_none(m.target_url, m.target, replaced=replaced, timeout_s=patience_s)
        if points is None:
            return None, None, ""
        told = yield replace(wire.info(m.target_url, m.target), timeout_s=patience_s)
        return points, told["status"], ""
    except RemoteFailure as error:
        if m.target_url == HOME:
            raise
        if isinstance(error, Unreachable):
            silent[m.target_url] = error.message
        return None, None, error.message


def _is_old(naming: CollectionNaming, target: str) -> bool:
    """Whether the target's name is itself one that the naming would replace."""
    with contextlib.suppress(InvalidName):  # of a project that can have no canonical name
        return naming.needs_migration(target)
    return False


def _count_or_none(
    server: str, collection: str, *, replaced: bool = False, timeout_s: float | None = None
) -> Flow[int | None]:
    """
    How many points a collection has; None if there is none, or for the moment in which a snapshot takes its place.

    Then its shards are gone (1.16.3: 500, "Local shard 0 not found").
    """
    try:
        return int((yield replace(wire.count(server, collection), timeout_s=timeout_s))["count"])
    except Rejected as error:
        if error.missing or (replaced and "Local shard" in error.message):
            return None
        raise


def history(connection: Connection, source: str | None = None) -> tuple[HistoryLine, ...]:
    """Everything that was done to a migration, oldest first. Changes nothing."""
    with connection.driver() as driver:
        found = driver.run(records.migrations())
        chosen = {m.id for m in found} if source is None else {lifecycle.one_of(found, source).id}
        lines = [e for e in driver.run(records.all_of("event")) if e["migration"] in chosen]
        lines.sort(key=lambda e: (e["migration"], e["epoch"], e["at"]))
        return tuple(_line(e) for e in lines)


def _line(event: Mapping[str, Any]) -> HistoryLine:
    return HistoryLine(event["at"], event["epoch"], event["who"], event["what"], event["details"])


def recent_history(
    connection: Connection, migration_id: str, *, before: tuple[int, int] | None = None, lines: int = 100
) -> HistoryPage:
    """
    What was done to one migration, newest first, a page at a time. Changes nothing.

    Args:
        connection: The servers.
        migration_id: Its id.
        before: Where the page before this one has ended (`HistoryPage.older`); None: begin with the newest.
        lines: How many; however long the history is, no more is read than that takes.
    """

    def flow() -> Flow[HistoryPage]:
        if before is None:
            epoch, skip = (yield from records.read_migration(migration_id)).epoch, 0
        else:
            epoch, skip = before
        events, older = yield from records.newest_events(migration_id, epoch, skip, lines)
        return HistoryPage(tuple(_line(e) for e in events), older)

    with connection.driver() as driver:
        return driver.run(flow())


def find(connection: Connection, source: str | None = None) -> Migration:
    """
    The migration that a command for `source` would work on. Changes nothing.

    Raises:
        Refused: There is none, or more than one.
    """
    with connection.driver() as driver:
        driver.run(planning.server_version(HOME))
        return lifecycle.one_of(driver.run(records.migrations()), source)


def doctor(connection: Connection, source: str | None = None, *, report: Reporter = lambda _: None) -> Examination:
    """
    Find out what is wrong with all migrations, or with the one of `source`. Changes nothing.

    Listens for up to ten seconds while a process makes no sign of life.
    """
    with connection.driver(report) as driver:
        chosen = _chosen(driver, source)
        findings = driver.run(diagnosis.examine([m.id for m in chosen]))
        return Examination(len(chosen), tuple(findings))


def examination_of(connection: Connection, migration_id: str) -> Examination:
    """As `doctor`, of the migration with this id."""
    with connection.driver() as driver:
        return Examination(1, tuple(driver.run(diagnosis.examine([migration_id]))))


def target_of(naming: CollectionNaming, source: str) -> str:
    """
    The canonical name for a legacy collection.

    Raises:
        Refused: The name is not a legacy one, so the target must be given.
    """
    project = naming.project_of(source)
    if project is None or not naming.needs_migration(source):
        raise Refused(
            f"`{source}` is not a legacy name, so qferry cannot tell what its new name should be.",
            hint="Give the target's name as the second argument.",
        )
    return naming.canonical(project)
