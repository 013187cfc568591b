"""
What a client shows of itself: spans and metrics of its calls while a migration has them in hand, and its log.

A call that no migration concerns is not watched.  A span is made if the application has imported OpenTelemetry's API,
by whatever tracer it has set up; qferry imports it for nobody.
"""

from __future__ import annotations

import functools
import logging
import sys
import time
from collections.abc import Callable
from contextvars import Token
from typing import Any, Protocol

from qferry.clients.table import Kind
from qferry.errors import FerryError, LeaseLost, Misuse, TargetWriteFailed
from qferry.flows.routed import first_look
from qferry.logs import tell
from qferry.protocol.phases import ENDED, Phase
from qferry.protocol.records import LEASE_S
from qferry.protocol.seen import SEEN, Seen
from qferry.protocol.session import Route, Session

# What happens again and again is told once in so many seconds.
TELL_EVERY_S = 60.0

# The kinds that are watched, and whether they write.
_WRITES = {Kind.READ: False, Kind.WRITE: True, Kind.UPLOAD: True}


class Metrics(Protocol):
    """What counts calls."""

    def count(self, route: Route, seen: Seen, outcome: str, seconds: float, *, write: bool) -> None:
        """Count a call that has ended."""


def metrics_for(client: Any) -> Metrics | None:
    """
    What counts the calls of `client`, if that is wanted.

    Raises:
        Misuse: It is wanted, and `qferry[metrics]` is not installed.
    """
    if not client.ferry_options.metrics:
        return None
    try:
        from qferry.clients.metrics import CLIENTS  # noqa: PLC0415  its package is an extra
    except ImportError as error:
        raise Misuse(
            f"Metrics need a package that is not installed: {error}.",
            hint='Install it with `pip install "qferry[metrics]"`, or leave QFERRY_METRICS unset.',
        ) from error
    CLIENTS.add(client)
    return CLIENTS


def watched(method: str, kind: Kind, call: Callable[..., Any]) -> Callable[..., Any]:
    """`call`, a client's blocking method, watched while a migration has its collection in hand."""
    if kind not in _WRITES:
        return call

    @functools.wraps(call)
    def watched_call(self: Any, collection_name: str, *args: Any, **kwargs: Any) -> Any:
        if not self._session.term and not self._session.valid(time.monotonic()):
            # What the call itself would do first of all; by then it would be too late to watch it.
            self._driver.run(first_look(self._session))
        route = self._session.view.routes.get(collection_name)
        if route is None or route.migration.phase in ENDED:
            return call(self, collection_name, *args, **kwargs)
        with Watch(self, method, collection_name, route, write=_WRITES[kind]):
            return call(self, collection_name, *args, **kwargs)

    return watched_call


def watched_async(method: str, kind: Kind, call: Callable[..., Any]) -> Callable[..., Any]:
    """The same of an asyncio client's."""
    if kind not in _WRITES:
        return call

    @functools.wraps(call)
    async def watched_call(self: Any, collection_name: str, *args: Any, **kwargs: Any) -> Any:
        if not self._session.term and not self._session.valid(time.monotonic()):
            # What the call itself would do first of all; by then it would be too late to watch it.
            await self._driver.run(first_look(self._session))
        route = self._session.view.routes.get(collection_name)
        if route is None or route.migration.phase in ENDED:
            return await call(self, collection_name, *args, **kwargs)
        with Watch(self, method, collection_name, route, write=_WRITES[kind]):
            return await call(self, collection_name, *args, **kwargs)

    return watched_call


class Watch:
    """One call, from its beginning to its end."""

    def __init__(self, client: Any, method: str, collection: str, route: Route, *, write: bool) -> None:
        self._client, self._write, self._route = client, write, route
        self._seen = Seen()
        self._tracing = span_of_call(method, collection, route, write=write)
        self._span: Any = None

    def __enter__(self) -> None:
        """Let what carries the call out note what it comes to."""
        self._token: Token[Seen | None] = SEEN.set(self._seen)
        if self._tracing is not None:
            self._span = self._tracing.__enter__()
        self._began = time.monotonic()

    def __exit__(self, _: object, error: BaseException | None, *__: object) -> None:
        """Tell whoever wants to know."""
        seconds = time.monotonic() - self._began
        SEEN.reset(self._token)
        outcome = outcome_of(error, self._seen)
        if self._client._metrics is not None:  # noqa: SLF001  of the same layer
            self._client._metrics.count(self._route, self._seen, outcome, seconds, write=self._write)  # noqa: SLF001
        if self._seen.fell_back or self._seen.mended:
            self._client._beats.repeatedly(self._route, self._seen)  # noqa: SLF001
        if self._tracing is not None:
            self._tell_span(error, outcome)
            self._tracing.__exit__(None, None, None)

    def _tell_span(self, error: BaseException | None, outcome: str) -> None:
        self._span.set_attribute("qferry.outcome", outcome)
        if self._seen.side is not None:
            self._span.set_attribute("qferry.side", self._seen.side.value)
        if error is not None:
            self._span.set_attribute("error.type", type(error).__qualname__)
            self._span.set_status(sys.modules["opentelemetry.trace"].StatusCode.ERROR)


