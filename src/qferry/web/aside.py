"""Commands block, so each runs in a thread of its own, which does not keep the process from ending."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from qferry.connection import Connection, Reporter
from qferry.drivers.blocking import BlockingDriver

P = ParamSpec("P")
T = TypeVar("T")


async def aside(command: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """
    Run a command that blocks, without blocking.

    Cancellation: the command goes on, and its result is dropped; so only what changes nothing is run like this.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def settle(outcome: Callable[[], None]) -> None:
        if not answer.done():
            outcome()

    def run() -> None:
        try:
            result = command(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  it is raised where the answer is awaited
            _tell(loop, settle, lambda raised=error: answer.set_exception(raised))
        else:
            _tell(loop, settle, lambda: answer.set_result(result))

    threading.Thread(target=run, daemon=True, name=f"qferry-ui {command}").start()
    return await answer


def _tell(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *args: Any) -> None:
    with contextlib.suppress(RuntimeError):  # the dashboard has ended meanwhile
        loop.call_soon_threadsafe(call, *args)


@dataclass(frozen=True, kw_only=True)
class KeptOpen(Connection):
    """
    A connection whose clients stay open from one command to the next; for commands that only look.

    Args:
        shared: The driver that every command is given.
    """

    shared: BlockingDriver

    @classmethod
    @contextlib.contextmanager
    def of(cls, connection: Connection, timeout_s: int) -> Iterator[KeptOpen]:
        """The same servers, each request with a deadline of at most `timeout_s`."""
        settings = {**vars(connection), "timeout_s": min(timeout_s, connection.timeout_s)}
        with Connection(**settings).driver() as driver:
            yield cls(**settings, shared=driver)

    @contextlib.contextmanager
    def driver(self, report: Reporter = lambda _: None) -> Iterator[BlockingDriver]:  # noqa: ARG002  nothing reports
        """The shared driver."""
        yield self.shared
