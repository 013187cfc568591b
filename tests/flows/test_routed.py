"""Tests of a call's way from its admission to its answer."""

from typing import Any

import httpx
import pytest
from playing import MIGRATION, Play, session
from qdrant_client.http.exceptions import ResponseHandlingException

from qferry.errors import Conflict, LeaseLost, NotAllowed, Refused, Rejected, Unreachable
from qferry.flows.effects import Call, Outcome, Request
from qferry.flows.routed import LOOK_AGAIN_S, REPEATS_MAX, guarded, leave, on_truth, one_sided, read, routed
from qferry.protocol.phases import Phase
from qferry.protocol.records import Migration
from qferry.protocol.session import Session


def phase(value: Phase, **changes: Any) -> Migration:
    """Return the migration in a phase."""
    return MIGRATION.with_changes({"phase": value, "epoch": 2, **changes})


SHARED = phase(Phase.SWITCHED, read_percent=100)


def answered(effect: Request | Call) -> Any:
    """Answer a call with the collection it went to, and a look at the record with one that is switched."""
    return effect.collection if isinstance(effect, Call) else told(SHARED)


def told(record: Migration) -> Any:
    """Return the answer to a look at a record."""
    return {"points": [{"payload": record.to_payload()}], "next_page_offset": None}


def failing_target(effect: Request | Call) -> Any:
    """Answer from the source alone."""
    return RuntimeError("no") if answered(effect) == "b" else answered(effect)


@pytest.mark.parametrize(
    ("value", "percent", "side"),
    [
        (Phase.STARTING, 0, "a"),
        (Phase.COPIED, 0, "a"),
        (Phase.SWITCHED, 50, "a"),
        (Phase.SWITCHED, 51, "b"),
        (Phase.SWITCHED, 100, "b"),
        (Phase.FINISHING, 100, "b"),
        (Phase.FINISHED, 100, "b"),
        (Phase.CLEANED, 100, "b"),
        (Phase.ABORTING, 0, "a"),
    ],
)
@pytest.mark.parametrize("name", ["a", "b"])
def test_read_goes_to_the_side_of_its_moment(value: Phase, percent: int, side: str, name: str) -> None:
    """Whatever name it was made with; the dice show 50."""
    play, found = Play(answered), session(phase(value, read_percent=percent))
    assert play.run(read(found, "count", name, {})) == side


def test_read_of_another_collection_is_left_alone() -> None:
    """It goes where it says."""
    assert Play(answered).run(read(session(), "count", "c", {})) == "c"


def test_read_falls_back_to_the_source_while_it_is_truth() -> None:
    """Whatever ails the target."""
    play = Play(failing_target)
    assert play.run(read(session(SHARED), "count", "a", {})) == "a"


def test_read_does_not_fall_back_to_a_source_that_is_no_longer_truth() -> None:
    """An old answer is worse than an error."""
    play = Play(lambda effect: RuntimeError("no") if answered(effect) == "b" else "from a")
    with pytest.raises(RuntimeError, match="no"):
        play.run(read(session(phase(Phase.FINISHED)), "count", "a", {}))


def lapsing(found: Session, *, to: Migration | None) -> Play:
    """Let the lease run out during the first call, and the renewal after it bring `to`."""

    def answer(effect: Request | Call) -> str:
        if len(play.sent) == 1:
            found.lease_until = 0.0
        return answered(effect)

    def fresh() -> None:
        if to is not None:
            found.adopt([to], sent_at=play.now, now=play.now)
        else:
            found.lease_until = 1000.0

    play = Play(answer, fresh)
    return play


def test_call_that_outlived_its_lease_is_repeated_when_the_routing_has_changed() -> None:
    """A process may be stopped for an hour between its check and its send."""
    found = session(phase(Phase.SWITCHED, read_percent=0))
    play = lapsing(found, to=phase(Phase.FINISHED, epoch=3))
    assert play.run(read(found, "count", "a", {})) == "b"
    assert play.told == ["count a", "count b"]
    assert found.view.active == 0


