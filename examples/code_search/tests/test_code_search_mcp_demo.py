"""The demo tells a migration that went well from one that did not."""

import shutil
from pathlib import Path

import pytest
from mcp_sessions import in_process
from rich.console import Console

from code_search import demo
from code_search.traffic import Account


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_good_migration_passes_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two files, one client and the straight way, with the commands, the servers and the model of the real one."""
    answers = {question: path for question, path in demo.ANSWERS.items() if path != "server.py"}
    for path in answers.values():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        shutil.copy(demo.ROOT / path, tmp_path / path)
    last_of_each_verb = {verb: (verb, *arguments) for verb, *arguments in demo.STEPS if verb != "rollback"}
    monkeypatch.setattr(demo, "ROOT", tmp_path)
    monkeypatch.setattr(demo, "ANSWERS", answers)
    monkeypatch.setattr(demo, "CLIENTS", 1)
    monkeypatch.setattr(demo, "STEPS", tuple(last_of_each_verb.values()))
    code, told = demo.main(), capsys.readouterr().out
    assert code == 0, told
    assert "qferry switch 100 %" in told
    assert "Nobody noticed." in told


def test_collection_that_was_not_renamed_fails_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nothing is migrated all searches are answered, and yet the exit code is 1, with the reason."""
    shutil.copy(demo.ROOT / "protocol" / "journal.py", tmp_path)
    monkeypatch.setattr(demo, "_session", in_process)
    monkeypatch.setattr(demo, "ROOT", tmp_path)
    monkeypatch.setattr(demo, "ANSWERS", {"where is the journal of written points kept": "journal.py"})
    monkeypatch.setattr(demo, "CLIENTS", 1)
    monkeypatch.setattr(demo, "STEPS", ())
    assert demo.main() == 1
    told = capsys.readouterr().out
    assert f"There should be {demo.CANONICAL} and nothing else" in told
    assert "Not everything is right" in told


def test_wrong_best_hit_fails_the_demo() -> None:
    """A report with everything right but one hit is not passed; with that one right it is."""
    console = Console(quiet=True)
    account = Account(searches=1)
    right = [demo._BestHit(path, path) for path in demo.ANSWERS.values()]
    wrong = [*right[1:], demo._BestHit("-")]
    assert demo._report(account, right, right, [demo.CANONICAL], console)
    assert not demo._report(account, wrong, right, [demo.CANONICAL], console)
    assert not demo._report(account, right, wrong, [demo.CANONICAL], console)
    assert not demo._report(account, right, right, [demo.LEGACY, demo.CANONICAL], console)
    assert not demo._report(Account(searches=1, empty=["one"]), right, right, [demo.CANONICAL], console)
