"""Tests of what a dual write does about points that the target lacks; the traces are those the simulator found."""

from collections.abc import Callable
from typing import Any

from playing import MIGRATION, Play, session
from qdrant_client import models
from test_write import FILTER, MISSING, results

from qferry.errors import Rejected, Unreachable
from qferry.flows import missing
from qferry.flows import operations as ops
from qferry.flows.effects import Call, Request
from qferry.flows.missing import MEND_AFTER_S, until_settled
from qferry.flows.write import DELETES_MAX, write
from qferry.protocol.journal import Journal
from qferry.protocol.phases import Phase
from qferry.protocol.session import Route

SWITCHED = MIGRATION.with_changes({"phase": Phase.SWITCHED, "read_percent": 100, "mend": "door"})
UPSERT = models.UpsertOperation(upsert=models.PointsList(points=[models.PointStruct(id=1, vector={"a": [1.0]})]))
UPDATE_ONLY = models.UpsertOperation(
    upsert=models.PointsList(points=[models.PointStruct(id=1, vector=[1.0])], update_mode=models.UpdateMode.UPDATE_ONLY)
)
SET = models.SetPayloadOperation(set_payload=models.SetPayload(payload={"w": 1}, points=[1]))
VECTORS = models.UpdateVectorsOperation(
    update_vectors=models.UpdateVectors(points=[models.PointVectors(id=1, vector={"a": [2.0]})])
)
DELETE = models.DeleteOperation(delete=models.PointIdsList(points=[1, 2]))
DELETE_WHERE = models.DeleteOperation(delete=models.FilterSelector(filter=models.Filter()))


class Sides:
    """
    Two servers that have point 1 or not; batches succeed, but partial ones fail where it is missing.

    Args:
        has: Whether the source and the target have it.
        meanwhile: Called before each request, with the number of those before it.
    """

    def __init__(self, *has: bool, meanwhile: Callable[["Sides", int], None] = lambda *_: None) -> None:
        self.has = dict(zip("ab", has, strict=True))
        self.meanwhile = meanwhile
        self.count = 0

    def __call__(self, effect: Request | Call) -> Any:
        """Answer."""
        self.meanwhile(self, self.count)
        self.count += 1
        if isinstance(effect, Request):
            name = next((n for n in "ab" if f"/{n}/" in effect.path), "b")
            if effect.op == "upsert" and "door" in effect.path:
                self.has["b"] = True
            return [{"id": 1, "payload": {}, "vector": {}}] if self.has[name] else []
        operations = effect.kwargs["update_operations"]
        for operation in operations:
            if ops.presumed([operation]) and not self.has[effect.collection]:
                return MISSING
            if isinstance(operation, models.UpsertOperation):
                self.has[effect.collection] = True
            if isinstance(operation, models.DeleteOperation):
                self.has[effect.collection] = False
        return results(count=len(operations))


def batches(play: Play, collection: str) -> list[list[Any]]:
    """Return the operations that were sent to a collection."""
    return [e.kwargs["update_operations"] for e in play.sent if isinstance(e, Call) and e.collection == collection]


def test_vectors_are_updated_that_an_upsert_of_the_same_batch_has_made() -> None:
    """Seed 5017421: the target lacked the point, the batch made it and then changed a vector, and that was left out."""
    play = Play(Sides(True, False))
    play.run(write(session(SWITCHED), "batch_update_points", "a", {"update_operations": [SET, UPSERT, VECTORS]}))
    assert batches(play, "b")[-1][1:] == [UPSERT, VECTORS]


def test_an_update_waits_for_the_point_that_its_batch_deletes_later() -> None:
    """
    Seed 5022846: another process's upsert had reached the source and not yet the target.

    On the source the batch found the point and deleted it; on the target it must not come before the upsert.
    """

    def meanwhile(sides: Sides, count: int) -> None:
        if count == 8:
            sides.has["b"] = True

    servers = Sides(True, False, meanwhile=meanwhile)
    play = Play(servers)
    play.run(write(session(SWITCHED), "batch_update_points", "a", {"update_operations": [SET, DELETE]}))
    assert len(batches(play, "b")) == 2
    assert servers.has == {"a": False, "b": False}


def test_a_point_that_is_nowhere_is_passed_over_before_long() -> None:
    """Somebody has deleted it on both sides: the update came before that, and nobody must wait for long."""

    def meanwhile(sides: Sides, count: int) -> None:
        if count == 2:
            sides.has["a"] = False

    play = Play(Sides(True, False, meanwhile=meanwhile))
    play.run(write(session(SWITCHED), "set_payload", "a", {"payload": {"w": 1}, "points": [1]}))
    assert MEND_AFTER_S - 0.1 < sum(play.slept) < MEND_AFTER_S + 0.2


