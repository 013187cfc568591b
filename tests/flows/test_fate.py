"""Tests of what an error says about the write behind it."""

import grpc
import httpx
import pydantic
import pytest
from qdrant_client import models
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from qferry.errors import Rejected, Unreachable
from qferry.flows.fate import Fate, fate_of, text_of


class RpcError(grpc.RpcError):
    """An error of gRPC, as either kind of channel raises it."""

    def __init__(self, code: grpc.StatusCode, details: str = "no") -> None:
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        """The status."""
        return self._code

    def details(self) -> str:
        """The server's words."""
        return self._details


def rest(status: int, words: str = "no") -> UnexpectedResponse:
    """Return the error of an answer with this status."""
    return UnexpectedResponse(status, "", f'{{"status":{{"error":"{words}"}}}}'.encode(), httpx.Headers())


def invalid() -> pydantic.ValidationError:
    """Return the error of arguments that are not what a model asks for."""
    with pytest.raises(pydantic.ValidationError) as raised:
        models.PointIdsList(points=3.5)
    return raised.value


@pytest.mark.parametrize(
    ("error", "fate"),
    [
        (rest(400), Fate.REJECTED),
        (rest(404), Fate.REJECTED),
        (rest(422), Fate.REJECTED),
        (rest(408), Fate.UNKNOWN),  # the server gave up waiting, not working
        (rest(500), Fate.UNKNOWN),
        (rest(503), Fate.UNKNOWN),
        (rest(404, "Not found: No point with id 7 found"), Fate.MISSING_POINT),
        (rest(500, "Service internal error: No point with id 7 found"), Fate.MISSING_POINT),
        (RpcError(grpc.StatusCode.INVALID_ARGUMENT), Fate.REJECTED),
        (RpcError(grpc.StatusCode.RESOURCE_EXHAUSTED), Fate.REJECTED),
        (RpcError(grpc.StatusCode.NOT_FOUND, "Not found: No point with id 7 found"), Fate.MISSING_POINT),
        (RpcError(grpc.StatusCode.UNAVAILABLE), Fate.UNKNOWN),
        (RpcError(grpc.StatusCode.DEADLINE_EXCEEDED), Fate.UNKNOWN),
        (RpcError(grpc.StatusCode.CANCELLED), Fate.UNKNOWN),
        (RpcError(grpc.StatusCode.INTERNAL), Fate.UNKNOWN),
        (ResourceExhaustedResponse("slow down", 1), Fate.REJECTED),
        (ResponseHandlingException(httpx.ReadTimeout("late")), Fate.UNKNOWN),
        (Rejected("no", status=400), Fate.REJECTED),
        (Rejected("no", status=500), Fate.UNKNOWN),
        (Unreachable("no"), Fate.UNKNOWN),
        (TypeError("missing argument"), Fate.REJECTED),  # a call that makes no sense: nothing was sent
        (AssertionError("Unknown arguments"), Fate.REJECTED),
        (invalid(), Fate.REJECTED),
        (ValueError("gRPC raises it for answers, too"), Fate.UNKNOWN),
        (RuntimeError("who knows"), Fate.UNKNOWN),
        (KeyboardInterrupt(), Fate.UNKNOWN),
    ],
)
def test_error_tells_the_fate_of_its_write(error: BaseException, fate: Fate) -> None:
    """Only a refusal is certain; whatever else there is, the write may have been, or may yet be, carried out."""
    assert fate_of(error) is fate


def test_text_is_the_server_s_own_words() -> None:
    """Not the client's rendering of them."""
    assert text_of(rest(400, "Wrong input: no")) == "Wrong input: no"
    assert text_of(RpcError(grpc.StatusCode.NOT_FOUND, "not there")) == "not there"
    assert text_of(RuntimeError("own words")) == "own words"


def test_text_of_an_answer_in_another_form_is_the_client_s() -> None:
    """A proxy's page has no words of the server's."""
    error = UnexpectedResponse(502, "Bad Gateway", b"<html>", httpx.Headers())
    assert text_of(error) == str(error)
