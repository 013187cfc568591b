"""The verbs of `qferry`; each takes its options, calls `qferry.commands` and says how the result looks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Annotated

import typer

from qferry import commands
from qferry.cli import ask, log_lines, options, output, render, shapes
from qferry.cli.demo import demo
from qferry.cli.export import STDOUT, exporting
from qferry.cli.mcp import mcp
from qferry.cli.metrics import metrics
from qferry.cli.options import Context, NewSource, NewTarget, Source, Way, verb
from qferry.cli.output import Answer, plain, usage
from qferry.cli.run import Run
from qferry.cli.ui import ui
from qferry.cli.watch import watch as watched
from qferry.commands import DEFAULT_SAFETY_DAYS
from qferry.errors import FerryError
from qferry.flows.parity import QUERIES
from qferry.flows.verify import DESCRIBED, GREEN_TIMEOUT_S
from qferry.protocol.records import WritePolicy

ACK_TIMEOUT_S = 60.0
SOAK_S = 60.0
# More than a lifetime is a typing error.
SAFETY_DAYS_MAX = 36_500

app = typer.Typer(
    name="qferry",
    help="Move a live Qdrant collection to another one without stopping the application or losing a point.",
    add_completion=False,
    # A traceback with local variables could show a key.
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def _qferry(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        output.stdout().print(context.get_help())


@app.command()
@verb
def plan(
    context: Context,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SOURCE", callback=options.valid_name, show_default=False, help="By default: survey the server."
        ),
    ] = None,
    target: NewTarget = None,
    settings: options.Set = None,
    strategy: options.HowToCopy = Way.AUTO,
) -> Answer:
    """Say what a migration would do, or which collections have legacy names. Changes nothing."""
    if source is None:
        found = commands.survey(context.connection, context.naming)
        return Answer(plain(found), render.survey(found))
    target = target or commands.target_of(context.naming, source)
    planned = commands.plan(context.connection, source, target, options.overrides(settings), strategy.strategy)
    return Answer(plain(planned), render.plan(planned))


@app.command()
@verb
def start(
    context: Context,
    source: NewSource,
    target: NewTarget = None,
    settings: options.Set = None,
    policy: options.Policy = WritePolicy.BOTH,
    strategy: options.HowToCopy = Way.AUTO,
    ack_timeout: options.AckTimeout = ACK_TIMEOUT_S,
) -> Answer:
    """Create the target and let every running application write to both sides."""
    with context.progress() as report:
        started = commands.start(
            context.connection,
            source,
            target or commands.target_of(context.naming, source),
            overrides=options.overrides(settings),
            policy=policy,
            strategy=strategy.strategy,
            ack_timeout_s=ack_timeout,
            report=report,
        )
    return Answer(plain(started), render.started(started))


@app.command()
@verb
def backfill(
    context: Context,
    source: Source = None,
    dask: options.Dask = None,
    max_points_per_s: options.MaxPointsPerS = None,
    max_latency_ms: options.MaxLatencyMs = None,
    quiet_hours: options.QuietHoursOption = None,
) -> Answer:
    """Copy every point, then settle what was written meanwhile; goes on where it was interrupted."""
    limits = options.limits(max_points_per_s, max_latency_ms, quiet_hours)
    with context.progress() as report:
        done = commands.backfill(context.connection, source, dask=dask, limits=limits, report=report)
    return Answer(plain(done), render.done(done, "verify {}"))


@app.command()
@verb
def verify(
    context: Context,
    source: Source = None,
    repair: Annotated[bool, typer.Option("--repair", help="Make the target equal where it is not.")] = False,
    again: options.Again = False,
    export: options.Export = None,
    queries: options.Queries = QUERIES,
    green_timeout: options.GreenTimeout = GREEN_TIMEOUT_S,
    dask: options.Dask = None,
    max_points_per_s: options.MaxPointsPerS = None,
    max_latency_ms: options.MaxLatencyMs = None,
    quiet_hours: options.QuietHoursOption = None,
) -> Answer:
    """Compare both sides: configuration, indexes, counts, every point bit by bit, and what searches find."""
    limits = options.limits(max_points_per_s, max_latency_ms, quiet_hours)
    with exporting(export, as_json=context.as_json) as write, context.progress() as report:
        found = commands.verify(
            context.connection,
            source,
            repair=repair,
            again=again,
            queries=queries,
            green_timeout_s=green_timeout,
            describe=DESCRIBED if export is None else sys.maxsize,
            dask=dask,
            limits=limits,
            report=report,
        )
        write(found.differences)
    picture = render.verification(found, source or "")
    return Answer(plain(found), picture, ok=found.passed, beside=export == STDOUT)


@app.command()
@verb
def throttle(
    context: Context,
    source: Source = None,
    max_points_per_s: options.NewMaxPointsPerS = None,
    max_latency_ms: options.NewMaxLatencyMs = None,
    quiet_hours: options.NewQuietHours = None,
    pause: Annotated[
        bool | None, typer.Option("--pause/--resume", show_default=False, help="Let it stand still, or go on.")
    ] = None,
) -> Answer:
    """Change how fast a backfill or verify may go, also while it runs; without options, show it."""
    found = commands.throttle(
        context.connection,
        source,
        limits=options.limits(max_points_per_s, max_latency_ms, quiet_hours, paused=pause),
    )
    return Answer(shapes.throttle_data(found), render.throttled(found))


@app.command()
@verb
def switch(
    context: Context,
    percent: options.Percent,
    source: Source = None,
    shadow: options.Shadow = None,
    max_errors: options.MaxErrors = None,
    max_read_ms: options.MaxReadMs = None,
    green_timeout: options.GreenTimeout = GREEN_TIMEOUT_S,
) -> Answer:
    """Let the target serve a share of the reads, and say when it must not."""
    with context.progress() as report:
        done = commands.switch(
            context.connection,
            source,
            percent=percent,
            green_timeout_s=green_timeout,
            shadow_percent=options.percent(shadow),
            max_errors_percent=options.percent(max_errors),
            max_read_ms=max_read_ms,
            report=report,
        )
    following = "finish {0}" if percent == shapes.ALL_READS else "switch {0} --percent 100"
    return Answer(plain(done), render.done(done, f"{following}, or qferry rollback {{0}}"))


@app.command()
@verb
def rollback(context: Context, source: Source = None) -> Answer:
    """Send every read back to the source, at once; nothing is lost."""
    with context.progress() as report:
        done = commands.rollback(context.connection, source, report=report)
    return Answer(plain(done), render.done(done))


@app.command()
@verb
def soak(
    context: Context,
    source: Source = None,
    seconds: Annotated[
        float, typer.Option("--seconds", min=0, callback=options.finite, metavar="SECONDS", help="For how long.")
    ] = SOAK_S,
) -> Answer:
    """Keep both sides together for a while, so that concurrent writers leave nothing apart."""
    with context.progress() as report:
        done = commands.soak(context.connection, source, seconds=seconds, report=report)
    return Answer(plain(done), render.done(done))


@app.command()
@verb
def abort(context: Context, source: Source = None, yes: options.Yes = False) -> Answer:
    """Give a migration up: the application stays with the source, the target is removed."""
    if not yes:
        ask.confirmed(
            context.connection, source, "Abort {}? Its target is removed; the source stays as it is, with every write."
        )
    with context.progress() as report:
        done = commands.abort(context.connection, source, report=report)
    return Answer(plain(done), render.done(done))


@app.command()
@verb
def finish(
    context: Context,
    source: Source = None,
    safety_days: Annotated[
        float,
        typer.Option(
            "--safety-days",
            envvar="QFERRY_SAFETY_DAYS",
            min=0,
            max=SAFETY_DAYS_MAX,
            callback=options.finite,
            metavar="DAYS",
            help="For how long the source must be kept.",
        ),
    ] = DEFAULT_SAFETY_DAYS,
    yes: options.Yes = False,
) -> Answer:
    """Let the application leave the source: the point of no return."""
    if not yes:
        ask.confirmed(
            context.connection,
            source,
            "Finish {}? This is the point of no return: the source gets no more writes, and the only way back is a "
            "new migration the other way.",
        )
    with context.progress() as report:
        done = commands.finish(context.connection, source, safety_days=safety_days, report=report)
    return Answer(plain(done), render.done(done, "cleanup {}, after the safety period"))


@app.command()
@verb
def cleanup(
    context: Context,
    source: Source = None,
    confirm: Annotated[
        str | None,
        typer.Option("--confirm", metavar="NAME", show_default=False, help="The source's name, typed by hand."),
    ] = None,
    keep_alias: Annotated[
        bool, typer.Option("--keep-alias", help="Make the source's name an alias of the target.")
    ] = False,
    reclaim: Annotated[
        bool, typer.Option("--reclaim", help="List what migrations that are over have left behind, instead.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --reclaim: remove it.")] = False,
) -> Answer:
    """Delete the source after the safety period and a final snapshot; or take away what was left behind."""
    if reclaim and keep_alias:
        raise usage("--reclaim deletes no source, so it keeps no alias.", "Leave --keep-alias out.")
    if yes and not reclaim:
        raise usage("To delete a source, its name must be typed.", "Give --confirm NAME instead of --yes.")
    if reclaim:
        with context.progress() as report:
            found = commands.reclaim(context.connection, source, remove=yes, confirm=confirm, report=report)
        return Answer(plain(found), render.reclaimed(found))
    name = confirm if confirm is not None else ask.typed_name(context.connection, source)
    with context.progress() as report:
        done = commands.cleanup(context.connection, source, confirm=name, keep_alias=keep_alias, report=report)
    return Answer(plain(done), render.cleaned(done))


@app.command()
@verb
def status(
    context: Context,
    source: Source = None,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh once a second until Ctrl-C.")] = False,
) -> Answer:
    """Show where migrations stand and what to do next. Changes nothing."""
    look = partial(commands.status, context.connection, source, naming=context.naming)
    if not watch:
        found = look()
        return Answer({"migrations": [shapes.status_data(one) for one in found]}, render.statuses(found))
    screen = output.stdout()
    if context.as_json or not screen.is_terminal:
        raise usage("--watch draws on a terminal, and there is none or --json was given.", "Run it without --watch.")
    return Answer({}, watched(screen, lambda: render.statuses(look())))


@app.command()
@verb
def history(context: Context, source: Source = None) -> Answer:
    """Show everything that was done: when, by whom, at which epoch. Changes nothing."""
    lines = commands.history(context.connection, source)
    return Answer({"history": [plain(line) for line in lines]}, render.history(lines))


@app.command()
@verb
def doctor(context: Context, source: Source = None) -> Answer:
    """Find what is wrong with migrations and say what mends it. Changes nothing."""
    with context.progress() as report:
        found = commands.doctor(context.connection, source, report=report)
    return Answer(plain(found), render.examination(found), ok=found.healthy)


@app.command()
@verb
def run(
    context: Context,
    source: NewSource,
    target: NewTarget = None,
    percent: options.Percent = shapes.ALL_READS,
    settings: options.Set = None,
    policy: options.Policy = WritePolicy.BOTH,
    strategy: options.HowToCopy = Way.AUTO,
    ack_timeout: options.AckTimeout = ACK_TIMEOUT_S,
    green_timeout: options.GreenTimeout = GREEN_TIMEOUT_S,
    dask: options.Dask = None,
    max_points_per_s: options.MaxPointsPerS = None,
    max_latency_ms: options.MaxLatencyMs = None,
    quiet_hours: options.QuietHoursOption = None,
) -> Answer:
    """Start, backfill, verify and switch in one go; goes on where an earlier run stopped."""
    with context.progress() as report:
        ran = Run(
            connection=context.connection,
            source=source,
            target=target or commands.target_of(context.naming, source),
            percent=percent,
            overrides=options.overrides(settings),
            policy=policy,
            strategy=strategy.strategy,
            ack_timeout_s=ack_timeout,
            green_timeout_s=green_timeout,
            dask=dask,
            limits=options.limits(max_points_per_s, max_latency_ms, quiet_hours),
            report=report,
        ).go()
    return Answer(plain(ran), render.ran(ran), ok=ran.passed)


app.command()(demo)
app.command()(mcp)
app.command()(metrics)
app.command()(ui)


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run one command.

    Args:
        arguments: What was typed after `qferry`; by default the process's own.

    Returns:
        The exit code: 0 done, 1 refused or failed, 2 typed wrong, 130 stopped by Ctrl-C.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given
    output.tolerate_any_character()
    try:
        code: int | None = app(given, prog_name="qferry", standalone_mode=False)
    except (FerryError, output.Stop, typer.TyperException, typer.Abort) as error:
        return output.write_error(output.stop_for(error), as_json=as_json)
    except Exception as error:
        if as_json:
            stop = output.Stop(type(error).__name__, output.FAILED, str(error), "This is a fault of qferry: report it.")
            output.write_error(stop, as_json=True)
        raise
    finally:
        log_lines.end()
    return code or output.DONE
