"""
How a chunk is stored: its point's id, its vector's text, its payload.

The id follows from what is embedded and for whom, so that a chunk indexed again, by whomever, is the same point, and a
chunk that only moved within its file keeps its vector.  The model is part of it: two models' vectors must not meet.
"""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qdrant_client import models

from code_search.chunks import Chunk

# Raise it when files are to be cut anew although they have not changed.
_FORMAT = 1

_NAMESPACE = uuid.UUID("0d2b3c0e-6a3f-4f0e-8b0e-5d1c8f4a9b27")

# A single line, which is not cut, may be longer than any model or person reads.
_CHARACTERS_MAX = 4_000

PATH, WITHIN, LANGUAGE, VERSION, PROJECT = "path", "within", "language", "file_version", "project"
INDEXES = (PATH, WITHIN, LANGUAGE, VERSION, PROJECT)
"""The payload keys that are filtered by or counted; all are keywords."""

PLACE = (LANGUAGE, "start_line", "end_line", VERSION)


@dataclass(frozen=True, slots=True)
class FileVersion:
    """
    Which state of which file a point belongs to.

    It tells the number of chunks, too, so that a count of the points with each version, which is one request, tells the
    files that are indexed as they are now from those that have changed or of which a crash has left only a part.

    Args:
        path: The file.
        digest: Stands for its text and the model; empty for a chunk that came without its file.
        chunks: How many chunks it has.
    """

    path: str
    digest: str
    chunks: int

    def __str__(self) -> str:
        return f"{self.digest}:{self.chunks}:{self.path}"

    @classmethod
    def parse(cls, text: str) -> FileVersion:
        """Read what `str` wrote."""
        digest, chunks, path = text.split(":", 2)
        return cls(path, digest, int(chunks))


def digest_of(text: str, *, model: str) -> str:
    """Stand for a file's text as cut by this version and embedded by this model."""
    return hashlib.blake2b(f"{_FORMAT}\0{model}\0{text}".encode(), digest_size=16).hexdigest()


def embedded_text(chunk: Chunk) -> str:
    """
    What of a chunk its vector stands for: its lines, and where it is and what it is called, which they may not say.

    A method's lines do not name its class.  Of 20 questions like "write to a gzip file" the built-in model answered 9
    with the right method first, and 17 within the first ten; by the lines alone 6 and 14 (of 493 chunks of the standard
    library).
    """
    return f"{chunk.path} {chunk.symbol or ''}\n{chunk.text}"[:_CHARACTERS_MAX]


def point_ids(project: str, model: str, chunks: Sequence[Chunk]) -> list[str]:
    """
    Name the points of a file's chunks.

    Args:
        project: Whose they are.
        model: What embeds them.
        chunks: All chunks of the file, in its order, which tells equal ones apart.
    """
    seen: Counter[str] = Counter()
    ids = []
    for chunk in chunks:
        content = "\0".join((project, model, chunk.path, chunk.symbol or "", chunk.text))
        ids.append(str(uuid.uuid5(_NAMESPACE, f"{content}\0{seen[content]}")))
        seen[content] += 1
    return ids


def payload_of(chunk: Chunk, version: FileVersion, project: str) -> dict[str, Any]:
    """What is stored with a chunk's vector."""
    parts = chunk.path.split("/")
    return {
        PROJECT: project,
        PATH: chunk.path,
        # The file and every folder around it: a search within one of them is a match of one keyword.
        WITHIN: ["/".join(parts[: number + 1]) for number in range(len(parts))],
        "symbol": chunk.symbol,
        "text": chunk.text[:_CHARACTERS_MAX],
        **place_of(chunk, version),
    }


def place_of(chunk: Chunk, version: FileVersion) -> dict[str, Any]:
    """The part of the payload that may change although the chunk's text is the same; `PLACE` has its keys."""
    return {
        LANGUAGE: chunk.language,
        "start_line": chunk.start_line,
        "end_line": chunk.end_line,
        VERSION: str(version),
    }


def matching(key: str, *values: str) -> models.Filter:
    """Choose the points that have one of these values."""
    return models.Filter(must=[models.FieldCondition(key=key, match=models.MatchAny(any=list(values)))])


def ours(*conditions: models.Filter) -> models.Filter:
    """Choose this indexer's points: what other programs have put into the collection is none of them."""
    nothing = models.IsEmptyCondition(is_empty=models.PayloadField(key=VERSION))
    return models.Filter(must=list(conditions), must_not=[nothing])
