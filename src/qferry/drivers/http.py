"""What both drivers share: how a `Request` is put on qdrant-client's own HTTP connection, and what its errors mean."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import orjson
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from qferry.errors import Rejected, RemoteFailure, Unreachable
from qferry.flows.effects import Request
from qferry.flows.fate import text_of

_TOO_MANY_REQUESTS = 429
_WORDS_MAX = 200  # bytes of an answer that is not in the form of one


def arguments(request: Request) -> dict[str, Any]:
    """The request as arguments of qdrant-client's `ApiClient.request`, which adds keys, headers and tokens."""
    sent: dict[str, Any] = {"type_": object, "method": request.method, "url": request.path}
    if request.params:
        sent["params"] = dict(request.params)
    if request.body is not None:
        sent["content"] = orjson.dumps(request.body)
        sent["headers"] = {"Content-Type": "application/json"}
    if request.timeout_s is not None:
        sent["timeout"] = request.timeout_s
    return sent


def result_of(answer: Any, request: Request) -> Any:
    """
    The `result` member of an answer; the whole of it where there is none (`GET /`).

    Raises:
        Unreachable: A write that was to be waited for is only accepted: servers from 1.18 answer 200 with
            `wait_timeout` when it is not applied in time.
    """
    result = answer.get("result", answer) if isinstance(answer, dict) else answer
    waited = request.params.get("wait") == "true" and isinstance(result, dict) and "operation_id" in result
    if waited and result.get("status") != "completed":
        raise Unreachable(
            f"The server has accepted {request.method} {request.path}, but not applied it in time.",
            hint="It is overloaded; try again.",
        )
    return result


def translated(error: Exception, request: Request) -> RemoteFailure:
    """A qdrant-client error of one of qferry's own requests, as qferry's."""
    what = f"{request.method} {request.path}"
    server = "target's server" if request.server else "server"
    if isinstance(error, UnexpectedResponse):
        return Rejected(
            f"The {server} answered {error.status_code} to {what}: {_words(error)}.",
            hint=_hint(error.status_code),
            status=error.status_code,
            server=request.server,
        )
    if isinstance(error, ResourceExhaustedResponse):
        return Rejected(f"The {server} is limiting requests: {error}.", status=_TOO_MANY_REQUESTS)
    cause = error.source if isinstance(error, ResponseHandlingException) else error
    told = _told(f"{type(cause).__name__} {cause}")
    return Unreachable(
        f"The {server} gave no answer to {what}: {told}.",
        hint="Check that the server runs and that the URL is right.",
    )


def _words(error: UnexpectedResponse) -> str:
    """What a server has answered, on one line; it refuses keys in plain text, and a proxy answers in HTML."""
    words = text_of(error)
    if words == str(error):
        words = " ".join(error.content[:_WORDS_MAX].decode(errors="replace").split()) or error.reason_phrase
    return _told(words)


def _told(words: str) -> str:
    """A server's or library's words as the end of a sentence of ours, which brings its own full stop."""
    return words.strip().rstrip(".")


def _hint(status: int | None) -> str:
    if status in (401, 403):
        return "Check the API key (--api-key, QDRANT_API_KEY) and that it may access `_qferry`."
    return ""


def today() -> str:
    """The wall clock as ISO 8601 in UTC, to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
