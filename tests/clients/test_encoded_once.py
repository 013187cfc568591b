"""
Conformance of writes that are encoded once: each side must come to what upstream's own method comes to there.

The same call goes through upstream's method to one collection, and through a driver to two others with the same
contents.  Values and errors are compared in every detail that is not a collection's name.
"""

from __future__ import annotations

import functools
import re
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest
from anyio.from_thread import BlockingPortal
from forms import FORMS, SPARSE_VECTORS, VECTORS, Block
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from staging import PAIRINGS, Pairing

from qferry.drivers.aio import AsyncioDriver
from qferry.drivers.blocking import BlockingDriver
from qferry.flows import operations as ops
from qferry.flows.effects import Call, Flow, Outcome, Together
from qferry.flows.fate import fate_of
from qferry.server import QdrantServer

pytestmark = [
    # Some forms, gRPC messages above all, are deprecated upstream; they work, and so they must here.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection"),
]
UPSTREAM, FIRST, SECOND = NAMES = ("upstream", "first", "second")
METHODS = list(dict.fromkeys(form.method for form in FORMS))
NOWHERE = {"url": "http://127.0.0.1:9", "grpc_port": 9}


async def no_heartbeat(_: bool) -> None:
    """Do nothing."""


class Pair:
    """A client of upstream's and a driver over it, either of them called blocking."""

    def __init__(self, pairing: Pairing, portal: BlockingPortal, **options: Any) -> None:
        kind = AsyncQdrantClient if pairing.asynchronous else QdrantClient
        self.client: Any = kind(**options, prefer_grpc=pairing.grpc, check_compatibility=False)
        self.driver: Any = (
            AsyncioDriver(lambda _: self.client, fresh=no_heartbeat)
            if pairing.asynchronous
            else BlockingDriver(lambda _: self.client)
        )
        self._run = portal.call if pairing.asynchronous else lambda act: act()
        self.used = 0
        original = self.driver._twice.send
        # Both sends are told from upstream's own way by what they return: not None.
        self.driver._twice.send = (
            functools.partial(self._counting_async, original)
            if pairing.asynchronous
            else functools.partial(self._counting, original)
        )

    def _counting(self, send: Any, effects: Any) -> Any:
        sent = send(effects)
        self.used += sent is not None
        return sent

    async def _counting_async(self, send: Any, effects: Any) -> Any:
        sent = await send(effects)
        self.used += sent is not None
        return sent

    def upstream(self, collection: str, arguments: dict[str, Any]) -> Outcome:
        """What upstream's own method comes to."""
        try:
            return Outcome(value=self._run(functools.partial(self.client.batch_update_points, collection, **arguments)))
        except Exception as error:  # noqa: BLE001  it is what is compared
            return Outcome(error=error)

    def both(self, first: str, second: str, arguments: dict[str, Any]) -> list[Outcome]:
        """What the driver comes to for two collections."""

        def flow() -> Flow[list[Outcome]]:
            calls = [Call("", "batch_update_points", name, (), arguments) for name in (first, second)]
            return (yield Together(tuple(calls)))

        found: list[Outcome] = self._run(functools.partial(self.driver.run, flow()))
        return found

    def close(self) -> None:
        """Close everything."""
        if isinstance(self.driver, BlockingDriver):
            self.driver.close()
        self._run(self.client.close)


def told(outcome: Outcome, collection: str) -> str:
    """Everything about an outcome but the collection's name, times, and where in the code it was raised."""
    error = outcome.error
    parts: list[Any] = [outcome.value, type(error).__module__, type(error).__name__]
    if error is not None:
        parts.append(fate_of(error))
        if isinstance(error, grpc.RpcError):
            parts += [error.code(), error.details(), sorted(key for key, _ in error.trailing_metadata() or ())]
        elif hasattr(error, "status_code"):
            parts += [error.status_code, error.reason_phrase, re.sub(rb'"time":[^,}]*', b"", error.content)]
        elif hasattr(error, "source"):
            parts += [type(error.source).__name__, str(error.source)]
        else:
            parts.append(str(error))
    return repr(parts).replace(collection, "...")


