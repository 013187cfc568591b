"""
The `code-search` command: index, watch, search, status, serve.

Data goes to stdout, everything else to stderr.  Exit codes: 0 done, 1 failed, 2 typed wrong, 130 stopped by Ctrl-C,
143 by SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar, cast

import anyio
import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from code_search.answers import QDRANT_ERRORS, status_of, text_of
from code_search.collection import ProjectCollection
from code_search.errors import CodeSearchError, RootUnfit
from code_search.indexing import IndexerService, IndexReport, IndexStatus, Progress
from code_search.searching import CodeSearch, Hit
from code_search.settings import Settings
from qferry import AsyncFerryClient
from qferry.demo.embedding import Embedder, load_embedder
from qferry.demo.errors import DemoError
from qferry.errors import FerryError

DONE, FAILED, USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143

T = TypeVar("T")
_Parts: TypeAlias = tuple[AsyncFerryClient, ProjectCollection, Embedder]

app = typer.Typer(
    name="code-search",
    help="Search a code base by meaning. PROJECT_NAME says which; README.md names the other variables.",
    add_completion=False,
    # A traceback with local variables could show a key.
    pretty_exceptions_enable=False,
)

_Root: TypeAlias = Annotated[
    Path | None, typer.Argument(metavar="ROOT", show_default=False, help="The project's folder; else PROJECT_ROOT.")
]
_Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Write JSON, one document on one line.")]


@app.command()
def index(root: _Root = None, *, as_json: _Json = False) -> None:
    """Bring the index in step with the project's files."""
    settings = Settings.from_environ(os.environ)
    folder = _root(root, settings)

    async def work(parts: _Parts) -> IndexReport:
        with _bar() as show:
            return await IndexerService(*parts).index_project(folder, show)

    report = _run(settings, work)
    _write(report, _told(report), as_json=as_json)


@app.command()
def watch(root: _Root = None, *, as_json: _Json = False) -> None:
    """Index now, and again whenever a file changes, until Ctrl-C."""
    settings = Settings.from_environ(os.environ)
    folder = _root(root, settings)

    async def work(parts: _Parts) -> None:
        async with contextlib.aclosing(IndexerService(*parts).watch(folder)) as reports:
            async for report in reports:
                _write(report, _told(report), as_json=as_json)

    _run(settings, work)


@app.command()
def search(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What the code should do, or code like it.")],
    *,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many hits at most.")] = 10,
    language: Annotated[str | None, typer.Option("--language", help="Only in this language.")] = None,
    path: Annotated[str | None, typer.Option("--path", help="Only in this file or folder.")] = None,
    as_json: _Json = False,
) -> None:
    """Find the code that is closest in meaning to a question."""
    settings = Settings.from_environ(os.environ)

    async def work(parts: _Parts) -> list[Hit]:
        return await CodeSearch(*parts).search(query, limit=limit, language=language, path=path)

    hits = _run(settings, work)
    _write(hits, "\n\n".join(_picture(hit) for hit in hits), as_json=as_json)


@app.command()
def status(*, as_json: _Json = False) -> None:
    """Tell what is indexed; changes nothing."""
    settings = Settings.from_environ(os.environ)

    async def work(parts: _Parts) -> IndexStatus:
        return await IndexerService(*parts).status()

    found = _run(settings, work)
    if found.collection is None:
        text = f"{found.project} is not indexed."
    else:
        text = f"{found.project} is in {found.collection}: {found.chunks:,} chunks of {found.files:,} files."
        if found.incomplete:
            text += f" {found.incomplete:,} of them are not wholly indexed; run `code-search index`."
    _write(found, text, as_json=as_json)


@app.command()
def serve(
    http: Annotated[
        str | None, typer.Option("--http", metavar="HOST:PORT", help="Over HTTP there, not over stdin and stdout.")
    ] = None,
) -> None:
    """Serve search and indexing to an assistant, over MCP."""
    # Only this command needs the MCP library.
    import_module("code_search.server").serve(Settings.from_environ(os.environ), http)


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run one command.

    Args:
        arguments: What was typed after `code-search`; by default the process's own.

    Returns:
        The exit code.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code: int | None = app(given, prog_name="code-search", standalone_mode=False)
    except (CodeSearchError, DemoError, FerryError) as error:
        return _stopped(str(error), FAILED)
    except asyncio.CancelledError:
        return _stopped("Stopped.", TERMINATED)
    except QDRANT_ERRORS as error:
        status = status_of(error)
        if status is None:
            told = f"Qdrant does not answer: {text_of(error)}. Start it, or correct QDRANT_URL or QDRANT_GRPC_PORT."
        else:
            told = f"Qdrant refused this with status {status}. Look into its log."
        return _stopped(told, FAILED)
    except typer.TyperException as error:
        return _stopped(f"{error.format_message()} `code-search --help` shows what fits.", USAGE)
    return _stopped("Stopped.", INTERRUPTED) if code == INTERRUPTED else code or DONE


def _root(given: Path | None, settings: Settings) -> Path:
    root = given or settings.root
    if root is None:
        raise RootUnfit("There is no telling which folder to index. Give it as ROOT, or set PROJECT_ROOT.")
    return root


def _run(settings: Settings, work: Callable[[_Parts], Awaitable[T]]) -> T:
    """
    Do a command's work with everything it needs, and close it afterwards.

    SIGTERM, with which containers are stopped, cancels it: a client that leaves without a goodbye makes a migration
    suspect.  In a container this process is the first one, and nothing else would listen to the signal.
    """

    async def run() -> T:
        task = cast("asyncio.Task[T]", asyncio.current_task())
        with contextlib.suppress(NotImplementedError):  # Windows
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        async with _parts(settings) as parts:
            return await work(parts)

    return anyio.run(run)


@contextlib.asynccontextmanager
async def _parts(settings: Settings) -> AsyncIterator[_Parts]:
    embedder = load_embedder(settings.model)
    client = settings.client()
    try:
        yield client, ProjectCollection(client, settings.project, settings.naming), embedder
    finally:
        await client.close()


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[Progress], Awaitable[None]]]:
    """A bar on stderr while a person is watching."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[path]}", markup=False))
    console = Console(stderr=True)
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("", total=None, path="")

        async def show(progress: Progress) -> None:
            bars.update(task, completed=progress.done, total=progress.total, path=progress.path)

        yield show


def _told(report: IndexReport) -> str:
    return (
        f"{report.chunks:,} chunks of {report.files:,} files: {report.added:,} added, {report.updated:,} updated, "
        f"{report.deleted:,} deleted, {report.unchanged:,} unchanged, in {report.seconds:.1f} s."
        + (f" {report.unreadable:,} could not be read and stay as they were indexed." if report.unreadable else "")
    )


def _picture(hit: Hit) -> str:
    symbol = f"  {hit.symbol}" if hit.symbol else ""
    return f"{hit.path}:{hit.start_line}-{hit.end_line}{symbol}  ({hit.score:.2f})\n{hit.snippet}"


def _write(data: Any, text: str, *, as_json: bool) -> None:
    if as_json:
        plain = [dataclasses.asdict(one) for one in data] if isinstance(data, list) else dataclasses.asdict(data)
        text = orjson.dumps(plain).decode()
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _stopped(message: str, code: int) -> int:
    sys.stderr.write(f"{message}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
