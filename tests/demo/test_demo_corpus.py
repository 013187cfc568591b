"""The corpus is real code and always the same."""

from pathlib import Path

from qferry.demo.corpus import MAX_CHUNKS_PER_FILE, standard_library_chunks


def test_standard_library_gives_the_same_real_chunks_each_time() -> None:
    """Chunks are functions and classes with their place, equal on every call."""
    chunks = standard_library_chunks(20)
    assert len(chunks) == 20
    assert chunks == standard_library_chunks(20)
    assert chunks[:5] == standard_library_chunks(5)
    for chunk in chunks:
        assert chunk.line > 0
        assert chunk.path.endswith(".py")
        assert chunk.text.startswith(("def ", "async def ", "class "))
        assert chunk.name in chunk.text


def test_small_folder_gives_all_it_has(tmp_path: Path) -> None:
    """Short functions, broken files, tests and the surplus of one file are left out."""
    body = "    a = 1\n    b = 2\n    return a + b\n\n"
    (tmp_path / "many.py").write_text("".join(f"def f{i}():\n{body}" for i in range(20)) + "def short(): pass\n")
    (tmp_path / "broken.py").write_text("def (:\n")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "test_it.py").write_text(f"def f():\n{body}")
    chunks = standard_library_chunks(99, folder=tmp_path)
    assert [chunk.name for chunk in chunks] == [f"f{i}" for i in range(MAX_CHUNKS_PER_FILE)]
    assert [chunk.line for chunk in chunks] == [1 + 5 * i for i in range(MAX_CHUNKS_PER_FILE)]
