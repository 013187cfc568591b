"""
How much of its time the application gives to the model, which nobody can take from it, and how much it adds of its own.

Indexing: files of this Python's standard library (without site-packages and test folders) are indexed into a new
collection.  The rate is held against the model's own, on the very same texts in batches of the same size: one half of
them before the run and the other after it, so that a machine that grows slower favours neither.

Searching: the application's search alternates with what it cannot do without: embedding the question, and a
`query_points` of a plain, blocking `QdrantClient`; both by REST and by gRPC, by one caller and by four at once, which
are tasks on one event loop for the application, and threads for the plain client.

    python bench.py [--chunks 500] [--searches 200] [--model NAME] [--url http://localhost:6333 --grpc-port 6334]

Without `--url` a server is started for the purpose.  By default it takes one to two minutes on two cores; with
`--chunks 0`, which takes all chunks, more than an hour.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
from qdrant_client import QdrantClient

from code_search.chunks import chunks_of
from code_search.collection import ProjectCollection
from code_search.files import project_files, read_text
from code_search.incremental import BATCH_CHUNKS
from code_search.indexing import IndexerService
from code_search.points import embedded_text
from code_search.searching import CodeSearch
from code_search.settings import Settings
from qferry.demo.embedding import BUILT_IN_MODEL, QUERIES, Embedder, load_embedder
from qferry.server import QdrantServer

PROJECT = "code-search-bench"
SKIPPED_FOLDERS = frozenset({"site-packages", "test", "tests", "idle_test", "__pycache__"})
LIMIT = 10
WARM_UP = 5
CALLERS = (1, 4)


def library_texts() -> dict[str, str]:
    """Return the standard library's Python files that have something in them."""
    root = Path(os.__file__).parent
    paths = (path for path in project_files(root) if path.endswith(".py"))
    chosen = (path for path in paths if SKIPPED_FOLDERS.isdisjoint(Path(path).parts))
    read = ((path, read_text(root / path)) for path in chosen)
    return {path: text for path, text in read if text is not None}


def sample(library: dict[str, str], paths: Sequence[str], wanted: int) -> list[str]:
    """Return these files as far as they have so many chunks together, passing over what would be more; for 0 all."""
    taken, left = [], wanted
    for path in paths:
        chunks = len(chunks_of(path, library[path]))
        if not wanted or chunks <= left:
            taken.append(path)
            left -= chunks
    return taken


def seconds_of(act: Callable[[], object]) -> float:
    """Return how long it takes."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def embed_all(embedder: Embedder, batches: Sequence[Sequence[str]]) -> None:
    """Embed, and nothing else."""
    for batch in batches:
        embedder.embed(batch)


@contextlib.contextmanager
def server(url: str | None, grpc_port: int) -> Iterator[tuple[str, int]]:
    """Give the server's URL and its port for gRPC, of one started here if no URL is given."""
    if url:
        yield url, grpc_port
        return
    with QdrantServer.start() as started:
        yield started.url, started.grpc_port


async def measure_indexing(indexer: IndexerService, embedder: Embedder, root: Path, texts: Sequence[str]) -> None:
    """Index everything in `root`, whose chunks' texts are given in order, and print both rates."""
    batches = [texts[first : first + BATCH_CHUNKS] for first in range(0, len(texts), BATCH_CHUNKS)]
    half = len(batches) // 2
    await indexer.ensure_collection()  # loads what the model loads at its first use
    model_s = seconds_of(lambda: embed_all(embedder, batches[:half]))
    began = time.perf_counter()
    report = await indexer.index_project(root)
    indexing_s = time.perf_counter() - began
    model_s += seconds_of(lambda: embed_all(embedder, batches[half:]))
    if report.added != len(texts):
        raise SystemExit(f"{report.added} chunks were added instead of {len(texts)}: is the project indexed already?")
    began = time.perf_counter()
    await indexer.index_project(root)
    again_s = time.perf_counter() - began
    print(f"model alone      {len(texts) / model_s:7.1f} chunks/s   {model_s:6.1f} s")
    print(f"indexing         {len(texts) / indexing_s:7.1f} chunks/s   {indexing_s:6.1f} s")
    print(f"  of the model's rate: {model_s / indexing_s:.1%} (target: at least 85 %)")
    print(f"indexing again, nothing changed: {again_s:.2f} s")


@dataclass(frozen=True)
class Way:
    """A way to the server: the application's search, and a plain client, by REST or both by gRPC."""

    search: CodeSearch
    plain: QdrantClient


