"""Tests of the tree of errors."""

import inspect
import pickle
import re

import pytest

import qferry
from qferry import errors
from qferry.errors import FerryError, InvalidName, Rejected, TargetWriteFailed

CLASSES = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if cls.__module__ == errors.__name__]


def drawn() -> set[tuple[str, str]]:
    """Return each class of the drawing in the module's docstring, with the one above it."""
    pairs = set()
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ([│ ├└─]*)([A-Z]\w+)(?:\s|$)", line)
        if match:
            depth = len(match[1]) // 4
            path[depth:] = [match[2]]
            pairs.add((match[2], path[depth - 1] if depth else "Exception"))
    return pairs


def test_drawing_is_the_tree() -> None:
    """What the documentation shows is what a caller can catch."""
    assert drawn() == {(cls.__name__, cls.__bases__[0].__name__) for cls in CLASSES}


def test_every_error_is_public() -> None:
    """An error that can reach an application can be named by it."""
    assert {cls.__name__ for cls in CLASSES} <= set(qferry.__all__)


@pytest.mark.parametrize("cls", CLASSES)
def test_error_survives_pickling(cls: type[FerryError]) -> None:
    """Across processes class, words and fields stay what they are."""
    error = cls("What happened.", hint="What to do.", point_ids=[1, "a"], status=404)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is cls
    assert (copy.message, copy.hint, copy.fields) == (error.message, error.hint, error.fields)
    assert str(copy) == str(error) == "What happened. What to do."


@pytest.mark.parametrize("cls", CLASSES)
def test_error_is_documented(cls: type[FerryError]) -> None:
    """A reader learns from the class what it means."""
    assert cls.__doc__
    assert cls.__doc__ != FerryError.__doc__ or cls is FerryError


def test_error_without_a_hint_ends_with_its_message() -> None:
    """Where there is nothing to do, nothing is said."""
    assert str(FerryError("What happened.")) == "What happened."


def test_invalid_name_is_a_value_error() -> None:
    """Naming is used by itself, where ValueError is what one expects."""
    assert issubclass(InvalidName, ValueError)
    assert InvalidName("no", names=["a", "b"]).names == ["a", "b"]
    assert InvalidName("no").names == ()


@pytest.mark.parametrize(
    ("status", "missing", "exists", "forbidden", "final"),
    [
        (400, False, False, False, True),
        (403, False, False, True, True),
        (404, True, False, False, True),
        (409, False, True, False, True),
        (500, False, False, False, False),
    ],
)
def test_rejection_explains_its_status(status: int, missing: bool, exists: bool, forbidden: bool, final: bool) -> None:
    """Code reads words, not numbers."""
    error = Rejected("no", status=status)
    assert error.status == status
    assert (error.missing, error.exists, error.forbidden, error.final) == (missing, exists, forbidden, final)


def test_failed_write_names_its_points() -> None:
    """A caller that wants to repeat it, or to look, knows where."""
    assert TargetWriteFailed("no", point_ids=[1, "a"]).point_ids == [1, "a"]
    assert TargetWriteFailed("no").point_ids == ()


def test_a_server_that_has_stopped_waiting_has_not_refused() -> None:
    """What it answered 408 to may still be carried out; what it answered 400 to is not."""
    assert not Rejected("Too slow.", status=408).final
    assert not Rejected("Broken.", status=500).final
    assert Rejected("Wrong.", status=400).final