@pytest.fixture(scope="module")
def places(plain: QdrantClient) -> Iterator[Callable[[list[Block]], list[str]]]:
    """Give a function that makes three collections of the same contents."""
    made: list[str] = []

    def make(blocks: list[Block]) -> list[str]:
        suffix = uuid.uuid4().hex
        found = [f"test-{name}-{suffix}" for name in NAMES]
        for name in found:
            plain.create_collection(name, VECTORS, SPARSE_VECTORS)
            plain.upsert(name, [point for block in blocks for point in block.points()])
            made.append(name)
        return found

    yield make
    for name in made:
        plain.delete_collection(name)


@pytest.fixture
def pair(qdrant: Any, portal: BlockingPortal, pairing: Pairing) -> Iterator[Pair]:
    """Give a client and a driver of the shared server."""
    found = Pair(pairing, portal, url=qdrant.url, grpc_port=qdrant.grpc_port, api_key=qdrant.api_key)
    yield found
    found.close()


each_pairing = pytest.mark.parametrize("pairing", PAIRINGS, ids=str)


@each_pairing
@pytest.mark.parametrize("method", METHODS)
def test_every_form_of_every_write_comes_to_what_it_comes_to_upstream(
    places: Callable[[list[Block]], list[str]], pair: Pair, method: str
) -> None:
    """The same values, numbers of operations included; the same errors in class, words and consequence."""
    forms = [form for form in FORMS if form.method == method]
    blocks = [Block(number) for number in range(len(forms))]
    upstream, first, second = places(blocks)
    for form, block in zip(forms, blocks, strict=True):
        operations = ops.understood(method, form.arguments(block))
        if not operations:
            continue  # no pair of calls is ever made of it
        arguments = {"update_operations": operations, "wait": True}
        used = pair.used
        expected = pair.upstream(upstream, arguments)
        mine, theirs = pair.both(first, second, arguments)
        assert told(mine, first) == told(theirs, second) == told(expected, upstream), form.name
        if expected.error is None or fate_of(expected.error).value == "missing_point":
            # Upstream has not changed so that the costly way is taken without anybody noticing.
            assert pair.used == used + 1, form.name


@dataclass(frozen=True)
class Odd:
    """A call that not every side takes well."""

    name: str
    operations: list[Any]
    options: dict[str, Any]
    missing: tuple[str, ...] = ()


def _upsert(**vectors: Any) -> list[Any]:
    return [models.UpsertOperation(upsert=models.PointsList(points=[models.PointStruct(id=1, vector=vectors)]))]


EIGHT = [0.5] * 8
ODD = [
    Odd("ordering and deadline", _upsert(a=EIGHT), {"ordering": models.WriteOrdering.STRONG, "timeout": 7}),
    Odd("not waited for", _upsert(a=EIGHT), {"wait": False}),
    Odd("numpy", _upsert(a=np.ones(8, np.float32)), {}),
    Odd("wrong size", _upsert(a=[1.0]), {}),
    Odd("both missing", _upsert(a=EIGHT), {}, missing=(UPSTREAM, FIRST, SECOND)),
    Odd("unknown argument", _upsert(a=EIGHT), {"colour": "green"}),
    Odd("no operations", [], {}),
    Odd("no operation", ["no operation"], {}),
    Odd("a collection's name to be quoted", _upsert(a=EIGHT), {}, missing=("quote",)),
]


@each_pairing
@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd.name)
def test_odd_call_comes_to_what_it_comes_to_upstream(
    places: Callable[[list[Block]], list[str]], pair: Pair, odd: Odd
) -> None:
    """Options, arrays, and what a server or the client refuses."""
    names = places([Block(0)])
    if odd.missing == ("quote",):
        names = ["no one/a?b%20#c", "no one/a?b%20#d", "no one/a?b%20#e"]
    elif odd.missing:
        names = ["gone-1", "gone-2", "gone-3"]
    arguments = {"update_operations": odd.operations, "wait": True, **odd.options}
    expected = told(pair.upstream(names[0], arguments), names[0])
    mine, theirs = pair.both(names[1], names[2], arguments)
    assert told(mine, names[1]) == told(theirs, names[2]) == expected


