"""The server: the dashboard at a port, until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from qferry.connection import Connection
from qferry.errors import Misuse
from qferry.web.app import Dashboard
from qferry.web.security import Sessions

# When the server is stopped, pages under way may be completed for this long, in seconds.
GOODBYE_S = 1
# Who has connected, and asks for nothing in that time, is hung up on; in seconds.
ASK_S = 10.0
# More are not held open: one who asks for nothing makes room, or else the newcomer is hung up on.
CONNECTIONS_MAX = 300


@dataclass(frozen=True, kw_only=True)
class Settings:
    """
    How the dashboard is served.

    Args:
        connection: The servers.
        host: The address to listen at.
        port: 0 for any that is free.
        token: What signs in; None: whoever can connect is an operator.
        names: Further names under which it is reached.
        any_address: Whether other machines reach it.
        read_only: Whether it only shows.
    """

    connection: Connection
    host: str
    port: int
    token: str | None = field(default=None, repr=False)
    names: tuple[str, ...] = ()
    any_address: bool = False
    read_only: bool = False


class Listening(H11Protocol):
    """A connection that is not held open for nothing; uvicorn waits for a first request, or for its end, for ever."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Give it some time to ask for something."""
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS_MAX:
            others = (other for other in self.connections if isinstance(other, Listening) and other is not self)
            next((other for other in others if other.is_idle and not other.transport.is_closing()), self).hang_up()
        self._waits = self.loop.call_later(ASK_S, self._hang_up_if_idle, None)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is being answered."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is None or bool(cycle.response_complete)

    def hang_up(self) -> None:
        """Close it."""
        self.transport.close()

    def _hang_up_if_idle(self, answered: object) -> None:
        if self.is_idle and self.cycle is answered:
            self.hang_up()
        else:
            self._waits = self.loop.call_later(ASK_S, self._hang_up_if_idle, self.cycle)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting for it."""
        self._waits.cancel()
        super().connection_lost(exc)


class _Server(uvicorn.Server):
    """Lets go at once of those who watch, who would otherwise stay for ever."""

    def __init__(self, config: uvicorn.Config, farewell: Callable[[], None]) -> None:
        super().__init__(config)
        self._farewell = farewell

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end."""
        self._farewell()
        super().handle_exit(sig, frame)


def serve(settings: Settings, *, ready: Callable[[str], None], told: Callable[[str], None]) -> None:
    """
    Serve the dashboard until Ctrl-C or SIGTERM; to be called in the main thread.

    Args:
        settings: How.
        ready: Called with the URL when it can be used.
        told: Called with what becomes of commands that are at work in the end.

    Raises:
        Misuse: The port is taken, or this process may not use it.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family)
    except OSError as error:
        # Python adds the address to the system's words, but for names, whose errors are of numbers of their own.
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise Misuse(
            f"Nothing can be served at port {settings.port} of {settings.host}: {reason}.",
            hint="Choose another with --host or --port, or end what listens there.",
        ) from error
    with listener:
        port = listener.getsockname()[1]
        dashboard = Dashboard(
            settings.connection,
            Sessions(settings.token, port),
            names=settings.names,
            any_address=settings.any_address,
            read_only=settings.read_only,
        )
        config = uvicorn.Config(
            dashboard.app(),
            http=Listening,
            ws="none",
            log_level="critical",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=GOODBYE_S,
        )
        shown = f"[{settings.host}]" if ":" in settings.host else settings.host
        ready(f"http://{shown}:{port}/")
        # uvicorn raises the signal again when it has ended; a container's must not end the process before the farewell.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            _Server(config, dashboard.end_streams).run(sockets=[listener])
        finally:
            _farewell(dashboard, told)


def _farewell(dashboard: Dashboard, told: Callable[[str], None]) -> None:
    """Stop what is at work, and say what becomes of it."""
    under_way = dashboard.works.under_way()
    for work in under_way:
        told(f"Stopping the {work.verb} of `{work.source}` at its next step.")
    with contextlib.suppress(KeyboardInterrupt):  # not even that long
        dashboard.works.stop(under_way)
    for work in under_way:
        again = f"run `qferry {_typed(work.verb)}` again to go on"
        if not work.over.is_set():
            told(f"The {work.verb} of `{work.source}` is broken off; its claim lapses in ten seconds, then {again}.")
        elif work.stopped:
            told(f"The {work.verb} of `{work.source}` has stopped and given its claim back; {again}.")


def _typed(verb: str) -> str:
    return "verify --repair" if verb == "repair" else verb
