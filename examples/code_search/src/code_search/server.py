"""
The code search as an MCP server: three tools, over stdio or streamable HTTP.

One server serves one project, the one its settings name: what a model may choose is a question, never a folder of
this machine.  It keeps one `AsyncFerryClient` for its whole life, so the collection may be migrated under it.

Over stdio, stdout belongs to the protocol: the SDK turns everything else that is written there to stderr.
"""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import anyio
import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.transport_security import TransportSecuritySettings
from mcp.types import ToolAnnotations
from pydantic import BaseModel, Field, RootModel

from code_search.answers import QDRANT_ERRORS, status_of
from code_search.collection import ProjectCollection
from code_search.errors import CodeSearchError, NotIndexed, SettingsInvalid
from code_search.indexing import IndexerService, IndexReport, IndexStatus, Progress
from code_search.languages import LANGUAGES
from code_search.searching import CodeSearch, Hit
from code_search.settings import Settings
from code_search.stdin import ended_by_signals
from qferry.demo.embedding import Embedder, load_embedder
from qferry.errors import FerryError, LeaseLost, Unreachable

LOOPBACK = "127.0.0.1"
LOOPBACK_NAMES = (LOOPBACK, "localhost", "[::1]")
GRACE_S = 3
MAX_LIMIT = 50

INSTRUCTIONS = """
Searches the source code of one project by meaning. Ask `semantic_code_search` in plain words what the code does; use a
text search for exact names. If it says that nothing is indexed yet, or files have changed, call `index_project` first.
""".strip()


@dataclass(frozen=True)
class Services:
    """What the tools work with, for as long as the server runs."""

    search: CodeSearch
    indexer: IndexerService
    root: Path | None


class SearchResult(BaseModel):
    """What was found, best first."""

    hits: list[Hit]


# The SDK derives no schema from a dataclass with slots by itself.
IndexResult = RootModel[IndexReport]
StatusResult = RootModel[IndexStatus]


def make_server(settings: Settings, embedder: Embedder) -> MCPServer[Services]:
    """
    A server that is not running yet.

    Args:
        settings: Which Qdrant, which project, which folder.
        embedder: What turns code and questions into vectors.

    Returns:
        The server; it connects when it is run and says goodbye to Qdrant when it ends.
    """

    @asynccontextmanager
    async def services(_: MCPServer[Services]) -> AsyncIterator[Services]:
        client = settings.client()
        try:
            parts = client, ProjectCollection(client, settings.project, settings.naming), embedder
            yield Services(CodeSearch(*parts), IndexerService(*parts), settings.root)
        finally:
            # A client that leaves without a goodbye makes a migration suspect, so a cancelled server says it, too.
            with anyio.CancelScope(shield=True):
                await client.close()

    server: MCPServer[Services] = MCPServer(
        "code-search",
        title=f"Code search in {settings.project}",
        instructions=INSTRUCTIONS,
        lifespan=services,
        log_level="WARNING",  # otherwise every request is a line on stderr
    )
    server.add_tool(
        semantic_code_search,
        title="Search code by meaning",
        structured_output=True,
        annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False),
    )
    server.add_tool(
        index_project,
        title="Index the project",
        structured_output=True,
        # Destructive: what is indexed of a file that is gone goes, too.  Idempotent: the index follows the files.
        annotations=ToolAnnotations(
            read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
        ),
    )
    server.add_tool(
        index_status,
        title="State of the index",
        structured_output=True,
        annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False),
    )
    return server


def serve(settings: Settings, http: str | None = None, *, embedder: Embedder | None = None) -> None:
    """
    Serve until the host closes stdin, or SIGTERM comes; either way Qdrant is told goodbye.

    Args:
        settings: As for `make_server`.
        http: `HOST:PORT` for streamable HTTP at `/mcp`, or `:PORT`, which is on loopback; None for stdio.
        embedder: Takes the place of the model that the settings name.

    Raises:
        SettingsInvalid: `http` is no address.
        DemoError: The model cannot be loaded.
        SystemExit: A signal has ended it, over stdio.
    """
    where = None if http is None else _address(http)
    with redirect_stdout(sys.stderr):  # a model that is downloaded may say so, before the SDK looks after stdout
        embedder = embedder or load_embedder(settings.model)
    server = make_server(settings, embedder)
    if where is None:
        with ended_by_signals():
            server.run("stdio")
        return
    host, port = where
    uvicorn.run(
        server.streamable_http_app(host=host, transport_security=security(settings.allowed_hosts)),
        host=host,
        port=port,
        access_log=False,
        timeout_graceful_shutdown=GRACE_S,  # otherwise a client that stays connected keeps it from ending
    )


