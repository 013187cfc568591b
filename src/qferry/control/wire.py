"""
The HTTP requests qferry makes on its own account, one function each.

Bodies and answers are plain JSON, so that what this version does not know (a new index parameter, a payload of any
kind) passes through unchanged.  Source: Qdrant REST API, servers 1.14 to 1.16; the shapes are held against a real
server by tests/simulation/test_conformance.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any
from urllib.parse import quote

from qferry.flows.effects import Json, Request
from qferry.protocol.journal import PointId

_WAIT = {"wait": "true"}
# A snapshot may be large: how long making it, fetching it or restoring it may take, in seconds.
ARCHIVE_S = 24 * 3600.0


@lru_cache(maxsize=256)
def collection_path(name: str) -> str:
    """The path of a collection; every character of its name is quoted that could mean something in a URL."""
    return f"/collections/{quote(name, safe='')}"


def scroll(
    server: str,
    collection: str,
    *,
    filter: Json = None,  # noqa: A002  the server's own word
    offset: PointId | None = None,
    limit: int = 256,
    payload: bool | Sequence[str] = True,
    vector: bool = False,
) -> Request:
    """A page of points in order of id: `{"points": [...], "next_page_offset": id | None}`."""
    body: dict[str, Any] = {"limit": limit, "with_payload": payload, "with_vector": vector}
    if filter is not None:
        body["filter"] = filter
    if offset is not None:
        body["offset"] = offset
    path = f"{collection_path(collection)}/points/scroll"
    return Request(server, "scroll", "POST", path, body)


def read_page(server: str, collection: str, *, offset: PointId | None, limit: int) -> Request:
    """
    A page of whole points, to be written elsewhere; `flows.pages.as_page` makes a page of the result.

    A driver may carry it out another way than by REST (qferry.transfer), if `write_page` then takes what it brings.
    """
    page = scroll(server, collection, offset=offset, limit=limit, vector=True)
    return replace(page, op="read_page")


def write_page(server: str, collection: str, body: Json) -> Request:
    """Write a page that `read_page` has brought; answered when it is applied."""
    return Request(server, "write_page", "PUT", f"{collection_path(collection)}/points", body, _WAIT)


def read_digests(server: str, collection: str, *, offset: PointId | None, limit: int) -> Request:
    """
    A page of whole points, to be compared; `flows.compare.as_digests` makes of the result what is compared.

    A driver may carry it out another way than by REST, if it does so on both sides.
    """
    return replace(read_page(server, collection, offset=offset, limit=limit), op="read_digests")


def sample(server: str, collection: str, limit: int, *, vector: str | None = None) -> Request:
    """Ids of `limit` points chosen at random, among those that have `vector`: `{"points": [{"id": ...}]}`."""
    body: dict[str, Any] = {"query": {"sample": "random"}, "limit": limit, "with_payload": False}
    if vector is not None:
        body["filter"] = {"must": [{"has_vector": vector}]}
    return Request(server, "sample", "POST", f"{collection_path(collection)}/points/query", body)


def search(server: str, collection: str, searches: Sequence[Json]) -> Request:
    """Several searches at once: `[{"points": [{"id": ..., "score": ...}]}, ...]`, best first."""
    path = f"{collection_path(collection)}/points/query/batch"
    return Request(server, "search", "POST", path, {"searches": list(searches)})


def retrieve(
    server: str,
    collection: str,
    ids: Sequence[PointId],
    *,
    payload: bool | Sequence[str] = True,
    vector: bool | Sequence[str] = True,
) -> Request:
    """The points among `ids` that exist, in no particular order; of payload and vectors, only what is named."""
    body = {"ids": list(ids), "with_payload": payload, "with_vector": vector}
    return Request(server, "retrieve", "POST", f"{collection_path(collection)}/points", body)


def upsert(server: str, collection: str, points: Sequence[Json]) -> Request:
    """Write whole points; answered when they are applied."""
    return Request(server, "upsert", "PUT", f"{collection_path(collection)}/points", {"points": list(points)}, _WAIT)


def delete(server: str, collection: str, selector: Json) -> Request:
    """Delete the points of `selector`, `{"points": [...]}` or `{"filter": {...}}`."""
    return Request(server, "delete", "POST", f"{collection_path(collection)}/points/delete", selector, _WAIT)


def set_payload_where(server: str, collection: str, payload: Json, condition: Json) -> Request:
    """Merge `payload` into every point that matches; the server evaluates and writes in one step per shard."""
    body = {"payload": payload, "filter": condition}
    return Request(server, "set_payload", "POST", f"{collection_path(collection)}/points/payload", body, _WAIT)


def barrier(server: str, collection: str) -> Request:
    """
    A write to every shard that changes nothing and is answered when all earlier ones are applied.

    Shards apply in the order they accepted (research: SRC model_testing/verify.rs), so this also waits for writes
    that were only acknowledged (`wait=false`).
    """
    nobody = "00000000-0000-0000-0000-000000000000"
    condition = {"must": [{"has_id": [nobody]}], "must_not": [{"has_id": [nobody]}]}
    return Request(
        server, "delete", "POST", f"{collection_path(collection)}/points/delete", {"filter": condition}, _WAIT
    )


def count(server: str, collection: str) -> Request:
    """`{"count": n}`, exact."""
    return Request(server, "count", "POST", f"{collection_path(collection)}/points/count", {"exact": True})


def count_anywhere(server: str, collection: str, condition: Json = None) -> Request:
    """
    `{"count": n}`, exact; of a shard's two copies the one with more points counts.

    `consistency=all` shows a point only if every copy has it, so one that a single copy has kept looks deleted.  Of two
    counts "majority" takes the larger one (1.14 to 1.19: `collection/src/shards/resolve.rs`, `counts[len / 2]`).
    """
    body = {"exact": True} if condition is None else {"exact": True, "filter": condition}
    path = f"{collection_path(collection)}/points/count"
    return Request(server, "count", "POST", path, body, {"consistency": "majority"})


def info(server: str, collection: str) -> Request:
    """Configuration, payload indexes and state of a collection."""
    return Request(server, "info", "GET", collection_path(collection))


def collections(server: str) -> Request:
    """`{"collections": [{"name": ...}]}`."""
    return Request(server, "collections", "GET", "/collections")


def create_collection(server: str, collection: str, config: Json) -> Request:
    """Create a collection."""
    return Request(server, "create_collection", "PUT", collection_path(collection), config, {}, 60.0)


def update_collection(server: str, collection: str, config: Json) -> Request:
    """Change what may be changed of a collection's configuration; what is not named, or null, stays."""
    return Request(server, "update_collection", "PATCH", collection_path(collection), config, {}, 60.0)


