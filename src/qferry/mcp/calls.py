"""
How a tool runs a command: in a thread, because commands block; with progress; and so that it can be cancelled.

A command is interrupted at its next report, in the way of Ctrl-C: it gives its claim back, and goes on where it
stopped when it is run again.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

from anyio import from_thread, to_thread
from mcp.server.mcpserver import Context
from mcp_types import CallToolResult, TextContent

from qferry.cli.progress import sentence
from qferry.connection import Connection
from qferry.errors import FerryError
from qferry.flows.effects import Report
from qferry.naming import CollectionNaming

P = ParamSpec("P")
T = TypeVar("T")

# A stage that goes on is reported this often at most.
TELL_EVERY_S = 0.5


@dataclass(frozen=True)
class Operator:
    """
    What every tool is given.

    Args:
        connection: The servers, which no tool can choose.
        naming: How collections are named.
        allow_changes: Whether a client that can ask nobody may change something.
    """

    connection: Connection
    naming: CollectionNaming
    allow_changes: bool


Ctx: TypeAlias = Context[Operator, Any]


def operator(ctx: Ctx) -> Operator:
    """The operator whose tool is called."""
    found: Operator = ctx.request_context.lifespan_context
    return found


async def run(ctx: Ctx, command: Callable[Concatenate[Connection, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a command that is soon done."""
    return await to_thread.run_sync(functools.partial(command, operator(ctx).connection, *args, **kwargs))


async def run_at_length(ctx: Ctx, command: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """
    Run a command that reports its progress.

    Cancellation: the command ends at its next report, with its claim given back; this returns when it has.
    """
    return await run(ctx, functools.partial(command, report=_Progress(ctx)), *args, **kwargs)


class _Progress:
    """Tells the client what a command reports.  What counts up is the seconds: every stage counts things of its own."""

    def __init__(self, ctx: Ctx) -> None:
        self._ctx = ctx
        self._began = time.monotonic()
        self._stage = ""
        self._told_at = self._began

    def __call__(self, report: Report) -> None:
        from_thread.check_cancelled()
        now = time.monotonic()
        if report.stage == self._stage and now - self._told_at < TELL_EVERY_S:
            return
        self._stage, self._told_at = report.stage, now
        from_thread.run(self._ctx.report_progress, now - self._began, None, sentence(report))


def told(tool: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T | CallToolResult]]:
    """A tool whose errors, where they are qferry's, are results that say so; the words are those of the command."""

    @functools.wraps(tool)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T | CallToolResult:
        try:
            return await tool(*args, **kwargs)
        except FerryError as error:
            return _refusal(error)

    return call


def _refusal(error: FerryError) -> CallToolResult:
    described = {"type": type(error).__name__, "message": error.message, "hint": error.hint}
    return CallToolResult(
        content=[TextContent(type="text", text=str(error))], structured_content={"error": described}, is_error=True
    )
