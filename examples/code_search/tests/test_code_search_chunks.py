"""How a file is cut: what has a name is a chunk, nothing is lost, and an edit moves few cuts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from code_search.chunks import MAX_CHARACTERS, Chunk, chunks_of
from code_search.languages import LANGUAGES

PYTHON = '''\
"""A module."""

import os

# about first
@decorated
def first(a):
    def inner():
        return a
    return inner


class Queue(Base):
    """Holds things."""

    size = 3

    @property
    async def put(self):
        return 1

    class Inner:
        def get(self): return 2


if __name__ == "__main__":
    first(1)
'''

TYPESCRIPT = """\
import { a } from "b"

/** Starts. */
export async function start(): Promise<void> {
}

export const twice = (x: number) => {
  return 2 * x
}

@injectable()
export class Server extends Base {
  port = 80

  /** Listens. */
  listen = () => {
  }

  stop(): void {
  }
}

interface Shape {
  size: number
}

namespace Inner {
  export function deep() {}
}
"""

JAVASCRIPT = """\
function* each() {
}

class Cart {
  #items = []

  static add(item) {
  }
}
"""

GO = """\
package queue

// Queue holds things.
type Queue[T any] struct {
\titems []T
}

// Put adds one.
func (q *Queue[T]) Put(item T) {
}

func New() *Queue {
}
"""

RUST = """\
use std::fmt;

/// A queue.
#[derive(Debug)]
pub struct Queue<T> {
    items: Vec<T>,
}

impl<T> fmt::Display for Queue<T> {
    /// Writes.
    fn fmt(&self) {
    }
}

trait Sized {
    fn size(&self) -> usize;
}

mod inner {
    pub fn deep() {}
}
"""

JAVA = """\
package a;

/** A queue. */
@Deprecated
public class Queue<T> {
    private int size;

    public Queue() {
    }

    /** Adds. */
    @Override
    public void put(T item) {
    }

    interface Inner {
        void deep();
    }
}

record Point(int x, int y) {
}
"""


def outline(path: str, text: str) -> list[tuple[str | None, int, int]]:
    """Return each chunk's symbol and lines."""
    return [(chunk.symbol, chunk.start_line, chunk.end_line) for chunk in chunks_of(path, text)]


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        (
            "a.py",
            PYTHON,
            [
                (None, 1, 3),
                ("first", 5, 10),
                ("Queue", 13, 16),
                ("Queue.put", 18, 20),
                ("Queue.Inner", 22, 22),
                ("Queue.Inner.get", 23, 23),
                (None, 26, 27),
            ],
        ),
        (
            "a.ts",
            TYPESCRIPT,
            [
                (None, 1, 1),
                ("start", 3, 5),
                ("twice", 7, 9),
                ("Server", 11, 13),
                ("Server.listen", 15, 17),
                ("Server.stop", 19, 21),
                ("Shape", 23, 25),
                ("Inner", 27, 27),
                ("Inner.deep", 28, 29),
            ],
        ),
        ("a.mjs", JAVASCRIPT, [("each", 1, 2), ("Cart", 4, 5), ("Cart.add", 7, 9)]),
        ("a.go", GO, [(None, 1, 1), ("Queue", 3, 6), ("Queue.Put", 8, 10), ("New", 12, 13)]),
        (
            "a.rs",
            RUST,
            [
                (None, 1, 1),
                ("Queue", 3, 7),
                ("Queue", 9, 9),
                ("Queue.fmt", 10, 13),
                ("Sized", 15, 15),
                ("Sized.size", 16, 17),
                ("inner", 19, 19),
                ("inner.deep", 20, 21),
            ],
        ),
        (
            "A.java",
            JAVA,
            [
                (None, 1, 1),
                ("Queue", 3, 6),
                ("Queue.Queue", 8, 9),
                ("Queue.put", 11, 14),
                ("Queue.Inner", 16, 16),
                ("Queue.Inner.deep", 17, 19),
                ("Point", 21, 22),
            ],
        ),
        ("notes.txt", "one\n\ntwo\n", [(None, 1, 3)]),
    ],
)
def test_what_has_a_name_is_a_chunk(path: str, text: str, expected: list[tuple[str | None, int, int]]) -> None:
    """Functions, methods and classes' heads, each with what is said about it right above; the rest is what is left."""
    assert outline(path, text) == expected


@pytest.mark.parametrize(
    ("path", "language"),
    [
        ("a/b.py", "python"),
        ("b.pyi", "python"),
        ("b.JSX", "javascript"),
        ("b.tsx", "typescript"),
        ("b.go", "go"),
        ("b.rs", "rust"),
        ("B.java", "java"),
        ("Makefile", "text"),
        (".py", "text"),
    ],
)
def test_language_follows_from_the_name(path: str, language: str) -> None:
    """By the end of the file's name; what is not known is text."""
    (chunk,) = chunks_of(path, "x\n")
    assert chunk == Chunk(path, language, None, 1, 1, "x")
    assert language in LANGUAGES


