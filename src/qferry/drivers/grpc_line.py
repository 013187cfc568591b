"""
`UpdateBatch` over gRPC, with something to do between the moment it is sent and the moment its answer is awaited.

gRPC's own way to go on meanwhile, `future`, has the answer handed over by a thread of its own, at twice the cost of a
blocking call.  A blocking call sends, then asks its channel for what comes next; here the channel does `meanwhile`
before it answers that.  The channel's name for that is private: should it be called otherwise one day, `meanwhile` is
not called, and whoever gave it must look whether it was.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import grpc
from qdrant_client import grpc as messages
from qdrant_client.connection import header_adder_interceptor, parse_channel_options, parse_ssl_credentials

_METHOD = "/qdrant.Points/UpdateBatch"

Metadata = Sequence[tuple[str, str]]


class GrpcLine:
    """
    A line to a server with upstream's options, keys, headers and errors.

    Its channel shares the connection of upstream's, which have the same options.

    Args:
        remote: The `QdrantRemote` whose server it is.
    """

    def __init__(self, remote: Any) -> None:
        options = dict(remote._grpc_options)  # noqa: SLF001  like upstream's `_init_grpc_channel` and `get_channel`
        certificates = parse_ssl_credentials(options)  # takes them out of the options
        address = f"{remote._host}:{remote._grpc_port}"  # noqa: SLF001
        rest = (parse_channel_options(options), remote._grpc_compression)  # noqa: SLF001
        if remote._https:  # noqa: SLF001
            self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(**certificates), *rest)
        else:
            self._channel = grpc.insecure_channel(address, *rest)
        self._headers = header_adder_interceptor(remote._grpc_headers, remote._auth_token_provider)  # noqa: SLF001
        self._thread = threading.local()
        call: Any = self._channel.unary_unary(
            _METHOD,
            request_serializer=messages.UpdateBatchPoints.SerializeToString,
            response_deserializer=messages.UpdateBatchResponse.FromString,
        )
        call._channel = _Attended(call._channel, self._thread)  # noqa: SLF001
        self._call = call

    def metadata(self) -> Metadata:
        """The headers of a call, with the token of now."""
        details: _Details = self._headers.intercept_unary_unary(
            lambda details, _: _Details(details.metadata), _Details(), None
        )
        return details.metadata or ()

    def update_batch(
        self,
        message: messages.UpdateBatchPoints,
        timeout_s: float,
        metadata: Metadata,
        meanwhile: Callable[[], None] | None = None,
    ) -> messages.UpdateBatchResponse:
        """
        Send `message`, do `meanwhile`, and only then wait for the answer.

        Raises:
            grpc.RpcError, ResourceExhaustedResponse: What upstream's stub raises.
        """
        self._thread.meanwhile = meanwhile
        try:
            answer: messages.UpdateBatchResponse = self._call(message, timeout=timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            # Upstream's interceptor has another word for a server that limits requests.
            raised = error
            self._headers.intercept_unary_unary(lambda *_: raised, _Details(), None)
            raise
        return answer

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


class _Details(NamedTuple):
    """As much of a `grpc.ClientCallDetails`, and of an answer, as upstream's interceptor reads."""

    metadata: Metadata | None = None
    method: str = _METHOD
    timeout: float | None = None
    credentials: None = None

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK


class _Attended:
    """A channel whose calls do what their thread has left for them before they wait."""

    def __init__(self, channel: Any, thread: threading.local) -> None:
        self._channel = channel
        self._thread = thread

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def segregated_call(self, *args: Any) -> Any:
        call = self._channel.segregated_call(*args)
        meanwhile, self._thread.meanwhile = self._thread.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return call
