"""
One simulated Qdrant server: what a request does at the instant it is carried out, and what is answered.

When a request arrives, and whether its answer does, is the world's business.  test_conformance.py runs the same
requests against a real server and compares answers, errors and what is stored.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from qdrant_client import models

from .fake_collection import Collection, Id, Json, Refusal, update

VERSION = "1.16.3"
_CREATED_PARAMS = {"vectors": {}, "shard_number": 1, "replication_factor": 1, "on_disk_payload": True}
COMPLETED = models.UpdateResult(operation_id=0, status=models.UpdateStatus.COMPLETED)
ACKNOWLEDGED = models.UpdateResult(operation_id=0, status=models.UpdateStatus.ACKNOWLEDGED)
# Qdrant 1.18 and later answer a write that takes too long like this, with status 200, and carry it out later.
WAIT_TIMEOUT = models.UpdateResult(operation_id=0, status=models.UpdateStatus.WAIT_TIMEOUT)


def plain(model: Any) -> Json:
    """A model of qdrant-client as the JSON it is sent as."""
    return model.model_dump(mode="json", exclude_none=True) if hasattr(model, "model_dump") else model


@dataclass(frozen=True)
class Archive:
    """A snapshot: what a collection was at some moment, or each of its points at a moment of its own."""

    name: str
    collection: str
    config: Json
    points: Mapping[Id, tuple[Json, Json]]

    @property
    def checksum(self) -> str:
        """Tells it from others."""
        return f"{abs(hash(self.name)):064x}"


@dataclass(frozen=True)
class Later:
    """What a server is still at: it ends, and is answered, some time from now; until then others are served."""

    finish: Callable[[], Json]
    broken_off: Callable[[], None]  # the server crashes in the middle of it


def at_once(value: Any) -> Any:
    """What came of a request, if nothing happens while it is worked on."""
    return value.finish() if isinstance(value, Later) else value


class FakeQdrant:
    """
    A server's state.

    Args:
        elsewhere: The server at a URL, from which snapshots are fetched.
        page_points: The most points a scroll returns, whatever it asks for: small worlds then have many pages.
        deferred: Told of a collection that has accepted something it has not applied yet.
    """

    def __init__(
        self,
        page_points: int = 10**9,
        deferred: Callable[[Collection], None] = lambda _: None,
        elsewhere: Callable[[str], FakeQdrant | None] = lambda _: None,
    ) -> None:
        self.collections: dict[str, Collection] = {}
        self.aliases: dict[str, str] = {}
        self._page_points = page_points
        self._deferred = deferred
        self._elsewhere = elsewhere
        self.archives: dict[str, list[Archive]] = {}  # by the collection they are listed with
        self._taken = 0
        self._taking: list[str] = []  # collections of which a snapshot is being taken
        self._restoring: list[str] = []  # names under which recoveries are being carried out

    def collection(self, name: str) -> Collection:
        """The collection of that name or alias; an alias is resolved when a request is carried out."""
        found = self.collections.get(self.aliases.get(name, name))
        if found is None:
            raise Refusal(404, f"Not found: Collection `{name}` doesn't exist!")
        return found

    def points_of(self, name: str) -> Collection:
        """The same, for its points: they may be out of reach."""
        found = self.collection(name)
        if found.broken:
            raise Refusal(500, "Service internal error: shard is not initialized")
        return found

    def request(self, method: str, path: str, body: Json, params: Mapping[str, str], *, overdue: bool = False) -> Json:
        """
        Carry out one HTTP request.

        Args:
            method: Its HTTP method.
            path: Its path.
            body: Its JSON body.
            params: Its query.
            overdue: Answer a write with `wait_timeout` and apply it later.

        Returns:
            The `result` member of the answer, or the whole of it where there is none.

        Raises:
            Refusal: The answer is an error.
        """
        parts = path.split("/")
        if (method, path) in _SERVER_ROUTES:
            return _SERVER_ROUTES[method, path](self, body)
        name, tail = unquote(parts[2]), "/".join(parts[3:])
        if (method, tail) in _WRITES:
            results = self.write(name, [(_WRITES[method, tail], body)], params.get("wait") == "true", overdue)
            return plain(results[0])
        if tail.startswith("index/"):
            self.collection(name).indexes.pop(unquote(parts[4]), None)
            return plain(COMPLETED)
        if tail.startswith("snapshots/") and tail not in ("snapshots/recover", "snapshots/upload"):
            return self._kept_archive(method, name, unquote(parts[4]))
        if tail == "snapshots/upload":
            return self._upload(name, body, params)
        return _ROUTES[method, tail](self, name, body or {})

    def call(self, method: str, name: str, kwargs: Mapping[str, Any], *, overdue: bool = False) -> Any:
        """Carry out a call of qdrant-client's, on the argument forms the simulated application uses."""
        wait = kwargs.get("wait", method != "upload_points")
        if method == "retrieve":
            return self._retrieve(name, {"ids": kwargs["ids"], "with_vector": True})
        if method == "batch_update_points":
            operations = [next(iter(vars(o).items())) for o in kwargs["update_operations"]]
            return self.write(name, [(kind, _body(kind, plain(body))) for kind, body in operations], wait, overdue)
        return self.write(name, [_operation(method, kwargs)], wait, overdue)[0]

    def write(
        self, name: str, operations: Sequence[tuple[str, Json]], wait: bool, overdue: bool
    ) -> list[models.UpdateResult]:
        """Apply updates in order and stop at the first error; those before it stay."""
        found = self.points_of(name)
        if not wait or overdue:
            for kind, body in operations:
                found.accepted.append(lambda kind=kind, body=body: _ignoring_errors(found, kind, body))
            self._deferred(found)
            return [WAIT_TIMEOUT if wait else ACKNOWLEDGED] * len(operations)
        found.apply_accepted()
        for kind, body in operations:
            update(found, kind, body)
        return [COMPLETED] * len(operations)

    def _change_aliases(self, body: Json) -> bool:
        """Applied one by one: an error leaves those before it in force."""
        for action in body["actions"]:
            if "delete_alias" in action:
                self.aliases.pop(action["delete_alias"]["alias_name"], None)
                continue
            alias, name = action["create_alias"]["alias_name"], action["create_alias"]["collection_name"]
            if name not in self.collections:
                raise Refusal(404, f"Not found: Collection `{name}` doesn't exist!")
            if alias in self.collections:
                raise Refusal(409, f"Wrong input: Collection with the same name already exists: {alias}")
            self.aliases[alias] = name
        return True

    def _create(self, name: str, body: Json) -> bool:
        if name in self.collections:
            raise Refusal(409, f"Wrong input: Collection `{name}` already exists!")
        if name in self.aliases:
            raise Refusal(400, f"Wrong input: Can't create collection with name {name}. Alias already exists.")
        params = {key: body.get(key, default) for key, default in _CREATED_PARAMS.items()}
        self.collections[name] = Collection(name, {"params": params})
        return True

    def _delete_collection(self, name: str, _: Json) -> bool:
        if self.collections.pop(name, None) is None:
            return False
        self.archives.pop(name, None)
        self.aliases = {alias: real for alias, real in self.aliases.items() if real != name}
        return True

    def _info(self, name: str, _: Json) -> Json:
        found = self.collection(name)
        indexes = {field: {"data_type": schema} for field, schema in found.indexes.items()}
        return {"status": "green", "optimizer_status": "ok", "config": found.config, "payload_schema": indexes}

    def _create_index(self, name: str, body: Json) -> Json:
        self.collection(name).indexes[body["field_name"]] = body["field_schema"]
        return plain(COMPLETED)

    def _snapshot(self, name: str, _: Json) -> Later:
        """Each point is caught somewhere between the beginning and the end."""
        found = self.points_of(name)
        self._taken += 1
        title, before = f"{found.name}-{self._taken}.snapshot", dict(found.points)
        self._taking.append(found.name)

        def finish() -> Json:
            self._taking.remove(found.name)
            chance = random.Random(title)
            caught = {i: chance.choice((before, found.points)).get(i) for i in {**before, **found.points}}
            points = {i: state for i, state in caught.items() if state is not None}
            archive = Archive(title, found.name, found.config, points)
            self.archives.setdefault(found.name, []).append(archive)
            return {"name": archive.name, "size": len(points), "checksum": archive.checksum}

        return Later(finish, lambda: self._taking.remove(found.name))

    def _list_archives(self, name: str, _: Json) -> Json:
        return [{"name": archive.name} for archive in self.archives.get(self.collection(name).name, [])]

    def _kept_archive(self, method: str, name: str, title: str) -> Json:
        kept = self.archives.get(self.collection(name).name, [])
        found = next((archive for archive in kept if archive.name == title), None)
        if found is None:
            raise Refusal(404, f"Not found: Snapshot {title} not found")
        if method == "GET":
            return found
        kept.remove(found)
        return True

    def _recover(self, name: str, body: Json) -> Later:
        """Fetched first; only then the name is resolved, and a collection made if it is nobody's."""
        url, _, path = body["location"].partition("/collections/")
        origin = self._elsewhere(url)
        if origin is None:
            raise Refusal(500, f"Service internal error: Http request error: error sending request for url ({url})")
        source, _, title = path.split("/")
        try:
            archive = origin._kept_archive("GET", unquote(source), unquote(title))
        except Refusal as refusal:
            raise Refusal(400, f"Wrong input: Failed to download snapshot from {url}: {refusal.text}") from refusal
        return self._restore(name, archive, body["checksum"])

    def _upload(self, name: str, archive: Archive, params: Mapping[str, str]) -> Later:
        """The archive stays, listed with whatever collection bears the name that was sent."""
        later = self._restore(name, archive, params["checksum"])
        self.archives.setdefault(name, []).append(archive)
        return later

    def _restore(self, name: str, archive: Archive, checksum: str) -> Later:
        if archive.checksum != checksum:
            raise Refusal(400, f"Wrong input: Snapshot checksum mismatch: expected {checksum}")
        self._restoring.append(name)

        def finish() -> Json:
            self._restoring.remove(name)
            real = self.aliases.get(name, name)
            if real not in self.collections:
                self.collections[real] = Collection(real, archive.config)
            self.collections[real].replace(archive.points)
            return True

        def broken_off() -> None:
            self._restoring.remove(name)
            real = self.aliases.get(name, name)
            if real in self.collections:
                self.collections[real].broken = True

        return Later(finish, broken_off)

    def _telemetry(self, _: Json) -> Json:
        works = [
            {
                "id": name,
                "running_snapshots": self._taking.count(name),
                "running_snapshot_recovery": self._restoring.count(name),
            }
            for name in {*self._taking, *self._restoring}
        ]
        return {
            "collections": {"snapshots": works},
            "memory": {"resident_bytes": 2**27},
            "app": {"system": {"ram_size": 2**23}},
        }

    def _scroll(self, name: str, body: Json) -> Json:
        found = self.points_of(name)
        limit = min(body.get("limit", 10), self._page_points)
        page = found.matching(body.get("filter") or {}, body.get("offset"))[: limit + 1]
        offset = page.pop() if len(page) > limit else None
        return {"points": [_record(found, i, body) for i in page], "next_page_offset": offset}

    def _sample(self, name: str, body: Json) -> Json:
        """Some of the points; always the same ones, which is as good as any."""
        found = self.points_of(name)
        ids = found.matching(body.get("filter") or {})
        return {"points": [{"id": i} for i in ids[::2][: body["limit"]]]}

    def _search(self, name: str, body: Json) -> Json:
        return [{"points": _nearest(self.points_of(name), search)} for search in body["searches"]]

    def _retrieve(self, name: str, body: Json) -> list[Json]:
        found = self.points_of(name)
        return [_record(found, i, body) for i in dict.fromkeys(body["ids"]) if i in found.points]


