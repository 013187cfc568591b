"""Which collection is a project's: found by any of its names, created by one, looked up again when it is gone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from qdrant_client import AsyncQdrantClient, models

from code_search.answers import QDRANT_ERRORS
from code_search.collection import ProjectCollection
from code_search.errors import CollectionUnfit, NotIndexed
from code_search.points import INDEXES
from code_search.settings import Settings
from qferry.naming import CollectionNaming

VECTORS = models.VectorParams(size=4, distance=models.Distance.COSINE)


def names(collection: ProjectCollection) -> tuple[str, ...]:
    """Return the canonical name, the legacy one, and the project's own."""
    return CollectionNaming().possible(collection.project)


async def test_collection_is_found_by_any_of_its_names(
    client: AsyncQdrantClient, collection: ProjectCollection
) -> None:
    """The canonical name before a legacy one, a legacy one before the project's own."""
    for name in reversed(names(collection)):
        await client.create_collection(name, vectors_config=VECTORS)
        assert await ProjectCollection(client, collection.project, CollectionNaming()).name() == name


async def test_unindexed_project_is_said_to_be_that(collection: ProjectCollection) -> None:
    """With the names that were tried, and what to do."""
    with pytest.raises(NotIndexed, match="has no index: there is no collection") as caught:
        await collection.name()
    assert all(name in str(caught.value) for name in names(collection))
    assert "code-search index" in str(caught.value)


async def test_new_collection_has_the_canonical_name_and_all_indexes(
    client: AsyncQdrantClient, collection: ProjectCollection
) -> None:
    """And the vectors that were asked for; a second time changes nothing."""
    for _ in range(2):
        assert await collection.ensure(4) == names(collection)[0]
    info = await client.get_collection(names(collection)[0])
    assert set(info.payload_schema) == set(INDEXES)
    assert info.config.params.vectors == VECTORS


async def test_legacy_collection_is_used_and_completed(
    client: AsyncQdrantClient, collection: ProjectCollection
) -> None:
    """No second one is made beside it, and what indexes it lacks it gets."""
    canonical, legacy, *_ = names(collection)
    await client.create_collection(legacy, vectors_config=VECTORS)
    assert await collection.ensure(4) == legacy
    assert set((await client.get_collection(legacy)).payload_schema) == set(INDEXES)
    assert not await client.collection_exists(canonical)


async def test_two_indexers_may_create_it_at_once(settings: Settings, collection: ProjectCollection) -> None:
    """One of them is first, and both go on with the same collection."""
    clients = [settings.client() for _ in range(4)]
    rivals = [ProjectCollection(one, collection.project, CollectionNaming()) for one in clients]
    found = await asyncio.gather(*(rival.ensure(4) for rival in rivals))
    for one in clients:
        await one.close()
    assert set(found) == {names(collection)[0]}


@pytest.mark.parametrize(
    ("vectors", "held"),
    [
        (models.VectorParams(size=8, distance=models.Distance.COSINE), "8 dimensions"),
        ({"dense": VECTORS}, "named vectors"),
    ],
)
async def test_collection_for_other_vectors_is_left_alone(
    client: AsyncQdrantClient, collection: ProjectCollection, vectors: Any, held: str
) -> None:
    """The message tells both sizes, and nothing is added to it."""
    name = names(collection)[0]
    await client.create_collection(name, vectors_config=vectors)
    with pytest.raises(CollectionUnfit, match=f"{held}, and this model's have 4; nothing was changed"):
        await collection.ensure(4)
    assert not (await client.get_collection(name)).payload_schema


async def test_kept_name_is_looked_up_again_when_its_collection_is_gone(
    client: AsyncQdrantClient, collection: ProjectCollection
) -> None:
    """As after a migration's cleanup, for a client that takes no part in migrations."""
    canonical, legacy, *_ = names(collection)
    await client.create_collection(legacy, vectors_config=VECTORS)
    assert (await collection.call(client.count)).count == 0
    await client.create_collection(canonical, vectors_config=VECTORS)
    await client.delete_collection(legacy)
    assert (await collection.call(client.count)).count == 0
    assert await collection.name() == canonical


async def test_collection_that_is_gone_for_good_is_not_indexed(
    client: AsyncQdrantClient, collection: ProjectCollection
) -> None:
    """There is no other name to find it by."""
    await collection.ensure(4)
    await client.delete_collection(await collection.name())
    with pytest.raises(NotIndexed):
        await collection.call(client.count)


async def test_other_errors_are_passed_on(client: AsyncQdrantClient, collection: ProjectCollection) -> None:
    """What the server says about a call, also that something in the collection is missing, is no reason to look."""
    await collection.ensure(4)
    with pytest.raises(QDRANT_ERRORS, match="dimension"):
        await collection.call(lambda name: client.query_points(name, query=[1.0]))
    missing = "00000000-0000-0000-0000-000000000000"
    with pytest.raises(QDRANT_ERRORS, match="No point with id"):
        await collection.call(lambda name: client.set_payload(name, {"a": 1}, [missing]))
