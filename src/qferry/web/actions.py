"""What an operator may do to a migration from a page: when, with which settings, and what has to be typed for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from qferry import commands
from qferry.cli.app import SAFETY_DAYS_MAX
from qferry.commands import DEFAULT_SAFETY_DAYS, Seen
from qferry.connection import Connection
from qferry.consequences import CONSEQUENCES, Consequence
from qferry.errors import Misuse
from qferry.protocol.phases import JOURNALLED, TRANSITIONS, Event, Phase
from qferry.protocol.records import Migration, Strategy
from qferry.protocol.throttle import QuietHours

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Field:
    """
    One setting of an action.

    Args:
        name: Of the setting.
        label: What it is called.
        kind: The type of the form's input; `checkbox` for yes or no.
        read: Makes the setting of what was typed; raises `ValueError` if it is none.
        shown: What the form shows at first.
        note: What it means.
        least: The smallest number.
        most: The largest.
        step: From one number to the next; `any`: every fraction.
    """

    name: str
    label: str
    kind: str
    read: Callable[[str], Any]
    shown: Callable[[Migration], Any]
    note: str = ""
    least: float | None = None
    most: float | None = None
    step: str = "any"


@dataclass(frozen=True)
class Action:
    """
    One command.

    Args:
        verb: Its name, and the last part of its page's address.
        title: What it is called.
        fits: Whether it is possible where a migration stands.
        command: Carries it out: takes connection, source and settings.
        fields: Its settings.
        typed: Whether the source's name has to be typed, because of what cannot be taken back.
        overtakes: Whether it stops a command at work.
        beside: Whether it is done at once, also beside a command at work; it then tells no progress.
    """

    verb: str
    title: str
    fits: Callable[[Migration], bool]
    command: Callable[..., Any]
    fields: tuple[Field, ...] = ()
    typed: bool = False
    overtakes: bool = False
    beside: bool = False

    @property
    def consequence(self) -> Consequence:
        """What will happen."""
        return CONSEQUENCES[self.verb]

    def settings(self, form: Mapping[str, Any]) -> dict[str, Any]:
        """
        What was typed into the form.

        Raises:
            Misuse: Something in it is no such setting; nothing was changed.
        """
        read = {}
        for field in self.fields:
            given = form.get(field.name)
            text = given.strip() if isinstance(given, str) else ""
            try:
                read[field.name] = field.read(text)
            except ValueError as error:
                raise Misuse(f"{field.label}: {text!r} does not fit ({error}).", hint="Nothing was changed.") from error
        return read

    def carry_out(
        self,
        connection: Connection,
        m: Migration,
        seen: Seen,
        settings: Settings,
        report: Callable[[Any], None] = lambda _: None,
    ) -> Any:
        """Do it, unless the migration is not as it was seen any more."""
        more = {} if self.beside else {"report": report}
        return self.command(connection, m.source, settings, seen=seen, **more)


def _number(least: float, most: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        number = float(text or 0)
        if not least <= number <= most:  # nor is "nan" between them
            raise ValueError(f"it must be a number from {least:g} to {most:g}")
        return number

    return read


def _percent(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 0 <= int(text) <= 100:  # noqa: PLR2004  per cent
        raise ValueError("it must be a whole number from 0 to 100")
    return int(text)


def _hours(text: str) -> str:
    if text:
        QuietHours.parse(text)
    return text


_MOST = 1e12
_LIMITS = (
    Field(
        "max_points_per_s",
        "Points per second",
        "number",
        _number(0, _MOST),
        lambda m: f"{m.max_points_per_s:g}",
        "Copied or compared; 0: no limit.",
        least=0,
    ),
    Field(
        "max_latency_ms",
        "Latency of the application, in milliseconds",
        "number",
        _number(0, _MOST),
        lambda m: f"{m.max_latency_ms:g}",
        "It backs off while the application's slowest calls (p99) take longer; 0: no limit.",
        least=0,
    ),
    Field(
        "quiet_hours",
        "Quiet hours, in UTC",
        "text",
        _hours,
        lambda m: m.quiet_hours,
        "Like 22:00-06:00: it stands still outside of them; empty: at any time.",
    ),
    Field(
        "paused",
        "Paused",
        "checkbox",
        lambda text: text == "on",
        lambda m: m.paused,
        "It stands still until this is taken away.",
    ),
)


def _next_percent(m: Migration) -> int:
    return 10 if not m.read_percent else 100


def _throttle(connection: Connection, source: str, settings: Settings, *, seen: Seen) -> Any:
    return commands.throttle(connection, source, limits=settings, seen=seen)


def _plainly(command: Callable[..., Any]) -> Callable[..., Any]:
    def call(connection: Connection, source: str, settings: Settings, **more: Any) -> Any:
        return command(connection, source, **settings, **more)

    return call


def _cleanup(connection: Connection, source: str, settings: Settings, **more: Any) -> Any:
    # The name was typed into the form, which has compared it with this one.
    return commands.cleanup(connection, source, confirm=source, **settings, **more)


def _in(*phases: Phase) -> Callable[[Migration], bool]:
    return lambda m: m.phase in phases


def _can_backfill(m: Migration) -> bool:
    restored = m.phase is Phase.STARTING and m.strategy is Strategy.SNAPSHOT
    return restored or m.phase in (Phase.CAPTURING, Phase.COPYING, Phase.COPIED)


def _can_abort(m: Migration) -> bool:
    return m.phase is Phase.ABORTING or Event.ABANDONED in TRANSITIONS[m.phase]


def _can_throttle(m: Migration) -> bool:
    """Whether there is, or will be, anything to slow down."""
    return m.phase in JOURNALLED or m.phase in (Phase.PREPARING, Phase.ANNOUNCED)


_PROVABLE = _in(Phase.COPIED, Phase.SWITCHED)

ACTIONS: Mapping[str, Action] = {
    action.verb: action
    for action in (
        Action("backfill", "Backfill", _can_backfill, _plainly(commands.backfill)),
        Action("verify", "Verify", _PROVABLE, _plainly(commands.verify)),
        Action("repair", "Verify and repair", _PROVABLE, _plainly(partial(commands.verify, repair=True))),
        Action(
            "switch",
            "Switch reads",
            _PROVABLE,
            _plainly(commands.switch),
            (
                Field(
                    "percent",
                    "Share of the reads, in per cent",
                    "number",
                    _percent,
                    _next_percent,
                    "What the target serves.",
                    0,
                    100,
                    "1",
                ),
            ),
        ),
        Action("throttle", "Throttle or pause", _can_throttle, _throttle, _LIMITS, beside=True),
        Action("rollback", "Roll back", _in(Phase.SWITCHED), _plainly(commands.rollback), overtakes=True),
        Action("abort", "Abort", _can_abort, _plainly(commands.abort), typed=True, overtakes=True),
        Action(
            "finish",
            "Finish",
            _in(Phase.SWITCHED, Phase.FINISHING),
            _plainly(commands.finish),
            (
                Field(
                    "safety_days",
                    "Safety period, in days",
                    "number",
                    _number(0, SAFETY_DAYS_MAX),
                    lambda _: f"{DEFAULT_SAFETY_DAYS:g}",
                    "For so long the source must be kept.",
                    0,
                    SAFETY_DAYS_MAX,
                ),
            ),
            typed=True,
        ),
        Action("cleanup", "Clean up", _in(Phase.FINISHED), _cleanup, typed=True),
    )
}
