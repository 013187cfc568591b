"""What an error of a call says about the write behind it."""

from __future__ import annotations

import json
from enum import Enum

import grpc
import httpx
from pydantic import ValidationError
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from qferry.errors import Misuse, Rejected


class Fate(Enum):
    """Whether a write that ended in an error was carried out."""

    REJECTED = "rejected"  # the server said no; at most a part was applied, and nothing more will be
    MISSING_POINT = "missing_point"  # a partial update named an absent point; other points may have been changed
    UNKNOWN = "unknown"  # it may have been, or may yet be, carried out


_GRPC_REJECTIONS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
# What upstream, or qferry, raises before anything is sent; errors of an answer come wrapped.
_MISTAKES = (TypeError, AssertionError, ValidationError, Misuse)
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)  # it never left this process
_TIMEOUT, _SERVER_ERROR = 408, 500


def fate_of(error: BaseException) -> Fate:
    """
    What `error` says about the write behind it; in doubt, `UNKNOWN`.

    A partial update over several shards of which one misses a point answers 500 with the same text as the 404.
    """
    if "No point with id" in text_of(error):
        return Fate.MISSING_POINT
    if isinstance(error, (ResourceExhaustedResponse, *_MISTAKES)):
        return Fate.REJECTED
    if isinstance(error, ResponseHandlingException) and isinstance(error.source, _NOT_SENT):
        return Fate.REJECTED
    if isinstance(error, grpc.RpcError):
        return Fate.REJECTED if error.code() in _GRPC_REJECTIONS else Fate.UNKNOWN
    status = error.status if isinstance(error, Rejected) else getattr(error, "status_code", None)
    if status is not None and status < _SERVER_ERROR and status != _TIMEOUT:
        return Fate.REJECTED
    return Fate.UNKNOWN


def text_of(error: BaseException) -> str:
    """The server's own words, or the error's."""
    if isinstance(error, grpc.RpcError):
        return str(error.details())
    if isinstance(error, UnexpectedResponse):
        try:
            return str(json.loads(error.content)["status"]["error"])
        except (ValueError, KeyError, TypeError):
            return str(error)
    return str(error)
