"""
What the `qferry` command does, as plain functions: connect, run a flow, return a frozen result.

The command line, and whatever else is to come, are thin layers over these.  Every function that changes a migration
claims it first and gives the claim back, also when it fails; run it again after any failure and it goes on.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any, TypeVar

from qdrant_client import QdrantClient

from qferry.control import records, wire
from qferry.drivers.blocking import BlockingDriver
from qferry.errors import FerryError, Refused, Rejected
from qferry.flows import configuration, lifecycle
from qferry.flows.cluster import on_cluster
from qferry.flows.coordinator import Coordinator, claim
from qferry.flows.copy import PAGE_POINTS_MAX, copy
from qferry.flows.effects import Flow, Json, Report, Today
from qferry.flows.settle import drain_well
from qferry.flows.verify import Verification
from qferry.flows.verify import verify as verify_flow
from qferry.flows.write import RESOLVE_POINTS
from qferry.naming import CollectionNaming, Proposal, check_collection_name
from qferry.protocol.phases import ENDED, JOURNALLED, Phase, out_of_order
from qferry.protocol.records import CONTROL_COLLECTION, HOME, Migration, WritePolicy, Writer
from qferry.transfer.channel import GRPC_PORT, Channel
from qferry.transfer.pages import Pages

T = TypeVar("T")
Reporter = Callable[[Report], None]

# Before 1.14 a scroll under load may lose points (qdrant#6289), and every check rests on scrolls; tests run on 1.16.3.
OLDEST_SERVER = (1, 14)
DEFAULT_SAFETY_DAYS = 30.0
# How many copies of a point a target on a cluster may have (docs/adr/0009).
COPIES = (1, 2)
# The largest pages and conditions of the protocol, by the name of the limit that may forbid them.
STRICT_MODE_NEEDS = {
    "max_query_limit": PAGE_POINTS_MAX,
    "upsert_max_batchsize": PAGE_POINTS_MAX,
    "condition_max_size": RESOLVE_POINTS,
    "filter_max_conditions": 10,
}


@dataclass(frozen=True, kw_only=True)
class Connection:
    """
    How to reach the servers.

    Args:
        url: The source's server, where the records are.
        api_key: Its key, with the right to manage.
        target_url: The target's server, if that is another one.
        target_api_key: Its key; by default the source's.
        timeout_s: Deadline of one request, in seconds.
        grpc_port: Where the source's server listens for gRPC; 0: pages go by REST, several times slower.
        target_grpc_port: The same of the target's server, if that is another one.
    """

    url: str
    api_key: str | None = field(default=None, repr=False)
    target_url: str = HOME
    target_api_key: str | None = field(default=None, repr=False)
    timeout_s: int = 60
    grpc_port: int = GRPC_PORT
    target_grpc_port: int = GRPC_PORT

    def channel(self, server: str) -> Channel:
        """A gRPC channel to a server."""
        home = server == HOME
        return Channel(
            server or self.url,
            grpc_port=self.grpc_port if home else self.target_grpc_port,
            api_key=self.api_key if home else self.target_api_key or self.api_key,
            timeout_s=float(self.timeout_s),
            whose="server" if home else "target's server",
        )

    @contextlib.contextmanager
    def pages(self, migration: Migration, report: Reporter) -> Iterator[Pages | None]:
        """What carries a migration's pages by gRPC; None where that is not wanted or possible."""
        if not self.grpc_port or (migration.target_url and not self.target_grpc_port):
            yield None
            return
        pages = Pages(self.channel, migration)
        try:
            if pages.usable:
                yield pages
            else:
                report(Report("rest", text="no gRPC at that port: points go by REST, several times slower"))
                yield None
        finally:
            pages.close()

    @contextlib.contextmanager
    def driver(self, report: Reporter = lambda _: None) -> Iterator[BlockingDriver]:
        """A driver on fresh connections, closed afterwards."""
        clients: dict[str, QdrantClient] = {}

        def client_for(server: str) -> QdrantClient:
            if server not in clients:
                key = self.api_key if server == HOME else self.target_api_key or self.api_key
                clients[server] = QdrantClient(
                    url=server or self.url, api_key=key, timeout=self.timeout_s, check_compatibility=False
                )
            return clients[server]

        driver = BlockingDriver(client_for, report=report)
        try:
            yield driver
        finally:
            driver.close()
            for client in clients.values():
                client.close()


