"""What the Qdrant client's errors say, whether they came by REST or by gRPC."""

from __future__ import annotations

from http import HTTPStatus
from typing import TypeAlias

import grpc
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

QdrantError: TypeAlias = UnexpectedResponse | ResponseHandlingException | grpc.RpcError
QDRANT_ERRORS = (UnexpectedResponse, ResponseHandlingException, grpc.RpcError)

_NO_ANSWER = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def status_of(error: QdrantError) -> str | None:
    """With what status the server has refused a call; None if it did not answer."""
    if isinstance(error, UnexpectedResponse):
        return str(error.status_code)
    if isinstance(error, ResponseHandlingException) or error.code() in _NO_ANSWER:
        return None
    return str(error.code().name)


def text_of(error: QdrantError) -> str:
    """What the server has said, or why there is no answer; one line."""
    if isinstance(error, UnexpectedResponse):
        text = error.content.decode(errors="replace")
    else:
        text = str(error.details() if isinstance(error, grpc.RpcError) else error)
    return " ".join(text.split())


def is_missing(error: QdrantError) -> bool:
    """Whether the server says that a collection, or a point of it, does not exist."""
    return status_of(error) in (str(HTTPStatus.NOT_FOUND.value), grpc.StatusCode.NOT_FOUND.name)
