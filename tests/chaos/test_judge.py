"""The judge: every way in which a point or an answer can be wrong is noticed, in made-up histories."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from .calls import MISSING, OK, REJECTED, UNKNOWN, Call, CallLog, Effect, read_calls
from .case import Case
from .content import DIMENSIONS, State, state_of, vector, written
from .judge import LANDS_WITHIN_S, SECOND_NS, Judge, Paths, Verdict, Window
from .search import PointState
from .workload import Population

GROUPS = 10
# With token 7 a point is in its own group.
POINT, TOKEN = 3, 7
OLD, NEW = written(POINT, 1, GROUPS), written(POINT, TOKEN, GROUPS)
LANE = "app0-0.0"
UPSERT = Effect("upsert", (POINT,), token=TOKEN)
DELETE = Effect("delete", (POINT,))


def call(start_s: float, end_s: float | None, *effects: Effect, lane: str = LANE, **more: Any) -> Call:
    """A call, its times in seconds."""
    end = None if end_s is None else int(end_s * SECOND_NS)
    points = sum(max(1, len(effect.ids)) for effect in effects)
    what = {"outcome": OK, **more}
    return Call(lane, what.pop("method", "any"), int(start_s * SECOND_NS), effects, end=end, points=points, **what)


def read(start_s: float, seen: PointState, **more: Any) -> Call:
    """A read of the point, in tenths of a second."""
    answer = {} if seen is None else {POINT: seen}
    return call(start_s, start_s + 0.1, method="retrieve", ids=(POINT,), answer=answer, **more)


def judged(calls: Sequence[Call], found: PointState, before: PointState = OLD, **more: Any) -> Verdict:
    """The verdict on one point."""
    initial = {} if before is None else {POINT: before}
    return Judge(calls, initial, GROUPS, **more).verdict({} if found is None else {POINT: found})


def kinds(verdict: Verdict) -> list[str]:
    """What was found."""
    return [finding.kind for finding in verdict.findings]


@pytest.mark.parametrize(
    ("calls", "before", "found", "kind"),
    [
        ([call(1, 2, UPSERT)], None, None, "lost"),
        ([call(1, 2, UPSERT)], OLD, OLD, "stale"),
        ([call(1, 2, DELETE)], OLD, OLD, "resurrected"),
        ([], None, NEW, "extra"),
        ([call(1, 2, UPSERT), call(3, 4, DELETE)], None, NEW, "resurrected"),
        ([], OLD, NEW, "stale"),
        ([], OLD, None, "lost"),
    ],
)
def test_wrong_point_is_noticed(calls: list[Call], before: PointState, found: PointState, kind: str) -> None:
    """A lost, stale, resurrected or extra point is called by its name."""
    assert kinds(judged(calls, found, before)) == [kind]


@pytest.mark.parametrize("found", [OLD, NEW])
def test_write_without_an_answer_may_count_or_not(found: PointState) -> None:
    """Nobody knows what became of it; both are right, a third state is not."""
    unanswered = call(1, 2, UPSERT, outcome=UNKNOWN, error="ResponseHandlingException")
    paths = Paths({"app0-0": frozenset({"server"})}, [Window("server", 0, 2 * SECOND_NS)])
    assert not kinds(judged([unanswered], found, paths=paths))
    assert kinds(judged([unanswered], None, paths=paths)) == ["lost"]


def test_write_of_a_killed_process_may_count_or_not() -> None:
    """A call without an end is one whose process died."""
    calls = [call(1, None, UPSERT, outcome=UNKNOWN)]
    for found in (OLD, NEW):
        assert not kinds(judged(calls, found, killed={"app0-0": 2 * SECOND_NS}))


def test_write_without_an_answer_cannot_count_much_later() -> None:
    """What was acknowledged long after it stands."""
    later = 4 + LANDS_WITHIN_S
    calls = [call(1, None, DELETE, outcome=UNKNOWN), call(later, later + 1, UPSERT, lane="app1-0.0")]
    killed = {"app0-0": 2 * SECOND_NS}
    assert kinds(judged(calls, None, killed=killed)) == ["lost"]
    calls = [call(1, None, DELETE, outcome=UNKNOWN), call(5, 6, UPSERT, lane="app1-0.0")]
    assert not kinds(judged(calls, None, killed=killed))


def test_overlapping_writes_may_take_either_order() -> None:
    """Both are right while they overlap, one is when they do not."""
    overlapping = [call(1, 3, UPSERT), call(2, 4, DELETE, lane="app1-0.0")]
    for found in (NEW, None):
        assert not kinds(judged(overlapping, found))
    assert kinds(judged([call(1, 2, UPSERT), call(3, 4, DELETE, lane="app1-0.0")], NEW)) == ["resurrected"]


def test_filter_write_reaches_members_only() -> None:
    """A point of another group is left alone, one of the group is not."""
    mark = Effect("set", group=NEW.group, token=9, fields=("k2",))
    calls = [call(1, 2, UPSERT), call(3, 4, mark)]
    assert not kinds(judged(calls, NEW._replace(k2=9)))
    assert kinds(judged(calls, NEW)) == ["stale"]
    other = Effect("set", group=(POINT + 5) % GROUPS, token=9, fields=("k2",))
    assert not kinds(judged([call(1, 2, UPSERT), call(3, 4, other)], NEW))


def test_stale_read_is_noticed() -> None:
    """A read returns what was possible at some moment of it."""
    assert not kinds(judged([call(1, 2, UPSERT), read(3, NEW)], NEW))
    assert kinds(judged([call(1, 2, UPSERT), read(3, OLD)], NEW)) == ["stale read"]
    assert kinds(judged([call(1, 2, UPSERT), read(3, None)], NEW)) == ["stale read"]
    assert not kinds(judged([call(1, 2, UPSERT), read(1.5, OLD)], NEW))


def test_acknowledged_update_of_a_point_that_cannot_have_been_there_is_noticed() -> None:
    """A partial update by id is acknowledged only if it found its point."""
    mark = Effect("set", (POINT,), token=9, fields=("k1",))
    assert kinds(judged([call(1, 2, DELETE), call(3, 4, mark)], None)) == ["migration error"]
    # It overlaps the delete, so it came first; then the point cannot be left behind.
    assert not kinds(judged([call(1, 4, DELETE), call(3, 5, mark, lane="app1-0.0")], None))
    assert kinds(judged([call(1, 4, DELETE), call(3, 5, mark, lane="app1-0.0")], OLD)) == ["resurrected"]


def test_scroll_that_misses_a_point_is_noticed() -> None:
    """A point that was in the group throughout must come back."""
    scroll = {"method": "scroll", "group": NEW.group, "limit": 100}
    assert kinds(judged([call(1, 2, UPSERT), call(3, 4, answer={}, **scroll)], NEW)) == ["stale read"]
    assert not kinds(judged([call(1, 2, UPSERT), call(3, 4, answer={POINT: NEW}, **scroll)], NEW))
    assert not kinds(judged([call(1, 5, UPSERT), call(3, 4, answer={}, **scroll)], NEW, before=None))


@pytest.mark.parametrize(("answer", "expected"), [(0, ["stale read"]), (1, []), (2, ["stale read"])])
def test_wrong_count_is_noticed(answer: int, expected: list[str]) -> None:
    """A count lies between those that were certainly in the group and those that may have been."""
    count = call(3, 4, method="count", group=NEW.group, answer=answer)
    assert kinds(judged([call(1, 2, UPSERT), count], NEW)) == expected


def test_no_such_point_is_believed_only_if_it_was_absent() -> None:
    """A 404 for a point that was there throughout is the migration's error."""
    mark = Effect("set", (POINT,), token=9, fields=("k1",))
    refused = call(1, 2, mark, outcome=MISSING, error="No point with id 3")
    assert kinds(judged([refused], OLD)) == ["migration error"]
    assert not kinds(judged([refused], None, before=None))


