"""Everything that can be known before a migration, put together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from qferry.control import records, wire
from qferry.errors import Refused, RemoteFailure
from qferry.flows import configuration
from qferry.flows.effects import Flow, Json, Today
from qferry.planning import Plan
from qferry.preflight import gates, rights, sample
from qferry.preflight.gates import Line
from qferry.preflight.report import Alias, Connected, Key, Preflight, Registered
from qferry.protocol.records import CONTROL_COLLECTION, HOME

_INVISIBLE = (
    "Processes that write without qferry are on no list and cannot be seen; `verify` finds what they have written."
)
_HELD = "A process that was killed stays listed until a command or `qferry doctor` misses its heartbeat."
_OF_APPLICATIONS = (
    "The keys of the applications cannot be looked at from here: those that write need access to `_qferry` and "
    "`_qferry_journal_*`."
)


def look(
    planned: Plan,
    other: str,
    overrides: Mapping[str, Any],
    *,
    keys: Mapping[str, Key],
    lines: Mapping[str, Line],
    fetched: bool,
) -> Flow[Preflight]:
    """
    Look at everything that a planned migration will meet; changes nothing.

    Reads at most 2,000 points of the source, for about 2 seconds, and asks each server some requests that fail.

    Args:
        planned: The migration.
        other: The target's server, if that is another one.
        overrides: As for `plan`.
        keys: What is known of the servers' keys, by server.
        lines: The servers' gRPC ports, by side.
        fetched: Whether the target's server may fetch a snapshot itself.

    Raises:
        RemoteFailure: A server does not answer any more.
    """
    info = yield wire.info(HOME, planned.source)
    servers = [(yield from gates.server("source", HOME))]
    if other:
        servers.append((yield from gates.server("target", other)))
    found = yield from sample.size(planned, info)
    by_grpc = all(line.answers for line in lines.values())
    measured = yield from sample.measured(planned.source, way="gRPC" if by_grpc else "REST")
    wanted = configuration.to_create(info, overrides)
    # Only on a cluster a point has copies, and there their number is said; a single node may be configured for more.
    least = sample.estimate(planned, found, measured, overrides.get("replication_factor", 1))
    told = {HOME: (yield from _telemetry(HOME))}
    if other:
        told[other] = yield from _telemetry(other)
    there = sample.machine(told[other])
    allowed = yield from rights.rights(planned, other, told)
    connected = yield from _connected()
    limits = (
        *gates.limits(planned, info, overrides, found),
        *gates.room_for_collections("source", told[HOME], _at_home(other, connected)),
        *(gates.room_for_collections("target", told[other], 1) if other else ()),
    )
    today: str = yield Today()
    seconds = (least.copy_s or 0) + (least.verify_s or 0)
    return Preflight(
        warnings=(
            *rights.warnings(allowed, keys, today, seconds),
            *(f"The {one.side}'s limit {one.name} is {one.value}: {one.effect}." for one in limits),
            *sample.short_of_room(there, least, found, in_memory=_in_memory(wanted), beside=not other),
            *sample.never_equal(info["config"]["params"]),
            *_pinned(connected),
        ),
        servers=tuple(servers),
        gates=tuple(gates.gates(planned, tuple(servers), lines, fetched=fetched)),
        limits=limits,
        aliases=tuple(_aliases(planned, other)),
        size=found,
        sample=measured,
        estimate=least,
        machine=there,
        keys=tuple(keys.values()),
        rights=allowed,
        connected=connected,
    )


def _telemetry(where: str) -> Flow[Json | RemoteFailure]:
    try:
        return (yield wire.telemetry(where))
    except RemoteFailure as error:
        return error  # what a server does not tell, the report says so


def _at_home(other: str, connected: Connected) -> int:
    """How many collections a migration makes on the source's server: a journal, the first records, and the target."""
    return 1 + (not connected.known) + (not other)


def _in_memory(wanted: Json) -> bool:
    """Whether the target keeps vectors in memory, going by their configuration."""
    return any(not vector.get("on_disk") for vector in sample.dense(wanted.get("vectors") or {}).values())


def _aliases(planned: Plan, other: str) -> Iterator[Alias]:
    moves = f"is moved to `{planned.target}`"
    stays = f"stays with `{planned.source}`, on whose server the target is not: give it up before `cleanup`"
    for name in planned.aliases:
        yield Alias(name, stays if other else moves)


def _connected() -> Flow[Connected]:
    try:
        if not (yield wire.exists(HOME, CONTROL_COLLECTION))["exists"]:
            note = "Nobody can be known before the first `qferry start` on this server: until then clients only look."
            return Connected(known=False, writers=(), note=f"{note} {_INVISIBLE} {_OF_APPLICATIONS}")
        listed = yield from records.writers()
    except (RemoteFailure, Refused) as error:
        return Connected(known=False, writers=(), note=f"Who is connected cannot be read: {error.message} {_INVISIBLE}")
    writers = tuple(
        Registered(w.host, w.pid, w.since, w.pins.describe()) for w in sorted(listed, key=lambda w: w.since)
    )
    return Connected(known=True, writers=writers, note=f"{_HELD} {_INVISIBLE} {_OF_APPLICATIONS}")


def _pinned(connected: Connected) -> Iterator[str]:
    for writer in connected.writers:
        if "=false" in writer.pins:
            yield (
                f"{writer.host} pid {writer.pid} is pinned by {writer.pins}; `switch` or `finish` may be refused while "
                "it lives (docs/settings.md)."
            )
