"""A running server as every process of the harness knows it, and what they all have to ask of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
from qdrant_client import QdrantClient
from qdrant_client.grpc import PointsStub

from qferry import FerryClient

TIMEOUT_S = 600
_POLL_S = 0.05
# A server is green for a moment between the last write and the optimizer's first look at it.
_STAYS_GREEN_S = 0.7
# Without the first, answers are gzipped, which costs the server far more than it saves on any fast network; pages are
# larger than the 4 MB a channel accepts by default.
_CHANNEL_OPTIONS = [
    ("grpc.compression_enabled_algorithms_bitset", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]


@dataclass(frozen=True)
class Place:
    """One server."""

    url: str
    grpc_port: int

    def client(self, *, prefer_grpc: bool = False) -> QdrantClient:
        """
        Give a plain client with its default options but for a generous timeout.

        By default it opens a connection for each REST request to this machine: on loopback, requests over a connection
        that is kept open may take 40 ms, which is a delayed acknowledgement of TCP and has nothing to do with Qdrant.
        """
        return QdrantClient(**self._options(prefer_grpc))

    def ferry(self, *, prefer_grpc: bool = False) -> FerryClient:
        """Give a qferry client with the same options."""
        return FerryClient(**self._options(prefer_grpc))

    def _options(self, prefer_grpc: bool) -> dict[str, Any]:  # noqa: FBT001  named where it is public
        return {
            "url": self.url,
            "grpc_port": self.grpc_port,
            "prefer_grpc": prefer_grpc,
            "timeout": TIMEOUT_S,
            "check_compatibility": False,
        }

    def drop(self, *collections: str) -> None:
        """Delete collections."""
        client = self.client()
        for name in collections:
            client.delete_collection(name)
        client.close()

    def raw(self) -> PointsStub:
        """Give gRPC without a client, on a channel of its own."""
        host = httpx.URL(self.url).host
        return PointsStub(grpc.insecure_channel(f"{host}:{self.grpc_port}", options=_CHANNEL_OPTIONS))

    def until_green(self, collection: str) -> float:
        """
        Wait until a collection is green and stays so.

        Returns:
            Seconds until it became green; the time it was watched afterwards does not count.
        """
        began = time.monotonic()
        green_since: float | None = None
        with httpx.Client(base_url=self.url, timeout=TIMEOUT_S) as http:
            while True:
                info = http.get(f"/collections/{collection}").raise_for_status().json()["result"]
                now = time.monotonic()
                if info["status"] != "green" or (info.get("update_queue") or {}).get("length"):
                    green_since = None
                elif green_since is None:
                    green_since = now
                elif now - green_since >= _STAYS_GREEN_S:
                    return green_since - began
                time.sleep(_POLL_S)

    def version(self) -> str:
        """Give the server's version."""
        return str(httpx.get(self.url).json()["version"])
