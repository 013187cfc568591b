"""The files of a project that are worth reading: text, not ignored by git, not too large."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec

# Larger ones are data, or were written by a program.
MAX_BYTES = 1_000_000

# Git looks as far for the byte that no text has.
_PROBE_BYTES = 8_000

_GIT = ".git"
_IGNORE_FILE = ".gitignore"


# What these say of a file or a folder is that it is no more.
_GONE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


@dataclass(frozen=True, slots=True)
class _Rules:
    """One .gitignore: the folder whose paths it speaks about, with a slash at its end, and what it says."""

    folder: str
    spec: GitIgnoreSpec


def project_files(root: Path, unreadable: Callable[[str], None] = lambda _: None) -> Iterator[str]:
    """
    Walk through a project's files.

    What git ignores is left out, by the `.gitignore` files from the repository's top down; so are `.git` itself, links
    (what they lead to is either met anyway or not the project's) and names that are not UTF-8.

    Args:
        root: The project's folder; it may be a part of a repository.
        unreadable: Told each folder that is there and cannot be read: there is no telling what is in it.

    Returns:
        Paths from `root`, with slashes, in an order that does not change.

    Raises:
        OSError: A `.gitignore` above `root` cannot be read.
    """
    top = root.resolve()
    # What a repository says further up holds for a project that is a part of it, too.
    above = [] if (top / _GIT).exists() else list(top.parents)
    levels = next((above[: number + 1] for number, folder in enumerate(above) if (folder / _GIT).exists()), [])
    rules = [rule for folder in reversed(levels) for rule in _rules_in(folder)]
    if _ignored(f"{top.as_posix()}/", rules):
        rules = []  # a repository that ignores the whole project has nothing to say about it
    for path in _walk(top, rules, lambda folder: unreadable(folder.relative_to(top).as_posix())):
        yield path.relative_to(top).as_posix()


def read_text(file: Path) -> str | None:
    r"""
    Read a file for its text.

    Args:
        file: The file.

    Returns:
        The text, its lines ended by `\n`; None if the file is gone, is a link by now, is too large, is binary, or has
        nothing but white space in it.

    Raises:
        OSError: It is there, and cannot be read; what is known of it is no more outdated than before.
    """
    try:
        with open(file, "rb", opener=_open_no_link) as stream:
            content = stream.read(MAX_BYTES + 1)
    except _GONE:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise
    if len(content) > MAX_BYTES or b"\0" in content[:_PROBE_BYTES]:
        return None
    # Old code in other encodings is still code; what is not UTF-8 in it is replaced.
    text = content.decode("utf-8-sig", errors="replace").replace("\r\n", "\n")
    return text if text.strip() else None


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0))


def _walk(folder: Path, rules: list[_Rules], unreadable: Callable[[Path], None]) -> Iterator[Path]:
    try:
        inside = [*rules, *_rules_in(folder)]
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except _GONE:
        return
    except OSError:
        unreadable(folder)
        return
    for entry in entries:
        if entry.is_symlink() or entry.name == _GIT or not _is_utf8(entry.name):
            continue
        path = folder / entry.name
        if entry.is_dir():
            if not _ignored(f"{path.as_posix()}/", inside):
                yield from _walk(path, inside, unreadable)
        elif entry.is_file() and not _ignored(path.as_posix(), inside):
            yield path


def _rules_in(folder: Path) -> list[_Rules]:
    try:
        lines = (folder / _IGNORE_FILE).read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except _GONE:
        return []
    return [_Rules(f"{folder.as_posix().rstrip('/')}/", GitIgnoreSpec.from_lines(lines))]


def _ignored(path: str, rules: list[_Rules]) -> bool:
    """What the nearest file says that says anything; a folder's path ends with a slash."""
    for rule in reversed(rules):
        verdict = rule.spec.check_file(path.removeprefix(rule.folder)).include
        if verdict is not None:
            return verdict
    return False


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
