"""What cannot be taken back is asked for: at a terminal by a question, elsewhere by an option."""

import io
from typing import Any

import pytest


class Terminal(io.StringIO):
    """A person who types these lines."""

    def isatty(self) -> bool:
        """Say that somebody is there."""
        return True


@pytest.mark.parametrize("verb", ["abort", "finish"])
def test_without_a_terminal_yes_is_required(verb: str, qferry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody can be asked and --yes is missing, the verb ends with exit code 2 before anything is sent."""
    monkeypatch.setattr("sys.stdin", io.StringIO())
    outcome = qferry(verb, "any", "--url", "http://127.0.0.1:1")
    assert (outcome.exit_code, outcome.stdout) == (2, "")
    assert "Add --yes if it is meant." in outcome.stderr


def test_question_is_answered_before_anything_happens(
    qferry: Any, source: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The question says what will happen to which migration; no and Ctrl-D change nothing, yes does it."""
    qferry("start", source)
    for verb, warning in (("abort", "Its target is removed"), ("finish", "point of no return")):
        monkeypatch.setattr("sys.stdin", Terminal("n\n"))
        declined = qferry(verb, source, "--json")
        assert declined.exit_code == 1
        assert f"`{source}` → `{target}`" in declined.stderr
        assert warning in declined.stderr
        assert declined.json["error"] == {"type": "Declined", "message": "Nothing was changed.", "hint": ""}
        monkeypatch.setattr("sys.stdin", Terminal(""))
        stopped = qferry(verb, source)
        assert stopped.exit_code == 130
        assert stopped.stderr.endswith("Stopped. Nothing was changed.\n")
    assert qferry("status", source, "--json").json["migrations"][0]["phase"] == "copying"
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert qferry("abort", source).exit_code == 0
    assert qferry("status", source, "--json").json["migrations"][0]["phase"] == "aborted"


def test_name_of_the_collection_to_delete_is_asked_for(
    qferry: Any, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cleanup without --confirm lets the name be typed; a wrong one, or Ctrl-D, deletes nothing."""
    qferry("start", source)
    monkeypatch.setattr("sys.stdin", Terminal(""))
    assert qferry("cleanup", source).exit_code == 130
    monkeypatch.setattr("sys.stdin", Terminal("another\n"))
    outcome = qferry("cleanup", source)
    assert outcome.exit_code == 1
    assert f"This deletes `{source}` for good. Type its name" in outcome.stderr
    assert "`another` is not the name of the source" in outcome.stderr


def test_name_of_the_collection_to_delete_is_required(qferry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal cleanup needs --confirm."""
    monkeypatch.setattr("sys.stdin", io.StringIO())
    outcome = qferry("cleanup", "any")
    assert outcome.exit_code == 2
    assert "Add --confirm NAME." in outcome.stderr
