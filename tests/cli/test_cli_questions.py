"""What cannot be taken back is asked for: at a terminal by a question, elsewhere by an option."""

import io
from typing import Any

import pytest

from qferry.server import QdrantServer


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


def test_way_back_does_not_need_the_targets_server(
    qferry: Any, source: str, target: str, fresh_qdrant: QdrantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is dead the question is asked, applications come home, and `abort` says what is left."""
    there = ("--target-url", fresh_qdrant.url, "--target-grpc-port", str(fresh_qdrant.grpc_port))
    assert qferry("start", source, "--strategy", "stream", *there).exit_code == 0
    fresh_qdrant.kill()
    (shown,) = qferry("status", source, "--json").json["migrations"]
    assert (shown["phase"], shown["source_points"], shown["target_points"]) == ("copying", 120, None)
    assert "gave no answer" in shown["target_failure"]
    assert "Nothing is known of the target: The target's server gave no answer" in qferry("status").stdout
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    aborted = qferry("abort", source)
    assert aborted.exit_code == 1
    assert f"`{source}` → `{target}`" in aborted.stderr
    assert f"Every application is back on `{source}` alone" in aborted.stderr
    assert f"run `qferry abort {source}` again" in aborted.stderr
    (shown,) = qferry("status", source, "--json").json["migrations"]
    assert (shown["phase"], shown["routing"]) == ("aborting", "source_only")
    fresh_qdrant.restart()
    assert qferry("abort", source, "--yes", *there).exit_code == 0
    assert qferry("status", source, "--json").json["migrations"][0]["phase"] == "aborted"
