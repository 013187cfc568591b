"""
The servers as values: what a request makes of a content, and what it is answered, worked out once and remembered.

The content is that of tests/simulation's server, which is held to the real one; it is taken apart by collection, so
that a request to one of them is worked out once for whatever the others hold.  All collections are on one server:
requests to different collections have nothing to do with each other but the aliases, so two servers would add nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any
from urllib.parse import quote, unquote

import orjson
from tests.simulation.fake_collection import Refusal
from tests.simulation.fake_qdrant import FakeQdrant
from tests.simulation.possible_states import State, as_state

from qferry.control import records
from qferry.flows.effects import Call, Request
from qferry.protocol.records import CONTROL_COLLECTION

from .processes import Answer, identity

# All of the servers: the aliases, then one content per collection; each a number of `Servers`.
Content = tuple[int, ...]
ABSENT = 0
_EVERYTHING = {"limit": 1000, "with_payload": True, "with_vector": True}
_WRITERS = records.kind("writer")
_READS = frozenset({"scroll", "retrieve", "count", "info", "exists", "aliases", "version", "cluster", "telemetry"})
_READS |= {"sample", "search"}
# What they are answered follows from aliases and configurations, which only coordinators change.
_OF_THE_FRAME = frozenset({"info", "exists", "version", "cluster", "telemetry"})


@dataclass(frozen=True)
class Sent:
    """
    A request as the servers see it.

    Args:
        effect: What was sent.
        collection: The name it goes to, if it is about points; otherwise empty.
    """

    effect: Request | Call
    collection: str

    @cached_property
    def writes(self) -> bool:
        """Whether it can change anything."""
        if isinstance(self.effect, Call):
            return self.effect.method != "retrieve"
        return self.effect.op not in _READS

    @cached_property
    def of_the_frame(self) -> bool:
        """Whether nothing that writers do can change its answer, nor it theirs."""
        return isinstance(self.effect, Request) and self.effect.op in _OF_THE_FRAME

    @cached_property
    def lists_aliases(self) -> bool:
        """Whether it reads the aliases."""
        return isinstance(self.effect, Request) and self.effect.op == "aliases"

    @cached_property
    def lists_writers(self) -> bool:
        """Whether it reads the writers' records."""
        return isinstance(self.effect, Request) and (self.effect.body or {}).get("filter") == _WRITERS

    @cached_property
    def reads_record(self) -> bool:
        """Whether it reads a migration's record, by its id."""
        return isinstance(self.effect, Request) and self.effect.op == "scroll" and "has_id" in str(self.effect.body)

    @cached_property
    def reads_migrations(self) -> bool:
        """Whether it is a heartbeat's look at the migrations."""
        return isinstance(self.effect, Request) and self.effect == records.migrations_page()

    @cached_property
    def keeps_plan(self) -> bool:
        """Whether it writes, reads or removes the plan of a copy, or removes another record."""
        if not isinstance(self.effect, Request) or CONTROL_COLLECTION not in self.effect.path.split("/"):
            return False
        kind = self.effect.body["points"][0]["payload"].get("kind") if self.effect.op == "upsert" else ""
        writes_plan = kind in ("plan", "comparison")
        return writes_plan or self.effect.op in ("retrieve", "delete")

    @cached_property
    def reports(self) -> bool:
        """Whether it is a writer's report of itself."""
        about_control = isinstance(self.effect, Request) and CONTROL_COLLECTION in self.effect.path.split("/")
        return about_control and self.effect.op == "upsert"

    @cached_property
    def changes(self) -> Mapping[str, Any]:
        """What it changes in the migration's record."""
        if isinstance(self.effect, Request) and self.effect.op == "set_payload":
            found: Mapping[str, Any] = self.effect.body["payload"]
            return found
        return {}

    @cached_property
    def mends(self) -> bool:
        """Whether it writes the source's state to the target: a repair, or a writer's mending."""
        return isinstance(self.effect, Request) and ("_fence_" in self.effect.path or "_mend_" in self.effect.path)


