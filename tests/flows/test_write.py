"""Tests of writes against servers that answer as they like: who is told what, and what stays in the journal."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from playing import MIGRATION, Play, session
from qdrant_client import models
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from qferry.errors import LeaseLost, TargetWriteFailed, Unreachable
from qferry.flows.effects import Call, Request
from qferry.flows.write import RESOLVE_POINTS, configure, upload, write
from qferry.protocol.phases import Phase
from qferry.protocol.records import Migration, Pins, WritePolicy
from qferry.protocol.session import Session

POINT = models.PointStruct(id=1, vector=[1.0])
UPSERT = {"points": [POINT]}
FILTER = models.Filter(must=[models.FieldCondition(key="g", match=models.MatchValue(value=1))])
REFUSED = UnexpectedResponse(400, "", b'{"status":{"error":"Wrong input"}}', httpx.Headers())
MISSING = UnexpectedResponse(404, "", b'{"status":{"error":"No point with id 1 found"}}', httpx.Headers())
SILENT = ResponseHandlingException(httpx.ReadTimeout("late"))


def results(status: models.UpdateStatus = models.UpdateStatus.COMPLETED, count: int = 1) -> list[models.UpdateResult]:
    """Return a server's answer to a batch."""
    return [models.UpdateResult(operation_id=n, status=status) for n in range(count)]


def sides(source: Any = None, target: Any = None) -> Callable[[Request | Call], Any]:
    """Answer batches on either side, with success where nothing is given; the journal takes everything."""

    def answer(effect: Request | Call) -> Any:
        if isinstance(effect, Request):
            return {"points": [], "next_page_offset": None}
        given = source if effect.collection == "a" else target
        if given is None:
            return results(count=len(effect.kwargs["update_operations"]))
        return given(effect) if callable(given) else given

    return answer


def phase(value: Phase, **changes: Any) -> Migration:
    """Return the migration in a phase."""
    return MIGRATION.with_changes({"phase": value, **changes})


def held(found: Session) -> set[Any]:
    """Return the ids that the next flush would make durable."""
    return set(found.journal(MIGRATION).start_flush().ids)


def test_dual_write_sends_the_same_to_both_and_waits() -> None:
    """One batch each, `wait=True` whatever the caller said."""
    play, found = Play(sides()), session()
    result = play.run(write(found, "upsert", "a", {**UPSERT, "wait": False, "timeout": 7}))
    assert play.told == ["batch_update_points a", "batch_update_points b"]
    assert found.record(0).failed == {}
    first, second = (effect.kwargs for effect in play.sent if isinstance(effect, Call))
    assert first == second
    assert first["wait"] is True
    assert first["timeout"] == 7
    assert result.status is models.UpdateStatus.COMPLETED
    assert held(found) == {1}
    assert found.view.active == 0


def test_ids_are_in_the_journal_while_the_write_is_under_way() -> None:
    """A heartbeat in the middle of the write makes them durable."""
    found = session()
    seen: list[set[Any]] = []
    play = Play(sides(source=lambda _: seen.append(held(found)) or results()))
    play.run(write(found, "upsert", "a", UPSERT))
    assert seen == [{1}]


def test_write_that_the_source_refuses_raises_its_error_and_stays_in_the_journal() -> None:
    """The target may have taken what the source did not."""
    play, found = Play(sides(source=REFUSED)), session()
    with pytest.raises(UnexpectedResponse) as raised:
        play.run(write(found, "upsert", "a", UPSERT))
    assert raised.value is REFUSED
    assert held(found) == {1}
    assert found.view.doubts == []


@pytest.mark.parametrize("failure", [REFUSED, SILENT], ids=["refused", "silent"])
def test_write_that_the_target_misses_fails_under_policy_both(failure: Exception) -> None:
    """The error says which side holds what."""
    play, found = Play(sides(target=failure)), session()
    with pytest.raises(TargetWriteFailed) as raised:
        play.run(write(found, "upsert", "a", UPSERT))
    assert raised.value.__cause__ is failure
    assert raised.value.point_ids == [1]
    assert held(found) == {1}
    assert found.record(0).failed == {MIGRATION.id: 1}