@dataclass(frozen=True)
class Plan:
    """What a migration of one collection would be."""

    source: str
    target: str
    points: int
    server_version: str
    shards: int
    indexes: tuple[str, ...]
    aliases: tuple[str, ...]
    asked_for: str  # the name that was given, where that is an alias
    target_exists: bool
    steps: tuple[str, ...]


@dataclass(frozen=True)
class Survey:
    """Every legacy collection on a server, and the name it would get."""

    proposals: tuple[Proposal, ...]
    collections: int


@dataclass(frozen=True)
class Started:
    """A migration whose writers all write to both sides."""

    source: str
    target: str
    migration: str
    writers: tuple[str, ...]
    points: int


@dataclass(frozen=True)
class Done:
    """A command that leaves nothing to tell but where the migration stands."""

    source: str
    target: str
    phase: str
    detail: str


@dataclass(frozen=True)
class Status:
    """Where one migration stands."""

    migration: Migration
    writers: tuple[Writer, ...]
    debt: int  # entries in the durable journal
    source_points: int | None
    target_points: int | None
    target_status: str | None


@dataclass(frozen=True)
class HistoryLine:
    """One line of history."""

    at: str
    epoch: int
    who: str
    what: str
    details: Mapping[str, Any]


def me() -> str:
    """The running process, for the records."""
    return f"{socket.gethostname()} pid {os.getpid()}"


def server_version(server: str) -> Flow[str]:
    """
    The version of a server.

    Raises:
        Refused: It is older than what the protocol was written for.
    """
    answer = yield wire.version(server)
    found = str(answer.get("version")) if isinstance(answer, dict) else ""
    if "qdrant" not in str(answer).lower():
        raise Refused("What answers at that URL is not a Qdrant server.", hint="Check the URL and the port.")
    numbers = tuple(int(n) for n in re.findall(r"\d+", found)[:2])
    if numbers < OLDEST_SERVER:
        oldest = ".".join(map(str, OLDEST_SERVER))
        raise Refused(f"The server runs Qdrant {found}; qferry needs {oldest} or newer.", hint="Upgrade it first.")
    return found


def survey(connection: Connection, naming: CollectionNaming) -> Survey:
    """Find every collection with a legacy name and propose its canonical one. Changes nothing."""
    with connection.driver() as driver:
        driver.run(server_version(HOME))
        listed = _one(driver, wire.collections(HOME))
        names = [c["name"] for c in listed["collections"] if not c["name"].startswith(CONTROL_COLLECTION)]
        return Survey(tuple(naming.proposals(names)), len(names))


def _one(driver: BlockingDriver, request: Any) -> Any:
    def flow() -> Flow[Any]:
        return (yield request)

    return driver.run(flow())


def plan(connection: Connection, source: str, target: str, overrides: Mapping[str, Any] | None = None) -> Plan:
    """
    Read everything a migration needs to know and say what would happen. Changes nothing.

    Raises:
        Refused: It cannot be done; the message says why.
        InvalidName: A name no server would accept.
    """
    with connection.driver() as driver:
        return driver.run(_plan(connection, source, target, overrides or {}))


def _plan(connection: Connection, asked_for: str, target: str, overrides: Mapping[str, Any]) -> Flow[Plan]:
    check_collection_name(target)
    version = yield from server_version(HOME)
    other = connection.target_url
    yield from _single_node(HOME)
    if other:
        yield from server_version(other)
        nodes = yield from _nodes(other)
        _right_for_cluster(nodes, overrides)
    listed = (yield wire.aliases(HOME))["aliases"]
    source = next((a["collection_name"] for a in listed if a["alias_name"] == asked_for), asked_for)
    if source == target and not other:
        raise Refused(f"Source and target are the same collection, `{source}`.", hint="Give the target another name.")
    try:
        info = yield wire.info(HOME, source)
    except Rejected as error:
        if not error.missing:
            raise
        raise Refused(
            f"There is no collection `{source}` on this server.", hint="`qferry plan` lists those with legacy names."
        ) from error
    if info["config"]["params"].get("sharding_method") == "custom":
        raise Refused(
            f"`{source}` uses custom sharding, which is not supported yet.",
            hint="Points in different shard keys may share an id; this version would merge them.",
        )
    _refuse_strict_limits(source, info)
    if other and source != target:
        yield from _name_is_free_at_home(target, listed)
    body = configuration.to_create(info, overrides)
    target_exists = yield from _target_is_free(other, target)
    count = (yield wire.count(HOME, source))["count"]
    aliases = tuple(
        a["alias_name"]
        for a in listed
        if a["collection_name"] == source and not a["alias_name"].startswith(CONTROL_COLLECTION)
    )
    return Plan(
        source=source,
        target=target,
        points=count,
        server_version=version,
        shards=body.get("shard_number", 1),
        indexes=tuple(configuration.indexes(info)),
        aliases=aliases,
        asked_for=asked_for,
        target_exists=target_exists,
        steps=tuple(
            shlex.join(step.split() + words) + (f" --target-url {shlex.quote(other)}" if other else "")
            for step, words in (
                ("qferry start", [source, target]),
                ("qferry backfill", [source]),
                ("qferry verify", [source]),
                ("qferry switch --percent 100", [source]),
                ("qferry finish", [source]),
                ("qferry cleanup", [source]),
            )
        ),
    )