@each_pairing
@pytest.mark.parametrize("lacking", [FIRST, SECOND])
def test_failure_of_one_side_is_no_failure_of_the_other(
    places: Callable[[list[Block]], list[str]], pair: Pair, lacking: str
) -> None:
    """Each outcome stands in its own place."""
    upstream, first, second = places([Block(0)])
    arguments = {"update_operations": _upsert(a=EIGHT), "wait": True}
    names = ["gone-1", second] if lacking == FIRST else [first, "gone-1"]
    outcomes = pair.both(*names, arguments)
    expected = {"gone-1": told(pair.upstream("gone-1", arguments), "gone-1")}
    succeeded = told(pair.upstream(upstream, arguments), upstream)
    for name, outcome in zip(names, outcomes, strict=True):
        assert told(outcome, name) == expected.get(name, succeeded)


@each_pairing
def test_server_that_is_not_there_is_told_by_both(portal: BlockingPortal, pairing: Pairing) -> None:
    """Neither request ever left."""
    pair = Pair(pairing, portal, **NOWHERE)
    arguments = {"update_operations": _upsert(a=EIGHT), "wait": True}
    expected = told(pair.upstream("x", arguments), "x")
    mine, theirs = pair.both("x", "y", arguments)
    # gRPC words the same refusal differently, from one call to the next.
    if pairing.grpc:
        assert {outcome.error.code() for outcome in (mine, theirs)} == {grpc.StatusCode.UNAVAILABLE}
        assert {type(outcome.error).__name__ for outcome in (mine, theirs)} == {
            "AioRpcError" if pairing.asynchronous else "_InactiveRpcError"
        }
    else:
        assert told(mine, "x") == told(theirs, "x") == expected
    pair.close()


@each_pairing
def test_key_is_sent_and_a_wrong_one_is_refused_as_upstream_is(portal: BlockingPortal, pairing: Pairing) -> None:
    """Both requests carry the client's key, whatever that is."""
    arguments = {"update_operations": _upsert(a=EIGHT), "wait": True}
    with QdrantServer.start(api_key="right") as server:
        for key, succeeds in (("right", True), ("wrong", False), (None, False)):
            pair = Pair(pairing, portal, url=server.url, grpc_port=server.grpc_port, api_key=key, https=False)
            if succeeds:
                for name in NAMES:
                    pair._run(functools.partial(pair.client.create_collection, name, VECTORS))
            expected = told(pair.upstream(UPSTREAM, arguments), UPSTREAM)
            mine, theirs = pair.both(FIRST, SECOND, arguments)
            assert (mine.error is None) == succeeds
            assert told(mine, FIRST) == told(theirs, SECOND) == expected
            pair.close()


@each_pairing
def test_server_that_hangs_costs_one_time_out(
    fresh_qdrant: QdrantServer, portal: BlockingPortal, pairing: Pairing
) -> None:
    """Both sides time out as upstream does, and together."""
    pair = Pair(pairing, portal, url=fresh_qdrant.url, grpc_port=fresh_qdrant.grpc_port, timeout=1)
    for name in NAMES:
        pair._run(functools.partial(pair.client.create_collection, name, VECTORS))
    arguments = {"update_operations": _upsert(a=EIGHT), "wait": True}
    assert all(outcome.error is None for outcome in pair.both(FIRST, SECOND, arguments))
    fresh_qdrant.pause()
    expected = told(pair.upstream(UPSTREAM, arguments), UPSTREAM)
    began = time.monotonic()
    mine, theirs = pair.both(FIRST, SECOND, arguments)
    assert time.monotonic() - began < 1.8
    fresh_qdrant.resume()
    assert told(mine, FIRST) == told(theirs, SECOND) == expected
    pair.close()
