"""
What is remembered about migrations and writers, and the plain form in which it is stored.

Records carry `format`; one that this version does not know is refused rather than guessed at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import Enum
from functools import cache
from typing import Any, TypeVar

from qferry.errors import Refused
from qferry.protocol.canary import Tolerance
from qferry.protocol.phases import ROUTING, TARGET_IS_TRUTH, Phase, Routing, Side
from qferry.protocol.throttle import Limits

E = TypeVar("E", bound=Enum)

FORMAT = 1
CONTROL_COLLECTION = "_qferry"
# The server a client was made for: the source's, where the records are.
HOME = ""

# A writer may go on for this long on the routing it read last.  Both sides of the protocol must agree on it, so it
# is a constant and not a setting: the coordinator waits it out for clients it cannot see.
LEASE_S = 5.0
# Clocks of two machines may differ in rate, and an answer needs time to arrive: the coordinator waits this much more.
LEASE_MARGIN_S = 1.0
HEARTBEAT_S = 1.0
# A coordinator's claim lapses when its beat has not moved for this long.
CLAIM_S = 10.0


class WritePolicy(str, Enum):
    """When a dual write counts as successful."""

    BOTH = "both"  # both sides have it: the document's rule, and always in force once readers see the target
    SOURCE_FIRST = "source_first"  # the source has it, and the ids are durable in the journal if the target has not


class Strategy(str, Enum):
    """How the target comes by what was written before the migration."""

    STREAM = "stream"  # page by page
    BULK = "bulk"  # the same, and the target builds its vector indexes only when everything is there
    SNAPSHOT = "snapshot"  # as the server's own copy of the source's files, indexes included


@dataclass(frozen=True)
class Migration:
    """One source, one target, one control record."""

    id: str
    source: str
    target: str
    names: tuple[str, ...]  # every name under which an application may call: source, target, aliases, older names
    target_url: str = HOME
    phase: Phase = Phase.PREPARING
    epoch: int = 1
    read_percent: int = 0
    reads_held: bool = False  # readers see the source meanwhile, because points of the target are being repaired
    # Why readers see the source meanwhile: a client has found its reads on the target to fail, or to be slow.  Set by
    # clients, once an epoch, and emptied by the coordinator; it does not raise the epoch (docs/adr/0018).
    stepped_back: str = ""
    canary_max_errors_percent: float = 5.0
    canary_max_ms: float = 0.0
    shadow_percent: float = 0.0  # the share of the reads that is repeated on the other side, for comparison
    shadow_since: int = 0  # the epoch at which that was asked for; what was compared before does not count
    policy: WritePolicy = WritePolicy.BOTH
    strategy: Strategy = Strategy.STREAM
    archive: Mapping[str, Any] = field(default_factory=dict)  # what is known of the snapshot; empty: there is none
    claim: str = ""  # the token of the coordinator at work; empty when none is
    claim_by: str = ""  # its host and pid, for people
    claim_beat: int = 0
    created_at: str = ""
    generation: int = 0  # later migrations have higher ones
    expected_points: int = 0
    copied_points: int = 0
    plan: str = ""  # the record of the copy's ranges; empty before they are drawn, and after the copy
    verified: Mapping[str, Any] | None = (
        None  # evidence of the last clean full check; None: not, or no longer, verified
    )
    parity: Mapping[str, Any] | None = None  # what came of the last comparison of searches; None: there was none since
    comparison: str = ""  # the record of the last comparison of every point, complete or not; empty: there is none
    mend: str = ""  # the alias through which writers bring a point that the target lacks, while readers see the target
    suspicions: tuple[str, ...] = ()  # reasons why only a full check may be trusted
    finished_at: str | None = None
    cleanup_after: str | None = None
    aliases: tuple[str, ...] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    # How fast copies and comparisons may go.  Set by anyone at any time, one by one, and never by the coordinator,
    # which says in `pace` what it makes of them.
    max_points_per_s: float = 0
    max_latency_ms: float = 0
    quiet_hours: str = ""
    paused: bool = False
    pace: str = ""
    format: int = FORMAT

    @property
    def limits(self) -> Limits:
        """How fast copies and comparisons may go."""
        return Limits(self.max_points_per_s, self.max_latency_ms, self.quiet_hours, self.paused)

    @property
    def tolerance(self) -> Tolerance:
        """What readers put up with on the target."""
        return Tolerance(self.canary_max_errors_percent, self.canary_max_ms)

    @property
    def searches_proven(self) -> bool:
        """Whether searches on the target were compared with the source's, and are as good."""
        return bool((self.parity or {}).get("passed"))

    @property
    def routing(self) -> Routing:
        """What a client without pins does with a write."""
        return ROUTING[self.phase]

    @property
    def truth(self) -> Side:
        """The side whose answer counts and on which filters are resolved."""
        return Side.TARGET if self.phase in TARGET_IS_TRUTH else Side.SOURCE

    @property
    def journal_collection(self) -> str:
        """The durable journal, next to the source."""
        return f"{CONTROL_COLLECTION}_journal_{self.id[:8]}"

    @property
    def prefix(self) -> str:
        """What the name of every alias begins with that this migration makes, and of all but one of its collections."""
        return f"{CONTROL_COLLECTION}_{self.id[:8]}_"

    def collection(self, side: Side) -> str:
        """The collection's real name on `side`."""
        return self.source if side is Side.SOURCE else self.target

    def server(self, side: Side) -> str:
        """The server `side` is on."""
        return HOME if side is Side.SOURCE else self.target_url

    def marker(self, side: Side) -> str:
        """
        The alias that says "this very collection belongs to this migration".

        The server drops an alias together with its collection, so one that was deleted and made anew is not marked.
        """
        return f"{self.prefix}{side.value}"

    @property
    def mend_prefix(self) -> str:
        """What every alias for mending begins with."""
        return f"{self.prefix}mend_"

    @property
    def fence_prefix(self) -> str:
        """What every fence alias of this migration begins with."""
        return f"{self.prefix}fence_"

    def fence(self, token: str) -> str:
        """The alias through which the coordinator holding `token` writes to the target."""
        return f"{self.fence_prefix}{token}"

    def to_payload(self) -> dict[str, Any]:
        """The record as a payload."""
        return {"kind": "migration", **_plain(self)}

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> Migration:
        """
        Read a record.

        Raises:
            Refused: it was written in a format this version does not know, or says what this version cannot do.
        """
        values = _known_fields(cls, payload, "migration")
        for name in ("names", "suspicions", "aliases"):
            values[name] = tuple(values.get(name) or ())
        values["phase"] = _member(Phase, values["phase"])
        values["policy"] = _member(WritePolicy, values["policy"])
        values["strategy"] = _member(Strategy, values.get("strategy", Strategy.STREAM))
        return cls(**values)

    def with_changes(self, changes: Mapping[str, Any]) -> Migration:
        """A copy with `changes` applied."""
        return replace(self, **changes)


