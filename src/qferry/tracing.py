"""
A span for each command, and one inside it for each stage it reports, in a process that has OpenTelemetry's API loaded.

qferry imports it for nobody; without a tracer provider its spans are nothing.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

from qferry.flows.effects import Report

P = ParamSpec("P")
T = TypeVar("T")


def traced(command: Callable[P, T]) -> Callable[P, T]:
    """`command`, which takes `report=`, with spans around it and its stages."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        trace = sys.modules.get("opentelemetry.trace")
        if trace is None:
            return command(*args, **kwargs)
        told: Any = kwargs.get("report", lambda _: None)
        stages = _Stages(trace, told)
        kwargs["report"] = stages.report
        name = f"qferry.{command.__name__}"
        # A server's words may be the application's data, and do not belong into a trace.
        with trace.get_tracer("qferry").start_as_current_span(
            name,
            attributes={"db.system.name": "qdrant", "db.operation.name": command.__name__},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                return command(*args, **kwargs)
            except BaseException as error:
                span.set_attribute("error.type", type(error).__qualname__)
                span.set_status(trace.StatusCode.ERROR)
                raise
            finally:
                stages.end()

    return run


class _Stages:
    """The span of the stage that was reported last."""

    def __init__(self, trace: ModuleType, told: Callable[[Report], None]) -> None:
        self._trace = trace
        self._told = told
        self._stage = ""
        self._span: Any = None

    def report(self, report: Report) -> None:
        """Pass a report on; a stage ends when another one begins."""
        if report.stage != self._stage:
            self.end()
            self._stage = report.stage
            self._span = self._trace.get_tracer("qferry").start_span(f"qferry.stage.{report.stage}")
        if report.done is not None:
            self._span.set_attribute("qferry.done", report.done)
        if report.repaired:
            self._span.add_event("qferry.repaired", {"points": report.repaired})
        self._told(report)

    def end(self) -> None:
        """The stage is over."""
        if self._span is not None:
            self._span.end()
        self._span = None
