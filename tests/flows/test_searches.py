"""Searches that prove something, and those that do not: on two small sides that are searched here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from playing import MIGRATION, Play

from qferry.errors import Rejected
from qferry.flows import parity as flow
from qferry.flows.effects import Call, Flow, Request
from qferry.flows.parity import Parity, parity
from qferry.protocol.throttle import Pace

QUERIES = 20


class Coordinator:
    """Holds the claim of a migration in which nobody writes, unless a test says otherwise."""

    migration = MIGRATION
    pace = ""

    def __init__(self, heard: Callable[[], None]) -> None:
        self.heard = heard

    def stay(self) -> Flow[None]:
        """Nobody overtakes it."""
        yield from ()

    def roll_call(self, _what: str) -> Flow[None]:
        """Every writer is heard."""
        self.heard()
        yield from ()


class FullSpeed:
    """A throttle that knows of no trouble."""

    def __init__(self, *_: Any, **__: Any) -> None:
        """Whatever it is asked to look at."""

    def look(self, _done: int) -> Flow[Pace]:
        """Go on."""
        yield from ()
        return Pace()


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither indexes that are being built, nor a journal to settle, nor trouble."""

    def nothing(*_: Any, **__: Any) -> Flow[None]:
        yield from ()

    monkeypatch.setattr(flow, "wait_until_green", nothing)
    monkeypatch.setattr(flow, "drain_well", nothing)
    monkeypatch.setattr(flow, "Throttle", FullSpeed)


@dataclass
class Sides:
    """
    Both collections, and the journal.

    Args:
        points: Each side's: id -> a number, which is its vector, and a payload.
        params: The collections' parameters; the target's own ones win.
        target_params: Those.
        schema: The payload indexes.
        sampled: The ids a sample brings; None: all.
    """

    points: dict[str, dict[int, tuple[float, dict[str, Any]]]]
    params: dict[str, Any] = field(default_factory=lambda: {"vectors": {"size": 1, "distance": "Euclid"}})
    target_params: dict[str, Any] = field(default_factory=dict)
    schema: dict[str, Any] = field(default_factory=dict)
    sampled: list[int] | None = None
    journal: set[int] = field(default_factory=set)
    having: int = 0
    matches: Callable[[dict[str, Any], dict[str, Any]], bool] = lambda condition, payload: (
        payload.get(condition["key"]) == next(iter(condition["match"].values()))
    )
    loses: Callable[[str, dict[str, Any]], bool] = lambda _side, _body: False  # whether the best one is not found

    def compare(self, heard: Callable[[], None] = lambda: None) -> Parity:
        """Compare searches."""
        found: Parity = Play(self.answer).run(parity(Coordinator(heard), QUERIES, 1.0))  # type: ignore[arg-type]
        return found

    def answer(self, request: Request | Call) -> Any:
        """As a server would."""
        assert isinstance(request, Request)
        name = request.path.split("/")[2]
        body: Any = request.body
        match request.op:
            case "info":
                params = {**self.params, **(self.target_params if name == MIGRATION.target else {})}
                return {"config": {"params": params}, "payload_schema": self.schema}
            case "sample":
                ids = list(self.points["a"]) if self.sampled is None else self.sampled
                return {"points": [{"id": i} for i in ids[: body["limit"]]]}
            case "count":
                return {"count": self.having}
            case "retrieve" if name == MIGRATION.journal_collection:
                return [{"id": i} for i in body["ids"] if i in self.journal]
            case "retrieve":
                held = {i: self.points[name][i] for i in body["ids"] if i in self.points[name]}
                return [{"id": i, "vector": self.stored(v), "payload": payload} for i, (v, payload) in held.items()]
            case "search":
                try:
                    return [self.searched(name, one) for one in body["searches"]]
                except Exception as error:  # noqa: BLE001  the answer of a server
                    return error
        raise AssertionError(request)

    def stored(self, number: float) -> Any:
        """A vector as it is stored."""
        names = self.params.get("sparse_vectors")
        return {name: {"indices": [0], "values": [number]} for name in names} if names else [number]

    def searched(self, name: str, body: dict[str, Any]) -> Any:
        """The closest points that fulfil the conditions."""
        query = body["query"]["values"] if isinstance(body["query"], dict) else body["query"]
        hits = []
        for i, (number, payload) in self.points[name].items():
            must = (body.get("filter") or {}).get("must", [])
            if all(i in c["has_id"] if "has_id" in c else self.matches(c, payload) for c in must):
                hits.append({"id": i, "score": abs(number - query[0])})
        hits.sort(key=lambda hit: hit["score"])
        return {"points": hits[int(self.loses(name, body)) :][: body["limit"]]}


