"""Tasks for shadow reads: few, and only while there is something to do."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context

from qferry.flows.effects import Flow
from qferry.protocol.shadow import QUEUE, WORKERS

_log = logging.getLogger("qferry")


class AsyncShadows:
    """
    Runs flows in the background of the running loop, two at a time; what is too much is refused.

    Args:
        run: Runs one; must not hold the client.
    """

    def __init__(self, run: Callable[[Flow[None]], Awaitable[None]]) -> None:
        self._run = run
        self._waiting: deque[Flow[None]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def full(self) -> bool:
        """Whether one more would be too much."""
        return len(self._waiting) >= QUEUE and bool(self._at_work())

    def _at_work(self) -> set[asyncio.Task[None]]:
        # A client may outlive its loop, and then so do tasks that nobody has cancelled.
        loop = asyncio.get_running_loop()
        return {task for task in self._tasks if not task.done() and task.get_loop() is loop}

    def put(self, flow: Flow[None]) -> None:
        """Run this when there is time."""
        if self._closed:
            return
        self._tasks = self._at_work()
        if not self._tasks:
            self._waiting.clear()  # what a loop before this one has left
        self._waiting.append(flow)
        if len(self._tasks) < WORKERS:
            # In an empty context, as a thread is: this caller's span, log and tenant are not those of the next.
            self._tasks.add(Context().run(asyncio.create_task, self._work(), name="qferry-shadow"))

    def close(self) -> None:
        """Drop what waits, and cancel what is under way."""
        self._closed = True
        self._waiting.clear()
        for task in self._tasks:
            if not task.get_loop().is_closed():
                task.cancel()

    async def _work(self) -> None:
        while self._waiting:
            flow = self._waiting.popleft()
            try:
                await self._run(flow)
            except Exception as error:  # noqa: BLE001  nobody waits for it, and its client may be closed by now
                _log.debug("A shadow read has ended: %s", error)
            del flow
