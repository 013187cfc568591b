"""Tests of the raw gRPC channel: what its errors mean, and whether anybody answers."""

import pickle
import time

import grpc
import pytest
from qdrant_client import grpc as qdrant
from transferring import Rest, vectors_of, write_typed

from qferry.errors import Rejected, RemoteFailure, Unreachable
from qferry.server import QdrantServer
from qferry.transfer.channel import Channel, translated

# Each status of gRPC and the one of REST it stands for; None where nobody knows what became of the request.
STATUSES: dict[grpc.StatusCode, int | None] = {
    grpc.StatusCode.OK: None,
    grpc.StatusCode.CANCELLED: None,
    grpc.StatusCode.UNKNOWN: None,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: None,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 500,
    grpc.StatusCode.ABORTED: None,
    grpc.StatusCode.UNIMPLEMENTED: 405,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.INTERNAL: None,
    grpc.StatusCode.UNAVAILABLE: None,
    grpc.StatusCode.DATA_LOSS: 400,
}


class Entry:
    """One pair of a call's metadata."""

    def __init__(self, key: str) -> None:
        self.key, self.value = key, "1"


class RpcError(grpc.RpcError):
    """An error of gRPC, as a channel raises it."""

    def __init__(self, code: grpc.StatusCode, details: str = "no.", trailers: tuple[Entry, ...] = ()) -> None:
        self._code, self._details, self._trailers = code, details, trailers

    def code(self) -> grpc.StatusCode:
        """The status."""
        return self._code

    def details(self) -> str:
        """The server's words."""
        return self._details

    def trailing_metadata(self) -> tuple[Entry, ...]:
        """What came after the answer."""
        return self._trailers


def test_every_status_of_grpc_is_mapped() -> None:
    """A status that upstream adds fails this test before it surprises anyone."""
    assert set(grpc.StatusCode) == STATUSES.keys()


@pytest.mark.parametrize("code", STATUSES)
def test_status_becomes_that_of_rest(code: grpc.StatusCode) -> None:
    """A refusal has REST's status; everything else leaves open what became of the request."""
    error = translated(RpcError(code), "Points/Upsert")
    status = STATUSES[code]
    if status is None:
        assert type(error) is Unreachable
        assert error.message == f"The server gave no usable answer to Points/Upsert: {code.name} no."
    else:
        assert isinstance(error, Rejected)
        assert error.status == status
        assert error.message == f"The server answered {status} ({code.name}) to Points/Upsert: no."
        assert (error.missing, error.exists, error.forbidden) == (status == 404, status == 409, status == 403)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RpcError(grpc.StatusCode.INTERNAL, "failed to decode Protobuf message: recursion limit reached"), 400),
        (RpcError(grpc.StatusCode.FAILED_PRECONDITION, "Storage locked: read only"), 403),
        (RpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, "disk", (Entry("qdrant-insufficient-storage"),)), 507),
        (RpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, "rate", (Entry("retry-after"),)), 429),
    ],
)
def test_words_and_marks_decide_where_one_status_stands_for_two(error: RpcError, status: int) -> None:
    """A request that was not even read is refused; a lock and a full disk are told from their namesakes."""
    found = translated(error, "Points/Upsert", whose="target's server")
    assert isinstance(found, Rejected)
    assert found.status == status
    assert found.message.startswith(f"The target's server answered {status} ")


def test_missing_collection_is_rejected_as_missing(channel: Channel, collection_name: str) -> None:
    """A name that is not there is a 404, as by REST."""
    with pytest.raises(Rejected) as raised:
        channel.call("Points/Count", qdrant.CountPoints(collection_name=collection_name))
    assert raised.value.missing
    assert raised.value.final


def test_request_that_the_server_cannot_read_is_refused(channel: Channel, collection_name: str) -> None:
    """What is nested too deeply comes back as 400, not as something to be tried again."""
    inner = b""
    for _ in range(60):  # ListValue within ListValue; protobuf would not build it
        inner = b"\x3a" + _length(b"\x0a" + _length(inner))
    entry = b"\x0a\x01p\x12" + _length(inner)
    request = b"\x0a" + _length(collection_name.encode()) + b"\x1a" + _length(b"\x1a" + _length(entry))
    with pytest.raises(Rejected) as raised:
        channel.call("Points/Upsert", Raw(request))
    assert raised.value.status == 400


class Raw:
    """Bytes that stand for a message."""

    def __init__(self, encoded: bytes) -> None:
        self._encoded = encoded

    def SerializeToString(self, **_: bool) -> bytes:  # noqa: N802  protobuf's own name
        """The bytes."""
        return self._encoded


