"""Tests of the copy: which pages are read and written, what is saved, and what becomes of a lost worker's range."""

from collections.abc import Callable
from typing import Any

import pytest

from qferry.errors import Conflict, Rejected, Unreachable
from qferry.flows import copy as copying
from qferry.flows.coordinator import LANDING_S, Coordinator
from qferry.flows.copy import Copied, Piece, copy
from qferry.flows.effects import Await, Begin, Flow, NewId, Now, Outcome, Report, Request, Room, Sleep, Today, Together
from qferry.flows.pages import JsonPage
from qferry.protocol.phases import Phase, Side
from qferry.protocol.records import Migration

ID = "00000000-0000-4000-8000-000000000001"
LOST = Unreachable("The worker was lost.")


class Server:
    """
    One server with source, target and records, as far as a copy needs them.

    Args:
        points: The ids of the source.
        answer: Decides about a request before it is carried out: an error to be raised, or None.
    """

    def __init__(self, points: range, answer: Callable[[Request], Exception | None] = lambda _: None) -> None:
        self.points = list(points)
        self.target: set[int] = set()
        self.answer = answer
        self.sent: list[Request] = []
        self.plans: dict[str, Any] = {}
        self.aliases = {"_qferry_00000000_fence_me"}
        self.record = Migration(
            ID, "a", "b", ("a", "b"), phase=Phase.COPYING, epoch=3, claim="me", expected_points=len(self.points)
        )
        self.slept: list[float] = []
        self.lose: set[int] = set()  # pieces, by number, whose worker is lost when their pages are applied
        self._now, self._ids, self._pieces, self._began = 0.0, 0, {}, 0  # type: ignore[var-annotated]

    def coordinator(self) -> Coordinator:
        """Return the coordinator at work."""
        return Coordinator(self.record, "me", "me", fence="_qferry_00000000_fence_me")

    def run(self, flow: Flow[Any]) -> Any:
        """Run a flow to its end; pieces of work are carried out when they are awaited, the latest first."""
        value: Any = None
        error: Exception | None = None
        while True:
            try:
                effect = flow.throw(error) if error is not None else flow.send(value)
            except StopIteration as stop:
                return stop.value
            value, error = None, None
            try:
                value = self._perform(effect)
            except (Unreachable, Rejected) as raised:
                error = raised

    def _perform(self, effect: Any) -> Any:
        match effect:
            case Now():
                self._now += 0.001
                return self._now
            case NewId():
                self._ids += 1
                return f"{self._ids:032x}"
            case Today():
                return "2026-01-01T00:00:00Z"
            case Sleep(seconds):
                self.slept.append(seconds)
            case Room(here):
                return here
            case Begin(work):
                self._began += 1
                self._pieces[self._began] = work
                return self._began
            case Await(numbers, _):
                return [(numbers[-1], self._piece(numbers[-1]))]
            case Together(effects):
                return [self._outcome(one) for one in effects]
            case Request():
                return self._send(effect)
            case Report():
                return None
        return None

    def _piece(self, number: int) -> Outcome:
        try:
            value = self.run(self._pieces.pop(number).flow())
        except (Unreachable, Rejected) as error:
            return Outcome(error=error)
        return Outcome(error=LOST) if number in self.lose else Outcome(value)

    def _outcome(self, request: Any) -> Outcome:
        try:
            return Outcome(self._send(request))
        except (Unreachable, Rejected) as error:
            return Outcome(error=error)

    def _send(self, request: Request) -> Any:
        self.sent.append(request)
        refusal = self.answer(request)
        if refusal is not None:
            raise refusal
        match request.op:
            case "read_page":
                start = request.body.get("offset", -1)
                found = [i for i in self.points if i >= start]
                page, rest = found[: request.body["limit"]], found[request.body["limit"] :]
                return {"points": [point(i) for i in page], "next_page_offset": rest[0] if rest else None}
            case "write_page" | "upsert" if "fence" in request.path:
                self.target |= {p["id"] for p in request.body["points"]}
            case "sample":
                return {"points": [{"id": i} for i in self.points[: request.body["limit"]]]}
            case "retrieve" if "_qferry" in request.path:
                return [{"id": i, "payload": self.plans[i]} for i in request.body["ids"] if i in self.plans]
            case "retrieve":
                return [point(i) for i in request.body["ids"]]
            case "upsert":
                (record,) = request.body["points"]
                if record["payload"]["kind"] == "plan":
                    self.plans[record["id"]] = record["payload"]
            case "delete" if "points" in request.body:
                for name in request.body["points"]:
                    self.plans.pop(name, None)
            case "set_payload":
                self.record = Migration.from_payload({**self.record.to_payload(), **request.body["payload"]})
            case "scroll":
                return {"points": [{"payload": self.record.to_payload()}], "next_page_offset": None}
            case "aliases":
                aliases = {
                    **dict.fromkeys(self.aliases, "b"),
                    **{self.record.marker(s): self.record.collection(s) for s in Side},
                }
                return {"aliases": [{"alias_name": a, "collection_name": c} for a, c in aliases.items()]}
            case "change_aliases":
                for action in request.body["actions"]:
                    if "delete_alias" in action:
                        self.aliases.discard(action["delete_alias"]["alias_name"])
                    else:
                        self.aliases.add(action["create_alias"]["alias_name"])
        return {"status": "completed"}


