"""Snapshots on their way from one server to another, through this process and never whole in its memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import IO, Any, cast

import httpx

from qferry.drivers import http
from qferry.errors import Rejected, Unreachable
from qferry.flows.effects import Carry, Request

# Under this name a server keeps what it is sent.
ARCHIVE = "qferry.snapshot"


def carried(effect: Carry, client_for: Callable[[str], httpx.Client]) -> Any:
    """
    Send on what one request answers with as the file of another; returns the second one's result.

    Args:
        effect: The two requests.
        client_for: A client with the base URL and the key of a server, which is closed afterwards.

    Raises:
        Rejected: One of the servers has refused its request.
        Unreachable: One of them gave no answer; the second request may have been carried out.
    """
    fetch, bring = effect.download, effect.upload
    try:
        with client_for(fetch.server) as source, client_for(bring.server) as target:
            # Compressing would cost more than it saves: vectors are noise.
            plain = {"Accept-Encoding": "identity"}
            with source.stream(fetch.method, fetch.path, headers=plain, timeout=fetch.timeout_s) as arriving:
                if arriving.is_error:
                    arriving.read()
                _require_success(arriving, fetch)
                answer = target.request(
                    bring.method,
                    bring.path,
                    params=dict(bring.params),
                    files={"snapshot": (ARCHIVE, cast("IO[bytes]", _Arriving(arriving.iter_raw())))},
                    timeout=bring.timeout_s,
                )
                _require_success(answer, bring)
                return http.result_of(answer.json(), bring)
    except httpx.HTTPError as error:
        raise Unreachable(
            f"The transfer of a snapshot from {fetch.path} to {bring.path} broke off: {type(error).__name__} {error}.",
            hint="Run the command again; it begins anew.",
        ) from error


def _require_success(answer: httpx.Response, request: Request) -> None:
    if answer.status_code >= HTTPStatus.BAD_REQUEST:
        raise Rejected(
            f"{answer.status_code} to {request.method} {request.path}: {answer.text.strip()}",
            status=answer.status_code,
        )


class _Arriving:
    """Bytes that arrive in pieces, read like a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def read(self, _size: int = -1) -> bytes:
        """The next piece, of whatever size it came in; empty at the end."""
        return next(self._pieces, b"")
