"""
A write to two places at once, from one encoding and one thread.

The first request is put on the wire; the second is sent, and its answer awaited, in the moment in which the client
would begin to wait for the first answer.  A second thread would cost more than the encoding saves: both would take
turns at Python's lock for every step of both requests.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx
from qdrant_client import QdrantClient
from qdrant_client.http import ApiClient, models

from qferry.drivers import encoding
from qferry.drivers.encoding import GrpcWrite, Places, RestWrite
from qferry.drivers.grpc_line import GrpcLine, Metadata
from qferry.flows.effects import Call, Effect, Outcome
from qferry.protocol.records import HOME

_log = logging.getLogger("qferry")
# What is left of a time-out, at least, for an answer that has come while the other one was awaited.
_READ_MIN_S = 0.05

Results = list[models.UpdateResult]
Meanwhile = Callable[[], None] | None
Send = Callable[[Meanwhile], Results]


class Twice:
    """
    Sends what `encoding.pair` recognises.

    Args:
        client_for: The client for a server: `HOME`, or the URL of a target's.
    """

    def __init__(self, client_for: Callable[[str], QdrantClient]) -> None:
        self._client_for = client_for
        self._places = Places()
        self._lines: dict[str, GrpcLine] = {}
        self._own: ApiClient | None = None
        self._making = threading.Lock()
        self._useless = False

    def send(self, effects: Sequence[Effect]) -> list[Outcome] | None:
        """
        Send a write to its two places; None if these effects are nothing of the kind, and nothing was sent.

        An interrupt is raised; then the write may have been carried out in either place, in both or in neither.
        """
        calls = encoding.pair(effects)
        if calls is None or self._useless:
            return None
        # Everyone takes connections in the same order, the client's own server first.  Otherwise callers that hold
        # one of the one pool and wait for one of the other, and the reverse, would wait for each other.
        first, second = sorted(calls, key=lambda call: call.server != HOME)
        try:
            send_first, send_second = self._prepared(first, second)
        except Exception as error:  # noqa: BLE001  upstream's own way says what is wrong, and where
            _log.debug("A write is encoded once for each side: %s", error)
            return None
        others: list[Outcome] = []

        def meanwhile() -> None:
            if not others:
                others.append(_outcome(send_second, None))

        mine = _outcome(send_first, meanwhile)
        if not others and mine.error is None:
            # A transport that does not tell when it begins to wait: one after the other is no way to go on.
            self._useless = True
        meanwhile()
        return [mine, *others] if first is calls[0] else [*others, mine]

    def _prepared(self, first: Call, second: Call) -> tuple[Send, Send]:
        client, other = self._client_for(first.server), self._client_for(second.server)
        write = encoding.encoded(client, first)
        if isinstance(write, GrpcWrite):
            line, other_line = self._line(first.server, client), self._line(second.server, other)
            metadata = line.metadata()
            other_metadata = metadata if line is other_line else other_line.metadata()
            return _grpc(line, write, metadata, first), _grpc(other_line, write, other_metadata, second)
        connection = QdrantClient.http.fget(client).client  # type: ignore[attr-defined]
        own = self._own or self._new_own(client, connection)
        if first.server == second.server:
            again = own
            request = self._request(connection, write, first)
            other_request = self._request(again, write, second, like=request)
        else:
            # The first connection is held until the other server has answered as well, and that one may hang: reads,
            # heartbeats and whatever else goes to the client's own server must not wait for it.
            connection, again = own, QdrantClient.http.fget(other).client  # type: ignore[attr-defined]
            request = self._request(connection, write, first)
            other_request = self._request(again, write, second)
        type_ = write.arguments["type_"]
        return _rest(connection, request, type_), _rest(again, other_request, type_)

    def _request(
        self, connection: ApiClient, write: RestWrite, call: Call, like: httpx.Request | None = None
    ) -> httpx.Request:
        http = connection._client  # noqa: SLF001  public on neither client
        return self._places.request(connection, http, write, call.collection, like)

    def _new_own(self, client: QdrantClient, connection: ApiClient) -> ApiClient:
        """
        Connections to the client's own server that only dual writes use.

        From a common pool every caller might hold one connection and wait for another one, for ever.
        """
        with self._making:
            if self._own is None:
                made: ApiClient = ApiClient(connection.host, **client._client._rest_args)  # type: ignore[attr-defined]  # noqa: SLF001
                made.middleware = connection.middleware
                self._own = made
            return self._own

    def _line(self, server: str, client: QdrantClient) -> GrpcLine:
        line = self._lines.get(server)
        if line is None:
            with self._making:
                line = self._lines.get(server) or GrpcLine(client._client)  # noqa: SLF001
                self._lines[server] = line
        return line

    def close(self) -> None:
        """Close the connections of its own."""
        with self._making:
            if self._own is not None:
                self._own.close()
            for line in self._lines.values():
                line.close()


def _rest(connection: ApiClient, request: httpx.Request, type_: Any) -> Send:
    timeout: dict[str, Any] = request.extensions["timeout"]

    def send(meanwhile: Meanwhile) -> Results:
        if meanwhile is not None:
            began = time.monotonic()

            def trace(event: str, _: Mapping[str, Any]) -> None:
                if event.endswith("receive_response_headers.started"):
                    meanwhile()
                    if timeout["read"] is not None:
                        # Two servers that hang cost the caller one time-out, not two.
                        timeout["read"] = max(timeout["read"] - (time.monotonic() - began), _READ_MIN_S)

            request.extensions["trace"] = trace
        return encoding.rest_results(connection.send(request, type_))

    return send


def _grpc(line: GrpcLine, write: GrpcWrite, metadata: Metadata, call: Call) -> Send:
    def send(meanwhile: Meanwhile) -> Results:
        write.message.collection_name = call.collection  # what was sent before has been serialized by now
        return encoding.grpc_results(line.update_batch(write.message, write.timeout_s, metadata, meanwhile))

    return send


def _outcome(send: Send, meanwhile: Meanwhile) -> Outcome:
    try:
        return Outcome(value=send(meanwhile))
    except Exception as error:  # noqa: BLE001  that is what an Outcome is for
        return Outcome(error=error)
