"""
The figures of one run as pictures for the docs: SVG written by hand, readable on a light and on a dark page.

A plotting library would be the largest of all development dependencies, for bars and lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

_WIDTH, _LEFT, _RIGHT, _TOP, _ROW = 760, 210, 70, 58, 26
_COLOURS = ("#2a78b5", "#e08a1e", "#4c9f50", "#b5483f", "#7d6bb0", "#888888")
_TICKS = 4

Report = Mapping[str, Any]
# A label and its parts: name and value.
Bar = tuple[str, Sequence[tuple[str, float]]]


def write_all(report: Report, folder: Path) -> list[Path]:
    """Write every picture the report has figures for; returns where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, str] = {}
    if "copies" in report:
        pictures["bench-copies"] = bars("Seconds until the new collection is green", _copies(report["copies"]))
    if "writes" in report:
        pictures["bench-writes"] = bars("Milliseconds of a write, p50, one server", _writes(report["writes"]))
    if "load" in report:
        pictures["bench-load"] = bars("Milliseconds of the application's calls, p99", _load(report["load"]))
    if "growth" in report:
        pictures["bench-growth"] = lines("Seconds by points, without the wait for green", _growth(report["growth"]))
    paths = []
    for name, picture in pictures.items():
        paths.append(folder / f"{name}.svg")
        paths[-1].write_text(picture, encoding="utf-8")
    return paths


def _copies(copies: Report) -> list[Bar]:
    order = {"create": "start", "restore": "green"}
    found = []
    for name, one in copies.items():
        if one["available"]:
            parts = dict.fromkeys(("start", "copy", "verify", "green"), 0.0)
            for step, seconds in one["steps"].items():
                parts[order.get(step, step)] += seconds
            found.append((name, list(parts.items())))
    return found


def _writes(rows: list[Report]) -> list[Bar]:
    return [
        (f"{row['protocol']}, {row['callers']} at once: {kind}", [(kind, row[kind]["p50_ms"])])
        for row in rows
        if row["topology"] == "one server"
        for kind in ("single", "dual")
    ]


def _load(load: Report) -> list[Bar]:
    return [(name, [("p99", one["all"]["p99_ms"])]) for name, one in load["windows"].items() if "all" in one]


def _growth(growth: Report) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {}
    for row in growth["rows"]:
        if row["available"]:
            found.setdefault(f"{row['contender']}, {row['dim']}-d", []).append((row["points"], row["work_s"]))
    return {name: sorted(line) for name, line in found.items()}


def bars(title: str, rows: Sequence[Bar]) -> str:
    """Draw horizontal bars, each of one or more parts."""
    names = list(dict.fromkeys(name for _, parts in rows for name, _ in parts))
    colour = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(names)}
    longest = max((sum(value for _, value in parts) for _, parts in rows), default=0) or 1
    scale = (_WIDTH - _LEFT - _RIGHT) / longest
    drawn = _legend(colour)
    for number, (label, parts) in enumerate(rows):
        y, x = _TOP + number * _ROW, float(_LEFT)
        drawn.append(_text(_LEFT - 8, y + 13, label, "end"))
        for name, value in parts:
            width = value * scale
            drawn.append(f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="18" fill="{colour[name]}"/>')
            x += width
        drawn.append(_text(x + 6, y + 13, _figure(sum(value for _, value in parts))))
    return _svg(title, _TOP + len(rows) * _ROW + 10, drawn)


def lines(title: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Draw a line through the points of each series; both axes begin at zero."""
    colour = {name: _COLOURS[number % len(_COLOURS)] for number, name in enumerate(series)}
    every = [point for line in series.values() for point in line]
    most_x, most_y = max((x for x, _ in every), default=1), max((y for _, y in every), default=1)
    left, right, top, bottom = 60, _WIDTH - 40, _TOP, 360

    def at(x: float, y: float) -> tuple[float, float]:
        return left + (right - left) * x / most_x, bottom - (bottom - top) * y / most_y

    drawn = _legend(colour)
    for tick in range(_TICKS + 1):
        x, y = at(most_x * tick / _TICKS, most_y * tick / _TICKS)
        drawn.append(f'<path d="M{left} {y:.1f}H{right}" stroke="#888888" stroke-opacity="0.3"/>')
        drawn.append(_text(left - 8, y + 4, _figure(most_y * tick / _TICKS), "end"))
        drawn.append(_text(x, bottom + 18, f"{most_x * tick / _TICKS:,.0f}", "middle"))
    for name, line in series.items():
        path = " ".join("{:.1f},{:.1f}".format(*at(*point)) for point in line)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour[name]}" stroke-width="2"/>')
        drawn += [
            '<circle cx="{:.1f}" cy="{:.1f}" r="3.5" fill="{}"/>'.format(*at(*point), colour[name]) for point in line
        ]
    return _svg(title, bottom + 32, drawn)


def _legend(colour: Mapping[str, str]) -> list[str]:
    drawn, x = [], 16.0
    for name, fill in colour.items():
        drawn.append(f'<rect x="{x:.0f}" y="32" width="11" height="11" fill="{fill}"/>')
        drawn.append(_text(x + 16, 42, name))
        x += 34 + 6.6 * len(name)
    return drawn


def _text(x: float, y: float, words: str, anchor: str = "start", extra: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{escape(words)}</text>'


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004  three digits


def _svg(title: str, height: int, drawn: Iterable[str]) -> str:
    # A grey that can be read on white and on black: the docs are shown on both.
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" font-family="system-ui, sans-serif" font-size="12" fill="#7a7a7a">'
    )
    heading = _text(16, 20, title, extra=' font-size="14" font-weight="600"')
    return "\n".join([head, f"<title>{escape(title)}</title>", heading, *drawn, "</svg>\n"])