def point(number: int) -> dict[str, Any]:
    """Return a point as it is read."""
    return {"id": number, "payload": {}, "vector": [1.0]}


def piece(**changes: Any) -> Piece:
    """Return a piece of the whole source."""
    given: dict[str, Any] = {"start": None, "end": None, "points": 10_000, "page_points": 2, **changes}
    return Piece("a", "", "_qferry_00000000_fence_me", **given)


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few points have several ranges and pieces."""
    monkeypatch.setattr(copying, "RANGE_POINTS", 10)
    monkeypatch.setattr(copying, "PIECE_POINTS", 4)
    monkeypatch.setattr(copying, "PAGE_POINTS", 2)
    monkeypatch.setattr(copying, "PAGE_POINTS_MAX", 2)


@pytest.mark.parametrize("count", [0, 1, 7, 40, 101])
def test_every_point_is_copied_once_and_the_plan_removed(count: int) -> None:
    """In one range or in several."""
    server = Server(range(count))
    assert server.run(copy(server.coordinator())) == count
    written = [p["id"] for r in server.sent if r.op == "write_page" for p in r.body["points"]]
    assert sorted(written) == list(range(count))
    assert (server.record.phase, server.record.plan, server.plans) == (Phase.COPIED, "", {})


def test_progress_is_saved_after_it_was_applied() -> None:
    """At each moment the plan says no more than what the target has."""

    def answer(request: Request) -> None:
        if request.op != "upsert" or "_qferry/" not in request.path:
            return
        start = 0
        for at, end, _, done in request.body["points"][0]["payload"].get("ranges", []):
            stop = 101 if end is None else end
            assert set(range(start, stop if done else at or 0)) <= server.target
            start = stop

    server = Server(range(101), answer)
    server.run(copy(server.coordinator()))


def test_an_interrupted_copy_goes_on_with_its_plan() -> None:
    """Ranges are drawn once; what is done is not done again."""
    server = Server(range(40))
    flow = copy(server.coordinator())
    stopped: list[bool] = []

    def answer(request: Request) -> Exception | None:
        stopped.append(request.op == "write_page")
        return Rejected("Full.", status=403) if sum(stopped) > 12 else None

    server.answer = answer
    with pytest.raises(Rejected, match="Full"):
        server.run(flow)
    (plan,) = server.plans
    begun = len(server.target)
    server.answer = lambda _: None
    sent = len(server.sent)
    assert server.run(copy(server.coordinator())) == 40
    assert not [r for r in server.sent[sent:] if r.op == "sample"]
    assert plan == next(r.body["ids"][0] for r in server.sent[sent:] if r.op == "retrieve")
    assert 0 < begun < 40


def test_a_lost_worker_s_range_is_begun_anew_behind_a_new_fence() -> None:
    """After the wait for what it may have sent, and after all others have ended; nothing else is written before."""
    server = Server(range(40))
    server.lose = {2}
    co = server.coordinator()
    assert server.run(copy(co)) == 40
    assert LANDING_S in server.slept
    changed = [n for n, r in enumerate(server.sent) if r.op == "change_aliases"]
    before = [r for r in server.sent[: changed[0]] if r.op == "write_page"]
    after = [r for r in server.sent[changed[0] :] if r.op == "write_page"]
    assert {r.path for r in before}.isdisjoint(r.path for r in after)
    assert server.target == set(range(40))
    assert not co._owing


def test_a_copy_that_fails_time_and_again_ends() -> None:
    """The operator must hear of it."""
    server = Server(range(3), lambda r: Unreachable("No answer.") if r.op == "write_page" else None)
    with pytest.raises(Unreachable, match="No answer"):
        server.run(copy(server.coordinator()))
    assert server.record.phase is Phase.COPYING


def test_a_fence_that_is_gone_ends_the_copy() -> None:
    """Another coordinator has taken over."""
    server = Server(range(40), lambda r: Rejected("No such collection.", status=404) if r.op == "write_page" else None)
    with pytest.raises(Conflict, match="Another coordinator has taken"):
        server.run(copy(server.coordinator()))


def test_a_source_that_cannot_be_read_ends_the_copy_and_nothing_is_in_doubt() -> None:
    """What was read before is applied and saved."""
    server = Server(range(40), lambda r: Unreachable("Down.") if r.body and r.body.get("offset") == 2 else None)
    co = server.coordinator()
    with pytest.raises(Unreachable, match="Down"):
        server.run(copy(co))
    assert not co._owing
    assert 0 not in server.slept


def test_an_interrupt_leaves_the_fence_standing() -> None:
    """Pieces may be under way: whoever finds the fence waits."""
    server = Server(range(40))
    co = server.coordinator()
    flow = copy(co)
    effect = next(flow)
    while not isinstance(effect, Await):
        effect = flow.send(server._perform(effect))
    with pytest.raises(KeyboardInterrupt):
        flow.throw(KeyboardInterrupt())
    assert co._owing


def test_a_piece_ends_where_its_range_ends() -> None:
    """Also if pages do not."""
    server = Server(range(10))
    assert server.run(piece(start=2, end=7, page_points=3).flow()) == Copied(5, 7, 2, done=True)
    assert server.target == {2, 3, 4, 5, 6}


def test_a_piece_reports_after_so_many_points() -> None:
    """So that progress is saved, and the claim kept."""
    server = Server(range(10))
    assert server.run(piece(points=4).flow()) == Copied(4, 4, 2)


def test_a_page_too_large_for_a_request_is_written_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Down to single points, which are as large as they are."""
    monkeypatch.setattr(copying, "_REQUEST_BYTES_MAX", 1)
    server = Server(range(5))
    server.run(piece().flow())
    assert [len(r.body["points"]) for r in server.sent if r.op == "write_page"] == [1] * 5
    assert server.target == set(range(5))


def test_what_a_page_leaves_out_is_copied_by_rest() -> None:
    """A page refused as it is goes by REST as a whole."""
    server = Server(range(4), lambda r: Rejected("Too deep.", status=400) if r.op == "write_page" else None)
    assert server.run(piece().flow()).done
    assert server.target == set(range(4))
    assert [r.op for r in server.sent if "fence" in r.path] == ["write_page", "upsert"] * 2


def test_only_a_copy_that_is_due_is_made() -> None:
    """Afterwards the number of points is told again."""
    server = Server(range(3))
    server.record = server.record.with_changes({"phase": Phase.COPIED, "copied_points": 3})
    assert server.run(copy(server.coordinator())) == 3
    assert server.sent == []


def test_pages_are_cut_and_halved() -> None:
    """What follows is what comes next in the collection."""
    page = JsonPage(tuple(map(point, range(4))), 9)
    assert page.before(None) is page
    assert page.before(5) is page
    assert (page.before(2).ids, page.before(2).next_offset) == ([0, 1], 2)
    first, rest = page.halves()
    assert (first.ids, first.next_offset, rest.ids, rest.next_offset) == ([0, 1], 2, [2, 3], 9)
