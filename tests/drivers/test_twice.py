"""Tests of writes that are encoded once and sent to two places: what is on the wire, and when."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import httpx
import pytest
from driving import MIGRATION, one, session
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from qdrant_client import grpc as messages
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse

from qferry.drivers import encoding
from qferry.drivers.aio import AsyncioDriver
from qferry.drivers.blocking import BlockingDriver
from qferry.drivers.twice import Twice
from qferry.flows import write
from qferry.flows.effects import Call, Effect, Outcome, Together

pytestmark = pytest.mark.filterwarnings("ignore:A(pi key|uth token provider) is used with an insecure connection")
DEADLINE_S = 10
ARGUMENTS: dict[str, Any] = {
    "update_operations": [
        models.UpsertOperation(
            upsert=models.PointsList(
                points=[models.PointStruct(id=7, vector=[0.25, 1.0], payload={"words": "é", "n": None})]
            )
        ),
        models.DeleteOperation(delete=models.PointIdsList(points=[3])),
    ],
    "wait": True,
    "ordering": models.WriteOrdering.STRONG,
}
OPTIONS: dict[str, Any] = {
    "check_compatibility": False,
    "api_key": "key",
    "headers": {"x-tenant": "blue"},
    "auth_token_provider": lambda: "token",
}
ANSWER = b'{"result":[{"operation_id":1,"status":"completed"}],"status":"ok","time":0.0}'


def pair(arguments: dict[str, Any] = ARGUMENTS, servers: tuple[str, str] = ("", "")) -> tuple[Call, Call]:
    """Return one write to the collections `a` and `b`."""
    calls = [
        Call(server, "batch_update_points", name, (), arguments) for server, name in zip(servers, "ab", strict=True)
    ]
    return calls[0], calls[1]


class Server:
    """A REST and a gRPC server that note what they are sent, and answer when they are told to."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str], bytes]] = []  # where to, headers, body
        self.answer: Callable[[str], int] = lambda _: 200  # given where to; returns the status
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = outer.note(self.path, dict(self.headers), body)
                self.send_response(status)
                self.send_header("Content-Length", str(len(ANSWER)))
                if status == 429:
                    self.send_header("Retry-After", "3")
                self.end_headers()
                self.wfile.write(ANSWER)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that is interrupted hangs up
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self._grpc = grpc.server(ThreadPoolExecutor(8))
        handler = grpc.unary_unary_rpc_method_handler(self._called)
        self._grpc.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("qdrant.Points", {"UpdateBatch": handler}),)
        )
        self.options = {
            "url": f"http://127.0.0.1:{self._http.server_port}",
            "grpc_port": self._grpc.add_insecure_port("127.0.0.1:0"),
        }
        self._grpc.start()

    def note(self, where: str, headers: dict[str, str], body: bytes) -> int:
        """Note a request, and return the status of the answer once there is to be one."""
        self.seen.append((where, headers, body))
        return self.answer(where)

    def _called(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        message = messages.UpdateBatchPoints.FromString(body)
        headers = {key: str(value) for key, value in context.invocation_metadata()}
        if self.note(message.collection_name, headers, body) == 429:
            context.set_trailing_metadata((("retry-after", "3"),))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "slow down")
        result = messages.UpdateResult(operation_id=1, status=messages.UpdateStatus.Completed)
        return messages.UpdateBatchResponse(result=[result]).SerializeToString()

    def close(self) -> None:
        """Stop both."""
        self._grpc.stop(None).wait()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    """Give a server that notes what it is sent."""
    found = Server()
    yield found
    found.close()


each_protocol = pytest.mark.parametrize("prefer_grpc", [False, True], ids=["rest", "grpc"])


def blocking(server: Server, **options: Any) -> tuple[QdrantClient, BlockingDriver]:
    """Return a client of a server, and a driver over it."""
    client = QdrantClient(**{**OPTIONS, **server.options, **options})
    return client, BlockingDriver(lambda _: client)


def close(client: QdrantClient, driver: BlockingDriver) -> None:
    """Close them."""
    driver.close()
    client.close()


def addressed(seen: list[tuple[str, dict[str, str], bytes]], name: str) -> tuple[str, dict[str, str], bytes]:
    """Return the one request for a collection, with its name left out."""
    ((where, headers, body),) = [found for found in seen if found[0] == name or f"/{name}/" in found[0]]
    if where == name:
        message = messages.UpdateBatchPoints.FromString(body)
        message.collection_name = ""
        body = message.SerializeToString()
    return where.replace(f"/{name}/", "//") if where != name else "", headers, body


