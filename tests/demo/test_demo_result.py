"""The result says what happened, in figures for machines and in tables for people."""

import io

import pytest
from rich.console import Console

from qferry.demo.call_log import Action, Call, Effect, Outcome
from qferry.demo.checker import Fault, Finding, Verdict
from qferry.demo.result import DemoResult, percentile, show, summarise

WRITE = (Effect(Action.DELETE, 1),)
CLEAN = Verdict((), (), ())
MS = 1_000_000


def call(start_ms: int, took_ms: int | None, outcome: Outcome | None, *, write: bool = True) -> Call:
    """Record a call by its start and duration in milliseconds."""
    end = None if took_ms is None else (start_ms + took_ms) * MS
    return Call("a", start_ms, "m", WRITE if write else (), start_ms * MS, end, outcome, "an odd\n error")


def result(calls: list[Call], verdict: Verdict = CLEAN) -> DemoResult:
    """Summarise calls of which those from 100 to 200 ms are during the migration."""
    return summarise(
        calls,
        verdict,
        during_ns=(100 * MS, 200 * MS),
        seconds_per_phase={"plan": 1.5},
        mode="ferry",
        points=500,
        seed=3,
    )


def shown(what: DemoResult) -> str:
    """Render the closing tables as text."""
    screen = io.StringIO()
    show(what, Console(file=screen, width=100))
    return screen.getvalue()


def test_json_has_exactly_the_promised_fields() -> None:
    """The object for machines is a contract."""
    calls = [
        call(50, 4, Outcome.OK),
        call(150, 6, Outcome.NOT_FOUND),
        call(160, 9, Outcome.OK, write=False),
        call(170, None, None),
    ]
    nothing = {"p50": None, "p99": None}
    assert result(calls).as_json() == {
        "mode": "ferry",
        "points": 500,
        "seed": 3,
        "acknowledged_writes": 2,
        "reads": 1,
        "errors": 0,
        "missing": 0,
        "stale": 0,
        "resurrected": 0,
        "extra": 0,
        "latency_ms": {
            "read": {"before": nothing, "during": {"p50": 9.0, "p99": 9.0}, "after": nothing},
            "write": {
                "before": {"p50": 4.0, "p99": 4.0},
                "during": {"p50": 6.0, "p99": 6.0},
                "after": nothing,
            },
        },
        "seconds_per_phase": {"plan": 1.5},
    }


def test_clean_run_passes_and_says_so() -> None:
    """No error and no wrong point: nothing was lost."""
    clean = result([call(50, 4, Outcome.OK)])
    assert clean.passed
    assert "Nothing was lost." in shown(clean)


def test_failed_calls_contradictions_and_undecided_points_are_errors() -> None:
    """Whatever went wrong for an application, or could not be judged, counts, with an example each."""
    calls = [call(150, 4, Outcome.REFUSED), call(160, 4, Outcome.UNKNOWN, write=False)]
    bad = result(calls, Verdict((), (7,), (8, 9)))
    assert (bad.errors, bad.acknowledged_writes, bad.reads, bad.passed) == (5, 0, 0, False)
    text = shown(bad)
    for part in ("m: an odd error", "answers about point 7", "point 8", "Not everything is right."):
        assert part in text


@pytest.mark.parametrize("fault", list(Fault))
def test_each_kind_of_wrong_point_fails_the_run(fault: Fault) -> None:
    """One wrong point of any kind is counted under its name and shown."""
    finding = Finding(5, fault, ("v", frozenset({("note", '"old"')})), frozenset({None}))
    bad = result([], Verdict((finding,), (), ()))
    assert bad.as_json()[fault.value] == 1
    assert not bad.passed
    assert f"{fault.value}: point 5 holds [('its vector', 'v'), ('note', '\"old\"')]," in shown(bad)


def test_example_of_a_stale_point_shows_only_what_differs() -> None:
    """A person sees the lost write at once, not the whole payload."""
    same = ("text", "long")
    found = ("v", frozenset({same, ("note", "1")}))
    allowed = frozenset({("v", frozenset({same, ("note", "2")})), ("v", frozenset({same, ("note", "3")}))})
    bad = result([], Verdict((Finding(5, Fault.STALE, found, allowed),), (), ()))
    expected = "stale: point 5 holds [('note', '1')], allowed is [('note', '2')] or [('note', '3')]"
    assert bad.examples == (expected,)


def test_percentile_is_the_nearest_rank() -> None:
    """The value at the rank, never one in between; nothing for no values."""
    values = [float(i) for i in range(1, 201)]
    assert percentile(values, 50) == 100
    assert percentile(values, 99) == 198
    assert percentile([3.0], 99) == 3
    assert percentile([], 50) is None