def _nodes(server: str) -> Flow[int]:
    """How many nodes a server has; one that knows nothing of clusters is one."""
    return len((yield wire.cluster(server)).get("peers") or {}) or 1


def _single_node(server: str) -> Flow[None]:
    """Refuse a source on a cluster (docs/adr/0009)."""
    nodes = yield from _nodes(server)
    if nodes > 1:
        raise Refused(
            f"The source's server is a cluster of {nodes} nodes. Records and journal live next to the source, and "
            "while copies of them are restored no read is sure to show every record that was acknowledged.",
            hint="A cluster can be the target only; nothing was changed.",
        )


def _right_for_cluster(nodes: int, overrides: Mapping[str, Any]) -> None:
    """Refuse a target whose number of copies is not said on a cluster, or is more than can be told apart."""
    copies = overrides.get("replication_factor")
    if nodes == 1 and copies is not None:
        raise Refused(
            "The target's server is a single node, so replication_factor means nothing there.",
            hint="Leave it out.",
        )
    if nodes > 1 and copies not in COPIES:
        raise Refused(
            f"The target's server is a cluster of {nodes} nodes, and each point can have one copy there or two; of "
            "three, no read would show a point that a single copy has kept.",
            hint="Say which with --set replication_factor=2; shard_number and write_consistency_factor may be set too.",
        )


def _still_as_planned(m: Migration) -> Flow[None]:
    """Refuse to go on when a single node has become a cluster since, which nothing here would notice."""
    yield from _single_node(HOME)
    if m.target_url and not configuration.is_replicated(m.overrides) and (yield from _nodes(m.target_url)) > 1:
        raise Refused(
            "The target's server has become a cluster since the migration was planned for a single node.",
            hint="Remove the other nodes, or abort and start again with --set replication_factor.",
        )


def _refuse_strict_limits(source: str, info: Json) -> None:
    """Refuse a source whose strict mode forbids what clients and coordinator do while it migrates."""
    strict = info["config"].get("strict_mode_config") or {}
    if not strict.get("enabled"):
        return
    for name, needed in STRICT_MODE_NEEDS.items():
        if strict.get(name) is not None and strict[name] < needed:
            raise Refused(
                f"The strict mode of `{source}` sets {name} to {strict[name]}, and a migration needs {needed}.",
                hint="Raise that limit while the migration lasts.",
            )


def _name_is_free_at_home(target: str, aliases: list[Json]) -> Flow[None]:
    """
    Refuse a target on another server if the source's server knows the name too.

    Applications call by either name, so calls for an unrelated collection of that name would be taken for the target's.
    """
    taken = (yield wire.exists(HOME, target))["exists"] or target in [a["alias_name"] for a in aliases]
    if taken:
        raise Refused(
            f"The source's server has a collection or alias `{target}` of its own.", hint="Choose another name."
        )


def _target_is_free(server: str, target: str) -> Flow[bool]:
    """Whether an empty target exists already; refuses one that is not free."""
    aliases = (yield wire.aliases(server))["aliases"]
    real = next((a["collection_name"] for a in aliases if a["alias_name"] == target), None)
    if real is not None:
        raise Refused(
            f"The target's name `{target}` is an alias of `{real}`.", hint="Choose another name, or remove the alias."
        )
    if not (yield wire.exists(server, target))["exists"]:
        return False
    if (yield wire.count(server, target))["count"]:
        raise Refused(
            f"The target `{target}` exists and is not empty, and no migration of yours made it.",
            hint="Choose another name; qferry writes into no collection that it has not begun itself.",
        )
    raise Refused(
        f"The target `{target}` exists already.",
        hint="Delete the empty collection or choose another name; qferry creates the target itself.",
    )