async def measure_searching(ways: Mapping[str, Way], embedder: Embedder, name: str, rounds: int) -> None:
    """Ask the same questions by all ways, in turn, and print their medians; with one caller, then with several."""
    for callers in CALLERS:
        needed, application = await search_times(ways, embedder, name, rounds, callers)
        print(f"searching, p50 of {rounds} rounds, {callers} at once")
        for way in ways:
            print(f"  model + query by {way:5} {needed[way]:7.2f} ms   search {application[way]:7.2f} ms", end="")
            of_same, of_best = application[way] / needed[way], application[way] / min(needed.values())
            print(f"   {of_same:.2f} x, and {of_best:.2f} x the faster one (target: at most 1.10 x)")


async def search_times(
    ways: Mapping[str, Way], embedder: Embedder, name: str, rounds: int, callers: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the medians in ms, by way: what a search cannot do without, and the application's search."""

    def bare(plain: QdrantClient, query: str) -> float:
        began = time.perf_counter()
        vector = embedder.embed([query])[0].tolist()
        plain.query_points(name, query=vector, limit=LIMIT, with_payload=True)
        return time.perf_counter() - began

    async def searched(search: CodeSearch, query: str, into: list[float]) -> None:
        began = time.perf_counter()
        await search.search(query, limit=LIMIT)
        into.append(time.perf_counter() - began)

    needed: dict[str, list[float]] = {way: [] for way in ways}
    application: dict[str, list[float]] = {way: [] for way in ways}
    turns = [(way, kind) for way in ways for kind in (needed, application)]
    shuffle = random.Random(callers).shuffle  # noqa: S311  repeatable on purpose
    with ThreadPoolExecutor(callers) as threads:
        for number in range(WARM_UP + rounds):
            queries = [QUERIES[(number + caller) % len(QUERIES)] for caller in range(callers)]
            shuffle(turns)
            for way, kind in turns:
                if kind is needed:
                    kind[way] += threads.map(bare, [ways[way].plain] * callers, queries)
                    continue
                async with anyio.create_task_group() as tasks:
                    for query in queries:
                        tasks.start_soon(searched, ways[way].search, query, kind[way])
    return medians_ms(needed, callers), medians_ms(application, callers)


def medians_ms(times: Mapping[str, Sequence[float]], callers: int) -> dict[str, float]:
    """Return the medians in ms of what was measured in s, without the first rounds."""
    return {way: statistics.median(all_of[WARM_UP * callers :]) * 1000 for way, all_of in times.items()}


async def run(options: argparse.Namespace, url: str, grpc_port: int) -> None:
    """Measure and print."""
    library = library_texts()
    paths = list(library)
    random.Random(options.seed).shuffle(paths)  # noqa: S311  repeatable on purpose
    taken = sample(library, paths, options.chunks)
    rest = Settings(project=PROJECT, qdrant_url=url, qdrant_api_key=os.environ.get("QDRANT_API_KEY"))
    embedder = load_embedder(options.model)
    clients, ways = [], {}
    for way, settings in {"REST": rest, "gRPC": replace(rest, grpc_port=grpc_port)}.items():
        client = settings.client()
        parts = client, ProjectCollection(client, PROJECT, settings.naming), embedder
        plain = QdrantClient(**{**client.init_options, "timeout": None})
        ways[way] = Way(CodeSearch(*parts), plain)
        clients.append(client)
    indexer = IndexerService(*parts)
    root = Path(tempfile.mkdtemp(prefix="code-search-bench-"))
    try:
        for path in taken:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(library[path], encoding="utf-8")
        # As the walk will meet them.
        texts = [embedded_text(chunk) for path in project_files(root) for chunk in chunks_of(path, library[path])]
        began = time.perf_counter()
        everything = sum(len(chunks_of(path, text)) for path, text in library.items())
        cutting_s = time.perf_counter() - began
        print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, {embedder.name}, batches of {BATCH_CHUNKS}")
        print(f"{len(texts):,} of {everything:,} chunks, in {len(taken)} of {len(library)} files")
        print(f"cutting alone    {everything / cutting_s:7.0f} chunks/s   {cutting_s:6.1f} s for all of them")
        await measure_indexing(indexer, embedder, root, texts)
        await measure_searching(ways, embedder, rest.naming.canonical(PROJECT), options.searches)
    finally:
        shutil.rmtree(root)
        await client.delete_collection(rest.naming.canonical(PROJECT))
        for client in clients:
            await client.close()
        for way in ways.values():
            way.plain.close()


def main() -> None:
    """Read the options, find a server, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=500, help="so many, in whole files (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of which files (default: %(default)s)")
    parser.add_argument("--searches", type=int, default=200, help="rounds of either kind (default: %(default)s)")
    parser.add_argument("--model", default=BUILT_IN_MODEL, help="default: %(default)s")
    parser.add_argument("--url", help="a server without this benchmark's project; by default one is started")
    parser.add_argument("--grpc-port", type=int, default=6334, help="of that server (default: %(default)s)")
    options = parser.parse_args()
    with server(options.url, options.grpc_port) as (url, grpc_port):
        anyio.run(run, options, url, grpc_port)


if __name__ == "__main__":
    main()
