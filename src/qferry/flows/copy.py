"""
The backfill by streaming: read a page of the source, write it to the target, then save progress.

Plain and unlocked.  A write that overlaps a page is in the journal and is checked after the copy; a write that
starts after a page has landed reaches both sides by itself.
"""

from __future__ import annotations

import orjson

from qferry.control import wire
from qferry.flows.coordinator import Coordinator
from qferry.flows.effects import Flow, Json, Report
from qferry.protocol.phases import Event, Phase
from qferry.protocol.records import HOME

# A page is about this large; servers refuse requests above 32 MB.
PAGE_BYTES = 4_000_000
PAGE_POINTS_MAX = 2_000
_REQUEST_BYTES_MAX = 24_000_000


def copy(co: Coordinator) -> Flow[int]:
    """
    Copy the whole source, from where an earlier coordinator left off; returns the points copied in total.

    Retry: safe.  Progress is saved only after a page was applied; a page that was applied but not saved is copied
    again, which changes nothing that the journal does not put right.
    """
    yield from co.fenced()
    limit = 100
    while co.migration.phase is Phase.COPYING:
        m = co.migration
        page = yield wire.scroll(HOME, m.source, offset=m.copy_cursor, limit=limit, vector=True)
        points = page["points"]
        size = len(orjson.dumps(points))
        if points:
            yield from _write(co, points, size)
        # Order matters: applied first, saved second (docs/guarantee.md).
        copied, cursor = m.copied_points + len(points), page["next_page_offset"]
        yield Report("copy", copied, max(m.expected_points, copied))
        if cursor is None:
            yield from co.move(Event.COPY_DONE, "copied", {"copied_points": copied}, points=copied)
        else:
            yield from co.save({"copied_points": copied, "copy_cursor": cursor, "claim_beat": m.claim_beat + 1})
        limit = max(1, min(PAGE_POINTS_MAX, 2 * limit, limit * PAGE_BYTES // max(size, 1)))
    return co.migration.copied_points


def _write(co: Coordinator, points: list[Json], size: int) -> Flow[None]:
    """Write one page, in halves while it is too large for one request, again while nobody knows its fate."""
    if size > _REQUEST_BYTES_MAX and len(points) > 1:
        half = len(points) // 2
        yield from _write(co, points[:half], size // 2)
        yield from _write(co, points[half:], size // 2)
        return
    whole = [{"id": p["id"], "payload": p.get("payload") or {}, "vector": p.get("vector") or {}} for p in points]
    while not (yield from co.write_target(wire.upsert(co.migration.target_url, co.fence, whole))):
        pass
