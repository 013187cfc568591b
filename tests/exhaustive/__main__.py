"""Explore the scopes: `python -m tests.exhaustive [part of a name ...]`; 1 if a promise is broken."""

from __future__ import annotations

import sys
import time

from .scope import explored
from .scopes import SCOPES
from .trace import told


def main() -> int:
    """Run what the command line names, all by default."""
    wanted = [name for name in SCOPES if not sys.argv[1:] or any(part in name for part in sys.argv[1:])]
    rows = [f"{'scope':34} {'states':>9} {'transitions':>11} {'schedules':>10} {'seconds':>8}  result"]
    violations: list[str] = []
    for number, name in enumerate(wanted, 1):
        sys.stderr.write(f"\r\033[K{number}/{len(wanted)} {name}: {SCOPES[name].about}")
        sys.stderr.flush()
        began = time.process_time()
        explorer, found = explored(SCOPES[name])
        seconds = time.process_time() - began
        result = "violated" if found.violation else "complete"
        rows.append(
            f"{name:34} {found.states:9,} {found.transitions:11,} {found.schedules:10.1e} {seconds:8.1f}  {result}"
        )
        if found.violation:
            violations += [f"\n{name}", *told(explorer, found)]
    sys.stderr.write("\r\033[K")
    sys.stdout.write("\n".join([*rows, *violations]) + "\n")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