def test_a_delete_whose_sides_were_far_apart_is_sent_again_if_a_point_has_come_back() -> None:
    """Seed 5042931: it had reached the target and not the source; another call brought the point back meanwhile."""

    def meanwhile(sides: Sides, count: int) -> None:
        play.now += MEND_AFTER_S if count == 1 else 0.0
        sides.has["b"] = sides.has["b"] or count == 3

    servers = Sides(True, True, meanwhile=meanwhile)
    play = Play(servers)
    play.run(write(session(SWITCHED), "delete", "a", {"points_selector": [1, 2]}))
    again = models.DeleteOperation(delete=models.PointIdsList(points=[1]))
    assert batches(play, "b") == batches(play, "a") == [[DELETE], [again]]
    assert servers.has == {"a": False, "b": False}


def test_a_slow_delete_is_not_sent_again_if_nothing_has_come_back() -> None:
    """However slow the servers are: one look, and the caller has its answer."""

    def meanwhile(_: Sides, __: int) -> None:
        play.now += 10.0

    play = Play(Sides(True, True, meanwhile=meanwhile))
    play.run(write(session(SWITCHED), "delete", "a", {"points_selector": [1, 2]}))
    assert [word.split()[0] for word in play.told] == ["batch_update_points"] * 2 + ["retrieve"] * 2


def test_points_that_come_back_time_and_again_are_left_to_the_journal() -> None:
    """A call has an end."""

    def meanwhile(sides: Sides, _: int) -> None:
        play.now += 10.0
        sides.has["b"] = True

    play = Play(Sides(False, True, meanwhile=meanwhile))
    play.run(write(session(SWITCHED), "delete", "a", {"points_selector": [1, 2]}))
    assert len(batches(play, "b")) == 1 + DELETES_MAX


def test_a_quick_delete_is_sent_once() -> None:
    """Nobody can have brought the point back."""
    play = Play(Sides(True, True))
    play.run(write(session(SWITCHED), "delete", "a", {"points_selector": [1, 2]}))
    assert len(play.sent) == 2


def test_a_run_is_not_sent_again_once_it_has_been() -> None:
    """Another process has deleted the point on the target since: it is brought from the source, as it is there."""

    def meanwhile(sides: Sides, count: int) -> None:
        if count == 4:
            sides.has["b"] = True  # it arrives ...
        if count == 7:
            sides.has["b"] = False  # ... and is gone again after the run

    servers = Sides(True, False, meanwhile=meanwhile)
    play = Play(servers)
    play.run(write(session(SWITCHED), "set_payload", "a", {"payload": {"w": 1}, "points": [1]}))
    assert len(batches(play, "b")) == 2
    assert servers.has["b"]


def test_a_write_waits_while_another_call_waits_for_its_point() -> None:
    """What is brought was read before the write, and must not come after it; nor must what is sent once more."""
    journal = Journal()
    journal.waiting[1] = 1
    play = Play()
    flow = until_settled(journal, [1, 2])
    next(flow)
    del journal.waiting[1]
    play.run(flow)
    play.run(until_settled(journal, [1, 2]))
    assert not play.sent


def test_points_are_brought_only_when_no_other_call_writes_them() -> None:
    """A call that waits for the point as well has written the source already; any other may be between the sides."""
    journal = Journal()
    journal.begin([1])
    journal.waiting[1] = 1
    assert missing._undisturbed(journal, [1])
    journal.begin([1])
    assert not missing._undisturbed(journal, [1])
    journal.waiting[1] = 2
    assert missing._undisturbed(journal, [1])
    journal.brought.add(1)
    assert not missing._undisturbed(journal, [1])


def test_a_point_that_has_come_to_the_target_by_itself_is_left_alone() -> None:
    """
    Seed 882: another process made it there and changed it, and that change was still on its way to the source.

    What the source had of it then would have taken the place of a write that its caller was told about a moment later.
    """

    def answer(effect: Request | Call) -> Any:
        assert isinstance(effect, Request)
        on_source = "/a/" in effect.path
        return [{"id": 1, "payload": {"w": 1} if on_source else {"w": 2}, "vector": {}}]

    play = Play(answer)
    assert play.run(missing._bring(Journal(), Route.of(SWITCHED, session().pins), [1])) is None
    assert play.told == ["retrieve", "retrieve"]