def test_write_that_the_target_misses_succeeds_under_policy_source_first_once_it_is_durable() -> None:
    """The ids are flushed before the caller hears of success."""
    play, found = Play(sides(target=REFUSED)), session(phase(Phase.COPIED, policy=WritePolicy.SOURCE_FIRST))
    play.run(write(found, "upsert", "a", UPSERT))
    assert play.told[-1] == "upsert"
    journal = play.sent[-1]
    assert isinstance(journal, Request)
    assert [p["id"] for p in journal.body["points"]] == [1]
    assert found.record(0).failed == {MIGRATION.id: 1}


def test_write_that_cannot_be_made_durable_fails_under_policy_source_first() -> None:
    """Success must not rest on this process's memory."""

    def answer(effect: Request | Call) -> Any:
        return Unreachable("no") if isinstance(effect, Request) else sides(target=REFUSED)(effect)

    play, found = Play(answer), session(phase(Phase.COPIED, policy=WritePolicy.SOURCE_FIRST))
    with pytest.raises(Unreachable):
        play.run(write(found, "upsert", "a", UPSERT))


def test_policy_source_first_ends_when_readers_see_the_target() -> None:
    """A write that readers might miss is not a success."""
    migration = phase(Phase.SWITCHED, policy=WritePolicy.SOURCE_FIRST, read_percent=1)
    play, found = Play(sides(target=REFUSED)), session(migration)
    with pytest.raises(TargetWriteFailed):
        play.run(write(found, "upsert", "a", UPSERT))


@pytest.mark.parametrize("side", ["source", "target"])
def test_write_without_an_answer_is_in_doubt(side: str) -> None:
    """It may yet be carried out, so its ids stay, and no epoch is acknowledged over it."""
    play, found = Play(sides(**{side: SILENT})), session()
    with pytest.raises((ResponseHandlingException, TargetWriteFailed)):
        play.run(write(found, "upsert", "a", UPSERT))
    journal = found.journal(MIGRATION)
    journal.flushed(journal.start_flush())
    assert journal.debt == 1
    assert len(found.unanswered()) == 1


def test_write_that_is_only_accepted_is_in_doubt_and_reported_as_such() -> None:
    """Newer servers answer `wait_timeout` instead of an error; the caller must not take it for done."""
    accepted = results(models.UpdateStatus.ACKNOWLEDGED)
    play, found = Play(sides(target=accepted)), session()
    result = play.run(write(found, "upsert", "a", UPSERT))
    assert result.status is models.UpdateStatus.ACKNOWLEDGED
    assert len(found.unanswered()) == 1


def test_partial_update_that_only_the_target_misses_is_sent_again_in_a_tolerant_form() -> None:
    """What the target lacks is never the caller's problem."""
    attempts: list[Call] = []

    def target(effect: Call) -> Any:
        attempts.append(effect)
        return MISSING if len(attempts) == 1 else results()

    play, found = Play(sides(target=target)), session()
    result = play.run(write(found, "set_payload", "a", {"payload": {"a": 1}, "points": [1]}))
    assert result.status is models.UpdateStatus.COMPLETED
    (operation,) = attempts[1].kwargs["update_operations"]
    assert operation.set_payload.points is None
    assert operation.set_payload.filter == models.Filter(must=[models.HasIdCondition(has_id=[1])])
    assert held(found) == {1}


def test_partial_update_that_the_source_misses_raises_the_source_s_error() -> None:
    """The caller is told exactly what it is told without qferry."""
    play, found = Play(sides(source=MISSING, target=MISSING)), session()
    with pytest.raises(UnexpectedResponse) as raised:
        play.run(write(found, "set_payload", "a", {"payload": {"a": 1}, "points": [1]}))
    assert raised.value is MISSING
    assert len(play.sent) == 2


