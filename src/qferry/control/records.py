"""
Records in the control collection: how they are found, written and claimed.

The control collection has no vectors.  A point's payload is a record (`kind`: migration, writer, event, plan,
comparison, settled).
Nothing here deletes a migration's record: after cleanup it is what leads the old name to the new collection.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from qferry.control import wire
from qferry.errors import Conflict, Rejected
from qferry.flows.effects import Flow, Json, Request
from qferry.protocol.comparison import Comparison
from qferry.protocol.phases import Phase
from qferry.protocol.ranges import Plan
from qferry.protocol.records import CONTROL_COLLECTION, HOME, Migration, Writer

_NAMESPACE = uuid.UUID("7b0ba5c6-52f5-4f3a-9b7e-0d1d9c1d7a40")
# One lease has passed since the control collection was created: every client knows of it by now.
SETTLED_ID = str(uuid.uuid5(_NAMESPACE, "settled"))
_PAGE = 256


def kind(name: str) -> Json:
    """The filter for one kind of record."""
    return {"must": [{"key": "kind", "match": {"value": name}}]}


def migrations_page(offset: str | None = None) -> Request:
    """The request for one page of migration records."""
    return wire.scroll(HOME, CONTROL_COLLECTION, filter=kind("migration"), offset=offset, limit=_PAGE)


def all_of(kind_name: str) -> Flow[list[dict[str, Any]]]:
    """Every record of a kind, as payloads; empty when there is no control collection."""
    return (yield from _matching(kind(kind_name)))


def events(migration_id: str, what: Sequence[str]) -> Flow[list[dict[str, Any]]]:
    """The lines of a migration's history that say one of `what`, as payloads, oldest first."""
    of_it = {"key": "migration", "match": {"value": migration_id}}
    # First, because a server looks at one condition after the other, and nearly every record fails this one.
    says = {"key": "what", "match": {"any": list(what)}}
    found = yield from _matching({"must": [says, of_it, *kind("event")["must"]]})
    return sorted(found, key=lambda event: (event["epoch"], event["at"]))


def _matching(condition: Json) -> Flow[list[dict[str, Any]]]:
    found: list[dict[str, Any]] = []
    offset = None
    while True:
        try:
            page = yield wire.scroll(HOME, CONTROL_COLLECTION, filter=condition, offset=offset, limit=_PAGE)
        except Rejected as error:
            if error.missing:
                return []
            raise
        found += [point["payload"] for point in page["points"]]
        offset = page["next_page_offset"]
        if offset is None:
            return found


def migrations() -> Flow[list[Migration]]:
    """Every migration ever recorded on this server, oldest first."""
    payloads = yield from all_of("migration")
    return sorted((Migration.from_payload(p) for p in payloads), key=lambda m: (m.created_at, m.id))


def writers() -> Flow[list[Writer]]:
    """Every writer that has registered and not said goodbye."""
    payloads = yield from all_of("writer")
    return [Writer.from_payload(p) for p in payloads]


def put(point_id: str, payload: Mapping[str, Any]) -> Request:
    """Write a whole record."""
    return wire.upsert(HOME, CONTROL_COLLECTION, [{"id": point_id, "vector": {}, "payload": dict(payload)}])


def put_writer(writer: Writer) -> Request:
    """Write a writer's record: its registration and its heartbeat are the same request."""
    return put(writer.id, writer.to_payload())


def forget(point_id: str) -> Request:
    """Remove a record."""
    return wire.delete(HOME, CONTROL_COLLECTION, {"points": [point_id]})


def change_migration(
    migration_id: str, claim: str, changes: Mapping[str, Any], *, stepped_back: str | None = None
) -> Request:
    """
    Change a migration's record if `claim` still holds it; whoever has lost the claim changes nothing.

    With `stepped_back` nothing is changed either unless that is still why readers see the source (empty: they do not).

    The server evaluates the filter and writes within the shard's own order, which makes this a compare-and-set on
    every version.
    """
    condition: Json = {"must": [{"has_id": [migration_id]}, {"key": "claim", "match": {"value": claim}}]}
    if stepped_back is not None:
        condition["must"].append(_stepped_back(stepped_back))
    return wire.set_payload_where(HOME, CONTROL_COLLECTION, dict(changes), condition)


def change_limits(migration_id: str, changes: Mapping[str, Any]) -> Request:
    """Change limits in a migration's record, whoever holds the claim: its holder never writes these fields."""
    return wire.set_payload_where(HOME, CONTROL_COLLECTION, dict(changes), wire.points_in([migration_id]))


def step_back(migration: Migration, reason: str) -> Request:
    """
    Send the readers of a migration back to the source, if it is still as it was seen and nobody has done so yet.

    As it was seen: switched, and at that epoch.  Nobody needs the claim for it.  The filter and the write are one step,
    as in `change_migration`; so it has no effect once a coordinator has raised the epoch, be it that it has sealed the
    migration or sent readers to the target anew.
    """
    as_seen = {"phase": Phase.SWITCHED.value, "epoch": migration.epoch}
    seen = [{"key": key, "match": {"value": value}} for key, value in as_seen.items()]
    condition = {"must": [{"has_id": [migration.id]}, *seen, _stepped_back("")]}
    return wire.set_payload_where(HOME, CONTROL_COLLECTION, {"stepped_back": reason}, condition)