def start(
    connection: Connection,
    source: str,
    target: str,
    *,
    overrides: Mapping[str, Any] | None = None,
    policy: WritePolicy = WritePolicy.BOTH,
    ack_timeout_s: float = 60.0,
    report: Reporter = lambda _: None,
) -> Started:
    """
    Create the target and let every client write to both; returns when all of them do.

    Raises:
        Refused: It cannot be done, or a writer does not acknowledge; run it again to go on.
    """
    with connection.driver(report) as driver:
        found = driver.run(lifecycle.open_migrations())
        mine = [m for m in found if source in m.names and m.target == target]
        migration = lifecycle.one_of(mine, source) if mine else None
        if migration is not None and migration.phase not in (Phase.PREPARING, Phase.ANNOUNCED, Phase.STARTING):
            raise out_of_order(migration.phase, f"qferry start {source} {target}")
        if migration is not None and (dict(migration.overrides), migration.policy) != (dict(overrides or {}), policy):
            raise Refused(
                "An earlier, interrupted start of this migration was given other settings.",
                hint="Repeat them exactly, or give that one up with `qferry abort`.",
            )
        if migration is None:  # otherwise an earlier start was interrupted: go on with it
            planned = driver.run(_plan(connection, source, target, overrides or {}))
            driver.run(lifecycle.ensure_control_collection())
            migration = driver.run(
                lifecycle.record(
                    planned.source, target, connection.target_url, overrides or {}, planned.aliases, policy
                )
            )
        with _claimed(driver, migration, ack_timeout_s) as co:
            writers = driver.run(lifecycle.start(co))
            m = co.migration
            return Started(m.source, m.target, m.id, tuple(w.describe() for w in writers), m.expected_points)


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
    at_once: bool = False,
    by_pages: bool = False,
) -> tuple[T, Migration]:
    """
    Run `flow` as the coordinator.

    With `at_once`, the way back, it asks nothing of the target's nodes; with `by_pages` it moves many points.
    """
    with connection.driver(report) as driver:
        migration = lifecycle.one_of(driver.run(records.migrations()), source)
        with _claimed(driver, migration, at_once=at_once) as co:
            if migration.phase in JOURNALLED and not at_once:
                driver.run(_still_as_planned(migration))
            on_target = not at_once and configuration.is_replicated(migration.overrides)
            with connection.pages(co.migration, report) if by_pages else contextlib.nullcontext() as driver.pages:
                return driver.run(on_cluster(co, flow(co)) if on_target else flow(co)), co.migration


def _done(migration: Migration, detail: str) -> Done:
    return Done(migration.source, migration.target, migration.phase.value, detail)


def backfill(connection: Connection, source: str | None = None, *, report: Reporter = lambda _: None) -> Done:
    """Copy history, then settle the journal; goes on where an interrupted one stopped."""

    def flow(co: Coordinator) -> Flow[tuple[int, int]]:
        if co.migration.phase not in (Phase.COPYING, Phase.COPIED):
            raise out_of_order(co.migration.phase, "qferry backfill")
        copied = yield from copy(co)
        settled = yield from drain_well(co)
        return copied, settled.repaired

    (copied, repaired), migration = _coordinate(connection, source, flow, report, by_pages=True)
    return _done(migration, f"{copied:,} points copied, {repaired:,} of those written meanwhile brought up to date")


def verify(
    connection: Connection, source: str | None = None, *, repair: bool = False, report: Reporter = lambda _: None
) -> Verification:
    """Compare both sides completely; with `repair`, make the target equal where it is not."""

    def flow(co: Coordinator) -> Flow[Verification]:
        if co.migration.phase not in (Phase.COPIED, Phase.SWITCHED):
            raise out_of_order(co.migration.phase, "qferry verify")
        return (yield from verify_flow(co, mend=repair))

    return _coordinate(connection, source, flow, report, by_pages=True)[0]


def switch(
    connection: Connection,
    source: str | None = None,
    *,
    percent: int,
    green_timeout_s: float = 3600.0,
    report: Reporter = lambda _: None,
) -> Done:
    """Send `percent` (0 to 100) of the reads to the target."""
    _, migration = _coordinate(
        connection, source, lambda co: lifecycle.switch(co, percent, green_timeout_s=green_timeout_s), report
    )
    return _done(migration, f"{percent} % of the reads are served by `{migration.target}`")


