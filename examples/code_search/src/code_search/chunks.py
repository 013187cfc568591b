"""
Cut a file into chunks: the pieces that are embedded, stored and found.

What has a name is a chunk of its own, with the comments and decorators right above it: each function, each method, and
of a class its head and whatever stands between its methods.  The rest of a module is what is left between those.  A
file whose syntax is not known is one stretch of text.  Whatever is too long is then cut further, if possible at blank
lines.

Every line with something on it is in exactly one chunk, so nothing of a file is lost and nothing found twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tree_sitter import Node, QueryCursor

from code_search.languages import Grammar, grammar_of, language_of

# The built-in model reads 256 tokens, and code has 3.7 characters to one (a sample of the standard library): of a
# longer chunk it would not see the end.
MAX_CHARACTERS = 1_000

# A line of braces, a ruler of dashes: worth nothing by itself.
_WORD = re.compile(r"\w")

_NOBODY = -1


@dataclass(frozen=True, slots=True)
class Chunk:
    """
    A stretch of lines of a file.

    Args:
        path: Where the file is, from the project's root, with slashes.
        language: One of `languages.LANGUAGES`.
        symbol: What it defines, such as `Queue.put`; None outside of every definition.
        start_line: Its first line, counted from 1.
        end_line: Its last line, inclusive.
        text: These lines.
    """

    path: str
    language: str
    symbol: str | None
    start_line: int
    end_line: int
    text: str


@dataclass(frozen=True, slots=True)
class _Definition:
    """What has a name: its rows (counted from 0, the last one exclusive), and which definition it is a part of."""

    symbol: str
    first: int
    end: int
    container: bool
    outer: int


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Neighbouring lines (the last one exclusive) that belong to one definition, or to none."""

    first: int
    end: int
    symbol: str | None


def chunks_of(path: str, text: str) -> list[Chunk]:
    r"""
    Cut a file into chunks.

    Args:
        path: Where the file is, from the project's root, with slashes; its end tells the language.
        text: What is in it; its lines end with `\n`.

    Returns:
        The chunks in the file's order; none for a file of white space.
    """
    lines = text.split("\n")
    grammar = grammar_of(path)
    stretches = _stretches(lines, _definitions(grammar, text, lines)) if grammar else [_Stretch(0, len(lines), None)]
    language = language_of(path)
    return [
        Chunk(path, language, stretch.symbol, first + 1, end, "\n".join(lines[first:end]))
        for stretch in stretches
        for first, end in _pieces(lines, stretch)
    ]


def _definitions(grammar: Grammar, text: str, lines: Sequence[str]) -> list[_Definition]:
    """What has a name, outer ones before what is in them; what is inside of a function is not looked at."""
    found: list[tuple[Node, str, bool]] = []
    attached: set[int] = set()
    for _, marks in QueryCursor(grammar.query).matches(grammar.parse(text)):
        for node in marks.get("attached", ()):
            row, column = node.start_point
            if not lines[row][:column].strip():  # otherwise it is about the code before it
                attached.update(_rows(node))
        for node in (*marks.get("unit", ()), *marks.get("container", ())):
            name = ".".join(_text(mark) for kind in ("scope", "name") for mark in marks.get(kind, ())[:1])
            found.append((node, name, "container" in marks))
    # The outer one first; a group of types is found once for each name in it, and goes by the first.
    found.sort(key=lambda one: (one[0].start_byte, -one[0].end_byte))

    definitions: list[_Definition] = []
    around: list[tuple[int, int]] = []  # the byte where each one ends, and its number
    for node, name, container in found:
        while around and around[-1][0] <= node.start_byte:
            around.pop()
        outer = around[-1][1] if around else _NOBODY
        if around and not definitions[outer].container:
            continue
        rows = _rows(node)
        first = rows.start
        while first - 1 in attached:
            first -= 1
        symbol = f"{definitions[outer].symbol}.{name}" if around else name
        around.append((node.end_byte, len(definitions)))
        definitions.append(_Definition(symbol, first, rows.stop, container, outer))
    return definitions


def _stretches(lines: Sequence[str], definitions: Sequence[_Definition]) -> list[_Stretch]:
    """Give every line to the innermost definition around it, and tell the stretches that come of it."""
    owners = [_NOBODY] * len(lines)
    for number, definition in enumerate(definitions):
        for row in range(definition.first, definition.end):
            # A line that two definitions share stays with the first of them.
            if owners[row] == definition.outer:
                owners[row] = number
    stretches: list[_Stretch] = []
    first = 0
    for row in range(1, len(lines) + 1):
        if row < len(lines) and owners[row] == owners[first]:
            continue
        owner = owners[first]
        wordless = not any(_WORD.search(line) for line in lines[first:row])
        if wordless and stretches:
            stretches[-1] = _Stretch(stretches[-1].first, row, stretches[-1].symbol)
        else:
            stretches.append(_Stretch(first, row, None if owner == _NOBODY else definitions[owner].symbol))
        first = row
    return stretches


def _pieces(lines: Sequence[str], stretch: _Stretch) -> Iterator[tuple[int, int]]:
    """
    Cut a stretch into pieces that are not too long, without blank lines at their ends.

    Always from the top, and at the last blank line of a full piece's second half: so after an edit the cuts soon are
    where they were before it, and the pieces below need no new embedding.
    """
    first = stretch.first
    while (first := _skip_blank(lines, first, stretch.end)) < stretch.end:
        end, size, blank = first, 0, 0
        while end < stretch.end and (end == first or size + len(lines[end]) < MAX_CHARACTERS):
            size += len(lines[end]) + 1
            if not lines[end].strip() and size > MAX_CHARACTERS // 2:
                blank = end
            end += 1
        if end < stretch.end and blank:
            end = blank
        following = end
        while not lines[end - 1].strip():
            end -= 1
        yield first, end
        first = following


def _skip_blank(lines: Sequence[str], row: int, end: int) -> int:
    while row < end and not lines[row].strip():
        row += 1
    return row


def _rows(node: Node) -> range:
    """The rows that a node is on; one that ends with a line's end is not on the next."""
    end = node.end_point
    return range(node.start_point.row, max(node.start_point.row + 1, end.row + (1 if end.column else 0)))


def _text(node: Node) -> str:
    return (node.text or b"").decode()
