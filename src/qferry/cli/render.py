"""Results as people see them: tables and sentences."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from qferry.cli.run import Ran
from qferry.cli.shapes import ALL_READS, next_step, proven, shadow_data, writer_data
from qferry.commands import Cleaned, Done, Examination, HistoryLine, Reclaimed, Started, Status, Survey, Throttled
from qferry.control.wire import collection_path
from qferry.flows import leftovers
from qferry.flows.verify import SEARCHES, Verification
from qferry.preflight.report import NO, YES, Forecast, Preflight
from qferry.preflight.sample import human
from qferry.protocol.checklist import Metric, State
from qferry.protocol.phases import TARGET_IS_TRUTH, Phase, Side
from qferry.protocol.records import Migration, Strategy
from qferry.protocol.shadow import Totals
from qferry.protocol.throttle import Limits

IDS_SHOWN = 20
_PRESENT: dict[Phase, int] = {
    Phase.PREPARING: 0,
    Phase.ANNOUNCED: 0,
    Phase.CAPTURING: 1,
    Phase.STARTING: 1,
    Phase.COPYING: 1,
    Phase.COPIED: 2,
    Phase.SWITCHED: 4,
    Phase.FINISHING: 5,
    Phase.FINISHED: 5,
    Phase.CLEANED: 6,
}
_VERIFIED = 3
_STATES = {
    State.PROVEN: Text("✓", style="green"),
    State.MISSING: Text("○", style="yellow"),
    State.FAILED: Text("✗", style="bold red"),
    State.LATER: Text("·"),
}
_NO_MIGRATION = "No migration is recorded on this server. `qferry plan` finds collections with legacy names."


def _table(*headings: str, numbers: Sequence[str] = (), title: str | None = None) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right" if heading in numbers else "left", overflow="fold")
    return table


def _row(table: Table, *cells: object, style: str | None = None) -> None:
    # As Text: a collection may well be called `[red]`.
    table.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in cells), style=style)


def _facts(facts: Mapping[str, object]) -> Table:
    table = _table("", "")
    table.show_header = False
    for name, value in facts.items():
        _row(table, Text(name, style="dim"), value)
    return table


def _count(points: int | None) -> str:
    return "absent" if points is None else f"{points:,}"


def survey(found: Survey) -> RenderableType:
    """The collections with legacy names and what they would be called."""
    if not found.proposals:
        return Text(f"None of the server's {found.collections} collections has a legacy name.")
    table = _table("collection", "canonical name", "command", title="Collections with a legacy name")
    for proposal in found.proposals:
        command = Text(f"qferry start {shlex.quote(proposal.source)}", style="cyan")
        note = Text("a collection of that name exists already", style="yellow")
        _row(table, proposal.source, proposal.target, note if proposal.target_exists else command)
    return Group(table, Text(f"{len(found.proposals)} of {found.collections} collections.", style="dim"))


def plan(found: Forecast) -> RenderableType:
    """What a migration would be, and its commands."""
    facts = {
        "from": found.source,
        "to": found.target,
        "points": f"{found.points:,}",
        "shards": found.shards,
        "payload indexes": ", ".join(found.indexes) or "none",
        "aliases": ", ".join(found.aliases) or "none",
        "server": f"Qdrant {found.server_version}",
        "strategy": f"{found.strategy}: {found.because}",
        "size": _size(found.preflight),
        "sample": _sample(found.preflight),
        "at the least": _estimate(found.preflight),
        "target's machine": _machine(found.preflight),
    }
    alias = Text(f"`{found.asked_for}` is an alias of `{found.source}`.", style="yellow")
    steps = Text("\n".join(f"  {step}" for step in found.steps), style="cyan")
    parts: list[RenderableType] = [alias] if found.asked_for != found.source else []
    parts.append(_facts(facts))
    if found.in_place is not None:
        call = f"PATCH {collection_path(found.source)} {orjson.dumps(found.in_place).decode()}"
        unless = "Unless it is to have another name, this needs no migration; the server changes it in place:"
        parts += [Text(unless, style="yellow"), Text(f"  {call}", style="cyan", no_wrap=True, overflow="ignore")]
    return Group(*parts, *_preflight(found.preflight), Text("Nothing was changed. The steps:", style="dim"), steps)


def _preflight(found: Preflight) -> list[RenderableType]:
    """What was looked at beside the plan, and last what needs somebody."""
    parts: list[RenderableType] = []
    for title, headings, rows in (
        (
            "Servers",
            ("side", "node", "version", "address"),
            [(one.side, peer.id, peer.version or "not told", peer.uri) for one in found.servers for peer in one.peers],
        ),
        ("What each gate decides", ("gate", "decision", "because"), [dataclasses.astuple(one) for one in found.gates]),
        (
            "Aliases",
            ("applications may call it", "at `finish` it"),
            [dataclasses.astuple(one) for one in found.aliases],
        ),
        ("Keys", ("server", "key", "expires", "says of itself"), _keys(found)),
    ):
        if rows:
            table = _table(*headings, title=title)
            for cells in rows:
                _row(table, *cells)
            parts += [Text(""), table]
    parts += [Text(one.note, style="dim") for one in found.servers if one.note]
    rights = _table("", "server", "what the key must allow", "needed for", title="Rights")
    for right in found.rights:
        mark = (
            _mark(passed=True) if right.granted == YES else Text("✗" if right.granted == NO else "?", style="bold red")
        )
        doubt = "" if right.granted == YES else f": {right.because}"
        _row(rights, mark, right.side, f"{right.right}{doubt}", right.needed_for)
    parts += [Text(""), rights, *_connected(found), Text("")]
    parts += [Text(f"! {warning}", style="yellow") for warning in found.warnings]
    return parts


def _size(found: Preflight) -> str:
    size = found.size
    if size.vectors is None or size.total_bytes is None:
        return f"{size.points:,} points; how large they are could not be read"
    return f"about {human(size.total_bytes)}: {size.vectors:,} vectors and their payloads, without indexes"


def _sample(found: Preflight) -> str:
    sample = found.sample
    if sample is None:
        return "no points could be read" if found.size.points else "there are no points"
    pace = f"{sample.points_per_s:,.0f} points/s at the fastest"
    return f"{sample.points:,} points by {sample.way} in {sample.seconds:.2f} s, {pace}, in one range"


def _estimate(found: Preflight) -> str:
    least = found.estimate
    said = [
        f"{human(least.room_bytes)} of room" if least.room_bytes is not None else "",
        f"{_seconds(least.copy_s)} to copy" if least.copy_s is not None else "",
        f"{_seconds(least.verify_s)} to verify" if least.verify_s is not None else "",
    ]
    return f"{', '.join(filter(None, said)) or 'not known'}; not in it: {least.leaves_out}"


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds >= 1 else "less than a second"


def _machine(found: Preflight) -> str:
    there = found.machine
    said = [
        f"{human(there.memory_bytes)} of memory" if there.memory_bytes is not None else "",
        f"{human(there.memory_used_bytes)} of it used by Qdrant" if there.memory_used_bytes is not None else "",
        f"a disk of {human(there.disk_bytes)}" if there.disk_bytes is not None else "",
    ]
    told = ", ".join(filter(None, said))
    return f"{told}. {there.note}" if told else there.note


def _connected(found: Preflight) -> list[RenderableType]:
    parts: list[RenderableType] = [Text(""), Text("Connected", style="bold")]
    if found.connected.writers:
        table = _table("writer", "pid", "since", "pinned by", numbers=("pid",))
        for writer in found.connected.writers:
            _row(table, writer.host, writer.pid, writer.since, writer.pins)
        parts.append(table)
    elif found.connected.known:
        parts.append(Text("nobody"))
    return [*parts, Text(found.connected.note, style="dim")]


def _keys(found: Preflight) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for key in found.keys:
        if key.token is None:
            rows.append((key.side, "a key" if key.given else "none", "", ""))
        else:
            expires = key.token.expires_at or "never"
            rows.append((key.side, "a JWT", expires, ", ".join(filter(None, (key.token.access, key.token.condition)))))
    return rows


def started(result: Started) -> RenderableType:
    """That dual writes are under way, or the journal that a snapshot needs."""
    who = [f"  {writer}" for writer in result.writers] or [
        "  none is running; whoever connects from now on does the same"
    ]
    captures = result.strategy == Strategy.SNAPSHOT.value
    what = "keeps a journal for the snapshot" if captures else "writes to both sides"
    return Group(
        _tick(f"`{result.source}` → `{result.target}`: every application {what}:"),
        Text("\n".join(who)),
        then("backfill {}", result.source),
    )


def done(result: Done, command: str = "") -> RenderableType:
    """What was done, and the usual next command."""
    sentence = _tick(f"`{result.source}` → `{result.target}` is {result.phase}: {result.detail}.")
    return Group(sentence, then(command, result.source)) if command else sentence


def cleaned(result: Cleaned) -> RenderableType:
    """That the source is gone, and how to have it back."""
    if not result.restore:
        return done(result)
    way = "To have it back beside the target, send its server (with its own snapshots folder, if that is another):"
    return Group(
        done(result), Text(way, style="dim"), Text(f"  {result.restore}", "cyan", no_wrap=True, overflow="ignore")
    )


def reclaimed(result: Reclaimed) -> RenderableType:
    """What was left behind, what became of each thing, and why."""
    if not result.leftovers:
        return _tick("No migration that is over has left anything behind.")
    table = _table("", "what", "name", "of", "size", "why, or why not", numbers=("size",))
    for left in result.leftovers:
        size = f"{left.size_bytes:,} B" if left.size_bytes is not None else _count(left.points) + " points"
        name = f"{left.name} at {left.server}" if left.server and left.kind != leftovers.SERVER else left.name
        _row(
            table,
            Text("✓ removed", "green") if left.removed else Text("kept", "yellow") if left.kept else "",
            left.kind,
            name,
            f"{left.source} → {left.target}" if left.source else "",
            size if left.size_bytes is not None or left.points is not None else "",
            left.kept or left.why,
        )
    parts: list[RenderableType] = [table]
    open_ones = [left for left in result.leftovers if not left.kept and not left.removed]
    if result.dry_run and open_ones:
        parts.append(Text("Nothing was removed. Add --yes to remove what is not kept.", style="dim"))
    for source in dict.fromkeys(left.source for left in open_ones if left.kind == leftovers.FINAL):
        words = f"The final snapshot is the last copy of `{source}`. To remove it too:"
        command = shlex.join(["qferry", "cleanup", source, "--reclaim", "--yes", "--confirm", source])
        parts += [Text(words, style="dim"), Text(f"  {command}", "cyan", no_wrap=True, overflow="ignore")]
    return Group(*parts)


def then(command: str, source: str) -> Text:
    """The usual next command, with ` {}` where the source's name belongs; that may be left out if it was not given."""
    name = f" {shlex.quote(source)}" if source else ""
    typed = re.sub(r" \{0?\}", lambda _: name, command)
    return Text.assemble(("Next: ", "dim"), (f"qferry {typed}", "cyan"))


