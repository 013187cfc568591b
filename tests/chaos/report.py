"""What a run adds up to: a summary for people, and a row of the table in docs/reliability.md."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from qferry.server import NPM_VERSION

from .round import Outcome

COLUMNS = (
    "date",
    "qferry / Qdrant",
    "topology",
    "seed",
    "minutes",
    "migrations",
    "faults",
    "acknowledged point writes",
    "reads",
    "lost",
    "stale",
    "resurrected",
    "extra",
    "stale reads",
    "server errors",
    "migration errors",
)
_FINDINGS = ("lost", "stale", "resurrected", "extra", "stale read", "migration error")


@dataclass
class Report:
    """One topology's rounds, added up."""

    topology: str
    seed: int
    control: bool = False
    minutes: float = 0.0
    rounds: int = 0
    acknowledged: int = 0
    reads: int = 0
    server_errors: int = 0
    undecided: int = 0
    phases: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    server_error_texts: Counter[str] = field(default_factory=Counter)

    def add(self, outcome: Outcome) -> None:
        """Add a round."""
        verdict = outcome.verdict
        self.rounds += 1
        self.acknowledged += verdict.acknowledged
        self.reads += verdict.reads
        self.server_errors += verdict.server_errors
        self.undecided += verdict.undecided
        self.phases[outcome.phase] += 1
        self.faults += outcome.injected
        self.refusals += outcome.refusals
        self.server_error_texts += verdict.server_error_texts
        self.found += Counter(finding.kind for finding in verdict.findings)

    @property
    def passed(self) -> bool:
        """Whether nothing was found."""
        return not self.found.total()

    def summary(self) -> str:
        """A few lines for people."""
        what = "plain clients, no migration" if self.control else _counted(self.phases)
        calls = (
            f"{self.acknowledged:,} point writes acknowledged, {self.reads:,} reads, "
            f"{self.server_errors:,} calls failed by a fault, "
            f"{self.undecided} points undecided"
        )
        lines = [
            f"{self.topology}, seed {self.seed}: {self.minutes:.1f} min, {self.rounds} rounds ({what})",
            f"  {self.faults.total()} faults: {_counted(self.faults)}",
            f"  {calls}",
            "  " + ", ".join(f"{kind} {self.found[kind]}" for kind in _FINDINGS),
        ]
        titles = {"refused commands": self.refusals, "calls failed by a fault": self.server_error_texts}
        for title, counter in titles.items():
            if counter:
                lines.append(f"  {title}:")
                lines += [f"    {count:5} x {text}" for text, count in counter.most_common(12)]
        return "\n".join(lines)

    def row(self) -> str:
        """The row of the table."""
        values = (
            datetime.now(timezone.utc).strftime("%Y-%m-%d"),
            f"{version('qferry')} / {NPM_VERSION}",
            self.topology + (" (control)" if self.control else ""),
            self.seed,
            f"{self.minutes:.1f}",
            self.phases["cleaned"],
            self.faults.total(),
            f"{self.acknowledged:,}",
            f"{self.reads:,}",
            *(self.found[kind] for kind in _FINDINGS[:5]),
            f"{self.server_errors:,}",
            self.found["migration error"],
        )
        return f"| {' | '.join(map(str, values))} |"


def append(path: Path, report: Report) -> None:
    """
    Write a run's row behind the last one of the table in a file; the table is made if there is none.

    Args:
        path: A Markdown file; its table's first column is called `date`.
        report: The run.
    """
    head = f"| {' | '.join(COLUMNS)} |"
    lines = path.read_text().splitlines() if path.exists() else []
    if head not in lines:
        lines += ["", head, "|" + "---|" * len(COLUMNS)]
    last = lines.index(head)
    while last + 1 < len(lines) and lines[last + 1].startswith("|"):
        last += 1
    lines.insert(last + 1, report.row())
    path.write_text("\n".join(lines).lstrip("\n") + "\n")


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in sorted(counter.items()))
