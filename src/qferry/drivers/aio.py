"""
The asyncio driver.

asyncio itself keeps a flow undisturbed between two effects: nothing is awaited in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from qdrant_client import AsyncQdrantClient

from qferry.drivers import http
from qferry.drivers.twice_async import AsyncTwice
from qferry.flows.effects import (
    Call,
    Effect,
    Flow,
    Fresh,
    NewId,
    Now,
    Outcome,
    Report,
    Request,
    Sleep,
    Today,
    Together,
)

T = TypeVar("T")


class AsyncioDriver:
    """
    Runs flows on the running event loop.

    Args:
        client_for: The client for a server: `HOME`, or the URL of a target's.
        fresh: Carries out `Fresh`: sees to it that the session's view is valid.
    """

    def __init__(
        self, client_for: Callable[[str], AsyncQdrantClient], *, fresh: Callable[[bool], Awaitable[None]]
    ) -> None:
        self._client_for = client_for
        self._fresh = fresh
        self._twice = AsyncTwice(client_for)

    async def run(self, flow: Flow[T]) -> T:
        """
        Run `flow` to its end and return its result; its error is raised here.

        Cancellation is thrown into the flow at the effect it interrupted, so that the flow can note what is in doubt.
        """
        value: Any = None
        error: BaseException | None = None
        with contextlib.closing(flow):
            while True:
                try:
                    effect = flow.throw(error) if error is not None else flow.send(value)
                except StopIteration as stop:
                    result: T = stop.value
                    return result
                try:
                    value, error = await self._perform(effect), None
                except BaseException as raised:  # noqa: BLE001  the flow decides; it is raised again if it does not
                    value, error = None, raised

    async def _perform(self, effect: Effect) -> Any:
        match effect:
            case Now():
                return time.monotonic()
            case Call() | Request():
                return await self._send(effect)
            case Together(effects):
                return await self._send_together(effects)
            case Fresh(renew):
                return await self._fresh(renew)
            case Sleep(seconds):
                return await asyncio.sleep(seconds)
            case Report():
                return None
            case Today():
                return http.today()
            case NewId():
                return uuid.uuid4().hex

    async def _send(self, effect: Request | Call) -> Any:
        client = self._client_for(effect.server)
        if isinstance(effect, Call):
            # The upstream method, also when `client` overrides it.
            method = getattr(AsyncQdrantClient, effect.method)
            return await method(client, effect.collection, *effect.args, **effect.kwargs)
        try:
            connection = AsyncQdrantClient.http.fget(client).client  # type: ignore[attr-defined]
            answer = await connection.request(**http.arguments(effect))
        except Exception as error:
            raise http.translated(error, effect) from error
        return http.result_of(answer, effect)

    async def _send_together(self, effects: tuple[Request | Call, ...]) -> list[Outcome]:
        sent = await self._twice.send(effects)
        return sent if sent is not None else list(await asyncio.gather(*map(self._outcome, effects)))

    async def _outcome(self, effect: Request | Call) -> Outcome:
        try:
            return Outcome(value=await self._send(effect))
        except Exception as error:  # noqa: BLE001  that is what an Outcome is for
            return Outcome(error=error)
