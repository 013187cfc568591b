"""Search a project's code by meaning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from anyio import to_thread
from qdrant_client import AsyncQdrantClient

from code_search.answers import QDRANT_ERRORS, text_of
from code_search.collection import ProjectCollection
from code_search.errors import CollectionUnfit, QueryInvalid
from code_search.languages import LANGUAGES
from code_search.points import LANGUAGE, PATH, WITHIN, matching, ours
from qferry.demo.embedding import Embedder

_FIELDS = [PATH, LANGUAGE, "symbol", "start_line", "end_line", "text"]


@dataclass(frozen=True, slots=True)
class Hit:
    """
    A chunk that was found.

    Args:
        path: Its file, from the project's root, with slashes.
        language: One of `languages.LANGUAGES`.
        symbol: What it defines, such as `Queue.put`; None outside of every definition.
        start_line: Its first line, counted from 1.
        end_line: Its last line, inclusive.
        score: The cosine of its vector to the query's: 1 at most, the higher the closer.
        snippet: Its lines, as they were indexed; a line that is too long for any reader is cut.
    """

    path: str
    language: str
    symbol: str | None
    start_line: int
    end_line: int
    score: float
    snippet: str


class CodeSearch:
    """
    Finds the chunks that are closest in meaning to a question.

    Args:
        client: Where the index is.
        collection: The project's.
        embedder: The model it was indexed with.
    """

    def __init__(self, client: AsyncQdrantClient, collection: ProjectCollection, embedder: Embedder) -> None:
        self._client = client
        self._collection = collection
        self._embedder = embedder

    async def search(
        self, query: str, *, limit: int = 10, language: str | None = None, path: str | None = None
    ) -> list[Hit]:
        """
        Search.

        Args:
            query: What is looked for, in words or in code.
            limit: How many hits at most, from 1.
            language: Only in this language: one of `languages.LANGUAGES`.
            path: Only in this file, or in this folder and those below it; from the project's root.

        Returns:
            The hits, the best first.

        Raises:
            QueryInvalid: There is nothing to look for, or an argument is none of those described.
            NotIndexed: The project has no index.
            CollectionUnfit: It was indexed with a model whose vectors have another length.
        """
        if not query.strip():
            raise QueryInvalid("The query is empty. Say in a few words what the code should do.")
        if limit < 1:
            raise QueryInvalid(f"A limit of {limit} leaves nothing to find. Ask for at least 1.")
        if language is not None and language not in LANGUAGES:
            raise QueryInvalid(f"There is no language {language!r} in any index. Choose from {', '.join(LANGUAGES)}.")
        conditions = [matching(LANGUAGE, language)] if language is not None else []
        folder = _normal(path) if path is not None else ""
        if folder:
            conditions.append(matching(WITHIN, folder))
        vectors = await to_thread.run_sync(self._embedder.embed, [query])
        vector: list[float] = vectors[0].tolist()
        ask = partial(
            self._client.query_points, query=vector, query_filter=ours(*conditions), limit=limit, with_payload=_FIELDS
        )
        try:
            found = await self._collection.call(ask)
        except QDRANT_ERRORS as error:
            if "dimension" not in text_of(error):
                raise
            raise CollectionUnfit(
                f"The project was indexed with another model: its vectors have not {len(vector)} dimensions. "
                "Set CODE_SEARCH_MODEL to that model, or PROJECT_NAME to a new name."
            ) from error
        return [_hit(point.payload or {}, point.score) for point in found.points]


def _hit(payload: Mapping[str, Any], score: float) -> Hit:
    return Hit(
        path=payload[PATH],
        language=payload[LANGUAGE],
        symbol=payload.get("symbol"),
        start_line=payload["start_line"],
        end_line=payload["end_line"],
        score=score,
        snippet=payload["text"],
    )


def _normal(path: str) -> str:
    """A path as it is stored; empty for the whole project."""
    return "/".join(part for part in path.replace("\\", "/").split("/") if part not in ("", "."))
