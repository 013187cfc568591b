"""
Measure everything in one run: `python -m bench`, or `make bench ARGS="..."`.

Progress goes to stderr, tables or JSON to stdout.  What is measured, how, and what came of it: docs/bench.md.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from bench import coordinator, copies, growth, latencies, load, plot, report
from bench.child import BenchError
from bench.contenders import CONTENDERS
from bench.place import Place
from bench.ratios import ratios
from bench.scale import FULL, PARTS, QUICK, Scale
from qferry.server import QdrantServer

INTERRUPTED = 130


def main() -> int:
    """Measure what the command line asks for; returns the exit code."""
    options = _options()
    scale = (QUICK if options.quick else FULL).resized(options.points, options.dim)
    given = {name: getattr(options, name) for name in ("rounds", "turns", "window_s")}
    scale = replace(scale, **{name: value for name, value in given.items() if value is not None})

    def keep(found: dict[str, Any]) -> None:
        if options.out:
            options.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")

    try:
        found = measure(scale, options.only, options.ways, _say, keep, quick=options.quick)
    except BenchError as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        _say("Stopped; every server and process this has started is gone.")
        return INTERRUPTED
    keep(found)
    if options.plot:
        for path in plot.write_all(found, options.plot):
            _say(f"wrote {path}")
    if options.json:
        print(json.dumps(found))
    else:
        report.show(found)
    return 0


def measure(
    scale: Scale,
    parts: Sequence[str],
    ways: Sequence[str],
    say: Callable[[str], None],
    keep: Callable[[dict[str, Any]], None],
    *,
    quick: bool = False,
) -> dict[str, Any]:
    """
    Start the servers and measure some parts; `ways` names the contenders of the copy part.

    `keep` is given what there is after each part, so that a later part that fails costs no earlier one.

    Returns:
        `about`, `copies`, `writes`, `reads`, `load`, `growth` as far as they were measured, and `ratios`.
    """
    began, load_before = time.monotonic(), os.getloadavg()[0]
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        say("starting a server; on the first migration it sees, clients get six seconds to notice")
        place = _server(stack)
        coordinator.warm_up(place)
        if "copy" in parts:
            found["copies"] = copies.measure(place, scale, ways, say)
            keep(found)
        wanted = {part: part in parts for part in ("writes", "reads")}
        if any(wanted.values()):
            # The second server runs only here: elsewhere it would take what the first one is measured with.
            with ExitStack() as meanwhile:
                calls = latencies.measure(place, _server(meanwhile), scale, say, **wanted)
            found |= {part: calls[part] for part in wanted if wanted[part]}
            keep(found)
        if "load" in parts:
            found["load"] = load.measure(place, scale, say)
            keep(found)
        if "growth" in parts:
            found["growth"] = growth.measure(place, scale, say)
        about = {
            "when": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "quick": quick,
            "points": scale.points,
            "dim": scale.dim,
            "rounds": scale.rounds,
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "qdrant": place.version(),
            "qdrant_client": importlib.metadata.version("qdrant-client"),
            "qferry": importlib.metadata.version("qferry"),
            # Of others too: far above zero, the figures are of a busy machine.
            "load_average_before": round(load_before, 2),
            "seconds": round(time.monotonic() - began, 1),
        }
    whole = {"about": about, **found}
    return {**whole, "ratios": [ratio.data() for ratio in ratios(whole)]}


def _server(stack: ExitStack) -> Place:
    server = stack.enter_context(QdrantServer.start())
    return Place(server.url, server.grpc_port)


def _say(words: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {words}", file=sys.stderr, flush=True)


def _some_of(all_of: Sequence[str]) -> Callable[[str], list[str]]:
    def chosen(words: str) -> list[str]:
        unknown = [word for word in words.split(",") if word not in all_of]
        if unknown:
            raise argparse.ArgumentTypeError(f"there is no {', '.join(unknown)}; there are {', '.join(all_of)}")
        return words.split(",")

    return chosen


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small and short, to see that it works")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.add_argument(
        "--only", type=_some_of(PARTS), default=PARTS, metavar="PART,...", help="some of " + ",".join(PARTS)
    )
    ways = tuple(CONTENDERS)
    parser.add_argument(
        "--ways", type=_some_of(ways), default=ways, metavar="WAY,...", help="ways to copy: some of " + ",".join(ways)
    )
    parser.add_argument("--points", type=int, metavar="N", help=f"default {FULL.points:,}, quick {QUICK.points:,}")
    parser.add_argument("--dim", type=int, metavar="D", help=f"default {FULL.dim}")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often each way to copy runs")
    parser.add_argument("--turns", type=int, metavar="N", help="turns of each kind of call")
    parser.add_argument("--window-s", type=float, metavar="S", help="length of the load part's windows")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the JSON there as well")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="draw the pictures of docs/bench.md there")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
