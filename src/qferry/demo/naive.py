"""
The recipe of ADR-0040 as its document gives it, for contrast: write to both in turn, scroll and upsert.

Gaps in the document's sketch are filled in its favour: the backfill copies vectors as well, operations other
than upsert are mirrored too, and once dual writing is off the writes go to where the reads are.
"""

from __future__ import annotations

from typing import cast

from qdrant_client import QdrantClient, models

from qferry.demo.fleet import Fleet
from qferry.demo.stage import Stage

BACKFILL_PAGE_POINTS = 100


def migrate_by_the_document(client: QdrantClient, stage: Stage, fleet: Fleet, *, source: str, target: str) -> None:
    """
    Take a collection through the document's four phases while the applications run.

    Args:
        client: A plain client.
        stage: Phases and pauses.
        fleet: The applications; restarted whenever a flag changes, as the document's deployments do.
        source: The legacy collection.
        target: The new one.
    """
    with stage.phase("dual write"):
        client.create_collection(target, vectors_config=client.get_collection(source).config.params.vectors)
        fleet.restart_with({"ENABLE_DUAL_WRITE": "true"})
    with stage.phase("backfill") as note:
        note(f"{backfill(client, source, target):,} points copied")
    with stage.phase("validate") as note:
        note(validate(client, source, target))
    with stage.phase("switch reads"):
        fleet.restart_with({"ENABLE_DUAL_WRITE": "true", "ENABLE_NEW_READS": "true"})
    stage.let_traffic_run("soak on the new collection", fleet)
    with stage.phase("stop dual write"):
        fleet.restart_with({"ENABLE_NEW_READS": "true"})


def backfill(client: QdrantClient, source: str, target: str) -> int:
    """
    The document's backfill: scroll a page, upsert it, until the end.

    Args:
        client: A plain client.
        source: Where to read.
        target: Where to write.

    Returns:
        Points copied.
    """
    copied, offset = 0, None
    while True:
        points, offset = client.scroll(source, limit=BACKFILL_PAGE_POINTS, offset=offset, with_vectors=True)
        if points:
            client.upsert(target, [_as_struct(point) for point in points])
            copied += len(points)
        if offset is None:
            return copied


def validate(client: QdrantClient, source: str, target: str) -> str:
    """
    The document's checks: equal counts, and the same ids for one neutral search vector.

    Args:
        client: A plain client.
        source: The legacy collection.
        target: The new one.

    Returns:
        What the checks say, in words; the document's assertions would stop here, the demo goes on.
    """
    counts = [client.count(collection).count for collection in (source, target)]
    sample = client.scroll(source, limit=1, with_vectors=True)[0]
    neutral = [0.1] * len(_vector(sample[0])) if sample else []
    found = [{hit.id for hit in client.query_points(name, neutral, limit=10).points} for name in (source, target)]
    return f"counts {counts[0]:,} and {counts[1]:,}, sample search {'equal' if found[0] == found[1] else 'different'}"


def _as_struct(point: models.Record) -> models.PointStruct:
    return models.PointStruct(id=point.id, vector=_vector(point), payload=point.payload)


def _vector(point: models.Record) -> list[float]:
    # The demo's collection has one unnamed vector, and it was asked for.
    return cast("list[float]", point.vector)
