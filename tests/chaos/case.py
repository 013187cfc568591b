"""Everything the judge needs to know of a round, in a file: a round can be judged again, and later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from .calls import read_calls
from .content import State, written
from .judge import Finding, Judge, Paths, Verdict, Window
from .workload import Population

# This share of the points is there before the traffic.
FILLED_SHARE = 0.75
_FILE = "case.json"


def initial_points(population: Population) -> dict[int, State]:
    """What the collection holds before the traffic."""
    return {
        point: written(point, point + 1, population.groups) for point in range(int(population.points * FILLED_SHARE))
    }


@dataclass(frozen=True)
class Case:
    """
    One round, as it was; times are nanoseconds of the monotonic clock.

    Args:
        population: The points.
        subjects: By application process: what its calls depended on.
        windows: Every fault that was at work: its subject, its beginning and its end.
        killed: When an application process was killed.
        crashes: What went wrong beside the calls.
        surviving: The points of the collection that survived.
    """

    population: Population
    subjects: Mapping[str, Sequence[str]]
    windows: Sequence[tuple[str, int, int]]
    killed: Mapping[str, int]
    crashes: Sequence[str]
    surviving: Mapping[int, State]

    def save(self, folder: Path) -> None:
        """Write the case beside the logs of its calls."""
        values = {**asdict(self), "surviving": {point: tuple(state) for point, state in self.surviving.items()}}
        (folder / _FILE).write_bytes(orjson.dumps(values, option=orjson.OPT_NON_STR_KEYS))

    @classmethod
    def load(cls, folder: Path) -> Case:
        """Read the case that `save` wrote."""
        found: dict[str, Any] = orjson.loads((folder / _FILE).read_bytes())
        found["population"] = Population(**found["population"])
        found["surviving"] = {int(point): State(*state) for point, state in found["surviving"].items()}
        return cls(**found)

    def verdict(self, folder: Path) -> Verdict:
        """Judge the calls whose logs are in `folder`."""
        windows = [Window(*window) for window in self.windows]
        judge = Judge(
            [call for log in sorted(folder.glob("*.calls")) for call in read_calls(log)],
            initial_points(self.population),
            self.population.groups,
            paths=Paths({name: frozenset(subjects) for name, subjects in self.subjects.items()}, windows),
            killed=self.killed,
        )
        verdict = judge.verdict(self.surviving)
        verdict.findings += [Finding("migration error", crash) for crash in self.crashes]
        return verdict
