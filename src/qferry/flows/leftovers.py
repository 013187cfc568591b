"""
What migrations that are over have left on their servers, and taking it away.

Ours is what a record, or a line of history, on the source's server says is ours.  A name that only looks like ours may
be that of a migration whose records are on another server, so it is listed, and left alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from qferry.control import records, wire
from qferry.errors import FerryError, Refused, Rejected, RemoteFailure
from qferry.flows.cleanup import final_snapshots
from qferry.flows.coordinator import is_collection
from qferry.flows.effects import Flow, Json, NewId, Report, Request, Today
from qferry.protocol.phases import ENDED, Phase, Side
from qferry.protocol.records import CONTROL_COLLECTION, HOME, Migration

JOURNAL, COLLECTION, ALIAS, SNAPSHOT, FINAL, SERVER = (
    "journal", "collection", "alias", "snapshot", "final snapshot", "server",
)  # fmt: skip
_REMOVED = "final snapshot removed"
_OPENED = "a collection is made to reach a final snapshot"
# Nothing can be written to a collection that is made for a moment: no batch is small enough (1.16.3).
_CLOSED = {"vectors": {}, "strict_mode_config": {"enabled": True, "upsert_max_batchsize": 0}}


@dataclass(frozen=True)
class Leftover:
    """
    One thing that was left behind.

    Args:
        kind: `journal`, `collection`, `alias`, `snapshot`, `final snapshot`, or `server`: one that was not looked at.
        server: Where it is; empty: on the source's server.
        name: Its name there.
        collection: Whose snapshot it is, or what the alias points at; empty for a collection.
        source: The migration it is of; empty where nobody knows.
        target: Where that led.
        migration: Its id.
        size_bytes: How large it is; None where the server does not say.
        points: How many points a collection has.
        why: Why it may go.
        kept: What keeps it from going; empty: nothing does.
        removed: Whether it has been taken away.
    """

    kind: str
    server: str
    name: str
    collection: str = ""
    source: str = ""
    target: str = ""
    migration: str = ""
    size_bytes: int | None = None
    points: int | None = None
    why: str = ""
    kept: str = ""
    removed: bool = False


@dataclass(frozen=True)
class Listing:
    """The names on a server."""

    server: str
    collections: Sequence[str]
    aliases: Mapping[str, str]  # alias -> collection


@dataclass
class _Search:
    """Everything that is known while leftovers are looked for."""

    migrations: Sequence[Migration]
    events: Sequence[Mapping[str, Any]]
    listings: dict[str, Listing] = field(default_factory=dict)

    @property
    def live(self) -> list[Migration]:
        return [m for m in self.migrations if m.phase not in ENDED]

    @property
    def vanished(self) -> list[Migration]:
        """Those that history names and no record does any more."""
        known = {m.id for m in self.migrations}
        ids = dict.fromkeys(e["migration"] for e in self.events if e["migration"] not in known)
        return [Migration(i, "", "", (), phase=Phase.ABORTED) for i in ids]


def find(source: str | None = None) -> Flow[list[Leftover]]:
    """
    What migrations that are over have left: all of them, or those of `source`.  Changes nothing.

    Raises:
        Refused: There is none of `source` that is over.
    """
    # History first: a migration that starts meanwhile has its record before its first line, so it is not taken for one
    # that has vanished.
    events = yield from records.all_of("event")
    search = _Search((yield from records.migrations()), events)
    over = [m for m in search.migrations if m.phase in ENDED and (source is None or source in m.names)]
    if source is not None and not over:
        raise Refused(
            f"There is no migration of `{source}` on this server that is over, so nothing is left of one.",
            hint="`qferry status` lists them; what a live one has, it needs.",
        )
    if source is None:
        over += search.vanished
    found: list[Leftover] = []
    for server in dict.fromkeys((HOME, *(m.target_url for m in over))):
        try:
            search.listings[server] = yield from listing(server)
        except RemoteFailure as error:
            if server == HOME:
                raise
            found.append(Leftover(SERVER, server, server, kept=f"It was not looked at. {error.message}"))
    in_use = {m.prefix for m in search.live}
    for m in over:
        if m.prefix in in_use:
            continue
        for server in dict.fromkeys((HOME, m.target_url)):
            if server in search.listings:
                found += yield from left_by(m, search.listings[server], search.events)
        if m.source:
            found += yield from snapshots_left(m, search.events)
            found += yield from _finals(m, search)
    if source is None:
        for listed in search.listings.values():
            found += _strangers(listed, [*search.migrations, *search.vanished])
    return found


def listing(server: str) -> Flow[Listing]:
    """The names on a server."""
    collections = sorted(c["name"] for c in (yield wire.collections(server))["collections"])
    listed = yield wire.aliases(server)
    return Listing(server, collections, {a["alias_name"]: a["collection_name"] for a in listed["aliases"]})


def left_by(m: Migration, listed: Listing, events: Sequence[Mapping[str, Any]]) -> Flow[list[Leftover]]:
    """Collections and aliases of a migration that is over."""
    why = f"its migration is {m.phase.value}" if m.source else "history names its migration, whose record is gone"
    of: dict[str, Any] = {
        "server": listed.server,
        "source": m.source,
        "target": m.target,
        "migration": m.id,
        "why": why,
    }
    found = []
    for name in listed.collections:
        if name == m.journal_collection or name.startswith(m.fence_prefix):
            kind = JOURNAL if name == m.journal_collection else COLLECTION
            found.append(Leftover(kind, name=name, points=(yield from _points(listed.server, name)), **of))
    for name, collection in sorted(listed.aliases.items()):
        if name == _hatch(m):
            points = yield from _points(listed.server, collection)
            kept = f"It has {points:,} points by now; only the alias `{name}` is left over." if points else ""
            found.append(Leftover(COLLECTION, name=collection, points=points, kept=kept, **of))
        elif name == m.marker(Side.TARGET) and m.phase is Phase.CLEANED:
            pass  # it proves which collection has the source's points
        elif name in (m.marker(Side.SOURCE), m.marker(Side.TARGET)) or name.startswith((m.fence_prefix, m.mend_prefix)):
            found.append(Leftover(ALIAS, name=name, collection=collection, **of))
    if listed.server == HOME and m.source in listed.collections and _hatch(m) not in listed.aliases:
        mine = [e for e in events if e["migration"] == m.id]
        removed = {e["details"]["name"] for e in mine if e["what"] == _REMOVED}
        opened = {e["details"]["name"] for e in mine if e["what"] == _OPENED}
        # Whoever made it died before it was marked.
        if opened - removed and (yield from _is_closed(m.source)):
            found.append(Leftover(COLLECTION, name=m.source, points=0, **of))
    return found


def _is_closed(collection: str) -> Flow[bool]:
    """Whether a collection is as those are that are made for a moment: configured like that, and empty."""
    config = (yield wire.info(HOME, collection))["config"]
    strict = {name: value for name, value in (config.get("strict_mode_config") or {}).items() if value is not None}
    alike = strict == _CLOSED["strict_mode_config"] and not config["params"].get("vectors")
    return alike and (yield from _points(HOME, collection)) == 0


def _points(server: str, collection: str) -> Flow[int | None]:
    try:
        return int((yield wire.count(server, collection))["count"])
    except Rejected:  # a snapshot's recovery that went wrong may have left no shard to ask
        return None


def snapshots_left(m: Migration, events: Sequence[Mapping[str, Any]]) -> Flow[list[Leftover]]:
    """Snapshots of the source that an interrupted backfill has left, or may have."""
    named = [m.archive["name"]] if "name" in m.archive else []
    mine = [e for e in events if e["migration"] == m.id]
    perhaps = [name for e in mine for name in (e["details"] or {}).get("snapshots", ()) if name not in named]
    if not named and not perhaps:
        return []
    sizes = {snapshot["name"]: snapshot.get("size") for snapshot in (yield from _kept(HOME, m.source))}
    return [
        Leftover(
            SNAPSHOT,
            HOME,
            name,
            m.source,
            m.source,
            m.target,
            m.id,
            size_bytes=sizes[name],
            why="an interrupted backfill has left it",
            kept="" if name in named else "It may be somebody's backup: no record proves whose it is.",
        )
        for name in dict.fromkeys([*named, *perhaps])
        if name in sizes
    ]


def _kept(server: str, collection: str) -> Flow[list[Json]]:
    """The snapshots of a collection; none if it is gone."""
    try:
        kept: list[Json] = yield wire.snapshots(server, collection)
    except Rejected as error:
        if not error.missing:
            raise
        return []
    return kept


def _finals(m: Migration, search: _Search) -> Flow[list[Leftover]]:
    """The final snapshots of a source, which are its last copies."""
    gone = {e["details"]["name"] for e in search.events if e["migration"] == m.id and e["what"] == _REMOVED}
    taken = {s["name"]: s for s in final_snapshots(m, search.events) if s["name"] not in gone}
    if not taken:
        return []
    home = search.listings[HOME]
    there = {}
    if m.source in home.collections:
        there = {s["name"]: s for s in (yield from _kept(HOME, m.source))}
        taken = {name: s for name, s in taken.items() if name in there}
    kept = _what_keeps_finals(m, search)
    return [
        Leftover(
            FINAL,
            HOME,
            name,
            m.source,
            m.source,
            m.target,
            m.id,
            size_bytes=snapshot.get("size"),
            why=f"`{m.target}` took its source's place; but it is the last copy of that",
            kept=kept
            or (
                "A snapshot of that name is there, but it is another one."
                if name in there and there[name].get("checksum") != snapshot.get("checksum")
                else ""
            ),
        )
        for name, snapshot in taken.items()
    ]


def _what_keeps_finals(m: Migration, search: _Search) -> str:
    home = search.listings[HOME]
    user = next((other for other in search.live if m.source in other.names), None)
    if user is not None:
        return f"`{user.source}` → `{user.target}` is {user.phase.value} and has that name in hand."
    theirs = search.listings.get(m.target_url)
    if theirs is None or m.marker(Side.TARGET) not in theirs.aliases:
        if theirs is not None and m.target in theirs.collections:
            return (
                f"`{m.target}` lacks the alias `{m.marker(Side.TARGET)}`: it was made anew since, or cleaned up by a "
                "version of qferry that did not leave one. This may be the last copy of everything; if you are sure "
                "that it is not, remove the file from the server's snapshots folder by hand."
            )
        return f"`{m.target}` is gone, or its server does not answer: this may be the last copy of everything."
    if m.source in home.aliases:
        return (
            f"`{m.source}` is an alias now, and a server finds snapshots by a collection's name. Remove the file from "
            "its snapshots folder by hand, or the alias first."
        )
    return ""


def _strangers(listed: Listing, known: Collection[Migration]) -> list[Leftover]:
    """Names that look like ours, of migrations that nobody here knows."""
    prefixes = tuple(prefix for m in known for prefix in (m.prefix, m.journal_collection))
    kept = "No record here knows it: its migration may be one whose records are on another server."
    names = {**dict.fromkeys(listed.collections, ""), **listed.aliases}
    return [
        Leftover(ALIAS if collection else COLLECTION, listed.server, name, collection, kept=kept)
        for name, collection in sorted(names.items())
        if name.startswith(f"{CONTROL_COLLECTION}_") and not name.startswith(prefixes)
    ]


def remove(left: Leftover, who: str) -> Flow[None]:
    """
    Take something away that nothing keeps; it may be gone already.

    Raises:
        Refused: The name under which a final snapshot is reached was taken a moment ago.
    """
    yield Report("reclaim", text=f"removing the {left.kind} `{left.name}`")
    match left.kind:
        case "alias":
            yield from _tolerant(wire.change_aliases(left.server, drop=[left.name]))
        case "snapshot":
            yield from _tolerant(wire.delete_snapshot(left.server, left.collection, left.name))
        case "final snapshot":
            yield from _remove_final(left, who)
        case _:
            # Those of a name of ours are what was carried to it; those of the source's name are not asked for here.
            if left.name.startswith(f"{CONTROL_COLLECTION}_"):
                for snapshot in (yield from _kept(left.server, left.name)):
                    yield from _tolerant(wire.delete_snapshot(left.server, left.name, snapshot["name"]))
                yield from _tolerant(wire.delete_collection(left.server, left.name))
            else:
                yield from _close(left)


def _remove_final(left: Leftover, who: str) -> Flow[None]:
    """
    Remove a final snapshot, which a server finds only through a collection of the source's name.

    Where there is none, an empty one is made for that moment; clients without qferry may see it, and cannot write.
    """
    made = False
    if not (yield from is_collection(HOME, left.collection)):
        yield from _note(left, who, _OPENED)
        try:
            yield wire.create_collection(HOME, left.collection, _CLOSED)
        except Rejected as error:
            raise Refused(
                f"`{left.collection}` was given to somebody a moment ago. {error.message}",
                hint="Look again with `qferry cleanup --reclaim`; the final snapshot is still there.",
            ) from error
        made = True
        yield wire.change_aliases(HOME, create={_hatch_of(left): left.collection})
    try:
        yield from _tolerant(wire.delete_snapshot(HOME, left.collection, left.name))
    except FerryError:
        if made:
            with suppress(FerryError):  # it is found by its mark the next time
                yield from _close(left)
        raise
    if made:
        yield from _close(left)
    yield from _note(left, who, _REMOVED)


def _note(left: Leftover, who: str, what: str) -> Flow[None]:
    event_id: str = yield NewId()
    at: str = yield Today()
    m = yield from records.read_migration(left.migration)
    line = {"migration": m.id, "at": at, "who": who, "epoch": m.epoch, "what": what, "details": {"name": left.name}}
    yield records.put_event(event_id, line)


def _close(left: Leftover) -> Flow[None]:
    """Remove a collection that was made for a moment, unless it is another one by now, or has been written to."""
    mark, collection = _hatch_of(left), left.source
    marked = {"alias_name": mark, "collection_name": collection} in (yield wire.aliases(HOME))["aliases"]
    if not marked:  # it was made, and never marked; or somebody has made another one
        if not (yield from is_collection(HOME, collection)) or not (yield from _is_closed(collection)):
            return
        yield wire.change_aliases(HOME, create={mark: collection})
    if (yield from _points(HOME, collection)) == 0:
        yield from _tolerant(wire.delete_collection(HOME, collection))


def _hatch_of(left: Leftover) -> str:
    return _hatch(Migration(left.migration, left.source, left.target, ()))


def _hatch(m: Migration) -> str:
    """The alias that marks a collection as made for a moment, to reach a snapshot."""
    return f"{m.prefix}hatch"


def _tolerant(request: Request) -> Flow[None]:
    try:
        yield request
    except Rejected as error:
        if not error.missing:
            raise
