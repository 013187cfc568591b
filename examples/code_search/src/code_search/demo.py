"""
See a code search go on while its collection is renamed under it: `make -C examples/code_search demo`.

The code that is searched is qferry's own.  The application as it was indexes it under the legacy name; then four MCP
clients, each with a server process of its own, search it by meaning while the `qferry` command takes the collection to
its canonical name, back, there again, and deletes the old one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
from anyio import to_thread
from mcp import Client, StdioServerParameters
from mcp.types import CallToolResult
from qdrant_client import AsyncQdrantClient
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import qferry
from code_search.traffic import Account, SearchFailed, Traffic, search
from qferry.demo.errors import DemoError
from qferry.demo.fleet import child_environment
from qferry.demo.journey import Coordinator
from qferry.demo.stage import Stage
from qferry.server import QdrantServer, ServerBinaryError

PROJECT = "qferry"
ROOT = Path(qferry.__file__).parent
LEGACY, CANONICAL = f"project_{PROJECT}_code", f"project-{PROJECT}"
CLIENTS = 4
EXAMPLES = 3

# Nobody who knows these files would look anywhere else.
ANSWERS = {
    "where is the journal of written points kept": "protocol/journal.py",
    "turn a project's name into a valid collection name": "naming.py",
    "find or download a Qdrant binary and start a local server": "server.py",
}

STEPS = (
    ("start", LEGACY, CANONICAL),
    ("backfill", LEGACY),
    ("verify", LEGACY),
    ("switch", LEGACY, "--percent", "1"),
    ("switch", LEGACY, "--percent", "50"),
    ("switch", LEGACY, "--percent", "100"),
    ("rollback", LEGACY),
    ("switch", LEGACY, "--percent", "100"),
    ("finish", LEGACY, "--yes", "--safety-days", "0"),
    ("cleanup", LEGACY, "--confirm", LEGACY),
)


@dataclass(frozen=True)
class _BestHit:
    """What stands first in an answer; without a path there was no hit."""

    text: str
    path: str | None = None


def main() -> int:
    """Run the demo; 0 if every search was answered as it should be, 1 if not."""
    console = Console()
    try:
        with QdrantServer.start() as qdrant:
            return 0 if anyio.run(_demo, qdrant.url, console) else 1
    except (DemoError, ServerBinaryError) as error:
        console.print(f"[red]{escape(str(error))}[/]", highlight=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return 130


async def _demo(url: str, console: Console) -> bool:
    environ = _environment(url)
    # The application as it was: its template gave the names that are legacy now.
    async with _session({**environ, "COLLECTION_NAME_TEMPLATE": "project_{name}_code"}) as client:
        indexed = await _index(client, console)
        before = await _best_hits(client)
    if indexed.is_error:
        raise DemoError(f"The project could not be indexed: {indexed.content}")

    stage, traffic, coordinator = Stage(console, pause_s=0), Traffic(ANSWERS), Coordinator(url)
    async with traffic.running([partial(_session, environ)] * CLIENTS):
        with stage.phase(f"{CLIENTS} clients search"):
            await traffic.next_round()
        for verb, *arguments in STEPS:
            with stage.phase(_label(verb, arguments)) as note:
                earlier = traffic.account.searches
                await to_thread.run_sync(coordinator.run, verb, *arguments)
                note(f"{traffic.account.searches - earlier} searches meanwhile")
            await traffic.next_round()

    async with _session(environ) as client:
        after = await _best_hits(client)
    return _report(traffic.account, before, after, await _collections(url), console)


def _environment(url: str) -> dict[str, str]:
    """What the servers are told; what a person's shell says about such things must not reach the demo."""
    kept = {name: value for name, value in child_environment().items() if not name.startswith("CODE_SEARCH_")}
    return {**kept, "QDRANT_URL": url, "PROJECT_NAME": PROJECT, "PROJECT_ROOT": str(ROOT)}


def _session(environ: Mapping[str, str]) -> Client:
    """A session with a server process of its own, the way an MCP host on this machine starts it."""
    return Client(StdioServerParameters(command=sys.executable, args=["-m", "code_search", "serve"], env=dict(environ)))


async def _index(client: Client, console: Console) -> CallToolResult:
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("[dim]{task.fields[path]}"))
    began = time.monotonic()
    with Progress(TextColumn("index over MCP"), *columns, console=console, transient=True) as bars:
        bar = bars.add_task("", total=None, path="")

        async def show(progress: float, total: float | None, message: str | None) -> None:
            bars.update(bar, completed=progress, total=total, path=escape(message or ""))

        result = await client.call_tool("index_project", progress_callback=show)
    found = result.structured_content or {}
    remark = f"{found.get('chunks')} chunks of {found.get('files')} files, into {LEGACY}"
    line = f"[green]✓[/] {'index over MCP':<28} {time.monotonic() - began:6.1f} s  [dim]{remark}[/]"
    console.print(line, highlight=False, soft_wrap=True)
    return result


async def _best_hits(client: Client) -> list[_BestHit]:
    found = []
    for question in ANSWERS:
        try:
            hits = await search(client, question)
        except SearchFailed as error:
            found.append(_BestHit(str(error)))
            continue
        found.append(_BestHit(f"{hits[0]['path']}:{hits[0]['start_line']}", hits[0]["path"]) if hits else _BestHit("-"))
    return found


async def _collections(url: str) -> list[str]:
    """The server's collections, without the records of migrations."""
    client = AsyncQdrantClient(url=url, check_compatibility=False)
    try:
        listed = await client.get_collections()
    finally:
        await client.close()
    return [collection.name for collection in listed.collections if not collection.name.startswith("_qferry")]


def _label(verb: str, arguments: Sequence[str]) -> str:
    percent = f" {arguments[-1]} %" if "--percent" in arguments else ""
    return f"qferry {verb}{percent}"


def _report(
    account: Account,
    before: Sequence[_BestHit],
    after: Sequence[_BestHit],
    collections: Sequence[str],
    console: Console,
) -> bool:
    """Show what came of it, and say whether all of it is as it should be."""
    hits = Table("asked", f"of {LEGACY}", f"of {CANONICAL}")
    right = True
    for (question, path), *found in zip(ANSWERS.items(), before, after, strict=True):
        right = right and all(hit.path == path for hit in found)
        cells = (f"[{'green' if hit.path == path else 'red'}]{escape(hit.text)}[/]" for hit in found)
        hits.add_row(question, *cells)
    console.print(hits)

    searches = Table(f"searches by {CLIENTS} MCP clients while the collection moved", f"{account.searches:,}")
    for name, bad in (
        ("failed", account.failed),
        ("answered with nothing", account.empty),
        ("answered with another file first", account.astray),
    ):
        searches.add_row(name, f"[bold {'red' if bad else 'green'}]{len(bad):,}[/]")
    console.print(searches)
    for example in (*account.failed[:EXAMPLES], *account.empty[:EXAMPLES], *account.astray[:EXAMPLES]):
        console.print(example, markup=False, highlight=False, soft_wrap=True)

    renamed = list(collections) == [CANONICAL]
    if not renamed:
        console.print(f"[red]There should be {CANONICAL} and nothing else; there is {', '.join(collections)}.[/]")
    passed = right and renamed and account.clean
    console.print("[bold green]Nobody noticed.[/]" if passed else "[bold red]Not everything is right.[/]")
    return passed


if __name__ == "__main__":
    sys.exit(main())