def test_markup_in_functions_is_understood_in_tsx_alone() -> None:
    """The two grammars of TypeScript read `<b>` differently."""
    assert outline("a.tsx", "const View = () => {\n  return <b>hello</b>\n}\n") == [("View", 1, 3)]
    assert outline("a.ts", "const cast = () => {\n  return <b>hello\n}\n") == [("cast", 1, 3)]


def test_comment_apart_from_a_function_is_not_its_own() -> None:
    """A blank line, or code before it on its line, keeps a comment from what follows."""
    assert outline("a.py", "# apart\n\ndef f(): pass\n") == [(None, 1, 1), ("f", 3, 3)]
    assert outline("a.py", "x = 1  # about x\ndef f(): pass\n") == [(None, 1, 1), ("f", 2, 2)]


def test_definitions_on_one_line_are_one_chunk() -> None:
    """The line is the first one's; nothing is found twice."""
    assert outline("a.js", "function a() {} function b() {}\nfunction c() {}\n") == [("a", 1, 1), ("c", 2, 2)]


def test_broken_syntax_is_still_cut() -> None:
    """What can be recognised is, and the rest is kept."""
    text = "def good():\n    return 1\n\n\ndef bad(:\n    retur\n)))\n"
    chunks = chunks_of("a.py", text)
    assert chunks[0].symbol == "good"
    assert "\n".join(chunk.text for chunk in chunks).split() == text.split()


def test_long_function_is_cut_into_pieces_of_its_name() -> None:
    """Each piece fits; all have the function's name and none another's lines."""
    body = "".join(f"    line_{number} = compute({number})\n" for number in range(200))
    chunks = chunks_of("a.py", f"def long():\n{body}\n\ndef short():\n    pass\n")
    *pieces, short = chunks
    assert len(pieces) > 3
    assert {piece.symbol for piece in pieces} == {"long"}
    assert all(len(piece.text) <= MAX_CHARACTERS for piece in pieces)
    assert short.symbol == "short"


def test_long_text_is_cut_at_blank_lines() -> None:
    """A paragraph is not torn if the piece is half full without it."""
    paragraph = "word " * 30 + "\n" + "word " * 30
    chunks = chunks_of("a.md", "\n\n".join([paragraph] * 20))
    assert len(chunks) > 1
    assert all(chunk.text.count("\n\n") + 1 == chunk.text.count(paragraph) for chunk in chunks)


def test_edit_above_leaves_the_cuts_below_where_they_were() -> None:
    """After a line is added at the top of a long text most pieces have the same lines as before."""
    text = "\n\n".join(f"paragraph {number} " + "word " * (number * 37 % 90) for number in range(200))
    before = {chunk.text for chunk in chunks_of("a.md", text)}
    after = {chunk.text for chunk in chunks_of("a.md", f"A new first line.\n{text}")}
    assert len(after - before) <= 3


def test_line_that_is_too_long_is_kept_whole() -> None:
    """What is minified cannot be cut by lines; it is one chunk, and found."""
    line = "a=1;" * MAX_CHARACTERS
    assert [chunk.text for chunk in chunks_of("a.js", f"{line}\nb=2\n")] == [line, "b=2"]


PARTS = st.sampled_from(
    (
        "def f(a):",
        "    def g(self):",
        "class A:",
        "    class B(C): pass",
        "    return 1",
        "@dec",
        "# note",
        "function f() {",
        "}",
        "};",
        "class A {",
        "  m() {} n() {}",
        "const f = () => {",
        "func (q *Q[T]) F() {",
        "impl<T> A for B<T> {",
        "#[test]",
        "// note",
        "/* a",
        "*/",
        '"""',
        "`",
        "\t",
        "",
        "",
        "x" * 600,
        "\x0cé\u2028ü",
        "\r",
    )
)
TEXTS = st.one_of(
    st.lists(PARTS, max_size=30).map("\n".join),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=200),
)


@given(path=st.sampled_from(("a.py", "a.js", "a.ts", "a.tsx", "a.go", "a.rs", "A.java", "a.txt")), text=TEXTS)
def test_every_line_is_in_one_chunk(path: str, text: str) -> None:
    """Chunks do not overlap, their text is their lines, and only blank lines are in none."""
    lines = text.split("\n")
    last = 0
    left_out: list[str] = []
    for chunk in chunks_of(path, text):
        assert last < chunk.start_line <= chunk.end_line <= len(lines)
        assert chunk.text == "\n".join(lines[chunk.start_line - 1 : chunk.end_line])
        assert len(chunk.text) <= MAX_CHARACTERS or chunk.start_line == chunk.end_line
        left_out += lines[last : chunk.start_line - 1]
        last = chunk.end_line
    left_out += lines[last:]
    assert not "".join(left_out).strip()