def _tick(sentence: str) -> Text:
    return Text.assemble(("✓ ", "green"), sentence)


def _mark(*, passed: bool) -> Text:
    return Text("✓", style="green") if passed else Text("✗", style="bold red")


def verification(found: Verification, source: str) -> RenderableType:
    """A table of checks, and the ids that differ."""
    table = _table("", "check", "found", title=f"{found.points:,} points verified in {found.seconds:.1f} s")
    for check in found.checks:
        _row(table, _mark(passed=check.passed), check.name, check.detail)
    if found.passed:
        # Without a comparison of searches the switch would be refused.
        complete = any(check.name == SEARCHES for check in found.checks)
        return Group(table, then("switch {} --percent 10" if complete else "verify {} --again", source))
    failed = {check.name for check in found.checks if not check.passed}
    if failed == {SEARCHES}:
        return Group(table, then("verify {} --again, once that is mended; the points are proven equal", source))
    # Points and payload indexes can be repaired; a collection's configuration is set when it is created.
    again = then("abort {}, then start again" if failed == {"configuration"} else "verify {} --repair", source)
    if not found.differing:
        return Group(table, again)
    what = {difference.id: difference.what for difference in found.differences}
    rows = [(point, what.get(point, ())) for point in found.differing[:IDS_SHOWN]]
    return Group(table, *_differing(rows, len(found.differing), "--export lists all"), again)


