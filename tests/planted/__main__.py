"""
Plant faults into a verified target and let `qferry verify` find them: `python -m tests.planted --rounds 5 --seed 1`.

Each round plants one fault of each kind at a random place.  Exit code 1 if one was not found, or not as it should be.
Ctrl-C ends it early, with the table.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections import Counter
from random import Random

from qferry.server import QdrantServer

from .faults import FAULTS, play
from .pair import Pair


def main() -> int:
    """Run what the command line asks for; 1 if a fault was missed."""
    parser = argparse.ArgumentParser(prog="tests.planted", description=__doc__)
    parser.add_argument("--points", type=int, default=100_000, help="points of the source")
    parser.add_argument("--rounds", type=int, default=3, help="how often each fault is planted")
    parser.add_argument("--seed", type=int, default=1, help="the same seed, the same faults at the same places")
    options = parser.parse_args()
    planted, found, slowest = Counter[str](), Counter[str](), Counter[str]()
    began = time.monotonic()
    with (
        contextlib.suppress(KeyboardInterrupt),  # what has been found by then is told
        QdrantServer.start() as server,
        contextlib.closing(Pair(server, options.points, Random(options.seed))) as pair,
    ):
        _tell(f"moving {options.points:,} points until they are verified")
        pair.build()
        for number in range(1, options.rounds + 1):
            for kind in FAULTS:
                fault, seen, missed = play(pair, kind)
                planted[kind] += 1
                found[kind] += not missed
                slowest[kind] = max(slowest[kind], round(1000 * seen.seconds))
                said = f"MISSED: {missed}" if missed else f"found in {seen.seconds:.1f} s"
                _tell(f"{time.monotonic() - began:6.0f} s  round {number}: {kind} ({fault.where}): {said}")
    sys.stdout.write(f"{'fault':40} {'found':>9} {'slowest verify':>15}\n")
    for kind, times in planted.items():
        sys.stdout.write(f"{kind:40} {f'{found[kind]} of {times}':>9} {slowest[kind] / 1000:>13.1f} s\n")
    return int(found != planted or not planted)


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
