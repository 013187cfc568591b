"""The blocking client."""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import math
import os
import threading
import time
import weakref
from typing import Any

from qdrant_client import QdrantClient
from qdrant_client.local.qdrant_local import QdrantLocal

from qferry.clients.embedding import ThreadedClient
from qferry.clients.facade import (
    by_name,
    change_aliases,
    flow_for,
    lay_over,
    new_session,
    parameter_names,
    points_of,
    target_arguments,
)
from qferry.clients.table import Kind
from qferry.clients.watching import Beats, metrics_for, watched
from qferry.drivers.blocking import BlockingDriver
from qferry.drivers.shadows import Shadows
from qferry.errors import FerryError, LeaseLost
from qferry.flows.effects import Flow, Outcome
from qferry.flows.heartbeat import beat, goodbye, pulse
from qferry.flows.routed import Answered, confirmed, overtaken, read, read_somewhere
from qferry.flows.shadow import Repeat, compare, dropped
from qferry.flows.write import pieces, repeatable, upload
from qferry.logs import tell
from qferry.options import FerryOptions
from qferry.protocol.records import HOME
from qferry.protocol.session import Route

_log = logging.getLogger("qferry")
_open: weakref.WeakSet[FerryClient]
_parents: list[Any] = []


class FerryClient(ThreadedClient):
    """
    A `QdrantClient` that takes part in migrations.

    Use it exactly like qdrant-client's; a migration started with `qferry start` reaches it within a second.  While
    nobody migrates it adds one small request per second of use, and a few microseconds per call.  A background
    thread beats once a second; it ends with `close()`, or when the client is garbage.

    Args:
        *args, **kwargs: As for `QdrantClient`.
        ferry: Settings of its own; by default those the environment names (`FerryOptions.from_environ`).

    Raises:
        LeaseLost: (from any call) the migration state cannot be read, so nothing was sent; safe to retry.
        TargetWriteFailed: (from writes) one side has the write, the other may not; safe to repeat.
        NotAllowed: (from calls that would pull a collection from under its migration) nothing was sent.

    Threads: safe.  Processes: a forked child is a writer of its own.  Cancellation: an interrupted write may have
    been carried out; its points stay in the journal until both sides are found equal.
    """

    def __init__(self, *args: Any, ferry: FerryOptions | None = None, **kwargs: Any) -> None:
        self.ferry_options = ferry if ferry is not None else FerryOptions.from_environ()
        super().__init__(*args, **kwargs)
        self._metrics = metrics_for(self)
        self._targets: dict[str, QdrantClient] = {}
        self._begin()
        _open.add(self)

    def _begin(self) -> None:
        """A fresh session; also what a forked child starts from."""
        self._session = new_session(self.ferry_options)
        self._beats = Beats(self._session)
        client = weakref.proxy(self)  # a client that nobody holds any more must not be held by its own driver
        self._driver = BlockingDriver(
            lambda server: client._server(server),  # noqa: PLW0108, SLF001  a bound method would hold it
            fresh=lambda renew: client._fresh(renew=renew),  # noqa: SLF001  as above
        )
        self._shadows = Shadows(functools.partial(_repeat, weakref.ref(self)))
        self._beating = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def _server(self, server: str) -> QdrantClient:
        if server == HOME:
            return self
        if server not in self._targets:
            options = target_arguments(self.init_options, self.ferry_options, server)
            self._targets[server] = ThreadedClient(**options)
        return self._targets[server]

    def _fresh(self, *, renew: bool) -> None:
        if isinstance(self._client, QdrantLocal):
            self._session.adopt(
                [], math.inf, time.monotonic()
            )  # in this process's own memory or folder nobody else can migrate
            return
        with self._beating:
            if self._stop.is_set():
                raise LeaseLost("This client is closed.", hint="Make a new one.")
            if self._thread is None:
                self._start_thread()
            if renew or not self._session.valid(time.monotonic()):
                self._driver.run(beat(self._session))
                self._beats.heard()

    def _pulse(self, heartbeat_s: float) -> float:
        """Beat if it is time; for the heartbeat thread. Returns the seconds until the next look."""
        return self._driver.run(pulse(self._session, heartbeat_s))

    def _shadow(self, method: str, arguments: dict[str, Any], route: Route, found: Answered) -> None:
        """Repeat a read on the other side, in the background; nothing is raised."""
        session = self._session
        try:
            repeat = None if self._shadows.full else Repeat.of(session, route, method, arguments, found)
            if repeat is not None:
                self._shadows.put(compare(session, repeat))
                return
        except Exception as error:  # noqa: BLE001  the caller has an answer, and gets it
            _log.debug("A read is not repeated: %s", error)
        self._driver.run(dropped(session, route.migration))

    def _start_thread(self) -> None:
        self._thread = threading.Thread(
            target=_beat_on, args=(weakref.ref(self), self._stop), name="qferry-heartbeat", daemon=True
        )
        self._thread.start()

    def close(self, grpc_grace: float | None = None, **kwargs: Any) -> None:
        """
        Flush the journal, say goodbye and close the connections.

        A client that is not closed before its process ends is closed at exit; one that is killed leaves its
        migration suspect, until `qferry verify` has looked at every point.
        """
        try:
            if hasattr(self, "_stop") and not self._stop.is_set():
                self._stop.set()
                self._leave()
        finally:
            super().close(grpc_grace, **kwargs)

    def _leave(self) -> None:
        self._shadows.close()
        try:
            with self._beating:
                # Not through the weak reference: a client that dies as garbage says goodbye too.
                self._driver.with_clients(self._server).run(goodbye(self._session))
        except FerryError as error:
            tell(logging.WARNING, "closed_without_goodbye", f"Closing without a goodbye: {error}")
        self._driver.close()
        for client in self._targets.values():
            client.close()


