"""Tests of what a write touches, and of the forms it can be sent in."""

import itertools
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import grpc, models
from qdrant_client.conversions.conversion import RestToGrpc

from qferry.errors import NotAllowed
from qferry.flows import operations as ops

UUID = "550e8400-e29b-41d4-a716-446655440000"
FILTER = models.Filter(must=[models.FieldCondition(key="g", match=models.MatchValue(value=1))])
IDS = models.PointIdsList(points=[1, UUID])


def upsert(*ids: Any) -> models.UpsertOperation:
    """Return an upsert of points with these ids."""
    points = [models.PointStruct(id=i, vector=[1.0]) for i in ids]
    return models.UpsertOperation(upsert=models.PointsList(points=points))


BY_FILTER: list[ops.Operation] = [
    models.DeleteOperation(delete=models.FilterSelector(filter=FILTER)),
    models.ClearPayloadOperation(clear_payload=models.FilterSelector(filter=FILTER)),
    models.SetPayloadOperation(set_payload=models.SetPayload(payload={"a": 1}, key="k", filter=FILTER)),
    models.OverwritePayloadOperation(overwrite_payload=models.SetPayload(payload={"a": 1}, filter=FILTER)),
    models.DeletePayloadOperation(delete_payload=models.DeletePayload(keys=["a"], filter=FILTER)),
    models.DeleteVectorsOperation(delete_vectors=models.DeleteVectors(vector=["v"], filter=FILTER)),
]
BY_IDS: list[ops.Operation] = [
    upsert(1, UUID),
    models.UpsertOperation(upsert=models.PointsBatch(batch=models.Batch(ids=[1, UUID], vectors=[[1.0], [1.0]]))),
    models.DeleteOperation(delete=IDS),
    models.ClearPayloadOperation(clear_payload=IDS),
    models.SetPayloadOperation(set_payload=models.SetPayload(payload={"a": 1}, key="k", points=[1, UUID])),
    models.OverwritePayloadOperation(overwrite_payload=models.SetPayload(payload={"a": 1}, points=[1, UUID])),
    models.DeletePayloadOperation(delete_payload=models.DeletePayload(keys=["a"], points=[1, UUID])),
    models.DeleteVectorsOperation(delete_vectors=models.DeleteVectors(vector=["v"], points=[1, UUID])),
    models.UpdateVectorsOperation(
        update_vectors=models.UpdateVectors(points=[models.PointVectors(id=i, vector=[1.0]) for i in (1, UUID)])
    ),
]


def name(operation: Any) -> str:
    """Name a parameter by its class."""
    return type(operation).__name__


@pytest.mark.parametrize(
    ("given_id", "canonical"),
    [
        (7, 7),
        (2**64 - 1, 2**64 - 1),
        (UUID, UUID),
        (UUID.upper(), UUID),
        (UUID.replace("-", ""), UUID),
        (f"urn:uuid:{UUID}", UUID),
        (uuid.UUID(UUID), UUID),
        (grpc.PointId(num=7), 7),
        (grpc.PointId(uuid=UUID.upper()), UUID),
    ],
)
def test_id_takes_the_form_in_which_the_server_prints_it(given_id: Any, canonical: Any) -> None:
    """One point is one journal entry, however its id is written."""
    assert ops.canonical_id(given_id) == canonical


@pytest.mark.parametrize("wrong", ["no uuid", ""])
def test_text_that_is_no_uuid_is_no_id(wrong: str) -> None:
    """The server would not take it either."""
    with pytest.raises(ValueError, match=r".+"):
        ops.canonical_id(wrong)


@pytest.mark.parametrize("operation", BY_IDS, ids=name)
def test_operation_by_id_names_its_ids_and_has_no_filter(operation: ops.Operation) -> None:
    """Its ids are known without asking anyone."""
    assert ops.ids_of(operation) == [1, UUID]
    assert ops.filter_of(operation) is None


@pytest.mark.parametrize("operation", BY_FILTER, ids=name)
def test_operation_by_filter_has_a_filter_and_names_no_ids(operation: ops.Operation) -> None:
    """Its ids must be asked for."""
    assert ops.filter_of(operation) == FILTER
    assert ops.ids_of(operation) == []


def test_named_ids_take_precedence_over_a_filter() -> None:
    """As on the server, which ignores the filter then."""
    both = models.SetPayloadOperation(set_payload=models.SetPayload(payload={"a": 1}, points=[1], filter=FILTER))
    assert ops.filter_of(both) is None
    assert ops.ids_of(both) == [1]