class Servers:
    """
    Contents, requests and answers, each known by a number.

    Args:
        names: The collections there may be.
        keeps_beats: Whether the count of a writer's heartbeats is kept; nothing depends on it while no time passes.
    """

    def __init__(self, names: Iterable[str], *, keeps_beats: bool = False) -> None:
        self.names = tuple(names)
        self.sent: list[Sent] = []
        self.answers: list[Answer] = [Answer()]  # number 0 is none yet
        self._keeps_beats = keeps_beats
        self._contents: list[bytes] = [b"null"]
        self._numbers: dict[Any, int] = {b"null": ABSENT}
        self._aliases: list[dict[str, str]] = []
        self._worked_out: dict[tuple[int, int], tuple[int, int]] = {}
        self._worked_out_whole: dict[tuple[Content, int], tuple[Content, int]] = {}
        self._places: dict[tuple[int, str], int] = {}

    def request(self, effect: Request | Call) -> int:
        """The number of a request."""
        effect = self._normal(effect)
        key = identity(effect)
        if key not in self._numbers:
            self._numbers[key] = len(self.sent)
            self.sent.append(Sent(effect, _collection(effect)))
        return self._numbers[key]

    def _normal(self, effect: Request | Call) -> Request | Call:
        """A writer's report without what no flow reads."""
        if not isinstance(effect, Request) or effect.op != "upsert" or CONTROL_COLLECTION not in effect.path:
            return effect
        (point,) = effect.body["points"][:1]
        if point["payload"].get("kind") != "writer":
            return effect
        kept = {**point["payload"], "calls": 0, "busy_s": 0.0, "p99_ms": None, "debts": {}}
        if not self._keeps_beats:
            kept["beat"] = 0
        return replace(effect, body={"points": [{**point, "payload": kept}]})

    def answer(self, answer: Answer) -> int:
        """The number of an answer."""
        if answer not in self._numbers:
            self._numbers[answer] = len(self.answers)
            self.answers.append(answer)
        return self._numbers[answer]

    def land(self, content: Content, request: int) -> tuple[Content, int]:
        """Carry a request out: the content it leaves, and the answer."""
        sent = self.sent[request]
        if not sent.collection:
            if (content, request) not in self._worked_out_whole:
                self._worked_out_whole[content, request] = self._whole(content, sent.effect)
            return self._worked_out_whole[content, request]
        place = self._place(content[0], sent.collection)
        held = content[place] if place else ABSENT
        known = self._worked_out.get((held, request))
        if known is None:
            known = self._worked_out[held, request] = self._one(held, sent)
        if known[0] == held:
            return content, known[1]
        return (*content[:place], known[0], *content[place + 1 :]), known[1]

    def place(self, content: Content, request: int) -> int:
        """Which part of the content a request concerns; 0 if more than one."""
        collection = self.sent[request].collection
        return self._place(content[0], collection) if collection else 0

    def _place(self, aliases: int, name: str) -> int:
        key = aliases, name
        if key not in self._places:
            real = self._aliases[aliases].get(name, name)
            self._places[key] = self.names.index(real) + 1 if real in self.names else 0
        return self._places[key]

    def _one(self, content: int, sent: Sent) -> tuple[int, int]:
        server = FakeQdrant()
        self._fill(server, sent.collection, content)
        answer = _carried_out(server, sent.effect)
        left = ABSENT if content == ABSENT else self._read(server, sent.collection)
        return left, self.answer(answer)

    def _whole(self, content: Content, effect: Request | Call) -> tuple[Content, int]:
        server = FakeQdrant()
        for name, number in zip(self.names, content[1:], strict=True):
            self._fill(server, name, number)
        change_aliases(server, self._aliases[content[0]])
        answer = _carried_out(server, effect)
        return self.take(server), self.answer(answer)

    def _fill(self, server: FakeQdrant, name: str, number: int) -> None:
        held = orjson.loads(self._contents[number])
        if held is not None:
            server.request("PUT", f"/collections/{quote(name)}", held["config"], {})
            server.request("PUT", f"/collections/{quote(name)}/points", {"points": held["points"]}, {"wait": "true"})

    def take(self, server: FakeQdrant) -> Content:
        """A server's content."""
        listed = server.request("GET", "/aliases", None, {})["aliases"]
        aliases = {a["alias_name"]: a["collection_name"] for a in listed}
        key = ("aliases", *sorted(aliases.items()))
        if key not in self._numbers:
            self._numbers[key] = len(self._aliases)
            self._aliases.append(aliases)
        present = {c["name"] for c in server.request("GET", "/collections", None, {})["collections"]}
        return self._numbers[key], *(self._read(server, name) if name in present else ABSENT for name in self.names)

    def _read(self, server: FakeQdrant, name: str) -> int:
        path = f"/collections/{quote(name)}"
        points = server.request("POST", f"{path}/points/scroll", _EVERYTHING, {})["points"]
        config = server.request("GET", path, None, {})["config"]["params"]
        held = orjson.dumps({"config": config, "points": points}, option=orjson.OPT_SORT_KEYS)
        if held not in self._numbers:
            self._numbers[held] = len(self._contents)
            self._contents.append(held)
        return self._numbers[held]

    def points(self, content: Content, name: str) -> dict[int | str, tuple[Any, Any]]:
        """Payload and vectors of every point of a collection."""
        held = orjson.loads(self._contents[content[self.names.index(name) + 1]]) or {"points": []}
        return {p["id"]: (p["payload"], p["vector"]) for p in held["points"]}

    def states(self, content: Content, name: str) -> dict[int, State]:
        """The points of an application's collection, as the judge compares them."""
        return {int(i): as_state(payload, {"": vector}) for i, (payload, vector) in self.points(content, name).items()}


def _collection(effect: Request | Call) -> str:
    if isinstance(effect, Call):
        return effect.collection
    parts = effect.path.split("/")
    about_points = len(parts) > 3 and parts[3] == "points"
    return unquote(parts[2]) if about_points else ""


def _carried_out(server: FakeQdrant, effect: Request | Call) -> Answer:
    try:
        if isinstance(effect, Call):
            value = server.call(effect.method, effect.collection, effect.kwargs)
        else:
            value = server.request(effect.method, effect.path, effect.body, effect.params)
    except Refusal as refusal:
        return Answer(status=refusal.status, text=refusal.text)
    # A flow gets its own copy, as it does from a network.
    return Answer(orjson.dumps(value, default=lambda model: model.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS))


def change_aliases(server: FakeQdrant, aliases: Mapping[str, str]) -> None:
    """Let names lead to collections."""
    actions = [{"create_alias": {"alias_name": a, "collection_name": c}} for a, c in aliases.items()]
    server.request("POST", "/collections/aliases", {"actions": actions}, {})
