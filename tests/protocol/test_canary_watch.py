"""Tests of who is served by the target, and of when readers have had enough of it."""

import pytest

from qferry.protocol.canary import READS_MAX, SILENCE_MIN_S, SILENCE_S, WINDOW_S, Tolerance, Watch, place_of

LENIENT = Tolerance(max_errors_percent=5)


def watched(*reads: tuple[float, float, bool]) -> Watch:
    """Return a watch that has seen these reads: when each ended, what it took, whether it failed."""
    watch = Watch()
    for at, seconds, failed in reads:
        number = watch.begin(at - seconds)
        watch.end(number, at, answered=not failed, heard=True)
        if failed:
            watch.fail(at, began=at - seconds)
    return watch


def test_caller_stays_where_it_is_as_the_share_grows() -> None:
    """Who is in at 10 % is in at 25 %: a place never moves."""
    places = {key: place_of("m", key) for key in (f"tenant-{n}" for n in range(2000))}
    assert places == {key: place_of("m", key) for key in places}
    for percent in (10, 25, 75):
        inside = sum(place < percent for place in places.values()) / len(places) * 100
        assert inside == pytest.approx(percent, abs=3)
    assert all(0 <= place < 100 for place in places.values())


def test_callers_are_drawn_anew_for_each_migration() -> None:
    """It is not always the same tenants that go first."""
    assert place_of("m", "tenant") != place_of("other", "tenant")


@pytest.mark.parametrize("key", ["", "ß", "\ud800", "a b"])
def test_any_text_is_a_key(key: str) -> None:
    """Also what no file would take."""
    assert 0 <= place_of("m", key) < 100


@pytest.mark.parametrize(
    ("failed", "reads", "too_many"),
    [(0, 10, False), (1, 1, False), (2, 2, True), (2, 40, False), (3, 40, True), (5, 100, False), (6, 100, True)],
)
def test_too_many_errors_are_found(failed: int, reads: int, too_many: bool) -> None:
    """Two at least, and a larger share than is put up with."""
    watch = watched(*((1.0, 0.01, n < failed) for n in range(reads)))
    assert bool(watch.verdict(1.5, LENIENT)) is too_many
    assert watch.verdict(1.5, Tolerance(max_errors_percent=100)) == ""


def test_errors_of_long_ago_are_forgotten() -> None:
    """Only the last seconds count."""
    watch = watched((1.0, 0.01, True), (1.0, 0.01, True))
    assert watch.verdict(1.0 + WINDOW_S - 0.1, LENIENT)
    assert not watch.verdict(1.0 + WINDOW_S, LENIENT)


def test_reason_says_what_was_seen_and_what_is_allowed() -> None:
    """It is all that an operator has to go by."""
    watch = watched(*((1.0, 0.01, n < 3) for n in range(10)))
    told = "3 of its 10 reads on the target within 5 s have failed (30%, allowed 5 %)"
    assert watch.verdict(1.0, LENIENT) == told


def test_slow_reads_are_found_if_there_is_a_limit() -> None:
    """The 95th percentile, and two at least."""
    slow = watched(*((1.0, 0.3 if n < 10 else 0.01, False) for n in range(100)))
    assert not slow.verdict(1.0, LENIENT)
    told = slow.verdict(1.0, Tolerance(5, max_ms=250))
    assert told == "its reads on the target take 300 ms (p95 of 100 within 5 s, allowed 250 ms)"
    assert not watched(*((1.0, 0.3 if n < 5 else 0.01, False) for n in range(100))).verdict(1.0, Tolerance(5, 250))
    assert not watched((1.0, 9.0, False)).verdict(1.0, Tolerance(5, max_ms=250))


def test_reads_under_way_count_by_their_age() -> None:
    """A read that will take long does not have to end first; one that has just begun tells nothing."""
    watch = Watch()
    for began in (0.0, 0.1, 0.9):
        watch.begin(began)
    assert not watch.verdict(0.34, Tolerance(5, max_ms=250))
    assert watch.verdict(1.0, Tolerance(5, max_ms=250))


def test_silent_target_is_found_without_any_limit_of_latency() -> None:
    """A single read that waits is enough, if the target has answered nothing since."""
    watch = Watch()
    watch.begin(0.0)
    assert not watch.verdict(SILENCE_S - 0.1, LENIENT)
    assert "without an answer for 2.1 s" in watch.verdict(SILENCE_S + 0.1, LENIENT)


def test_one_long_read_among_answered_ones_is_no_silence() -> None:
    """A large page takes its time."""
    watch = Watch()
    watch.begin(0.0)
    watch.end(watch.begin(2.0), 2.1, answered=True, heard=True)
    assert not watch.verdict(3.0, LENIENT)
    assert watch.verdict(2.2 + SILENCE_S, LENIENT)


@pytest.mark.parametrize("apart_s", [0.1, 1.5], ids=["side by side", "one after the other"])
def test_silent_target_is_found_though_the_application_gives_its_reads_up(apart_s: float) -> None:
    """After a second each, which none of them outlives."""
    watch, under_way, told = Watch(), [], ""
    for n in range(60):
        now = 1 + n * apart_s
        while under_way and now - under_way[0][0] >= 1.0:
            began, number = under_way.pop(0)
            watch.end(number, began + 1.0, answered=False, heard=False)
        told = told or watch.verdict(now, LENIENT)
        under_way.append((now, watch.begin(now)))
    assert "without an answer for" in told


