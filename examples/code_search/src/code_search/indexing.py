"""The indexer: keeps a project's collection in step with its files."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import anyio
from anyio import to_thread
from qdrant_client import AsyncQdrantClient, models
from watchfiles import Change, awatch

from code_search.chunks import Chunk
from code_search.collection import ProjectCollection
from code_search.errors import NotIndexed, RootUnfit
from code_search.incremental import BATCH_CHUNKS, IncrementalRun, IndexReport, Progress, complete, versions_in
from code_search.points import VERSION, FileVersion, embedded_text, payload_of, point_ids
from qferry.demo.embedding import Embedder

__all__ = ["IndexReport", "IndexStatus", "IndexerService", "Progress"]

# Until then a run waits for the rest of a change that touches many files.
_SETTLED_MS = 400
_LOOK_EVERY_MS = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexStatus:
    """
    What is indexed of a project.

    Args:
        project: Its name.
        collection: What it is indexed in; None if it is not.
        model: What this process would embed with.
        chunks: Points in the collection.
        files: Files that are indexed.
        incomplete: Those of them of which an interrupted run has left only a part, or an older version beside it.
    """

    project: str
    collection: str | None
    model: str
    chunks: int = 0
    files: int = 0
    incomplete: int = 0


class IndexerService:
    """
    Indexes a project.

    Args:
        client: Where the index is.
        collection: The project's.
        embedder: The model.
    """

    def __init__(self, client: AsyncQdrantClient, collection: ProjectCollection, embedder: Embedder) -> None:
        self._client = client
        self._collection = collection
        self._embedder = embedder
        self._dimensions: int | None = None
        self._one_run = anyio.Lock()

    async def ensure_collection(self) -> str:
        """
        Find the project's collection, or create it; with all payload indexes either way.

        Returns:
            The name to call.

        Raises:
            CollectionUnfit: It holds other vectors than this model's.
        """
        if self._dimensions is None:
            vectors = await to_thread.run_sync(self._embedder.embed, ["how many dimensions?"])
            self._dimensions = int(vectors.shape[1])
        return await self._collection.ensure(self._dimensions)

    async def index_chunk(self, chunk: Chunk) -> None:
        """Index one chunk; see `index_chunks`."""
        await self.index_chunks([chunk])

    async def index_chunks(self, chunks: Sequence[Chunk]) -> None:
        """
        Index chunks by themselves; those of earlier versions of their files stay.

        The next `index_project` looks at their files, whatever it finds there, and puts the rest right.

        Raises:
            CollectionUnfit: The collection holds other vectors than this model's.

        Retry: safe; a chunk's point is the same each time.
        """
        await self.ensure_collection()
        ids = point_ids(self._collection.project, self._embedder.name, chunks)
        for first in range(0, len(chunks), BATCH_CHUNKS):
            batch = chunks[first : first + BATCH_CHUNKS]
            vectors = await to_thread.run_sync(self._embedder.embed, [embedded_text(chunk) for chunk in batch])
            points = models.Batch(
                ids=[*ids[first : first + BATCH_CHUNKS]],
                vectors=vectors.tolist(),
                payloads=[
                    payload_of(chunk, FileVersion(chunk.path, "", 0), self._collection.project) for chunk in batch
                ],
            )
            await self._collection.call(partial(self._client.upsert, points=points))

    async def index_project(
        self, root: Path, report: Callable[[Progress], Awaitable[None]] | None = None
    ) -> IndexReport:
        """
        Bring the index in step with the project's files: only what has changed is embedded.

        A second call waits for the first.  Two processes may index the same files at once, also while these change:
        they do the work twice, and the later one to end looks again at what it has brought in and puts it right.  Only
        a process that is killed in between, or a file that keeps changing, leaves something for the next run.

        Args:
            root: The project's folder. It must be the same each time: what is not in it is deleted from the index.
            report: Told whenever a changed file is dealt with.

        Raises:
            RootUnfit: There is no such folder, or nothing to index in it; nothing was changed.
            CollectionUnfit: The collection holds other vectors than this model's; nothing was changed.

        Retry: safe; it goes on where it was interrupted.  Cancellation: between two batches.
        """
        async with self._one_run:
            await self.ensure_collection()
            return await IncrementalRun(self._client, self._collection, self._embedder, root, report).go()

    async def status(self) -> IndexStatus:
        """Tell what is indexed; changes nothing."""
        project, model = self._collection.project, self._embedder.name
        try:
            info = await self._collection.call(self._client.get_collection)
        except NotIndexed:
            return IndexStatus(project=project, collection=None, model=model)
        counted = await self._collection.call(partial(self._client.count, exact=True))
        # Without its index the collection holds nothing of this indexer's.
        versions = await versions_in(self._client, self._collection) if VERSION in info.payload_schema else {}
        return IndexStatus(
            project=project,
            collection=await self._collection.name(),
            model=model,
            chunks=counted.count,
            files=len(versions),
            incomplete=sum(complete(of_file) is None for of_file in versions.values()),
        )

    async def watch(self, root: Path) -> AsyncGenerator[IndexReport, None]:
        """
        Index the project now, and again whenever something in its folder changes; until the iteration is ended.

        Args:
            root: As for `index_project`.

        Returns:
            What each run has done.

        Raises:
            RootUnfit: As for `index_project`.
        """
        root = await to_thread.run_sync(_folder, root)

        def followed(_: Change, path: str) -> bool:
            # What is ignored is found out by the run; the project itself may well be below a folder called `.venv`.
            return ".git" not in Path(path).parts[len(root.parts) :]

        first = True
        # The first, empty round tells that changes are being noted; one that comes during a run is in the next round.
        watched = awatch(
            root, watch_filter=followed, debounce=_SETTLED_MS, rust_timeout=_LOOK_EVERY_MS, yield_on_timeout=True
        )
        async for changes in watched:
            if first or changes:
                first = False
                yield await self.index_project(root)


def _folder(root: Path) -> Path:
    """The folder itself, as paths below it are told."""
    if not root.is_dir():
        raise RootUnfit(f"There is no folder {str(root)!r} to follow. Correct PROJECT_ROOT.")
    return root.resolve()
