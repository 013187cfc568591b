"""Indexing: only what has changed is embedded, nothing that exists is ever missed, and a crash is mended."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import from_thread
from code_search_support import DIMENSIONS, CountingEmbedder, Project, places, stored
from qdrant_client import AsyncQdrantClient, models

from code_search import languages, points
from code_search.chunks import chunks_of
from code_search.collection import ProjectCollection
from code_search.errors import CollectionUnfit, RootUnfit
from code_search.incremental import BATCH_CHUNKS
from code_search.indexing import IndexerService, IndexReport, Progress
from code_search.searching import CodeSearch
from qferry.naming import CollectionNaming

DEADLINE_S = 10


class ServerGoneError(Exception):
    """What a test's broken server raises."""


def counts(report: IndexReport) -> tuple[int, int, int, int]:
    """Return what was added, updated, deleted and left."""
    assert report.chunks == report.added + report.updated + report.unchanged
    return report.added, report.updated, report.deleted, report.unchanged


def expected_places(project: Project) -> list[tuple[str, int, str]]:
    """Return what `places` gives for an index that is as the files are."""
    found = []
    for file in sorted(project.root.rglob("*")):
        if file.is_file():
            path = file.relative_to(project.root).as_posix()
            found += [(path, chunk.start_line, chunk.text) for chunk in chunks_of(path, file.read_text())]
    return sorted(found)


def many_functions(count: int, *, first: int = 0) -> str:
    """Return a module of that many functions, no two alike."""
    return "".join(f"def f{number}():\n    return {number}\n\n\n" for number in range(first, first + count))


@pytest.fixture
async def indexed(indexer: IndexerService, project: Project, embedder: CountingEmbedder) -> Project:
    """Give the project, indexed, with nothing counted yet."""
    await indexer.index_project(project.root)
    embedder.texts.clear()
    return project


async def test_first_run_stores_every_chunk(
    indexer: IndexerService, project: Project, client: AsyncQdrantClient, collection: ProjectCollection
) -> None:
    """With the files' lines, and everything that a search filters by."""
    report = await indexer.index_project(project.root)
    assert (report.files, report.chunks, counts(report)) == (4, 6, (6, 0, 0, 0))
    assert await places(client, collection) == expected_places(project)
    payloads = (await stored(client, collection)).values()
    assert {payload["symbol"] for payload in payloads} == {"Queue", "Queue.put", "read", "size", "start", None}


