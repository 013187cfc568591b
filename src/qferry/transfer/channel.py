"""
A raw gRPC channel of the coordinator's own: bytes in, bytes out, and errors that are qferry's.

qdrant-client's channel lets the server compress its answers: 50,000 points of 768 dimensions take 19.5 s instead of
0.8 s.  Its interceptors and converters cost as much again.  Source: servers 1.14 to 1.19 (`src/tonic/mod.rs`,
`lib/storage/src/content_manager/conversions.rs`).
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Final, Protocol, TypeAlias, cast
from urllib.parse import urlsplit

import grpc
from google.protobuf.message import DecodeError
from qdrant_client.grpc import CountPoints, GetPoints, GetResponse, HealthCheckRequest

from qferry.errors import Rejected, RemoteFailure, Unreachable
from qferry.protocol.journal import PointId
from qferry.transfer.ids import to_proto

GRPC_PORT: Final = 6334
# About 1 MB of 768 dimensions.  Of 100 to 2,000 points a page, 200 to 500 were the fastest to copy and to compare:
# larger messages cost page faults on both sides, smaller ones round trips.
PAGE_POINTS: Final = 300
# Long enough for a TLS handshake across an ocean; a port that drops packets is given up for REST after that.
ANSWER_DEADLINE_S: Final = 2.0
_OPTIONS: Final = (
    # Accept uncompressed answers only (bit 0, "identity"): the server compresses whenever it may, and floats do not.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    # gRPC lets its windows grow with what a connection could carry: on a fast one to tens of megabytes for each stream.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", 2 * 1024 * 1024),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A server that restarts is found again soon; the default waits up to two minutes between attempts.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A connection per channel; otherwise all channels to a server share one.
    ("grpc.use_local_subchannel_pool", 1),
)
# The server's own table, backwards (`impl From<StorageError> for Status`), where a refusal is certain.  Everything
# else leaves open what became of the request.
_STATUSES: Final = {
    grpc.StatusCode.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.OUT_OF_RANGE: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.DATA_LOSS: HTTPStatus.BAD_REQUEST,  # a checksum that does not match
    grpc.StatusCode.UNAUTHENTICATED: HTTPStatus.UNAUTHORIZED,
    grpc.StatusCode.PERMISSION_DENIED: HTTPStatus.FORBIDDEN,
    grpc.StatusCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED: HTTPStatus.METHOD_NOT_ALLOWED,
    grpc.StatusCode.ALREADY_EXISTS: HTTPStatus.CONFLICT,
    grpc.StatusCode.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    # "Pre-condition failure", which REST answers with 500: a shard was not in a state to do all of it.
    grpc.StatusCode.FAILED_PRECONDITION: HTTPStatus.INTERNAL_SERVER_ERROR,
}
_LOCKED: Final = "Storage locked"  # the other FAILED_PRECONDITION: nothing was done
_NO_ROOM: Final = "qdrant-insufficient-storage"  # marks the other RESOURCE_EXHAUSTED, from 1.18 on
# The server could not read the request, hence did nothing.  A payload nested too deeply ends here (`fidelity`).
_UNREADABLE: Final = "failed to decode Protobuf message"


_Send: TypeAlias = Callable[..., bytes]  # of gRPC's stubs no serializer, which means bytes, is a `Never`


class Encodable(Protocol):
    """A protobuf message, of whichever pool."""

    def SerializeToString(self, **options: bool) -> bytes:  # noqa: N802  protobuf's own name
        """Its bytes."""


class Channel:
    """
    One connection to one server, for any number of threads; parallel streams are faster on a channel each.

    You must `close` it, and before anything is read you must know that it leads to the server that REST leads to:
    a port that is mapped elsewhere answers just as well.  `sees` asks for a name or a point only that server has.

    Args:
        url: The server's REST URL; `https` means TLS here too.
        grpc_port: Where the server listens for gRPC; it is not part of the URL.
        api_key: The key, if one is needed.
        timeout_s: Deadline of one call, in seconds.
        whose: Whose server it is, for messages: "server" or "target's server".
    """

    def __init__(
        self,
        url: str,
        *,
        grpc_port: int = GRPC_PORT,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        whose: str = "server",
    ) -> None:
        parts = urlsplit(url if "//" in url else f"//{url}")
        host = parts.hostname or "localhost"
        address = f"[{host}]:{grpc_port}" if ":" in host else f"{host}:{grpc_port}"
        if parts.scheme == "https":
            self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(), options=_OPTIONS)
        else:
            self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        self._metadata = (("api-key", api_key),) if api_key is not None else ()
        self._timeout_s = timeout_s
        self._whose = whose
        self._methods: dict[str, _Send] = {}

    def call(self, method: str, request: Encodable, *, timeout_s: float | None = None) -> bytes:
        """
        Call a method and return its answer as it came.

        Args:
            method: Service and name, such as `Points/Scroll`.
            request: The request.
            timeout_s: Deadline in seconds; None is the channel's own.

        Raises:
            Rejected: The server refused; `status` is what REST would have answered.
            Unreachable: Nobody knows whether it was, or will be, carried out.
        """
        send = self._methods.get(method)
        if send is None:
            send = self._methods[method] = cast("_Send", self._channel.unary_unary(f"/qdrant.{method}"))
        deadline_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            return send(request.SerializeToString(), timeout=deadline_s, metadata=self._metadata)
        except grpc.RpcError as error:
            raise translated(error, method, whose=self._whose) from error

    def answers(self, *, deadline_s: float = ANSWER_DEADLINE_S) -> bool:
        """Whether a Qdrant answers here by gRPC, with or without the right key; if not, use REST."""
        try:
            self.call("Qdrant/HealthCheck", HealthCheckRequest(), timeout_s=deadline_s)
        except Rejected as refusal:
            return refusal.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
        except Unreachable:
            return False
        return True

    def sees(self, collection: str, point_id: PointId | None = None) -> bool:
        """
        Whether this server has a collection or alias of that name, and in it that point, if one is given.

        Raises:
            RemoteFailure: It cannot be asked.
        """
        try:
            if point_id is None:
                self.call("Points/Count", CountPoints(collection_name=collection, exact=False))
                return True
            answer = self.call("Points/Get", GetPoints(collection_name=collection, ids=[to_proto(point_id)]))
        except Rejected as refusal:
            if refusal.missing:
                return False
            raise
        return bool(GetResponse.FromString(answer).result)

    def close(self) -> None:
        """Let the connection go; calls under way are cancelled."""
        self._channel.close()


def translated(error: grpc.RpcError, method: str, *, whose: str = "server") -> RemoteFailure:
    """An error of gRPC as qferry's, like `drivers.http.translated` for REST."""
    code: grpc.StatusCode = error.code()
    words = str(error.details() or "").strip().rstrip(".")
    status = _status(code, words, error)
    if status is not None:
        return Rejected(
            f"The {whose} answered {status} ({code.name}) to {method}: {words}.", hint=_hint(status), status=int(status)
        )
    return Unreachable(
        f"The {whose} gave no usable answer to {method}: {code.name} {words}".rstrip() + ".",
        hint="Check that the server runs and that the URL is right.",
    )


def undecodable(error: DecodeError, method: str) -> Rejected:
    """The error of an answer that protobuf refuses to read, such as a payload nested more than 32 deep."""
    return Rejected(f"The answer to {method} cannot be read: {error}.", status=int(HTTPStatus.BAD_REQUEST))


def _status(code: grpc.StatusCode, words: str, error: grpc.RpcError) -> HTTPStatus | None:
    if code is grpc.StatusCode.INTERNAL and _UNREADABLE in words:
        return HTTPStatus.BAD_REQUEST
    if code is grpc.StatusCode.FAILED_PRECONDITION and words.startswith(_LOCKED):
        return HTTPStatus.FORBIDDEN
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _NO_ROOM in _trailers(error):
        return HTTPStatus.INSUFFICIENT_STORAGE
    return _STATUSES.get(code)


def _trailers(error: grpc.RpcError) -> set[str]:
    return {entry.key for entry in error.trailing_metadata() or ()}


def _hint(status: HTTPStatus) -> str:
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return "Check the API key (--api-key, QDRANT_API_KEY) and what it may access."
    return ""