def delete_collection(server: str, collection: str) -> Request:
    """Delete a collection, by its real name."""
    return Request(server, "delete_collection", "DELETE", collection_path(collection), None, {}, 60.0)


def create_index(server: str, collection: str, name: str, schema: Json) -> Request:
    """Create a payload index with all its parameters."""
    body = {"field_name": name, "field_schema": schema}
    return Request(server, "create_index", "PUT", f"{collection_path(collection)}/index", body, _WAIT, 600.0)


def delete_index(server: str, collection: str, name: str) -> Request:
    """Remove a payload index."""
    path = f"{collection_path(collection)}/index/{quote(name, safe='')}"
    return Request(server, "delete_index", "DELETE", path, None, _WAIT)


def aliases(server: str) -> Request:
    """`{"aliases": [{"alias_name": ..., "collection_name": ...}]}`."""
    return Request(server, "aliases", "GET", "/aliases")


def change_aliases(server: str, *, drop: Iterable[str] = (), create: Mapping[str, str] | None = None) -> Request:
    """
    Drop and create aliases in one request.

    The server applies it while no other request holds a collection (1.16.3: `collections.write()` in
    `toc/collection_meta_ops.rs`), so when it answers nothing sent through a dropped alias is still under way.
    """
    actions: list[Json] = [{"delete_alias": {"alias_name": name}} for name in drop]
    actions += [
        {"create_alias": {"alias_name": name, "collection_name": collection}}
        for name, collection in (create or {}).items()
    ]
    return Request(server, "change_aliases", "POST", "/collections/aliases", {"actions": actions}, {}, 60.0)


def create_snapshot(server: str, collection: str) -> Request:
    """Take a snapshot: `{"name": ..., "size": bytes, "checksum": sha256}`."""
    path = f"{collection_path(collection)}/snapshots"
    return Request(server, "create_snapshot", "POST", path, None, _WAIT, ARCHIVE_S)


def snapshots(server: str, collection: str) -> Request:
    """The snapshots of a collection that its server keeps: `[{"name": ..., "size": bytes}, ...]`."""
    return Request(server, "snapshots", "GET", f"{collection_path(collection)}/snapshots")