def _beat_on(reference: weakref.ref[FerryClient], stop: threading.Event) -> None:
    """The heartbeat thread: holds its client only while it beats, so that a forgotten one can be collected."""
    wait_s = 0.0
    while not stop.wait(wait_s):
        client = reference()
        if client is None:
            return
        wait_s = client.ferry_options.heartbeat_s
        try:
            wait_s = client._pulse(wait_s)  # noqa: SLF001  its own thread
        except Exception as error:  # noqa: BLE001  nothing may end the heartbeat but its client's end
            client._beats.failed(error)  # noqa: SLF001  as above
        del client


def _repeat(reference: weakref.ref[FerryClient], flow: Flow[None]) -> None:
    """
    Carry out a shadow read; holds its client meanwhile.

    One that was collected in the middle of it, by this very thread, would say goodbye and so wait for its own lock.
    """
    client = reference()
    if client is not None:
        client._driver.run(flow)  # noqa: SLF001  its own thread


def _wrap(name: str, kind: Kind, upstream: Any) -> Any:
    names = parameter_names(upstream)

    if kind is Kind.ALIASES:

        def change(self: FerryClient, change_aliases_operations: Any, *args: Any, **kwargs: Any) -> Any:
            return self._driver.run(
                change_aliases(self._session, name, change_aliases_operations, by_name(names, args, kwargs))
            )

        return change

    def method(self: FerryClient, collection_name: str, *args: Any, **kwargs: Any) -> Any:
        if kind is Kind.UPLOAD:
            arguments = by_name(names, args, kwargs)
            for piece in pieces(points_of(name, arguments), arguments):
                self._driver.run(upload(self._session, collection_name, piece, arguments))
            return None
        writes = kind is not Kind.READ
        quiet = self._driver.enter_quiet(self._session, collection_name, write=writes)
        if quiet is not None:
            outcome = Outcome(interrupted=True)
            try:
                outcome = Outcome(value=upstream(self, quiet.collection, *args, **kwargs))
            except Exception as error:  # noqa: BLE001  raised again below, unless its routing is out of date
                outcome = Outcome(error=error)
            finally:
                self._driver.leave(quiet, outcome, write=writes)
            if outcome.error is not None and not quiet.final:
                arguments = by_name(names, args, kwargs)
                return self._driver.run(read(self._session, name, collection_name, arguments, from_source=quiet.began))
            if self._session.over(quiet, time.monotonic()) or self._driver.run(
                confirmed(self._session, quiet.view, quiet.term, collection_name, writes=writes)
            ):
                if quiet.route is not None and outcome.error is None and self._session.shadowed(quiet.route, name):
                    found = Answered(outcome.value, quiet.route, quiet.side, time.monotonic() - quiet.began)
                    self._shadow(name, by_name(names, args, kwargs), quiet.route, found)
                return outcome.result()
            if not repeatable(name, by_name(names, args, kwargs)):
                raise outcome.error or overtaken()
        arguments = by_name(names, args, kwargs)
        if kind is Kind.READ:
            answered = self._driver.run(read_somewhere(self._session, name, collection_name, arguments))
            if answered.route is not None and self._session.shadowed(answered.route, name):
                self._shadow(name, arguments, answered.route, answered)
            return answered.value
        return self._driver.run(flow_for(kind, self._session, name, collection_name, arguments))

    return watched(name, kind, method)


lay_over(FerryClient, QdrantClient, _wrap)


@atexit.register
def _close_all() -> None:
    for client in list(_open):
        with contextlib.suppress(FerryError):
            client.close()


def _after_fork() -> None:
    """A child shares no journal, no thread and no connection with its parent: it becomes a writer of its own."""
    for client in list(_open):
        # Their sockets are the parent's: neither used nor closed here.
        _parents.extend((client._client, client._driver))  # noqa: SLF001
        client._targets = {}  # noqa: SLF001
        ThreadedClient.__init__(client, **client.init_options)
        client._begin()  # noqa: SLF001


_open = weakref.WeakSet()
os.register_at_fork(after_in_child=_after_fork)
