"""A `finish` that is interrupted before the point of no return leaves the application as free as it was."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import pytest
from staging import Migrating, ask, point

from qferry import FerryClient, commands
from qferry.drivers.blocking import BlockingDriver
from qferry.flows.coordinator import Coordinator
from qferry.flows.effects import Effect, Flow, Request
from qferry.protocol.phases import Phase

pytestmark = pytest.mark.usefixtures("nobody_unseen")


class Interrupted(BaseException):
    """What Ctrl-C, or a cancelled call of a tool, raises wherever a command is just then."""


class Interruption:
    """Interrupts a command at a certain effect after it has closed the door for mending, but not once it is sealed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at = 0
        self.happened = False
        self._since: int | None = None
        perform, close = BlockingDriver._perform, Coordinator.close_mending

        def performed(driver: BlockingDriver, effect: Effect) -> Any:
            if isinstance(effect, Request) and "finishing" in str(effect.body):
                self._since = None
            # The heartbeats of the application in this process have a driver of their own.
            if self._since is not None and threading.current_thread() is threading.main_thread():
                self._since += 1
                if self._since > self.at:
                    self._since, self.happened = None, True
                    raise Interrupted
            return perform(driver, effect)

        def closed(co: Coordinator) -> Flow[None]:
            yield from close(co)
            self._since = 0

        monkeypatch.setattr(BlockingDriver, "_perform", performed)
        monkeypatch.setattr(Coordinator, "close_mending", closed)


@pytest.mark.slow
def test_writers_may_bring_points_after_finish_was_interrupted_anywhere(
    migrating: Migrating, ferry: FerryClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The door that finish has closed for them is open again, so that they may write what the target lacks."""
    m = migrating
    ferry.upsert(m.source, [point(number) for number in range(5)])
    commands.start(m.connection, m.source, m.target)
    commands.backfill(m.connection, m.source)
    assert commands.verify(m.connection, m.source).passed
    commands.switch(m.connection, m.source, percent=100)
    interruption = Interruption(monkeypatch)
    while True:
        interruption.happened = False
        with contextlib.suppress(Interrupted):
            commands.finish(m.connection, m.source, safety_days=0)
        if not interruption.happened:
            break
        migration = commands.status(m.connection, m.source)[0].migration
        assert migration.phase is Phase.SWITCHED
        aliases = {alias["alias_name"] for alias in ask(m.plain, "GET", "/aliases")["aliases"]}
        assert migration.mend in aliases, f"interrupted at effect {interruption.at}"
        interruption.at += 1
    assert interruption.at > 5
    assert commands.status(m.connection, m.source)[0].migration.phase is Phase.FINISHED
