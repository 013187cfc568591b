"""Tests of `upload_points` and `upload_collection`: pieces that follow the routing of their moment."""

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from staging import Caller, Migrating, Opener, Pairing, contents, outcome_of, point, vector

from qferry import FerryClient, commands
from qferry.connection import Connection

STATES: dict[str, Callable[[Migrating], Any]] = {
    "no-migration": lambda _: None,
    "dual-before-backfill": Migrating.start,
    "dual-after-backfill": Migrating.backfill,
    "target-only": Migrating.finish,
}
# asyncio's uploads are carried out by a blocking client of their own; one pairing shows that.
PAIRINGS = [Pairing(False, False), Pairing(False, True), Pairing(True, False)]
COUNT = 11
VECTORS = {
    "a": models.VectorParams(size=8, distance=models.Distance.COSINE),
    "b": models.VectorParams(size=8, distance=models.Distance.DOT),
}
ARRAYS = {name: np.array([vector((name, k)) for k in range(COUNT)], dtype=np.float32) for name in VECTORS}


def structs(first: int) -> Iterator[models.PointStruct]:
    """Give points one by one, as an application does that reads them from a file."""
    for k in range(COUNT):
        both = {name: rows[k].tolist() for name, rows in ARRAYS.items()}
        yield models.PointStruct(id=first + k, vector=both, payload={"tag": first, "k": k})


def uploads(first: int) -> list[tuple[str, dict[str, Any]]]:
    """Return uploads of every form; those without ids can be told by their payload."""
    tags = [{"tag": first + 1000, "k": k} for k in range(COUNT)]
    rows = [{"a": vector((first, k))} for k in range(COUNT)]
    ids = itertools.count(first + 100)
    return [
        ("upload_points", {"points": structs(first), "batch_size": 4, "wait": True}),
        ("upload_points", {"points": list(structs(first + 20)), "wait": True, "max_retries": 1}),
        ("upload_collection", {"vectors": ARRAYS, "ids": ids, "batch_size": 3, "wait": True}),
        ("upload_collection", {"vectors": ARRAYS, "payload": tags, "ids": None, "wait": True}),
        ("upload_collection", {"vectors": iter(rows), "payload": iter(tags), "ids": range(first + 200, first + 211)}),
    ]


def told(plain: QdrantClient, collection: str) -> list[str]:
    """Return what a collection holds, with ids that somebody made up left out."""
    return sorted(
        json.dumps([point_id if isinstance(point_id, int) else "made up", payload, vectors], sort_keys=True)
        for point_id, (payload, vectors) in contents(plain, collection).items()
    )


@pytest.mark.parametrize("state", STATES)
def test_upload_leaves_what_it_leaves_without_qferry(
    open_ferry: Callable[..., Caller],
    opener: Opener,
    plain: QdrantClient,
    connection: Connection,
    collection_name: str,
    state: str,
) -> None:
    """In every state every form of an upload arrives, on every side that is written."""
    source, twin = collection_name, f"{collection_name}-twin"
    for name in (source, twin):
        plain.create_collection(name, VECTORS)
    migrating = Migrating(connection, plain, source, f"{source}-target")
    ferry = [open_ferry(pairing) for pairing in PAIRINGS]
    others = [opener.plain(pairing) for pairing in PAIRINGS]
    STATES[state](migrating)
    for index, (ours, theirs) in enumerate(zip(ferry, others, strict=True)):
        for caller, name in ((ours, source), (theirs, twin)):
            for method, arguments in uploads(10_000 * (index + 1)):
                caller.call(method, name, **arguments)
    for caller in (*ferry, *others):
        caller.call("close")  # what is left in a journal becomes durable
    wait_for_pending_writes(plain, source, twin)
    sides = {"no-migration": [source], "target-only": [migrating.target]}.get(state, [source, migrating.target])
    expected = told(plain, twin)
    assert len(expected) == 5 * COUNT * len(PAIRINGS)
    for side in sides:
        assert told(plain, side) == expected
    if state.startswith("dual"):
        assert migrating.journal() == set(contents(plain, source))


def wait_for_pending_writes(plain: QdrantClient, *collections: str) -> None:
    """Let writes land that were acknowledged only: a collection applies its writes in order."""
    for name in collections:
        plain.delete(name, [0], wait=True)


