"""Suspended flows are told apart exactly where they may behave differently."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from .fingerprint import fingerprint


def _looping(given: list[int]) -> Generator[int, Any, None]:
    for _ in given:
        yield 0


def _polling() -> Generator[int, Any, None]:
    while True:
        seen = yield 1
        if seen == "enough":
            return
        yield 2


def _calling(shared: list[int], other: list[int]) -> Generator[int, Any, None]:
    yield from _looping(shared)
    other.append(len(shared))


def _advanced(flow: Generator[int, Any, None], *sent: Any) -> Generator[int, Any, None]:
    next(flow)
    for value in sent:
        flow.send(value)
    return flow


def test_flows_that_have_had_the_same_inputs_are_alike() -> None:
    """Two flows made and advanced alike have one fingerprint."""
    one, other = (_advanced(_calling([1, 2], []), None) for _ in range(2))
    assert fingerprint(one) == fingerprint(other)


def test_what_lies_on_the_stack_counts() -> None:
    """Two rounds of a loop differ in nothing but the iterator, which is in no variable."""
    assert fingerprint(_advanced(_looping([7, 7]))) != fingerprint(_advanced(_looping([7, 7]), None))


def test_what_is_never_read_again_does_not_count() -> None:
    """A poll that saw another thing, and will look again before it decides, is in the same state."""
    first, second = (_advanced(_polling(), seen, None) for seen in ("nothing", "something"))
    assert fingerprint(first) == fingerprint(second)


def test_what_will_be_read_counts() -> None:
    """A variable that a later step reads is part of the state."""
    assert fingerprint(_advanced(_calling([1], [5]))) != fingerprint(_advanced(_calling([1], [6])))


def test_sharing_counts() -> None:
    """Two names for one list are not two lists that happen to be equal."""
    shared: list[int] = [1]
    assert fingerprint(_advanced(_calling(shared, shared))) != fingerprint(_advanced(_calling([1], [1])))


def test_an_inner_flow_counts() -> None:
    """The place in the innermost generator is part of the state."""
    assert fingerprint(_advanced(_calling([1, 1], []))) != fingerprint(_advanced(_calling([1, 1], []), None))


def test_kinds_of_values_are_told_apart() -> None:
    """True is not 1, and 1.0 is not 1."""
    assert len({fingerprint(value) for value in (True, 1, 1.0, "1")}) == 4


def test_what_cannot_be_compared_is_refused() -> None:
    """An object without fields that can be seen is not taken to be like any other."""
    with pytest.raises(TypeError, match="not known how to compare"):
        fingerprint(object())
