"""How a chunk is stored: which changes make another point of it, and which do not."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from code_search.chunks import Chunk
from code_search.points import FileVersion, digest_of, embedded_text, payload_of, point_ids

CHUNK = Chunk("a/b/c.py", "python", "Queue.put", 3, 5, "def put(self):\n    pass")


def the_id(chunk: Chunk, project: str = "p", model: str = "m") -> str:
    """Return the id of a chunk that is alone in its file."""
    (found,) = point_ids(project, model, [chunk])
    return found


def test_id_is_the_same_everywhere() -> None:
    """In every process, for ever: an index that was made by another version must be recognised."""
    assert the_id(CHUNK) == "11c888ec-fc7d-5d52-8b38-f552655ce8ff"


def test_id_survives_a_move_within_the_file() -> None:
    """Its lines are no part of it."""
    assert the_id(dataclasses.replace(CHUNK, start_line=30, end_line=32)) == the_id(CHUNK)


def test_id_changes_with_whatever_the_vector_depends_on() -> None:
    """Text, symbol, path and model; and with the project."""
    ids = {
        the_id(CHUNK),
        the_id(dataclasses.replace(CHUNK, text="def put(self): ...")),
        the_id(dataclasses.replace(CHUNK, symbol="Stack.put")),
        the_id(dataclasses.replace(CHUNK, path="a/b/d.py")),
        the_id(CHUNK, project="q"),
        the_id(CHUNK, model="n"),
    }
    assert len(ids) == 6


def test_equal_chunks_of_a_file_are_told_apart_by_their_order() -> None:
    """The second one is another point, and is the same one the next time."""
    first, second = point_ids("p", "m", [CHUNK, CHUNK])
    assert first == the_id(CHUNK) != second
    assert [first, second] == point_ids("p", "m", [CHUNK, CHUNK])


def test_payload_names_every_folder_around_the_file() -> None:
    """So that a search within one of them is a match of one keyword."""
    version = FileVersion("a/b/c.py", "d1", 4)
    assert payload_of(CHUNK, version, "p") == {
        "project": "p",
        "path": "a/b/c.py",
        "within": ["a", "a/b", "a/b/c.py"],
        "language": "python",
        "symbol": "Queue.put",
        "text": "def put(self):\n    pass",
        "start_line": 3,
        "end_line": 5,
        "file_version": "d1:4:a/b/c.py",
    }


@pytest.mark.parametrize("path", ["a.py", "a:b/c:3.py", ":"])
def test_version_can_be_read_back(path: str) -> None:
    """Whatever the path has in it."""
    for version in (FileVersion(path, "d1", 4), FileVersion(path, "", 0)):
        assert FileVersion.parse(str(version)) == version


def test_digest_changes_with_text_and_model() -> None:
    """A file is indexed anew when either does."""
    digests = [digest_of(text, model=model) for text, model in itertools.product("ab", "mn")]
    assert len(set(digests)) == 4


def test_embedded_text_begins_with_place_and_name() -> None:
    """The lines follow."""
    assert embedded_text(CHUNK) == "a/b/c.py Queue.put\ndef put(self):\n    pass"


def test_endless_line_is_cut_for_model_and_reader() -> None:
    """The rest of it would be read by neither."""
    minified = dataclasses.replace(CHUNK, text="x" * 100_000)
    assert len(embedded_text(minified)) < 10_000
    assert len(payload_of(minified, FileVersion(CHUNK.path, "d1", 1), "p")["text"]) < 10_000