@each_protocol
def test_both_requests_are_what_upstream_sends(server: Server, prefer_grpc: bool) -> None:
    """Path, query, headers, keys, tokens and body, byte by byte."""
    client, driver = blocking(server, prefer_grpc=prefer_grpc)
    client.batch_update_points("u", **ARGUMENTS)
    driver.run(one(Together(pair())))
    close(client, driver)
    expected = addressed(server.seen, "u")
    assert {name.lower() for name in expected[1]} >= {"x-tenant", "api-key", "authorization"}
    assert addressed(server.seen, "a") == addressed(server.seen, "b") == expected


@each_protocol
async def test_both_requests_on_asyncio_are_what_upstream_sends(server: Server, prefer_grpc: bool) -> None:
    """Path, query, headers, keys, tokens and body, byte by byte."""
    client = AsyncQdrantClient(**OPTIONS, **server.options, prefer_grpc=prefer_grpc)

    async def fresh(_: bool) -> None:
        """Do nothing."""

    await client.batch_update_points("u", **ARGUMENTS)
    await AsyncioDriver(lambda _: client, fresh=fresh).run(one(Together(pair())))
    await client.close()
    assert addressed(server.seen, "a") == addressed(server.seen, "b") == addressed(server.seen, "u")


@each_protocol
def test_both_are_under_way_before_either_is_answered(server: Server, prefer_grpc: bool) -> None:
    """The latency of a dual write is that of the slower side, not the sum; and nothing is started for it."""
    both = threading.Barrier(2, timeout=DEADLINE_S)
    client, driver = blocking(server, prefer_grpc=prefer_grpc)
    server.answer = lambda _: 200 if both.wait() >= 0 else 0  # broken, unless the other one has come, too
    outcomes = driver.run(one(Together(pair())))
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert driver._pool is None
    close(client, driver)


@each_protocol
@pytest.mark.parametrize("limited", ["a", "b"])
def test_limited_request_is_upstream_s_own_error(server: Server, prefer_grpc: bool, limited: str) -> None:
    """Upstream has a class of its own for a server that limits requests, on either side."""
    client, driver = blocking(server, prefer_grpc=prefer_grpc)
    server.answer = lambda where: 429 if where == limited or f"/{limited}/" in where else 200
    outcomes = dict(zip("ab", driver.run(one(Together(pair()))), strict=True))
    error = outcomes.pop(limited).error
    assert isinstance(error, ResourceExhaustedResponse)
    assert error.retry_after_s == 3
    assert [outcome.error for outcome in outcomes.values()] == [None]
    close(client, driver)


