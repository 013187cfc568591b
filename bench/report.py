"""The figures of one run as tables, for people."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table

_WIDTH_OF_FILES = 160
_STEPS = ("start", "create", "copy", "restore", "verify", "green")
_MEASURED = {True: "[green]yes[/]", False: "[red]no[/]", None: "not measured"}

Report = Mapping[str, Any]


def show(report: Report) -> None:
    """Write the tables to stdout."""
    console = Console(file=sys.stdout, highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH_OF_FILES
    for table in _tables(report):
        console.print(table)
        console.print()


def _tables(report: Report) -> Iterator[RenderableType]:
    about = report["about"]
    yield ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in about.items())
    if "copies" in report:
        yield _copies(report["copies"], f"{about['points']:,} points of {about['dim']} dimensions, one server")
    for part, kinds in (("writes", ("single", "dual")), ("reads", ("plain", "routed"))):
        if part in report:
            yield _calls(report[part], part, kinds)
    if "load" in report:
        yield _load(report["load"])
    if "growth" in report:
        yield _growth(report["growth"])
        yield _fits(report["growth"])
    yield _ratios(report["ratios"])


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _copies(copies: Report, where: str) -> Table:
    table = _table(f"Seconds to give a collection another name ({where})", "way", *_STEPS, "total", "verified", "MB")
    for name, one in copies.items():
        if not one["available"]:
            table.add_row(name, one["reason"])
            continue
        steps = [f"{one['steps'][step]:.2f}" if step in one["steps"] else "" for step in _STEPS]
        table.add_row(
            name, *steps, f"{one['total_s']:.2f}", "every point" if one["verified"] else "", f"{one['peak_mb']:.0f}"
        )
    return table


def _calls(rows: list[Report], part: str, kinds: tuple[str, str]) -> Table:
    base, other = kinds
    title = f"Milliseconds of {part}, p50 / p99"
    table = _table(title, "call", "servers", "protocol", "at once", base, other, "p50 ratio")
    for row in rows:
        call = row["method"] + (f", served by the {row['served_by']}" if "served_by" in row else "")
        table.add_row(
            call,
            row["topology"],
            row["protocol"],
            str(row["callers"]),
            *(_percentiles(row[kind]) for kind in kinds),
            f"{row[other]['p50_ms'] / row[base]['p50_ms']:.2f}",
        )
    return table


def _percentiles(found: Report | None) -> str:
    return f"{found['p50_ms']:.2f} / {found['p99_ms']:.2f}" if found else ""


def _load(load: Report) -> Table:
    title = f"The application's milliseconds, p50 / p99, at {load['calls_per_s']:.0f} calls a second"
    table = _table(title, "meanwhile", "seconds", "calls", "all", "reads", "writes", "failed")
    for name, window in load["windows"].items():
        if not window["available"]:
            table.add_row(name, window["reason"])
            continue
        kinds = [_percentiles(window.get(kind)) for kind in ("all", "read", "write")]
        calls = str(window["all"]["calls"]) if "all" in window else "0"
        table.add_row(name, f"{window['seconds']:.1f}", calls, *kinds, str(window["failed"]))
    return table


def _growth(growth: Report) -> Table:
    table = _table("Seconds by size", "way", "points", "dimensions", *_STEPS, "µs per point", "MB")
    for row in growth["rows"]:
        begin = (row["contender"], f"{row['points']:,}", str(row["dim"]))
        if not row["available"]:
            table.add_row(*begin, row["reason"])
            continue
        steps = [f"{row['steps'][step]:.2f}" if step in row["steps"] else "" for step in _STEPS]
        table.add_row(*begin, *steps, f"{row['work_s'] / row['points'] * 1e6:.1f}", f"{row['peak_mb']:.0f}")
    return table


def _fits(growth: Report) -> Table:
    table = _table("A line through them (without the wait for green)", "way", "dimensions", "s", "s per million", "R²")
    for fit in growth["fits"]:
        table.add_row(
            fit["contender"],
            str(fit["dim"]),
            f"{fit['fixed_s']:.2f}",
            f"{fit['s_per_million']:.2f}",
            "" if fit["r_squared"] is None else f"{fit['r_squared']:.4f}",
        )
    return table


def _ratios(ratios: list[Report]) -> Table:
    table = _table("Targets", "ratio", "measured", "target", "met")
    for ratio in ratios:
        value = "" if ratio["value"] is None else f"{ratio['value']:,.3g}"
        if ratio["value"] is not None and ratio["value"] >= 1000:  # noqa: PLR2004  no exponents in a table
            value = f"{ratio['value']:,.0f}"
        sign = "≥" if ratio["bound"] == "at least" else "≤"
        table.add_row(ratio["name"], value, f"{sign} {ratio['target']:,g}", _MEASURED[ratio["met"]])
    return table
