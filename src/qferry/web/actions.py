"""What an operator may do to a migration from a page: when, with which settings, and what has to be typed for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from qferry import commands
from qferry.cli.app import SAFETY_DAYS_MAX
from qferry.cli.options import QUERIES_MAX
from qferry.commands import DEFAULT_SAFETY_DAYS, Seen
from qferry.connection import Connection
from qferry.consequences import CONSEQUENCES, Consequence
from qferry.errors import Misuse
from qferry.flows.parity import QUERIES
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
        note: What it means, in words into which a migration's names are filled.
        now: What it is at present, for a setting that stays so where nothing is typed; None: it is no such setting.
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
    now: Callable[[Migration], str] | None = None
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


def _whole(most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isascii() or not text.isdecimal() or int(text) > most:
            raise ValueError(f"it must be a whole number from 0 to {most:,}")
        return int(text)

    return read


def _if_typed(read: Callable[[str], float]) -> Callable[[str], float | None]:
    """For a setting that stays as it is where nothing is typed."""
    return lambda text: read(text) if text else None


def _checked(text: str) -> bool:
    return text == "on"


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
        _checked,
        lambda m: m.paused,
        "It stands still until this is taken away.",
    ),
)


def _nothing(_: Migration) -> str:
    return ""


# What readers put up with, and what is compared meanwhile.
_CANARY = (
    Field(
        "shadow_percent",
        "Shadow reads, in per cent of the reads",
        "number",
        _if_typed(_number(0, 100)),
        _nothing,
        "Repeated on the other side and compared, unseen by the application; 0: none. What is typed counts anew.",
        now=lambda m: f"{m.shadow_percent:g}",
        least=0,
        most=100,
    ),
    Field(
        "max_errors_percent",
        "Errors that readers put up with, in per cent",
        "number",
        _if_typed(_number(0, 100)),
        _nothing,
        "If more of the reads on the target fail, readers go back to the source.",
        now=lambda m: f"{m.canary_max_errors_percent:g}",
        least=0,
        most=100,
    ),
    Field(
        "max_read_ms",
        "Latency that readers put up with, in milliseconds",
        "number",
        _if_typed(_number(0, _MOST)),
        _nothing,
        "If 95 of 100 reads on the target do not stay below it, readers go back; 0: as long as they like.",
        now=lambda m: f"{m.canary_max_ms:g}",
        least=0,
    ),
)


def _compared(verb: str) -> tuple[Field, ...]:
    """What a verification looks at."""
    return (
        Field(
            "queries",
            "Points to search with, for each vector",
            "number",
            _whole(QUERIES_MAX),
            lambda _: QUERIES,
            "0: no searches are compared, and “Switch reads” is refused then.",
            least=0,
            most=QUERIES_MAX,
            step="1",
        ),
        Field(
            "again",
            "Only what differed",
            "checkbox",
            _checked,
            lambda _: False,
            CONSEQUENCES[verb].options["again"],
        ),
    )


def _next_percent(m: Migration) -> int:
    if m.stepped_back or m.reads_held:
        return m.read_percent  # again
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
        Action("verify", "Verify", _PROVABLE, _plainly(commands.verify), _compared("verify")),
        Action(
            "repair",
            "Verify and repair",
            _PROVABLE,
            _plainly(partial(commands.verify, repair=True)),
            _compared("repair"),
        ),
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
                    _whole(100),
                    _next_percent,
                    "What the target serves.",
                    least=0,
                    most=100,
                    step="1",
                ),
                *_CANARY,
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
                    least=0,
                    most=SAFETY_DAYS_MAX,
                ),
            ),
            typed=True,
        ),
        Action(
            "cleanup",
            "Clean up",
            _in(Phase.FINISHED),
            _cleanup,
            (
                Field(
                    "keep_alias",
                    "Keep the name as an alias",
                    "checkbox",
                    _checked,
                    lambda _: False,
                    CONSEQUENCES["cleanup"].options["keep_alias"],
                ),
            ),
            typed=True,
        ),
    )
}
