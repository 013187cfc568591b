"""Threads for shadow reads: few, begun when there is something to do, ended soon after, and never waited for."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from qferry.flows.effects import Flow
from qferry.protocol.shadow import QUEUE, WORKERS

_log = logging.getLogger("qferry")
# A thread that has had nothing to do for so long ends.
IDLE_S = 5.0


class Shadows:
    """
    Runs flows in the background, two at a time; what is too much is refused.

    Args:
        run: Runs one; must hold the client only meanwhile.
    """

    def __init__(self, run: Callable[[Flow[None]], Any]) -> None:
        self._run = run
        self._changed = threading.Condition()
        self._waiting: deque[Flow[None]] = deque()
        self._threads = 0
        self._idle = 0
        self._closed = False

    @property
    def full(self) -> bool:
        """Whether one more would be too much."""
        return len(self._waiting) >= QUEUE

    def put(self, flow: Flow[None]) -> None:
        """
        Run this when there is time.

        Raises:
            RuntimeError: There is nobody to run it, and no thread can be begun.
        """
        with self._changed:
            if self._closed:
                return
            self._waiting.append(flow)
            begin = self._threads < WORKERS and self._idle < len(self._waiting)
            self._threads += begin
            self._changed.notify()
        if begin:
            self._begin()

    def _begin(self) -> None:
        try:
            threading.Thread(target=self._work, name="qferry-shadow", daemon=True).start()
        except Exception:
            with self._changed:
                self._threads -= 1
                if self._threads:
                    return  # the other one gets round to it
                self._waiting.clear()
            raise

    def close(self) -> None:
        """Drop what waits; what is under way ends by itself."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()

    def _work(self) -> None:
        while (flow := self._next()) is not None:
            try:
                self._run(flow)
            except Exception as error:  # noqa: BLE001  nobody waits for it, and its client may be closed by now
                _log.debug("A shadow read has ended: %s", error)
            del flow

    def _next(self) -> Flow[None] | None:
        """What is to be done next; None if this thread is to end."""
        with self._changed:
            self._idle += 1
            if not self._waiting and not self._closed:
                self._changed.wait(IDLE_S)
            self._idle -= 1
            if self._waiting:
                return self._waiting.popleft()
            self._threads -= 1
            return None