def _differing(rows: Sequence[tuple[object, Sequence[str]]], total: int, rest: str) -> list[RenderableType]:
    """Points that differ, and in what."""
    shown = "\n".join(f"  {point}{': ' if what else ''}{', '.join(what)}" for point, what in rows[:IDS_SHOWN])
    more = f"\n  and {total - IDS_SHOWN:,} more ({rest})" if total > IDS_SHOWN else ""
    return [Text(f"Differing:\n{shown}{more}", style="red")]


def ran(result: Ran) -> RenderableType:
    """The steps of a run, and where it has led."""
    table = _table("", "step", "done", "seconds", numbers=("seconds",))
    for step in result.steps:
        passed = result.passed or step.verb != "verify"
        _row(table, _mark(passed=passed), step.verb, step.detail, f"{step.seconds:.1f}")
    if result.verification is not None and not result.passed:
        return Group(table, verification(result.verification, result.source))
    where = f"`{result.source}` → `{result.target}`: {result.read_percent} % of the reads are served by the target."
    following = "finish {0}" if result.read_percent == ALL_READS else "switch {0} --percent 100"
    return Group(table, _tick(where), then(f"{following}, or qferry rollback {{0}}", result.source))


def history(lines: Sequence[HistoryLine]) -> RenderableType:
    """Everything that was done, oldest first."""
    if not lines:
        return Text("Nothing is recorded on this server.")
    table = _table("when", "epoch", "what", "details", "who", numbers=("epoch",))
    for line in lines:
        _row(table, line.at, line.epoch, line.what, _details(line.details), line.who)
    return table


