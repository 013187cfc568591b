"""What depends on a server's version, size and ports, and how it was decided."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from qferry.control import wire
from qferry.errors import RemoteFailure
from qferry.flows import configuration
from qferry.flows.effects import Flow, Json
from qferry.planning import (
    OLDEST_SERVER,
    SNAPSHOTS_BEFORE,
    SNAPSHOTS_FROM,
    STRICT_MODE_NEEDS,
    Plan,
    numbers,
    server_version,
)
from qferry.preflight.report import Gate, Limit, Peer, Server, Size
from qferry.protocol.records import Strategy

# From these versions on servers answer a write that was accepted but not applied in time with 200 and `wait_timeout`,
# tell how many updates wait, and how many points searches do not show yet.
WAIT_TIMEOUT_FROM, QUEUE_FROM, DEFERRED_FROM = (1, 18), (1, 17), (1, 18)
# The level of telemetry at which a node tells the versions of the others (1.14 to 1.19: `cluster_telemetry.rs`).
_PEERS_LEVEL = 3


@dataclass(frozen=True)
class Line:
    """The gRPC port that was given for a server, 0 for none, and whether a Qdrant answers there."""

    port: int
    answers: bool


def server(side: str, where: str) -> Flow[Server]:
    """A server's version, and those of its peers as far as it knows them."""
    version = yield from server_version(where)
    listed = (yield wire.cluster(where)).get("peers") or {}
    if not listed:
        return Server(side, version, (), "")
    try:
        told = (yield wire.telemetry(where, details_level=_PEERS_LEVEL)).get("cluster") or {}
    except RemoteFailure:
        told = {}
    known = told.get("peer_metadata") or {}
    peers = tuple(
        Peer(node, str((about or {}).get("uri", "")), str((known.get(node) or {}).get("version", "")))
        for node, about in sorted(listed.items())
    )
    unknown = sum(not peer.version for peer in peers)
    note = "A node's version is what it said when it joined, by way of the node that was asked; none was asked itself."
    if unknown:
        note = f"The version of {unknown} of {len(peers)} nodes is not known to the node that was asked. {note}"
    return Server(side, version, peers, note)


def gates(planned: Plan, servers: tuple[Server, ...], lines: Mapping[str, Line], *, fetched: bool) -> Iterator[Gate]:
    """
    What each gate decides.

    Args:
        planned: The migration.
        servers: The source's, and the target's if that is another one.
        lines: Their gRPC ports, by side.
        fetched: Whether the target's server may fetch a snapshot itself.
    """
    there = servers[-1]
    versions = " and ".join(dict.fromkeys(one.version for one in servers))
    yield Gate("version of the servers", "accepted", f"{versions}; {_version(OLDEST_SERVER)} or newer is needed")
    yield Gate("the source's server", "accepted", "it is one node; a cluster can only be the target's")
    if there.peers and there.side == "target":
        yield Gate(
            "the target's server", "accepted", f"a cluster of {len(there.peers)}, with the number of copies given"
        )
    yield Gate("snapshot or stream", planned.strategy, planned.because)
    proven = all(SNAPSHOTS_FROM <= numbers(one.version)[:2] < SNAPSHOTS_BEFORE for one in servers)
    window = f"proven from {_version(SNAPSHOTS_FROM)} to before {_version(SNAPSHOTS_BEFORE)}"
    yield Gate("versions of the proof for snapshots", "within" if proven else "outside", f"{window}; here {versions}")
    if planned.strategy == Strategy.SNAPSHOT.value:
        way = "fetched by the target's server" if fetched else "carried by the command"
        yield Gate("the snapshot's way", way, "a key for the source's server is told to no other server")
    yield from _by_grpc(lines)
    yield from _by_version(there.version)


