"""Each kind of fault in a small target; `make planted` does the same at 100,000 points."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from random import Random

import pytest

from qferry.server import QdrantServer

from .faults import FAULTS, Fault, play
from .pair import Found, Pair


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """Give a target that was verified."""
    with QdrantServer.start() as server, closing(Pair(server, 2_000, Random(1))) as pair:
        pair.build()
        yield pair


@pytest.mark.parametrize("kind", FAULTS)
def test_planted_fault_is_found_named_and_mended(pair: Pair, kind: str) -> None:
    """`qferry verify` ends with 1, the right check fails, exactly that point is named; then nothing is left of it."""
    fault, found, missed = play(pair, kind)
    assert not missed, f"{fault.where}: {missed}"
    assert found.differing == list(fault.differing)


def test_fault_that_is_not_named_counts_as_missed() -> None:
    """The harness would notice: another check, another id, one too many, or no failure at all."""
    fault = Fault("somewhere", "every point", "7", (7,))
    named = {"every point": "2,000 points compared bit by bit, 1 differ (7)"}
    assert fault.missed(Found(1, named, [7], 0.1)) == ""
    assert fault.missed(Found(0, {}, [], 0.1)) == "exit code 0"
    assert fault.missed(Found(1, {"exact counts": "7"}, [7], 0.1))
    assert fault.missed(Found(1, named, [8], 0.1))
    assert fault.missed(Found(1, named, [7, 8], 0.1))
