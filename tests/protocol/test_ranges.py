"""Tests of ranges of ids and of the plan of a copy."""

import json
from itertools import pairwise
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qferry.errors import Refused
from qferry.protocol.ranges import Plan, position, split

numbers = st.integers(0, 2**64 - 1)
ids = numbers | st.uuids().map(str)


@given(st.lists(ids, unique=True), st.integers(1, 20))
def test_every_id_is_in_exactly_one_range(sample: list[Any], parts: int) -> None:
    """Whatever the sample: the first begins at the beginning, each ends where the next begins, the last is open."""
    ranges = split(sample, parts)
    assert 1 <= len(ranges) <= parts
    assert ranges[0][0] is None
    assert ranges[-1][1] is None
    assert all(before[1] == after[0] is not None for before, after in pairwise(ranges))
    bounds = [position(start) for start, _ in ranges if start is not None]
    assert bounds == sorted(set(bounds))


def test_ranges_hold_about_as_many_points_each() -> None:
    """Going by the sample."""
    assert split(range(100), 4) == [(None, 25), (25, 50), (50, 75), (75, None)]
    assert split([], 4) == [(None, None)]
    assert split([7], 4) == [(None, 7), (7, None)]


def test_numbers_come_before_uuids() -> None:
    """As on the server."""
    low = str(UUID(int=0))
    assert sorted([low, 2**64 - 1, 0], key=position) == [0, 2**64 - 1, low]


def test_plan_knows_what_is_left() -> None:
    """A range is left until it is done, however far it has come."""
    plan = Plan.of([(None, 5), (5, None)])
    assert plan.left == [0, 1]
    plan = plan.advanced(0, 3, 4, done=False)
    assert (plan.left, plan.copied, plan.stretches[0].at) == ([0, 1], 3, 4)
    plan = plan.advanced(0, 1, 5, done=True).advanced(1, 2, None, done=True)
    assert (plan.left, plan.copied) == ([], 6)


@given(st.lists(st.tuples(st.none() | ids, st.none() | ids), min_size=1, max_size=5))
def test_plan_survives_being_stored(bounds: list[Any]) -> None:
    """A plan read back from its JSON is the one that was written."""
    plan = Plan.of(bounds).advanced(0, 7, bounds[0][1], done=True)
    stored = json.loads(json.dumps(plan.to_payload("m")))
    assert (stored["kind"], stored["migration"]) == ("plan", "m")
    assert Plan.from_payload(stored) == plan


def test_plan_of_another_format_is_refused() -> None:
    """It is not guessed at."""
    with pytest.raises(Refused, match="has format 99") as refused:
        Plan.from_payload({"format": 99, "ranges": []})
    assert "Go on with the version of qferry that began the copy" in refused.value.hint