def test_what_was_brought_is_looked_at_until_both_sides_are_equal() -> None:
    """A write of another process may have come in between, and be on the source by the next look."""
    source, target = [{"w": 1}, {"w": 2}, {"w": 2}], [None, {"w": 1}]
    written: list[Any] = []

    def answer(effect: Request | Call) -> Any:
        assert isinstance(effect, Request)
        if effect.op == "upsert":
            written.append(effect.body["points"][0]["payload"])
            return {}
        payload = source.pop(0) if "/a/" in effect.path else (target.pop(0) if target else written[-1])
        return [] if payload is None else [{"id": 1, "payload": payload, "vector": {}}]

    assert Play(answer).run(missing._bring(Journal(), Route.of(SWITCHED, session().pins), [1])) is None
    assert written == [{"w": 1}, {"w": 2}]


def test_an_unknown_outcome_is_not_hidden_by_a_refusal() -> None:
    """The door has closed between two requests; the one before it may still land, and the call must say so."""
    source = [{1: {}, 2: {}}, {1: {"w": 1}}]  # point 1 changes, and 2 goes, once both have been brought
    target: list[dict[int, Any]] = [{}, {1: {}, 2: {}}]
    brought = False

    def answer(effect: Request | Call) -> Any:
        nonlocal brought
        assert isinstance(effect, Request)
        if effect.op == "retrieve":
            found = (source if "/a/" in effect.path else target).pop(0)
            return [{"id": i, "payload": payload, "vector": {}} for i, payload in found.items()]
        if not brought:
            brought = True
            return {}
        return Rejected("Gone.", status=404) if effect.op == "upsert" else Unreachable("No answer.")

    error = Play(answer).run(missing._bring(Journal(), Route.of(SWITCHED, session().pins), [1, 2]))
    assert isinstance(error, Unreachable)


def test_waiting_is_over_when_the_write_is() -> None:
    """Also when it has failed: the next write of the point may bring it."""
    found = session(SWITCHED)
    play = Play(Sides(True, False))
    play.run(write(found, "set_payload", "a", {"payload": {"w": 1}, "points": [1]}))
    journal = found.journal(SWITCHED)
    assert (journal.waiting, journal.brought, journal.in_flight(1)) == ({}, set(), 0)


def test_a_point_that_comes_and_goes_does_not_fail_a_write_before_the_switch() -> None:
    """The journal has it; afterwards readers would miss what was acknowledged."""

    def meanwhile(sides: Sides, _: int) -> None:
        sides.has["b"] = not sides.has["b"]

    arguments = {"points": [models.PointVectors(id=1, vector={"a": [2.0]})]}
    for phase in (Phase.COPYING, Phase.COPIED):
        migration = MIGRATION.with_changes({"phase": phase})
        play = Play(Sides(True, True, meanwhile=meanwhile))
        result = play.run(write(session(migration), "update_vectors", "a", arguments))
        assert result.status is models.UpdateStatus.COMPLETED


def test_presumed_are_the_points_of_partial_updates_that_the_run_has_not_made() -> None:
    """The truth has carried the run out, so it had these."""
    assert ops.presumed([SET, UPSERT]) == [1]
    assert ops.presumed([UPSERT, SET, VECTORS]) == []
    assert ops.presumed([UPDATE_ONLY, SET]) == [1]
    assert ops.presumed([UPSERT, DELETE, SET]) == [1]


def test_deleted_in_the_end_is_what_nothing_later_makes_anew() -> None:
    """A filter stands for what it has been resolved to."""
    assert ops.deleted_in_the_end([UPSERT, DELETE]) == [1, 2]
    assert ops.deleted_in_the_end([DELETE, UPSERT]) == [2]
    assert ops.deleted_in_the_end([DELETE_WHERE], [5, 7]) == [5, 7]
    assert ops.deleted_in_the_end([SET]) == []


def test_what_a_filter_has_deleted_is_deleted_again_only_if_it_still_matches() -> None:
    """Seed 9012247: another process had written the point since, with a value that the filter does not choose."""

    def answer(effect: Request | Call) -> Any:
        if isinstance(effect, Call):
            return results(count=len(effect.kwargs["update_operations"]))
        play.now += MEND_AFTER_S
        return (
            Unreachable("No answer.") if effect.op == "retrieve" else {"points": [{"id": 1}], "next_page_offset": None}
        )

    def slow(effect: Request | Call) -> Any:
        play.now += MEND_AFTER_S
        return answer(effect)

    play = Play(slow)
    play.run(write(session(SWITCHED), "delete", "a", {"points_selector": FILTER}))
    sent = [operation.delete for batch in batches(play, "b") for operation in batch]
    assert len(sent) == 1 + DELETES_MAX
    assert all(isinstance(selector, models.FilterSelector) for selector in sent)