def test_call_that_outlived_its_lease_counts_when_one_side_is_written_and_the_routing_is_the_same() -> None:
    """A new epoch alone does not make an answer wrong."""
    found = session(phase(Phase.FINISHED))
    play = lapsing(found, to=phase(Phase.FINISHED, epoch=3))
    assert play.run(read(found, "count", "a", {})) == "b"
    assert play.told == ["count b"]


def test_dual_call_that_outlived_its_lease_is_repeated_on_the_same_routing() -> None:
    """
    The coordinator has given the process up, and may have repaired between its write to one side and to the other.

    A delete reaches the target, the process is stopped, the coordinator finds the point on the source alone and brings
    it back, the delete reaches the source: acknowledged, and readers of the target still see the point.
    """
    found = session(phase(Phase.SWITCHED))
    play = lapsing(found, to=phase(Phase.SWITCHED, epoch=3))
    play.run(routed(found, "a", lambda view, _: one_sided(view, Call("", "delete", "a", (), {}))))
    assert play.told == ["delete a", "delete a"]


def test_write_of_unknown_fate_that_outlived_its_lease_is_not_repeated() -> None:
    """
    The first request may land after the second, and undo what others wrote in between.

    Told of success, or that the point is missing, the caller would not expect that; told of the lost answer, it does.
    """
    found = session(phase(Phase.COPIED))

    def answer(_: Request | Call) -> Exception:
        found.lease_until = 0.0
        return ResponseHandlingException(httpx.ReadTimeout("late"))

    play = Play(answer, lambda: found.adopt([phase(Phase.ABORTING, epoch=3)], sent_at=play.now, now=play.now))
    with pytest.raises(ResponseHandlingException):
        play.run(routed(found, "a", lambda view, _: one_sided(view, Call("", "delete", "a", (), {}))))
    assert len(play.sent) == 1


def test_call_that_outlives_every_lease_is_not_repeated_for_ever() -> None:
    """Heartbeats that take longer than a lease: each repeat would add to the load that makes them slow."""
    found = session(phase(Phase.SWITCHED))

    def answer(_: Request | Call) -> None:
        found.lease_until = 0.0

    play = Play(answer, lambda: found.adopt([phase(Phase.SWITCHED)], sent_at=play.now, now=play.now))
    with pytest.raises(LeaseLost, match="took longer than its lease"):
        play.run(routed(found, "a", lambda view, _: one_sided(view, Call("", "delete", "a", (), {}))))
    assert len(play.sent) == 1 + REPEATS_MAX


def test_error_of_a_call_that_outlived_its_lease_is_not_believed() -> None:
    """Its collection may be gone because the migration went on without it."""
    found = session(phase(Phase.SWITCHED, read_percent=0))
    play = lapsing(found, to=phase(Phase.CLEANED, epoch=3))
    answer = play.answer
    play.answer = lambda effect: (
        answer(effect) if answered(effect) == "b" else (answer(effect), RuntimeError("gone"))[1]
    )
    assert play.run(read(found, "count", "a", {})) == "b"


def test_lease_that_cannot_be_renewed_is_lost() -> None:
    """Nothing is sent, and the hint says what to do."""

    def fail() -> None:
        raise Unreachable("no answer")

    found = session()
    found.lease_until = 0.0
    play = Play(answered, fail)
    with pytest.raises(LeaseLost) as lost:
        play.run(read(found, "count", "a", {}))
    assert lost.value.hint == "Retry when the server answers again."
    assert isinstance(lost.value.__cause__, Unreachable)
    assert play.sent == []


@pytest.mark.parametrize("value", [p for p in Phase if p not in (Phase.PREPARING, Phase.ABORTED, Phase.CLEANED)])
@pytest.mark.parametrize("name", ["a", "b"])
def test_guarded_call_is_refused_in_every_live_phase(value: Phase, name: str) -> None:
    """A finished migration, too, still has its source in hand."""
    play, found = Play(answered), session(phase(value))
    with pytest.raises(NotAllowed, match=f"`delete_collection` is refused: `{name}` belongs") as refused:
        play.run(guarded(found, "delete_collection", name, {}))
    assert value.value in refused.value.message
    assert play.sent == []


