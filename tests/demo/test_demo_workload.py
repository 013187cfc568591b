"""The traffic is repeatable, overlapping, and says truly what it changes."""

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from qferry.demo.application import outcome_of
from qferry.demo.call_log import Action, Call, Outcome
from qferry.demo.checker import check
from qferry.demo.content import read_collection
from qferry.demo.document_routing import send
from qferry.demo.fingerprint import normalised
from qferry.demo.workload import POINTS_PER_GROUP, Request, Workload, group_of, indexed_payload
from qferry.server import QdrantServer

INDEXED_POINTS = 200
CHUNKS = [{"path": f"{i}.py", "text": "x" * 100} for i in range(20)]
VECTORS = normalised(np.random.default_rng(0).standard_normal((20, 8)))


def workload(process: str, *, seed: int = 1) -> Workload:
    """Prepare the traffic of a process."""
    return Workload(
        process, seed=seed, indexed_points=INDEXED_POINTS, chunks=CHUNKS, vectors=VECTORS, queries=VECTORS[:3]
    )


def requests(process: str, count: int = 600, *, seed: int = 1) -> list[Request]:
    """Make the first requests of a process."""
    traffic = workload(process, seed=seed)
    return [traffic.next_request() for _ in range(count)]


def touched_points(process: str) -> set[int]:
    """Collect the ids that a process writes by id."""
    return {effect.point for request in requests(process) for effect in request.effects if effect.point is not None}


def test_same_seed_and_process_give_the_same_requests() -> None:
    """A run can be repeated; another seed or another process makes other requests."""
    assert requests("a", 50) == requests("a", 50)
    assert requests("a", 50) != requests("a", 50, seed=2)
    assert requests("a", 50) != requests("b", 50)


def test_every_method_and_every_kind_of_change_occurs() -> None:
    """The mix has all the writes and reads that a migration has to route."""
    traffic = requests("a")
    assert {request.method for request in traffic} == {
        "query_points", "retrieve", "scroll", "count", "upsert", "delete", "set_payload", "overwrite_payload",
        "delete_payload", "update_vectors", "batch_update_points",
    }  # fmt: skip
    effects = [effect for request in traffic for effect in request.effects]
    assert {effect.action for effect in effects} == set(Action)
    assert {effect.action for effect in effects if effect.group is not None} == {
        Action.DELETE,
        Action.SET_PAYLOAD,
    }
    assert 0.35 < sum(not request.effects for request in traffic) / len(traffic) < 0.65


def test_processes_share_hot_points_and_create_new_ones() -> None:
    """Two processes touch many of the same points, among them points that were not indexed."""
    first, second = touched_points("a"), touched_points("b")
    assert len(first & second) > 30
    assert max(first) >= INDEXED_POINTS
    assert min(first) >= 0


def test_every_write_of_every_process_is_unique() -> None:
    """No two writes carry the same revision, mark or vector, so the checker can tell them apart."""
    effects = [effect for p in ("a", "b") for request in requests(p) for effect in request.effects]
    vectors = [effect.vector for effect in effects if effect.vector]
    assert len(vectors) == len(set(vectors))
    tokens = [
        value for effect in effects for key, value in effect.payload if key in {"revision", "reviewed", "campaign"}
    ]
    assert len(tokens) == len(set(tokens))


def test_groups_are_small_and_part_of_the_indexed_payload() -> None:
    """A filter write reaches about ten indexed points."""
    groups = [indexed_payload(point, CHUNKS, INDEXED_POINTS)["group"] for point in range(INDEXED_POINTS)]
    assert groups == [group_of(point, INDEXED_POINTS) for point in range(INDEXED_POINTS)]
    assert {groups.count(group) for group in groups} == {POINTS_PER_GROUP}


@pytest.mark.slow
def test_requests_change_on_a_server_exactly_what_they_say(fresh_qdrant: QdrantServer) -> None:
    """Six hundred requests against a real server leave exactly the points that their effects describe."""
    client = QdrantClient(url=fresh_qdrant.url, check_compatibility=False)
    client.create_collection("traffic", vectors_config=models.VectorParams(size=8, distance=models.Distance.COSINE))
    calls: list[Call] = []
    for number, request in enumerate(requests("a")):
        outcome = Outcome.OK
        try:
            send(client, "traffic", request)
        except Exception as error:  # noqa: BLE001 - the application treats every error the same way
            outcome = outcome_of(error)
        calls.append(Call("a", number, request.method, request.effects, 2 * number, 2 * number + 1, outcome))
    client.close()
    after = read_collection(fresh_qdrant.url, "traffic")
    verdict = check(calls, {}, after)
    assert (verdict.findings, verdict.contradictions, verdict.undecided) == ((), (), ())
    assert len(after) > 50
    assert {call.outcome for call in calls} == {Outcome.OK, Outcome.NOT_FOUND}
