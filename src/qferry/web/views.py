"""What the pages are made of: everything a template shows of a migration, and how figures look."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from qferry.cli.progress import sentence
from qferry.cli.shapes import ALL_READS, differs, next_step, proven, shadow_data, writer_data
from qferry.commands import HistoryLine, Status
from qferry.flows.effects import Report
from qferry.flows.verify import SEARCHES, Verification
from qferry.protocol.checklist import Metric, State
from qferry.protocol.phases import ENDED, Phase
from qferry.protocol.records import Migration
from qferry.protocol.shadow import COMPARED_MIN
from qferry.web import pictures
from qferry.web.actions import ACTIONS
from qferry.web.watching import Look, Sample
from qferry.web.works import Work

# Lines of history on a migration's page, and on a page of its own.
LINES_BRIEF, LINES_FULL = 8, 100
# Writers that are listed, and from how many on the list is folded away.
WRITERS_LISTED, WRITERS_FOLDED = 500, 12
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400
_NOTHING = "\N{EN DASH}"
# Points that are listed of those that differ.
POINTS_LISTED = 50
# The phases of the document whose success metrics are listed.
PHASES = {1: "Dual writes", 2: "Backfill", 3: "Switch", 4: "Cleanup"}
_VERDICTS = ("verified", "verification failed")
_SEARCHES = ("searches compared", "search parity failed", "search parity not proven")

MIGRATION_PARTS = (
    "head",
    "work",
    "way",
    "traffic",
    "writers",
    "debt",
    "proof",
    "shadow",
    "checklist",
    "actions",
    "lines",
)
LIST_PARTS = ("list",)


def _number(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:,.0f}"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return "less than a second"
    if seconds < _MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < _HOUR_S:
        return f"{seconds / _MINUTE_S:.0f} min"
    if seconds < 2 * _DAY_S:
        return f"{seconds / _HOUR_S:.1f} h"
    return f"{seconds / _DAY_S:.0f} days"


def _when(at: str | None) -> Markup:
    """A moment as the records have it, in UTC."""
    if not at:
        return escape(_NOTHING)
    return Markup('<time datetime="{0}">{1}</time>').format(at, at.replace("T", " ").removesuffix("Z"))


def _prose(text: str) -> Markup:
    """A sentence whose names and commands stand in backticks."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704  it is escaped first


def _figure(value: Any) -> str:
    """A figure or word of any kind of evidence."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_figure(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_figure(one) for one in value)
    return _NOTHING if value is None else str(value)


def _words(name: str) -> str:
    return name.replace("_", " ")


def environment() -> Environment:
    """The templates; whatever is put into them is escaped."""
    made = Environment(
        loader=PackageLoader("qferry.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        number=_number,
        duration=_duration,
        when=_when,
        prose=_prose,
        figure=_figure,
        words=_words,
        sentence=sentence,
        filled=filled,
    )
    made.globals.update(WIDTH=pictures.WIDTH, HEIGHT=pictures.HEIGHT, FILES=_files())
    for name in made.list_templates():
        made.get_template(name)  # now, and not while somebody waits for a page
    return made


def _files() -> str:
    """What changes whenever one of the files does that pages refer to."""
    found = sorted(resources.files("qferry.web").joinpath("static").iterdir(), key=lambda file: file.name)
    return hashlib.sha256(b"".join(file.read_bytes() for file in found if file.is_file())).hexdigest()[:12]


def filled(text: str, m: Migration, **more: object) -> Markup:
    """A consequence with the names of a migration in it."""
    code = Markup("<code>{}</code>")
    names = {"source": code.format(m.source), "target": code.format(m.target)}
    return _prose(text).format(**names, **more)


def listed(look: Look) -> dict[str, Any]:
    """What the list of migrations shows: those under way first, then the latest."""
    found = sorted(look.statuses, key=lambda s: s.migration.generation, reverse=True)
    found.sort(key=lambda s: s.migration.phase in ENDED)
    return {"migrations": [_listed(s) for s in found]}


def _listed(status: Status) -> tuple[Status, list[pictures.Step], str]:
    m, known = status.migration, status.comparison
    return status, pictures.way(m, failed=differs(m, known)), next_step(m, known)


def migration(
    look: Look, samples: Sequence[Sample], rate: float | None, work: Work | None, *, read_only: bool
) -> dict[str, Any]:
    """What a migration's page shows."""
    (status,) = look.statuses
    m = status.migration
    failed = _failed(look.lines, work)
    unequal = failed is not None or differs(m, status.comparison)
    return {
        "m": m,
        "status": status,
        "next": next_step(m, status.comparison),
        "steps": pictures.way(m, failed=unequal),
        "aborted": m.phase in (Phase.ABORTING, Phase.ABORTED),
        "traffic": pictures.traffic(m),
        "progress": _progress(m, rate),
        "work": work if work is not None and _is_news(work, m) else None,
        "work_share": _share_of(work.report) if work is not None else None,
        "writers": _writers(status),
        "line": pictures.debt_line(samples),
        "failed": failed,
        "checks": _checks(m, work, failed=failed is not None),
        "differences": _differences(status),
        "parity": _parity(m, look.lines),
        "shadow": _shadow(status),
        "checklist": _checklist(status.checklist),
        "suggested": _suggested(m, failed=unequal),
        "possible": [] if read_only else [action for action in ACTIONS.values() if action.fits(m)],
        "read_only": read_only,
        "lines": look.lines[:LINES_BRIEF],
    }