def security(allowed: Sequence[str] = ()) -> TransportSecuritySettings:
    """
    Who may ask over HTTP: a page in somebody's browser that has its own name lead to this server may not.

    The SDK protects a server by itself only if it listens on loopback; in a container it cannot.

    Args:
        allowed: Names by which the server is reached besides loopback's, with or without a port; without: any.
    """
    hosts = [form for name in (*LOOPBACK_NAMES, *allowed) for form in _with_any_port(name)]
    origins = [f"{scheme}://{host}" for scheme in ("http", "https") for host in hosts]
    return TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=origins)


def _with_any_port(name: str) -> tuple[str, ...]:
    return (name,) if re.search(r":\d+$", name) else (name, f"{name}:*")


async def semantic_code_search(
    context: Context[Services, Any],
    query: Annotated[str, Field(description="What the code does, in plain words, such as `retry a failed upload`.")],
    # The bounds stand in the schema, and are checked by hand: a sentence tells a model more than a validator's report.
    limit: Annotated[
        int,
        Field(description="How many hits at most.", json_schema_extra={"minimum": 1, "maximum": MAX_LIMIT}),
    ] = 10,
    language: Annotated[str | None, Field(description=f"Only this language: {', '.join(LANGUAGES)}.")] = None,
    path: Annotated[
        str | None, Field(description="Only this file or folder, relative to the project, such as `src/server`.")
    ] = None,
) -> SearchResult:
    """Find the functions, classes and passages of the project whose meaning is closest to the query."""
    if not 1 <= limit <= MAX_LIMIT:
        raise ToolError(f"The limit is {limit}, so nothing was searched. Ask for 1 to {MAX_LIMIT} hits.")
    services = context.request_context.lifespan_context
    with _said_plainly():
        return SearchResult(hits=await services.search.search(query, limit=limit, language=language, path=path))


async def index_project(context: Context[Services, Any]) -> IndexResult:
    """Bring the index up to date with the project's files; only what has changed is embedded again."""
    services = context.request_context.lifespan_context
    if services.root is None:
        raise ToolError(
            "This server was not told where the project's files are, so nothing was indexed. "
            "Set PROJECT_ROOT in its environment and start it again."
        )

    async def report(progress: Progress) -> None:
        await context.report_progress(progress.done, progress.total, progress.path)

    with _said_plainly():
        return IndexResult(await services.indexer.index_project(services.root, report))


async def index_status(context: Context[Services, Any]) -> StatusResult:
    """Say which collection is searched, and how much of the project is in it."""
    with _said_plainly():
        return StatusResult(await context.request_context.lifespan_context.indexer.status())


@contextmanager
def _said_plainly() -> Iterator[None]:
    """Hand on as a sentence what a person can do something about; the rest is a bug, and the SDK logs its traceback."""
    try:
        yield
    except NotIndexed as error:
        raise ToolError(
            "The project is not indexed, so there is nothing to search. Call index_project first."
        ) from error
    except (*QDRANT_ERRORS, Unreachable, LeaseLost) as error:
        status = None if isinstance(error, FerryError) else status_of(error)
        if status is None:
            told = "Qdrant does not answer. Start it, or correct QDRANT_URL or QDRANT_GRPC_PORT in this server's "
            told += "environment; then try again."
        else:
            told = f"Qdrant refused this with status {status}. Look into its log, and check QDRANT_API_KEY."
        raise ToolError(told) from error
    except (CodeSearchError, FerryError) as error:
        raise ToolError(str(error)) from error


def _address(http: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{http}")
        port = parts.port
    except ValueError:
        port = None
    if port is None or parts.path or parts.query:
        raise SettingsInvalid(f"{http!r} is no address to listen at. Write HOST:PORT, such as {LOOPBACK}:8000.")
    return parts.hostname or LOOPBACK, port
