"""A source and a target of many points, moved by the command until `qferry verify` finds them equal."""

from __future__ import annotations

import contextlib
import io
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeAlias

import httpx
import orjson

from qferry.cli import main
from qferry.cli.output import INTERRUPTED
from qferry.server import QdrantServer

Json: TypeAlias = Any
PointId: TypeAlias = int | str
SOURCE, TARGET, WRONG = "project_planted_code", "project-planted", "planted-wrong-distance"
DENSE, SPARSE = "code", "words"
SIZE = 64
PAGE = 1000
# No server takes a place of its own in a vector's bits with these two: they are stored as they come.
DISTANCE, WRONG_DISTANCE = "Dot", "Euclid"
# Each with parameters, which a server fills in by itself where they are left out.
INDEXES: Mapping[str, Json] = {
    "language": {"type": "keyword", "is_tenant": True},
    "line": {"type": "integer", "lookup": True, "range": False},
    "text": {"type": "text", "tokenizer": "prefix", "min_token_len": 2, "max_token_len": 9, "lowercase": False},
    "score": {"type": "float", "on_disk": True},
}


@dataclass(frozen=True)
class Found:
    """What `qferry verify` has said."""

    exit_code: int
    failed: Mapping[str, str]  # check -> detail
    differing: Sequence[PointId]
    seconds: float


@dataclass
class Pair:
    """
    Both collections on a server of their own.

    Args:
        server: That server.
        points: How many points the source has.
        random: Decides about everything.
    """

    server: QdrantServer
    points: int
    random: Random
    ids: list[PointId] = field(default_factory=list)
    snapshots: dict[str, str] = field(default_factory=dict)
    http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.http = httpx.Client(base_url=self.server.url, timeout=600)

    def close(self) -> None:
        """Let the connection go."""
        self.http.close()

    def ask(self, method: str, path: str, body: Json = None) -> Json:
        """Send a request as it is, and wait until it is applied; numbers keep their type on the way."""
        content = None if body is None else orjson.dumps(body)
        headers = {"content-type": "application/json"}
        answer = self.http.request(method, path, content=content, headers=headers, params={"wait": "true"})
        assert answer.is_success, f"{method} {path}: {answer.text}"
        return orjson.loads(answer.content)["result"]

    def qferry(self, verb: str, *options: str) -> tuple[int, Json]:
        """Run the command in this process; its exit code and its answer."""
        connection = ("--url", self.server.url, "--grpc-port", str(self.server.grpc_port), "--json")
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exit_code = main([verb, SOURCE, *options, *connection])
        if exit_code == INTERRUPTED:
            raise KeyboardInterrupt
        return exit_code, orjson.loads(said.getvalue())

    def verify(self, *options: str) -> Found:
        """Run `qferry verify`."""
        exit_code, answer = self.qferry("verify", *options)
        assert "checks" in answer, answer
        failed = {check["name"]: check["detail"] for check in answer["checks"] if not check["passed"]}
        return Found(exit_code, failed, answer["differing"], answer["seconds"])

    def build(self) -> None:
        """Make the source, move it by pages until it is verified, and keep a second target of the wrong distance."""
        self._create(SOURCE, DISTANCE)
        for start in range(0, self.points, PAGE):
            page = [self.point(number) for number in range(start, min(start + PAGE, self.points))]
            self.ids += [point["id"] for point in page]
            self.ask("PUT", f"/collections/{SOURCE}/points", {"points": page})
        for verb, *options in (("start", TARGET, "--strategy", "stream"), ("backfill",), ("verify",)):
            exit_code, answer = self.qferry(verb, *options)
            assert exit_code == 0, answer
        self._create(WRONG, WRONG_DISTANCE)
        offset = None
        while True:
            body = {"limit": PAGE, "with_payload": True, "with_vector": True, "offset": offset}
            page = self.ask("POST", f"/collections/{SOURCE}/points/scroll", body)
            self.ask("PUT", f"/collections/{WRONG}/points", {"points": page["points"]})
            offset = page["next_page_offset"]
            if offset is None:
                break
        for name in (TARGET, WRONG):
            self.snapshots[name] = self.ask("POST", f"/collections/{name}/snapshots")["name"]

    def _create(self, name: str, distance: str) -> None:
        config = {
            "vectors": {DENSE: {"size": SIZE, "distance": distance}},
            "sparse_vectors": {SPARSE: {}},
            "on_disk_payload": False,
        }
        self.ask("PUT", f"/collections/{name}", config)
        for key, schema in INDEXES.items():
            self.ask("PUT", f"/collections/{name}/index", {"field_name": key, "field_schema": schema})

    def point(self, number: int) -> Json:
        """Make up a point; every other one has a UUID."""
        chance = self.random
        words = sorted(chance.sample(range(1000), 8))
        return {
            "id": number if number % 2 else str(uuid.UUID(int=chance.getrandbits(128), version=4)),
            "vector": {
                DENSE: [chance.uniform(-1, 1) for _ in range(SIZE)],
                SPARSE: {"indices": words, "values": [chance.uniform(0.1, 2) for _ in words]},
            },
            "payload": {
                "path": f"src/{number}.py",
                "language": chance.choice(("python", "rust", "go")),
                "line": number,
                "text": f"def function_{number}(argument):",
                "score": chance.random(),
                "version": 2,
                "deep": {"count": 1, "tags": ["a", number]},
            },
        }

    def read(self, point: PointId) -> Json:
        """Read a point of the target whole."""
        body = {"ids": [point], "with_payload": True, "with_vector": True}
        (found,) = self.ask("POST", f"/collections/{TARGET}/points", body)
        return found

    def replace_target(self, kept: str) -> None:
        """Delete the target and make it anew as `kept`, it or the other one, was in the beginning; aliases stay."""
        listed = self.ask("GET", f"/collections/{TARGET}/aliases")["aliases"]
        self.ask("DELETE", f"/collections/{TARGET}")
        location = (self.server.folder / "snapshots" / kept / self.snapshots[kept]).absolute().as_uri()
        body = {"location": location, "priority": "snapshot"}
        self.ask("PUT", f"/collections/{TARGET}/snapshots/recover", body)
        actions = [{"create_alias": {"alias_name": a["alias_name"], "collection_name": TARGET}} for a in listed]
        self.ask("POST", "/collections/aliases", {"actions": actions})