def _stepped_back(why: str) -> Json:
    same: Json = {"key": "stepped_back", "match": {"value": why}}
    # Records of an earlier version have no such field.
    return same if why else {"should": [same, {"is_empty": {"key": "stepped_back"}}]}


def read_migration(migration_id: str) -> Flow[Migration]:
    """
    One migration's record, as it is now.

    Raises:
        Conflict: It is gone.
    """
    page = yield wire.scroll(HOME, CONTROL_COLLECTION, filter=wire.points_in([migration_id]), limit=1)
    if not page["points"]:
        raise Conflict(
            "The migration's record is gone: another `qferry start` has taken its place.",
            hint="Look at `qferry status`, then run the command again.",
        )
    return Migration.from_payload(page["points"][0]["payload"])


def forget_migration(migration_id: str, claim: str) -> Request:
    """Remove a migration's record, if `claim` still holds it; empty: if nobody does."""
    condition = {"must": [{"has_id": [migration_id]}, {"key": "claim", "match": {"value": claim}}]}
    return wire.delete(HOME, CONTROL_COLLECTION, {"filter": condition})


def newest_events(
    migration_id: str, epoch: int, skip: int, wanted: int
) -> Flow[tuple[list[Json], tuple[int, int] | None]]:
    """
    History, newest first, as far as it is wanted: what it takes does not depend on how long it is.

    Events bear the epoch they were written at, and nearly every one raises it, so a span of epochs holds about as many.
    No index is needed, which collections of earlier versions would not have.

    Args:
        migration_id: Whose.
        epoch: Where to begin; later events are left out.
        skip: How many of that epoch's own are left out, because they have been shown.
        wanted: How many.

    Returns:
        The events; and the `epoch` and `skip` of what comes after them, or None if that is all.
    """
    found: list[Json] = []
    above, width = epoch + 1, wanted + 1  # one more, to know whether there is more
    while above > 0 and len(found) < wanted + skip + 1:
        lowest = max(0, above - width)
        span: list[Json] = []
        offset = None
        while True:
            page = yield scroll_events(migration_id, lowest, above, offset)
            span += [point["payload"] for point in page["points"]]
            offset = page["next_page_offset"]
            if offset is None or (above - lowest > 1 and len(span) > wanted + skip):
                break
        if offset is not None:  # crowded
            width = (above - lowest) // 2
            continue
        found += sorted(span, key=lambda event: (event["epoch"], event["at"]), reverse=True)
        above, width = lowest, width * 2  # where events are few, they are found in a few steps
    shown = found[skip : skip + wanted]
    if len(found) <= skip + wanted:
        return shown, None
    last = shown[-1]["epoch"]
    gone = sum(event["epoch"] == last for event in shown) + (skip if last == epoch else 0)
    return shown, (last, gone)


def scroll_events(migration_id: str, lowest: int, above: int, offset: str | None) -> Request:
    """The request for events of a migration with an epoch from `lowest` on and below `above`."""
    of_migration = {"key": "migration", "match": {"value": migration_id}}
    # First, because a server looks at one condition after the other, and nearly every record fails this one.
    at_epochs = {"key": "epoch", "range": {"gte": lowest, "lt": above}}
    only = {"must": [at_epochs, of_migration, *kind("event")["must"]]}
    return wire.scroll(HOME, CONTROL_COLLECTION, filter=only, offset=offset, limit=_PAGE)


def read_plan(plan_id: str) -> Flow[Plan | None]:
    """The plan of a copy; None if it is gone."""
    found = yield wire.retrieve(HOME, CONTROL_COLLECTION, [plan_id], vector=False)
    return Plan.from_payload(found[0]["payload"]) if found else None


def step_event(migration: Migration) -> str:
    """The id of the line of history that tells of readers who stepped back: there is one at most for each epoch."""
    return str(uuid.uuid5(_NAMESPACE, f"{migration.id} {migration.epoch} stepped back"))


def read_comparison(m: Migration) -> Flow[Comparison | None]:
    """The last comparison of every point; None if there is none."""
    found = (yield wire.retrieve(HOME, CONTROL_COLLECTION, [m.comparison], vector=False)) if m.comparison else []
    return Comparison.from_payload(found[0]["payload"]) if found else None


def put_event(event_id: str, payload: Mapping[str, Any]) -> Request:
    """Append one line of history."""
    return put(event_id, {"kind": "event", **payload})


def create_small_collection(name: str) -> Request:
    """Create a collection that holds payloads only, for records or a journal."""
    config = {"vectors": {}, "shard_number": 1, "on_disk_payload": False, "strict_mode_config": {"enabled": False}}
    return wire.create_collection(HOME, name, config)