def test_guarded_call_is_allowed_where_nothing_lives() -> None:
    """On other collections, and on those of migrations that are over."""
    for migration, name, where in ((MIGRATION, "c", "c"), (phase(Phase.ABORTED), "a", "a"), (None, "a", "a")):
        assert Play(answered).run(guarded(session(migration), "delete_collection", name, {})) == where


@pytest.mark.parametrize(("value", "side"), [(Phase.COPIED, "a"), (Phase.SWITCHED, "a"), (Phase.FINISHED, "b")])
def test_call_that_concerns_the_collection_itself_goes_to_the_truth(value: Phase, side: str) -> None:
    """A snapshot is of the side that holds everything, whatever the read share."""
    found = session(phase(value, read_percent=100))
    assert Play(answered).run(on_truth(found, "create_snapshot", "b", {})) == side


def test_read_that_the_source_answers_in_the_targets_place_is_an_error_of_the_target() -> None:
    """Its caller does not notice, but the client does."""
    play, found = Play(failing_target), session(SHARED)
    assert play.run(read(found, "count", "a", {})) == "a"
    watch = found.watches[SHARED.id]
    assert (list(watch.ended), watch.under_way) == ([(1.0, 0.0, True)], {})


def test_read_that_has_failed_without_a_flow_counts_once_the_source_has_answered() -> None:
    """It comes here for a second time."""
    play, found = Play(answered), session(SHARED)
    assert play.run(read(found, "count", "a", {}, from_source=0.5)) == "a"
    assert [failed for _, _, failed in found.watches[SHARED.id].ended] == [True]


def test_read_that_fails_on_both_sides_is_the_callers_mistake() -> None:
    """Nobody is sent back for a query that no collection could answer."""
    play, found = Play(lambda _: RuntimeError("no such vector")), session(SHARED)
    with pytest.raises(RuntimeError):
        play.run(read(found, "count", "a", {}))
    assert (list(found.watches[SHARED.id].ended), found.watches[SHARED.id].under_way) == ([], {})


def test_read_that_the_target_answers_is_timed() -> None:
    """From its sending to its answer."""
    found = session(SHARED)

    def slow(effect: Request | Call) -> str:
        assert list(found.watches[SHARED.id].under_way.values()) == [1.0]
        play.now += 0.3
        return answered(effect)

    play = Play(slow)
    assert play.run(read(found, "count", "a", {})) == "b"
    assert [(round(seconds, 3), failed) for _, seconds, failed in found.watches[SHARED.id].ended] == [(0.3, False)]


@pytest.mark.parametrize("value", [Phase.COPIED, Phase.FINISHING, Phase.FINISHED])
def test_read_on_the_side_that_is_truth_is_not_watched(value: Phase) -> None:
    """There is nothing to step back to."""
    found = session(phase(value, read_percent=100 if value is not Phase.COPIED else 0))
    Play(answered).run(read(found, "count", "a", {}))
    assert found.watches == {}


@pytest.mark.parametrize("from_source", [None, 0.5])
def test_read_in_the_targets_place_is_repeated_if_the_source_was_not_truth_any_more(from_source: float | None) -> None:
    """Others, who have heard of that before, may have been told of writes that the source has missed."""
    sealed = phase(Phase.FINISHING, epoch=3, read_percent=100)

    def answer(effect: Request | Call) -> Any:
        if isinstance(effect, Request):
            return told(sealed)
        first = len(play.sent) == 1
        return RuntimeError("no") if first and effect.collection == "b" else effect.collection

    found = session(SHARED)
    play = Play(answer, lambda: found.adopt([sealed], sent_at=play.now, now=play.now))
    assert play.run(read(found, "count", "a", {}, from_source=from_source)) == "b"
    assert play.told == [*([] if from_source else ["count b"]), "count a", "scroll", "count b"]
    assert found.view.active == 0


