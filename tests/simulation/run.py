"""
Run many seeds, or one of them in detail: `python -m tests.simulation.run --seeds 3000`.

A seed that breaks a promise is made small first, by leaving out of it whatever the violation does not need; then its
trace is printed.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass

from qferry.flows.effects import Call, Request

from .scenario import Scenario
from .simulation import Result, simulate

# Seeds that a process runs before it reports; and seconds between two lines of progress.
BATCH = 20
PROGRESS_S = 10.0


def shrunk(seed: int) -> tuple[Result, frozenset[str]]:
    """The smallest scenario found that still breaks the same promise."""
    scenario = Scenario.of(seed)
    result, left_out = simulate(scenario), frozenset[str]()
    promise = result.violations[0].promise
    size = len(scenario.parts())
    while size:
        parts = [part for part in scenario.parts() if part not in left_out]
        smaller = False
        for start in range(0, len(parts), size):
            tried = left_out | frozenset(parts[start : start + size])
            again = simulate(scenario.without(tried))
            if again.violations and again.violations[0].promise == promise:
                result, left_out, smaller = again, tried, True
        if not smaller or size > len(parts):
            size //= 2
    return result, left_out


def told(result: Result, *, everything: bool = False) -> Iterator[str]:
    """The violations, and the trace that led to them, line by line."""
    for violation in result.violations:
        yield f"{violation.promise}: point {violation.point}, at {violation.at:.3f}: {violation.text}"
    scenario = result.scenario
    yield f"servers {list(result.world.network.servers)}, policy {scenario.policy.value}, goals " + ", ".join(
        f"{goal.what} {goal.percent or ''}".strip() for goal in scenario.goals
    )
    for when, who, what, about in result.world.trace:
        line = f"{when:8.3f} {who:15} {what:22} {_in_words(about)}"
        if everything or _concerns(line, about):
            yield line if everything else line[:260]


def _in_words(about: object) -> str:
    value: object = ""
    if isinstance(about, tuple):
        about, value = about
    if isinstance(about, Request):
        words = f"{about.method} {about.path} {about.body if about.body is not None else ''}"
    elif isinstance(about, Call):
        words = f"{about.method} {about.collection} {dict(about.kwargs)}"
    else:
        return str(about)
    return f"{words} -> {value}" if value != "" else words


def _concerns(line: str, about: object) -> bool:
    """Whether a line is of interest: no heartbeats, and none of the coordinator's bookkeeping."""
    effect = about[0] if isinstance(about, tuple) else about
    if isinstance(effect, Request):
        if effect.op in ("scroll", "aliases", "info", "count", "version", "exists") and "/old/" not in effect.path:
            return "/new/" in effect.path
        return "'kind': 'writer'" not in line and "'kind': 'event'" not in line
    return True


@dataclass(frozen=True)
class Tally:
    """What became of some schedules; `broken` has the first violation of each seed that has one."""

    schedules: int = 0
    calls: int = 0
    gave_up: int = 0
    broken: tuple[tuple[int, str], ...] = ()

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


def tally(seeds: Sequence[int]) -> Tally:
    """Run these seeds."""
    # A world is full of cycles and does not live long: collected once it is over, without what was imported.
    gc.freeze()
    gc.disable()
    total = Tally()
    for seed in seeds:
        total += _tally_of(seed)
    gc.collect()
    return total


def _tally_of(seed: int) -> Tally:
    result = simulate(Scenario.of(seed))
    broken = tuple((seed, f"{v.promise}: {v.text}") for v in result.violations[:1])
    return Tally(1, result.calls, result.gave_up, broken)


def campaign(first: int, seeds: int, jobs: int) -> Tally:
    """Run many seeds on `jobs` processors, with a line of progress now and then; violations are told as they come."""
    batches = [range(start, min(start + BATCH, first + seeds)) for start in range(first, first + seeds, BATCH)]
    began = told = time.monotonic()
    total = Tally()
    with ProcessPoolExecutor(jobs) as pool:
        for found in pool.map(tally, batches):
            total += found
            for seed, text in found.broken:
                sys.stdout.write(f"seed {seed}: {text}\n")
            now = time.monotonic()
            if now - told > PROGRESS_S:
                told = now
                rate = total.schedules / (now - began)
                sys.stderr.write(f"{total.schedules:,} of {seeds:,}, {rate:.0f}/s, {len(total.broken)} broken\n")
            sys.stdout.flush()
    return total


def main() -> int:
    """Run what the command line asks for; 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="tests.simulation.run", description=__doc__)
    parser.add_argument("--seeds", type=int, default=300, help="how many schedules")
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many processes")
    parser.add_argument("--replay", type=int, help="run one seed, make it small and print its trace")
    parser.add_argument("--full", action="store_true", help="with --replay: the whole trace, nothing left out")
    given = parser.parse_args()
    if given.replay is not None:
        return _replay(given.replay, everything=given.full)
    began = time.monotonic()
    total = campaign(given.first, given.seeds, given.jobs)
    seconds = time.monotonic() - began
    sys.stdout.write(
        f"{total.schedules:,} schedules from seed {given.first}, {total.calls:,} calls, {seconds:.0f} s "
        f"({total.schedules / seconds:.0f}/s); {total.gave_up} points given up; "
        f"{len(total.broken)} schedules with violations\n"
    )
    if total.broken:
        sys.stdout.write(f"python -m tests.simulation.run --replay {total.broken[0][0]}\n")
    return 1 if total.broken or total.gave_up else 0


def _replay(seed: int, *, everything: bool) -> int:
    result = simulate(Scenario.of(seed))
    if result.violations and not everything:
        result, left_out = shrunk(seed)
        sys.stdout.write(f"left out of seed {seed}: {len(left_out)} parts\n")
    sys.stdout.write("\n".join(told(result, everything=everything)) + "\n")
    return 1 if result.violations else 0


if __name__ == "__main__":
    sys.exit(main())
