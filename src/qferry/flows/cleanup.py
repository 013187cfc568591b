"""
The end of a migration: the source is deleted, and what plain clients find under its name then.

Whatever keeps a source from being deleted is looked for before anything is done, and what may have changed while its
snapshot was taken once more after that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from qferry.control import records, wire
from qferry.errors import DataMismatch, Refused, Rejected
from qferry.flows.coordinator import Coordinator, carries_marker, is_collection
from qferry.flows.effects import Flow, Json, Report, Today
from qferry.flows.lifecycle import dismantle
from qferry.protocol.phases import Event, Phase, Side, out_of_order
from qferry.protocol.records import CONTROL_COLLECTION, HOME, LEASE_MARGIN_S, LEASE_S, Migration

# The line of history that says which snapshot is the last copy of a source.
FINAL_SNAPSHOT = "final snapshot"
# Where the official image of Qdrant keeps snapshots.
SNAPSHOTS_FOLDER = "file:///qdrant/snapshots"
# From this level on telemetry counts the searches of each segment (1.16.3; not up to 3).
_SEARCHES_LEVEL = 4


def cleanup(co: Coordinator, *, keep_alias: bool = False) -> Flow[Json]:
    """
    Delete the source after a final snapshot; returns the snapshot's description, None if there never was one.

    With `keep_alias` the source's name becomes an alias of the target, for clients without qferry; between the two
    nothing has the name for a moment.  Run again with it, this also makes up for an alias that is missing.

    Raises:
        Refused: The safety period is not over, the target is gone, somebody still uses the source, it is not the
            collection this migration began with, or its name cannot be an alias.
        DataMismatch: No snapshot could be taken.
    """
    m = co.migration
    if m.phase is not Phase.FINISHED and not (m.phase is Phase.CLEANED and keep_alias):
        raise out_of_order(m.phase, "qferry cleanup")
    if keep_alias:
        yield from _may_have_alias(m)
    if m.phase is Phase.CLEANED:
        yield from _lead_on(co)
    else:
        yield from _clean_up(co, keep_alias=keep_alias)
    kept = final_snapshots(m, (yield from records.all_of("event")))
    return kept[-1] if kept else None


def _clean_up(co: Coordinator, *, keep_alias: bool) -> Flow[None]:
    m = co.migration
    now: str = yield Today()
    if m.cleanup_after is not None and now < m.cleanup_after:
        raise Refused(
            f"The safety period runs until {m.cleanup_after}.",
            hint="Run `qferry cleanup` after that; nothing was deleted.",
        )
    # Where both are gone there is nothing to lose, and this is the way to be done with it.
    present = yield from is_collection(HOME, m.source)
    if present:
        yield from _may_go(m)
    yield from co.roll_call("cleanup asked for")
    searches = yield from _searches(m.source)
    yield from co.outlast_observers()
    if (yield from _searches(m.source)) > searches:
        raise Refused(
            f"`{m.source}` was searched within the last {LEASE_S + LEASE_MARGIN_S:.0f} s, by a client without qferry.",
            hint=f"Let it call `{m.target}`, then run `qferry cleanup` again; nothing was deleted.",
        )
    snapshot = (yield from _delete(co)) if present else None
    refused = None
    if keep_alias:
        try:
            yield from _lead_on(co)
        except Refused as error:  # the rest is done all the same; nobody would do it later
            refused = error
    # The target's marker stays: it proves what has the source's points by now, and is handed on with them.
    yield from dismantle(m, [Side.SOURCE])
    yield from co.move(Event.SOURCE_DELETED, "source deleted", snapshot=snapshot)
    if refused is not None:
        raise refused


def _delete(co: Coordinator) -> Flow[Json]:
    m = co.migration
    yield Report("snapshot", text=f"taking a final snapshot of `{m.source}`")
    snapshot: Json = yield wire.create_snapshot(HOME, m.source)
    if not snapshot or not snapshot.get("name"):
        raise DataMismatch(f"The final snapshot of `{m.source}` could not be taken, so it was not deleted.")
    yield from co.note(FINAL_SNAPSHOT, **snapshot)
    yield from co.still_mine()
    yield from _may_go(m)  # once more: it may have taken hours
    handed_on = yield from _earlier_markers(m)
    if handed_on and m.target_url == HOME:
        yield wire.change_aliases(HOME, drop=handed_on, create=dict.fromkeys(handed_on, m.target))
    yield wire.delete_collection(HOME, m.source)
    return snapshot


def _may_go(m: Migration) -> Flow[None]:
    """Refuse to delete a source that is all that is left, that has an alias, or that is not this migration's."""
    if not (yield from target_is_kept(m)):
        raise Refused(
            f"`{m.target}` is gone, or another collection of its name: `{m.source}` may be all that is left.",
            hint="Nothing was deleted. Find out who has done that; delete the source by hand if you are sure.",
        )
    listed = yield wire.aliases(HOME)
    aliases = [a["alias_name"] for a in listed["aliases"] if a["collection_name"] == m.source]
    ours = {m.marker(Side.SOURCE), *(yield from _earlier_markers(m))}
    foreign = [name for name in aliases if name not in ours]
    if foreign:
        raise Refused(
            f"The alias `{foreign[0]}` still points at `{m.source}`.",
            hint=f"Point it at `{m.target}`, or remove it, then run `qferry cleanup` again.",
        )
    if m.marker(Side.SOURCE) not in aliases:
        raise Refused(
            f"`{m.source}` is not the collection this migration began with: it lacks its marker.",
            hint="Somebody has made it anew; delete it by hand if you are sure.",
        )


