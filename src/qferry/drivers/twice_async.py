"""
A write to two places at once on asyncio, from one encoding.

The loop has both requests under way by itself, so nothing of what `twice.py` does to that end is needed here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from qdrant_client import AsyncQdrantClient, grpc
from qdrant_client.http import models

from qferry.drivers import encoding
from qferry.drivers.encoding import GrpcWrite, Places, RestWrite
from qferry.flows.effects import Call, Effect, Outcome

_log = logging.getLogger("qferry")

Results = list[models.UpdateResult]


class AsyncTwice:
    """
    Sends what `encoding.pair` recognises.

    Args:
        client_for: The client for a server: `HOME`, or the URL of a target's.
    """

    def __init__(self, client_for: Callable[[str], AsyncQdrantClient]) -> None:
        self._client_for = client_for
        self._places = Places()

    async def send(self, effects: Sequence[Effect]) -> list[Outcome] | None:
        """
        Send a write to its two places; None if these effects are nothing of the kind, and nothing was sent.

        Cancellation is raised; then the write may have been carried out in either place, in both or in neither.
        """
        calls = encoding.pair(effects)
        if calls is None:
            return None
        try:
            clients = [self._client_for(call.server) for call in calls]
            write = encoding.encoded(clients[0], calls[0])
            sends = [self._prepared(client, write, call) for client, call in zip(clients, calls, strict=True)]
        except Exception as error:  # noqa: BLE001  upstream's own way says what is wrong, and where
            _log.debug("A write is encoded once for each side: %s", error)
            return None
        return list(await asyncio.gather(*map(_outcome, sends)))

    def _prepared(
        self, client: AsyncQdrantClient, write: RestWrite | GrpcWrite, call: Call
    ) -> Callable[[], Awaitable[Results]]:
        if isinstance(write, GrpcWrite):
            return _grpc(client, write, call)
        connection: Any = AsyncQdrantClient.http.fget(client).client  # type: ignore[attr-defined]
        request = self._places.request(connection, connection._async_client, write, call.collection)  # noqa: SLF001
        type_ = write.arguments["type_"]

        async def send() -> Results:
            return encoding.rest_results(await connection.send(request, type_))

        return send


def _grpc(client: AsyncQdrantClient, write: GrpcWrite, call: Call) -> Callable[[], Awaitable[Results]]:
    stub: Any = AsyncQdrantClient.grpc_points.fget(client)  # type: ignore[attr-defined]
    # A message of its own: this one is serialized when the loop gets round to it.
    message = grpc.UpdateBatchPoints()
    message.CopyFrom(write.message)
    message.collection_name = call.collection

    async def send() -> Results:
        return encoding.grpc_results(await stub.UpdateBatch(message, timeout=write.timeout_s))

    return send


async def _outcome(send: Callable[[], Awaitable[Results]]) -> Outcome:
    try:
        return Outcome(value=await send())
    except Exception as error:  # noqa: BLE001  that is what an Outcome is for
        return Outcome(error=error)
