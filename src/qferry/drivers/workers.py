"""
Pieces of work (`Begin`, `Await`) on a `concurrent.futures` executor: threads, or whatever else offers that interface.

A worker may be lost together with its process.  What it had sent may then still be carried out, so its piece ends in
`Unreachable`, as if a server had not answered.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, wait
from typing import Any, Protocol

from qferry.errors import FerryError, Unreachable
from qferry.flows.effects import Flow, Outcome, Work


class Crew(Protocol):
    """Those who carry out pieces of work, wherever they are."""

    def room(self, here: int) -> int:
        """How many pieces may be under way at once; `here`, if it is up to this machine."""

    def begin(self, work: Work) -> int:
        """Begin a piece of work, for which there must be room; returns the number to ask for it by."""

    def ended(self, numbers: Iterable[int], seconds: float) -> list[tuple[int, Outcome]]:
        """Those of the pieces that have ended, once one has, or after `seconds`; each is told once."""

    def close(self) -> None:
        """Wait for nothing: pieces that have not begun never will, the others stop at their next step."""


class Workers:
    """
    The crew of an executor.

    Args:
        executor: Makes the executor when the first piece begins.
        carry_out: Carries out one piece, in a worker; must be fit to be sent there.
        stop: Called when nobody waits for the pieces any more.
    """

    def __init__(
        self,
        executor: Callable[[], Executor],
        carry_out: Callable[[Work], Any],
        stop: Callable[[], None] = lambda: None,
    ) -> None:
        self._make_executor = executor
        self._carry_out = carry_out
        self._stop = stop
        self._executor: Executor | None = None
        self._futures: dict[int, Future[Any]] = {}
        self._begun = 0

    @classmethod
    def threads(cls, run: Callable[[Flow[Any]], Any]) -> Workers:
        """Workers that are threads of this process; `run` carries out a flow in one of them."""
        stopped = threading.Event()
        return cls(
            Threads,
            lambda work: run(until(stopped.is_set, work.flow())),
            stopped.set,
        )

    def room(self, here: int) -> int:
        """How many pieces may be under way at once: all that the flow wants."""
        return here

    def begin(self, work: Work) -> int:
        """Begin a piece of work; returns the number to ask for it by."""
        if self._executor is None:
            self._executor = self._make_executor()
        self._begun += 1
        self._futures[self._begun] = self._executor.submit(self._carry_out, work)
        return self._begun

    def ended(self, numbers: Iterable[int], seconds: float) -> list[tuple[int, Outcome]]:
        """Those of the pieces that have ended, once one has, or after `seconds`; each is told once."""
        asked = {self._futures[number]: number for number in numbers}
        done, _ = wait(asked, timeout=seconds, return_when=FIRST_COMPLETED)
        return sorted((asked[future], outcome(self._futures.pop(asked[future]).result)) for future in done)

    def close(self) -> None:
        """Wait for nothing: pieces that have not begun never will, the others stop at their next step."""
        self._stop()
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)


class Threads(Executor):
    """
    A thread for each piece of work.

    The end of the process does not wait for them, as it would for a pool's: a request to a server may take hours.
    Each begins at once, so there is nothing for `shutdown` to cancel.
    """

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Begin at once."""
        future: Future[Any] = Future()

        def carry_out() -> None:
            future.set_running_or_notify_cancel()
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001  whoever awaits it is told
                future.set_exception(error)

        threading.Thread(target=carry_out, name="qferry-work", daemon=True).start()
        return future


def outcome(result: Callable[[], Any]) -> Outcome:
    """What became of a piece, going by its future's `result`."""
    try:
        return Outcome(value=result())
    except FerryError as error:
        return Outcome(error=error)
    except (Exception, CancelledError) as error:  # noqa: BLE001  whatever ended it, what it had sent may land
        lost = lost_worker(f"{type(error).__name__} {error}")
        lost.__cause__ = error
        return Outcome(error=lost)


def lost_worker(why: str) -> Unreachable:
    """The error of a piece whose worker was lost; what it had sent may still land."""
    return Unreachable(
        f"A worker was lost in the middle of its piece of work: {why}".rstrip(" .") + ".",
        hint="What it had done is done again; if this goes on, look at the workers.",
    )


def until(stopped: Callable[[], bool], flow: Flow[Any]) -> Flow[Any]:
    """The flow, which ends at its next effect once nobody waits for it."""
    value: Any = None
    error: BaseException | None = None
    while True:
        try:
            effect = flow.throw(error) if error is not None else flow.send(value)
        except StopIteration as end:
            return end.value
        if stopped():
            flow.close()
            raise Unreachable("The command that this piece of work was begun for has ended.")
        try:
            value, error = (yield effect), None
        except BaseException as raised:  # noqa: BLE001  the flow decides
            value, error = None, raised
