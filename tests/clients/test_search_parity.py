"""Search parity on a real server: what is compared, what is found, and what follows for the switch."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from qdrant_client import QdrantClient, models
from staging import DIMENSIONS, Migrating, ask, point, vector

from qferry import FerryClient, commands
from qferry.connection import Connection
from qferry.errors import Refused
from qferry.flows.coordinator import Coordinator
from qferry.flows.effects import Flow
from qferry.flows.parity import Parity, parity
from qferry.flows.verify import SEARCHES, Check, Verification
from qferry.protocol.phases import Side
from qferry.protocol.records import Strategy

POINTS = 3000
WIDE = 32
# Small segments are indexed too, and every search uses the index.
EAGER = {"optimizers_config": {"indexing_threshold": 1, "default_segment_number": 1}}
GOOD = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10}
BAD = {"m": 2, "ef_construct": 4, "full_scan_threshold": 10}


def searches(found: Verification) -> Check:
    """Return the check of the searches."""
    return next(check for check in found.checks if check.name == SEARCHES)


def evidence(m: Migrating) -> Any:
    """Return what is recorded of it."""
    return commands.status(m.connection, m.source)[0].migration.parity


def compared(m: Migrating, queries: int = 100) -> Parity:
    """Compare searches alone, whatever the points are like."""

    def flow(co: Coordinator) -> Flow[Parity]:
        return (yield from parity(co, queries, 60.0))

    return commands._coordinate(m.connection, m.source, flow, lambda _: None)[0]


@pytest.fixture
def of(plain: QdrantClient, connection: Connection, collection_name: str, litter: list[Migrating]) -> Iterator[Any]:
    """Give a function that makes a collection and copies it, with overrides."""

    def make(config: dict[str, Any], points: list[dict[str, Any]], **overrides: Any) -> Migrating:
        ask(plain, "PUT", f"/collections/{collection_name}", config)
        for start in range(0, len(points), 1000):
            body = {"points": points[start : start + 1000]}
            ask(plain, "PUT", f"/collections/{collection_name}/points?wait=true", body)
        m = Migrating(connection, plain, collection_name, f"{collection_name}-target")
        litter.append(m)
        commands.start(connection, m.source, m.target, overrides=overrides, strategy=Strategy.STREAM)
        commands.backfill(connection, m.source)
        return m

    yield make
    plain.delete_collection(collection_name)


def wide(seed: int, hnsw: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a collection's configuration and points for which an index matters."""
    chance = random.Random(seed)
    points = [{"id": i, "vector": [chance.gauss(0, 1) for _ in range(WIDE)], "payload": {}} for i in range(POINTS)]
    return {"vectors": {"size": WIDE, "distance": "Euclid"}, "hnsw_config": hnsw, **EAGER}, points