async def test_run_without_changes_embeds_and_writes_nothing(
    indexer: IndexerService,
    indexed: Project,
    embedder: CountingEmbedder,
    client: AsyncQdrantClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not even what it knows to be there already."""

    async def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("Something was written.")

    for method in ("upsert", "batch_update_points", "delete", "set_payload", "create_payload_index"):
        monkeypatch.setattr(client, method, refuse)
    assert counts(await indexer.index_project(indexed.root)) == (0, 0, 0, 6)
    assert embedder.texts == []


async def test_changed_function_alone_is_embedded(
    indexer: IndexerService,
    indexed: Project,
    embedder: CountingEmbedder,
    client: AsyncQdrantClient,
    collection: ProjectCollection,
) -> None:
    """The file's other functions keep their vectors, and the old version is gone."""
    indexed.write("app/files.py", "def read(path):\n    return open(path).read()\n\n\ndef size(path):\n    return 2\n")
    assert counts(await indexer.index_project(indexed.root)) == (1, 0, 1, 5)
    assert embedder.texts == ["app/files.py size\ndef size(path):\n    return 2"]
    assert await places(client, collection) == expected_places(indexed)


async def test_function_that_only_moved_is_told_its_new_lines(
    indexer: IndexerService,
    indexed: Project,
    embedder: CountingEmbedder,
    client: AsyncQdrantClient,
    collection: ProjectCollection,
) -> None:
    """Its text is the same and so is its vector; only what was inserted is embedded."""
    before = await stored(client, collection)
    indexed.write("app/files.py", "import os\n\n" + (indexed.root / "app/files.py").read_text())
    assert counts(await indexer.index_project(indexed.root)) == (1, 2, 0, 4)
    assert embedder.texts == ["app/files.py \nimport os"]
    after = await stored(client, collection)
    assert before.keys() < after.keys()
    assert await places(client, collection) == expected_places(indexed)


async def test_deleted_and_ignored_files_are_removed(
    indexer: IndexerService, indexed: Project, client: AsyncQdrantClient, collection: ProjectCollection
) -> None:
    """Whether they are gone or only no longer wanted."""
    indexed.delete("app/queue.py")
    indexed.write(".gitignore", "*.js\n")
    assert counts(await indexer.index_project(indexed.root)) == (1, 0, 3, 3)
    assert {path for path, _, _ in await places(client, collection)} == {".gitignore", "README.md", "app/files.py"}


async def test_renamed_file_is_another_file(
    indexer: IndexerService, indexed: Project, client: AsyncQdrantClient, collection: ProjectCollection
) -> None:
    """Its path is part of what is embedded."""
    (indexed.root / "app/files.py").rename(indexed.root / "app/paths.py")
    assert counts(await indexer.index_project(indexed.root)) == (2, 0, 2, 4)
    assert await places(client, collection) == expected_places(indexed)


async def test_equal_chunks_are_all_stored(
    indexer: IndexerService, project: Project, client: AsyncQdrantClient, collection: ProjectCollection
) -> None:
    """And when one of them goes, one of them is deleted."""
    same = "def same():\n    pass\n\n\n"
    project.write("twice.py", same * 3)
    await indexer.index_project(project.root)
    assert await places(client, collection) == expected_places(project)
    project.write("twice.py", "x = 1\n" + same * 2)
    await indexer.index_project(project.root)
    assert await places(client, collection) == expected_places(project)


async def test_change_of_model_embeds_everything_anew(
    indexed: Project, client: AsyncQdrantClient, collection: ProjectCollection
) -> None:
    """No vector of the old one is left among those of the new one, although they are of the same length."""
    other = CountingEmbedder("another-model")
    report = await IndexerService(client, collection, other).index_project(indexed.root)
    assert counts(report) == (6, 0, 6, 0)
    assert await places(client, collection) == expected_places(indexed)


async def test_batches_span_files_and_large_files_span_batches(
    indexer: IndexerService,
    project: Project,
    client: AsyncQdrantClient,
    collection: ProjectCollection,
    embedder: CountingEmbedder,
) -> None:
    """The model is given as much as it takes, whatever file it is of."""
    sizes: list[int] = []
    embedder.before = lambda texts: sizes.append(len(texts))
    for number in range(10):
        project.write(f"many/m{number}.py", many_functions(5, first=number))
    project.write("large.py", many_functions(2 * BATCH_CHUNKS))
    report = await indexer.index_project(project.root)
    assert sizes[1:] == [BATCH_CHUNKS] * (report.added // BATCH_CHUNKS) + [report.added % BATCH_CHUNKS]
    assert await places(client, collection) == expected_places(project)


async def test_run_that_failed_in_the_model_is_mended_by_the_next(
    indexer: IndexerService,
    indexed: Project,
    embedder: CountingEmbedder,
    client: AsyncQdrantClient,
    collection: ProjectCollection,
) -> None:
    """Whether at its first batch, in its middle or at its end; what was stored before is not embedded again."""
    for batches_before in range(3):
        embedder.texts.clear()
        first = 1000 * batches_before
        indexed.write("app/files.py", many_functions(BATCH_CHUNKS + 10, first=first))
        indexed.write("large.py", many_functions(BATCH_CHUNKS, first=first))

        def fail(_: Sequence[str], full: int = batches_before * BATCH_CHUNKS) -> None:
            if len(embedder.texts) == full:
                raise MemoryError("no room for the model")

        embedder.before = fail
        with pytest.raises(MemoryError, match="no room for the model"):
            await indexer.index_project(indexed.root)
        embedder.before = lambda _: None
        report = await indexer.index_project(indexed.root)
        assert report.added >= 2 * BATCH_CHUNKS + 10 - batches_before * BATCH_CHUNKS
        assert await places(client, collection) == expected_places(indexed)
        assert (await indexer.status()).incomplete == 0


async def test_run_that_failed_at_the_server_is_mended_by_the_next(
    indexer: IndexerService,
    indexed: Project,
    client: AsyncQdrantClient,
    collection: ProjectCollection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whichever request it was, and whether it was carried out before its answer was lost or not."""
    text = (indexed.root / "app/files.py").read_text()
    for number, (method, carried_out) in enumerate(
        itertools.product(("upsert", "batch_update_points", "delete"), (True, False))
    ):
        text = f"import module{number}\n\n{text}"
        indexed.write("app/files.py", text + many_functions(3, first=number))
        await indexer.index_chunks(chunks_of("gone.py", "x = 1\n"))
        original = getattr(client, method)

        async def lost(*args: Any, original: Any = original, carried_out: bool = carried_out, **kwargs: Any) -> Any:
            if carried_out:
                await original(*args, **kwargs)
            raise ServerGoneError

        with monkeypatch.context() as broken:
            broken.setattr(client, method, lost)
            with pytest.raises(ServerGoneError):
                await indexer.index_project(indexed.root)
        await indexer.index_project(indexed.root)
        assert await places(client, collection) == expected_places(indexed)
        assert (await indexer.status()).incomplete == 0
    assert counts(await indexer.index_project(indexed.root))[:3] == (0, 0, 0)


async def test_cancelled_run_is_mended_by_the_next(
    indexer: IndexerService,
    indexed: Project,
    embedder: CountingEmbedder,
    client: AsyncQdrantClient,
    collection: ProjectCollection,
) -> None:
    """It ends when the batch under way is embedded, and leaves no task behind."""
    indexed.write("large.py", many_functions(3 * BATCH_CHUNKS))
    with anyio.CancelScope() as scope:

        def cancel(_: Sequence[str]) -> None:
            if len(embedder.texts) == BATCH_CHUNKS:
                from_thread.run_sync(scope.cancel)

        embedder.before = cancel
        await indexer.index_project(indexed.root)
    assert scope.cancelled_caught
    assert len(embedder.texts) == 2 * BATCH_CHUNKS
    embedder.before = lambda _: None
    await indexer.index_project(indexed.root)
    assert await places(client, collection) == expected_places(indexed)


async def test_search_during_a_run_finds_everything_that_still_exists(
    indexer: IndexerService,
    indexed: Project,
    search: CodeSearch,
    client: AsyncQdrantClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After every single write: the old version goes only when the new one is there."""
    indexed.write("app/files.py", "import os\n\n" + (indexed.root / "app/files.py").read_text().replace("1", "2"))
    seen: list[set[str | None]] = []

    def watched(write: Any) -> Any:
        async def and_look(*args: Any, **kwargs: Any) -> Any:
            result = await write(*args, **kwargs)
            hits = await search.search("size path return", path="app/files.py")
            seen.append({hit.symbol for hit in hits})
            return result

        return and_look

    for method in ("upsert", "batch_update_points", "delete"):
        monkeypatch.setattr(client, method, watched(getattr(client, method)))
    await indexer.index_project(indexed.root)
    assert len(seen) >= 2
    assert all({"read", "size"} <= symbols for symbols in seen)


async def test_progress_counts_changed_files_to_the_end(indexer: IndexerService, indexed: Project) -> None:
    """One report for each, in order; what has not changed is no work."""
    for number in range(5):
        indexed.write(f"new{number}.py", many_functions(number + 1))
    reports: list[Progress] = []

    async def note(progress: Progress) -> None:
        reports.append(progress)

    await indexer.index_project(indexed.root, note)
    assert [(progress.done, progress.total) for progress in reports] == [(done, 5) for done in range(1, 6)]
    assert {progress.path for progress in reports} == {f"new{number}.py" for number in range(5)}


async def test_file_that_goes_during_a_run_is_removed_by_the_next(
    indexer: IndexerService,
    indexed: Project,
    embedder: CountingEmbedder,
    client: AsyncQdrantClient,
    collection: ProjectCollection,
) -> None:
    """The run itself goes on without it."""
    first = indexed.write("a_first.py", many_functions(5 * BATCH_CHUNKS))
    last = indexed.write("z_last.py", "def last(): pass\n")
    embedder.before = lambda _: last.unlink(missing_ok=True)
    report = await indexer.index_project(indexed.root)
    assert first.exists()
    assert report.added == 5 * BATCH_CHUNKS
    assert await places(client, collection) == expected_places(indexed)


async def test_two_runs_of_one_service_take_turns(
    indexer: IndexerService, project: Project, embedder: CountingEmbedder
) -> None:
    """The second one finds nothing left to do."""
    first, second = await asyncio.gather(*(indexer.index_project(project.root) for _ in range(2)))
    assert (counts(first)[0], counts(second)[0]) == (6, 0)
    assert len(embedder.texts) == 6


async def test_two_processes_may_index_at_once(
    project: Project, client: AsyncQdrantClient, collection: ProjectCollection
) -> None:
    """They do the work twice, and the index is as if one had done it."""
    project.write("large.py", many_functions(BATCH_CHUNKS + 1))
    services = [
        IndexerService(client, ProjectCollection(client, collection.project, CollectionNaming()), CountingEmbedder())
        for _ in range(2)
    ]
    await asyncio.gather(*(service.index_project(project.root) for service in services))
    assert await places(client, collection) == expected_places(project)


@pytest.mark.parametrize("kept", [0, 1])
async def test_process_that_is_overtaken_puts_right_what_it_stored_too_late(
    indexer: IndexerService,
    indexed: Project,
    embedder: CountingEmbedder,
    client: AsyncQdrantClient,
    collection: ProjectCollection,
    kept: int,
) -> None:
    """A file changes while it is embedded, and another process indexes it: no chunk of the old version stays."""
    other = IndexerService(
        client, ProjectCollection(client, collection.project, CollectionNaming()), CountingEmbedder()
    )
    indexed.write("app/files.py", many_functions(2))
    await indexer.index_project(indexed.root)
    indexed.write("app/files.py", many_functions(1) + many_functions(2, first=7))
    texts = [many_functions(kept) + many_functions(1, first=9)]

    async def overtake() -> None:
        indexed.write("app/files.py", texts.pop())
        await other.index_project(indexed.root)

    def before(_: Sequence[str]) -> None:
        if texts:
            from_thread.run(overtake)

    embedder.before = before
    await indexer.index_project(indexed.root)
    assert await places(client, collection) == expected_places(indexed)
    assert (await indexer.status()).incomplete == 0


async def test_what_cannot_be_read_is_counted_and_kept(
    indexer: IndexerService,
    indexed: Project,
    client: AsyncQdrantClient,
    collection: ProjectCollection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A file or a folder that is there costs its chunks neither for want of permission nor of file handles."""
    before = await places(client, collection)
    original = {"open": os.open, "scandir": os.scandir}

    def refused(function: str, name: str, error: int) -> Any:
        def call(path: Any, *arguments: Any, **options: Any) -> Any:
            if Path(path).name == name:
                raise OSError(error, os.strerror(error))
            return original[function](path, *arguments, **options)

        return call

    for function, name, error in (
        ("open", "main.js", errno.EMFILE),
        ("open", "main.js", errno.EACCES),
        ("scandir", "app", errno.EACCES),
    ):
        with monkeypatch.context() as broken:
            broken.setattr(os, function, refused(function, name, error))
            report = await indexer.index_project(indexed.root)
        assert (report.unreadable, report.deleted) == (1, 0)
        assert await places(client, collection) == before
    assert (await indexer.index_project(indexed.root)).unreadable == 0


async def test_points_of_other_programs_are_left_alone(
    indexer: IndexerService, project: Project, client: AsyncQdrantClient, collection: ProjectCollection
) -> None:
    """Also those with a `path` that is a file of the project's, and with ids of another kind."""
    await indexer.ensure_collection()
    payload = {"path": "app/files.py", "text": "theirs"}
    strangers = [models.PointStruct(id=number, vector=[1.0] * DIMENSIONS, payload=payload) for number in (1, 2, 3)]
    await client.upsert(await collection.name(), strangers)
    await indexer.index_project(project.root)
    project.write("app/files.py", "x = 1\n")
    await indexer.index_project(project.root)
    assert [point.payload for point in await client.retrieve(await collection.name(), [1, 2, 3])] == [payload] * 3


async def test_language_that_becomes_known_is_told_with_the_lines(
    indexer: IndexerService,
    project: Project,
    client: AsyncQdrantClient,
    collection: ProjectCollection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A chunk whose text stays the same is not embedded again, but is found by its new language."""
    project.write("a.pyw", "x = 1\n")
    await indexer.index_project(project.root)
    monkeypatch.setitem(languages._BY_SUFFIX, ".pyw", languages._BY_SUFFIX[".py"])
    monkeypatch.setattr(points, "_FORMAT", points._FORMAT + 1)
    assert counts(await indexer.index_project(project.root)) == (0, 1, 0, 6)
    (payload,) = (one for one in (await stored(client, collection)).values() if one["path"] == "a.pyw")
    assert payload["language"] == "python"


async def test_projects_whose_names_lead_to_one_collection_are_told_apart(
    indexed: Project, client: AsyncQdrantClient, collection: ProjectCollection
) -> None:
    """The second one is refused, and both are named; what was stored before projects were noted is accepted."""
    other = ProjectCollection(client, collection.project.replace("-", "."), CollectionNaming())
    rival = IndexerService(client, other, CountingEmbedder())
    with pytest.raises(CollectionUnfit, match=f"{collection.project!r} and {other.project!r} lead to one"):
        await rival.index_project(indexed.root)
    assert await places(client, collection) == expected_places(indexed)
    await client.delete_payload(await collection.name(), ["project"], models.Filter())
    assert (await rival.index_project(indexed.root)).files == 4


async def test_root_without_files_leaves_the_index_alone(
    indexer: IndexerService,
    indexed: Project,
    client: AsyncQdrantClient,
    collection: ProjectCollection,
    tmp_path: Path,
) -> None:
    """A folder that is not there, or that nothing is mounted on, must not cost the index."""
    empty = tmp_path / "empty"
    empty.mkdir()
    for root in (tmp_path / "missing", empty):
        with pytest.raises(RootUnfit, match="the index was left as it is"):
            await indexer.index_project(root)
    assert await places(client, collection) == expected_places(indexed)


async def test_single_chunks_can_be_indexed(
    indexer: IndexerService,
    project: Project,
    client: AsyncQdrantClient,
    collection: ProjectCollection,
    embedder: CountingEmbedder,
) -> None:
    """As points that a run over the project recognises; it embeds the rest of the file only."""
    read, size = chunks_of("app/files.py", (project.root / "app/files.py").read_text())
    await indexer.index_chunk(read)
    await indexer.index_chunks([read, dataclasses.replace(size, text="def size(): old")])
    assert len(await stored(client, collection)) == 2
    embedder.texts.clear()
    report = await indexer.index_project(project.root)
    assert counts(report) == (5, 0, 1, 1)
    assert not any("def read" in text for text in embedder.texts)
    assert await places(client, collection) == expected_places(project)


async def test_status_tells_what_is_indexed(
    indexer: IndexerService, project: Project, embedder: CountingEmbedder, collection: ProjectCollection
) -> None:
    """Before, after, and when a run was interrupted; asking creates nothing."""
    status = await indexer.status()
    assert (status.collection, status.chunks, status.files, status.incomplete) == (None, 0, 0, 0)
    assert (status.project, status.model) == (collection.project, embedder.name)
    await indexer.index_project(project.root)
    status = await indexer.status()
    assert status.collection == await collection.name()
    assert (status.chunks, status.files, status.incomplete) == (6, 4, 0)
    await indexer.index_chunk(chunks_of("b.py", "x = 1\n")[0])
    status = await indexer.status()
    assert (status.chunks, status.files, status.incomplete) == (7, 5, 1)


async def test_watch_follows_the_files(
    indexer: IndexerService, project: Project, client: AsyncQdrantClient, collection: ProjectCollection
) -> None:
    """First the whole project, then every change; also one that comes while a run is under way."""
    reports = indexer.watch(project.root)
    with anyio.fail_after(DEADLINE_S):
        assert counts(await anext(reports)) == (6, 0, 0, 0)
        project.write("app/new.py", "def new(): pass\n")
        assert counts(await anext(reports)) == (1, 0, 0, 6)
        project.delete("app/new.py")
        assert counts(await anext(reports)) == (0, 0, 1, 6)
    await reports.aclose()
    assert await places(client, collection) == expected_places(project)
