"""The simulated Qdrant answers like a real one: the same requests to both, compared answer by answer."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from qferry.control import wire
from qferry.drivers import http
from qferry.errors import Rejected
from qferry.flows.effects import Request
from qferry.flows.throttle import memory_share

from .calls import arguments, chosen_step, operation
from .fake_collection import CHUNK, Refusal
from .fake_qdrant import FakeQdrant, at_once
from .network import error_of
from .possible_states import Step

NAMED = {"vectors": {"a": {"size": 1, "distance": "Dot"}, "b": {"size": 1, "distance": "Dot"}}}
UUIDS = ("00000000-0000-4000-8000-00000000000a", "ffffffff-0000-4000-8000-000000000001")
NOWHERE = "00000000-0000-0000-0000-000000000000"


class Both:
    """A real server and a simulated one, asked the same."""

    def __init__(self, url: str, name: str) -> None:
        self.client = QdrantClient(url=url, check_compatibility=False)
        self.fake = FakeQdrant(elsewhere=lambda _: self.fake)
        self.name = name
        self.url = url

    def request(self, request: Request) -> tuple[Any, Any]:
        """The real answer and the simulated one; an error is given by its status and text."""
        return self._real(request), self._fake(request)

    def call(self, method: str, **kwargs: Any) -> tuple[Any, Any]:
        """The same for a method of qdrant-client."""
        return (
            _outcome(lambda: getattr(self.client, method)(self.name, **kwargs)),
            _outcome(lambda: _answered(None, lambda: self.fake.call(method, self.name, kwargs))),
        )

    def contents(self) -> tuple[Any, Any]:
        """Every point of both."""
        return self.request(wire.scroll("", self.name, limit=1000, vector=True))

    def _real(self, request: Request) -> Any:
        def send() -> Any:
            try:
                answer = self.client.http.client.request(**http.arguments(request))
            except Exception as error:
                raise http.translated(error, request) from error
            return http.result_of(answer, request)

        return _outcome(send)

    def _fake(self, request: Request) -> Any:
        sent = (request.method, request.path, request.body, request.params)
        return _outcome(lambda: _answered(request, lambda: at_once(self.fake.request(*sent))))


def _answered(request: Request | None, act: Callable[[], Any]) -> Any:
    """What the simulated server does, with the error that the drivers, or for None qdrant-client, would raise."""
    try:
        return act()
    except Refusal as refusal:
        raise error_of(request, refusal.status, refusal.text) from refusal


def _outcome(act: Callable[[], Any]) -> Any:
    try:
        answer = _told(act())
        # Retrieved points come in no particular order; those of a page do.
        records = isinstance(answer, list) and bool(answer) and isinstance(answer[0], dict) and "id" in answer[0]
        return sorted(answer, key=lambda record: str(record["id"])) if records else answer
    except Rejected as error:
        return "Rejected", error.status, _family(str(error))
    except UnexpectedResponse as error:
        return "UnexpectedResponse", error.status_code, _family(error.content.decode())


def _family(text: str) -> str:
    """What an error is about; the rest of its words may differ."""
    known = (
        "No point with id",
        "doesn't exist",
        "already exists",
        "Not existing vector name",
        "checksum mismatch",
        "failed to download",
    )
    return next((words for words in known if words.lower() in text.lower()), "")


def _told(answer: Any) -> Any:
    """An answer without what is of no meaning: serial numbers, times, an order that is not promised."""
    if isinstance(answer, models.UpdateResult):
        return answer.status.value
    if isinstance(answer, list):
        return [_told(item) for item in answer]
    if isinstance(answer, models.Record):
        return {"id": answer.id, "payload": answer.payload, "vector": answer.vector}
    if isinstance(answer, dict):
        if "operation_id" in answer:
            return answer["status"]
        return {key: _told(value) for key, value in answer.items() if key not in ("version", "time", "aliases")}
    return answer


@pytest.fixture
def both(qdrant: Any, collection_name: str) -> Iterator[Both]:
    """Give two empty collections of the same name, one real and one simulated."""
    servers = Both(qdrant.url, collection_name)
    servers.request(wire.create_collection("", collection_name, NAMED))
    yield servers
    servers.client.delete_collection(collection_name)
    servers.client.close()


def _point(point_id: int | str, group: int = 0) -> dict[str, Any]:
    value = float(point_id % 100) if isinstance(point_id, int) else 0.5
    return {"id": point_id, "payload": {"v": value, "g": group}, "vector": {"a": [value], "b": [value]}}


def _fill(both: Both, ids: Any) -> None:
    real, fake = both.request(wire.upsert("", both.name, [_point(i, n % 2) for n, i in enumerate(ids)]))
    assert real == fake == "completed"


def test_pages_come_in_the_order_of_ids(both: Both) -> None:
    """Numbers come before UUIDs, and a page names the first id of the next."""
    _fill(both, [*reversed(UUIDS), 7, 3, 2**40, 5])
    offset = None
    for _ in range(3):
        real, fake = both.request(wire.scroll("", both.name, offset=offset, limit=2, vector=True))
        assert real == fake
        offset = real["next_page_offset"]
    assert offset is None


@pytest.mark.parametrize(
    "condition",
    [
        {"must": [{"key": "g", "match": {"value": 1}}]},
        {"must": [{"key": "g", "match": {"any": [0, 5]}}, {"has_id": [2, 4, 99]}]},
        {"must_not": [{"key": "g", "match": {"value": 1}}]},
        {"should": [{"has_id": [1]}, {"key": "v", "match": {"any": [3, 4]}}]},
        {"must": [{"must": [{"key": "g", "match": {"value": 0}}]}, {"has_id": [2, 3]}]},
        {"must": [{"has_id": []}]},
        {"must": [{"has_id": [NOWHERE]}], "must_not": [{"has_id": [NOWHERE]}]},
        {"must": []},
        {},
    ],
)
def test_a_filter_chooses_the_same_points(both: Both, condition: Any) -> None:
    """Every kind of filter the code sends matches the same points, also when it deletes them."""
    _fill(both, range(1, 6))
    real, fake = both.request(wire.scroll("", both.name, filter=condition, vector=True))
    assert real == fake
    real, fake = both.request(wire.delete("", both.name, {"filter": condition}))
    assert real == fake
    real, fake = both.contents()
    assert real == fake


def test_a_compare_and_set_changes_a_record_only_while_its_condition_holds(both: Both) -> None:
    """Setting a payload where another value matches, also the empty text, is what claims rest on."""
    both.request(wire.upsert("", both.name, [{"id": 1, "vector": {}, "payload": {"claim": "", "n": 0}}]))
    for held, claim in (("", "one"), ("", "two"), ("one", ""), ("", "three")):
        condition = {"must": [{"has_id": [1]}, {"key": "claim", "match": {"value": held}}]}
        real, fake = both.request(wire.set_payload_where("", both.name, {"claim": claim}, condition))
        assert real == fake
        real, fake = both.contents()
        assert real == fake
    assert real["points"][0]["payload"]["claim"] == "three"


@pytest.mark.parametrize("missing", [1, 33, 65], ids=["first chunk", "second chunk", "third chunk"])
@pytest.mark.parametrize(
    "step",
    [
        Step("set_payload", payload={"w": 1}),
        Step("overwrite_payload", payload={"w": 1}),
        Step("delete_payload", names=("v",)),
        Step("clear_payload"),
        Step("delete_vectors", names=("a",)),
        Step("delete"),
    ],
    ids=lambda step: step.kind,
)
def test_a_partial_update_of_a_missing_point_stops_after_its_chunk(both: Both, step: Step, missing: int) -> None:
    """A missing id fails a partial update with 404, and what is changed by then stays changed."""
    ids = tuple(range(1, 71))
    _fill(both, [i for i in ids if i != missing])
    named = Step(step.kind, ids, payload=step.payload, vectors=step.vectors, names=step.names)
    real, fake = both.call(step.kind, **arguments(named))
    assert real == fake
    real, fake = both.contents()
    assert real == fake


def test_an_update_of_vectors_stops_after_a_chunk_of_its_own_order(both: Both) -> None:
    """The server goes through new vectors in no particular order; whole chunks, less the missing point, are changed."""
    _fill(both, range(2, 71))
    step = Step("update_vectors", tuple(range(1, 71)), vectors={"a": (99.0,)})
    real, fake = both.call("update_vectors", **arguments(step))
    assert real == fake
    for points in both.contents():
        changed = sum(point["vector"]["a"] == [99.0] for point in points["points"])
        assert changed in (CHUNK - 1, 2 * CHUNK - 1, 69)


def test_a_batch_stops_at_its_first_error(both: Both) -> None:
    """The operations before the one that fails stay, those after it are not carried out."""
    _fill(both, (1, 2))
    steps = (Step("set_payload", (1,), payload={"w": 1}), Step("clear_payload", (9,)), Step("delete", (2,)))
    real, fake = both.call("batch_update_points", update_operations=[operation(step) for step in steps])
    assert real == fake
    real, fake = both.contents()
    assert real == fake


def test_an_unknown_vector_is_refused_and_its_point_not_written(both: Both) -> None:
    """An upsert with a vector that the collection has not fails; the server may have written other points of it."""
    wrong = {"id": 2, "payload": {}, "vector": {"z": [1.0]}}
    real, fake = both.request(wire.upsert("", both.name, [_point(1), wrong]))
    assert real == fake
    for points in both.contents():
        assert [point["id"] for point in points["points"]] in ([], [1])


def test_collections_and_aliases_answer_alike(both: Both) -> None:
    """Creating, finding, aliasing and deleting a collection, with the mistakes one can make."""
    name, alias = both.name, f"{both.name}-alias"
    script = [
        wire.exists("", name),
        wire.create_collection("", name, NAMED),
        wire.change_aliases("", create={alias: name}),
        wire.change_aliases("", create={alias: name}),
        wire.exists("", alias),
        wire.count("", alias),
        wire.upsert("", alias, [_point(1)]),
        wire.count("", name),
        wire.create_collection("", alias, NAMED),
        wire.change_aliases("", create={name: name}),
        wire.change_aliases("", create={f"{alias}-2": f"{name}-missing"}),
        wire.delete_collection("", alias),
        wire.change_aliases("", drop=[alias, f"{alias}-missing"]),
        wire.upsert("", alias, [_point(2)]),
        wire.delete("", f"{name}-missing", {"points": [1]}),
        wire.scroll("", f"{name}-missing"),
        wire.info("", f"{name}-missing"),
        wire.delete_collection("", f"{name}-missing"),
        wire.retrieve("", name, [3, 1, 1]),
    ]
    for request in script:
        real, fake = both.request(request)
        assert real == fake, request


def test_a_server_tells_the_state_of_a_target(both: Both) -> None:
    """What a throttled copy looks at: the collection's state, and memory as a share of the machine's."""
    real, fake = both.request(wire.info("", both.name))
    assert [real[name] for name in ("status", "optimizer_status")] == ["green", "ok"]
    assert [fake[name] for name in ("status", "optimizer_status")] == ["green", "ok"]
    for telemetry in both.request(wire.telemetry("")):
        share = memory_share(telemetry)
        assert share is not None
        assert 0 < share < 1


@pytest.mark.parametrize("seed", range(12))
def test_a_script_of_chance_leaves_both_alike(both: Both, seed: int) -> None:
    """Forty calls chosen by chance are answered alike and leave the same points."""
    chance = random.Random(seed)
    _fill(both, (1, 2, 3))
    values = iter(range(100, 1000))
    for _ in range(40):
        some = tuple(chance.sample(range(1, 6), 2))
        steps = [chosen_step(chance, some, values) for _ in range(chance.choice((1, 1, 3)))]
        if len(steps) == 1:
            real, fake = both.call(steps[0].kind, **arguments(steps[0]))
        else:
            real, fake = both.call("batch_update_points", update_operations=[operation(step) for step in steps])
        assert real == fake
    real, fake = both.contents()
    assert real == fake


def test_snapshots_are_taken_listed_restored_and_removed_alike(both: Both) -> None:
    """Also through an alias, through one that is gone, and of a snapshot that is gone or not the one expected."""
    _fill(both, [1, 2, 3])
    fence = f"{both.name}-fence"
    other = f"{both.name}-other"
    both.request(wire.create_collection("", other, NAMED))
    both.request(wire.change_aliases("", create={fence: other}))
    real, fake = both.request(wire.create_snapshot("", both.name))
    taken = [real, fake]
    both.request(wire.delete("", both.name, {"points": [1]}))

    def each(make: Callable[[str, str], Request]) -> list[Any]:
        """Ask both, each for its own snapshot."""
        answers = []
        for ask, archive in zip((both._real, both._fake), taken, strict=True):
            answers.append(ask(make(archive["name"], archive["checksum"])))
        return answers

    def recover(name: str, checksum: str, *, into: str = fence) -> Request:
        url = f"{both.url}{wire.download_snapshot('', both.name, name).path}"
        return wire.recover("", into, url, checksum, None)

    try:
        real, fake = (len(kept) for kept in both.request(wire.snapshots("", both.name)))
        assert real == fake == 1
        wrong, fine = each(lambda name, _: recover(name, "0" * 64)), each(recover)
        assert wrong[0] == wrong[1] == ("Rejected", 400, "checksum mismatch")
        assert fine == [True, True]
        real, fake = both.request(wire.scroll("", other, limit=10, vector=True))
        assert real == fake
        assert [point["id"] for point in real["points"]] == [1, 2, 3]
        both.request(wire.change_aliases("", drop=[fence]))
        assert each(recover) == [True, True]
        real, fake = both.request(wire.count("", fence))
        assert real == fake == {"count": 3}
        real, fake = both.request(wire.telemetry("", details_level=2))
        for answer in (real, fake):
            assert not any(work["running_snapshot_recovery"] for work in answer["collections"]["snapshots"])
        assert each(lambda name, _: wire.delete_snapshot("", both.name, name)) == [True, True]
        again = each(lambda name, _: wire.delete_snapshot("", both.name, name))
        assert again[0][:2] == again[1][:2] == ("Rejected", 404)
        gone = each(recover)
        assert gone[0] == gone[1] == ("Rejected", 400, "failed to download")
    finally:
        for name in (fence, other):
            both.client.delete_collection(name)


@pytest.mark.parametrize("condition", [None, {"must": [{"key": "g", "match": {"value": 1}}, {"has_id": [2, 4, 6]}]}])
def test_a_search_finds_the_same(both: Both, condition: Any) -> None:
    """Points in the order of their scores, those alone that match and have the vector."""
    _fill(both, range(1, 7))
    both.request(wire.upsert("", both.name, [{"id": 9, "payload": {"g": 1}, "vector": {"b": [1.0]}}]))
    search = {"query": [2.0], "using": "a", "limit": 4, "with_payload": False, "params": {"exact": True}}
    body = search if condition is None else {**search, "filter": condition}
    real, fake = both.request(wire.search("", both.name, [body, body]))
    assert real == fake
    assert len(real[0]["points"]) == (4 if condition is None else 3)


def test_a_sample_is_of_points_that_have_the_vector(both: Both) -> None:
    """And no other; a count says how many they are."""
    points = [_point(1), {"id": 2, "payload": {}, "vector": {"b": [1.0]}}, {"id": 3, "payload": {}, "vector": {}}]
    both.request(wire.upsert("", both.name, points))
    real, fake = both.request(wire.sample("", both.name, 10, vector="a"))
    assert [point["id"] for point in real["points"]] == [point["id"] for point in fake["points"]] == [1]
    for vector, count in (("a", 1), ("b", 2), ("c", 0)):
        real, fake = both.request(wire.count_anywhere("", both.name, {"must": [{"has_vector": vector}]}))
        assert real == fake == {"count": count}


@pytest.mark.parametrize("vector", [True, ["a"], ["b", "a"]])
def test_of_a_point_only_what_is_named_is_retrieved(both: Both, vector: Any) -> None:
    """Named vectors and payload fields; those it lacks are left out."""
    points = [_point(1), {"id": 2, "payload": {"v": 1}, "vector": {"b": [1.0]}}]
    both.request(wire.upsert("", both.name, points))
    real, fake = both.request(wire.retrieve("", both.name, [1, 2], payload=["g"], vector=vector))
    assert real == fake
