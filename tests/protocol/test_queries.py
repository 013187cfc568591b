"""Tests of the searches that are made of points."""

from typing import Any

import pytest

from qferry.protocol.queries import Search, VectorKind, conditions, kinds


def info(**params: Any) -> dict[str, Any]:
    """Return a collection's info."""
    return {"config": {"params": params}}


def test_every_vector_is_named() -> None:
    """The unnamed one, named ones, sparse ones; and none."""
    assert kinds(info(vectors={"size": 4, "distance": "Cosine"})) == [VectorKind("")]
    assert kinds(info(vectors={"a": {"size": 4}, "b": {"size": 2}})) == [VectorKind("a"), VectorKind("b")]
    assert kinds(info(vectors={"size": {"size": 4}, "b": {"size": 2}})) == [VectorKind("size"), VectorKind("b")]
    assert kinds(info(sparse_vectors={"s": {}})) == [VectorKind("s", sparse=True)]
    assert kinds(info(vectors={})) == kinds(info()) == []


@pytest.mark.parametrize("config", [{"modifier": "idf"}, *({"index": {"datatype": d}} for d in ("uint8", "float16"))])
def test_a_sparse_vector_may_be_ranked_by_more_than_itself(config: Any) -> None:
    """Then equal points need not be ranked alike."""
    assert kinds(info(sparse_vectors={"s": config})) == [VectorKind("s", sparse=True, relative=True)]
    assert not kinds(info(sparse_vectors={"s": {"index": {"datatype": "float32"}}}))[0].relative


PAYLOAD = {
    "word": "blue",
    "words": ["red", "green"],
    "n": 7,
    "on": True,
    "x": 1.5,
    "at": "2026-01-01T00:00:00Z",
    "text": "a longer sentence",
    "place": {"lat": 1.0, "lon": 2.0},
    "nested": {"deep": [{"k": 3}]},
}


@pytest.mark.parametrize(
    ("field", "kind", "condition"),
    [
        ("word", "keyword", {"match": {"value": "blue"}}),
        ("words", "keyword", {"match": {"value": "red"}}),
        ("words[]", "keyword", {"match": {"value": "red"}}),
        ("n", "integer", {"match": {"value": 7}}),
        ("on", "bool", {"match": {"value": True}}),
        ("x", "float", {"range": {"gte": 1.5}}),
        ("n", "float", {"range": {"gte": 7}}),
        ("at", "datetime", {"range": {"gte": "2026-01-01T00:00:00Z"}}),
        ("text", "text", {"match": {"text": "sentence"}}),
        ("place", "geo", {"geo_radius": {"center": {"lat": 1.0, "lon": 2.0}, "radius": 100_000.0}}),
        ("nested.deep[].k", "integer", {"match": {"value": 3}}),
    ],
)
def test_a_condition_is_one_that_the_point_fulfils(field: str, kind: str, condition: Any) -> None:
    """For every kind of index, also of nested fields and lists."""
    assert conditions(PAYLOAD, {field: {"data_type": kind}}) == {field: {"key": field, **condition}}


@pytest.mark.parametrize(
    ("field", "kind"), [("word", "integer"), ("on", "integer"), ("gone", "keyword"), ("n.k", "bool")]
)
def test_no_condition_is_made_of_what_the_index_does_not_hold(field: str, kind: str) -> None:
    """A value of another type, or none."""
    assert conditions(PAYLOAD, {field: {"data_type": kind}}) == {}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("datetime", "n/a"),
        ("datetime", "2026-02-30T00:00:00Z"),
        ("datetime", "2100-02-29"),
        ("datetime", "2026-13-01"),
        ("datetime", "2026-04-31"),
        ("datetime", "2026-01-01T25:00:00Z"),
        ("datetime", "2026-W01-1"),
        ("integer", 2**63),
        ("integer", -(2**63) - 1),
        ("geo", {"lat": 1000.0, "lon": 2.0}),
        ("geo", {"lat": 1.0, "lon": -181}),
        ("geo", {"lat": "1", "lon": "2"}),
        ("geo", {"lat": None, "lon": 2.0}),
    ],
)
def test_no_condition_is_made_of_what_a_server_refuses_to_be_asked_for(kind: str, value: Any) -> None:
    """A payload keeps anything; another value of the list will do."""
    assert conditions({"f": value}, {"f": {"data_type": kind}}) == {}
    good = {"datetime": "2026-02-28", "integer": 2**63 - 1, "geo": {"lat": -90, "lon": 180}}[kind]
    assert "f" in conditions({"f": [value, good]}, {"f": {"data_type": kind}})


@pytest.mark.parametrize("value", ["2026-01-01", "2024-02-29", "2026-01-01T01:02:03", "2026-01-01 01:02:03.5+01:00"])
def test_a_time_may_be_written_in_several_ways(value: str) -> None:
    """As the server reads it."""
    assert conditions({"f": value}, {"f": {"data_type": "datetime"}})["f"]["range"] == {"gte": value}


def test_an_index_that_cannot_look_up_is_asked_for_a_range() -> None:
    """Strict mode may forbid what no index answers."""
    schema = {"n": {"data_type": "integer", "params": {"type": "integer", "lookup": False}}}
    assert conditions(PAYLOAD, schema)["n"]["range"] == {"gte": 7, "lte": 7}


def test_a_search_says_what_it_asks_for() -> None:
    """The filter and the ids it is asked about are both required."""
    search = Search(5, VectorKind("a"), [1.0], "n", {"key": "n"})
    assert search.body(exact=False) == {
        "query": [1.0],
        "using": "a",
        "limit": 10,
        "with_payload": False,
        "filter": {"must": [{"key": "n"}]},
    }
    exact = search.body(exact=True, among=[1, 2])
    assert exact["params"] == {"exact": True}
    assert exact["filter"] == {"must": [{"key": "n"}, {"has_id": [1, 2]}]}
    assert "filter" not in Search(5, VectorKind(""), [1.0]).body(exact=True)
    assert str(search) == "vector a of point 5, filtered by n"
