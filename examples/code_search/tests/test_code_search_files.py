"""Which files are read: what git would take, as far as it is text."""

from __future__ import annotations

from pathlib import Path

import pytest
from code_search_support import Project

from code_search.files import MAX_BYTES, project_files, read_text


@pytest.fixture
def folder(tmp_path: Path) -> Project:
    """Give an empty folder."""
    return Project(tmp_path / "p")


def test_walk_is_in_the_same_order_every_time(folder: Project) -> None:
    """Sorted, folders and files together."""
    for path in ("b/z.py", "b/a.py", "a.py", "c.py", ".hidden/x.py"):
        folder.write(path, "x")
    assert list(project_files(folder.root)) == [".hidden/x.py", "a.py", "b/a.py", "b/z.py", "c.py"]


def test_walk_leaves_out_what_git_ignores(folder: Project) -> None:
    """Nearer files overrule farther ones, and what is in an ignored folder is ignored whatever it says."""
    folder.write(".gitignore", "*.log\n/build/\nnode_modules/\n!keep.log\n")
    folder.write("a.py", "x")
    folder.write("a.log", "x")
    folder.write("keep.log", "x")
    folder.write("build/out.py", "x")
    folder.write("sub/build/in.py", "x")
    folder.write("sub/node_modules/x.js", "x")
    folder.write("sub/.gitignore", "*.tmp\n!b.log\n/only_here.py\n")
    folder.write("sub/b.log", "x")
    folder.write("sub/c.log", "x")
    folder.write("sub/d.tmp", "x")
    folder.write("sub/only_here.py", "x")
    folder.write("sub/deep/only_here.py", "x")
    folder.write("build/.gitignore", "!out.py\n")
    folder.write("e.tmp", "x")
    assert set(project_files(folder.root)) == {
        ".gitignore",
        "a.py",
        "e.tmp",
        "keep.log",
        "sub/.gitignore",
        "sub/b.log",
        "sub/build/in.py",
        "sub/deep/only_here.py",
    }


def test_rules_of_the_repository_hold_in_a_part_of_it(folder: Project) -> None:
    """A project below a repository's top is ignored as it says there, and no further up."""
    folder.write(".gitignore", "*.py\n")
    folder.write("repository/.git/config", "x")
    folder.write("repository/.gitignore", "*.log\n/part/secret.py\n")
    folder.write("repository/part/a.py", "x")
    folder.write("repository/part/a.log", "x")
    folder.write("repository/part/secret.py", "x")
    assert list(project_files(folder.root / "repository" / "part")) == ["a.py"]
    assert ".git/config" not in set(project_files(folder.root / "repository"))


def test_rules_of_a_repository_that_ignores_the_project_do_not_hold(folder: Project) -> None:
    """As for a Python that pyenv has installed into its own clone: whoever names such a folder means it."""
    folder.write(".git/config", "x")
    folder.write(".gitignore", "/versions/*\n*.log\n")
    folder.write("versions/3/lib/a.py", "x")
    folder.write("versions/3/lib/.gitignore", "b.py\n")
    folder.write("versions/3/lib/b.py", "x")
    assert list(project_files(folder.root / "versions" / "3" / "lib")) == [".gitignore", "a.py"]


def test_walk_follows_no_links(folder: Project, tmp_path: Path) -> None:
    """What a link leads to is met anyway, or is not the project's."""
    folder.write("a/real.py", "x")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.py").write_text("x")
    (folder.root / "linked").symlink_to(tmp_path / "outside")
    (folder.root / "secret.py").symlink_to(tmp_path / "outside" / "secret.py")
    (folder.root / "a" / "circle").symlink_to(folder.root)
    assert list(project_files(folder.root)) == ["a/real.py"]


def test_root_may_be_a_link(folder: Project, tmp_path: Path) -> None:
    """The project's own folder is what it leads to."""
    folder.write("a.py", "x")
    (tmp_path / "link").symlink_to(folder.root)
    assert list(project_files(tmp_path / "link")) == ["a.py"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"x = 1\n", "x = 1\n"),
        (b"\xef\xbb\xbfx\r\ny\r\n", "x\ny\n"),
        (b"caf\xe9", "caf\ufffd"),
        (b"", None),
        (b" \n\t\n", None),
        (b"\x7fELF\0\0", None),
        (b"x" * MAX_BYTES, "x" * MAX_BYTES),
        (b"x" * (MAX_BYTES + 1), None),
    ],
    ids=("plain", "windows", "latin-1", "empty", "blank", "binary", "large", "too large"),
)
def test_text_is_read_and_nothing_else(folder: Project, content: bytes, expected: str | None) -> None:
    """Lines end the same way wherever they were written; binary, large and empty files are none."""
    assert read_text(folder.write("file", content)) == expected


def test_ignore_file_may_begin_with_a_byte_order_mark(folder: Project) -> None:
    """Its first line is as good as any, as it is to git."""
    folder.write(".gitignore", b"\xef\xbb\xbf.env\n")
    folder.write(".env", "KEY=1\n")
    assert list(project_files(folder.root)) == [".gitignore"]


def test_file_that_became_a_link_has_no_text(folder: Project, tmp_path: Path) -> None:
    """What it leads to is not the project's, also if it was a file when the folder was walked."""
    (tmp_path / "secret").write_text("x")
    (folder.root / "a.py").symlink_to(tmp_path / "secret")
    assert read_text(folder.root / "a.py") is None


def test_file_that_is_gone_has_no_text(folder: Project) -> None:
    """It may be deleted between the walk and the reading."""
    assert read_text(folder.root / "gone") is None