def test_reads_that_are_given_up_are_no_silence_if_the_target_had_no_time_to_answer() -> None:
    """An application that has lost interest at once, and then does nothing for long."""
    watch = Watch()
    for began in (0.0, 100.0, 200.0):
        watch.end(watch.begin(began), began + 0.1, answered=False, heard=False)
        assert not watch.verdict(began + 50, LENIENT)
    watch.begin(300.0)
    assert not watch.verdict(300.1, LENIENT)


def test_answer_ends_the_silence_whoever_waits_for_another() -> None:
    """The target answers, if not everything that it was asked."""
    watch = Watch()
    for began in range(20):
        watch.begin(began)
        number = watch.begin(began + 0.1)
        watch.end(number, began + 0.2, answered=True, heard=True)
        watch.end(watch.begin(began + 0.3), began + 0.9, answered=False, heard=False)
        assert not watch.verdict(began + 1, LENIENT)


def test_mistakes_of_the_caller_are_no_silence() -> None:
    """An error is a sign of life, also if nothing else is ever said, and in two threads at once."""
    watch = Watch()
    one = watch.begin(0.0)
    for n in range(1, 1000):
        other = watch.begin(n / 10 - 0.05)
        watch.end(one, n / 10, answered=False, heard=True)
        one = other
        assert not watch.verdict(n / 10, LENIENT)


def test_reads_that_are_given_up_after_the_limit_are_slow() -> None:
    """They have taken that long at least; one that was given up sooner tells nothing."""
    for seconds, too_slow in ((0.2, False), (0.3, True)):
        watch = watched(*((1.0, 0.01, False) for _ in range(10)))
        for _ in range(2):
            watch.end(watch.begin(1.0), 1.0 + seconds, answered=False, heard=False)
        watch.end(watch.begin(1.3), 1.4, answered=True, heard=True)
        assert bool(watch.verdict(1.5, Tolerance(5, max_ms=250))) is too_slow
        assert not watch.verdict(1.5 + WINDOW_S, Tolerance(5, max_ms=250))


def test_limit_of_latency_is_that_of_silence_too() -> None:
    """But a short stall is none."""
    watch = Watch()
    watch.begin(0.0)
    assert not watch.verdict(SILENCE_MIN_S - 0.1, Tolerance(5, max_ms=10))
    assert watch.verdict(SILENCE_MIN_S, Tolerance(5, max_ms=10))


def test_application_of_long_reads_is_given_time_by_its_limit() -> None:
    """Silence begins where its own limit ends."""
    watch = Watch()
    watch.begin(0.0)
    assert not watch.verdict(9.0, Tolerance(5, max_ms=10_000))
    assert watch.verdict(10.0, Tolerance(5, max_ms=10_000))
    assert not watch.verdict(99.0, Tolerance(100))


def test_failed_read_counts_only_once_the_source_has_answered_it() -> None:
    """What fails on both sides is the caller's own mistake."""
    watch = Watch()
    for _ in range(10):
        watch.end(watch.begin(0.0), 0.1, answered=False, heard=True)
    assert not watch.verdict(0.2, LENIENT)
    watch.fail(0.2, began=0.0)
    watch.fail(0.2, began=0.0)
    assert watch.verdict(0.2, LENIENT)


def test_what_was_seen_can_be_forgotten() -> None:
    """A read that began before then tells nothing when it ends."""
    watch = watched((1.0, 0.1, True), (1.0, 0.1, True))
    number = watch.begin(0.0)
    watch.forget(1.5)
    assert not watch.verdict(9.0, LENIENT)
    watch.end(number, 9.0, answered=True, heard=True)
    for began, counts in ((1.4, False), (1.5, True)):
        watch.fail(9.0, began=began)
        assert bool(watch.ended) is counts


def test_process_that_has_stood_still_begins_anew() -> None:
    """Whatever was seen, before or when it woke up."""
    watch = watched((1.0, 0.1, True), (1.0, 0.1, True))
    number = watch.begin(1.0)
    for _ in range(3):
        watch.end(watch.begin(1.0), 60.0, answered=False, heard=False)
    watch.resume(60.0)
    assert not watch.verdict(60.0 + SILENCE_S - 0.1, Tolerance(5, max_ms=2000))
    watch.fail(61.0, began=1.0)
    watch.fail(61.0, began=1.0)
    watch.end(number, 61.0, answered=True, heard=True)
    assert [(at, seconds) for at, seconds, _ in watch.ended] == [(61.0, 1.0)]


def test_watch_stays_small() -> None:
    """However many reads there are."""
    watch = watched(*((1.0, 0.0, False) for _ in range(READS_MAX + 10)))
    assert len(watch.ended) == READS_MAX
    assert not watch.under_way


@pytest.mark.parametrize(
    "changes",
    [
        {"max_errors_percent": -1},
        {"max_errors_percent": 101},
        {"max_ms": -0.1},
        {"max_ms": float("inf")},
        {"max_ms": float("nan")},
        {"max_errors_percent": "5"},
        {"max_errors_percent": True},
    ],
)
def test_what_is_no_limit_is_refused(changes: dict[str, object]) -> None:
    """Before it gets into a record."""
    with pytest.raises(ValueError, match=next(iter(changes))):
        Tolerance.checked(changes)


def test_limits_that_are_given_become_fields_of_the_record() -> None:
    """The others stay as they are."""
    assert Tolerance.checked({"max_errors_percent": 2, "max_ms": None}) == {"canary_max_errors_percent": 2.0}
    assert Tolerance.checked({"max_ms": 0}) == {"canary_max_ms": 0.0}
