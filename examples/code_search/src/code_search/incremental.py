"""
One run over a project: what has changed is brought into the index, and nothing else is touched.

Three stages work at once, with a short queue between each two, so that the model, by far the slowest, never waits:
files are read and cut; new chunks are embedded, in batches that may span files; vectors are stored.  When the last new
chunk of a file is stored, what the index held of the file before is put right: chunks that only moved are told their
new lines, and those that are no more are deleted.  So a search meanwhile finds everything that still exists.

Nothing has to be remembered for a run that was interrupted: a file counts as indexed only when all its points say that
they are of its present version, and are as many as it has chunks.  Until then the next run looks at it again.

For the same reason a run looks again at what it has brought in: another process may have indexed a newer version of the
file meanwhile.  What of one version is stored after another's end is found by that, and put right at once.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import anyio
from anyio import to_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from qdrant_client import AsyncQdrantClient, models

from code_search.answers import QDRANT_ERRORS, is_missing
from code_search.chunks import Chunk, chunks_of
from code_search.collection import ProjectCollection
from code_search.errors import RootUnfit
from code_search.files import project_files, read_text
from code_search.points import (
    PATH,
    PLACE,
    VERSION,
    FileVersion,
    digest_of,
    embedded_text,
    matching,
    ours,
    payload_of,
    place_of,
    point_ids,
)
from qferry.demo.embedding import Embedder

# The built-in model sorts a batch by length, so that little padding is computed.  A run can be cancelled between two.
BATCH_CHUNKS = 64

_PAGE_POINTS = 1_000
_VERSIONS_PER_DELETE = 100
# The server counts as many different values as it is asked for, and a project may have a million files.
_FILES_MAX = 1_000_000
# A file that changes all the time, or that two processes bring in against each other, is left to the next run.
_ROUNDS = 3

Versions: TypeAlias = Mapping[str, Mapping[FileVersion, int]]
"""By path: how many points the index has of which version of the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """
    How far a run has got.

    Args:
        done: Files that are dealt with.
        total: Files that have changed.
        path: The one that was dealt with last.
    """

    done: int
    total: int
    path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexReport:
    """
    What a run has done.

    Args:
        files: Files of the project, unchanged ones included.
        chunks: What they are cut into.
        added: Chunks that were embedded and stored.
        updated: Chunks that had only moved, and were told their new lines.
        deleted: Chunks that were no more.
        unchanged: Chunks that were left as they are.
        unreadable: Files and folders that are there and could not be read; what was indexed of them was kept.
        seconds: How long it took.
    """

    files: int
    chunks: int
    added: int
    updated: int
    deleted: int
    unchanged: int
    unreadable: int
    seconds: float


@dataclass(slots=True)
class _File:
    """A changed file on its way into the index: its chunks by point id, and what the index has of it."""

    version: FileVersion
    chunks: Mapping[str, Chunk]
    stored: Mapping[str, Mapping[str, Any]]
    new: Sequence[str]
    waiting: int = field(init=False)

    def __post_init__(self) -> None:
        self.waiting = len(self.new)


_New: TypeAlias = tuple[_File, str]
_Embedded: TypeAlias = tuple[list[_New], list[list[float]]]


async def versions_in(client: AsyncQdrantClient, collection: ProjectCollection) -> Versions:
    """Count the points of each version of each file, in one request; the collection must have its indexes."""
    counted = await collection.call(partial(client.facet, key=VERSION, limit=_FILES_MAX, exact=True))
    versions: dict[str, dict[FileVersion, int]] = defaultdict(dict)
    for hit in counted.hits:
        if hit.count:  # the server remembers values that no point has any more
            version = FileVersion.parse(str(hit.value))
            versions[version.path][version] = hit.count
    return versions


def complete(versions: Mapping[FileVersion, int]) -> FileVersion | None:
    """The version of a file that is indexed wholly and alone; None if there is no such."""
    if len(versions) != 1:
        return None
    ((version, points),) = versions.items()
    return version if version.chunks == points else None


