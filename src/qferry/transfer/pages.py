"""
The page requests of flows (`wire.read_page`, `write_page`, `read_digests`), carried out by gRPC.

Used only if both sides can be reached that way, so that what is read on one can be written to, or compared with, the
other.  Whether the ports lead to the same servers as REST is asked by the migration's own markers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote

from qferry.errors import RemoteFailure
from qferry.flows.effects import Request
from qferry.transfer.channel import Channel
from qferry.transfer.digest import read_digests
from qferry.transfer.relay import Relay


class Pages:
    """
    Carries out page requests; for any number of threads, each on channels of its own.

    Args:
        channel_to: Makes a channel to a server (`HOME`, or the URL of the target's).
        marks: Servers, each with a name that only it knows.
    """

    def __init__(self, channel_to: Callable[[str], Channel], marks: Iterable[tuple[str, str]]) -> None:
        self._channel_to = channel_to
        self._marks = tuple(marks)
        self._mine = threading.local()
        self._open: list[Channel] = []
        self._lock = threading.Lock()
        self._usable: bool | None = None

    @property
    def usable(self) -> bool:
        """Whether both sides' servers answer by gRPC, and are those that answer by REST."""
        with self._lock:
            if self._usable is None:
                self._usable = all(self._leads_to(*mark) for mark in self._marks)
            return self._usable

    def _leads_to(self, server: str, mark: str) -> bool:
        channel = self._channel_to(server)
        try:
            return channel.answers() and channel.sees(mark)
        except RemoteFailure:
            return False
        finally:
            channel.close()

    def takes(self, request: Request) -> bool:
        """Whether a request is carried out here."""
        return request.op in ("read_page", "write_page", "read_digests") and self.usable

    def carry_out(self, request: Request) -> Any:
        """
        Carry a request out.

        Raises:
            RemoteFailure: As by REST.
        """
        collection = unquote(request.path.split("/")[2])
        channel = self._channel(request.server)
        if request.op == "write_page":
            return Relay(channel).write(collection, request.body)
        offset, limit = request.body.get("offset"), request.body["limit"]
        if request.op == "read_page":
            return Relay(channel).read(collection, offset, limit=limit)
        return read_digests(
            channel, collection, offset, limit=limit, read_consistency=request.params.get("consistency")
        )

    def _channel(self, server: str) -> Channel:
        channels: dict[str, Channel] = self._mine.__dict__.setdefault("channels", {})
        if server not in channels:
            channels[server] = self._channel_to(server)
            with self._lock:
                self._open.append(channels[server])
        return channels[server]

    def close(self) -> None:
        """Let all connections go."""
        with self._lock:
            for channel in self._open:
                channel.close()
            self._open.clear()