@pytest.mark.parametrize("from_source", [None, 0.5])
@pytest.mark.parametrize(
    "error", [Unreachable("late"), Rejected("busy", status=429), Rejected("ill", status=503)], ids=str
)
def test_look_at_the_record_that_fails_is_taken_again(error: Exception, from_source: float | None) -> None:
    """The caller is not to suffer from a look that it has not asked for."""

    def answer(effect: Request | Call) -> Any:
        if isinstance(effect, Request) and play.told.count("scroll") < 3:
            return error
        return failing_target(effect)

    play = Play(answer)
    assert play.run(read(session(SHARED), "count", "a", {}, from_source=from_source)) == "a"
    assert play.slept == [LOOK_AGAIN_S] * 2


@pytest.mark.parametrize(
    ("error", "looks"),
    [(Unreachable("late"), 11), (Rejected("no", status=403), 1), (Refused("format 2"), 1), (Conflict("gone"), 1)],
    ids=str,
)
def test_answer_of_the_source_that_nobody_can_vouch_for_is_no_answer(error: Exception, looks: int) -> None:
    """The target may have become the truth; of that the caller hears an error that is safe to repeat."""
    found = session(SHARED)
    found.lease_until = 3.1  # it is 1 now
    play = Play(lambda effect: error if isinstance(effect, Request) else failing_target(effect))
    with pytest.raises(LeaseLost, match="the source has answered; but the migration's record cannot be read") as lost:
        play.run(read(found, "count", "a", {}))
    assert (lost.value.__cause__, lost.value.hint) == (error, "Repeat the read.")
    assert play.told.count("scroll") == looks
    assert found.view.active == 0


@pytest.mark.parametrize(
    ("error", "heard"),
    [
        (KeyboardInterrupt(), False),
        (ResponseHandlingException(httpx.ReadTimeout("late")), False),
        (Rejected("no such vector", status=400), True),
    ],
    ids=["given up", "late", "refused"],
)
@pytest.mark.parametrize("quietly", [False, True])
def test_read_that_ends_without_a_word_of_the_target_has_waited_in_vain(
    error: BaseException, heard: bool, quietly: bool
) -> None:
    """Whoever has ended it, and whether it needed a flow."""
    found = session(SHARED)

    def answer(_: Request | Call) -> Any:
        play.now += 1.0
        return error

    play = Play(answer)
    if quietly:
        quiet = found.enter_quiet(1.0, "a", write=False)
        assert quiet is not None
        interrupted = not isinstance(error, Exception)
        leave(quiet, Outcome(error=None if interrupted else error, interrupted=interrupted), 2.0, write=False)
    else:
        with pytest.raises(type(error)):
            play.run(read(found, "count", "a", {}))
    watch = found.watches[SHARED.id]
    assert (watch.silent_s, list(watch.given_up)) == ((0.0, []) if heard else (1.0, [(2.0, 1.0)]))
    assert (watch.under_way, list(watch.ended)) == ({}, [])


def test_read_that_nobody_waits_for_any_more_is_not_watched_any_more() -> None:
    """Its flow is closed, and cannot ask for the time."""
    found = session(SHARED)
    flow = read(found, "count", "a", {})
    effect = next(flow)
    while not isinstance(effect, Call):
        effect = flow.send(Play()._perform(effect))
    flow.close()
    assert found.watches[SHARED.id].under_way == {}


@pytest.mark.parametrize("from_source", [None, 1.0])
def test_failure_of_a_read_that_began_before_a_step_back_counts_no_more(from_source: float | None) -> None:
    """Its time-out is long; the target has been mended since, and readers were sent there anew."""
    found = session(SHARED)

    def answer(effect: Request | Call) -> Any:
        if play.told in (["count b"], ["count a"]):
            play.now = 60.0
            for record in (SHARED.with_changes({"stepped_back": "slow"}), SHARED.with_changes({"epoch": 3})):
                found.adopt([record], sent_at=995.0, now=play.now - 1)
        return failing_target(effect)

    play = Play(answer)
    assert play.run(read(found, "count", "a", {}, from_source=from_source)) == "a"
    assert not found.watches[SHARED.id].ended
