"""Chaos in small: one migration on a real server under a few faults, and the script that decides about them."""

from __future__ import annotations

import random
from contextlib import closing
from itertools import islice, takewhile
from pathlib import Path

import pytest

from .coordinator import journey
from .faults import LONGEST_PAUSE_S, LULL_LONGEST_S, Cast, script
from .processes import spawn
from .proxy import Proxy
from .report import COLUMNS, Report, append
from .round import Plan, play
from .stage import set_up

CAST = Cast(["server:home"], ["app:0", "app:1"], "coordinator", ["link:app0", "link:target"], ["link:app0"])
# Of this script: a connection cut, the server killed, an application killed.
SEED, FAULTS_S = "small-1855", 9.0


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_migration_under_faults_loses_nothing(tmp_path: Path) -> None:
    """Killed, stopped and cut off in its first seconds, a migration ends with every point right."""
    told: list[str] = []
    with closing(Proxy(spawn)) as proxy, set_up("one", proxy, 2) as stage:
        plan = Plan(SEED, points=3000, calls_per_s=5, brisk=True, faults_s=FAULTS_S)
        outcome = play(plan, stage, tmp_path, told.append)
    assert not outcome.verdict.findings, "\n".join(finding.text for finding in outcome.verdict.findings)
    assert outcome.phase == "finished"
    assert outcome.injected == {"cut link": 1, "kill server": 1, "kill app": 1}, told
    assert outcome.verdict.acknowledged > 300
    assert outcome.verdict.reads > 20


def test_same_seed_gives_the_same_script() -> None:
    """Kind, subject, moment and length of every fault follow from the seed."""
    first, again, other = (list(islice(script(seed, CAST), 60)) for seed in ("1", "1", "2"))
    assert first == again
    assert first != other


def test_script_hits_everybody_every_few_seconds() -> None:
    """In ten minutes every kind of fault hits every subject it can hit, none for longer than it says."""
    faults = list(takewhile(lambda fault: fault.at_s < 600, script("1", CAST)))
    assert 150 <= len(faults) <= 300
    assert {fault.subject for fault in faults} >= {"server:home", "app:0", "coordinator", "link:app0", "link:target"}
    assert {fault.kind for fault in faults} == {"kill", "pause", "cut", "delay", "hold", "refuse"}
    assert max(fault.lasts_s for fault in faults) <= LONGEST_PAUSE_S
    assert max(fault.lasts_s for fault in faults if fault.kind == "pause") > 10 > LULL_LONGEST_S


def test_every_journey_ends() -> None:
    """A migration goes from start to cleanup, or to an abort before the finish."""
    ends = set()
    for seed in range(60):
        verbs = [step.verb for step in journey(random.Random(seed))]
        assert verbs[0] == "start"
        assert ("finish" in verbs) is (verbs[-1] == "cleanup")
        ends.add(verbs[-1])
    assert ends == {"cleanup", "abort"}


def test_rows_are_appended_to_the_table(tmp_path: Path) -> None:
    """The table is made once, and each run adds its row behind the last one, whatever stands below."""
    page = tmp_path / "reliability.md"
    page.write_text("# Reliability\n")
    for seed in (1, 2):
        append(page, Report("one", seed))
        page.write_text(page.read_text() + ("\nBelow.\n" if seed == 1 else ""))
    lines = page.read_text().splitlines()
    head = lines.index(f"| {' | '.join(COLUMNS)} |")
    first, second = (line.strip("| ").split(" | ") for line in lines[head + 2 : head + 4])
    assert (first[3], second[3], len(first)) == ("1", "2", len(COLUMNS))
    assert lines[-1] == "Below."
