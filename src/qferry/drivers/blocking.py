"""
The blocking driver.

A flow is advanced under the session's lock, its effects are carried out outside it: a flow runs undisturbed between
two effects, and calls of other threads go on while one waits for a server.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from qdrant_client import QdrantClient

from qferry.drivers import http
from qferry.drivers.twice import Twice
from qferry.drivers.workers import Crew, Workers
from qferry.flows.effects import (
    Await,
    Begin,
    Call,
    Carry,
    Effect,
    Flow,
    Fresh,
    NewId,
    Now,
    Outcome,
    Report,
    Request,
    Room,
    Sleep,
    Today,
    Together,
)
from qferry.flows.routed import leave
from qferry.protocol.session import Quiet, Session
from qferry.transfer.pages import Pages

T = TypeVar("T")
# Calls of one client that may wait for a second server at the same time.
_WORKERS = 32


class BlockingDriver:
    """
    Runs flows in the calling thread.

    Args:
        client_for: The client for a server: `HOME`, or the URL of a target's.
        fresh: Carries out `Fresh`: sees to it that the session's view is valid.
        report: Receives `Report`s.
        carry: Carries out `Carry`.

    Attributes:
        pages: Carries out page requests another way than by REST, if it can.
        crew: Carries out pieces of work; by default threads that share the clients.
    """

    def __init__(
        self,
        client_for: Callable[[str], QdrantClient],
        *,
        fresh: Callable[[bool], None] = lambda _: None,
        report: Callable[[Report], None] = lambda _: None,
        carry: Callable[[Carry], Any] | None = None,
    ) -> None:
        self._client_for = client_for
        self._fresh = fresh
        self._report = report
        self._carry = carry
        self._lock = threading.Lock()
        self._twice = Twice(client_for)
        self._pool: ThreadPoolExecutor | None = None
        self.pages: Pages | None = None
        self.crew: Crew = Workers.threads(self.beside)

    def beside(self, flow: Flow[Any]) -> Any:
        """Carry out a piece of work, in a worker's thread."""
        driver = BlockingDriver(self._client_for, carry=self._carry)
        driver.pages = self.pages
        try:
            return driver.run(flow)
        finally:
            driver.close()

    def run(self, flow: Flow[T]) -> T:
        """
        Run `flow` to its end and return its result; its error is raised here.

        An interrupt (Ctrl-C) is thrown into the flow at the effect it interrupted, so that the flow can note what is
        in doubt.
        """
        value: Any = None
        error: BaseException | None = None
        with contextlib.closing(flow):
            while True:
                try:
                    with self._lock:
                        effect = flow.throw(error) if error is not None else flow.send(value)
                except StopIteration as stop:
                    result: T = stop.value
                    return result
                try:
                    value, error = self._perform(effect), None
                except BaseException as raised:  # noqa: BLE001  the flow decides; it is raised again if it does not
                    value, error = None, raised

    def enter_quiet(self, session: Session, collection: str, *, write: bool) -> Quiet | None:
        """`Session.enter_quiet`, undisturbed."""
        with self._lock:
            return session.enter_quiet(time.monotonic(), collection, write=write)

    def leave(self, quiet: Quiet, outcome: Outcome, *, write: bool) -> None:
        """`flows.routed.leave`, undisturbed."""
        with self._lock:
            leave(quiet, outcome, time.monotonic(), write=write)

    def _perform(self, effect: Effect) -> Any:
        match effect:
            case Now():
                return time.monotonic()
            case Call() | Request():
                return self._send(effect)
            case Together(effects):
                return self._send_together(effects)
            case Carry() if self._carry is not None:
                return self._carry(effect)
            case Fresh(renew):
                return self._fresh(renew)
            case Sleep(seconds):
                return time.sleep(seconds)
            case Report():
                return self._report(effect)
            case Room(here):
                return self.crew.room(here)
            case Begin(work):
                return self.crew.begin(work)
            case Await(numbers, seconds):
                return self.crew.ended(numbers, seconds)
            case Today():
                return http.today()
            case NewId():
                return uuid.uuid4().hex

    def _send(self, effect: Request | Call) -> Any:
        client = self._client_for(effect.server)
        if isinstance(effect, Call):
            # The upstream method, also when `client` overrides it.
            return getattr(QdrantClient, effect.method)(client, effect.collection, *effect.args, **effect.kwargs)
        if self.pages is not None and self.pages.takes(effect):
            return self.pages.carry_out(effect)
        try:
            answer = QdrantClient.http.fget(client).client.request(**http.arguments(effect))  # type: ignore[attr-defined]
        except Exception as error:
            raise http.translated(error, effect) from error
        return http.result_of(answer, effect)

    def _send_together(self, effects: tuple[Request | Call, ...]) -> list[Outcome]:
        first, *others = effects
        if not others:
            return [self._outcome(first)]
        sent = self._twice.send(effects)
        if sent is not None:
            return sent
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="qferry-send")
        futures = [self._pool.submit(self._outcome, effect) for effect in others]
        mine = self._outcome(first)
        return [mine, *(future.result() for future in futures)]

    def _outcome(self, effect: Request | Call) -> Outcome:
        try:
            return Outcome(value=self._send(effect))
        except Exception as error:  # noqa: BLE001  that is what an Outcome is for
            return Outcome(error=error)

    def with_clients(self, client_for: Callable[[str], QdrantClient]) -> BlockingDriver:
        """A driver that reaches its clients another way, but keeps flows undisturbed together with this one."""
        other = BlockingDriver(client_for, fresh=self._fresh, report=self._report)
        other._lock = self._lock
        return other

    def close(self) -> None:
        """Let threads and connections go; calls under way complete, pieces of work stop at their next step."""
        self.crew.close()
        self._twice.close()
        if self._pool is not None:
            self._pool.shutdown(wait=False)