def _nearest(found: Collection, search: Json) -> list[Json]:
    """The points with the largest dot product, all of them compared; the server orders those of equal score anyhow."""
    using, query = search["using"], search["query"]
    vectors = {i: found.points[i][1].get(using) for i in found.matching(search.get("filter") or {})}
    scores = {i: sum(a * b for a, b in zip(v, query, strict=True)) for i, v in vectors.items() if v is not None}
    ranked = sorted(scores, key=lambda i: -scores[i])[: search["limit"]]
    return [{"id": i, "version": 0, "score": scores[i]} for i in ranked]


def _record(found: Collection, point_id: Id, body: Json) -> Json:
    payload, vectors = found.points[point_id]
    record: dict[str, Json] = {"id": point_id}
    wanted = body.get("with_payload", True)
    if wanted:
        record["payload"] = payload if wanted is True else {k: payload[k] for k in wanted if k in payload}
    wanted = body.get("with_vector")
    if wanted:
        chosen = vectors if wanted is True else {name: vectors[name] for name in wanted if name in vectors}
        record["vector"] = chosen.get("", chosen)
    return record


def _ignoring_errors(found: Collection, kind: str, body: Json) -> None:
    """Apply what was answered for long ago: nobody hears of its errors."""
    try:
        update(found, kind, body)
    except Refusal:
        return


