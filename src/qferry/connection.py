"""How a command reaches the servers: plain requests by REST, pages of points by gRPC."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx
from qdrant_client import QdrantClient

from qferry.drivers.archives import carried
from qferry.drivers.blocking import BlockingDriver
from qferry.errors import Misuse
from qferry.flows.effects import Report
from qferry.flows.restore import Origin
from qferry.protocol.phases import Side
from qferry.protocol.records import HOME, Migration
from qferry.transfer.channel import GRPC_PORT, Channel
from qferry.transfer.pages import Pages

Reporter = Callable[[Report], None]


def keeps_secret(url: str) -> bool:
    """Whether a URL says more than where a server is; qdrant-client would ignore that."""
    parts = urlsplit(url if "//" in url else f"//{url}")
    return "@" in parts.netloc or bool(parts.query or parts.fragment)


@dataclass(frozen=True, kw_only=True)
class Connection:
    """
    How to reach the servers.

    Args:
        url: The source's server, where the records are.
        api_key: Its key, with the right to manage.
        target_url: The target's server, if that is another one.
        target_api_key: Its key; by default the source's.
        timeout_s: Deadline of one request, in seconds.
        grpc_port: Where the source's server listens for gRPC; 0: pages go by REST, several times slower.
        target_grpc_port: The same of the target's server, if that is another one.

    Raises:
        Misuse: A URL has a user, a password or a query in it.
    """

    url: str
    api_key: str | None = field(default=None, repr=False)
    target_url: str = HOME
    target_api_key: str | None = field(default=None, repr=False)
    timeout_s: int = 60
    grpc_port: int = GRPC_PORT
    target_grpc_port: int = GRPC_PORT

    def channel(self, server: str) -> Channel:
        """A gRPC channel to a server."""
        home = server == HOME
        return Channel(
            server or self.url,
            grpc_port=self.port(server),
            api_key=self.key(server),
            timeout_s=float(self.timeout_s),
            whose="server" if home else "target's server",
        )

    def __post_init__(self) -> None:
        for url in (self.url, self.target_url):
            if keeps_secret(url):
                raise Misuse(
                    "The URL of a server has a user, a password or a query in it, which would be ignored, and kept in "
                    "the migration's records.",
                    hint="Give the server's key as `api_key`; nothing was sent.",
                )

    @property
    def origin(self) -> Origin | None:
        """
        Where the target's server may fetch a snapshot of the source.

        None: it must be carried there, because another server is not to learn the source's key.
        """
        if self.target_url and self.api_key:
            return None
        return Origin(self._address(HOME), self.api_key)

    def _address(self, server: str) -> str:
        """The URL of a server as qdrant-client understands it: it has ports of its own."""
        client = QdrantClient(url=server or self.url, timeout=self.timeout_s, check_compatibility=False)
        with contextlib.closing(client):
            return str(client.http.client.host)

    def key(self, server: str) -> str | None:
        """The key for a server; never to be shown."""
        return self.api_key if server == HOME else self.target_api_key or self.api_key

    def _bare_client(self, server: str) -> httpx.Client:
        key = self.key(server)
        return httpx.Client(base_url=self._address(server), headers={"api-key": key} if key else {})

    @contextlib.contextmanager
    def pages(self, migration: Migration, report: Reporter) -> Iterator[Pages | None]:
        """What carries a migration's pages by gRPC; None where that is not wanted or possible."""
        if not self.grpc_port or (migration.target_url and not self.target_grpc_port):
            yield None
            return
        pages = Pages(self.channel, [(migration.server(side), migration.marker(side)) for side in Side])
        try:
            if pages.usable:
                yield pages
            else:
                report(Report("rest", text="no gRPC at that port: points go by REST, several times slower"))
                yield None
        finally:
            pages.close()

    @contextlib.contextmanager
    def pages_of(self, source: str) -> Iterator[Pages | None]:
        """What carries pages of a collection by gRPC before a migration has marked anything; None without gRPC."""
        pages = Pages(self.channel, [(HOME, source)])
        try:
            yield pages if self.grpc_port and pages.usable else None
        finally:
            pages.close()

    def answers_by_grpc(self, server: str) -> bool:
        """Whether a Qdrant answers at the gRPC port that was given for a server; which one, nobody has asked."""
        if not self.port(server):
            return False
        channel = self.channel(server)
        try:
            return channel.answers()
        finally:
            channel.close()

    def port(self, server: str) -> int:
        """The gRPC port that was given for a server; 0: it is not to be used."""
        return self.grpc_port if server == HOME else self.target_grpc_port

    @contextlib.contextmanager
    def driver(self, report: Reporter = lambda _: None) -> Iterator[BlockingDriver]:
        """A driver on fresh connections, closed afterwards."""
        clients: dict[str, QdrantClient] = {}
        making = threading.Lock()  # pieces of work ask from threads of their own

        def client_for(server: str) -> QdrantClient:
            with making:
                if server not in clients:
                    clients[server] = QdrantClient(
                        url=server or self.url,
                        api_key=self.key(server),
                        timeout=self.timeout_s,
                        check_compatibility=False,
                    )
                return clients[server]

        driver = BlockingDriver(client_for, report=report, carry=lambda carry: carried(carry, self._bare_client))
        try:
            yield driver
        finally:
            driver.close()
            for client in clients.values():
                client.close()
