"""What `qferry plan` has found out beside the plan itself."""

from __future__ import annotations

from dataclasses import dataclass

from qferry.planning import Plan

YES, NO, UNKNOWN = "yes", "no", "unknown"


@dataclass(frozen=True)
class Peer:
    """One node of a cluster; without a `version` nobody has told it."""

    id: str
    uri: str
    version: str


@dataclass(frozen=True)
class Server:
    """
    One server.

    Args:
        side: `source` or `target`; a server that is both is told once, as the source's.
        version: That of the node that was asked.
        peers: All nodes, if it is a cluster.
        note: What of it cannot be known.
    """

    side: str
    version: str
    peers: tuple[Peer, ...]
    note: str


@dataclass(frozen=True)
class Gate:
    """What depends on what a server can do, and how it was decided."""

    gate: str
    decision: str
    because: str


@dataclass(frozen=True)
class Limit:
    """A limit, of strict mode or of the server, that does not forbid the migration but would hit on the way."""

    side: str
    name: str
    value: bool | int
    effect: str


@dataclass(frozen=True)
class Alias:
    """A name by which applications may call the source, and what becomes of it."""

    name: str
    at_finish: str


@dataclass(frozen=True)
class Size:
    """How large the source is; `vectors` and bytes go by its first points, and are None if none could be read."""

    points: int
    vectors: int | None
    vector_bytes: int | None
    payload_bytes: int | None

    @property
    def total_bytes(self) -> int | None:
        """Vectors and payloads; neither indexes nor logs."""
        if self.vector_bytes is None or self.payload_bytes is None:
            return None
        return self.vector_bytes + self.payload_bytes


@dataclass(frozen=True)
class Sample:
    """Points that were read as a copy reads them, in one range: how many, how large, how fast the fastest page was."""

    way: str  # gRPC or REST
    points: int
    page_bytes: int
    seconds: float
    points_per_s: float


@dataclass(frozen=True)
class Estimate:
    """
    What it will take at the least.

    Args:
        room_bytes: Disk on the target's server, in bytes; None: not known.
        copy_s: Seconds that the points need to be read for the copy; None: not known.
        verify_s: The same for the comparison.
        leaves_out: What is not in these numbers.
    """

    room_bytes: int | None
    copy_s: float | None
    verify_s: float | None
    leaves_out: str


@dataclass(frozen=True)
class Machine:
    """What the target's server tells of its machine, in bytes; None where it does not tell."""

    memory_bytes: int | None
    memory_used_bytes: int | None
    disk_bytes: int | None
    note: str


@dataclass(frozen=True)
class Token:
    """A key that is a JWT, by its own words; nobody has checked its signature."""

    expires_at: str | None
    access: str
    condition: str  # of a token that is valid only while a certain point exists


@dataclass(frozen=True)
class Key:
    """What is known of the key for a server; never the key itself."""

    side: str
    given: bool
    token: Token | None


@dataclass(frozen=True)
class Right:
    """Something the key must allow: `yes`, `no`, or `unknown`."""

    side: str
    right: str
    granted: str
    because: str
    needed_for: str


@dataclass(frozen=True)
class Registered:
    """A process of the application that has registered and not said goodbye."""

    host: str
    pid: int
    since: str
    pins: str


@dataclass(frozen=True)
class Connected:
    """Who is connected; `known` is False if nobody can tell."""

    known: bool
    writers: tuple[Registered, ...]
    note: str


@dataclass(frozen=True)
class Preflight:
    """Everything that was looked at, and in `warnings` what needs somebody's attention."""

    warnings: tuple[str, ...]
    servers: tuple[Server, ...]
    gates: tuple[Gate, ...]
    limits: tuple[Limit, ...]
    aliases: tuple[Alias, ...]
    size: Size
    sample: Sample | None
    estimate: Estimate
    machine: Machine
    keys: tuple[Key, ...]
    rights: tuple[Right, ...]
    connected: Connected


@dataclass(frozen=True)
class Forecast(Plan):
    """What a migration would be, and everything that was looked at beforehand."""

    preflight: Preflight