def _length(encoded: bytes) -> bytes:
    low, high = len(encoded) & 0x7F, len(encoded) >> 7
    return (bytes([low | 0x80, high]) if high else bytes([low])) + encoded


def test_answers_tells_a_qdrant_from_a_dead_port(channel: Channel, qdrant_ports: tuple[str, int]) -> None:
    """A port where nobody listens, and one that does not speak gRPC, mean REST."""
    url, http_port = qdrant_ports
    assert channel.answers()
    for port in (1, http_port):
        dead = Channel(url, grpc_port=port)
        assert not dead.answers(deadline_s=1.0)
        dead.close()


@pytest.fixture
def qdrant_ports(qdrant: object) -> tuple[str, int]:
    """Give the shared server's URL and REST port."""
    return qdrant.url, qdrant.http_port  # type: ignore[attr-defined]  # an Endpoint of the top conftest


def test_wrong_key_is_rejected_and_right_key_is_not() -> None:
    """The key travels with every call; without it the server still answers that it is there."""
    with QdrantServer.start(api_key="right") as server:
        for key in (None, "wrong"):
            stranger = Channel(server.url, grpc_port=server.grpc_port, api_key=key)
            assert stranger.answers()
            with pytest.raises(Rejected) as raised:
                stranger.sees("nothing")
            assert raised.value.status in {401, 403}
            assert "Check the API key" in raised.value.hint
            stranger.close()
        friend = Channel(server.url, grpc_port=server.grpc_port, api_key="right")
        assert friend.sees("nothing") is False
        friend.close()


def test_stopped_and_frozen_servers_are_unreachable_and_found_again(fresh_qdrant: QdrantServer) -> None:
    """A deadline ends a call to a frozen server; one that restarts is found without a new channel."""
    channel = Channel(fresh_qdrant.url, grpc_port=fresh_qdrant.grpc_port, timeout_s=1.0)
    assert channel.answers()
    fresh_qdrant.pause()
    while channel.answers():  # a signal takes a moment to freeze all of a server's threads
        pass
    with pytest.raises(Unreachable):
        channel.sees("nothing")
    fresh_qdrant.resume()
    fresh_qdrant.kill()
    with pytest.raises(Unreachable):
        channel.sees("nothing")
    assert not channel.answers()
    fresh_qdrant.restart()
    until = time.monotonic() + 10.0
    while not channel.answers():
        assert time.monotonic() < until
    channel.close()


def test_sees_names_aliases_and_points(channel: Channel, rest: Rest, collection_name: str, other_name: str) -> None:
    """It tells the server that has a name, an alias or a point from one that has not."""
    assert not channel.sees(collection_name)
    rest.create(collection_name, {"vectors": {"size": 2, "distance": "Dot"}})
    assert channel.sees(collection_name)
    assert not channel.sees(other_name)
    alias = {"alias_name": other_name, "collection_name": collection_name}
    rest.ask("POST", "/collections/aliases", {"actions": [{"create_alias": alias}]})
    assert channel.sees(other_name)
    assert not channel.sees(other_name, 7)
    rest.write(collection_name, [{"id": 7, "vector": [1.0, 2.0]}])
    assert channel.sees(other_name, 7)


def test_messages_beyond_the_default_limit_of_4_mb_pass(channel: Channel, rest: Rest, collection_name: str) -> None:
    """Both ways, 40 MB: more than REST takes."""
    rest.create(collection_name, {"vectors": {"size": 2, "distance": "Dot"}})
    text = qdrant.Value(string_value="x" * 10_000_000)
    points = [
        qdrant.PointStruct(id=qdrant.PointId(num=n), payload={"t": text}, vectors=vectors_of([1.0, 2.0]))
        for n in range(4)
    ]
    write_typed(channel, collection_name, *points)
    request = qdrant.ScrollPoints(
        collection_name=collection_name, limit=4, with_payload=qdrant.WithPayloadSelector(enable=True)
    )
    assert len(channel.call("Points/Scroll", request)) > 40_000_000


@pytest.mark.parametrize("url", ["https://localhost", "localhost", "http://[::1]:6333"])
def test_any_form_of_url_makes_a_channel(url: str) -> None:
    """TLS, a bare host and IPv6; nobody listens there."""
    channel = Channel(url, grpc_port=1)
    with pytest.raises(RemoteFailure):
        channel.call("Qdrant/HealthCheck", qdrant.HealthCheckRequest(), timeout_s=1.0)
    channel.close()