def _details(details: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in details.items() if value is not None)


def statuses(found: Sequence[Status]) -> RenderableType:
    """Where all migrations stand."""
    if not found:
        return Text(_NO_MIGRATION)
    pictures: list[RenderableType] = []
    for one in found:
        pictures += [Text(""), status(one)] if pictures else [status(one)]
    return Group(*pictures)


def status(found: Status) -> RenderableType:
    """Where one migration stands, and what to do next."""
    m = found.migration
    parts: list[RenderableType] = [
        Text.assemble((m.source, "bold"), " → ", (m.target, "bold"), (f"   epoch {m.epoch}", "dim")),
        phases(m),
        _sides(found),
    ]
    if found.writers:
        parts.append(_writers(found))
    shadow = {"shadow reads": _shadow(m, found.shadow)} if found.shadow is not None else {}
    facts = {"journal": f"{found.debt:,} points to check", "evidence": _evidence(found), **shadow, **_coordinator(m)}
    parts.append(_facts(facts))
    if found.target_failure:
        parts.append(Text(f"Nothing is known of the target: {found.target_failure}", style="red"))
    if m.stepped_back:
        parts.append(Text(f"Readers stepped back to the source: {m.stepped_back}", style="red"))
    parts += [Text(f"Suspect: {reason}", style="red") for reason in m.suspicions]
    if found.comparison is not None and found.comparison.ended_at and found.comparison.differing:
        comparison = found.comparison
        parts += _differing(comparison.differing, comparison.total, "--json lists them")
    if found.checklist:
        parts.append(_checklist(found.checklist))
    parts.append(Text.assemble(("Next: ", "dim"), (next_step(m, found.comparison), "cyan")))
    return Group(*parts)


def _checklist(metrics: Sequence[Metric]) -> Table:
    """The document's success metrics, each with its proof."""
    table = _table("", "phase", "success metric", "proof", "when")
    for n, metric in enumerate(metrics):
        phase = metric.phase if n == 0 or metrics[n - 1].phase != metric.phase else ""
        style = "dim" if metric.state is State.LATER else None
        when = "" if metric.state is State.LATER else metric.at or "now"
        _row(table, _STATES[metric.state], phase, metric.name, metric.proof, when, style=style)
    return table


def _shadow(m: Migration, found: Totals) -> str:
    data = shadow_data(m, found)
    if not found.compared and not found.errors:
        return f"{m.shadow_percent:g} % of the reads; none was compared yet"
    said = [
        f"{m.shadow_percent:g} % of the reads: {found.compared:,} compared",
        f"overlap {data['mean_overlap']:.3f} in the mean" if found.compared else "",
        f"{found.mismatches:,} not alike",
        f"scores differ by {found.score_delta:.2g} at most",
        f"the target takes {data['latency_ratio']:.2f} times as long" if found.source_s else "",
        f"{found.errors:,} failed",
        f"{found.dropped:,} dropped" if found.dropped else "",
    ]
    return ", ".join(filter(None, said))


def phases(m: Migration) -> Text:
    """The way of a migration in one line, with the place where it stands."""
    if m.phase in (Phase.ABORTING, Phase.ABORTED):
        return Text(f"● {m.phase.value}", style="bold red")
    names = ["prepared", "dual", "copied", "verified", "switched", "finished", "cleaned"]
    present = _PRESENT[m.phase]
    if m.phase is Phase.COPIED and proven(m):
        present = _VERIFIED
    if m.phase is Phase.COPYING:
        names[present] = f"dual, copying {m.copied_points:,} of {m.expected_points:,}"
    elif m.phase is Phase.CAPTURING:
        names[present] = "journal, before a snapshot"
    elif m.phase is Phase.SWITCHED:
        aside = ", stepped back" if m.stepped_back else ", reads held" if m.reads_held else ""
        names[present] = f"switched {m.read_percent} %{aside}"
    elif m.phase in (Phase.PREPARING, Phase.ANNOUNCED, Phase.STARTING, Phase.FINISHING):
        names[present] = m.phase.value
    line = Text()
    for place, name in enumerate(names):
        line.append(" → " if place else "", style="dim")
        if place < present:
            line.append(f"✓ {name}", style="green")
        elif place == present:
            line.append(f"● {name}", style="bold reverse")
        else:
            line.append(name, style="dim")
    return line


