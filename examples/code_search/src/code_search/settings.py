"""What one deployment of the application is told by its environment; a container needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from code_search.errors import SettingsInvalid
from qferry import AsyncFerryClient, FerryOptions
from qferry.demo.embedding import BUILT_IN_MODEL
from qferry.naming import CollectionNaming

DEFAULT_URL = "http://localhost:6333"
# A busy server may take longer over a batch than the client's own five seconds.
TIMEOUT_S = 60
MAX_PORT = 65_535


@dataclass(frozen=True, kw_only=True)
class Settings:
    """
    Where the project is, and where its index.

    Args:
        project: `PROJECT_NAME`. Names the collection: it must be the same wherever the project is indexed or searched.
        root: `PROJECT_ROOT`. The project's folder; None where it is not at hand, and only searches are made.
        qdrant_url: `QDRANT_URL`.
        qdrant_api_key: `QDRANT_API_KEY`.
        grpc_port: `QDRANT_GRPC_PORT`. Where the same server listens for gRPC, which is faster; 0: all goes by REST.
        allowed_hosts: `CODE_SEARCH_ALLOWED_HOSTS`. By which names, besides loopback, `serve --http` is reached.
        model: `CODE_SEARCH_MODEL`. The built-in one, or the name of any that fastembed knows.
        naming: The rules that make the collection's name (`COLLECTION_NAME_TEMPLATE`, ...; see qferry's settings).
        ferry: How this process takes part in migrations (`ENABLE_DUAL_WRITE`, ...; see qferry's settings).
    """

    project: str
    root: Path | None = None
    qdrant_url: str = DEFAULT_URL
    qdrant_api_key: str | None = field(default=None, repr=False)
    grpc_port: int = 0
    allowed_hosts: tuple[str, ...] = ()
    model: str = BUILT_IN_MODEL
    naming: CollectionNaming = field(default_factory=CollectionNaming)
    ferry: FerryOptions = field(default_factory=FerryOptions)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        """
        Read the settings from environment variables; an empty variable counts as unset.

        Args:
            environ: The variables named above; all others are ignored.

        Raises:
            SettingsInvalid: `PROJECT_NAME` is missing, or `QDRANT_GRPC_PORT` is no port.
            FerryError: A variable of qferry's, or the project's name, cannot be used.
        """
        project = environ.get("PROJECT_NAME")
        if not project:
            # Not guessed from the folder: in containers every project's is `/app`, and each would delete the other's.
            raise SettingsInvalid(
                "PROJECT_NAME is not set, so there is no telling which collection is meant. "
                "Set it to the project's name, the same wherever it is indexed or searched."
            )
        naming = CollectionNaming.from_environ(environ)
        naming.canonical(project)
        root = environ.get("PROJECT_ROOT")
        return cls(
            project=project,
            root=Path(root) if root else None,
            qdrant_url=environ.get("QDRANT_URL") or DEFAULT_URL,
            qdrant_api_key=environ.get("QDRANT_API_KEY") or None,
            grpc_port=_port(environ.get("QDRANT_GRPC_PORT") or "0"),
            allowed_hosts=tuple(filter(None, map(str.strip, environ.get("CODE_SEARCH_ALLOWED_HOSTS", "").split(",")))),
            model=environ.get("CODE_SEARCH_MODEL") or BUILT_IN_MODEL,
            naming=naming,
            ferry=FerryOptions.from_environ(environ),
        )

    def client(self) -> AsyncFerryClient:
        """A client for the index, which follows the migrations of its collection; you must close it."""
        return AsyncFerryClient(
            url=self.qdrant_url,
            api_key=self.qdrant_api_key,
            prefer_grpc=bool(self.grpc_port),
            grpc_port=self.grpc_port,
            timeout=TIMEOUT_S,
            check_compatibility=False,
            ferry=self.ferry,
        )


def _port(given: str) -> int:
    if not (given.isascii() and given.isdigit() and int(given) <= MAX_PORT):
        raise SettingsInvalid(
            f"QDRANT_GRPC_PORT is {given!r}, which is no port; nothing was sent. "
            "Set it to where Qdrant listens for gRPC, usually 6334, or to 0, or not at all, to use REST."
        )
    return int(given)