def test_error_is_the_servers_only_while_a_fault_is_felt() -> None:
    """A network error needs a fault on the call's own path; a refusal is never excused."""
    paths = Paths({"app0-0": frozenset({"server"})}, [Window("server", SECOND_NS, 3 * SECOND_NS)])
    failed = call(2, 4, UPSERT, outcome=UNKNOWN, error="ResponseHandlingException [ReadError]")
    verdict = judged([failed], NEW, paths=paths)
    assert (kinds(verdict), verdict.server_errors) == ([], 1)
    assert kinds(judged([failed], NEW)) == ["migration error"]
    elsewhere = Paths({"app0-0": frozenset({"server"})}, [Window("link", SECOND_NS, 3 * SECOND_NS)])
    assert kinds(judged([failed], NEW, paths=elsewhere)) == ["migration error"]
    refused = call(2, 4, UPSERT, outcome=REJECTED, error="NotAllowed: refused")
    assert kinds(judged([refused], NEW, paths=paths)) == ["migration error"]


def test_figures_count_points_and_reads() -> None:
    """A batch counts its points, a failed call nothing."""
    batch = Effect("upsert", (1, 2, POINT), token=TOKEN - 2)
    failed = call(5, 6, DELETE, outcome=REJECTED, error="No")
    verdict = judged([call(1, 2, batch), read(3, NEW), failed], NEW)
    assert (verdict.acknowledged, verdict.reads) == (3, 1)


def test_log_survives_a_kill_in_the_middle_of_a_line(tmp_path: Path) -> None:
    """A call without an end line, and half a line behind it, are read as a call that never ended."""
    path = tmp_path / "app0-0.0.calls"
    log = CallLog(path)
    number = log.begin("upsert", [UPSERT], {})
    log.end(number, OK)
    number = log.begin("retrieve", [], {"ids": (POINT,)})
    log.end(number, OK, {POINT: tuple(NEW)})
    log.begin("delete", [DELETE], {})
    log.close()
    with path.open("ab") as file:
        file.write(b'{"n":3,"e":12')
    upsert, retrieve, delete = read_calls(path)
    assert (upsert.outcome, upsert.effects, upsert.lane) == (OK, (UPSERT,), "app0-0.0")
    assert (retrieve.answer, retrieve.ids) == ({POINT: NEW}, (POINT,))
    assert (delete.outcome, delete.end) == (UNKNOWN, None)


def test_case_can_be_judged_again(tmp_path: Path) -> None:
    """A case in a file says the same as the case itself."""
    log = CallLog(tmp_path / "app0-0.0.calls")
    log.end(log.begin("delete", [DELETE], {}), OK)
    log.close()
    population = Population(POINT + 1, 1)
    case = Case(population, {}, [("server", 1, 2)], {}, ["crashed"], {POINT: NEW})
    case.save(tmp_path)
    again = Case.load(tmp_path)
    assert [finding.kind for finding in again.verdict(tmp_path).findings] == [
        finding.kind for finding in case.verdict(tmp_path).findings
    ]
    assert "migration error" in [finding.kind for finding in again.verdict(tmp_path).findings]


def test_mixed_vector_is_no_state() -> None:
    """A vector made of two writes equals no allowed state."""
    mixed = [*vector(17, DIMENSIONS["a"])[:8], *vector(18, DIMENSIONS["a"])[8:]]
    found = state_of({"a": mixed}, {})
    assert found != State(17, None, None, None, None, None)
    assert isinstance(found.a, str)