def rollback(connection: Connection, source: str | None = None, *, report: Reporter = lambda _: None) -> Done:
    """Send all reads back to the source; a coordinator that is at work is stopped."""
    _, migration = _coordinate(connection, source, lifecycle.rollback, report, at_once=True)
    return _done(migration, f"all reads are served by `{migration.source}`; writes still reach both")


def soak(
    connection: Connection, source: str | None = None, *, seconds: float, report: Reporter = lambda _: None
) -> Done:
    """Settle the journal for a while."""
    repaired, migration = _coordinate(connection, source, lambda co: lifecycle.soak(co, seconds), report)
    return _done(migration, f"{repaired:,} points repaired in {seconds:.0f} s")


def abort(connection: Connection, source: str | None = None, *, report: Reporter = lambda _: None) -> Done:
    """Give the migration up: writes on the source alone, target and journal removed."""
    _, migration = _coordinate(connection, source, lifecycle.abort, report, at_once=True)
    return _done(migration, f"`{migration.source}` is as it was; `{migration.target}` is removed")


def finish(
    connection: Connection,
    source: str | None = None,
    *,
    safety_days: float = DEFAULT_SAFETY_DAYS,
    report: Reporter = lambda _: None,
) -> Done:
    """Let the application leave the source. There is no way back but a new migration the other way."""

    def flow(co: Coordinator) -> Flow[None]:
        today: str = yield Today()
        until = datetime.strptime(today, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc) + timedelta(
            days=safety_days
        )
        yield from lifecycle.finish(co, until.strftime("%Y-%m-%dT%H:%M:%SZ"))

    _, migration = _coordinate(connection, source, flow, report)
    return _done(
        migration,
        f"`{migration.target}` is the truth; `{migration.source}` may be deleted from {migration.cleanup_after}",
    )


def cleanup(
    connection: Connection, source: str | None = None, *, confirm: str, report: Reporter = lambda _: None
) -> Done:
    """Delete the source after a final snapshot; `confirm` is its real name, typed by hand."""

    def flow(co: Coordinator) -> Flow[Json]:
        if confirm != co.migration.source:
            raise Refused(
                f"`{confirm}` is not the name of the source, `{co.migration.source}`; nothing was deleted.",
                hint="Type the name of the collection that is to be deleted.",
            )
        return (yield from lifecycle.cleanup(co))

    snapshot, migration = _coordinate(connection, source, flow, report)
    kept = (
        f"; final snapshot {snapshot['name']}, sha256 {snapshot.get('checksum')}, in the server's snapshots folder"
        if snapshot
        else ""
    )
    return _done(migration, f"`{migration.source}` is deleted{kept}")


def status(connection: Connection, source: str | None = None) -> tuple[Status, ...]:
    """Where migrations stand: all of them, or the one of `source`. Changes nothing."""

    def one(m: Migration) -> Flow[Status]:
        writers = yield from records.writers()
        debt = yield from _count_or_none(HOME, m.journal_collection)
        ours = yield from _count_or_none(HOME, m.source)
        theirs = yield from _count_or_none(m.target_url, m.target)
        state = (yield wire.info(m.target_url, m.target))["status"] if theirs is not None else None
        concerned = tuple(w for w in writers if m.id in w.seen) if m.phase not in ENDED else ()
        return Status(m, concerned, debt or 0, ours, theirs, state)

    with connection.driver() as driver:
        driver.run(server_version(HOME))
        found = driver.run(records.migrations())
        chosen = found if source is None else [lifecycle.one_of(found, source)]
        return tuple(driver.run(one(m)) for m in chosen)


def _count_or_none(server: str, collection: str) -> Flow[int | None]:
    try:
        return int((yield wire.count(server, collection))["count"])
    except Rejected as error:
        if error.missing:
            return None
        raise


def history(connection: Connection, source: str | None = None) -> tuple[HistoryLine, ...]:
    """Everything that was done to a migration, oldest first. Changes nothing."""
    with connection.driver() as driver:
        found = driver.run(records.migrations())
        chosen = {m.id for m in found} if source is None else {lifecycle.one_of(found, source).id}
        lines = [e for e in driver.run(records.all_of("event")) if e["migration"] in chosen]
        lines.sort(key=lambda e: (e["migration"], e["epoch"], e["at"]))
        return tuple(HistoryLine(e["at"], e["epoch"], e["who"], e["what"], e["details"]) for e in lines)


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
