"""Progress of a long command, on stderr: bars on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from qferry.cli import log_lines
from qferry.flows.effects import Report
from qferry.logs import tell

Reporter: TypeAlias = Callable[[Report], None]

_LINE_EVERY_S = 2.0
_BAR_CHARACTERS = 24
# What the other columns take; the rest of the line is for the text.
_COLUMNS_CHARACTERS = 96
_LABELS = {
    "acknowledge": "waiting for writers",
    "claim": "waiting for a coordinator",
    "copy": "copying points",
    "cycle": "journal cycles",
    "index": "building indexes",
    "lease": "waiting for clients",
    "left": "left behind",
    "listen": "listening",
    "reclaim": "removing leftovers",
    "restore": "restoring a snapshot",
    "search": "comparing searches",
    "settle": "settling the journal",
    "snapshot": "taking a snapshot",
    "soak": "soaking",
    "verify": "comparing points",
    "waiting": "waiting for a server",
}


@contextmanager
def progress(console: Console, *, quiet: bool) -> Iterator[Reporter]:
    """
    Show what a command reports.

    Args:
        console: The one on stderr.
        quiet: Show nothing unless a person is watching.
    """
    if log_lines.active():
        yield Lines(console, say=_logged).show
    elif console.is_terminal and not console.is_dumb_terminal:
        with Bars(console) as bars:
            yield bars.show
            bars.conclude()
    elif quiet:
        yield lambda _: None
    else:
        yield Lines(console).show


class Lines:
    """
    A line when a stage begins, and then at most one every two seconds.

    Args:
        console: Where.
        clock: Tells the seconds.
        say: Writes a report; by default as a sentence, there.
    """

    def __init__(
        self, console: Console, *, clock: Callable[[], float] = time.monotonic, say: Reporter | None = None
    ) -> None:
        self._clock = clock
        self._say = say or (lambda report: console.print(Text(sentence(report)), soft_wrap=True))
        self._shown_at: dict[str, float] = {}

    def show(self, report: Report) -> None:
        """Print the report if its stage has been silent for long enough."""
        now = self._clock()
        if now - self._shown_at.get(report.stage, now - _LINE_EVERY_S) < _LINE_EVERY_S:
            return
        self._shown_at[report.stage] = now
        self._say(report)


def _logged(report: Report) -> None:
    facts = {"stage": report.stage, "done": report.done, "total": report.total, "text": report.text}
    tell(logging.INFO, "progress", sentence(report), **facts)


class Bars:
    """One bar per stage, in the order in which the stages appear; a spinner where there is nothing to count."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tasks: dict[str, TaskID] = {}
        self._stage = ""
        self._progress = _Noted(
            _Mark(),
            TextColumn("{task.description}", markup=False),
            _IfCounted(BarColumn(_BAR_CHARACTERS)),
            _IfCounted(_Done()),
            _IfCounted(_Rate()),
            _IfCounted(TimeRemainingColumn(compact=True)),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[text]}", markup=False, style="dim"),
            console=console,
        )

    def __enter__(self) -> Bars:  # noqa: PYI034  Self is not in 3.10
        """Begin to draw."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the last picture standing."""
        self._progress.stop()

    def show(self, report: Report) -> None:
        """Bring the stage's bar up to date; a stage that comes back begins anew, below the others."""
        fits = len(report.text) <= self._console.width - _COLUMNS_CHARACTERS
        text = report.text if fits else ""
        self._progress.note = "" if fits else report.text
        if report.stage != self._stage:
            self.conclude()
            if report.stage in self._tasks:
                self._progress.remove_task(self._tasks[report.stage])
            self._stage = report.stage
            # What an interrupted run had done already is where the bar begins, and no part of the rate.
            self._tasks[report.stage] = self._progress.add_task(
                _label(report.stage), total=report.total, completed=report.done or 0, text=text, over=False
            )
        task = self._tasks[report.stage]
        self._progress.update(task, total=report.total, completed=report.done or 0, text=text)

    def conclude(self) -> None:
        """The stage under way is over."""
        if self._stage in self._tasks:
            task = self._tasks[self._stage]
            self._progress.note = ""
            self._progress.update(task, over=True)
            self._progress.stop_task(task)


class _Noted(Progress):
    """Bars, and below them a line for what has no room beside one."""

    note = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        """Draw the bars and the note."""
        yield from super().get_renderables()
        if self.note:
            yield Text(self.note, style="dim", no_wrap=True, overflow="ellipsis")


def sentence(report: Report) -> str:
    """A report in one line."""
    said = [text for text in (_counted(report.done, report.total), report.text) if text]
    return ": ".join((_label(report.stage), ", ".join(said)))


def _label(stage: str) -> str:
    return _LABELS.get(stage, stage)


def _counted(done: int | None, total: int | None) -> str:
    if done is None:
        return ""
    return f"{done:,}" if total is None else f"{done:,} of {total:,}"


class _Mark(ProgressColumn):
    """A spinner while a stage is under way, a tick when it is over."""

    def __init__(self) -> None:
        super().__init__()
        self._spinner = SpinnerColumn()

    def render(self, task: Task) -> RenderableType:
        return Text("✓", style="green") if task.fields["over"] else self._spinner.render(task)


class _IfCounted(ProgressColumn):
    """Another column, blank for a stage that counts nothing."""

    def __init__(self, column: ProgressColumn) -> None:
        super().__init__(table_column=Column(no_wrap=True, justify="right"))
        self._column = column

    def render(self, task: Task) -> RenderableType:
        return Text("") if task.total is None else self._column.render(task)


class _Done(ProgressColumn):
    """How much of how much; blank for a stage that was over before it had counted to its end."""

    def render(self, task: Task) -> RenderableType:
        if task.fields["over"] and task.completed < (task.total or 0):
            return Text("")
        return Text(f"{int(task.completed):,}/{int(task.total or 0):,}", style="progress.download")


class _Rate(ProgressColumn):
    """How much per second."""

    def render(self, task: Task) -> RenderableType:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s", style="progress.data.speed")