def test_filter_is_resolved_and_sent_to_both_with_its_ids() -> None:
    """Both sides then touch the same set, in chunks of bounded size."""
    ids = list(range(RESOLVE_POINTS + 5))

    def answer(effect: Request | Call) -> Any:
        if isinstance(effect, Request) and effect.op == "scroll":
            start = effect.body.get("offset", 0)
            page = ids[start : start + effect.body["limit"]]
            end = start + len(page)
            return {"points": [{"id": i} for i in page], "next_page_offset": end if end < len(ids) else None}
        return sides()(effect)

    play, found = Play(answer), session()
    play.run(write(found, "delete", "b", {"points_selector": FILTER}))
    batches = [effect for effect in play.sent if isinstance(effect, Call)]
    assert [b.collection for b in batches] == ["a", "b", "a", "b"]
    sent = [b.kwargs["update_operations"][0].delete.filter.must for b in batches]
    assert all(conditions[0] == FILTER for conditions in sent)
    assert [len(conditions[1].has_id) for conditions in sent] == [RESOLVE_POINTS, RESOLVE_POINTS, 5, 5]
    assert held(found) == set(ids)


def on_side(name: str, found: list[int] | Exception) -> Callable[[Request | Call], Any]:
    """Answer a filter's scroll on one side with ids or an error; the other side matches nothing."""

    def answer(effect: Request | Call) -> Any:
        if not isinstance(effect, Request) or f"/{name}/" not in effect.path:
            return sides()(effect)
        if isinstance(found, Exception):
            return found
        return {"points": [{"id": i} for i in found], "next_page_offset": None}

    return answer


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("value", [Phase.SWITCHED, Phase.FINISHING])
def test_point_that_overlapping_writes_left_different_does_not_escape_a_filter(name: str, value: Phase) -> None:
    """
    Two processes upsert point 1 at once, with g=1 and g=2, and each side keeps another one as the last.

    `delete where g=1` then has to reach the side that shows g=1, whichever it is: after the last repair nobody would
    look at the point again.
    """
    play, found = Play(on_side(name, [1])), session(phase(value))
    play.run(write(found, "delete", "a", {"points_selector": FILTER}))
    batches = [effect for effect in play.sent if isinstance(effect, Call)]
    assert {b.collection for b in batches} == {"a", "b"}
    assert all(b.kwargs["update_operations"][0].delete.filter.must[1].has_id == [1] for b in batches)
    assert held(found) == {1}


def test_filter_that_the_target_cannot_answer_is_not_written_where_both_must_have_it() -> None:
    """Nothing is sent; under `source_first`, before readers see the target, a sick target stops nobody."""
    sick = on_side("b", Unreachable("no answer"))
    play, found = Play(sick), session()
    with pytest.raises(TargetWriteFailed, match="Nothing was written"):
        play.run(write(found, "delete", "a", {"points_selector": FILTER}))
    assert play.told == ["scroll", "scroll"]
    play, found = Play(sick), session(MIGRATION.with_changes({"policy": WritePolicy.SOURCE_FIRST}))
    play.run(write(found, "delete", "a", {"points_selector": FILTER}))
    assert play.told[2:] == ["batch_update_points a", "batch_update_points b"]


@pytest.mark.parametrize("value", [Phase.STARTING, Phase.FINISHING])
def test_filter_while_others_write_to_one_side_waits_for_what_was_only_acknowledged(value: Phase) -> None:
    """A barrier lets their writes with `wait=false` land before the filter looks."""
    play, found = Play(sides()), session(phase(value))
    play.run(write(found, "delete", "a", {"points_selector": FILTER}))
    assert play.told[:2] == ["delete", "scroll"]
    play, found = Play(sides()), session()
    play.run(write(found, "delete", "a", {"points_selector": FILTER}))
    assert play.told[0] == "scroll"


def test_pinned_process_writes_to_the_source_alone_and_keeps_a_journal() -> None:
    """ENABLE_DUAL_WRITE=false."""
    play, found = Play(sides()), session(pins=Pins(dual_write=False))
    play.run(write(found, "upsert", "b", UPSERT))
    assert play.told == ["batch_update_points a"]
    assert held(found) == {1}