def _earlier_markers(m: Migration) -> Flow[list[str]]:
    """The markers that earlier migrations have left on the source, which has their points."""
    found = yield from records.migrations()
    earlier = {other.marker(Side.TARGET) for other in found if other.phase is Phase.CLEANED}
    listed = yield wire.aliases(HOME)
    mine = [a["alias_name"] for a in listed["aliases"] if a["collection_name"] == m.source]
    return [name for name in mine if name in earlier]


def _may_have_alias(m: Migration) -> Flow[None]:
    """Refuse an alias that could not lead from the source's name to where its points are."""
    nothing_done = "Nothing was changed. Run `qferry cleanup` without --keep-alias"
    if m.target_url != HOME:
        raise Refused(
            f"`{m.target}` is on another server, and an alias leads to a collection of its own server only.",
            hint=f"{nothing_done}; clients with qferry find the target by the old name all the same.",
        )
    if m.phase is Phase.CLEANED and not (yield from is_collection(HOME, m.target)):
        raise Refused(f"`{m.target}` is gone, so there is nothing to lead to.", hint="Nothing was changed.")


def _lead_on(co: Coordinator) -> Flow[None]:
    """
    Make the source's name an alias of the target, unless it is.

    Raises:
        Refused: Somebody has taken the name since the source was deleted.
    """
    m = co.migration
    listed = yield wire.aliases(HOME)
    leads_to = next((a["collection_name"] for a in listed["aliases"] if a["alias_name"] == m.source), None)
    if leads_to == m.target:
        return
    taken = f"an alias `{m.source}` of `{leads_to}`" if leads_to else f"a collection `{m.source}`"
    # A server moves an alias that exists without a word.
    if leads_to is None and not (yield from is_collection(HOME, m.source)):
        try:
            yield wire.change_aliases(HOME, create={m.source: m.target})
        except Rejected:
            if not (yield from is_collection(HOME, m.source)):
                raise
        else:
            yield from co.note("alias kept", alias=m.source, collection=m.target)
            return
    raise Refused(
        f"The source is deleted, but somebody has made {taken} since, so the name cannot lead to `{m.target}`.",
        hint="Find out who has done that. If it may go, remove it and run `qferry cleanup --keep-alias` again.",
    )


def _searches(collection: str) -> Flow[int]:
    """
    How many searches a collection has answered, as far as its server tells; 0 if it does not, or not to this key.

    Only searches are counted: who scrolls or retrieves by id is not seen.
    """
    try:
        told = yield wire.telemetry(HOME, details_level=_SEARCHES_LEVEL)
    except Rejected:
        return 0
    found = (told.get("collections") or {}).get("collections") or []
    segments = [
        segment
        for one in found
        if one.get("id") == collection
        for shard in one.get("shards") or ()
        for segment in (shard.get("local") or {}).get("segments") or ()
    ]
    return sum(
        kind["count"]
        for segment in segments
        for index in segment.get("vector_index_searches") or ()
        for kind in index.values()
        if isinstance(kind, dict) and "count" in kind
    )


def final_snapshots(m: Migration, events: Sequence[Mapping[str, Any]]) -> list[Json]:
    """The final snapshots of a source that its history names, oldest first: `{"name": ..., "size": ..., ...}`."""
    found = [e for e in events if e["migration"] == m.id and e["what"] == FINAL_SNAPSHOT]
    return [e["details"] for e in sorted(found, key=lambda e: (e["epoch"], e["at"]))]


def restoring(m: Migration, snapshot: Json) -> str:
    """
    The request that makes a collection of the source's final snapshot, to be sent to the source's server.

    It has a name of its own: through an alias of the old name the request would replace the points of the target.
    The folder is that of the official image; it is the server's setting `storage.snapshots_path`.
    """
    body = {
        "location": f"{SNAPSHOTS_FOLDER}/{quote(m.source)}/{quote(snapshot['name'])}",
        "checksum": snapshot.get("checksum"),
        "priority": "snapshot",
    }
    path = wire.collection_path(f"{m.source}-restored")
    return f"PUT {path}/snapshots/recover?wait=true {json.dumps(body, ensure_ascii=False)}"


def target_is_kept(m: Migration) -> Flow[bool]:
    """Whether what the application went to is still there: the target, or what a later migration has made of it."""
    if (yield from carries_marker(m, Side.TARGET)):
        return True
    of_it = {"must": [{"key": "source", "match": {"value": m.target}}]}
    try:
        # Records are next to their source, so one that leads on from the target is on the target's server.
        page = yield wire.scroll(m.target_url, CONTROL_COLLECTION, filter=of_it)
    except Rejected as error:
        if not error.missing:
            raise
        return False
    found = [Migration.from_payload(point["payload"]) for point in page["points"]]
    return any(other.phase is Phase.CLEANED and other.created_at > m.created_at for other in found)
