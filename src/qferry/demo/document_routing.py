"""Where the document's two feature flags send an application's calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qdrant_client import QdrantClient
from qdrant_client.http.exceptions import UnexpectedResponse

from qferry.demo.workload import Request


class SecondWriteRefusedError(Exception):
    """The legacy collection took the write and the new one refused it; the application sees a failure."""


@dataclass(frozen=True)
class DocumentRouting:
    """The document's two feature flags, and where they send an application's calls."""

    legacy: str
    new: str
    dual_write: bool
    new_reads: bool

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], *, legacy: str, new: str) -> DocumentRouting:
        """Read `ENABLE_DUAL_WRITE` and `ENABLE_NEW_READS` as the document does."""
        return cls(
            legacy=legacy,
            new=new,
            dual_write=environ.get("ENABLE_DUAL_WRITE", "false") == "true",
            new_reads=environ.get("ENABLE_NEW_READS", "false") == "true",
        )

    @property
    def read_from(self) -> str:
        """The collection that answers reads."""
        return self.new if self.new_reads else self.legacy

    def perform(self, client: QdrantClient, request: Request) -> None:
        """
        Send a request where the flags say.

        Raises:
            SecondWriteRefusedError: the new collection refused a write that the legacy one had taken.
        """
        if not request.effects or not self.dual_write:
            send(client, self.read_from, request)
            return
        send(client, self.legacy, request)
        try:
            send(client, self.new, request)
        except UnexpectedResponse as error:
            raise SecondWriteRefusedError(f"{request.method} on {self.new}: {error}") from error


def send(client: QdrantClient, collection: str, request: Request) -> None:
    """Call the client's method that the request names."""
    getattr(client, request.method)(collection, **request.arguments)
