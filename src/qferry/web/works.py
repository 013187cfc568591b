"""
What the operator has set going from a page: one command at a time for each migration, in the background.

A command is interrupted at its next report, in the way of Ctrl-C: it gives its claim back, and goes on where it
stopped when it is run again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from qferry.errors import Conflict, FerryError
from qferry.flows.effects import Report

# How long what is to be stopped may take until its next report, in seconds.
PATIENCE_S = 5.0
# What has become of a command is shown for so long.
NEWS_S = 600.0


class Interrupted(BaseException):
    """Ends a command from outside; not an `Exception`, so that no command takes it for a failure of its own."""


@dataclass
class Work:
    """
    One command and what has become of it.

    Args:
        verb: What it is called.
        source: The source of its migration.
        begun: When, on the monotonic clock.
        report: What it has last said of itself.
        result: What it answered, if it is over and went well.
        error: Why not, if it did not.
    """

    verb: str
    source: str
    begun: float = field(default_factory=time.monotonic)
    ended: float | None = None
    report: Report | None = None
    result: Any = None
    error: FerryError | None = None
    stopped: bool = False
    over: threading.Event = field(default_factory=threading.Event, repr=False)
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def seconds(self) -> float:
        """How long it has been, or was, at work."""
        return (time.monotonic() if self.ended is None else self.ended) - self.begun

    @property
    def is_long_over(self) -> bool:
        """Whether what became of it is no news any more."""
        return self.ended is not None and time.monotonic() - self.ended > NEWS_S

    @property
    def stopping(self) -> bool:
        """Whether it has been asked to stop and has not yet."""
        return self._stop.is_set() and not self.over.is_set()

    def stop(self) -> None:
        """Ask it to end at its next report."""
        self._stop.set()

    def heard(self, report: Report) -> None:
        """Take note of a report; raises `Interrupted` if the command is to stop."""
        if self._stop.is_set():
            raise Interrupted
        self.report = report

    def run(self, command: Callable[[Work], Any]) -> None:
        """Carry it out, in this thread."""
        try:
            self.result = command(self)
        except FerryError as error:
            self.error = error
        except Interrupted:
            self.stopped = True
        except Exception as error:  # noqa: BLE001  the page must say so; nobody else would
            fault = f"{type(error).__name__}: {error}".rstrip(".")
            self.error = FerryError(f"A fault of qferry ended it ({fault}).", hint="Please report it.")
        finally:
            self.ended = time.monotonic()
            self.over.set()


class Works:
    """The latest command of each migration, by the migration's id."""

    def __init__(self) -> None:
        self._latest: dict[str, Work] = {}
        self._lock = threading.Lock()

    def latest(self, migration_id: str) -> Work | None:
        """The one at work, or else the one that was."""
        return self._latest.get(migration_id)

    def begin(
        self, migration_id: str, verb: str, source: str, command: Callable[[Work], Any], *, overtakes: bool = False
    ) -> Work:
        """
        Set a command going.

        Args:
            migration_id: What it is about.
            verb: What it is called.
            source: The source of its migration.
            command: Does it; `Work.heard` is for its reports.
            overtakes: Whether another one is stopped for it.

        Raises:
            Conflict: Another one is at work.
        """
        work = Work(verb, source)
        with self._lock:
            other = self._latest.get(migration_id)
            if other is not None and not other.over.is_set():
                if not overtakes:
                    raise Conflict(
                        f"`{other.verb}` is at work on this migration; nothing was changed.",
                        hint="Wait until it is done, or stop it.",
                    )
                other.stop()
            self._latest[migration_id] = work

        def run() -> None:
            if other is not None:
                other.over.wait(PATIENCE_S)  # if it takes longer, its claim is taken over all the same
            work.run(command)

        threading.Thread(target=run, daemon=True, name=f"qferry-ui {verb}").start()
        return work

    def under_way(self) -> list[Work]:
        """Those at work."""
        return [work for work in self._latest.values() if not work.over.is_set()]

    def stop(self, works: Sequence[Work]) -> None:
        """Stop these, because the process ends; returns when they have, or after `PATIENCE_S`."""
        for work in works:
            work.stop()
        until = time.monotonic() + PATIENCE_S
        for work in works:
            work.over.wait(max(0.0, until - time.monotonic()))
