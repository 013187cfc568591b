"""The tools: one for every command, under the command's name; each says what it changes, and asks before it does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Annotated, Any, TypeAlias, cast

import orjson
from mcp.server.mcpserver import Elicit, ElicitationResult, Resolve
from mcp_types import ToolAnnotations
from pydantic import AfterValidator, Field

from qferry import commands
from qferry.cli import options, shapes
from qferry.cli.app import ACK_TIMEOUT_S, SAFETY_DAYS_MAX, SOAK_S
from qferry.commands import DEFAULT_SAFETY_DAYS, Cleaned, Done, Started, Survey
from qferry.consequences import CONSEQUENCES
from qferry.errors import FerryError
from qferry.flows.parity import QUERIES
from qferry.flows.verify import GREEN_TIMEOUT_S, Verification
from qferry.mcp.calls import Ctx, operator, run, run_at_length
from qferry.mcp.consent import (
    Consent,
    Meant,
    TypedName,
    Unasked,
    ask_about,
    ask_name_about,
    asks,
    granted,
    granted_for,
    named_for,
    unasked,
)
from qferry.mcp.shapes import DoctorAnswer, HistoryAnswer, StatusAnswer, ThrottleAnswer, VerifyAnswer
from qferry.naming import check_collection_name
from qferry.preflight.report import Forecast
from qferry.protocol.records import Strategy, WritePolicy
from qferry.protocol.throttle import QuietHours

# An answer is read by a model; the command line lists them all.
IDS_MAX = 100
_SECONDS_MAX = 24 * 3600.0


def _valid(name: str | None) -> str | None:
    if name is not None:
        check_collection_name(name)
    return name


def _span(text: str | None) -> str | None:
    if text:
        QuietHours.parse(text)
    return text


Source: TypeAlias = Annotated[
    str | None,
    AfterValidator(_valid),
    Field(description="The migration of this collection; may be left out while only one is under way."),
]
NewSource: TypeAlias = Annotated[
    str, AfterValidator(_valid), Field(description="The collection to move, or an alias of it.")
]
NewTarget: TypeAlias = Annotated[
    str | None,
    AfterValidator(_valid),
    Field(description="Its new name; by default the canonical name of the project the source belongs to."),
]
Overrides: TypeAlias = Annotated[
    dict[str, Any] | None,
    Field(description='Settings of the target that are to differ from the source\'s, like {"hnsw_config": {"m": 32}}.'),
]
HowToCopy: TypeAlias = Annotated[
    Strategy | None, Field(description="By default a snapshot wherever that is possible, else a stream.")
]
Seconds: TypeAlias = Annotated[float, Field(ge=0, le=_SECONDS_MAX, allow_inf_nan=False)]
Percent: TypeAlias = Annotated[int, Field(ge=0, le=100, description="The share of the reads the target serves.")]
MaxPointsPerS: TypeAlias = Annotated[
    int | None, Field(ge=0, description="Points copied or compared in a second; 0: no limit.")
]
MaxLatencyMs: TypeAlias = Annotated[
    float | None,
    Field(
        ge=0, allow_inf_nan=False, description="Back off while the application's slowest calls take longer; 0: never."
    ),
]
HoursOfTheDay: TypeAlias = Annotated[
    str | None,
    AfterValidator(_span),
    Field(description="Stand still outside these hours of the day in UTC, like 22:00-06:00; '': at any time."),
]
SafetyDays: TypeAlias = Annotated[
    float, Field(ge=0, le=SAFETY_DAYS_MAX, allow_inf_nan=False, description="For how long `cleanup` is refused.")
]
Again: TypeAlias = Annotated[
    bool,
    Field(description="Of the points, compare only those that differed the last time, where sound; otherwise all."),
]
Queries: TypeAlias = Annotated[
    int,
    Field(ge=0, le=10_000, description="How many points to search with, for each vector; 0: `switch` is refused then."),
]
ConfirmedName: TypeAlias = Annotated[
    str | None, Field(description="The source's name; wanted only if the client cannot ask a person to type it.")
]


async def survey(ctx: Ctx) -> Survey:
    """List every collection with a legacy name and the canonical name it would get."""
    return await run(ctx, commands.survey, operator(ctx).naming)


async def plan(
    ctx: Ctx, source: NewSource, target: NewTarget = None, overrides: Overrides = None, strategy: HowToCopy = None
) -> Forecast:
    """Say what the migration of a collection would be, or why it cannot be done. Comes before `start`."""
    return await run(ctx, commands.plan, source, _target(ctx, source, target), overrides, strategy)


async def status(ctx: Ctx, source: Source = None) -> StatusAnswer:
    """Show where all migrations stand, or one, and which tool comes next (`next`)."""
    found = await run(ctx, partial(commands.status, naming=operator(ctx).naming), source)
    return cast("StatusAnswer", {"migrations": [_shortened(shapes.status_data(one)) for one in found]})


def _shortened(data: dict[str, Any]) -> dict[str, Any]:
    known = data["comparison"]
    return data if known is None else {**data, "comparison": {**known, "differences": known["differences"][:IDS_MAX]}}


async def history(ctx: Ctx, source: Source = None) -> HistoryAnswer:
    """Show everything that was done: when, by whom, at which epoch."""
    return {"history": list(await run(ctx, commands.history, source))}


async def doctor(ctx: Ctx, source: Source = None) -> DoctorAnswer:
    """Find what is wrong with migrations and what mends it; takes ten seconds if a process makes no sign of life."""
    found = await run_at_length(ctx, commands.doctor, source)
    return {"ok": found.healthy, "migrations": found.migrations, "findings": list(found.findings)}


async def _to_start(
    ctx: Ctx,
    source: str,
    target: str | None,
    overrides: dict[str, Any] | None,
    policy: WritePolicy,
    strategy: Strategy | None,
) -> Elicit[Consent] | Unasked:
    try:
        name = _target(ctx, source, target)
    except FerryError as error:
        return Unasked(error)
    how = "by snapshot wherever that is possible, else streamed" if strategy is None else strategy.value
    question = (
        f"Start to move `{source}` to `{name}` ({how})? `{name}` is created, and every running application writes to "
        "both from then on; before a snapshot it keeps a journal first. `abort` takes it back."
    )
    if overrides:
        question += f" It is to differ from the source: {orjson.dumps(overrides).decode()}."
    if policy is not WritePolicy.BOTH:
        question += " A write counts as done when the source has it, until readers see the target."
    return unasked(ctx) or Elicit(question, Consent)


async def start(
    ctx: Ctx,
    answer: Annotated[ElicitationResult[Consent], Resolve(_to_start)],
    source: NewSource,
    target: NewTarget = None,
    overrides: Overrides = None,
    policy: WritePolicy = WritePolicy.BOTH,
    strategy: HowToCopy = None,
    ack_timeout_s: Seconds = ACK_TIMEOUT_S,
) -> Started:
    """
    Create the target; every running application writes to both sides then, or keeps a journal for a snapshot first.

    `backfill` comes next.
    """
    granted(answer)
    return await run_at_length(
        ctx,
        commands.start,
        source,
        _target(ctx, source, target),
        overrides=overrides,
        policy=policy,
        strategy=strategy,
        ack_timeout_s=ack_timeout_s,
    )


async def _to_backfill(
    ctx: Ctx, meant: Meant, max_points_per_s: int | None, max_latency_ms: float | None, quiet_hours: str | None
) -> Elicit[Consent] | Unasked:
    limits = options.limits(max_points_per_s, max_latency_ms, quiet_hours)
    changed = f" The limits of its pace change, and stay so: {_listed(limits)}." if limits else ""
    return ask_about(ctx, meant, f"{CONSEQUENCES['backfill']}{changed}")


async def backfill(
    ctx: Ctx,
    meant: Meant,
    answer: Annotated[ElicitationResult[Consent], Resolve(_to_backfill)],
    source: Source = None,
    max_points_per_s: MaxPointsPerS = None,
    max_latency_ms: MaxLatencyMs = None,
    quiet_hours: HoursOfTheDay = None,
) -> Done:
    """
    Copy every point, then settle what was written meanwhile; goes on where an earlier one stopped.

    Takes its time; may be cancelled. Limits stay until `throttle` changes them. `verify` comes next.
    """
    name = await granted_for(ctx, meant, answer)
    limits = options.limits(max_points_per_s, max_latency_ms, quiet_hours)
    return await run_at_length(ctx, commands.backfill, name, limits=limits)


_to_verify = asks(str(CONSEQUENCES["verify"]))


async def verify(
    ctx: Ctx,
    meant: Meant,
    answer: Annotated[ElicitationResult[Consent], Resolve(_to_verify)],
    source: Source = None,
    again: Again = False,
    queries: Queries = QUERIES,
    green_timeout_s: Seconds = GREEN_TIMEOUT_S,
) -> VerifyAnswer:
    """
    Compare both sides: configuration, indexes, counts, every point bit by bit, and what searches find.

    Searches are compared when every point is equal and the target has built its indexes. `switch` comes next.
    """
    name = await granted_for(ctx, meant, answer)
    found = await run_at_length(
        ctx, commands.verify, name, again=again, queries=queries, green_timeout_s=green_timeout_s
    )
    return _verified(found)


_to_repair = asks(str(CONSEQUENCES["repair"]))


async def repair(
    ctx: Ctx,
    meant: Meant,
    answer: Annotated[ElicitationResult[Consent], Resolve(_to_repair)],
    source: Source = None,
    again: Again = False,
    queries: Queries = QUERIES,
    green_timeout_s: Seconds = GREEN_TIMEOUT_S,
) -> VerifyAnswer:
    """As `verify`, and make the target equal to the source where it differs; also clears suspicions."""
    name = await granted_for(ctx, meant, answer)
    found = await run_at_length(
        ctx, commands.verify, name, repair=True, again=again, queries=queries, green_timeout_s=green_timeout_s
    )
    return _verified(found)


def _verified(found: Verification) -> VerifyAnswer:
    short = replace(found, differing=found.differing[:IDS_MAX], differences=found.differences[:IDS_MAX])
    data = {"ok": found.passed, **asdict(short)}
    return cast("VerifyAnswer", data)


async def _to_switch(ctx: Ctx, meant: Meant, percent: int) -> Elicit[Consent] | Unasked:
    return ask_about(ctx, meant, str(CONSEQUENCES["switch"]), percent=percent)


async def switch(
    ctx: Ctx,
    meant: Meant,
    answer: Annotated[ElicitationResult[Consent], Resolve(_to_switch)],
    percent: Percent,
    source: Source = None,
    green_timeout_s: Seconds = GREEN_TIMEOUT_S,
) -> Done:
    """Let the target serve a share of the reads, once it is proven and its indexes are built. `finish` comes next."""
    name = await granted_for(ctx, meant, answer)
    return await run_at_length(ctx, commands.switch, name, percent=percent, green_timeout_s=green_timeout_s)


_to_rollback = asks(str(CONSEQUENCES["rollback"]))


async def rollback(
    ctx: Ctx,
    meant: Meant,
    answer: Annotated[ElicitationResult[Consent], Resolve(_to_rollback)],
    source: Source = None,
) -> Done:
    """Send every read back to the source, at once; nothing is lost."""
    return await run_at_length(ctx, commands.rollback, await granted_for(ctx, meant, answer))


_to_soak = asks(str(CONSEQUENCES["soak"]))


async def soak(
    ctx: Ctx,
    meant: Meant,
    answer: Annotated[ElicitationResult[Consent], Resolve(_to_soak)],
    source: Source = None,
    seconds: Seconds = SOAK_S,
) -> Done:
    """Keep both sides together for a while, so that concurrent writers leave nothing apart; may be cancelled."""
    return await run_at_length(ctx, commands.soak, await granted_for(ctx, meant, answer), seconds=seconds)


_to_abort = asks(str(CONSEQUENCES["abort"]))


async def abort(
    ctx: Ctx,
    meant: Meant,
    answer: Annotated[ElicitationResult[Consent], Resolve(_to_abort)],
    source: Source = None,
) -> Done:
    """Give a migration up, before `finish`: the application stays with the source, the target is removed."""
    return await run_at_length(ctx, commands.abort, await granted_for(ctx, meant, answer))


async def _to_finish(ctx: Ctx, meant: Meant, safety_days: float) -> Elicit[TypedName] | Unasked:
    return ask_name_about(ctx, meant, str(CONSEQUENCES["finish"]), days=f"{safety_days:g}")


async def finish(
    ctx: Ctx,
    meant: Meant,
    answer: Annotated[ElicitationResult[TypedName], Resolve(_to_finish)],
    source: Source = None,
    safety_days: SafetyDays = DEFAULT_SAFETY_DAYS,
    confirm: ConfirmedName = None,
) -> Done:
    """Let the application leave the source: the point of no return. `cleanup` comes after the safety period."""
    name = await named_for(ctx, meant, answer, confirm)
    return await run_at_length(ctx, commands.finish, name, safety_days=safety_days)


async def _to_cleanup(ctx: Ctx, meant: Meant, keep_alias: bool) -> Elicit[TypedName] | Unasked:
    wording = CONSEQUENCES["cleanup"]
    alias = f" {wording.options['keep_alias']}" if keep_alias else ""
    return ask_name_about(ctx, meant, f"{wording}{alias}")


async def cleanup(
    ctx: Ctx,
    meant: Meant,
    answer: Annotated[ElicitationResult[TypedName], Resolve(_to_cleanup)],
    source: Source = None,
    confirm: ConfirmedName = None,
    keep_alias: Annotated[
        bool, Field(description="Make the source's name an alias of the target, for clients without qferry.")
    ] = False,
) -> Cleaned:
    """Delete the source after the safety period and a final snapshot; `restore` is what would bring it back."""
    name = await named_for(ctx, meant, answer, confirm)
    return await run_at_length(ctx, commands.cleanup, name, confirm=name, keep_alias=keep_alias)


async def _to_throttle(
    ctx: Ctx,
    meant: Meant,
    max_points_per_s: int | None,
    max_latency_ms: float | None,
    quiet_hours: str | None,
    paused: bool | None,
) -> Elicit[Consent] | Unasked:
    limits = options.limits(max_points_per_s, max_latency_ms, quiet_hours, paused=paused)
    if not limits:
        return Unasked()
    return ask_about(ctx, meant, f"{CONSEQUENCES['throttle']} New limits: {_listed(limits)}.")


def _listed(limits: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {value!r}" for name, value in limits.items())


async def throttle(
    ctx: Ctx,
    meant: Meant,
    answer: Annotated[ElicitationResult[Consent], Resolve(_to_throttle)],
    source: Source = None,
    max_points_per_s: MaxPointsPerS = None,
    max_latency_ms: MaxLatencyMs = None,
    quiet_hours: HoursOfTheDay = None,
    paused: Annotated[bool | None, Field(description="Stand still, or go on.")] = None,
) -> ThrottleAnswer:
    """Change how fast a backfill or verify may go, also while it runs; without limits, only look."""
    name = await granted_for(ctx, meant, answer)
    limits = options.limits(max_points_per_s, max_latency_ms, quiet_hours, paused=paused)
    found = await run(ctx, commands.throttle, name, limits=limits)
    return cast("ThrottleAnswer", shapes.throttle_data(found))


def _target(ctx: Ctx, source: str, target: str | None) -> str:
    return target or commands.target_of(operator(ctx).naming, source)


Tool: TypeAlias = Callable[..., Awaitable[Any]]

_READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)


def _changes(*, destructive: bool) -> ToolAnnotations:
    # Every command may be run again, which leads to the same place or is refused.
    return ToolAnnotations(
        read_only_hint=False, destructive_hint=destructive, idempotent_hint=True, open_world_hint=False
    )


TOOLS: Mapping[Tool, ToolAnnotations] = {
    **dict.fromkeys((survey, plan, status, history, doctor), _READS),
    **dict.fromkeys((start, backfill, verify, switch, rollback, soak, throttle), _changes(destructive=False)),
    **dict.fromkeys((repair, abort, finish, cleanup), _changes(destructive=True)),
}
