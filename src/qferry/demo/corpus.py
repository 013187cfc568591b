"""Real code to index: functions and classes of the installed Python standard library."""

from __future__ import annotations

import ast
import random
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Not code that a reader would search for.
SKIPPED_FOLDERS = frozenset({"test", "tests", "idle_test", "site-packages", "__pycache__", "lib2to3", "idlelib"})

# From many files a few chunks each: more variety than all of a few files.
MAX_CHUNKS_PER_FILE = 6
MIN_LINES = 4
MAX_CHARACTERS = 1_500


@dataclass(frozen=True)
class Chunk:
    """One function or class: where it stands and its source text (cut at MAX_CHARACTERS)."""

    path: str
    line: int
    name: str
    text: str
    language: str = "python"


def standard_library_chunks(count: int, *, folder: Path | None = None) -> list[Chunk]:
    """
    Pick chunks of source code, the same ones on every run with the same Python.

    Args:
        count: How many chunks are wanted, at least 1.
        folder: Where to look; the running Python's standard library by default.

    Returns:
        `count` chunks, or all there are if that is fewer.
    """
    root = folder or Path(sysconfig.get_path("stdlib"))
    files = sorted(path for path in root.rglob("*.py") if SKIPPED_FOLDERS.isdisjoint(path.relative_to(root).parts))
    # A fixed shuffle spreads the chunks over the library; the demo's own seed must not change the corpus,
    # or its embeddings could not be cached.
    random.Random(0).shuffle(files)  # noqa: S311 - repeatable on purpose
    chunks: list[Chunk] = []
    for path in files:
        for number, chunk in enumerate(_chunks_of(path, path.relative_to(root).as_posix())):
            if number == MAX_CHUNKS_PER_FILE:
                break
            chunks.append(chunk)
            if len(chunks) == count:
                return chunks
    return chunks


def _chunks_of(path: Path, name: str) -> Iterator[Chunk]:
    source = path.read_text(encoding="utf-8", errors="replace")
    try:
        with warnings.catch_warnings():
            # Old standard-library files contain escapes that newer compilers warn about; not ours to report.
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except SyntaxError:
        # The library ships a few files that are meant to be broken.
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            text = ast.get_source_segment(source, node) or ""
            if text.count("\n") + 1 >= MIN_LINES:
                yield Chunk(path=name, line=node.lineno, name=node.name, text=text[:MAX_CHARACTERS])
