"""What the example's tests share: a project's folder, a model without a model, and the points of a collection."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
from grpc.aio import AioRpcError, Metadata
from qdrant_client import AsyncQdrantClient
from qdrant_client.http.exceptions import UnexpectedResponse

from code_search.collection import ProjectCollection
from qferry import FerryOptions
from qferry.demo.fingerprint import Vectors, normalised

# A fifth of the default: commands wait for the next heartbeat of every client.
FAST = FerryOptions(heartbeat_s=0.2)

DIMENSIONS = 128


class CountingEmbedder:
    """Texts with the same words are close; every text that it was asked for is in `texts`, except the first of all."""

    def __init__(self, name: str = "bag-of-words", dimensions: int = DIMENSIONS) -> None:
        self.name = name
        self.texts: list[str] = []
        self.before: Callable[[Sequence[str]], None] = lambda _: None
        self._dimensions = dimensions

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Count words, each in the place that its hash tells."""
        self.before(texts)
        if list(texts) != ["how many dimensions?"]:
            self.texts += texts
        vectors = np.full((len(texts), self._dimensions), 1e-3, dtype=np.float32)
        for row, text in enumerate(texts):
            for word in re.findall(r"[a-z]+", text.lower()):
                vectors[row, zlib.crc32(word.encode()) % self._dimensions] += 1
        return normalised(vectors)


def grpc_error(status: str, details: str = "said by the server") -> grpc.RpcError:
    """Make what a gRPC call raises that ends with a status."""
    return AioRpcError(grpc.StatusCode[status], Metadata(), Metadata(), details)


def rest_error(status: HTTPStatus, content: bytes = b"said by the server") -> UnexpectedResponse:
    """Make what a REST call raises that is answered with a status."""
    return UnexpectedResponse(status.value, status.phrase, content, httpx.Headers())


class Project:
    """A folder that is filled and changed by a test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    def write(self, path: str, content: str | bytes) -> Path:
        """Write a file, and the folders above it."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    def delete(self, path: str) -> None:
        """Delete a file."""
        (self.root / path).unlink()


async def stored(client: AsyncQdrantClient, collection: ProjectCollection) -> dict[str, dict[str, Any]]:
    """Return every point's payload, by its id."""
    points, _ = await client.scroll(await collection.name(), limit=10_000)
    return {str(point.id): point.payload or {} for point in points}


async def places(client: AsyncQdrantClient, collection: ProjectCollection) -> list[tuple[str, int, str]]:
    """Return where each chunk is, and its text, in the order of the files."""
    payloads = (await stored(client, collection)).values()
    return sorted((payload["path"], payload["start_line"], payload["text"]) for payload in payloads)
