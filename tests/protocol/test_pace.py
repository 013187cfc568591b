"""Tests of how fast a copy may go: reasons to stand still, back-off and recovery, and the hours of the day."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qferry.protocol.throttle import (
    FLOOR_POINTS_PER_S,
    INF,
    MEMORY_FULL,
    QUEUE_LONG,
    Governor,
    Limits,
    Pace,
    QuietHours,
    Signals,
    points_per_s_of,
    reason_of,
)

CALM = Signals(points_per_s=1000.0, application_p99_ms=10.0, probe_ms=2.0, queue=0, memory_share=0.1)
SLOW = Signals(points_per_s=1000.0, application_p99_ms=90.0)
LIMITED = Limits(max_latency_ms=40)


def settled(governor: Governor, limits: Limits, signals: Signals, looks: int) -> Pace:
    """Return the pace after so many looks at the same."""
    pace = Pace()
    for _ in range(looks):
        pace = governor.pace(limits, signals)
    return pace


def test_nothing_limits_what_nothing_is_wrong_with() -> None:
    """Without limits, on a calm server."""
    pace = Governor().pace(Limits(), CALM)
    assert (pace, str(pace)) == (Pace(INF, ""), "")


def test_a_limit_is_the_pace_and_the_reason() -> None:
    """As it was set."""
    assert str(Governor().pace(Limits(max_points_per_s=1200), CALM)) == "1,200 points/s: the limit that is set"


@pytest.mark.parametrize(
    ("limits", "signals", "reason"),
    [
        (Limits(paused=True), CALM, "paused"),
        (Limits(quiet_hours="22:00-06:00"), Signals(minute=12 * 60), "quiet hours, 22:00-06:00 UTC"),
        (Limits(), Signals(failing=True), "error"),
    ],
)
def test_it_stands_still_and_says_why(limits: Limits, signals: Signals, reason: str) -> None:
    """Until that is over."""
    governor = Governor()
    pace = governor.pace(limits, signals)
    assert pace.stands_still
    assert reason in str(pace)
    assert str(pace).startswith("stands still: ")
    assert governor.pace(Limits(), CALM) == Pace()


@pytest.mark.parametrize(
    ("signals", "reason"),
    [
        (SLOW, "500 points/s: the application's p99 is 90 ms, the limit 40 ms"),
        (Signals(points_per_s=1e3, probe_ms=41.0), "500 points/s: a read of one point takes 41 ms, the limit is 40 ms"),
        (Signals(points_per_s=1e3, queue=QUEUE_LONG + 1), "500 points/s: 101 updates wait on the target"),
        (
            Signals(points_per_s=1e3, memory_share=MEMORY_FULL),
            "500 points/s: the target's server holds 90% of its machine's memory",
        ),
    ],
)
def test_pressure_halves_the_pace_at_once(signals: Signals, reason: str) -> None:
    """From what it was going at."""
    assert str(Governor().pace(LIMITED, signals)) == reason


def test_latency_is_no_pressure_without_a_limit_for_it() -> None:
    """Nobody has said what is too much."""
    assert Governor().pace(Limits(), SLOW) == Pace()


def test_a_change_is_given_time_to_show() -> None:
    """What clients report is a second old."""
    governor = Governor()
    rates = [governor.pace(LIMITED, SLOW).points_per_s for _ in range(5)]
    assert rates == [500, 500, 250, 250, 125]


def test_under_lasting_pressure_it_goes_on_slowly() -> None:
    """A backfill must end also on a server that is never idle."""
    assert settled(Governor(), LIMITED, SLOW, 100).points_per_s == FLOOR_POINTS_PER_S


def test_it_recovers_by_and_by_and_then_forgets() -> None:
    """By a tenth at a look; the reason stays until it is over."""
    governor = Governor()
    settled(governor, LIMITED, SLOW, 30)
    pace = settled(governor, LIMITED, CALM, 3)
    assert FLOOR_POINTS_PER_S < pace.points_per_s < 2 * FLOOR_POINTS_PER_S
    assert pace.reason == "speeding up again; a moment ago: the application's p99 is 90 ms, the limit 40 ms"
    assert settled(governor, LIMITED, CALM, 60) == Pace()


def test_a_limit_bounds_recovery_and_wins_over_the_floor() -> None:
    """What the operator has said is never exceeded."""
    limits = Limits(max_points_per_s=10, max_latency_ms=40)
    governor = Governor()
    assert settled(governor, limits, SLOW, 9).points_per_s == 10
    assert str(settled(governor, limits, CALM, 9)) == "10 points/s: the limit that is set"


@given(
    st.lists(
        st.tuples(
            st.builds(
                Limits,
                max_points_per_s=st.sampled_from([0, 1, 40, 5000]),
                max_latency_ms=st.sampled_from([0, 40]),
                quiet_hours=st.sampled_from(["", "22:00-06:00"]),
                paused=st.booleans(),
            ),
            st.builds(
                Signals,
                minute=st.integers(0, 1439),
                points_per_s=st.floats(0, 1e5),
                application_p99_ms=st.none() | st.floats(0, 1e4),
                probe_ms=st.none() | st.floats(0, 1e4),
                failing=st.booleans(),
                queue=st.none() | st.integers(0, 1000),
                memory_share=st.none() | st.floats(0, 1),
            ),
        ),
        min_size=1,
    )
)
def test_whatever_happens_limits_hold_and_what_is_not_free_has_a_reason(looks: list[tuple[Limits, Signals]]) -> None:
    """And it stands still only if something says so."""
    governor = Governor()
    for limits, signals in looks:
        pace = governor.pace(limits, signals)
        assert pace.points_per_s <= (limits.max_points_per_s or INF)
        assert (pace.points_per_s == INF) or pace.reason
        if limits.paused:
            assert pace.stands_still
        elif not limits.quiet_hours and not signals.failing and (signals.memory_share or 0) < MEMORY_FULL:
            assert pace.points_per_s >= min(FLOOR_POINTS_PER_S, limits.max_points_per_s or INF)
    assert settled(governor, Limits(), CALM, 1000) == Pace()


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("22:00-06:00", ["22:00", "23:59", "00:00", "05:59"], ["06:00", "12:00", "21:59"]),
        ("09:30-17:00", ["09:30", "16:59"], ["09:29", "17:00", "00:00"]),
        ("20:00-24:00", ["20:00", "23:59"], ["00:00", "19:59"]),
        ("0:00-6:00", ["00:00"], ["06:00"]),
    ],
)
def test_quiet_hours_are_a_span_of_the_day(text: str, inside: list[str], outside: list[str]) -> None:
    """Across midnight too."""
    hours = QuietHours.parse(text)
    for time in [*inside, *outside]:
        assert hours.holds_at(int(time[:2]) * 60 + int(time[3:])) == (time in inside), time


@pytest.mark.parametrize(
    "text",
    [
        *("22", "22:00", "22:00-", "-06:00", "22:00-22:00", "0:00-24:00", "25:00-06:00", "22:60-06:00"),
        *("\u0662\u0662:00-06:00", "22:0-06:00", "a:b-c:d", "22:00-06:00-07:00", "24:30-06:00"),
    ],
)
def test_what_is_no_span_of_the_day_is_refused(text: str) -> None:
    """Rather than guessed at."""
    with pytest.raises(ValueError, match="is no"):
        QuietHours.parse(text)


@pytest.mark.parametrize(
    "changes",
    [
        {"max_points_per_s": 0.5},
        {"max_points_per_s": -1},
        {"max_latency_ms": INF},
        {"quiet_hours": "at night"},
        {"speed": 1},
    ],
)
def test_what_is_no_limit_is_not_taken_for_one(changes: dict[str, Any]) -> None:
    """Whoever sets it: every command would have to live with it."""
    with pytest.raises(ValueError, match=next(iter(changes)) if "quiet_hours" not in changes else "at night"):
        Limits.checked(changes)
    assert Limits.checked({"max_points_per_s": 0, "quiet_hours": "", "paused": True})["paused"]


@pytest.mark.parametrize(
    ("limits", "signals", "reason"),
    [
        (Limits(), CALM, None),
        (Limits(max_points_per_s=2000), CALM, "limit"),
        (Limits(paused=True), CALM, "paused"),
        (Limits(quiet_hours="22:00-06:00"), Signals(minute=12 * 60), "quiet_hours"),
        (Limits(), Signals(failing=True), "target_failing"),
        (LIMITED, SLOW, "application_latency"),
        (LIMITED, Signals(points_per_s=1000.0, probe_ms=90.0), "read_latency"),
        (Limits(), Signals(points_per_s=1000.0, queue=QUEUE_LONG + 1), "update_queue"),
        (Limits(), Signals(points_per_s=1000.0, memory_share=MEMORY_FULL), "memory"),
    ],
)
def test_recorded_pace_is_told_by_a_word_and_a_number(limits: Limits, signals: Signals, reason: str | None) -> None:
    """Whatever it says, the reason is one of a fixed set, and the number is the pace."""
    pace = Governor().pace(limits, signals)
    assert reason_of(str(pace)) == reason
    assert points_per_s_of(str(pace)) == (None if pace.points_per_s == INF else round(pace.points_per_s))


def test_recovery_is_not_taken_for_what_it_recovers_from() -> None:
    """It names the pressure of a moment ago."""
    governor = Governor()
    for signals in (SLOW, CALM, CALM, CALM):
        pace = governor.pace(LIMITED, signals)
    assert "a moment ago: the application's p99" in str(pace)
    assert reason_of(str(pace)) == "recovering"


def test_pace_of_another_version_is_some_other_reason() -> None:
    """Not none, and no error."""
    assert reason_of("80 points/s: the moon is full") == "other"
    assert points_per_s_of("80 points/s: the moon is full") == 80
    assert points_per_s_of("slowly") is None