def alike(payload: Callable[[int], dict[str, Any]] = lambda _: {}, **more: Any) -> Sides:
    """Return two sides that are equal."""
    points = {i: (float(i * i), payload(i)) for i in range(40)}
    return Sides({"a": dict(points), "b": dict(points)}, **more)


def test_equal_sides_pass() -> None:
    """The plain case, with and without a filter."""
    found = alike(lambda i: {"g": i % 2}, schema={"g": {"data_type": "integer"}}).compare()
    assert found.passed, found.detail
    assert found.evidence is not None
    assert [group["searches"] for group in found.evidence["vectors"]] == [QUERIES, QUERIES]
    assert found.evidence["filters"] == {"g": QUERIES}


def test_empty_sample_proves_nothing_where_points_have_the_vector() -> None:
    """Only an exact count says that no point has it."""
    found = alike(sampled=[], having=40).compare()
    assert (found.passed, found.evidence) == (False, None)
    assert found.detail.startswith("not proven: vector: 40 points have it, but no search")
    found = alike(sampled=[], having=0).compare()
    assert found.passed
    assert found.detail == "vector: no point has it"


def test_searches_that_find_nothing_on_either_side_do_not_count() -> None:
    """A filter on a value that the index does not hold agrees with everything."""
    sides = alike(lambda i: {"t": "word" if i % 4 else "!!!"}, schema={"t": {"data_type": "text"}})
    sides.matches = lambda condition, payload: payload["t"] == condition["match"]["text"] != "!!!"
    found = sides.compare()
    assert found.evidence is not None
    assert [group["searches"] for group in found.evidence["vectors"]] == [QUERIES, 15]
    assert found.evidence["filters"] == {"t": 15}
    sides.matches = lambda _condition, _payload: False
    found = sides.compare()
    assert found.passed
    assert "no filter on t" in found.detail


def test_field_by_which_an_index_finds_little_is_not_made_up_for_by_others() -> None:
    """Its recall is judged by itself."""
    kinds = ("d", "e", "f", "g")
    sides = alike(lambda i: {kinds[i % 4]: 0}, schema={name: {"data_type": "integer"} for name in kinds})

    def loses(side: str, body: dict[str, Any]) -> bool:
        condition = (body.get("filter") or {}).get("must", [{}])[0]
        return side == "b" and "params" not in body and condition.get("key") == "g"

    # A search by index on the target misses the best of ten, and has another one instead, if it is by that field.
    sides.loses = loses
    sides.points = {side: {i: (v, p) for i, (v, p) in held.items()} for side, held in sides.points.items()}
    assert sides.compare().passed  # 9 of 10 are above every gate

    def worse(name: str, body: dict[str, Any]) -> Any:
        found = Sides.searched(sides, name, body)
        return {"points": found["points"][3:]} if loses(name, body) else found

    sides.searched = worse  # type: ignore[method-assign]
    found = sides.compare()
    assert not found.passed
    assert "too low: mean filtered by g, median filtered by g" in found.detail


def refusing(sides: Sides, *names: str) -> Parity:
    """Compare searches where some sides refuse to filter by `d`."""
    searched = sides.searched

    def ask(name: str, body: dict[str, Any]) -> Any:
        if name in names and any(c.get("key") == "d" for c in (body.get("filter") or {}).get("must", [])):
            raise Rejected("Wrong input.", status=400)
        return searched(name, body)

    sides.searched = ask  # type: ignore[method-assign]
    return sides.compare()


