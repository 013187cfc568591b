"""Searching: the closest chunks, in a language or a folder, with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest
from code_search_support import CountingEmbedder, Project, stored
from qdrant_client import AsyncQdrantClient, models

from code_search.collection import ProjectCollection
from code_search.errors import NotIndexed, QueryInvalid
from code_search.indexing import IndexerService
from code_search.searching import CodeSearch, Hit
from qferry.demo.embedding import BUILT_IN_MODEL, load_embedder


@pytest.fixture
async def indexed(indexer: IndexerService, project: Project) -> Project:
    """Give the project, indexed."""
    project.write("app/deep/queue.py", "class Deep:\n    def put(self, item):\n        return self.items\n")
    project.write("apple/x.py", "def put(item):\n    pass\n")
    await indexer.index_project(project.root)
    return project


@pytest.mark.usefixtures("indexed")
async def test_best_hit_has_everything_a_reader_needs(search: CodeSearch) -> None:
    """File, lines, symbol and the lines themselves."""
    hits = await search.search("put item items append queue")
    assert hits[0] == Hit(
        path="app/queue.py",
        language="python",
        symbol="Queue.put",
        start_line=2,
        end_line=3,
        score=hits[0].score,
        snippet="    def put(self, item):\n        self.items.append(item)",
    )
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert 0 < hits[0].score <= 1


@pytest.mark.usefixtures("indexed")
async def test_limit_is_kept(search: CodeSearch) -> None:
    """No more than were asked for."""
    assert len(await search.search("put", limit=2)) == 2


@pytest.mark.usefixtures("indexed")
async def test_path_is_a_file_or_a_folder_with_all_below(search: CodeSearch) -> None:
    """Whole names count: `app` is not `apple`; and it may be spelled in several ways."""
    app = {"app/queue.py", "app/files.py", "app/deep/queue.py"}
    for path, expected in (
        ("app", app),
        ("app/", app),
        ("./app/deep", {"app/deep/queue.py"}),
        ("app\\deep", {"app/deep/queue.py"}),
        ("app/queue.py", {"app/queue.py"}),
        ("ap", set()),
        ("deep", set()),
    ):
        assert {hit.path for hit in await search.search("put", path=path)} == expected, path


@pytest.mark.usefixtures("indexed")
async def test_path_of_the_root_is_the_whole_project(search: CodeSearch) -> None:
    """However it is spelled."""
    everything = await search.search("put")
    for path in ("", ".", "./", "/"):
        assert await search.search("put", path=path) == everything


@pytest.mark.usefixtures("indexed")
async def test_language_and_path_are_both_kept(search: CodeSearch) -> None:
    """Each narrows the search, and together they narrow it to what fits both."""
    assert {hit.path for hit in await search.search("start", language="javascript")} == {"web/main.js"}
    assert {hit.path for hit in await search.search("start", language="text")} == {"README.md"}
    assert await search.search("start", language="javascript", path="app") == []


async def test_questions_that_cannot_be_meant_are_refused(search: CodeSearch) -> None:
    """Before anything is sent, with what to do instead."""
    with pytest.raises(QueryInvalid, match="The query is empty"):
        await search.search(" \n")
    with pytest.raises(QueryInvalid, match="Ask for at least 1"):
        await search.search("put", limit=0)
    with pytest.raises(QueryInvalid, match="Choose from go, java, javascript, python, rust, typescript, text"):
        await search.search("put", language="cobol")


async def test_search_of_an_unindexed_project_says_so(search: CodeSearch) -> None:
    """It is not answered with nothing."""
    with pytest.raises(NotIndexed):
        await search.search("put")


@pytest.mark.usefixtures("indexed")
async def test_points_of_other_programs_are_not_hits(
    search: CodeSearch, client: AsyncQdrantClient, collection: ProjectCollection
) -> None:
    """Whatever they hold, they are neither shown nor in the way."""
    before = await search.search("put", limit=3)
    (vector,) = CountingEmbedder().embed(["put"]).tolist()
    strangers = [models.PointStruct(id=number, vector=vector, payload={"path": "x.py"}) for number in range(5)]
    await client.upsert(await collection.name(), strangers)
    assert await search.search("put", limit=3) == before
    assert len(before) == 3


async def test_real_model_finds_by_meaning(
    client: AsyncQdrantClient, collection: ProjectCollection, tmp_path: Path
) -> None:
    """No word of the question is in the answer."""
    project = Project(tmp_path / "real")
    project.write(
        "shop.py",
        "def tax(amount):\n    return amount * 0.2\n\n\n"
        "def send_mail(to, body):\n    smtp.sendmail(SENDER, to, body)\n\n\n"
        "def shrink(picture):\n    return picture.resize((100, 100))\n",
    )
    embedder = load_embedder(BUILT_IN_MODEL)
    await IndexerService(client, collection, embedder).index_project(project.root)
    search = CodeSearch(client, collection, embedder)
    for question, symbol in (
        ("notify a customer by email", "send_mail"),
        ("make an image smaller", "shrink"),
        ("how much VAT is due", "tax"),
    ):
        assert (await search.search(question))[0].symbol == symbol
    assert len(await stored(client, collection)) == 3
