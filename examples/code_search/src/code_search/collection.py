"""The collection that a project's index is in, whatever it is called today."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from qdrant_client import AsyncQdrantClient, models

from code_search.answers import QDRANT_ERRORS, is_missing, status_of
from code_search.errors import CollectionUnfit, NotIndexed
from code_search.points import INDEXES, PROJECT, matching, ours
from qferry.naming import CollectionNaming

T = TypeVar("T")


class ProjectCollection:
    """
    The collection of a project: found by the naming rules, kept, looked up again when it is gone.

    Which of a project's names is called makes no difference while its collection is moved from one to the other: a
    `FerryClient` sends calls by either name to where they belong.  After the old collection has been deleted, a process
    that has kept its name finds the new one.

    Args:
        client: Where it is.
        project: Whose it is.
        naming: The rules: the canonical name first, then the legacy ones, then the project's own.
    """

    def __init__(self, client: AsyncQdrantClient, project: str, naming: CollectionNaming) -> None:
        self.project = project
        self._client = client
        self._naming = naming
        self._name: str | None = None

    async def name(self) -> str:
        """
        Tell the name to call.

        Raises:
            NotIndexed: None of the project's possible names has a collection.
        """
        if self._name is None:
            possible = self._naming.possible(self.project)
            for name in possible:
                if await self._client.collection_exists(name):
                    self._name = name
                    return name
            raise NotIndexed(
                f"The project {self.project!r} has no index: there is no collection {' or '.join(possible)}. "
                "Index it with `code-search index`, or correct PROJECT_NAME."
            )
        return self._name

    async def call(self, method: Callable[[str], Awaitable[T]]) -> T:
        """
        Call the collection, and once more by its new name if it is gone from under the one that was kept.

        Args:
            method: Makes the call, on the collection it is given; it may be called twice.

        Raises:
            NotIndexed: As for `name`.
        """
        kept = self._name
        try:
            return await method(await self.name())
        except QDRANT_ERRORS as error:
            if kept is None or not is_missing(error):
                raise
            self._name = None
            if await self.name() == kept:
                raise
        return await method(await self.name())

    async def ensure(self, dimensions: int) -> str:
        """
        Find the collection, or create it by its canonical name; with all payload indexes either way.

        Safe to call from several processes at once, and again after one of them was killed half-way.

        Args:
            dimensions: The length of the vectors to be stored.

        Returns:
            The name to call.

        Raises:
            CollectionUnfit: It exists and is for other vectors, or another project is in it; nothing was changed.
        """
        self._name = None
        try:
            name = await self.name()
        except NotIndexed:
            name = await self._create(dimensions)
        info = await self._client.get_collection(name)
        vectors = info.config.params.vectors
        if not isinstance(vectors, models.VectorParams) or vectors.size != dimensions:
            held = f"{vectors.size} dimensions" if isinstance(vectors, models.VectorParams) else "named vectors"
            raise CollectionUnfit(
                f"The collection {name!r} is for vectors of {held}, and this model's have {dimensions}; nothing was "
                "changed. Set CODE_SEARCH_MODEL to the model it was indexed with, or PROJECT_NAME to a new name."
            )
        for key in INDEXES:
            if key not in info.payload_schema:
                await self._client.create_payload_index(name, key, models.PayloadSchemaType.KEYWORD)
        await self._refuse_others(name)
        return name

    async def _refuse_others(self, name: str) -> None:
        """Make sure that no other project, whose name makes the same collection's, is indexed in it."""
        chosen = ours()
        nameless = models.IsEmptyCondition(is_empty=models.PayloadField(key=PROJECT))  # stored before it was noted
        others = models.Filter(must=[chosen], must_not=[matching(PROJECT, self.project), nameless])
        found, _ = await self._client.scroll(name, scroll_filter=others, limit=1, with_payload=[PROJECT])
        if found:
            other = (found[0].payload or {})[PROJECT]
            raise CollectionUnfit(
                f"The projects {other!r} and {self.project!r} lead to one collection, {name!r}, and the former is "
                "indexed in it; nothing was changed. Correct PROJECT_NAME, or set COLLECTION_NAME_OVERRIDE_<NAME>."
            )

    async def _create(self, dimensions: int) -> str:
        name = self._naming.canonical(self.project)
        vectors = models.VectorParams(size=dimensions, distance=models.Distance.COSINE)
        try:
            await self._client.create_collection(name, vectors_config=vectors)
        except QDRANT_ERRORS as error:
            # Another indexer may have been first; then this one goes on with that.
            if status_of(error) is None or not await self._client.collection_exists(name):
                raise
        self._name = name
        return name