def outcome_of(error: BaseException | None, seen: Seen) -> str:
    """What a call has come to, in one of six words."""
    if error is None:
        return "fell_back" if seen.fell_back else "ok"
    if not isinstance(error, Exception):
        return "interrupted"
    if isinstance(error, TargetWriteFailed):
        return "target_failed"
    return "lease_lost" if isinstance(error, LeaseLost) else "error"


def span_of_call(method: str, collection: str, route: Route, *, write: bool) -> Any:
    """The span of a call, not yet begun; None in an application without OpenTelemetry."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    m = route.migration
    return trace.get_tracer("qferry").start_as_current_span(
        "qferry.write" if write else "qferry.read",
        kind=trace.SpanKind.CLIENT,
        attributes={
            "db.system.name": "qdrant",
            "db.operation.name": method,
            "db.collection.name": collection,
            "qferry.source": m.source,
            "qferry.target": m.target,
            "qferry.phase": m.phase.value,
            "qferry.routing": route.writes.value,
            "qferry.epoch": m.epoch,
        },
        # What a server says may be the application's data, and does not belong into a trace.
        record_exception=False,
        set_status_on_exception=False,
    )


class Beats:
    """What a client says of its heartbeats, and of what keeps happening to its calls."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._known: dict[str, tuple[Any, ...]] = {}
        self._term = 0
        self._failing = self._lapsed = False
        self._repeated: dict[tuple[str, str], tuple[float, int]] = {}  # event, source -> told when, and what since

    def heard(self) -> None:
        """A heartbeat has succeeded: say what has changed with it."""
        view, before = self._session.view, self._term
        self._term = self._session.term
        if self._failing:
            tell(logging.INFO, "heartbeat_recovered", "The heartbeat has recovered.")
        if self._lapsed or (before and before != self._term and self._known):
            tell(
                logging.WARNING,
                "lease_renewed",
                "The lease had lapsed and is renewed; calls go on by the routing of now.",
                term=self._term,
            )
        self._failing = self._lapsed = False
        known: dict[str, tuple[Any, ...]] = {}
        for m in view.migrations.values():
            route = view.routes.get(m.source)
            if route is None or route.migration is not m or (m.phase in ENDED and m.id not in self._known):
                continue
            known[m.id] = (m.phase, route.writes, route.read_percent)
            if known[m.id] != self._known.get(m.id):
                tell(
                    logging.INFO,
                    "routing_adopted",
                    f"`{m.source}` to `{m.target}` is {m.phase.value}: writes {route.writes.value}, "
                    f"{route.read_percent} % of the reads from the target (epoch {m.epoch}).",
                    source=m.source,
                    target=m.target,
                    phase=m.phase.value,
                    routing=route.writes.value,
                    read_percent=route.read_percent,
                    epoch=m.epoch,
                )
        gone = self._known.keys() - known.keys()
        for migration_id in gone:
            m_gone = view.migrations.get(migration_id)
            if m_gone is not None and m_gone.phase is Phase.ABORTED:
                tell(
                    logging.INFO,
                    "routing_dropped",
                    f"`{m_gone.source}` to `{m_gone.target}` is aborted: calls go where they name.",
                    source=m_gone.source,
                    target=m_gone.target,
                    epoch=m_gone.epoch,
                )
        self._known = known

    def failed(self, error: Exception) -> None:
        """A heartbeat has failed: say so once, and once more when that has cost the lease."""
        left_s = self._session.lease_until - time.monotonic()
        said = error.message if isinstance(error, FerryError) else str(error)
        tell(
            logging.DEBUG if self._failing else logging.WARNING,
            "heartbeat_failing",
            f"Heartbeat failed: {said}",
            error_type=type(error).__name__,
            lease_left_s=round(max(0.0, left_s), 1) if left_s < LEASE_S else None,
        )
        self._failing = True
        if self._term and left_s <= 0 and not self._lapsed:
            self._lapsed = True
            tell(
                logging.ERROR,
                "lease_lapsed",
                "The lease has lapsed: calls are refused until a heartbeat succeeds.",
                term=self._session.term,
            )

    def repeatedly(self, route: Route, seen: Seen) -> None:
        """A call met with what usually happens to many."""
        m = route.migration
        if seen.fell_back:
            event, what = "read_fell_back", f"A read failed on the target `{m.target}`; `{m.source}` was asked instead."
        else:
            event, what = "write_mended", f"A write brought points from `{m.source}` that `{m.target}` lacked."
        told_at, since = self._repeated.get((event, m.source), (float("-inf"), 0))
        now = time.monotonic()
        if now - told_at < TELL_EVERY_S:
            self._repeated[event, m.source] = told_at, since + 1
            return
        self._repeated[event, m.source] = now, 0
        tell(logging.WARNING, event, what, source=m.source, target=m.target, epoch=m.epoch, since_last_told=since)