class IncrementalRun:
    """
    One run; use it once.

    Args:
        client: Where the index is.
        collection: The project's, with its indexes.
        embedder: The model.
        root: The project's folder.
        report: Told whenever a file is dealt with.
    """

    def __init__(
        self,
        client: AsyncQdrantClient,
        collection: ProjectCollection,
        embedder: Embedder,
        root: Path,
        report: Callable[[Progress], Awaitable[None]] | None = None,
    ) -> None:
        self._client = client
        self._collection = collection
        self._embedder = embedder
        self._root = root
        self._report = report
        self._indexed: Versions = {}
        self._unreadable: set[str] = set()
        self._chunks: dict[str, int] = {}
        self._done = self._total = 0
        self._telling = anyio.Lock()
        self._added = self._updated = self._deleted = 0

    async def go(self) -> IndexReport:
        """
        Bring the index up to date.

        Raises:
            RootUnfit: There is no such folder, or nothing to index in it.

        Cancellation: when the batch under way is embedded; the next run goes on from there.
        """
        began = time.monotonic()
        digests = await to_thread.run_sync(self._digests)
        if not digests:
            # More likely a folder that is not mounted than a project that has ended.
            raise RootUnfit(
                f"There is no text file in {str(self._root)!r} that git would not ignore; the index was left as it is. "
                "Correct PROJECT_ROOT, or delete the collection if the project is no more."
            )
        self._indexed = await versions_in(self._client, self._collection)
        gone = {path: self._indexed[path] for path in self._indexed if path not in digests and not self._kept(path)}
        changed = self._changed(digests)
        for _ in range(_ROUNDS):
            if not changed:
                break
            self._total += len(changed)
            await self._bring_in(changed)
            digests = await to_thread.run_sync(self._read, changed)
            self._indexed = await versions_in(self._client, self._collection)
            gone |= {
                path: self._indexed.get(path, {}) for path in changed if path not in digests and not self._kept(path)
            }
            changed = self._changed(digests)
        await self._drop(gone)
        chunks = sum(count for path, count in self._chunks.items() if path not in gone)
        return IndexReport(
            files=len(self._chunks.keys() - gone.keys()),
            chunks=chunks,
            added=self._added,
            updated=self._updated,
            deleted=self._deleted,
            unchanged=max(0, chunks - self._added - self._updated),
            unreadable=len(self._unreadable),
            seconds=round(time.monotonic() - began, 2),
        )

    def _digests(self) -> dict[str, str]:
        if not self._root.is_dir():
            raise RootUnfit(
                f"There is no folder {str(self._root)!r}; the index was left as it is. Correct PROJECT_ROOT."
            )
        try:
            paths = list(project_files(self._root, self._unreadable.add))
        except OSError as error:
            raise RootUnfit(
                f"What git ignores in {str(self._root)!r} cannot be read ({error}); the index was left as it is. "
                "Let this user read every .gitignore above it."
            ) from error
        return self._read(paths)

    def _read(self, paths: Sequence[str]) -> dict[str, str]:
        """The digests of those that have a text; a file that cannot be read is noted."""
        digests = {}
        for path in paths:
            try:
                text = read_text(self._root / path)
            except OSError:
                self._unreadable.add(path)
                continue
            if text is not None:
                digests[path] = digest_of(text, model=self._embedder.name)
        return digests

    def _changed(self, digests: Mapping[str, str]) -> list[str]:
        """Those that are not indexed wholly, alone, and as they are now."""
        changed = []
        for path, digest in digests.items():
            version = complete(self._indexed.get(path, {}))
            if version is not None and version.digest == digest:
                self._chunks[path] = version.chunks
            else:
                changed.append(path)
        return changed

    def _kept(self, path: str) -> bool:
        """Whether a file, or a folder around it, is there and cannot be read."""
        around = {parent.as_posix() for parent in PurePosixPath(path).parents}
        return not self._unreadable.isdisjoint({path, *around})

    async def _bring_in(self, paths: Sequence[str]) -> None:
        new_in, new_out = anyio.create_memory_object_stream[_New](2 * BATCH_CHUNKS)
        embedded_in, embedded_out = anyio.create_memory_object_stream[_Embedded](1)
        try:
            with new_in, new_out, embedded_in, embedded_out:
                async with anyio.create_task_group() as stages:
                    stages.start_soon(self._cut, paths, new_in)
                    stages.start_soon(self._embed, new_out, embedded_in)
                    stages.start_soon(self._store, embedded_out)
        except Exception as error:  # noqa: BLE001  raised again, out of its group
            # The stage that failed first has stopped the others.
            raise _first(error) from None

    async def _cut(self, paths: Sequence[str], new: MemoryObjectSendStream[_New]) -> None:
        with new:
            for path in paths:
                file = await self._planned(path)
                if file is None:
                    await self._tick(path)
                    continue
                self._chunks[path] = len(file.chunks)
                if not file.new:
                    await self._finish(file)
                for point_id in file.new:
                    await new.send((file, point_id))

    async def _embed(self, new: MemoryObjectReceiveStream[_New], embedded: MemoryObjectSendStream[_Embedded]) -> None:
        async def flush() -> None:
            texts = [embedded_text(file.chunks[point_id]) for file, point_id in batch]
            vectors = await to_thread.run_sync(self._embedder.embed, texts)
            await embedded.send((batch, vectors.tolist()))

        with embedded:
            batch: list[_New] = []
            async for item in new:
                batch.append(item)
                if len(batch) == BATCH_CHUNKS:
                    await flush()
                    batch = []
            if batch:
                await flush()

    async def _store(self, embedded: MemoryObjectReceiveStream[_Embedded]) -> None:
        project = self._collection.project
        async for batch, vectors in embedded:
            points = models.Batch(
                ids=[point_id for _, point_id in batch],
                vectors=vectors,
                payloads=[payload_of(file.chunks[point_id], file.version, project) for file, point_id in batch],
            )
            await self._collection.call(partial(self._client.upsert, points=points))
            self._added += len(batch)
            for file, _ in batch:
                file.waiting -= 1
                if not file.waiting:
                    await self._finish(file)

    async def _planned(self, path: str) -> _File | None:
        """Read and cut a file, and look what the index has of it; None if there is nothing to read any more."""
        cut = await to_thread.run_sync(self._read_and_cut, path)
        if cut is None:
            return None
        version, chunks = cut
        stored = await self._stored(path) if path in self._indexed else {}
        return _File(version, chunks, stored, [point_id for point_id in chunks if point_id not in stored])

    def _read_and_cut(self, path: str) -> tuple[FileVersion, dict[str, Chunk]] | None:
        try:
            text = read_text(self._root / path)
        except OSError:
            self._unreadable.add(path)
            return None
        if text is None:
            return None
        chunks = chunks_of(path, text)
        # Of the text that was cut: it may be newer than the one that was found changed.
        version = FileVersion(path, digest_of(text, model=self._embedder.name), len(chunks))
        ids = point_ids(self._collection.project, self._embedder.name, chunks)
        return version, dict(zip(ids, chunks, strict=True))

    async def _stored(self, path: str) -> dict[str, Mapping[str, Any]]:
        stored: dict[str, Mapping[str, Any]] = {}
        offset = None
        while True:
            page, offset = await self._collection.call(
                partial(
                    self._client.scroll,
                    scroll_filter=ours(matching(PATH, path)),
                    limit=_PAGE_POINTS,
                    offset=offset,
                    with_payload=[*PLACE],
                )
            )
            stored.update((str(point.id), point.payload or {}) for point in page)
            if offset is None:
                return stored

    async def _finish(self, file: _File) -> None:
        """Put right what the index held of a file, now that everything new of it is stored."""
        same: list[str] = []
        operations: list[models.UpdateOperation] = []
        for point_id in file.stored.keys() & file.chunks.keys():
            before, now = file.stored[point_id], place_of(file.chunks[point_id], file.version)
            if {**before, VERSION: now[VERSION]} == now:
                same.append(point_id)
            else:
                self._updated += 1
                operations.append(_set_payload(now, [point_id]))
        if same:
            operations.append(_set_payload({VERSION: str(file.version)}, same))
        if gone := [point_id for point_id in file.stored if point_id not in file.chunks]:
            self._deleted += len(gone)
            operations.append(models.DeleteOperation(delete=models.PointIdsList(points=[*gone])))
        if operations:
            try:
                await self._collection.call(partial(self._client.batch_update_points, update_operations=operations))
            except QDRANT_ERRORS as error:
                # Another process has deleted a point of a version that it found outdated: the next round sees why.
                if not is_missing(error):
                    raise
        await self._tick(file.version.path)

    async def _drop(self, gone: Versions) -> None:
        """Delete the files that are no more: of each the versions that were seen, and none that came meanwhile."""
        counts = {str(version): points for of_file in gone.values() for version, points in of_file.items()}
        versions = list(counts)
        for first in range(0, len(versions), _VERSIONS_PER_DELETE):
            chosen = models.FilterSelector(filter=matching(VERSION, *versions[first : first + _VERSIONS_PER_DELETE]))
            await self._collection.call(partial(self._client.delete, points_selector=chosen))
        self._deleted += sum(counts.values())

    async def _tick(self, path: str) -> None:
        async with self._telling:  # one after the other, although two stages may finish files
            self._done += 1
            if self._report is not None:
                await self._report(Progress(done=self._done, total=self._total, path=path))


def _set_payload(payload: dict[str, Any], ids: Sequence[str]) -> models.SetPayloadOperation:
    return models.SetPayloadOperation(set_payload=models.SetPayload(payload=payload, points=[*ids]))


def _first(error: Exception) -> Exception:
    """The error that a task group's error is about."""
    while inner := getattr(error, "exceptions", ()):
        error = inner[0]
    return error