def every_kind(points: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a collection with vectors of every kind, not all of them on every point."""
    chance = random.Random(points)

    def dense(n: int) -> list[float]:
        return [chance.uniform(-1, 1) for _ in range(n)]

    def sparse() -> dict[str, Any]:
        return {"indices": sorted(chance.sample(range(30), 4)), "values": dense(4)}

    config = {
        "vectors": {
            "cosine": {"size": 8, "distance": "Cosine"},
            "small": {"size": 8, "distance": "Manhattan", "datatype": "uint8"},
            "many": {"size": 4, "distance": "Dot", "multivector_config": {"comparator": "max_sim"}},
            "on none": {"size": 2, "distance": "Dot"},
        },
        "sparse_vectors": {"words": {}, "idf": {"modifier": "idf"}, "coarse": {"index": {"datatype": "uint8"}}},
    }
    found = []
    for i in range(points):
        held: dict[str, Any] = {"cosine": dense(8), "words": sparse(), "idf": sparse(), "coarse": sparse()}
        if i % 3 == 0:
            held |= {"many": [dense(4), dense(4)], "small": [chance.randrange(256) for _ in range(8)]}
        found.append({"id": i, "vector": held, "payload": {"g": i % 7, "deep": {"tags": [f"t{i % 3}", "all"]}}})
    return config, found


def test_every_kind_of_vector_is_searched_with_and_without_filters(of: Any) -> None:
    """The figures of each are recorded, and the detail names what was not searched, and why."""
    m = of(*every_kind(400))
    for name, schema in (("g", "integer"), ("deep.tags", "keyword"), ("unused", "bool")):
        for side in (m.source, m.target):
            m.plain.create_payload_index(side, name, schema, wait=True)
    found = commands.verify(m.connection, m.source, queries=30)
    assert found.passed, found.checks
    assert "vector on none: no point has it" in searches(found).detail
    assert "no filter on unused" in searches(found).detail
    record = evidence(m)
    assert (record["passed"], record["queries"], record["k"]) == (True, 30, 10)
    assert [(v["vector"], v["filtered"]) for v in record["vectors"]] == [
        (name, filtered) for name in ("cosine", "many", "small", "coarse", "idf", "words") for filtered in (False, True)
    ]
    assert all(v["searches"] == 30 and not v["differing"] for v in record["vectors"])
    assert {v["vector"] for v in record["vectors"] if "recall" in v} == {"cosine", "many", "small", "idf", "coarse"}
    assert record["filters"]["unused"] == 0
    assert record["filters"]["g"] + record["filters"]["deep.tags"] == 6 * 30
    commands.switch(m.connection, m.source, percent=10)


def test_points_without_vectors_leave_nothing_to_search(of: Any) -> None:
    """That is said, and passes."""
    m = of({"vectors": {}}, [{"id": i, "vector": {}, "payload": {"n": i}} for i in range(10)])
    found = commands.verify(m.connection, m.source)
    assert searches(found) == Check(SEARCHES, passed=True, detail="there is no vector, so nothing to search")
    commands.switch(m.connection, m.source, percent=10)


def test_switch_is_refused_until_searches_are_compared(migrating: Migrating) -> None:
    """Points alone are not enough; that they are equal stands."""
    m = migrating.backfill()
    found = commands.verify(m.connection, m.source, queries=0)
    assert found.passed
    assert SEARCHES not in [check.name for check in found.checks]
    with pytest.raises(Refused, match="Nothing proves yet that searches on the target find what they find") as refused:
        commands.switch(m.connection, m.source, percent=10)
    assert "qferry verify" in refused.value.hint
    assert commands.verify(m.connection, m.source).passed
    commands.switch(m.connection, m.source, percent=100)
    # The finish asks for it as well.
    assert commands.verify(m.connection, m.source, queries=0).passed
    with pytest.raises(Refused, match="Nothing proves yet that searches"):
        commands.finish(m.connection, m.source)


def test_a_bad_index_is_found_although_every_point_is_equal(of: Any) -> None:
    """Its recall is told beside the source's; the points stay proven."""
    m = of(*wide(1, GOOD), hnsw_config=BAD)
    found = commands.verify(m.connection, m.source)
    assert [check.name for check in found.checks if not check.passed] == [SEARCHES]
    detail = searches(found).detail
    assert "exact ones find the same" in detail
    assert "too low: mean" in detail
    assert "the source itself: mean 0.9" in detail or "the source itself: mean 1.0" in detail
    migration = commands.status(m.connection, m.source)[0].migration
    assert migration.verified is not None
    assert not migration.searches_proven
    assert migration.parity is not None
    assert "mean" in migration.parity["vectors"][0]["short"]
    with pytest.raises(Refused, match="Nothing proves yet that searches"):
        commands.switch(m.connection, m.source, percent=10)


def test_an_index_as_bad_as_the_source_s_passes_and_it_is_said(of: Any) -> None:
    """A migration need not make better what it moves."""
    m = of(*wide(2, BAD))
    found = commands.verify(m.connection, m.source)
    assert found.passed, found.checks
    assert "which is no worse than the source itself" in searches(found).detail
    (group,) = evidence(m)["vectors"]
    assert group["excused"]
    assert group["recall"]["target"]["mean"] < 0.85


def test_points_of_equal_score_are_no_difference(of: Any) -> None:
    """A thousand points with the same vector: any ten of them are an answer."""
    vectors = [vector(i % 3) for i in range(1000)]
    points = [{"id": i, "vector": v, "payload": {}} for i, v in enumerate(vectors)]
    config = {"vectors": {"size": DIMENSIONS, "distance": "Cosine"}, "hnsw_config": GOOD, **EAGER}
    found = commands.verify((m := of(config, points, shard_number=3)).connection, m.source)
    assert found.passed, found.checks
    assert evidence(m)["vectors"][0]["recall"]["target"]["min"] == 1.0


def test_index_that_is_not_built_leaves_searches_unproven(of: Any) -> None:
    """Plainly said; the rest of the evidence stands."""
    m = of(*wide(3, GOOD), optimizers_config={"max_optimization_threads": 0})
    found = commands.verify(m.connection, m.source, green_timeout_s=1.0)
    assert not found.passed
    assert searches(found).detail.startswith("not proven: After 1 s the target is still")
    migration = commands.status(m.connection, m.source)[0].migration
    assert (migration.verified is not None, migration.parity) == (True, None)


def test_server_that_refuses_to_search_leaves_it_unproven(of: Any) -> None:
    """In the server's own words: strict mode may forbid exact searches."""
    m = of({"vectors": {"size": 2, "distance": "Dot"}}, [{"id": 1, "vector": [1, 2]}])
    assert compared(m).passed
    strict = {"strict_mode_config": {"enabled": True, "search_allow_exact": False}}
    ask(m.plain, "PATCH", f"/collections/{m.target}", strict)
    found = compared(m)
    ask(m.plain, "PATCH", f"/collections/{m.target}", {"strict_mode_config": {"enabled": False}})
    assert (found.passed, found.evidence) == (False, None)
    assert found.detail.startswith("not proven: a server refuses to search.")
    assert "Exact search disabled" in found.detail


def test_strict_mode_that_wants_indexes_is_no_obstacle(of: Any) -> None:
    """Filters are on indexed fields alone."""
    config, points = every_kind(60)
    m = of(config, points)
    for side in (m.source, m.target):
        m.plain.create_payload_index(side, "g", "integer", wait=True)
        strict = {"enabled": True, "unindexed_filtering_retrieve": False, "max_query_limit": 2000}
        ask(m.plain, "PATCH", f"/collections/{side}", {"strict_mode_config": strict})
    found = compared(m)
    assert found.passed, found.detail


def test_vectors_of_another_name_are_exchanged_by_a_stranger(of: Any) -> None:
    """What a plain client does to single vectors is found by exact searches alone."""
    m = of(*every_kind(60))
    assert compared(m).passed
    changed = {"points": [{"id": 7, "vector": {"cosine": [1, -1, 1, -1, 1, -1, 1, -1]}}]}
    ask(m.plain, "PUT", f"/collections/{m.target}/points/vectors?wait=true", changed)
    found = compared(m)
    assert not found.passed
    assert "exact ones find something else (vector cosine of point" in found.detail
    assert all(not v["differing"] for v in found.evidence["vectors"] if v["vector"] != "cosine")


@pytest.mark.parametrize("filtered", [False, True])
def test_dropped_sparse_vector_is_found(of: Any, filtered: bool) -> None:
    """By the points and, if somebody drops it after that, by searches, filtered ones too."""
    m = of(*every_kind(60))
    if filtered:
        for side in (m.source, m.target):
            m.plain.create_payload_index(side, "g", "integer", wait=True)
    ask(
        m.plain,
        "POST",
        f"/collections/{m.target}/points/vectors/delete?wait=true",
        {"points": [9], "vector": ["words"]},
    )
    found = commands.verify(m.connection, m.source)
    assert found.differing == (9,)
    assert SEARCHES not in [check.name for check in found.checks]
    groups = {(v["vector"], v["filtered"]): v["differing"] for v in compared(m).evidence["vectors"]}
    assert groups["words", False] > 0
    if filtered:
        assert groups["words", True] > 0


def test_sparse_searches_by_idf_are_not_confused_by_what_was_deleted(of: Any) -> None:
    """The server counts deleted points until it has optimized, so equal points are ranked a little differently."""
    config, points = every_kind(400)
    m = of(config, points)
    for side in (m.source, m.target):
        ask(m.plain, "POST", f"/collections/{side}/points/delete?wait=true", {"points": list(range(60))})
    found = commands.verify(m.connection, m.source)
    assert found.passed, found.checks


def test_writes_of_the_application_are_no_difference(migrating: Migrating, ferry: FerryClient) -> None:
    """Points change all the time while searches are compared."""
    m = migrating.backfill()
    stop = threading.Event()

    def write() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            ferry.upsert(m.source, [point(n % 60, round=n)])

    thread = threading.Thread(target=write)
    thread.start()
    try:
        found = commands.verify(m.connection, m.source)
    finally:
        stop.set()
        thread.join()
    assert found.passed, found.checks


def test_evidence_goes_with_what_it_rests_on(migrating: Migrating) -> None:
    """A failed verification takes it along, and so does another configuration, also if both sides have it."""
    m = migrating.backfill()
    assert commands.verify(m.connection, m.source).passed
    for side in (m.source, m.target):
        m.plain.update_collection(side, hnsw_config=models.HnswConfigDiff(m=4))
    with pytest.raises(Refused, match="Both sides have been reconfigured alike since their searches were compared"):
        commands.switch(m.connection, m.source, percent=10)
    assert commands.verify(m.connection, m.source).passed
    m.plain.upsert(m.target, [point(1, wrong=True)], wait=True)
    assert not commands.verify(m.connection, m.source).passed
    assert evidence(m) is None
    assert commands.verify(m.connection, m.source, repair=True).passed
    commands.switch(m.connection, m.source, percent=10)


def test_target_with_another_distance_is_found(migrating: Migrating) -> None:
    """Its points may be equal; they are ranked otherwise."""
    m = migrating.backfill()
    points = ask(m.plain, "POST", f"/collections/{m.source}/points/scroll", {"limit": 100, "with_vector": True})[
        "points"
    ]
    ask(m.plain, "DELETE", f"/collections/{m.target}")
    ask(m.plain, "PUT", f"/collections/{m.target}", {"vectors": {"size": DIMENSIONS, "distance": "Dot"}})
    ask(m.plain, "PUT", f"/collections/{m.target}/points?wait=true", {"points": points})
    with pytest.raises(Refused, match="made anew"):
        commands.verify(m.connection, m.source)
    # Somebody who has made the marker anew, too, is found out by what is compared.
    marker = commands.find(m.connection, m.source).marker(Side.TARGET)
    named = {"create_alias": {"collection_name": m.target, "alias_name": marker}}
    ask(m.plain, "POST", "/collections/aliases", {"actions": [named]})
    found = commands.verify(m.connection, m.source)
    assert [check.name for check in found.checks if not check.passed] == ["configuration"]
    assert "distance" in found.checks[0].detail
