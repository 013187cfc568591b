"""
The stage of a run: the servers of a topology, and the links by which applications and coordinators reach them.

Servers and links keep their addresses over every restart.
"""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from qferry.server import HOST, QdrantCluster, QdrantServer

from .content import State, state_of
from .proxy import Proxy

# The target's server is reached at another address of loopback: a client uses the same gRPC port for both.
TARGET_HOST = "127.0.0.2"
TOPOLOGIES = ("one", "two", "cluster")
# How the target is spread on a cluster.
SPREAD = {"shard_number": 3, "replication_factor": 2}
_SETTLED_WITHIN_S = 120.0
_PAGE_POINTS = 1000
_POLL_S = 0.2


class Server(Protocol):
    """What the stage needs of a server."""

    http_port: int
    grpc_port: int

    def kill(self) -> None:
        """Kill it as a crash would."""

    def restart(self) -> None:
        """Start it again at the same place."""

    def pause(self) -> None:
        """Freeze it."""

    def resume(self) -> None:
        """Let it go on."""


@dataclass(frozen=True)
class Address:
    """How one process reaches its server."""

    url: str
    grpc_port: int
    links: frozenset[str]


@dataclass(frozen=True)
class Stage:
    """
    What stands ready.

    Args:
        topology: `one`, `two`, or `cluster`: the target is on a cluster of three nodes.
        servers: By the name that faults use.
        home: The server with source and records.
        target: The server with the target; of a cluster the node that clients talk to.
        applications: One address for each application that runs side by side.
        coordinator: The address for `qferry`.
        target_url: Where `qferry start` is to put the target; empty for the same server.
        overrides: What the target's configuration is to differ in.
        proxy: The links' process.
    """

    topology: str
    servers: dict[str, QdrantServer]
    home: QdrantServer
    target: QdrantServer
    applications: Sequence[Address]
    coordinator: Address
    target_url: str
    overrides: dict[str, int]
    proxy: Proxy

    @property
    def links(self) -> tuple[str, ...]:
        """Every link's name."""
        names = set(self.coordinator.links).union(*(a.links for a in self.applications))
        return tuple(sorted(names))


@contextlib.contextmanager
def set_up(topology: str, proxy: Proxy, applications: int) -> Iterator[Stage]:
    """
    Start the servers of a topology and open the links.

    Args:
        topology: `one`, `two` or `cluster`.
        proxy: Opens the links.
        applications: How many applications run side by side.

    Yields:
        The stage; servers and links are gone afterwards.
    """
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(QdrantServer.start())
        servers = {"server:home": home}
        target, target_url = home, ""
        if topology == "cluster":
            nodes = stack.enter_context(QdrantCluster.start()).nodes
            servers |= {f"server:node{n}": node for n, node in enumerate(nodes)}
            target = nodes[0]
        elif topology == "two":
            target = servers["server:target"] = stack.enter_context(QdrantServer.start())
        if target is not home:
            port = proxy.open("link:target", TARGET_HOST, 0, target.http_port)
            target_url = f"http://{TARGET_HOST}:{port}"
        shared = frozenset({"link:target"} if target_url else ())
        addresses = []
        for i in range(applications):
            link = f"link:app{i}"
            http_port = proxy.open(link, HOST, 0, home.http_port)
            grpc_port = proxy.open(link, HOST, 0, home.grpc_port)
            if target_url:
                proxy.open("link:target", TARGET_HOST, grpc_port, target.grpc_port)
            addresses.append(Address(f"http://{HOST}:{http_port}", grpc_port, shared | {link}))
        port = proxy.open("link:coordinator", HOST, 0, home.http_port)
        grpc_port = proxy.open("link:coordinator", HOST, 0, home.grpc_port)
        if target_url:
            proxy.open("link:target", TARGET_HOST, grpc_port, target.grpc_port)
        coordinator = Address(f"http://{HOST}:{port}", grpc_port, shared | {"link:coordinator"})
        overrides = SPREAD if topology == "cluster" else {}
        stage = Stage(topology, servers, home, target, addresses, coordinator, target_url, overrides, proxy)
        try:
            yield stage
        finally:
            for name in stage.links:
                proxy.close_link(name)


def ask(server: Server, method: str, path: str, body: Any = None, *, timeout_s: float = 30.0) -> Any:
    """
    One plain request past every proxy and client library; the `result` of the answer, or None for a 404.

    Raises:
        OSError: the server did not answer.
        RuntimeError: it answered with another error.
    """
    connection = http.client.HTTPConnection(HOST, server.http_port, timeout=timeout_s)
    try:
        sent = None if body is None else orjson.dumps(body)
        connection.request(method, path, sent, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
    except http.client.HTTPException as error:
        raise OSError(f"{type(error).__name__} {error}") from error
    finally:
        connection.close()
    if answer.status == http.HTTPStatus.NOT_FOUND:
        return None
    if answer.status != http.HTTPStatus.OK:
        raise RuntimeError(f"{method} {path} was answered {answer.status}: {content[:300]!r}")
    return orjson.loads(content)["result"]


def read_collection(server: Server, collection: str) -> dict[int, State]:
    """
    Every point of a collection; one on which the copies differ is missing.

    Raises:
        RuntimeError: there is no such collection, or not all of its copies came back in time.
    """
    _wait_for_every_copy(server, collection)
    points: dict[int, State] = {}
    offset = None
    while True:
        request = {"limit": _PAGE_POINTS, "offset": offset, "with_payload": True, "with_vector": True}
        page = ask(server, "POST", f"/collections/{collection}/points/scroll?consistency=all", request)
        if page is None:
            raise RuntimeError(f"There is no collection {collection}.")
        for point in page["points"]:
            points[point["id"]] = state_of(point["vector"], point["payload"])
        offset = page["next_page_offset"]
        if offset is None:
            return points


def _wait_for_every_copy(server: Server, collection: str) -> None:
    deadline = time.monotonic() + _SETTLED_WITHIN_S
    while True:
        found = ask(server, "GET", f"/collections/{collection}/cluster") or {}
        shards = [*found.get("local_shards", ()), *found.get("remote_shards", ())]
        if all(shard["state"] == "Active" for shard in shards):
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"Not every copy of {collection} came back: {shards}")
        time.sleep(_POLL_S)
