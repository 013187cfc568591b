"""
Run chaos for some minutes: `python -m tests.chaos --minutes 10 --seed 1 --topology two`.

One migration after the other, each with applications under load and a script of faults, until the minutes are over.
Exit code 1 if anything was lost, stale, resurrected or extra, or failed because of a migration.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from .case import Case
from .processes import spawn
from .proxy import Proxy
from .report import Report, append
from .round import Plan, play
from .stage import TOPOLOGIES, set_up

APPLICATIONS = 3
# A control round without migration has no end of its own.
CONTROL_S = 60.0
_SILENCE_S = 8.0


def main() -> int:
    """Run what the command line asks for; 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0, help="how long, shared among the topologies")
    parser.add_argument("--seed", type=int, default=1, help="the same seed, the same script of faults")
    parser.add_argument("--topology", choices=(*TOPOLOGIES, "all"), default="all")
    parser.add_argument("--control", action="store_true", help="plain clients and no migration: the server's own")
    parser.add_argument("--calls-per-s", type=float, default=20.0, help="the most calls each of six lanes makes")
    parser.add_argument("--points", type=int, default=20_000, help="points of the collection")
    parser.add_argument("--append", type=Path, help="write one row per topology into the table of this file")
    parser.add_argument("--keep", type=Path, help="keep all logs in this folder; otherwise those of bad rounds only")
    parser.add_argument("--judge", type=Path, help="judge the logs of a round once more, and do nothing else")
    options = parser.parse_args()
    if options.judge is not None:
        verdict = Case.load(options.judge).verdict(options.judge)
        for finding in verdict.findings:
            sys.stdout.write(f"{finding.kind}: {finding.text}\n")
        return int(bool(verdict.findings))
    # A process manager's SIGTERM must end the run like Ctrl-C: everything that was started is stopped.
    signal.signal(signal.SIGTERM, _interrupt)
    topologies = TOPOLOGIES if options.topology == "all" else (options.topology,)
    reports = []
    try:
        for topology in topologies:
            report = _run(topology, options, 60 * options.minutes / len(topologies))
            reports.append(report)
            sys.stdout.write(report.summary() + "\n")
            sys.stdout.flush()
            if options.append is not None:
                append(options.append, report)
    except KeyboardInterrupt:
        _tell("Interrupted; everything that was started is stopped.")
        return 130
    return int(any(not report.passed for report in reports))


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(topology: str, options: argparse.Namespace, seconds: float) -> Report:
    report = Report(topology, options.seed, control=options.control)
    began = time.monotonic()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="qferry-chaos-"))
    with (
        contextlib.closing(Proxy(spawn)) as proxy,
        set_up(topology, proxy, APPLICATIONS) as stage,
        _progress(topology) as told,
    ):
        number = 0
        while number == 0 or time.monotonic() - began < seconds:
            number += 1
            logs = folder / f"{topology}-{options.seed}-{number}"
            logs.mkdir(parents=True)
            plan = Plan(
                f"{topology}/{options.seed}/{number}",
                number,
                options.points,
                options.calls_per_s,
                CONTROL_S if options.control else None,
                faults_s=began + seconds - time.monotonic(),
            )
            outcome = play(plan, stage, logs, told)
            report.add(outcome)
            (logs / "findings.txt").write_text("\n".join(f"{f.kind}: {f.text}" for f in outcome.verdict.findings))
            if outcome.verdict.findings:
                _tell(f"Findings in round {number}; its logs are in {logs}")
                for finding in outcome.verdict.findings[:8]:
                    _tell(f"  {finding.kind}: {finding.text[:400]}")
            elif options.keep is None:
                shutil.rmtree(logs)
    report.minutes = (time.monotonic() - began) / 60
    if options.keep is None and report.passed:
        shutil.rmtree(folder, ignore_errors=True)
    return report


class _Teller:
    """Tells on stderr what happens, and says at least every few seconds that the run lives."""

    def __init__(self, topology: str) -> None:
        self._topology = topology
        self._began = time.monotonic()
        self._last = ""
        self._over = threading.Event()
        self._said = threading.Event()
        self._thread = threading.Thread(target=self._remind, name="chaos-progress", daemon=True)
        self._thread.start()

    def __call__(self, line: str) -> None:
        self._last = line
        self._said.set()
        self._say(line)

    def _say(self, line: str) -> None:
        _tell(f"{time.monotonic() - self._began:7.1f} s  {self._topology}: {line}")

    def _remind(self) -> None:
        while not self._over.is_set():
            if not self._said.wait(_SILENCE_S) and not self._over.is_set():
                self._say(f"still: {self._last}")
            self._said.clear()

    def close(self) -> None:
        self._over.set()
        self._said.set()
        self._thread.join()


@contextlib.contextmanager
def _progress(topology: str) -> Iterator[_Teller]:
    teller = _Teller(topology)
    try:
        yield teller
    finally:
        teller.close()


if __name__ == "__main__":
    sys.exit(main())