def test_upload_of_bare_vectors_reaches_both_sides(migrating: Migrating, ferry: FerryClient) -> None:
    """A matrix without names, ids as a generator."""
    migrating.backfill()
    matrix = np.array([vector(k) for k in range(5)])
    ferry.upload_collection(migrating.source, vectors=matrix, ids=(k for k in range(500, 505)), wait=True)
    source, target = migrating.sides()
    assert set(range(500, 505)) <= source.keys()
    assert source == target


def test_upload_goes_on_through_a_whole_migration(migrating: Migrating, ferry: FerryClient) -> None:
    """Its pieces go where the routing of their moment says; none is lost on the way."""
    connection, source = migrating.connection, migrating.source

    def points() -> Iterator[models.PointStruct]:
        # The stream itself moves the migration on.  It may take seconds for a piece, as one does that embeds texts.
        yield from map(point, range(1000, 1010))
        migrating.start()
        yield from map(point, range(1010, 1020))
        commands.backfill(connection, source)
        yield from map(point, range(1020, 1030))
        assert migrating.verify().passed
        commands.switch(connection, source, percent=100)
        yield from map(point, range(1030, 1040))
        commands.finish(connection, source)
        yield from map(point, range(1040, 1050))

    ferry.upload_points(source, points(), batch_size=2, wait=True)
    _, target = migrating.sides()
    assert set(range(1000, 1050)) <= target.keys()


UNEVEN: dict[str, Callable[[], dict[str, Any]]] = {
    "payload-ends-within-a-batch": lambda: {"payload": [{"k": 0}] * 5},
    "payload-ends-with-a-batch": lambda: {"payload": iter([{"k": 0}] * 8)},
    "payload-goes-on": lambda: {"payload": [{"k": 0}] * 20},
    "ids-end-within-a-batch": lambda: {"ids": iter(range(1000, 1005))},
    "ids-end-with-a-batch": lambda: {"ids": range(1000, 1008)},
    "ids-go-on": lambda: {"ids": itertools.count(1000)},
}


@pytest.mark.parametrize("uneven", UNEVEN)
@pytest.mark.parametrize("state", ["no-migration", "dual-after-backfill"])
def test_upload_of_uneven_iterables_ends_as_it_does_without_qferry(
    migrating: Migrating, ferry: FerryClient, plain: QdrantClient, state: str, uneven: str
) -> None:
    """Whatever upstream makes of iterables of unequal lengths, qferry makes the same of them."""
    STATES[state](migrating)
    twin = f"{migrating.source}-twin"
    plain.create_collection(twin, models.VectorParams(size=8, distance=models.Distance.COSINE))
    plain.upsert(twin, [point(i, group=i % 6) for i in range(60)])
    vectors = [vector(k) for k in range(COUNT)]
    ended = []
    for client, name in ((ferry, migrating.source), (plain, twin)):
        arguments = {"ids": range(1000, 1000 + COUNT), **UNEVEN[uneven]()}
        ended.append(
            outcome_of(
                lambda: client.upload_collection(name, vectors, **arguments, batch_size=4, wait=True, max_retries=0)  # noqa: B023  called at once
            )
        )
    assert ended[0] == ended[1]
    assert contents(plain, migrating.source) == contents(plain, twin)


@pytest.mark.parametrize("state", STATES)
def test_upload_that_the_server_refuses_raises_what_it_raises_without_qferry(
    migrating: Migrating, ferry: FerryClient, plain: QdrantClient, state: str
) -> None:
    """A vector of the wrong size is the caller's mistake, whoever sends it."""
    STATES[state](migrating)
    wrong = [models.PointStruct(id=1, vector=[1.0])]
    outcome = outcome_of(lambda: ferry.upload_points(migrating.source, wrong, wait=True, max_retries=0))
    expected = outcome_of(lambda: plain.upload_points(migrating.source, wrong, wait=True, max_retries=0))
    assert outcome == expected == "UnexpectedResponse 400"


def test_upload_to_nowhere_raises_what_it_raises_without_qferry(ferry: FerryClient, plain: QdrantClient) -> None:
    """A collection that does not exist is not qferry's to explain."""
    outcomes = {outcome_of(lambda c=c: c.upload_points("nowhere", [point(1)], max_retries=0)) for c in (ferry, plain)}
    assert outcomes == {"UnexpectedResponse 404"}