def test_filter_that_the_source_refuses_is_left_out_and_named() -> None:
    """One value of many that the server does not take is no reason never to switch."""
    schema = {"d": {"data_type": "keyword"}, "g": {"data_type": "integer"}}
    found = refusing(alike(lambda i: {"d": "x"} if i == 7 else {"g": i % 2}, schema=schema), "a", "b")
    assert found.passed, found.detail
    assert "left out, because the source refuses the value: filters on d" in found.detail
    assert found.evidence is not None
    assert found.evidence["filters"] == {"d": 0, "g": QUERIES - 1}


def test_filter_that_only_the_target_refuses_proves_nothing() -> None:
    """The application can search so now, and could not after the switch."""
    found = refusing(alike(lambda _: {"d": "x"}, schema={"d": {"data_type": "keyword"}}), "b")
    assert (found.passed, found.evidence) == (False, None)
    assert "a server refuses to search" in found.detail


@pytest.mark.parametrize("shards", [1, 4])
def test_ranks_that_depend_on_the_shards_decide_nothing_where_shards_differ(shards: int) -> None:
    """They are told; with equal shards they must overlap."""
    params = {"sparse_vectors": {"w": {"modifier": "idf"}}, "shard_number": 1}
    sides = alike(params=params, target_params={"shard_number": shards})
    searched = sides.searched

    def other_way_round(name: str, body: dict[str, Any]) -> Any:
        found = searched(name, {**body, "limit": 100})["points"]
        return {"points": (found if name == "a" else found[::-1])[: body["limit"]]}

    sides.searched = other_way_round  # type: ignore[method-assign]
    found = sides.compare()
    assert found.passed is (shards == 4)
    assert "overlap with the source's: mean 0." in found.detail
    assert ("ranks depend on the shards: 1 on the source, 4 on the target" in found.detail) is (shards == 4)
    assert ("too low: mean" in found.detail) is (shards == 1)


def best_is_lost(side: str, body: dict[str, Any]) -> bool:
    """Tell whether an exact search of point 3 on the target misses the best."""
    return side == "b" and body["query"] == [9.0] and "params" in body


def test_search_that_differs_while_its_points_are_written_does_not_count() -> None:
    """Its points are in the journal whenever the writers have been heard: nobody can tell."""
    sides = alike(loses=best_is_lost)
    found = sides.compare(lambda: sides.journal.add(3))
    assert found.passed, found.detail
    assert not found.unequal
    assert "19 searches (and 1 left out, because their points are written all the time)" in found.detail
    # What is written elsewhere is no excuse.
    sides = alike(loses=best_is_lost)
    assert not sides.compare(lambda: sides.journal.add(39)).passed


def test_point_that_is_written_at_the_last_look_is_no_stranger_s() -> None:
    """A check may come between the two halves of a write; then every writer is heard, and the journal has it."""
    heard: list[int] = []
    sides = alike()

    def hear() -> None:
        heard.append(1)
        if len(heard) == flow.LOOKS + 1:
            sides.points["b"][3] = (1000.0, {})
        if len(heard) == flow.LOOKS + 2:
            sides.journal.add(3)

    sides.loses = lambda side, body: best_is_lost(side, body) and len(heard) <= flow.LOOKS
    found = sides.compare(hear)
    assert found.passed, found.detail
    assert not found.unequal


def test_search_that_differs_although_its_points_are_equal_accuses_nobody() -> None:
    """It fails all the same: the server finds something else."""
    found = alike(loses=best_is_lost).compare()
    assert not found.passed
    assert not found.unequal
    assert "1 exact ones find something else (vector of point 3)" in found.detail
    assert "the points in these answers are equal on both sides" in found.detail


def test_point_that_differs_at_rest_was_written_by_somebody_else() -> None:
    """It had been found equal, and is in no journal."""
    sides = alike()
    sides.points["b"][3] = (1000.0, {})
    found = sides.compare()
    assert not found.passed
    assert found.unequal == {3}
    assert "1 points differ that had been found equal (3)" in found.detail


def test_searches_of_points_that_are_all_being_written_prove_nothing() -> None:
    """That none of them counts is not that all of them agree."""
    sides = alike(having=40, loses=lambda side, body: side == "b" and "params" in body)
    found = sides.compare(lambda: sides.journal.update(range(40)))
    assert (found.passed, found.evidence) == (False, None)
    assert found.detail.startswith("not proven: vector: 40 points have it, but no search in it proves anything")
