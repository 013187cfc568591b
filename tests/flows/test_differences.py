"""Tests of how a difference is told: what differs, and never more of it than can be looked at."""

from typing import Any

import orjson
import pytest
from playing import MIGRATION, Play

from qferry.flows.differences import described, difference


def point(payload: Any = None, vector: Any = None) -> dict[str, Any]:
    """Return a point as it is read."""
    return {"id": 7, "payload": payload or {}, "vector": vector}


@pytest.mark.parametrize(
    ("source", "target", "what"),
    [
        (point({"a": 1}), None, ["missing on the target"]),
        (None, point({"a": 1}), ["extra on the target"]),
        (point({"a": 1}), point({"a": 1.0}), ["payload field a"]),
        (point({"a": 1, "b": 2}), point({"a": 1, "c": 2}), ["payload field b", "payload field c"]),
        (point({"a": None}), point({}), ["payload field a"]),
        (point(vector=[0.0]), point(vector=[-0.0]), ["vector"]),
        (point(vector={"a": [1.0], "b": [1.0]}), point(vector={"a": [1.5], "b": [1.0]}), ["vector a"]),
        (point(vector={"s": {"indices": [1], "values": [1.0]}}), point(vector={}), ["vector s missing on the target"]),
        (point(vector={}), point(vector={"s": [1.0]}), ["vector s extra on the target"]),
        (point({"a": 1}), point({"a": 1}), ["equal when it was looked at again"]),
        (None, None, ["on neither side, or kept by one copy of the target alone"]),
    ],
)
def test_it_is_said_what_differs(source: Any, target: Any, what: list[str]) -> None:
    """By the names of fields and vectors; types and signs of zeros too."""
    assert difference(7, source, target).what == tuple(what)


def test_small_values_are_shown_on_both_sides() -> None:
    """Only those that are unlike."""
    found = difference(7, point({"a": 1, "b": 2}, [1.0, 2.0]), point({"a": 1, "b": "x"}, [1.0, 2.5]))
    assert found.source == {"payload": {"b": 2}, "vector": {"": [1.0, 2.0]}}
    assert found.target == {"payload": {"b": "x"}, "vector": {"": [1.0, 2.5]}}


def test_of_a_large_vector_only_the_first_number_that_is_unlike_is_shown() -> None:
    """And where it is, and how many are."""
    one, other = [0.5] * 768, [0.5] * 768
    other[100], other[200] = 0.25, 0.75
    found = difference(7, point(vector={"a": one}), point(vector={"a": other}))
    assert found.source == {"vector": {"a": {"numbers": 768, "unlike": 2, "first": 100, "value": 0.5}}}
    assert found.target == {"vector": {"a": {"numbers": 768, "unlike": 2, "first": 100, "value": 0.25}}}


@pytest.mark.parametrize(
    "large",
    [
        point({"text": "x" * 1_000_000}, [0.5] * 10_000),
        point({f"f{n}": "x" * 1000 for n in range(1000)}),
        point(vector={"m": [[0.5] * 1000] * 10}),
        point(vector={"s": {"indices": list(range(5000)), "values": [0.5] * 5000}}),
    ],
)
@pytest.mark.parametrize("side", [0, 1, 2])
def test_no_line_is_long(large: Any, side: int) -> None:
    """Whatever the point is like."""
    other = point({"text": "y" * 1_000_000, **{f"f{n}": n for n in range(1000)}})
    found = difference(7, *((large, None), (None, large), (large, other))[side])
    assert len(orjson.dumps([found.what, found.source, found.target])) < 12_000


def test_many_points_are_read_page_by_page() -> None:
    """In the order of their ids as given."""
    held = {"a": {i: point({"n": i}) | {"id": i} for i in range(250)}, "b": {}}
    play = Play(lambda e: [held[e.path.split("/")[2]][i] for i in e.body["ids"] if i in held[e.path.split("/")[2]]])
    found = play.run(described(MIGRATION, list(range(250))))
    assert [d.id for d in found] == list(range(250))
    assert {d.what for d in found} == {("missing on the target",)}
    assert len(play.sent) == 6