def test_one_sided_write_is_the_caller_s_own_call() -> None:
    """Without a migration, and after one, nothing about the call is changed."""
    for migration, name in ((None, "a"), (phase(Phase.FINISHED), "b"), (phase(Phase.ABORTED), "a")):
        play, found = Play(), session(migration)
        play.run(write(found, "upsert", "a", {**UPSERT, "wait": False}))
        (call,) = play.sent
        assert call == Call("", "upsert", name, (), {**UPSERT, "wait": False})
        assert found.journals == {}


@pytest.mark.parametrize("method", ["upsert", "upload_points"])
def test_write_that_leaves_dual_writes_is_waited_for(method: str) -> None:
    """Others may still be dual: their filters must meet what this one has been told is written."""
    play, found = Play(), session(phase(Phase.ABORTING))
    if method == "upsert":
        play.run(write(found, method, "a", {**UPSERT, "wait": False}))
    else:
        play.run(upload(found, "a", [POINT], {"wait": False}))
    (call,) = play.sent
    assert isinstance(call, Call)
    assert call.kwargs["wait"] is True


@pytest.mark.parametrize("value", [Phase.COPIED, Phase.SWITCHED])
def test_refusal_is_no_verdict_while_readers_see_a_target_that_may_still_carry_it_out(value: Phase) -> None:
    """The source refuses, the target's answer is lost: told "not found", the caller would see the write later."""
    play, found = Play(sides(source=MISSING, target=SILENT)), session(phase(value))
    with pytest.raises(UnexpectedResponse if value is Phase.COPIED else TargetWriteFailed) as raised:
        play.run(write(found, "set_payload", "a", {"payload": {}, "points": [1]}))
    # What is unknown is why it failed: nobody may take the source's word for the whole, nor repeat it (`routed`).
    assert raised.value.__cause__ is (None if value is Phase.COPIED else SILENT)
    assert held(found) == {1}


def test_one_sided_write_without_an_answer_keeps_its_epoch_unacknowledged() -> None:
    """It is in no journal, so the coordinator must wait until it can no longer land."""
    play, found = Play(lambda _: SILENT), session(None)
    with pytest.raises(ResponseHandlingException):
        play.run(write(found, "upsert", "a", UPSERT))
    assert len(found.unanswered()) == 1


def test_after_the_point_of_no_return_the_target_is_asked_first() -> None:
    """Its answer is the caller's; the source only follows."""
    play, found = Play(sides(target=MISSING)), session(phase(Phase.FINISHING))
    with pytest.raises(UnexpectedResponse) as raised:
        play.run(write(found, "set_payload", "a", {"payload": {}, "points": [1]}))
    assert raised.value is MISSING
    assert play.told[0] == "batch_update_points b"


def test_batch_returns_one_result_per_operation() -> None:
    """Filters stand alone, ids go together; the results are in the caller's order."""
    operations = [
        models.UpsertOperation(upsert=models.PointsList(points=[POINT])),
        models.DeleteOperation(delete=models.PointIdsList(points=[2])),
        models.DeleteOperation(delete=models.FilterSelector(filter=FILTER)),
        models.DeleteOperation(delete=models.PointIdsList(points=[3])),
    ]
    play, found = Play(sides()), session()
    told = play.run(write(found, "batch_update_points", "a", {"update_operations": operations}))
    assert len(told) == 4
    batches = [len(e.kwargs["update_operations"]) for e in play.sent if isinstance(e, Call) and e.collection == "a"]
    assert batches == [2, 1, 1]


