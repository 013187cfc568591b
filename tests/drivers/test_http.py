"""Tests of the boundary at which qdrant-client's errors become qferry's."""

import inspect
from typing import Any

import httpx
import pytest
from qdrant_client.common import client_exceptions
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http import exceptions as http_exceptions
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

from qferry.drivers import http
from qferry.errors import Rejected, RemoteFailure, Unreachable
from qferry.flows.effects import Request

REQUEST = Request("", "count", "POST", "/collections/c/points/count", {"exact": True}, {"wait": "true"}, 3.0)

# Each exception class of qdrant-client, and what becomes of it.
MAPPED: dict[type[Exception], type[RemoteFailure]] = {
    ApiException: Unreachable,
    UnexpectedResponse: Rejected,
    ResponseHandlingException: Unreachable,
    QdrantException: Unreachable,
    ResourceExhaustedResponse: Rejected,
}


def unexpected(status: int, content: bytes = b'{"status":{"error":"Wrong input: no"}}') -> UnexpectedResponse:
    """Return the error of an answer with this status."""
    return UnexpectedResponse(status, "Some Reason", content, httpx.Headers())


EXAMPLES: dict[type[Exception], Exception] = {
    ApiException: ApiException("no"),
    UnexpectedResponse: unexpected(400),
    ResponseHandlingException: ResponseHandlingException(httpx.ConnectError("refused")),
    QdrantException: QdrantException("no"),
    ResourceExhaustedResponse: ResourceExhaustedResponse("slow down", 3),
}


def test_every_exception_class_of_qdrant_client_is_mapped() -> None:
    """A class that upstream adds fails this test before it surprises anyone."""
    found = {
        cls
        for module in (http_exceptions, client_exceptions)
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, Exception) and cls.__module__ == module.__name__
    }
    assert found == MAPPED.keys()


@pytest.mark.parametrize("kind", MAPPED)
def test_exception_of_qdrant_client_is_translated(kind: type[Exception]) -> None:
    """Whatever a request of qferry's own ends in, it is one of qferry's errors and names the request."""
    translated = http.translated(EXAMPLES[kind], REQUEST)
    assert type(translated) is MAPPED[kind]


def test_rejection_carries_status_and_the_server_s_words() -> None:
    """An operator reads what the server said, not how the client printed it."""
    error = http.translated(unexpected(400), REQUEST)
    assert str(error) == "The server answered 400 to POST /collections/c/points/count: Wrong input: no."
    assert isinstance(error, Rejected)
    assert error.status == 400


@pytest.mark.parametrize("status", [401, 403])
def test_rejection_of_a_key_says_which_one_to_check(status: int) -> None:
    """The usual mistake has its remedy beside it."""
    assert "QDRANT_API_KEY" in http.translated(unexpected(status), REQUEST).hint


def test_rejection_in_another_form_is_told_as_it_is() -> None:
    """A proxy's page in HTML is no reason to fail at telling of the failure."""
    error = http.translated(unexpected(502, b"<html>Bad Gateway</html>"), REQUEST)
    assert isinstance(error, Rejected)
    assert str(error) == "The server answered 502 to POST /collections/c/points/count: <html>Bad Gateway</html>."


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"Invalid API key or JWT", "Invalid API key or JWT."),
        (b"a\n  b\xff", "a b\ufffd."),
        (b"x" * 999, "x" * 200 + "."),
    ],
)
def test_rejection_in_plain_text_is_told_on_one_line(content: bytes, told: str) -> None:
    """So a server answers to a key that it does not know."""
    assert http.translated(unexpected(401, content), REQUEST).message.endswith(f"/points/count: {told}")


def test_limited_requests_count_as_a_rejection() -> None:
    """A server that limits requests has carried nothing out."""
    error = http.translated(ResourceExhaustedResponse("slow down", 3), REQUEST)
    assert isinstance(error, Rejected)
    assert error.status == 429
    assert error.final


def test_missing_answer_names_its_cause_and_a_remedy() -> None:
    """What was behind the client's wrapper is what an operator can act on."""
    error = http.translated(ResponseHandlingException(httpx.ConnectError("refused")), REQUEST)
    assert str(error).startswith("The server gave no answer to POST /collections/c/points/count: ConnectError refused.")
    assert error.hint == "Check that the server runs and that the URL is right."


def test_error_of_the_target_s_server_says_so() -> None:
    """With two servers, an operator must know which."""
    elsewhere = Request("http://other:6333", "count", "GET", "/")
    assert http.translated(unexpected(500), elsewhere).message.startswith("The target's server answered 500")


@pytest.mark.parametrize(
    ("answer", "result"),
    [({"result": {"count": 3}, "status": "ok"}, {"count": 3}), ({"version": "1.16.3"}, {"version": "1.16.3"}), (7, 7)],
)
def test_result_of_an_answer_is_its_result_member(answer: Any, result: Any) -> None:
    """`GET /` has none; there the answer itself is the result."""
    assert http.result_of(answer, REQUEST) == result


def test_write_that_is_only_accepted_counts_as_unanswered() -> None:
    """Servers from 1.18 answer 200 with `wait_timeout`; what is to be waited for has not been done then."""
    answer = {"result": {"operation_id": 1, "status": "wait_timeout"}}
    with pytest.raises(Unreachable, match="has accepted POST /collections/c/points/count, but not applied it in time"):
        http.result_of(answer, REQUEST)


def test_write_that_is_applied_is_a_result() -> None:
    """`completed` is what was asked for."""
    answer = {"result": {"operation_id": 1, "status": "completed"}}
    assert http.result_of(answer, REQUEST) == answer["result"]


def test_arguments_carry_body_query_and_deadline() -> None:
    """What a request says is what is sent."""
    sent = http.arguments(REQUEST)
    assert sent["content"] == b'{"exact":true}'
    assert sent["headers"] == {"Content-Type": "application/json"}
    assert (sent["method"], sent["url"], sent["params"], sent["timeout"]) == (
        "POST",
        "/collections/c/points/count",
        {"wait": "true"},
        3.0,
    )


def test_arguments_of_a_bare_request_leave_the_client_s_own_settings() -> None:
    """Without a body, a query or a deadline nothing is set."""
    sent = http.arguments(Request("", "version", "GET", "/"))
    assert sent.keys() == {"type_", "method", "url"}


def test_today_is_a_date_that_sorts_as_text() -> None:
    """The safety period compares dates as text."""
    assert len(http.today()) == len("2026-01-01T00:00:00Z")
    assert http.today().endswith("Z")
