"""
A write in the form in which it goes onto the wire, made once for both sides.

Nothing here knows how a write is encoded.  Upstream's own method is called on a stand-in for its client that keeps
what it is asked to send, so what both sides receive is what upstream would have sent to each.  The stand-in offers
upstream no more than what its method needs today: should a version of it want anything else, making the encoding
fails, nothing has been sent, and the drivers go upstream's own way, once for each side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import httpx
from qdrant_client import AsyncQdrantClient, QdrantClient, grpc
from qdrant_client.async_qdrant_remote import AsyncQdrantRemote
from qdrant_client.conversions.conversion import GrpcToRest
from qdrant_client.http import ApiClient, models
from qdrant_client.http.api.points_api import SyncPointsApi
from qdrant_client.qdrant_remote import QdrantRemote

from qferry.flows.effects import Call, Effect

_UPSTREAM = tuple(
    kind.batch_update_points for kind in (QdrantClient, AsyncQdrantClient, QdrantRemote, AsyncQdrantRemote)
)
_PLACES_MAX = 64  # collections times options; they are few, but a caller may give each call a deadline of its own


@dataclass(frozen=True)
class RestWrite:
    """A write as upstream hands it to `ApiClient.request`."""

    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class GrpcWrite:
    """A write as upstream hands it to its stub."""

    message: grpc.UpdateBatchPoints
    timeout_s: float


class _Kept(BaseException):
    """What upstream was about to send; raised past all of its code, none of which may run on."""

    def __init__(self, write: RestWrite | GrpcWrite) -> None:
        self.write = write


class _Connection:
    def request(self, **arguments: Any) -> NoReturn:
        raise _Kept(RestWrite(arguments))


class _Stub:
    def UpdateBatch(self, message: grpc.UpdateBatchPoints, timeout: float) -> NoReturn:  # noqa: N802  upstream's name
        raise _Kept(GrpcWrite(message, timeout))


class _Apis:
    points_api = SyncPointsApi(_Connection())  # a stand-in


class _Remote:
    batch_update_points = QdrantRemote.batch_update_points
    openapi_client = _Apis()
    grpc_points = _Stub()

    def __init__(self, remote: Any) -> None:
        self._prefer_grpc, self._timeout = remote._prefer_grpc, remote._timeout  # noqa: SLF001  see the module


class _Client:
    batch_update_points = QdrantClient.batch_update_points

    def __init__(self, client: Any, operations: Sequence[Any]) -> None:
        self._client = _Remote(client._client)  # noqa: SLF001  see the module
        # What turns documents into vectors in this process, if need be: once, too.  Upstream looks for documents in
        # every field of every point, unless somebody else would see to them.
        self.cloud_inference = client.cloud_inference or _has_numbers_only(operations)
        self.local_inference_batch_size = client.local_inference_batch_size
        self._inference_inspector = client._inference_inspector  # noqa: SLF001
        self._embed_models = client._embed_models  # noqa: SLF001


def _has_numbers_only(operations: Sequence[Any]) -> bool:
    """Whether these are upserts of points with one plain vector each; what else there may be is upstream's to judge."""
    for operation in operations:
        points = getattr(getattr(operation, "upsert", None), "points", None)
        if points is None or not all(type(point.vector) is list for point in points):
            return False
    return True


def pair(effects: Sequence[Effect]) -> tuple[Call, Call] | None:
    """The two calls of a write that differ in nothing but their place, if that is what `effects` are."""
    match effects:
        case (Call(method="batch_update_points") as first, Call(method="batch_update_points") as second):
            return (first, second) if first.kwargs is second.kwargs and not (first.args or second.args) else None
    return None


def encoded(client: Any, call: Call) -> RestWrite | GrpcWrite:
    """
    What `client` (blocking or asyncio; both encode alike) would send for `call`, a `batch_update_points`.

    Raises:
        Exception: Upstream's own about the arguments, or a sign that upstream has changed; nothing was sent.
    """
    kind = QdrantClient if isinstance(client, QdrantClient) else AsyncQdrantClient
    remote = client._client.batch_update_points  # noqa: SLF001  see the module
    if kind.batch_update_points not in _UPSTREAM or getattr(remote, "__func__", remote) not in _UPSTREAM:
        # For his metrics, perhaps: he must go on seeing each call of it.
        raise TypeError("Somebody has put a method of his own around upstream's.")
    try:
        _Client(client, call.kwargs["update_operations"]).batch_update_points(call.collection, **call.kwargs)  # type: ignore[misc]  # a stand-in
    except _Kept as kept:
        return kept.write
    raise TypeError("qdrant-client has sent the write by a way that qferry does not know.")


class Places:
    """
    Makes requests for a `RestWrite`.

    Upstream's own code makes the first one to a place; later ones are the same but for what they carry.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], httpx.Request] = {}

    def request(
        self,
        connection: Any,
        http: httpx.Client | httpx.AsyncClient,
        write: RestWrite,
        collection: str,
        like: httpx.Request | None = None,
    ) -> httpx.Request:
        """
        The request that brings `write` to `collection`.

        Args:
            connection: The `ApiClient` or `AsyncApiClient` that will send it.
            http: The httpx client of that; it adds keys, headers and cookies.
            write: The write.
            collection: Where it goes.
            like: The request that brings it to another collection of the same server, if there is one.
        """
        key = (connection.host, collection, *write.arguments["params"].items())
        place = self._known.get(key)
        if place is None:
            if len(self._known) >= _PLACES_MAX:
                self._known = {}
            builder: Any = _Builder(connection.host, http)
            arguments = {**write.arguments, "content": None, "path_params": {"collection_name": collection}}
            place = self._known[key] = ApiClient.request(builder, **arguments)
        extensions = {"timeout": dict(place.extensions["timeout"])}
        if like is not None:
            return httpx.Request(
                place.method, place.url, headers=like.headers, stream=like.stream, extensions=extensions
            )
        body, headers = write.arguments["content"], write.arguments["headers"]
        return http.build_request(place.method, place.url, content=body, headers=headers, extensions=extensions)


class _Builder:
    """Stands in for an `ApiClient`: builds a request and does not send it."""

    def __init__(self, host: str, http: httpx.Client | httpx.AsyncClient) -> None:
        self.host, self._client = host, http

    def send(self, request: httpx.Request, _: Any) -> httpx.Request:
        return request


def rest_results(answer: Any) -> list[models.UpdateResult]:
    """What upstream makes of a server's answer over REST."""
    if answer.result is None:
        raise AssertionError("Batch update points returned None")
    results: list[models.UpdateResult] = answer.result
    return results


def grpc_results(answer: grpc.UpdateBatchResponse) -> list[models.UpdateResult]:
    """What upstream makes of a server's answer over gRPC."""
    return [GrpcToRest.convert_update_result(result) for result in answer.result]