def test_batch_that_outlived_its_lease_is_repeated_on_what_its_filters_matched_the_first_time() -> None:
    """`delete where g=1`, then `set g=1 where g=2`: the second time the delete must not meet what the batch has set."""
    matched = {1: [10], 2: [20]}

    def answer(effect: Request | Call) -> Any:
        if isinstance(effect, Request):
            conditions = effect.body["filter"]["must"]
            wanted = (conditions[0]["must"][0] if "must" in conditions[0] else conditions[0])["match"]["value"]
            return {"points": [{"id": i} for i in matched[wanted]], "next_page_offset": None}
        if effect.collection == "b" and play.told.count("batch_update_points b") == 2:
            matched.update({1: [20], 2: []})
            found.lease_until = 0.0
        return sides()(effect)

    def fresh() -> None:
        found.adopt([MIGRATION], sent_at=play.now, now=play.now)

    by_two = models.Filter(must=[models.FieldCondition(key="g", match=models.MatchValue(value=2))])
    operations = [
        models.DeleteOperation(delete=models.FilterSelector(filter=FILTER)),
        models.SetPayloadOperation(set_payload=models.SetPayload(payload={"g": 1}, filter=by_two)),
    ]
    found = session()
    play = Play(answer, fresh)
    play.run(write(found, "batch_update_points", "a", {"update_operations": operations}))
    scrolls = [e.body["filter"]["must"] for e in play.sent if isinstance(e, Request)]
    assert [[c.get("has_id") for c in must[1:]] for must in scrolls] == [[]] * 4 + [[[10]]] * 2 + [[[20]]] * 2


@pytest.mark.parametrize("call", [("upsert", {"points": []}), ("batch_update_points", {"update_operations": []})])
def test_call_that_writes_nothing_makes_nothing_suspect(call: tuple[str, dict[str, Any]]) -> None:
    """A call without points or operations touches no point, whatever the server says to it."""
    play, found = Play(lambda effect: results(count=len(effect.kwargs.get("update_operations", [])))), session()
    play.run(write(found, call[0], "a", call[1]))
    assert not found.suspects
    assert held(found) == set()


def test_write_with_an_expired_lease_is_not_sent_when_it_cannot_be_renewed() -> None:
    """Never on old routing."""

    def fail() -> None:
        raise Unreachable("no answer", hint="Check the server.")

    play, found = Play(sides(), fresh=fail), session()
    found.lease_until = 0.0
    with pytest.raises(LeaseLost, match="nothing may be sent: no answer") as lost:
        play.run(write(found, "upsert", "a", UPSERT))
    assert lost.value.hint == "Check the server."
    assert play.sent == []
    assert found.view.active == 0


def test_configuration_that_fails_on_both_sides_raises_the_source_s_error() -> None:
    """The caller's own mistake, told as it is without qferry."""
    play, found = Play(lambda effect: REFUSED if getattr(effect, "collection", "") == "a" else MISSING), session()
    with pytest.raises(UnexpectedResponse) as raised:
        play.run(configure(found, "create_payload_index", "a", {"field_name": "n"}))
    assert raised.value is REFUSED


def test_configuration_is_sent_to_both_sides_at_once() -> None:
    """The source's answer is the caller's."""
    play, found = Play(lambda effect: getattr(effect, "collection", "")), session()
    assert play.run(configure(found, "create_payload_index", "b", {"field_name": "n"})) == "a"
    assert play.told == ["create_payload_index a", "create_payload_index b"]


def test_batch_that_is_repeated_meets_again_what_it_has_written_anew() -> None:
    """
    Upsert 1 with g=1, then `delete where g=1`; somebody deletes 1 in between, so the filter matches nothing at first.

    Carried out again, the upsert brings 1 back, and the delete must meet it: every order of the calls leaves it absent.
    """

    def answer(effect: Request | Call) -> Any:
        if isinstance(effect, Request):
            return {"points": [], "next_page_offset": None}
        if effect.collection == "b" and play.told.count("batch_update_points b") == 2:
            found.lease_until = 0.0
        return sides()(effect)

    operations = [
        models.UpsertOperation(upsert=models.PointsList(points=[POINT])),
        models.DeleteOperation(delete=models.FilterSelector(filter=FILTER)),
    ]
    found = session()
    play = Play(answer, lambda: found.adopt([MIGRATION], sent_at=play.now, now=play.now))
    play.run(write(found, "batch_update_points", "a", {"update_operations": operations}))
    last = [e.body["filter"]["must"] for e in play.sent if isinstance(e, Request)][-1]
    assert last[1]["has_id"] == [1]
