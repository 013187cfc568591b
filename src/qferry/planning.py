"""What is read and asked before a migration begins: what it would be, and whether it can be done at all."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qferry.control import wire
from qferry.errors import Refused, Rejected
from qferry.flows import configuration
from qferry.flows.copy import PAGE_POINTS_MAX
from qferry.flows.effects import Flow, Json
from qferry.flows.write import RESOLVE_POINTS
from qferry.naming import check_collection_name
from qferry.protocol.phases import Phase
from qferry.protocol.records import CONTROL_COLLECTION, HOME, Migration, Strategy

# Before 1.14 a scroll under load may lose points (qdrant#6289), and every check rests on scrolls; tests run on 1.16.3.
OLDEST_SERVER = (1, 14)
# Servers from the first on say whether they restore a snapshot, and the proof that none is restored late was made for
# servers before the second (docs/adr/0013).
SNAPSHOTS_FROM, SNAPSHOTS_BEFORE = (1, 16), (1, 17)
# How many copies of a point a target on a cluster may have (docs/adr/0009).
COPIES = (1, 2)
# The largest pages and conditions of the protocol, by the name of the limit that may forbid them.
STRICT_MODE_NEEDS = {
    "max_query_limit": PAGE_POINTS_MAX,
    "upsert_max_batchsize": PAGE_POINTS_MAX,
    "condition_max_size": RESOLVE_POINTS,
    "filter_max_conditions": 10,
}


@dataclass(frozen=True)
class Plan:
    """What a migration of one collection would be."""

    source: str
    target: str
    points: int
    server_version: str
    shards: int
    indexes: tuple[str, ...]
    aliases: tuple[str, ...]
    asked_for: str  # the name that was given, where that is an alias
    target_exists: bool
    strategy: str
    because: str  # why that one
    in_place: Mapping[str, Any] | None  # what to send to the server to have the overrides without a migration
    steps: tuple[str, ...]


def server_version(server: str) -> Flow[str]:
    """
    The version of a server.

    Raises:
        Refused: It is older than what the protocol was written for.
    """
    answer = yield wire.version(server)
    found = str(answer.get("version")) if isinstance(answer, dict) else ""
    if "qdrant" not in str(answer).lower():
        raise Refused("What answers at that URL is not a Qdrant server.", hint="Check the URL and the port.")
    if numbers(found) < OLDEST_SERVER:
        oldest = ".".join(map(str, OLDEST_SERVER))
        raise Refused(f"The server runs Qdrant {found}; qferry needs {oldest} or newer.", hint="Upgrade it first.")
    return found


def plan(
    other: str, asked_for: str, target: str, overrides: Mapping[str, Any], wanted: Strategy | None = None
) -> Flow[Plan]:
    """
    Read everything a migration to the server `other` needs to know; changes nothing.

    Without a `wanted` strategy it is a snapshot where that is possible.

    Raises:
        Refused: It cannot be done; the message says why.
        InvalidName: A name no server would accept.
    """
    check_collection_name(target)
    version = yield from server_version(HOME)
    yield from _single_node(HOME)
    if other:
        yield from server_version(other)
        nodes = yield from _nodes(other)
        _right_for_cluster(nodes, overrides)
    listed = (yield wire.aliases(HOME))["aliases"]
    source = next((a["collection_name"] for a in listed if a["alias_name"] == asked_for), asked_for)
    if source == target and not other:
        raise Refused(f"Source and target are the same collection, `{source}`.", hint="Give the target another name.")
    try:
        info = yield wire.info(HOME, source)
    except Rejected as error:
        if not error.missing:
            raise
        raise Refused(
            f"There is no collection `{source}` on this server.", hint="`qferry plan` lists those with legacy names."
        ) from error
    if info["config"]["params"].get("sharding_method") == "custom":
        raise Refused(
            f"`{source}` uses custom sharding, which is not supported yet.",
            hint="Points in different shard keys may share an id; this version would merge them.",
        )
    _refuse_strict_limits(source, info)
    if other and source != target:
        yield from _name_is_free_at_home(target, listed)
    body = configuration.to_create(info, overrides)
    why_not = yield from obstacle(other, overrides)
    if wanted is Strategy.SNAPSHOT and why_not:
        raise Refused(f"A snapshot is not possible: {why_not}.", hint="Leave --strategy out, and points are streamed.")
    if wanted is Strategy.BULK and (body.get("optimizers_config") or {}).get("indexing_threshold") is None:
        raise Refused(
            "No indexing_threshold is named, so there is nothing to go back to after a copy in bulk.",
            hint="Stream it, or give the target one by --set optimizers_config.indexing_threshold=10000.",
        )
    target_exists = yield from _target_is_free(other, target)
    count = (yield wire.count(HOME, source))["count"]
    aliases = tuple(
        a["alias_name"]
        for a in listed
        if a["collection_name"] == source and not a["alias_name"].startswith(CONTROL_COLLECTION)
    )
    return Plan(
        source=source,
        target=target,
        points=count,
        server_version=version,
        shards=body.get("shard_number", 1),
        indexes=tuple(configuration.indexes(info)),
        aliases=aliases,
        asked_for=asked_for,
        target_exists=target_exists,
        strategy=(wanted or (Strategy.STREAM if why_not else Strategy.SNAPSHOT)).value,
        because="asked for" if wanted else why_not or "same configuration, and servers that restore snapshots safely",
        in_place=None if other else configuration.in_place(overrides),
        steps=tuple(
            shlex.join(step.split() + words) + (f" --target-url {shlex.quote(other)}" if other else "")
            for step, words in (
                ("qferry start", [source, target]),
                ("qferry backfill", [source]),
                ("qferry verify", [source]),
                ("qferry switch --percent 100", [source]),
                ("qferry finish", [source]),
                ("qferry cleanup", [source]),
            )
        ),
    )


def obstacle(target_url: str, overrides: Mapping[str, Any]) -> Flow[str]:
    """Why the target cannot be restored from a snapshot of the source; empty if it can."""
    source_version = yield from server_version(HOME)
    target_version = (yield from server_version(target_url)) if target_url else source_version
    for server in {HOME, target_url}:
        if (yield wire.cluster(server)).get("status") == "enabled":
            return "that is proven for servers that are no cluster, and one runs as a cluster of one"
    if overrides:
        return "the target is to be configured differently"
    ours, theirs = numbers(source_version), numbers(target_version)
    for found, words in ((ours, source_version), (theirs, target_version)):
        if not found >= SNAPSHOTS_FROM or found[:2] >= SNAPSHOTS_BEFORE:
            return f"that is proven for servers of 1.16, and one runs {words}"
    if ours[:2] != theirs[:2] or theirs < ours:
        return f"a server with {target_version} does not read snapshots of {source_version}"
    return ""


def numbers(version: str) -> tuple[int, ...]:
    """A version as numbers that can be compared."""
    return tuple(int(n) for n in re.findall(r"\d+", version)[:3])


def _nodes(server: str) -> Flow[int]:
    """How many nodes a server has; one that knows nothing of clusters is one."""
    return len((yield wire.cluster(server)).get("peers") or {}) or 1


def _single_node(server: str) -> Flow[None]:
    """Refuse a source on a cluster (docs/adr/0009)."""
    nodes = yield from _nodes(server)
    if nodes > 1:
        raise Refused(
            f"The source's server is a cluster of {nodes} nodes. Records and journal live next to the source, and "
            "while copies of them are restored no read is sure to show every record that was acknowledged.",
            hint="A cluster can be the target only; nothing was changed.",
        )


def _right_for_cluster(nodes: int, overrides: Mapping[str, Any]) -> None:
    """Refuse a target whose number of copies is not said on a cluster, or is more than can be told apart."""
    copies = overrides.get("replication_factor")
    if nodes == 1 and copies is not None:
        raise Refused(
            "The target's server is a single node, so replication_factor means nothing there.",
            hint="Leave it out.",
        )
    if nodes > 1 and copies not in COPIES:
        raise Refused(
            f"The target's server is a cluster of {nodes} nodes, and each point can have one copy there or two; of "
            "three, no read would show a point that a single copy has kept.",
            hint="Say which with --set replication_factor=2; shard_number and write_consistency_factor may be set too.",
        )


def still_as_planned(m: Migration) -> Flow[None]:
    """Refuse to go on when a single node has become a cluster since, which nothing here would notice."""
    yield from _single_node(HOME)
    if m.phase is Phase.CAPTURING:
        why_not = yield from obstacle(m.target_url, m.overrides)
        if why_not:
            raise Refused(
                f"No snapshot can be restored any more: {why_not}.",
                hint="Run `qferry abort`, then start again; the source is untouched.",
            )
    if m.target_url and not configuration.is_replicated(m.overrides) and (yield from _nodes(m.target_url)) > 1:
        raise Refused(
            "The target's server has become a cluster since the migration was planned for a single node.",
            hint="Remove the other nodes, or abort and start again with --set replication_factor.",
        )


def _refuse_strict_limits(source: str, info: Json) -> None:
    """Refuse a source whose strict mode forbids what clients and coordinator do while it migrates."""
    strict = info["config"].get("strict_mode_config") or {}
    if not strict.get("enabled"):
        return
    hit = [
        f"sets {name} to {strict[name]}, and a migration needs {needed}"
        for name, needed in STRICT_MODE_NEEDS.items()
        if strict.get(name) is not None and strict[name] < needed
    ]
    if strict.get("search_allow_exact") is False:
        hit.append("sets search_allow_exact to false, and a migration counts exactly")
    if hit:
        raise Refused(
            f"The strict mode of `{source}` {'; it '.join(hit)}.",
            hint=f"{'Lift that limit' if len(hit) == 1 else 'Lift these limits'} while the migration lasts.",
        )


def _name_is_free_at_home(target: str, aliases: list[Json]) -> Flow[None]:
    """
    Refuse a target on another server if the source's server knows the name too.

    Applications call by either name, so calls for an unrelated collection of that name would be taken for the target's.
    """
    taken = (yield wire.exists(HOME, target))["exists"] or target in [a["alias_name"] for a in aliases]
    if taken:
        raise Refused(
            f"The source's server has a collection or alias `{target}` of its own.", hint="Choose another name."
        )


def _target_is_free(server: str, target: str) -> Flow[bool]:
    """Whether an empty target exists already; refuses one that is not free."""
    aliases = (yield wire.aliases(server))["aliases"]
    real = next((a["collection_name"] for a in aliases if a["alias_name"] == target), None)
    if real is not None:
        raise Refused(
            f"The target's name `{target}` is an alias of `{real}`.", hint="Choose another name, or remove the alias."
        )
    if not (yield wire.exists(server, target))["exists"]:
        return False
    if (yield wire.count(server, target))["count"]:
        raise Refused(
            f"The target `{target}` exists and is not empty, and no migration of yours made it.",
            hint="Choose another name; qferry writes into no collection that it has not begun itself.",
        )
    raise Refused(
        f"The target `{target}` exists already.",
        hint="Delete the empty collection or choose another name; qferry creates the target itself.",
    )