def _sides(found: Status) -> Table:
    m = found.migration
    truth = Side.TARGET if m.phase in TARGET_IS_TRUTH else Side.SOURCE
    reads = (0 if m.reads_held or m.stepped_back else m.read_percent) if truth is Side.SOURCE else ALL_READS
    table = _table("side", "collection", "points", "status", "reads", "", numbers=("points", "reads"))
    for side, points, state, share in (
        (Side.SOURCE, found.source_points, "", ALL_READS - reads),
        (Side.TARGET, found.target_points, found.target_status or "", reads),
    ):
        place = f"{m.collection(side)} at {m.server(side)}" if m.server(side) else m.collection(side)
        _row(table, side.value, place, _count(points), state, f"{share} %", "truth" if side is truth else "")
    return table


def _writers(found: Status) -> Table:
    m = found.migration
    table = _table("writer", "pid", "since", "epoch", "debt", "pinned by", numbers=("pid", "debt"))
    for writer in found.writers:
        data = writer_data(m, writer)
        behind = Text(f"behind, at {data['acknowledged_epoch']}", style="yellow")
        epoch = behind if data["behind"] else Text("acknowledged", style="green")
        pins = "stopped in the middle of a write" if data["suspect"] else data["pins"]
        _row(table, writer.host, writer.pid, writer.since, epoch, f"{data['debt']:,}", pins)
    return table


def _evidence(found: Status) -> str:
    m = found.migration
    if m.verified is None:
        known = found.comparison
        if known is None or known.ended_at:
            return "not verified"
        return f"not verified; a comparison begun {known.began_at} has come to {known.plan.copied:,} points"
    points = f", {m.verified['points']:,} points" if "points" in m.verified else ""
    if "since" in m.verified:
        points += f", compared since {m.verified['since']}"
    if "again" in m.verified:
        again = m.verified["again"]
        points += f", those {again['points']:,} that had differed again {again['at']}"
    searches = "searches compared" if proven(m) else "searches not proven"
    return f"verified {m.verified.get('at', '')}{points}, {searches}"


def _coordinator(m: Migration) -> dict[str, object]:
    at_work: dict[str, object] = {"at work": m.claim_by} if m.claim_by else {}
    limited: dict[str, object] = {"limits": _limits(m.limits)} if m.limits != Limits() else {}
    return {**at_work, **limited, **({"pace": m.pace} if m.pace else {})}


def examination(found: Examination) -> RenderableType:
    """What is wrong, with what mends it; and what is worth knowing."""
    if not found.migrations:
        return Text(_NO_MIGRATION)
    if not found.findings:
        return _tick(f"Nothing is wrong with {found.migrations} migration(s).")
    parts: list[RenderableType] = []
    heading = None
    for finding in found.findings:
        if heading != (finding.source, finding.target):
            heading = (finding.source, finding.target)
            parts.append(Text.assemble((finding.source, "bold"), " → ", (finding.target, "bold")))
        mark, style = ("✗ ", "bold red") if finding.problem else ("· ", "dim")
        parts.append(Text.assemble((mark, style), finding.what))
        parts.append(Text.assemble("  ", (finding.mend, "cyan")))
    problems = sum(finding.problem for finding in found.findings)
    parts.append(Text(f"{problems} problem(s)" if problems else "Nothing that needs you.", style="dim"))
    return Group(*parts)


def throttled(found: Throttled) -> RenderableType:
    """How fast a migration may go, and how fast it goes."""
    facts: dict[str, object] = {"limits": _limits(found.limits), "at work": found.coordinator or "no command"}
    if found.coordinator:
        facts["pace"] = found.pace or "as fast as it goes"
    return Group(Text.assemble((found.source, "bold"), " → ", (found.target, "bold")), _facts(facts))


def _limits(limits: Limits) -> str:
    said = [
        f"{limits.max_points_per_s:,.0f} points/s" if limits.max_points_per_s else "",
        f"p99 of the application {limits.max_latency_ms:g} ms" if limits.max_latency_ms else "",
        f"only {limits.quiet_hours} UTC" if limits.quiet_hours else "",
        "paused" if limits.paused else "",
    ]
    return ", ".join(filter(None, said)) or "none"
