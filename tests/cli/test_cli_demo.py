"""`qferry demo` passes its options on and answers with the demo's figures; the demo itself is tested elsewhere."""

import inspect
import sys
from typing import Any

import pytest

from qferry import cli
from qferry.demo import DemoError, DemoOptions, DemoResult


def demo_result(**figures: int) -> DemoResult:
    """The figures of a demo, good ones unless told otherwise."""
    good = dict.fromkeys(("errors", "missing", "stale", "resurrected", "extra"), 0)
    return DemoResult(
        mode="ferry",
        points=100,
        seed=7,
        acknowledged_writes=5,
        reads=6,
        **{**good, **figures},
        latency_ms={},
        seconds_per_phase={},
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[DemoOptions]:
    """Take the demo's place, and give what it was asked."""
    seen: list[DemoOptions] = []

    def run_demo(options: DemoOptions, **_: Any) -> DemoResult:
        seen.append(options)
        return demo_result(stale=1 if options.seed == 13 else 0)

    monkeypatch.setattr("qferry.demo.run_demo", run_demo)
    return seen


def test_options_reach_the_demo(qferry: Any, asked: list[DemoOptions]) -> None:
    """Every option of the demo can be given on the command line, and the answer is its figures."""
    given = "--points 100 --seconds 3 --seed 7 --naive --url http://127.0.0.1:1 --model other --keep --json"
    outcome = qferry("demo", *given.split())
    assert asked == [
        DemoOptions(points=100, seconds=3.0, seed=7, naive=True, url="http://127.0.0.1:1", model="other", keep=True)
    ]
    assert (outcome.exit_code, outcome.json["ok"], outcome.json["acknowledged_writes"]) == (0, True, 5)


def test_defaults_are_the_demos_own(qferry: Any, asked: list[DemoOptions]) -> None:
    """Without options the demo decides; the server of the environment is left alone."""
    assert qferry("demo").exit_code == 0
    assert asked == [DemoOptions()]


def test_wrong_points_fail_the_demo_but_not_the_recipe(qferry: Any, asked: list[DemoOptions]) -> None:
    """A demo with a wrong point ends with exit code 1; the recipe is there to lose some."""
    failed = qferry("demo", "--seed", "13", "--json")
    assert (failed.exit_code, failed.json["ok"], failed.json["stale"]) == (1, False, 1)
    assert qferry("demo", "--seed", "13", "--naive").exit_code == 0
    assert len(asked) == 2


def test_missing_packages_are_one_sentence(qferry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the demo's extra the command says what to install."""
    monkeypatch.setitem(sys.modules, "qferry.demo", None)
    outcome = qferry("demo")
    assert outcome.exit_code == 1
    assert "pip install 'qferry[demo]'" in outcome.stderr
    assert outcome.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("raised", "exit_code", "says"),
    [(DemoError("No server."), 1, "No server.\n"), (KeyboardInterrupt(), 130, "Stopped. Nothing of the demo")],
)
def test_demo_that_cannot_go_on_is_one_sentence(
    raised: BaseException, exit_code: int, says: str, qferry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The demo's own error, and Ctrl-C, end it with a line."""

    def run_demo(*_: Any, **__: Any) -> DemoResult:
        raise raised

    monkeypatch.setattr("qferry.demo.run_demo", run_demo)
    outcome = qferry("demo")
    assert outcome.exit_code == exit_code
    assert outcome.stderr.startswith(says)


def test_command_line_does_not_import_the_demo() -> None:
    """The demo's packages are an extra: the command line's modules name them nowhere at the top."""
    assert "qferry.demo" not in inspect.getsource(cli)
