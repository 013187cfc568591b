"""What the tests of both drivers share: a session in the middle of a migration, and clients that connect to nothing."""

from typing import Any

from qferry.flows.effects import Flow
from qferry.protocol.phases import Phase
from qferry.protocol.records import Migration, Pins
from qferry.protocol.session import Session

MIGRATION = Migration("m1", "a", "b", ("a", "b"), phase=Phase.COPIED, epoch=1)


def session() -> Session:
    """Return a session of a client that writes to both sides; its lease does not end."""
    found = Session("w", "host", 1, "now", Pins(), random=lambda: 0.5)
    found.adopt([MIGRATION], sent_at=float("inf"), now=0.0)
    return found


def one(effect: Any) -> Flow[Any]:
    """A flow of one effect."""
    return (yield effect)
