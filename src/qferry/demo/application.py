"""
One application process of the demo: `python -m qferry.demo.application SETTINGS.json`.

It knows a collection name and a client, sends its traffic at a steady rate and writes down every answer.
It ends after the current call on SIGTERM, or when the process that started it is gone.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import closing
from http import HTTPStatus
from pathlib import Path
from types import FrameType

import numpy as np
import orjson
from qdrant_client import QdrantClient
from qdrant_client.http.exceptions import UnexpectedResponse

from qferry import FerryClient
from qferry.demo.call_log import CallLog, Outcome
from qferry.demo.document_routing import DocumentRouting, SecondWriteRefusedError, send
from qferry.demo.settings import ApplicationSettings
from qferry.demo.workload import Request, Workload

# Far above what a busy two-core machine needs; a call that takes longer is an error of the demo.
CALL_TIMEOUT_S = 30


def run_application(settings: ApplicationSettings, *, should_stop: Callable[[], bool]) -> None:
    """
    Send requests until told to stop.

    Args:
        settings: The process's settings.
        should_stop: Asked before every call.
    """
    perform, close = _connect(settings)
    workload = _workload(settings)
    pause_s = 1 / settings.calls_per_s
    try:
        with closing(CallLog(Path(settings.log))) as log:
            due = time.monotonic()
            while not should_stop():
                _perform_and_log(perform, workload.next_request(), log)
                # After a slow call the process goes on at its rate; it does not catch up in a burst.
                now = time.monotonic()
                due = max(due + pause_s, now)
                time.sleep(due - now)
    finally:
        close()


def outcome_of(error: Exception) -> Outcome:
    """
    What an exception tells the application about its call.

    Args:
        error: What the client raised.

    Returns:
        NOT_FOUND for the normal answer to a partial update of an absent point, otherwise REFUSED for an error
        that is the server's answer and UNKNOWN for everything else.
    """
    if isinstance(error, UnexpectedResponse):
        absent = error.status_code == HTTPStatus.NOT_FOUND and b"No point with id" in error.content
        return Outcome.NOT_FOUND if absent else Outcome.REFUSED
    return Outcome.REFUSED if isinstance(error, SecondWriteRefusedError) else Outcome.UNKNOWN


def main() -> None:
    """Run the process whose settings file is the first argument."""
    parent = os.getppid()
    stopping = False

    def stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    settings = ApplicationSettings.load(Path(sys.argv[1]))
    run_application(settings, should_stop=lambda: stopping or os.getppid() != parent)


def _perform_and_log(perform: Callable[[Request], None], request: Request, log: CallLog) -> None:
    number = log.begin(request.method, request.effects)
    try:
        perform(request)
    except Exception as error:  # noqa: BLE001 - whatever the client raises is an answer to be logged
        log.end(number, outcome_of(error), f"{type(error).__name__}: {error}")
    else:
        log.end(number, Outcome.OK)


def _connect(settings: ApplicationSettings) -> tuple[Callable[[Request], None], Callable[[], None]]:
    """The way to perform a request, and the way to disconnect."""
    if settings.naive:
        plain = QdrantClient(url=settings.url, timeout=CALL_TIMEOUT_S, check_compatibility=False)
        routing = DocumentRouting.from_environ(os.environ, legacy=settings.source, new=settings.target)
        return lambda request: routing.perform(plain, request), plain.close

    ferry = FerryClient(url=settings.url, timeout=CALL_TIMEOUT_S, check_compatibility=False)
    return lambda request: send(ferry, settings.source, request), ferry.close


def _workload(settings: ApplicationSettings) -> Workload:
    with np.load(settings.vectors) as arrays:
        vectors, queries = arrays["vectors"], arrays["queries"]
    return Workload(
        settings.process,
        seed=settings.seed,
        indexed_points=settings.indexed_points,
        chunks=orjson.loads(Path(settings.corpus).read_bytes()),
        vectors=vectors,
        queries=queries,
    )


if __name__ == "__main__":
    main()