def delete_snapshot(server: str, collection: str, name: str) -> Request:
    """Remove a snapshot; 404 if there is none of that name."""
    path = f"{collection_path(collection)}/snapshots/{quote(name, safe='')}"
    return Request(server, "delete_snapshot", "DELETE", path, None, _WAIT, 60.0)


def recover(server: str, collection: str, location: str, checksum: str, api_key: str | None) -> Request:
    """
    Replace all points of a collection by those of the snapshot that the server fetches from `location`.

    The collection's name is resolved only after that, aliases included; if nothing has that name by then, a
    collection is made (1.16.3: `do_recover_from_snapshot`; docs/adr/0013).
    """
    body = {"location": location, "checksum": checksum, "priority": "snapshot"}
    if api_key:
        body["api_key"] = api_key
    return Request(server, "recover", "PUT", f"{collection_path(collection)}/snapshots/recover", body, _WAIT, ARCHIVE_S)


def download_snapshot(server: str, collection: str, name: str) -> Request:
    """The bytes of a snapshot; for `Carry` only."""
    path = f"{collection_path(collection)}/snapshots/{quote(name, safe='')}"
    return Request(server, "download_snapshot", "GET", path, timeout_s=ARCHIVE_S)


def upload_snapshot(server: str, collection: str, checksum: str) -> Request:
    """The same as `recover`, from bytes that are sent along; for `Carry` only.  The server keeps the archive."""
    params = {**_WAIT, "priority": "snapshot", "checksum": checksum}
    path = f"{collection_path(collection)}/snapshots/upload"
    return Request(server, "upload_snapshot", "POST", path, None, params, ARCHIVE_S)


def cluster(server: str) -> Request:
    """The server's peers; `{"status": "disabled"}` on a single node."""
    return Request(server, "cluster", "GET", "/cluster")


def placement(server: str, collection: str) -> Request:
    """Which nodes have which shards of a collection, and the state of each copy."""
    return Request(server, "placement", "GET", f"{collection_path(collection)}/cluster")


def points_in(condition_ids: Iterable[PointId]) -> Json:
    """A filter for exactly these ids."""
    return {"must": [{"has_id": list(condition_ids)}]}


def version(server: str) -> Request:
    """`{"version": "1.16.3", ...}`."""
    return Request(server, "version", "GET", "/")


def telemetry(server: str, *, details_level: int = 1) -> Request:
    """
    What a server says of itself; needs a key for all collections.

    `memory`, and under `app.system` its machine.  From level 2 on also what it is doing with snapshots (1.16.3, not
    1.15.5): `{"collections": {"snapshots": [{"id": name, "running_snapshots": n, "running_snapshot_recovery": n}]}}`.
    """
    return Request(server, "telemetry", "GET", "/telemetry", params={"details_level": str(details_level)})


def exists(server: str, collection: str) -> Request:
    """`{"exists": bool}`; the cheapest question a server answers about a collection."""
    return Request(server, "exists", "GET", f"{collection_path(collection)}/exists")


def ask_to_manage(server: str, nothing: str) -> Request:
    """
    Ask a server whether the key may create and delete collections, change aliases and restore snapshots.

    It checks that first and then fails without doing anything: a single node has no shards to move, and a cluster has
    no collection `nothing`, nor a peer 0 (1.14 to 1.19: `do_update_collection_cluster` in `common/collections.rs`).
    403: it may not; 400, 404 or 405 (a single node of 1.19): it may.
    """
    body = {"drop_replica": {"shard_id": 0, "peer_id": 0}}
    return Request(server, "ask_to_manage", "POST", f"{collection_path(nothing)}/cluster", body)


def ask_to_write(server: str, collection: str, nothing: str) -> Request:
    """
    Ask whether the key may write points of a collection that exists and is not custom-sharded.

    403: it may not; 400: it may, but there is no shard key `nothing` (1.16.3: `update` in `toc/point_ops.rs`; the log
    is not touched).  Of a collection that does not exist a server says so to everybody who may read: 404.
    """
    body = {"points": [], "shard_key": nothing}
    return Request(server, "ask_to_write", "POST", f"{collection_path(collection)}/points/delete", body, _WAIT)


def ask_for_snapshots(server: str, collection: str, nothing: str) -> Request:
    """Ask whether the key may take and remove snapshots: 403, or 404 because there is none of the name `nothing`."""
    return replace(delete_snapshot(server, collection, nothing), op="ask_for_snapshots")