def _is_news(work: Work, m: Migration) -> bool:
    """Whether what became of a command still says how things are."""
    overtaken = bool(m.stepped_back) and work.verb == "switch" and work.ended is not None and work.error is None
    return not work.is_long_over and not overtaken


def _suggested(m: Migration, *, failed: bool) -> str:
    """The action that usually comes next; empty: none of those that the dashboard has."""
    if m.phase in (Phase.CAPTURING, Phase.COPYING):
        return "backfill"
    if m.phase is Phase.SWITCHED and m.stepped_back:
        return ""  # whether to try again or to go back depends on what has happened to the target's server
    if m.phase in (Phase.COPIED, Phase.SWITCHED) and not proven(m):
        return "repair" if m.suspicions or (failed and m.verified is None) else "verify"
    if m.phase is Phase.SWITCHED and m.read_percent == ALL_READS and not m.reads_held:
        return "finish"
    return {Phase.COPIED: "switch", Phase.SWITCHED: "switch", Phase.FINISHING: "finish", Phase.FINISHED: "cleanup"}.get(
        m.phase, ""
    )


def _failed(lines: Sequence[HistoryLine], work: Work | None) -> HistoryLine | None:
    """The last verification, if it has found differences, as the history tells it."""
    if work is not None and isinstance(work.result, Verification) and work.result.passed:
        return None
    verdicts = [line for line in lines if line.what in _VERDICTS]
    return verdicts[0] if verdicts and verdicts[0].what == "verification failed" else None


def _checks(m: Migration, work: Work | None, *, failed: bool) -> Verification | None:
    """What the last verification from these pages has found, while it is still what counts."""
    found = work.result if work is not None else None
    if not isinstance(found, Verification):
        return None
    still_so = m.verified is not None if found.passed else failed
    return found if still_so else None


def _progress(m: Migration, rate: float | None) -> dict[str, Any] | None:
    """How far the copy is; None if none is under way."""
    if m.phase is not Phase.COPYING:
        return None
    left = max(0, m.expected_points - m.copied_points)
    return {
        "done": m.copied_points,
        "total": m.expected_points,
        "share": pictures.share(m.copied_points, m.expected_points),
        "rate": rate,
        "left_s": left / rate if rate else None,
    }


def _share_of(report: Report | None) -> float | None:
    if report is None or report.done is None or not report.total:
        return None
    return pictures.share(report.done, report.total)


def _writers(status: Status) -> dict[str, Any]:
    """The writers: a summary, and each of them, those that hold something up first."""
    rows = [writer_data(status.migration, writer) for writer in status.writers]
    rows.sort(key=lambda row: (not row["suspect"], not row["behind"], -row["debt"], row["host"], row["pid"]))
    slowest = [row["p99_ms"] for row in rows if row["p99_ms"] is not None]
    return {
        "rows": rows[:WRITERS_LISTED],
        "count": len(rows),
        "behind": sum(row["behind"] for row in rows),
        "suspect": sum(row["suspect"] for row in rows),
        "pinned": sum(bool(row["pins"]) for row in rows),
        "debt": sum(row["debt"] for row in rows),
        "p99_ms": max(slowest, default=None),
        "folded": len(rows) > WRITERS_FOLDED,
    }


def _parity(m: Migration, lines: Sequence[HistoryLine]) -> dict[str, Any] | None:
    """What searches have found on the target; None before every point was found equal."""
    if m.verified is None:
        return None
    found = m.parity
    told = [line for line in lines if line.what in _SEARCHES]
    return {
        "found": found,
        "groups": pictures.searched(found) if found is not None else [],
        "unused": [name for name, times in found["filters"].items() if not times] if found is not None else [],
        "why": told[0].details.get(SEARCHES, "") if found is None and told else "",
    }


def _shadow(status: Status) -> dict[str, Any] | None:
    """What shadow reads have found; None while there are none."""
    m, found = status.migration, status.shadow
    if found is None:
        return None
    return {**shadow_data(m, found), "rows": pictures.shadowed(m, found), "needed": COMPARED_MIN}


def _differences(status: Status) -> dict[str, Any] | None:
    """Which points the last comparison of every point has found to differ, and in what; None: none that counts."""
    found = status.comparison
    if found is None or not differs(status.migration, found):
        return None
    points = [(i, ", ".join(what)) for i, what in found.differing[:POINTS_LISTED]]
    return {"points": points, "total": found.total, "at": found.ended_at}


def _checklist(metrics: Sequence[Metric]) -> dict[str, Any]:
    """The metrics by phase, in their order, and how many are proven."""
    return {
        "phases": [(PHASES[n], list(group)) for n, group in itertools.groupby(metrics, key=lambda one: one.phase)],
        "proven": sum(metric.state is State.PROVEN for metric in metrics),
        "count": len(metrics),
    }
