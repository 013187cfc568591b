"""
One suite for every pairing of blocking and asyncio with REST and gRPC, in every state of a migration.

A write through qferry must leave what a plain client leaves on a twin collection, and come to the same end: the same
result, or the same error.  What the target lacks, holds or refuses is never the caller's problem.

Each form of each write has a block of points of its own.  All blocks of a state are written in one go, on one
migration, when the first test asks; the tests then each look at theirs, in any order.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from forms import FORMS, SPARSE_VECTORS, VECTORS, Block
from qdrant_client import QdrantClient
from staging import PAIRINGS, Contents, Migrating, Opener, Pairing, contents, outcome_of

from qferry import commands
from qferry.connection import Connection

# Some forms, gRPC messages above all, are deprecated upstream; they work, and so they must here.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

STATES: dict[str, Callable[[Migrating], Any]] = {
    "no-migration": lambda _: None,
    "dual-before-backfill": Migrating.start,
    "dual-after-backfill": Migrating.backfill,
    "target-only": Migrating.finish,
}
DUAL = ["dual-before-backfill", "dual-after-backfill"]
METHODS = list(dict.fromkeys(form.method for form in FORMS))
BLOCKS = {
    (pairing, form): Block(index) for index, (pairing, form) in enumerate((p, f) for p in PAIRINGS for f in FORMS)
}
POINTS = [point for block in BLOCKS.values() for point in block.points()]


@dataclass(frozen=True)
class Rehearsal:
    """All calls of one state: what each came to, what they left, and what was there after everything was settled."""

    expected: dict[Block, str]  # from a plain client on the twin
    outcomes: dict[Block, str]
    twin: Contents
    source: Contents
    target: Contents
    settled_source: Contents
    settled_target: Contents
    verified: bool


class Theatre:
    """Rehearses each state once, when it is asked for."""

    def __init__(self, opener: Opener, plain: QdrantClient, connection: Connection) -> None:
        self._opener = opener
        self._plain = plain
        self._connection = connection
        self._rehearsals: dict[str, Rehearsal] = {}

    def rehearsal(self, state: str) -> Rehearsal:
        """Return the rehearsal of a state."""
        if state not in self._rehearsals:
            self._rehearsals[state] = self._rehearse(state)
        return self._rehearsals[state]

    def _rehearse(self, state: str) -> Rehearsal:
        source = f"test-conformance-{state}-{uuid.uuid4().hex}"
        twin = f"{source}-twin"
        for name in (source, twin):
            self._plain.create_collection(name, VECTORS, SPARSE_VECTORS)
            self._plain.upload_points(name, POINTS, batch_size=1000, wait=True)
        migrating = Migrating(self._connection, self._plain, source, f"{source}-target")
        ferry = {pairing: self._opener.ferry(pairing) for pairing in PAIRINGS}
        plain = {pairing: self._opener.plain(pairing) for pairing in PAIRINGS}
        try:
            for caller in ferry.values():
                # Some errors leave it open what became of a write; nothing here is worth waiting for.
                caller.client._session.grace_s = 0.0
                caller.call("count", source)  # a client that has long been at work when the migration begins
            STATES[state](migrating)
            expected, outcomes = {}, {}
            for (pairing, form), block in BLOCKS.items():
                for callers, name, told in ((plain, twin, expected), (ferry, source, outcomes)):
                    arguments = form.arguments(block)
                    told[block] = outcome_of(lambda: callers[pairing].call(form.method, name, **arguments))  # noqa: B023  called at once
            for caller in ferry.values():
                caller.call("_fresh", renew=True)  # asks the server that owes an answer, if any ...
                caller.call("_fresh", renew=True)  # ... and no doubt is left, so that the client can say goodbye
        finally:
            for caller in (*ferry.values(), *plain.values()):
                caller.call("close")
        left = contents(self._plain, twin), contents(self._plain, source), self._target(state, migrating)
        if state == "dual-before-backfill":
            commands.backfill(self._connection, source)
        verified = state in DUAL and migrating.verify().passed
        settled = contents(self._plain, source), self._target(state, migrating)
        return Rehearsal(expected, outcomes, *left, *settled, verified)

    def _target(self, state: str, migrating: Migrating) -> Contents:
        return {} if state == "no-migration" else contents(self._plain, migrating.target)


@pytest.fixture(scope="module")
def theatre(qdrant: Any, opener: Opener, plain: QdrantClient) -> Theatre:
    """Give the place where all calls of a state are made at once."""
    return Theatre(opener, plain, Connection(url=qdrant.url, api_key=qdrant.api_key, grpc_port=qdrant.grpc_port))


def blocks_of(pairing: Pairing, method: str) -> dict[str, Block]:
    """Return the block of each form of a method."""
    return {form.name: block for (p, form), block in BLOCKS.items() if p == pairing and form.method == method}


def cut(found: Contents, blocks: dict[str, Block]) -> dict[str, Contents]:
    """Return what the blocks hold, by the names of their forms."""
    return {name: {i: found[i] for i in block.ids if i in found} for name, block in blocks.items()}


each_method = pytest.mark.parametrize("method", METHODS)
each_pairing = pytest.mark.parametrize("pairing", PAIRINGS, ids=str)


@pytest.mark.parametrize("state", STATES)
@each_pairing
@each_method
def test_write_ends_as_it_does_without_qferry(theatre: Theatre, state: str, pairing: Pairing, method: str) -> None:
    """The caller gets the result, or the error, that a plain client gets on a twin collection."""
    rehearsal, blocks = theatre.rehearsal(state), blocks_of(pairing, method)
    outcomes = {name: rehearsal.outcomes[block] for name, block in blocks.items()}
    assert outcomes == {name: rehearsal.expected[block] for name, block in blocks.items()}


@pytest.mark.parametrize("state", STATES)
@each_pairing
@each_method
def test_write_leaves_what_it_leaves_without_qferry(
    theatre: Theatre, state: str, pairing: Pairing, method: str
) -> None:
    """The collection that is truth holds what a twin collection holds after the same call."""
    rehearsal, blocks = theatre.rehearsal(state), blocks_of(pairing, method)
    truth = rehearsal.target if state == "target-only" else rehearsal.source
    assert cut(truth, blocks) == cut(rehearsal.twin, blocks)


@each_pairing
@each_method
def test_write_reaches_both_sides_before_it_returns(theatre: Theatre, pairing: Pairing, method: str) -> None:
    """Once history is copied both sides are equal without the journal's help, whatever the call came to."""
    rehearsal, blocks = theatre.rehearsal("dual-after-backfill"), blocks_of(pairing, method)
    assert cut(rehearsal.target, blocks) == cut(rehearsal.source, blocks)


@pytest.mark.parametrize("state", DUAL)
@each_pairing
@each_method
def test_both_sides_are_equal_once_settled(theatre: Theatre, state: str, pairing: Pairing, method: str) -> None:
    """After the backfill and one pass over the journal nothing is missing, stale or resurrected."""
    rehearsal, blocks = theatre.rehearsal(state), blocks_of(pairing, method)
    assert cut(rehearsal.settled_target, blocks) == cut(rehearsal.settled_source, blocks)
    assert cut(rehearsal.settled_source, blocks) == cut(rehearsal.twin, blocks)


@pytest.mark.parametrize("state", DUAL)
def test_verification_passes_after_every_form_of_every_write(theatre: Theatre, state: str) -> None:
    """Bit by bit, with equal counts and equal configurations, and nothing beyond the blocks."""
    rehearsal = theatre.rehearsal(state)
    assert rehearsal.verified
    assert rehearsal.settled_target == rehearsal.settled_source


def test_source_is_left_alone_once_the_target_is_the_only_truth(theatre: Theatre) -> None:
    """After finish no write reaches the source any more."""
    source = theatre.rehearsal("target-only").source
    assert {point_id: payload for point_id, (payload, _) in source.items()} == {p.id: p.payload for p in POINTS}