@each_protocol
def test_callers_never_wait_for_each_other_s_connections(server: Server, prefer_grpc: bool) -> None:
    """With two connections and four callers, nobody holds one of them while he waits for another one."""
    client, driver = blocking(server, prefer_grpc=prefer_grpc, limits=httpx.Limits(max_connections=2))
    server.answer = lambda _: time.sleep(0.05) or 200
    outcomes: list[Outcome] = []
    threads = [threading.Thread(target=lambda: outcomes.extend(driver.run(one(Together(pair()))))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert [outcome.error for outcome in outcomes] == [None] * 8
    close(client, driver)


@each_protocol
@pytest.mark.parametrize("at", ["a", "b"])
def test_interrupt_leaves_the_points_in_the_journal(
    server: Server, prefer_grpc: bool, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while both are under way: either may have been carried out, or may yet be."""
    client, driver = blocking(server, prefer_grpc=prefer_grpc)
    original = encoding.grpc_results if prefer_grpc else encoding.rest_results
    answered = iter("ba")  # the second one's answer is awaited first

    def interrupted(answer: Any) -> Any:
        if next(answered) == at:
            raise KeyboardInterrupt
        return original(answer)

    monkeypatch.setattr(encoding, original.__name__, interrupted)
    found = session()
    with pytest.raises(KeyboardInterrupt):
        driver.run(write.write(found, "upsert", "a", {"points": [models.PointStruct(id=1, vector=[1.0])]}))
    journal = found.journal(MIGRATION)
    journal.flushed(journal.start_flush())
    assert journal.start_flush().ids == (1,)
    assert len(found.unanswered()) == 1
    close(client, driver)


async def test_cancellation_leaves_the_points_in_the_journal(server: Server) -> None:
    """As on the blocking side."""
    client = AsyncQdrantClient(**OPTIONS, **server.options)
    arrived, go_on = threading.Semaphore(0), threading.Event()

    def answer(_: str) -> int:
        arrived.release()
        go_on.wait(DEADLINE_S)
        return 200

    async def fresh(_: bool) -> None:
        """Do nothing."""

    server.answer = answer
    found = session()
    points = [models.PointStruct(id=1, vector=[1.0])]
    driver = AsyncioDriver(lambda _: client, fresh=fresh)
    task = asyncio.create_task(driver.run(write.write(found, "upsert", "a", {"points": points})))
    for _ in range(2):
        assert await asyncio.to_thread(arrived.acquire, timeout=DEADLINE_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    journal = found.journal(MIGRATION)
    journal.flushed(journal.start_flush())
    assert journal.start_flush().ids == (1,)
    await client.close()


@each_protocol
def test_outcomes_are_in_order_whichever_goes_first(server: Server, prefer_grpc: bool) -> None:
    """The client's own server goes first on the wire; the truth's outcome is first in the answer."""
    client, other = (QdrantClient(**OPTIONS, **server.options, prefer_grpc=prefer_grpc) for _ in range(2))
    driver = BlockingDriver(lambda name: other if name else client)
    server.answer = lambda where: 429 if where == "a" or "/a/" in where else 200
    outcomes = driver.run(one(Together(pair(servers=("http://elsewhere", "")))))
    assert isinstance(outcomes[0].error, ResourceExhaustedResponse)
    assert outcomes[1].error is None
    # Reads and heartbeats of the client's own server must not wait for the other one.
    assert prefer_grpc or driver._twice._own is not None
    close(client, driver)
    other.close()


def test_transport_that_does_not_tell_is_left_to_upstream_s_way() -> None:
    """A write is not sent to one side after the other for longer than it takes to notice."""
    sent: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.url.path)
        return httpx.Response(200, content=ANSWER)

    client = QdrantClient(url="http://127.0.0.1:9", check_compatibility=False, transport=httpx.MockTransport(answer))
    twice_ = Twice(lambda _: client)
    outcomes = twice_.send(pair())
    assert outcomes is not None
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert sent == ["/collections/a/points/batch", "/collections/b/points/batch"]
    assert twice_.send(pair()) is None
    twice_.close()
    client.close()


def test_whoever_has_wrapped_upstream_s_method_sees_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instrumentation keeps working while a migration lives."""
    client = QdrantClient(url="http://127.0.0.1:9", check_compatibility=False)
    for where in (QdrantClient, client._client):
        with monkeypatch.context() as patch:
            patch.setattr(where, "batch_update_points", lambda *_, **__: [])
            assert Twice(lambda _: client).send(pair()) is None
    assert Twice(lambda _: client).send(pair()) is not None
    client.close()


@pytest.mark.parametrize(
    "effects",
    [
        pair()[:1],
        (pair()[0], Call("", "upsert", "b", (), ARGUMENTS)),
        (pair()[0], Call("", "batch_update_points", "b", (), {**ARGUMENTS})),
        (*pair(), pair()[0]),
    ],
    ids=["one", "another method", "other arguments", "three"],
)
def test_other_effects_are_no_pair(effects: tuple[Effect, ...]) -> None:
    """Only the very same arguments are known to be the same."""
    assert encoding.pair(effects) is None


def test_upstream_that_sends_another_way_is_noticed_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A future version's method may want what the stand-in does not have, or return without sending."""
    client = QdrantClient(url="http://127.0.0.1:9", check_compatibility=False)
    monkeypatch.setattr(encoding._Client, "batch_update_points", lambda *_, **__: [])
    with pytest.raises(TypeError, match="by a way that qferry does not know"):
        encoding.encoded(client, pair()[0])
    assert Twice(lambda _: client).send(pair()) is None
    client.close()


def test_places_known_are_few(server: Server) -> None:
    """A deadline of its own for each call does not fill the memory."""
    client, driver = blocking(server)
    for seconds in range(1, 100):
        driver.run(one(Together(pair({**ARGUMENTS, "timeout": seconds}))))
    assert len(driver._twice._places._known) <= encoding._PLACES_MAX
    assert {where.split("timeout=")[1] for where, _, _ in server.seen} == {str(n) for n in range(1, 100)}
    close(client, driver)
