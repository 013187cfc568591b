"""
What a call of the application has come to, for those who watch: metrics, spans, logs.

Nobody decides anything by it.  It is set only while a migration has the collection in hand and somebody watches.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from qferry.protocol.phases import Side


@dataclass
class Seen:
    """One call."""

    side: Side | None = None  # where a read was sent; None: it was not decided yet
    fell_back: bool = False  # the target failed at it, and the source answered in its place
    mended: bool = False  # a write brought a point that the target lacked


SEEN: ContextVar[Seen | None] = ContextVar("qferry_seen", default=None)


def note_side(side: Side) -> None:
    """A read goes to `side`."""
    seen = SEEN.get()
    if seen is not None:
        seen.side = side


def note_fallback() -> None:
    """The target has failed at a read, and the source is asked."""
    seen = SEEN.get()
    if seen is not None:
        seen.side, seen.fell_back = Side.TARGET, True


def note_mended() -> None:
    """A write brings a point that the target lacks."""
    seen = SEEN.get()
    if seen is not None:
        seen.mended = True
