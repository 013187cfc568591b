"""Local inference from many threads: upstream's embedder keeps what it is at in fields of its own."""

from __future__ import annotations

import threading
from typing import Any

from qdrant_client import QdrantClient


class ThreadedClient(QdrantClient):
    """
    A `QdrantClient` that turns documents into vectors for one thread at a time.

    Upstream's (1.16 to 1.20) accumulates a batch and hands its vectors out by turns (`ModelEmbedder`), so two calls at
    once get each other's vectors, or an error.  All of its methods come by `_embed_models`, but for its uploads, which
    `FerryClient` carries out another way.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # Of the same thread again, for the points may come from a generator that embeds something itself.
        self._embedding = threading.RLock()
        super().__init__(*args, **kwargs)

    def _embed_models(self, *args: Any, **kwargs: Any) -> list[Any]:
        with self._embedding:
            return list(super()._embed_models(*args, **kwargs))
