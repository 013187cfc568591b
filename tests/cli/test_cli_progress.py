"""Progress: bars on a terminal, now and then a line elsewhere."""

import io
import time

import pytest
from rich.console import Console

from qferry.cli.progress import Lines, progress
from qferry.flows.effects import Report


def console(*, terminal: bool) -> Console:
    """A console whose output can be read."""
    return Console(file=io.StringIO(), force_terminal=terminal, width=160, _environ={"TERM": "xterm"})


def output_of(screen: Console) -> str:
    """What was printed so far."""
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


def test_stage_prints_at_most_one_line_in_two_seconds() -> None:
    """The first report of a stage is a line, the next ones only after two seconds; stages do not wait for others."""
    screen, now = console(terminal=False), [0.0]
    lines = Lines(screen, clock=lambda: now[0])
    for seconds, report in (
        (0.0, Report("copy", 100, 2000)),
        (1.9, Report("copy", 300, 2000)),
        (1.9, Report("lease", text="waiting for [everyone]")),
        (2.0, Report("copy", 400, 2000)),
        (2.1, Report("never heard of", 3)),
    ):
        now[0] = seconds
        lines.show(report)
    assert output_of(screen).splitlines() == [
        "copying points: 100 of 2,000",
        "waiting for clients: waiting for [everyone]",
        "copying points: 400 of 2,000",
        "never heard of: 3",
    ]


def test_stages_are_bars_on_a_terminal() -> None:
    """Each stage has a row with a bar and its count, or a spinner and its text."""
    screen = console(terminal=True)
    with progress(screen, quiet=False) as report:
        report(Report("lease", text="until everyone knows"))
        report(Report("copy", 500, 1000))
        report(Report("copy", 1000, 1000))
        report(Report("settle", 1, 3))
        report(Report("copy", 2, 4))
    last = output_of(screen).rsplit("waiting for clients", 1)[1]
    assert "until everyone knows" in last
    assert "━" in last
    assert "2/4" not in last, "a stage that was over early shows no count"
    assert "1,000/1,000" in output_of(screen)


def test_a_text_that_has_no_room_beside_its_bar_is_drawn_below() -> None:
    """Why a copy is slow is the last thing to leave out."""
    screen = console(terminal=True)
    screen.width = 120
    why = "1,200 points/s: the application's p99 is 48 ms, the limit 40 ms"
    with progress(screen, quiet=False) as report:
        report(Report("copy", 500, 1000, why))
        time.sleep(0.3)
    assert why in output_of(screen)


def test_stage_that_did_not_end_shows_how_far_it_came() -> None:
    """An error leaves the last bar where it was."""
    screen = console(terminal=True)

    def fail_half_way() -> None:
        with progress(screen, quiet=True) as report:
            report(Report("copy", 2, 4))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert "2/4" in output_of(screen).rsplit("copying points", 1)[1]


def test_nothing_is_shown_when_nobody_watches() -> None:
    """With --json and no terminal on stderr there is no progress."""
    screen = console(terminal=False)
    with progress(screen, quiet=True) as report:
        report(Report("copy", 2, 4))
    assert output_of(screen) == ""


def test_lines_are_shown_where_no_bar_can_be_drawn() -> None:
    """A log gets lines."""
    screen = console(terminal=False)
    with progress(screen, quiet=False) as report:
        report(Report("copy", 2, 4))
    assert output_of(screen) == "copying points: 2 of 4\n"
