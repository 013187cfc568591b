"""
A TCP proxy on loopback whose connections can be cut, delayed, held back and refused.

It runs in a process of its own (`python -m tests.chaos.proxy`), so that it stays quick whatever the test does.  The
test speaks to it through a pipe, one JSON object a line: `Proxy` is the test's end of it.  When the pipe closes the
process ends.

A link listens at one address and leads to one server.  The faults of a link:

- *cut*: every connection is reset, on both sides;
- *delay*: every piece of data waits a while, in order;
- *hold*: nothing is passed on, in either direction; afterwards it is, also what a closed connection had sent, as a
  network does that lost its packets for a while and sends them again;
- *refuse*: every connection is reset, and so are new ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

_PIECE_BYTES = 64 * 1024
_RESET = struct.pack("ii", 1, 0)  # linger for no time: closing sends RST, not FIN
_REPOSITORY = Path(__file__).parents[2]


class Proxy:
    """The test's end: starts the process, sends it commands, stops it."""

    def __init__(self, spawn: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen) -> None:
        """
        Start the process.

        Args:
            spawn: Starts it; `subprocess.Popen` or something of its signature.
        """
        self._process = spawn(
            [sys.executable, "-m", "tests.chaos.proxy"],
            cwd=_REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._one_at_a_time = threading.Lock()

    def open(self, name: str, host: str, port: int, upstream: int) -> int:
        """
        Open a link.

        Args:
            name: The link; several addresses may share one, and its faults.
            host: Where it listens.
            port: The port, or 0 for a free one.
            upstream: The port on 127.0.0.1 it leads to.

        Returns:
            The port it listens on.
        """
        return int(self._command(what="open", name=name, host=host, port=port, upstream=upstream)["port"])

    def close_link(self, name: str) -> None:
        """Close a link and all its connections."""
        self._command(what="close", name=name)

    def cut(self, name: str) -> None:
        """Reset every connection of a link."""
        self._command(what="cut", name=name)

    def set(self, name: str, *, delay_s: float = 0.0, hold: bool = False, refuse: bool = False) -> None:
        """Put a link into a state; without arguments it is as good as new."""
        self._command(what="set", name=name, delay_s=delay_s, hold=hold, refuse=refuse)

    def close(self) -> None:
        """End the process."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.terminate()
        self._process.wait()

    def _command(self, **command: Any) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("The proxy was started without pipes.")
        with self._one_at_a_time:
            stdin.write(orjson.dumps(command) + b"\n")
            stdin.flush()
            answer = stdout.readline()
        if not answer:
            raise RuntimeError(f"The proxy has ended; it was told {command}.")
        found: dict[str, Any] = orjson.loads(answer)
        if "error" in found:
            raise RuntimeError(f"The proxy could not do {command}: {found['error']}")
        return found


@dataclass
class _Link:
    """One link's listeners, connections and state."""

    servers: list[asyncio.Server] = field(default_factory=list)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    writers: set[asyncio.StreamWriter] = field(default_factory=set)
    delay_s: float = 0.0
    refuse: bool = False
    passing: asyncio.Event = field(default_factory=asyncio.Event)

    def cut(self) -> None:
        for writer in list(self.writers):
            _reset(writer)
        for task in list(self.tasks):
            task.cancel()


def _reset(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


async def _serve(link: _Link, upstream: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if link.refuse:
        _reset(writer)
        return
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("A connection is served by a task.")
    link.tasks.add(task)
    link.writers.add(writer)
    there: asyncio.StreamWriter | None = None
    try:
        await link.passing.wait()
        answers, there = await asyncio.open_connection("127.0.0.1", upstream)
        link.writers.add(there)
        await _pass_on(link, reader, there, answers, writer)
    except (OSError, asyncio.CancelledError):
        for end in (writer, there):
            if end is not None:
                _reset(end)
    finally:
        for end in (writer, there):
            if end is not None:
                link.writers.discard(end)
                end.close()
        link.tasks.discard(task)


async def _pass_on(
    link: _Link,
    reader: asyncio.StreamReader,
    there: asyncio.StreamWriter,
    answers: asyncio.StreamReader,
    back: asyncio.StreamWriter,
) -> None:
    directions = [
        asyncio.ensure_future(_pump(link, reader, there)),
        asyncio.ensure_future(_pump(link, answers, back)),
    ]
    try:
        # Each direction ends by itself: what a client has sent before it went away still arrives.
        await asyncio.gather(*directions)
    finally:
        for direction in directions:
            direction.cancel()


async def _pump(link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what arrives until it ends; a delay keeps the order."""
    while piece := await reader.read(_PIECE_BYTES):
        if link.delay_s:
            await asyncio.sleep(link.delay_s)
        await link.passing.wait()
        writer.write(piece)
        await writer.drain()
    await link.passing.wait()
    if writer.can_write_eof():
        writer.write_eof()


class _Switchboard:
    """The process's end of the pipe."""

    def __init__(self) -> None:
        self._links: dict[str, _Link] = {}

    async def obey(self, command: dict[str, Any]) -> dict[str, Any]:
        what, name = command["what"], command["name"]
        if what == "open":
            return {"port": await self._open(name, command["host"], command["port"], command["upstream"])}
        link = self._links[name]
        if what == "close":
            for server in self._links.pop(name).servers:
                server.close()
            link.passing.set()
        elif what == "set":
            link.delay_s, link.refuse = command["delay_s"], command["refuse"]
            link.passing.clear() if command["hold"] else link.passing.set()
        if what in ("cut", "close") or link.refuse:
            link.cut()
        return {}

    async def _open(self, name: str, host: str, port: int, upstream: int) -> int:
        link = self._links.setdefault(name, _Link())
        link.passing.set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _serve(link, upstream, reader, writer)

        server = await asyncio.start_server(serve, host, port)
        link.servers.append(server)
        return int(server.sockets[0].getsockname()[1])


async def _run() -> None:
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    switchboard = _Switchboard()
    while line := await orders.readline():
        try:
            answer = await switchboard.obey(orjson.loads(line))
        except (OSError, KeyError) as error:
            answer = {"error": f"{type(error).__name__} {error}"}
        sys.stdout.buffer.write(orjson.dumps(answer) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    asyncio.run(_run())
