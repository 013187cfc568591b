"""Settings of a client."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from qferry.errors import Misuse
from qferry.protocol.records import HEARTBEAT_S, LEASE_S, Pins

_TRUE, _FALSE = frozenset({"true", "1", "yes", "on"}), frozenset({"false", "0", "no", "off"})

_PORT_MAX = 65535


@dataclass(frozen=True, kw_only=True)
class FerryOptions:
    """
    What a `FerryClient` may be told beyond qdrant-client's own arguments.

    Args:
        dual_write: `ENABLE_DUAL_WRITE`. False keeps this process's writes on the collection that is truth; the
            journal then carries them, and no switch or finish happens while the process lives. True states the
            default. None follows the migration.
        new_reads: `ENABLE_NEW_READS`. True reads from the target as soon as the switch has passed its gates, False
            reads from the source until finish. None follows the migration's read share.
        target_api_key: `QFERRY_TARGET_API_KEY`. The key for the target's server where that is another one; by
            default the client's own.
        target_grpc_port: `QFERRY_TARGET_GRPC_PORT`. Where the target's server listens for gRPC, if that is another
            server and another port than the client's own `grpc_port`.
        journal_before: `QFERRY_JOURNAL_BEFORE`. Make the ids durable before each write: one round trip more, and a
            process that is killed then leaves nothing that only a full check can find.
        allow_raw: Give out the raw `http` and `grpc_*` handles, whose calls no migration sees.
        metrics: `QFERRY_METRICS`. Report to prometheus-client's default registry, which the application serves; needs
            `qferry[metrics]`.
        heartbeat_s: Seconds between heartbeats, below the lease of 5 seconds.
    """

    dual_write: bool | None = None
    new_reads: bool | None = None
    target_api_key: str | None = field(default=None, repr=False)
    target_grpc_port: int | None = None
    journal_before: bool = False
    allow_raw: bool = False
    metrics: bool = False
    heartbeat_s: float = HEARTBEAT_S

    def __post_init__(self) -> None:
        if not 0 < self.heartbeat_s <= LEASE_S / 2:
            raise Misuse(
                f"A heartbeat of {self.heartbeat_s} s does not keep a lease of {LEASE_S} s.",
                hint=f"Choose more than 0 and at most {LEASE_S / 2} seconds.",
            )

    @property
    def pins(self) -> Pins:
        """What is fixed for this process."""
        return Pins(self.dual_write, self.new_reads)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> FerryOptions:
        """
        The options the environment names; what a client without `ferry=` uses.

        Raises:
            Misuse: A flag is neither true nor false.
        """
        return cls(
            dual_write=_flag(environ, "ENABLE_DUAL_WRITE"),
            new_reads=_flag(environ, "ENABLE_NEW_READS"),
            target_api_key=environ.get("QFERRY_TARGET_API_KEY"),
            target_grpc_port=_port(environ, "QFERRY_TARGET_GRPC_PORT"),
            journal_before=bool(_flag(environ, "QFERRY_JOURNAL_BEFORE")),
            metrics=bool(_flag(environ, "QFERRY_METRICS")),
        )


def _flag(environ: Mapping[str, str], name: str) -> bool | None:
    value = environ.get(name, "").strip().lower()
    if not value:
        return None
    if value in _TRUE | _FALSE:
        return value in _TRUE
    raise Misuse(f"{name}={environ[name]!r} is neither true nor false.", hint="Use `true`, `false`, or leave it unset.")


def _port(environ: Mapping[str, str], name: str) -> int | None:
    value = environ.get(name, "").strip()
    if not value:
        return None
    if value.isdecimal() and 0 < int(value) <= _PORT_MAX:
        return int(value)
    raise Misuse(f"{name}={environ[name]!r} is no port.", hint=f"Use a number up to {_PORT_MAX}, or leave it unset.")