def _body(kind: str, body: Json) -> Json:
    """An operation of `batch_update_points` as the server's own body."""
    return {"points": body["points"]} if kind == "upsert" else body


def _operation(method: str, kwargs: Mapping[str, Any]) -> tuple[str, Json]:
    """A writing method of qdrant-client, called by name, as the server's operation and its body."""
    if method in ("upsert", "upload_points"):
        return "upsert", {"points": [plain(p) for p in kwargs["points"]]}
    if method == "update_vectors":
        return method, {"points": [plain(p) for p in kwargs["points"]]}
    selected = plain(kwargs["points_selector" if method in ("delete", "clear_payload") else "points"])
    body = {"points": selected} if isinstance(selected, list) else {"filter": selected.get("filter", selected)}
    renamed = {"payload": "payload", "keys": "keys", "vectors": "vector"}
    return method, {**body, **{renamed[k]: kwargs[k] for k in renamed if k in kwargs}}


Server = FakeQdrant
_SERVER_ROUTES: dict[tuple[str, str], Callable[[Server, Json], Json]] = {
    ("GET", "/"): lambda _, __: {"title": "qdrant - vector search engine", "version": VERSION},
    ("GET", "/telemetry"): Server._telemetry,
    ("GET", "/cluster"): lambda _, __: {"status": "disabled"},
    ("GET", "/collections"): lambda s, _: {"collections": [{"name": name} for name in s.collections]},
    ("GET", "/aliases"): lambda s, _: {
        "aliases": [{"alias_name": alias, "collection_name": name} for alias, name in s.aliases.items()]
    },
    ("POST", "/collections/aliases"): Server._change_aliases,
}
_WRITES = {
    ("PUT", "points"): "upsert",
    ("POST", "points/delete"): "delete",
    ("POST", "points/payload"): "set_payload",
}
_ROUTES: dict[tuple[str, str], Callable[[Server, str, Json], Json]] = {
    ("PUT", ""): Server._create,
    ("DELETE", ""): Server._delete_collection,
    ("GET", ""): Server._info,
    ("GET", "exists"): lambda s, name, _: {"exists": s.aliases.get(name, name) in s.collections},
    ("PUT", "index"): Server._create_index,
    ("POST", "snapshots"): Server._snapshot,
    ("GET", "snapshots"): Server._list_archives,
    ("PUT", "snapshots/recover"): Server._recover,
    ("POST", "points"): Server._retrieve,
    ("POST", "points/query"): Server._sample,
    ("POST", "points/query/batch"): Server._search,
    ("POST", "points/scroll"): Server._scroll,
    ("POST", "points/count"): lambda s, name, body: {
        "count": len(s.points_of(name).matching(body.get("filter") or {}))
    },
}
