"""`qferry run`: from wherever a migration stands to the switch, in one go."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from qferry import commands
from qferry.cli.progress import Reporter
from qferry.cli.shapes import proven
from qferry.commands import Done
from qferry.connection import Connection
from qferry.errors import Refused
from qferry.flows.verify import Verification
from qferry.protocol.phases import ENDED, Phase, out_of_order
from qferry.protocol.records import Migration, Strategy, WritePolicy

_BEGINNING = (Phase.PREPARING, Phase.ANNOUNCED, Phase.STARTING)
_COPYING = (Phase.CAPTURING, Phase.COPYING)
_ON_THE_WAY = (*_BEGINNING, *_COPYING, Phase.COPIED, Phase.SWITCHED)


@dataclass(frozen=True)
class Step:
    """One verb that was carried out."""

    verb: str
    detail: str
    seconds: float


@dataclass(frozen=True)
class Ran:
    """What a run has done; without a `verification` the target had been verified before."""

    source: str
    target: str
    phase: str
    read_percent: int
    steps: tuple[Step, ...]
    verification: Verification | None

    @property
    def passed(self) -> bool:
        """Whether the run reached the switch."""
        return self.verification is None or self.verification.passed


@dataclass(frozen=True, kw_only=True)
class Run:
    """
    A migration from `start` to `switch`; every step is skipped that an earlier run has done.

    Args:
        connection: The servers.
        source: The collection to move.
        target: Its new name.
        percent: The share of the reads that the target serves in the end.
        overrides: As for `start`.
        policy: As for `start`.
        strategy: As for `start`.
        ack_timeout_s: As for `start`.
        green_timeout_s: As for `switch`.
        dask: As for `backfill`, and for `verify`.
        limits: As for `throttle`.
        report: Receives progress.
    """

    connection: Connection
    source: str
    target: str
    percent: int
    overrides: Mapping[str, Any]
    policy: WritePolicy
    strategy: Strategy | None
    ack_timeout_s: float
    green_timeout_s: float
    dask: str | None
    limits: Mapping[str, Any]
    report: Reporter

    def go(self) -> Ran:
        """
        Carry out what is left to do; a verification that fails ends the run before the switch.

        Raises:
            Refused: The migration is not one that this run could go on with, or a step was refused.
        """
        steps: list[Step] = []
        verification: Verification | None = None

        def timed(verb: str, step: Callable[[], str]) -> None:
            began = time.monotonic()
            detail = step()
            steps.append(Step(verb, detail, round(time.monotonic() - began, 2)))

        if self._phase() in (None, *_BEGINNING):
            timed("start", self._start)
        limits = self.limits
        if self._phase() in _COPYING:
            timed("backfill", self._backfill)
            limits = {}  # they are set once; whoever has changed them since must not be overruled
        if self._unproven():
            began = time.monotonic()
            known = self._migration()
            verification = commands.verify(
                self.connection,
                self.source,
                again=known is not None and known.verified is not None,  # only searches are left to be compared
                green_timeout_s=self.green_timeout_s,
                dask=self.dask,
                limits=limits,
                report=self.report,
            )
            failed = ", ".join(check.name for check in verification.checks if not check.passed)
            detail = f"{verification.points:,} points" + (f", not passed: {failed}" if failed else "")
            steps.append(Step("verify", detail, round(time.monotonic() - began, 2)))
        if verification is None or verification.passed:
            timed("switch", lambda: self._switch().detail)
        m = self._migration()
        if m is None:
            raise Refused(f"The migration of `{self.source}` was aborted by another command while this one ran.")
        return Ran(m.source, m.target, m.phase.value, m.read_percent, tuple(steps), verification)

    def _start(self) -> str:
        done = commands.start(
            self.connection,
            self.source,
            self.target,
            overrides=self.overrides,
            policy=self.policy,
            strategy=self.strategy,
            ack_timeout_s=self.ack_timeout_s,
            report=self.report,
        )
        return f"{done.points:,} points; both sides get the writes of {', '.join(done.writers) or 'whoever connects'}"

    def _backfill(self) -> str:
        return commands.backfill(
            self.connection, self.source, dask=self.dask, limits=self.limits, report=self.report
        ).detail

    def _switch(self) -> Done:
        return commands.switch(
            self.connection,
            self.source,
            percent=self.percent,
            green_timeout_s=self.green_timeout_s,
            report=self.report,
        )

    def _unproven(self) -> bool:
        m = self._migration()
        return m is not None and (not proven(m) or bool(m.suspicions))

    def _phase(self) -> Phase | None:
        m = self._migration()
        if m is None:
            return None
        if m.target != self.target:
            raise Refused(
                f"`{m.source}` is on its way to `{m.target}`, not to `{self.target}`.",
                hint="Go on with that target, or abort that migration first.",
            )
        if m.phase not in _ON_THE_WAY:
            raise out_of_order(m.phase, f"qferry run {self.source}")
        return m.phase

    def _migration(self) -> Migration | None:
        found = [status.migration for status in commands.status(self.connection)]
        live = [m for m in found if self.source in m.names and m.phase not in ENDED]
        return live[-1] if live else None