@pytest.mark.parametrize("operation", BY_FILTER, ids=name)
def test_narrowed_operation_matches_the_filter_among_the_ids_alone(operation: ops.Operation) -> None:
    """Both sides touch the same points, and everything else about the operation is kept."""
    narrowed = ops.narrowed(operation, [1, UUID])
    limited = models.Filter(must=[FILTER, models.HasIdCondition(has_id=[1, UUID])])
    assert ops.filter_of(narrowed) == limited
    assert ops._with_filter(narrowed, FILTER) == operation


@pytest.mark.parametrize("operation", BY_IDS[3:8], ids=name)
def test_tolerant_partial_update_selects_by_filter(operation: ops.Operation) -> None:
    """Selected by filter, a point that is not there is passed over."""
    tolerant = ops.tolerant(operation, frozenset())
    assert tolerant is not None
    assert type(tolerant) is type(operation)
    assert ops.filter_of(tolerant) == models.Filter(must=[models.HasIdCondition(has_id=[1, UUID])])


@pytest.mark.parametrize("operation", [*BY_IDS[:3], *BY_FILTER], ids=name)
def test_operation_that_is_tolerant_anyway_is_left_as_it_is(operation: ops.Operation) -> None:
    """Upserts, deletes and filters never fail on a missing point."""
    assert ops.tolerant(operation, frozenset()) is operation


def test_tolerant_vector_update_keeps_the_points_that_are_present() -> None:
    """Vectors can only be updated by name."""
    tolerant = ops.tolerant(BY_IDS[8], frozenset({UUID}))
    assert tolerant is not None
    assert ops.ids_of(tolerant) == [UUID]


def test_tolerant_vector_update_without_any_point_is_nothing() -> None:
    """There is nothing left to send."""
    assert ops.tolerant(BY_IDS[8], frozenset()) is None


@given(st.lists(st.sampled_from([*BY_FILTER, *BY_IDS]), max_size=8))
def test_runs_keep_the_order_and_let_each_filter_stand_alone(operations: list[ops.Operation]) -> None:
    """What a filter matches may depend on every operation before it."""
    runs = list(ops.runs(operations))
    assert [operation for run in runs for operation in run] == operations
    for run in runs:
        assert run
        assert len(run) == 1 or all(ops.filter_of(operation) is None for operation in run)
    for first, second in itertools.pairwise(runs):
        assert ops.filter_of(first[0]) is not None or ops.filter_of(second[0]) is not None


SELECTORS = {
    "list": [1, UUID],
    "list object": IDS,
    "grpc": RestToGrpc.convert_points_selector(IDS),
    "grpc ids": [grpc.PointId(num=1), grpc.PointId(uuid=UUID)],
}


@pytest.mark.parametrize("selector", SELECTORS.values(), ids=SELECTORS.keys())
@pytest.mark.parametrize("method", ["delete", "clear_payload", "set_payload", "delete_payload", "delete_vectors"])
def test_every_way_to_select_ids_gives_the_same_ids(method: str, selector: Any) -> None:
    """qdrant-client takes them all."""
    arguments = {"points": selector, "points_selector": selector, "payload": {}, "keys": ["a"], "vectors": ["v"]}
    (operation,) = ops.operations_of(method, arguments)
    assert ops.ids_of(operation) == [1, UUID]


@pytest.mark.parametrize(
    "selector",
    [FILTER, models.FilterSelector(filter=FILTER), RestToGrpc.convert_filter(FILTER)],
    ids=["filter", "selector", "grpc"],
)
@pytest.mark.parametrize("method", ["delete", "clear_payload", "set_payload", "delete_payload", "delete_vectors"])
def test_every_way_to_select_by_filter_gives_the_same_filter(method: str, selector: Any) -> None:
    """qdrant-client takes them all."""
    arguments = {"points": selector, "points_selector": selector, "payload": {}, "keys": ["a"], "vectors": ["v"]}
    (operation,) = ops.operations_of(method, arguments)
    found = ops.filter_of(operation)
    assert found is not None
    assert found.must == FILTER.must


def test_batch_is_taken_as_it_is() -> None:
    """It is in the server's form already."""
    assert ops.operations_of("batch_update_points", {"update_operations": BY_IDS}) == BY_IDS


def test_shard_key_is_refused() -> None:
    """Two points of one id under two shard keys would be one in the journal."""
    with pytest.raises(NotAllowed, match="Writes with shard keys"):
        ops.operations_of("upsert", {"points": [], "shard_key_selector": "k"})


def test_caller_s_operations_are_not_changed() -> None:
    """A batch belongs to the caller, who may send it again."""
    before = [operation.model_copy(deep=True) for operation in (*BY_IDS, *BY_FILTER)]
    for operation in (*BY_IDS, *BY_FILTER):
        ops.tolerant(operation, frozenset({1}))
    for operation in BY_FILTER:
        ops.narrowed(operation, [1])
    assert [*BY_IDS, *BY_FILTER] == before
