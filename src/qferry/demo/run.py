"""The demo from the first chunk of code to the closing table."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from qdrant_client import QdrantClient, models
from rich.console import Console

from qferry.demo.checker import check
from qferry.demo.content import read_collection
from qferry.demo.corpus import standard_library_chunks
from qferry.demo.embedding import (
    QUERIES,
    Embedder,
    cache_folder,
    cached_embeddings,
    load_embedder,
    near_copies,
    store_embeddings,
)
from qferry.demo.errors import DemoError
from qferry.demo.fingerprint import Vectors
from qferry.demo.fleet import Fleet
from qferry.demo.journey import Coordinator, migrate_with_qferry
from qferry.demo.naive import migrate_by_the_document
from qferry.demo.orders import GROUP_KEY
from qferry.demo.result import DEFAULT_TRAFFIC_S, DemoOptions, DemoResult, show, summarise
from qferry.demo.settings import ApplicationSettings
from qferry.demo.stage import Stage
from qferry.demo.workload import indexed_payload
from qferry.server import QdrantServer, ServerBinaryError

SOURCE = "project_stdlib_code"
TARGET = "project-stdlib"

APPLICATIONS = 3
CALLS_PER_S = 70.0  # of each application; with the server a bit over one of two cores

# About twenty chunks a second on two cores: this many take a quarter of a minute, once.
EMBEDDED_CHUNKS = 300
MIN_POINTS = 100
INDEX_BATCH_POINTS = 500
CLIENT_TIMEOUT_S = 60

# The applications run by themselves six times in the ferry demo; the rest of the time is the steps' own.
PAUSE_SHARE = 0.1


def run_demo(options: DemoOptions, *, console: Console | None = None, embedder: Embedder | None = None) -> DemoResult:
    """
    Index real code, start applications, migrate under their traffic, and check every point.

    Args:
        options: What to run.
        console: Where progress and the closing tables go; standard error by default.
        embedder: Takes the place of the model that the options name.

    Returns:
        The figures; wrong points are in the result, not raised.

    Raises:
        DemoError: the demo could not go on; what it had started has been stopped.
    """
    if options.points < MIN_POINTS:
        raise DemoError(f"The demo needs at least {MIN_POINTS} points to have something to move; got {options.points}.")
    screen = console or Console(stderr=True)
    traffic_s = DEFAULT_TRAFFIC_S if options.seconds is None else options.seconds
    stage = Stage(screen, pause_s=traffic_s * PAUSE_SHARE)
    with ExitStack() as stack:
        folder = stack.enter_context(_folder(screen, keep=options.keep))
        chunks, vectors, queries = _corpus(options, stage, embedder)
        url = options.url or _start_server(stack, stage)
        client = QdrantClient(url=url, timeout=CLIENT_TIMEOUT_S, check_compatibility=False)
        stack.callback(client.close)
        _index(client, stage, chunks, vectors, options)
        before = read_collection(url, SOURCE)

        fleet = Fleet(_settings(options, url, folder, chunks=chunks, vectors=vectors, queries=queries), folder)
        stack.callback(fleet.kill_all)
        fleet.start(APPLICATIONS)
        stage.let_traffic_run("traffic before", fleet)
        began = time.monotonic_ns()
        if options.naive:
            migrate_by_the_document(client, stage, fleet, source=SOURCE, target=TARGET)
        else:
            migrate_with_qferry(client, stage, fleet, url=url, source=SOURCE, target=TARGET)
        ended = time.monotonic_ns()
        stage.let_traffic_run("traffic after", fleet)
        fleet.stop()

        _clean_up(client, stage, url, naive=options.naive)
        with stage.phase("check every point"):
            calls = fleet.calls()
            verdict = check(calls, before, read_collection(url, TARGET))
        result = summarise(
            calls,
            verdict,
            during_ns=(began, ended),
            seconds_per_phase=stage.seconds_per_phase,
            mode="naive" if options.naive else "ferry",
            points=options.points,
            seed=options.seed,
        )
    show(result, screen)
    return result


@contextmanager
def _folder(screen: Console, *, keep: bool) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="qferry-demo-"))
    try:
        yield folder
    finally:
        if keep:
            screen.print(f"The applications' logs are in {folder}", highlight=False, soft_wrap=True)
        else:
            shutil.rmtree(folder)


def _corpus(
    options: DemoOptions, stage: Stage, embedder: Embedder | None
) -> tuple[list[dict[str, Any]], Vectors, Vectors]:
    """The chunks to embed for real as payloads, their vectors, and the vectors of the queries."""
    with stage.phase("chunk the standard library") as note:
        chunks = standard_library_chunks(min(options.points, EMBEDDED_CHUNKS))
        note(f"{len(chunks):,} functions and classes")
    texts = [*QUERIES, *(chunk.text for chunk in chunks)]
    with stage.phase("embed") as note:
        model = options.model if embedder is None else embedder.name
        vectors = cached_embeddings(model, texts, folder=cache_folder())
        if vectors is None:
            vectors = (embedder or load_embedder(model)).embed(texts)
            store_embeddings(model, texts, vectors, folder=cache_folder())
            note(f"{len(chunks):,} chunks by {model}")
        else:
            note(f"{len(chunks):,} chunks by {model}, cached by an earlier run")
        if options.points > len(chunks):
            note(f"the other {options.points - len(chunks):,} points are near copies of them")
    return [asdict(chunk) for chunk in chunks], vectors[len(QUERIES) :], vectors[: len(QUERIES)]


def _start_server(stack: ExitStack, stage: Stage) -> str:
    with stage.phase("start a Qdrant server") as note:
        try:
            server = stack.enter_context(QdrantServer.start())
        except ServerBinaryError as error:
            raise DemoError(str(error)) from error
        note(server.url)
    return server.url


def _index(
    client: QdrantClient,
    stage: Stage,
    chunks: Sequence[dict[str, Any]],
    vectors: Vectors,
    options: DemoOptions,
) -> None:
    with stage.phase(f"index {options.points:,} points") as note:
        for collection in (SOURCE, TARGET):
            if client.collection_exists(collection):
                raise DemoError(
                    f"The server already has a collection {collection!r}, which the demo would overwrite: "
                    "use another server, or remove it."
                )
        size = vectors.shape[1]
        client.create_collection(SOURCE, vectors_config=models.VectorParams(size=size, distance=models.Distance.COSINE))
        client.create_payload_index(SOURCE, GROUP_KEY, models.PayloadSchemaType.INTEGER)
        client.create_payload_index(SOURCE, "path", models.PayloadSchemaType.KEYWORD)
        all_vectors = near_copies(vectors, options.points, seed=options.seed)
        for first in range(0, options.points, INDEX_BATCH_POINTS):
            ids = range(first, min(first + INDEX_BATCH_POINTS, options.points))
            payloads = [indexed_payload(point, chunks, options.points) for point in ids]
            batch = models.Batch(ids=list(ids), vectors=all_vectors[ids.start : ids.stop].tolist(), payloads=payloads)
            client.upsert(SOURCE, batch)
        note(f"{size} dimensions, into {SOURCE}")


def _settings(
    options: DemoOptions,
    url: str,
    folder: Path,
    *,
    chunks: Sequence[dict[str, Any]],
    vectors: Vectors,
    queries: Vectors,
) -> ApplicationSettings:
    corpus, arrays = folder / "corpus.json", folder / "vectors.npz"
    corpus.write_bytes(orjson.dumps(chunks))
    np.savez(arrays, vectors=vectors, queries=queries)
    return ApplicationSettings(
        process="",
        url=url,
        source=SOURCE,
        target=TARGET,
        naive=options.naive,
        seed=options.seed,
        indexed_points=options.points,
        calls_per_s=CALLS_PER_S,
        corpus=str(corpus),
        vectors=str(arrays),
        log="",
    )


def _clean_up(client: QdrantClient, stage: Stage, url: str, *, naive: bool) -> None:
    with stage.phase("clean up"):
        if naive:
            client.delete_collection(SOURCE)
        else:
            Coordinator(url).run("cleanup", SOURCE, "--confirm", SOURCE)
        if client.collection_exists(SOURCE):
            raise DemoError(f"The cleanup ended well, but {SOURCE} is still there.")