def _by_grpc(lines: Mapping[str, Line]) -> Iterator[Gate]:
    way = "gRPC" if all(line.answers for line in lines.values()) else "REST, several times slower"
    for side, line in lines.items():
        if not line.port:
            because = "no gRPC port is to be used"
        elif side == "source":
            because = f"{'the' if line.answers else 'no'} server that has the source answers at port {line.port}"
        elif line.answers:
            because = f"a Qdrant answers at port {line.port}; the copy makes sure that it is the same one"
        else:
            because = f"no Qdrant answers at port {line.port}"
        yield Gate(f"pages by gRPC, {side}", way, because)


def _by_version(version: str) -> Iterator[Gate]:
    found = numbers(version)
    if found >= WAIT_TIMEOUT_FROM:
        late = (
            "counts as no answer",
            f"{version} may answer 200 before a write is applied, and says `wait_timeout` then",
        )
    else:
        late = (
            "does not come",
            f"{version} waits until a write is applied; from {_version(WAIT_TIMEOUT_FROM)} on it may not",
        )
    yield Gate("answer `wait_timeout`", *late)
    if found < QUEUE_FROM:
        waits, told = "green", "tells neither how many updates wait nor which points are deferred"
    elif found < DEFERRED_FROM:
        waits, told = "green and an empty queue", "tells how many updates wait; no points are deferred"
    else:
        waits, told = "green, an empty queue and no deferred points", "tells both"
    yield Gate("switch waits for", waits, f"{version} {told}")


def _version(parts: tuple[int, ...]) -> str:
    return ".".join(map(str, parts))


def limits(planned: Plan, info: Json, overrides: Mapping[str, Any], size: Size) -> Iterator[Limit]:
    """What strict mode does not forbid beforehand, but would hit on the way."""
    source = info["config"].get("strict_mode_config") or {}
    target = configuration.to_create(info, overrides).get("strict_mode_config") or {}
    if source.get("enabled"):
        yield from _rates("source", source)
    if not target.get("enabled"):
        return
    yield from _rates("target", target)
    for name, needed in STRICT_MODE_NEEDS.items():
        value = target.get(name)
        if value is not None and value < needed:
            yield Limit("target", name, value, f"the copy and the comparison need {needed}: they will be refused")
    if target.get("search_allow_exact") is False:
        effect = "points are counted exactly: `verify` will be refused"
        yield Limit("target", "search_allow_exact", value=False, effect=effect)
    for name, there_is, what in (
        ("max_points_count", size.points, "points"),
        ("max_collection_vector_size_bytes", size.vector_bytes, "bytes of vectors"),
        ("max_collection_payload_size_bytes", size.payload_bytes, "bytes of payload"),
        ("max_payload_index_count", len(planned.indexes), "payload indexes"),
    ):
        value = target.get(name)
        if value is not None and there_is is not None and there_is >= value:
            yield Limit(
                "target", name, value, f"the source has about {there_is:,} {what}: not all of them will be taken"
            )
    share = target.get("max_resident_memory_percent")
    if share is not None:
        yield Limit("target", "max_resident_memory_percent", share, "writes are refused while the server holds more")


def room_for_collections(side: str, told: Json | RemoteFailure, more: int) -> Iterator[Limit]:
    """Whether a server takes so many collections more (1.15 to 1.19: `collections` of its telemetry)."""
    collections = ({} if isinstance(told, RemoteFailure) else told).get("collections") or {}
    most, there_are = collections.get("max_collections"), collections.get("number_of_collections")
    if most is not None and there_are is not None and there_are + more > most:
        yield Limit(side, "max_collections", most, f"there are {there_are}, and `qferry start` makes {more} more")


def _rates(side: str, strict: Mapping[str, Any]) -> Iterator[Limit]:
    for name, what in (("read_rate_limit", "reads"), ("write_rate_limit", "writes")):
        value = strict.get(name)
        if value is not None and (side, what) != ("source", "writes"):
            yield Limit(
                side,
                name,
                value,
                f"{what} of the migration count too: beyond it commands and applications are refused (429)",
            )
