"""
How fast a copy or a comparison may go: what the operator allows, and what the application and the server bear.

Two kinds of reasons.  Some make it *stand still* until they are over: a pause, the hours outside the quiet ones, a
target in trouble.  Under *pressure* (latency above its limit, a long queue of updates, memory that fills) it backs
off at once to half and recovers by and by; never below `FLOOR_POINTS_PER_S`, so that it also ends on a server that is
never idle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

INF = float("inf")
# Under pressure never slower than this.
FLOOR_POINTS_PER_S = 50.0
BACK_OFF, RECOVERY = 0.5, 1.1
# Clients report once a second and pieces last about one: what a change has led to is seen so many looks later.
LOOKS_TO_SEE = 2
# Updates that wait on the target.  The copy itself waits for each of its own, so these are others'.
QUEUE_LONG = 100
# The share of its machine's memory from which on a server is given more to hold only slowly.
MEMORY_FULL = 0.9
_MINUTES = 24 * 60


@dataclass(frozen=True)
class QuietHours:
    """
    A span of the day, in UTC; it may go across midnight.

    Args:
        begin: Its first minute of the day.
        end: The first minute that is not in it any more.
    """

    begin: int
    end: int

    @classmethod
    def parse(cls, text: str) -> QuietHours:
        """
        Read `22:00-06:00`.

        Raises:
            ValueError: It is no such text.
        """
        begin, dash, end = text.partition("-")
        hours = cls(_minute(begin), _minute(end)) if dash else None
        if hours is None or hours.begin == hours.end:
            raise ValueError(f"{text!r} is no span of the day")
        return hours

    def holds_at(self, minute: int) -> bool:
        """Whether a minute of the day is in it."""
        return (minute - self.begin) % _MINUTES < (self.end - self.begin) % _MINUTES


def _minute(text: str) -> int:
    """`06:30` as a minute of the day; `24:00` is the end of it, which is its beginning."""
    hours, colon, minutes = text.strip().partition(":")
    fits = colon and hours.isdecimal() and minutes.isdecimal() and text.isascii()
    minute = int(hours) * 60 + int(minutes) if fits and len(minutes) == len("00") else -1
    if not 0 <= minute <= _MINUTES or int(minutes) >= 60:  # noqa: PLR2004  minutes of an hour
        raise ValueError(f"{text!r} is no time of the day")
    return minute % _MINUTES


@dataclass(frozen=True)
class Limits:
    """
    What the operator allows.

    Args:
        max_points_per_s: Points copied or compared in a second; 0: no limit.
        max_latency_ms: What the application's slowest calls may take; 0: no limit.
        quiet_hours: When it may go on, as `22:00-06:00` in UTC; empty: at any time.
        paused: Whether it stands still.
    """

    max_points_per_s: float = 0
    max_latency_ms: float = 0
    quiet_hours: str = ""
    paused: bool = False

    @classmethod
    def checked(cls, changes: Mapping[str, Any]) -> dict[str, Any]:
        """
        Some of these, by name, as they may be set.

        Raises:
            ValueError: One of them is no limit, or is out of range.
        """
        known = {"max_points_per_s", "max_latency_ms", "quiet_hours", "paused"}
        if not changes.keys() <= known:
            raise ValueError(f"{min(changes.keys() - known)} is no limit")
        # Less than a point a second would be slower than a claim lasts.
        for name, least in (("max_points_per_s", 1), ("max_latency_ms", 0)):
            if not (changes.get(name, 0) == 0 or least <= changes[name] < INF):
                raise ValueError(f"{name} is {changes[name]}, and must be 0 (no limit) or at least {least}")
        if changes.get("quiet_hours"):
            QuietHours.parse(changes["quiet_hours"])
        return dict(changes)


@dataclass(frozen=True)
class Signals:
    """
    What is known of the moment; None is not known.

    Args:
        minute: The minute of the day, in UTC.
        points_per_s: How fast it has been going since the look before.
        application_p99_ms: The slowest of the clients' own p99, as their last heartbeats say.
        probe_ms: How long the coordinator's own reads of the source have been taking.
        failing: Whether the target reports a failure of its own.
        queue: Updates that wait on the target.
        memory_share: The share of its machine's memory that the target's server holds.
    """

    minute: int = 0
    points_per_s: float = 0.0
    application_p99_ms: float | None = None
    probe_ms: float | None = None
    failing: bool = False
    queue: int | None = None
    memory_share: float | None = None


@dataclass(frozen=True)
class Pace:
    """How fast it may go, and why not faster."""

    points_per_s: float = INF
    reason: str = ""

    @property
    def stands_still(self) -> bool:
        """Whether nothing may begin."""
        return not self.points_per_s

    def __str__(self) -> str:
        """For people; empty when nothing holds it up."""
        if self.stands_still:
            return f"stands still: {self.reason}"
        return f"{self.points_per_s:,.0f} points/s: {self.reason}" if self.reason else ""


# What each reason says that no other one does, the most telling first: one that is over names the one before.
_MARKS = {
    "recovering": "speeding up again",
    "paused": "stands still: paused",
    "quiet_hours": "in the quiet hours",
    "target_failing": "the target reports an error",
    "application_latency": "the application's p99",
    "read_latency": "a read of one point takes",
    "update_queue": "updates wait on the target",
    "memory": "of its machine's memory",
    "limit": "the limit that is set",
}
REASONS = (*_MARKS, "other")


def reason_of(pace: str) -> str | None:
    """Which of `REASONS` a recorded `Pace` gives; None if nothing holds it up."""
    return next((reason for reason, mark in _MARKS.items() if mark in pace), "other") if pace else None


def points_per_s_of(pace: str) -> float | None:
    """How fast a recorded `Pace` lets it go; None if as fast as it can."""
    if pace.startswith("stands still"):
        return 0.0
    number = pace.partition(" points/s")[0].replace(",", "")
    return float(number) if number.isdecimal() else None


class Governor:
    """What is allowed from one look to the next."""

    def __init__(self) -> None:
        self._ceiling = INF  # what back-off and recovery have led to
        self._peak = FLOOR_POINTS_PER_S  # how fast it has gone
        self._unseen = 0  # looks until the last change shows
        self._why = ""

    def pace(self, limits: Limits, signals: Signals) -> Pace:
        """How fast it may go until the next look."""
        halt = _halt(limits, signals)
        if halt:
            return Pace(0.0, halt)
        most = limits.max_points_per_s or INF
        pressure = _pressure(limits, signals)
        self._peak = max(self._peak, signals.points_per_s)
        self._unseen -= self._unseen > 0
        if pressure:
            self._why = pressure
        if pressure and not self._unseen:
            self._ceiling = max(FLOOR_POINTS_PER_S, BACK_OFF * min(self._ceiling, self._peak, most))
            self._unseen = LOOKS_TO_SEE
        elif not pressure and not self._unseen:
            self._ceiling *= RECOVERY
        if not pressure and self._ceiling >= min(most, 2 * self._peak):
            self._ceiling = INF
        allowed = min(most, self._ceiling)
        if pressure:
            return Pace(allowed, pressure)
        if self._ceiling < INF:
            return Pace(allowed, f"speeding up again; a moment ago: {self._why}")
        return Pace(allowed, "the limit that is set" if most < INF else "")


def _halt(limits: Limits, signals: Signals) -> str:
    """Why nothing may go on at all; empty if it may."""
    if limits.paused:
        return "paused; `qferry throttle --resume` lets it go on"
    if limits.quiet_hours and not QuietHours.parse(limits.quiet_hours).holds_at(signals.minute):
        return f"it goes on in the quiet hours, {limits.quiet_hours} UTC"
    if signals.failing:
        return "the target reports an error of its optimizer or its storage; see the server's log"
    return ""


def _pressure(limits: Limits, signals: Signals) -> str:
    """Why it should be slower than it is; empty if nothing is wrong."""
    limit = limits.max_latency_ms
    if limit and signals.application_p99_ms is not None and signals.application_p99_ms > limit:
        return f"the application's p99 is {signals.application_p99_ms:.0f} ms, the limit {limit:g} ms"
    if limit and signals.probe_ms is not None and signals.probe_ms > limit:
        return f"a read of one point takes {signals.probe_ms:.0f} ms, the limit is {limit:g} ms"
    if signals.queue is not None and signals.queue > QUEUE_LONG:
        return f"{signals.queue:,} updates wait on the target"
    if signals.memory_share is not None and signals.memory_share >= MEMORY_FULL:
        return f"the target's server holds {signals.memory_share:.0%} of its machine's memory"
    return ""
