"""
One application process: `python -m tests.chaos.application SETTINGS.json`.

It knows a collection's name and a client; it makes its calls in several lanes, one after the other in each, and
writes down every answer.  It ends after the calls under way on SIGTERM, or when the process that started it is gone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import grpc
import orjson
from qdrant_client import AsyncQdrantClient, QdrantClient
from qdrant_client.http.exceptions import UnexpectedResponse

from qferry import AsyncFerryClient, FerryClient
from qferry.errors import Misuse, NotAllowed

from .calls import MISSING, OK, REJECTED, UNKNOWN, CallLog
from .workload import Population, Request, Workload

# What an application would choose that rather fails than hangs; faults last longer than this now and then.
CALL_TIMEOUT_S = 8
# A refused connection fails within a millisecond; an application would not try again a thousand times a second.
PAUSE_AFTER_ERROR_S = 0.2
_NO_POINT = "No point with id"


@dataclass(frozen=True)
class Settings:
    """
    Everything a process needs to know.

    Args:
        name: The process, unique in its round; its lanes' logs are named after it.
        first_place: The first of its lanes' places among those that run side by side, counted from 0.
        first_lane: The number of its first lane, unique in its round.
        lanes: How many calls it makes at the same time.
        transport: `rest`, `grpc` or `async`.
        control: Whether to use a plain client.
        url: The server, as this process reaches it.
        grpc_port: Its other port.
        collection: The name to call.
        seed: The same seed gives the same requests.
        began_s: When the round began, on the monotonic clock.
        population: The points.
        calls_per_s: The most calls a lane makes in a second.
        folder: Where the logs go.
    """

    name: str
    first_place: int
    first_lane: int
    lanes: int
    transport: str
    control: bool
    url: str
    grpc_port: int
    collection: str
    seed: str
    began_s: float
    population: Population
    calls_per_s: float
    folder: str

    def save(self, path: Path) -> None:
        """Write the settings to a file for `load`."""
        path.write_bytes(orjson.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Settings:
        """Read the settings that `save` wrote."""
        found: dict[str, Any] = orjson.loads(path.read_bytes())
        return cls(**{**found, "population": Population(**found["population"])})


def main() -> None:
    """Run the process whose settings file is the first argument."""
    parent = os.getppid()
    settings = Settings.load(Path(sys.argv[1]))
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())

    def goes_on() -> bool:
        return not stopping.is_set() and os.getppid() == parent

    if settings.transport == "async":
        asyncio.run(_run_async(settings, goes_on))
    else:
        _run_threads(settings, goes_on)


def _run_threads(settings: Settings, goes_on: Callable[[], bool]) -> None:
    kind = QdrantClient if settings.control else FerryClient
    client = kind(**_connection(settings), prefer_grpc=settings.transport == "grpc")
    lanes = [
        threading.Thread(target=_run_lane, args=(client, _Lane(settings, i), goes_on)) for i in range(settings.lanes)
    ]
    for lane in lanes:
        lane.start()
    for lane in lanes:
        lane.join()
    client.close()


def _run_lane(client: QdrantClient, lane: _Lane, goes_on: Callable[[], bool]) -> None:
    while goes_on():
        request, number = lane.begin()
        try:
            answer = getattr(client, request.method)(lane.settings.collection, **request.arguments)
        except Exception as error:  # noqa: BLE001 - whatever the client raises is an answer to be logged
            lane.failed(number, error)
        else:
            lane.answered(number, request, answer)
        time.sleep(lane.pause_s())
    lane.log.close()


async def _run_async(settings: Settings, goes_on: Callable[[], bool]) -> None:
    kind = AsyncQdrantClient if settings.control else AsyncFerryClient
    client = kind(**_connection(settings))
    lanes = [_run_async_lane(client, _Lane(settings, i), goes_on) for i in range(settings.lanes)]
    await asyncio.gather(*lanes)
    await client.close()


async def _run_async_lane(client: AsyncQdrantClient, lane: _Lane, goes_on: Callable[[], bool]) -> None:
    while goes_on():
        request, number = lane.begin()
        try:
            answer = await getattr(client, request.method)(lane.settings.collection, **request.arguments)
        except Exception as error:  # noqa: BLE001 - whatever the client raises is an answer to be logged
            lane.failed(number, error)
        else:
            lane.answered(number, request, answer)
        await asyncio.sleep(lane.pause_s())
    lane.log.close()


def _connection(settings: Settings) -> Mapping[str, Any]:
    return {
        "url": settings.url,
        "grpc_port": settings.grpc_port,
        "timeout": CALL_TIMEOUT_S,
        "check_compatibility": False,
    }


class _Lane:
    """One lane's requests, its log and its pace."""

    def __init__(self, settings: Settings, index: int) -> None:
        self.settings = settings
        number = settings.first_lane + index
        self._workload = Workload(
            seed=settings.seed, lane=number, place=settings.first_place + index, population=settings.population
        )
        self.log = CallLog(Path(settings.folder) / f"{settings.name}.{index}.calls")
        self._due = time.monotonic()
        self._after_error_s = 0.0

    def begin(self) -> tuple[Request, int]:
        request = self._workload.next_request(time.monotonic() - self.settings.began_s)
        return request, self.log.begin(request.method, request.effects, dict(request.asked or {}))

    def answered(self, number: int, request: Request, answer: Any) -> None:
        self.log.end(number, OK, request.answer(answer))

    def failed(self, number: int, error: Exception) -> None:
        outcome = outcome_of(error)
        self._after_error_s = 0.0 if outcome == MISSING else PAUSE_AFTER_ERROR_S
        self.log.end(number, outcome, error=told(error))

    def pause_s(self) -> float:
        """Until the next call is due; after a slow one the lane goes on at its pace, without catching up."""
        now = time.monotonic()
        self._due = max(self._due + 1 / self.settings.calls_per_s, now + self._after_error_s)
        self._after_error_s = 0.0
        return self._due - now


def outcome_of(error: Exception) -> str:
    """What an exception tells the application about its call."""
    if isinstance(error, UnexpectedResponse):
        # A partial update over several shards of which one misses a point answers 500 with the same words.
        if _NO_POINT in error.content.decode(errors="replace"):
            return MISSING
        refused = error.status_code is not None and error.status_code < HTTPStatus.INTERNAL_SERVER_ERROR
        return REJECTED if refused and error.status_code != HTTPStatus.REQUEST_TIMEOUT else UNKNOWN
    if isinstance(error, grpc.RpcError):
        if _NO_POINT in str(error.details()):
            return MISSING
        return REJECTED if error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND) else UNKNOWN
    return REJECTED if isinstance(error, (Misuse, NotAllowed, TypeError, ValueError)) else UNKNOWN


def told(error: BaseException | None) -> str:
    """An error and its causes in one line: what the judge decides by whose fault it was."""
    parts: list[str] = []
    while error is not None and len(parts) < 4:
        words = str(error.details()) if isinstance(error, grpc.RpcError) else str(error)
        code = f" {error.code().name}" if isinstance(error, grpc.RpcError) else ""
        source = getattr(error, "source", None)
        inner = f" [{type(source).__name__}]" if source is not None else ""
        parts.append(f"{type(error).__name__}{code}{inner}: {' '.join(words.split())}"[:400])
        error = error.__cause__
    return " <- ".join(parts)


if __name__ == "__main__":
    main()