@dataclass(frozen=True)
class Pins:
    """
    What the environment fixes for one process; `None` leaves it to the control record.

    Args:
        dual_write: `ENABLE_DUAL_WRITE`: False keeps this process's writes on the side that is truth.
        new_reads: `ENABLE_NEW_READS`: True reads from the target once it is verified, False from the truth.
    """

    dual_write: bool | None = None
    new_reads: bool | None = None

    def describe(self) -> str:
        """The pins as the operator set them; empty when there are none."""
        named = {"ENABLE_DUAL_WRITE": self.dual_write, "ENABLE_NEW_READS": self.new_reads}
        return ", ".join(f"{name}={str(value).lower()}" for name, value in named.items() if value is not None)


@dataclass(frozen=True)
class Writer:
    """One process's client, as it last reported itself."""

    id: str
    host: str
    pid: int
    since: str
    beat: int
    seen: Mapping[str, int]  # migration id -> epoch it routes new calls by
    acked: Mapping[str, int]  # migration id -> epoch such that every earlier call has ended and been flushed
    debts: Mapping[str, int]  # migration id -> ids not yet flushed
    suspects: Mapping[str, int] = field(
        default_factory=dict
    )  # migration id -> which time it cannot say what it touched
    pins: Pins = Pins()
    calls: int = 0
    busy_s: float = 0.0  # how long the oldest call that holds up an acknowledgement has been running
    p99_ms: float | None = None  # what its slowest calls since the last beat took; None: none was made, or timed
    failed: Mapping[str, int] = field(default_factory=dict)  # migration id -> writes that failed on one side
    shadow: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # migration id -> shadow.Totals
    format: int = FORMAT

    def describe(self) -> str:
        """The writer as a person would look for it."""
        return f"{self.host} pid {self.pid} (connected since {self.since})"

    def to_payload(self) -> dict[str, Any]:
        """The record as a payload."""
        return {"kind": "writer", **_plain(self), "pins": _plain(self.pins)}

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> Writer:
        """Read a record; raises `Refused` for an unknown format."""
        values = _known_fields(cls, payload, "writer")
        values["pins"] = Pins(**values["pins"])
        return cls(**values)


def dashed(digits: str) -> str:
    """A new id's 32 digits as the UUID that names a record."""
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def suspicion_name(writer_id: str, occurrence: int) -> str:
    """What identifies one suspicion that a writer has raised about itself."""
    return f"[{writer_id} no. {occurrence}]"


def _plain(record: Any) -> dict[str, Any]:
    values = ((name, getattr(record, name)) for name in _names(record.__class__))
    return {name: value.value if isinstance(value, Enum) else value for name, value in values}


@cache
def _names(cls: type[Any]) -> tuple[str, ...]:
    return tuple(f.name for f in fields(cls))


def _member(of: type[E], value: Any) -> E:
    try:
        return of(value)
    except ValueError as error:
        raise Refused(
            f"A migration record says `{value}`, which this version of qferry does not know.",
            hint="Use the version of qferry that wrote it; nothing was changed.",
        ) from error


def _known_fields(cls: Any, payload: Mapping[str, Any], what: str) -> dict[str, Any]:
    if payload.get("format") != FORMAT:
        raise Refused(
            f"A {what} record has format {payload.get('format')!r}, and this version of qferry knows only {FORMAT}.",
            hint="Use the version of qferry that wrote it; nothing was changed.",
        )
    return {name: payload[name] for name in _names(cls) if name in payload}
