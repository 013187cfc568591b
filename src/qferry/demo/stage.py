"""Shows the demo's phases as they run, and measures them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape

from qferry.demo.fleet import Fleet

_ALIVE_CHECK_S = 0.5


class Stage:
    """One line per phase: a spinner while it runs, then its seconds and what there is to say about it."""

    def __init__(self, console: Console, *, pause_s: float) -> None:
        """
        Prepare the stage.

        Args:
            console: Where to show the phases.
            pause_s: How long the applications run by themselves between two steps, in seconds.
        """
        self.console = console
        self.seconds_per_phase: dict[str, float] = {}
        self._pause_s = pause_s

    @contextmanager
    def phase(self, name: str) -> Iterator[Callable[[str], None]]:
        """
        Run a phase; phases of the same name add up.

        Args:
            name: What is shown and the key in `seconds_per_phase`.

        Yields:
            A function that takes a remark to show on the phase's line.
        """
        remarks: list[str] = []
        began = time.monotonic()
        with self.console.status(f"{escape(name)} …"):
            try:
                yield remarks.append
            except BaseException:
                self.console.print(f"[red]✗[/] {escape(name)}")
                raise
        seconds = time.monotonic() - began
        self.seconds_per_phase[name] = round(self.seconds_per_phase.get(name, 0.0) + seconds, 3)
        remark = escape("; ".join(remarks))
        line = f"[green]✓[/] {escape(name):<28} {seconds:6.1f} s  [dim]{remark}[/]"
        self.console.print(line, highlight=False, soft_wrap=True)

    def let_traffic_run(self, name: str, fleet: Fleet) -> None:
        """
        A phase in which nothing happens but the applications' traffic.

        Args:
            name: The phase.
            fleet: The applications, which must stay alive.
        """
        with self.phase(name):
            until = time.monotonic() + self._pause_s
            while (left := until - time.monotonic()) > 0:
                fleet.check_alive()
                time.sleep(min(left, _ALIVE_CHECK_S))
            fleet.check_alive()
