"""The asyncio client."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import math
import os
import time
import weakref
from typing import Any

from qdrant_client import AsyncQdrantClient, QdrantClient
from qdrant_client.local.async_qdrant_local import AsyncQdrantLocal

from qferry.clients.facade import (
    by_name,
    change_aliases,
    flow_for,
    lay_over,
    new_session,
    parameter_names,
    target_arguments,
)
from qferry.clients.ferry_client import FerryClient
from qferry.clients.table import Kind
from qferry.clients.watching import Beats, metrics_for, watched_async
from qferry.drivers.aio import AsyncioDriver
from qferry.drivers.blocking import BlockingDriver
from qferry.drivers.shadows_async import AsyncShadows
from qferry.errors import FerryError, LeaseLost
from qferry.flows.effects import Outcome
from qferry.flows.heartbeat import beat, goodbye, pulse
from qferry.flows.routed import Answered, confirmed, leave, overtaken, read, read_somewhere
from qferry.flows.shadow import Repeat, compare
from qferry.flows.write import repeatable
from qferry.logs import tell
from qferry.options import FerryOptions
from qferry.protocol.records import HOME
from qferry.protocol.session import Route
from qferry.protocol.shadow import Totals

_log = logging.getLogger("qferry")
_open: weakref.WeakSet[AsyncFerryClient] = weakref.WeakSet()
_parents: list[Any] = []


class AsyncFerryClient(AsyncQdrantClient):
    """
    An `AsyncQdrantClient` that takes part in migrations; see `FerryClient` for what that means.

    Use it on one event loop.  A background task beats once a second.  `upload_points` and `upload_collection` block
    the loop, as upstream's do; a client of their own carries them out.

    Args:
        *args, **kwargs: As for `AsyncQdrantClient`.
        ferry: Settings of its own; by default those the environment names.

    Cancellation: a cancelled write may have been carried out; its points stay in the journal until both sides are
    found equal.
    """

    def __init__(self, *args: Any, ferry: FerryOptions | None = None, **kwargs: Any) -> None:
        self.ferry_options = ferry if ferry is not None else FerryOptions.from_environ()
        super().__init__(*args, **kwargs)
        self._metrics = metrics_for(self)
        self._begin()
        _open.add(self)

    def _begin(self) -> None:
        """A fresh session; also what a forked child starts from."""
        self._session = new_session(self.ferry_options)
        self._beats = Beats(self._session)
        self._targets: dict[str, AsyncQdrantClient] = {}
        client = weakref.proxy(self)  # a client that nobody holds any more must not be held by its own driver
        self._driver = AsyncioDriver(
            lambda server: client._server(server),  # noqa: PLW0108, SLF001  a bound method would hold it
            fresh=lambda renew: client._fresh(renew=renew),  # noqa: SLF001  as above
        )
        self._shadows = AsyncShadows(self._driver.run)
        self._beating: asyncio.Lock | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._uploader: FerryClient | None = None
        self._closed = False

    def _server(self, server: str) -> AsyncQdrantClient:
        if server == HOME:
            return self
        if server not in self._targets:
            options = target_arguments(self.init_options, self.ferry_options, server)
            self._targets[server] = AsyncQdrantClient(**options)
        return self._targets[server]

    async def _fresh(self, *, renew: bool) -> None:
        if isinstance(self._client, AsyncQdrantLocal):
            self._session.adopt(
                [], math.inf, time.monotonic()
            )  # in this process's own memory or folder nobody else can migrate
            return
        if self._closed:
            raise LeaseLost("This client is closed.", hint="Make a new one.")
        loop = asyncio.get_running_loop()
        if self._beating is None or self._loop is not loop:
            # A client may outlive its loop (one `asyncio.run` after another): lock and task belong to the present one.
            self._loop, self._beating, self._task = loop, asyncio.Lock(), None
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(_beat_on(weakref.ref(self)), name="qferry-heartbeat")
        async with self._beating:
            if renew or not self._session.valid(time.monotonic()):
                await self._driver.run(beat(self._session))
                self._beats.heard()

    async def _pulse(self, heartbeat_s: float) -> float:
        """Beat if it is time; for the heartbeat task. Returns the seconds until the next look."""
        return await self._driver.run(pulse(self._session, heartbeat_s))

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
        session.shadow(route.migration, Totals(dropped=1))

    def upload_points(self, collection_name: str, *args: Any, **kwargs: Any) -> None:
        """Upload points, blocking the event loop; see `AsyncQdrantClient.upload_points`."""
        self._uploading_client().upload_points(collection_name, *args, **kwargs)

    def upload_collection(self, collection_name: str, *args: Any, **kwargs: Any) -> None:
        """Upload a collection, blocking the event loop; see `AsyncQdrantClient.upload_collection`."""
        self._uploading_client().upload_collection(collection_name, *args, **kwargs)

    def _uploading_client(self) -> Any:
        if isinstance(self._client, AsyncQdrantLocal):
            return super()
        if self._uploader is None:
            self._uploader = FerryClient(**self.init_options, ferry=self.ferry_options)
        return self._uploader

    async def close(self, grpc_grace: float | None = None, **kwargs: Any) -> None:
        """Flush the journal, say goodbye and close the connections."""
        self._shadows.close()
        await self._stop_beating()
        if not self._closed:
            self._closed = True
            try:
                async with self._beating or asyncio.Lock():
                    await self._driver.run(goodbye(self._session))
            except FerryError as error:
                tell(logging.WARNING, "closed_without_goodbye", f"Closing without a goodbye: {error}")
        _open.discard(self)
        for client in self._targets.values():
            await client.close()
        if self._uploader is not None:
            self._uploader.close()
        await super().close(grpc_grace, **kwargs)

    async def _stop_beating(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    def _leave_without_loop(self) -> None:
        """At exit there is no loop to close on; a blocking connection says goodbye in its place."""
        if not self._session.registered:
            return
        blocking = QdrantClient(**{**self.init_options, "check_compatibility": False})
        BlockingDriver(lambda _: blocking).run(goodbye(self._session))
        blocking.close()


async def _beat_on(reference: weakref.ref[AsyncFerryClient]) -> None:
    """The heartbeat task: holds its client only while it beats, so that a forgotten one can be collected."""
    wait_s = 0.0
    while True:
        await asyncio.sleep(wait_s)
        client = reference()
        if client is None:
            return
        wait_s = client.ferry_options.heartbeat_s
        try:
            wait_s = await client._pulse(wait_s)  # noqa: SLF001  its own task
        except Exception as error:  # noqa: BLE001  nothing may end the heartbeat but its client's end
            client._beats.failed(error)  # noqa: SLF001  as above
        del client


def _wrap(name: str, kind: Kind, upstream: Any) -> Any:
    names = parameter_names(upstream)

    if kind is Kind.ALIASES:

        async def change(self: AsyncFerryClient, change_aliases_operations: Any, *args: Any, **kwargs: Any) -> Any:
            return await self._driver.run(
                change_aliases(self._session, name, change_aliases_operations, by_name(names, args, kwargs))
            )

        return change

    async def method(self: AsyncFerryClient, collection_name: str, *args: Any, **kwargs: Any) -> Any:
        session = self._session
        writes = kind is not Kind.READ
        quiet = session.enter_quiet(time.monotonic(), collection_name, write=writes)
        if quiet is not None:
            outcome = Outcome(interrupted=True)
            try:
                outcome = Outcome(value=await upstream(self, quiet.collection, *args, **kwargs))
            except Exception as error:  # noqa: BLE001  raised again below, unless its routing is out of date
                outcome = Outcome(error=error)
            finally:
                leave(quiet, outcome, time.monotonic(), write=writes)
            if outcome.error is not None and not quiet.final:
                arguments = by_name(names, args, kwargs)
                return await self._driver.run(read(session, name, collection_name, arguments, from_source=quiet.began))
            if session.over(quiet, time.monotonic()) or await self._driver.run(
                confirmed(session, quiet.view, quiet.term, collection_name, writes=writes)
            ):
                if quiet.route is not None and outcome.error is None and session.shadowed(quiet.route, name):
                    found = Answered(outcome.value, quiet.route, quiet.side, time.monotonic() - quiet.began)
                    self._shadow(name, by_name(names, args, kwargs), quiet.route, found)
                return outcome.result()
            if not repeatable(name, by_name(names, args, kwargs)):
                raise outcome.error or overtaken()
        arguments = by_name(names, args, kwargs)
        if kind is Kind.READ:
            answered = await self._driver.run(read_somewhere(session, name, collection_name, arguments))
            if answered.route is not None and session.shadowed(answered.route, name):
                self._shadow(name, arguments, answered.route, answered)
            return answered.value
        return await self._driver.run(flow_for(kind, session, name, collection_name, arguments))

    return watched_async(name, kind, method)


lay_over(AsyncFerryClient, AsyncQdrantClient, _wrap)


@atexit.register
def _leave_all() -> None:
    for client in list(_open):
        with contextlib.suppress(FerryError):
            client._leave_without_loop()  # noqa: SLF001  its own module


def _after_fork() -> None:
    """A child shares no journal, no task and no connection with its parent: it becomes a writer of its own."""
    for client in list(_open):
        _parents.append(client._client)  # noqa: SLF001  its sockets are the parent's: neither used nor closed here
        AsyncQdrantClient.__init__(client, **client.init_options)
        client._begin()  # noqa: SLF001


os.register_at_fork(after_in_child=_after_fork)
