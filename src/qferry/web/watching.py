"""
One look a second at what is being watched, for all who watch it together; none while nobody does.

What was seen is kept for a while as samples: how much was copied, and how long the journal was.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass

from qferry import commands
from qferry.commands import HistoryLine, Status
from qferry.connection import Connection
from qferry.errors import Conflict, FerryError, Rejected
from qferry.protocol.records import Migration
from qferry.web.aside import aside

LOOK_EVERY_S = 1.0
# A quarter of an hour.
SAMPLES_MAX = 900
# The rate is that of the last so many seconds.
RATE_OVER_S = 20.0
# Lines of history that are read along: those that a migration's page shows, and where its last verification may be.
LINES_READ = 40
# Everything there is: the list of migrations.
ALL = ""


@dataclass(frozen=True)
class Sample:
    """What was counted at one look."""

    at: float  # monotonic
    debt: int
    copied: int


@dataclass(frozen=True)
class Look:
    """
    What was seen of a migration, or of all.

    Args:
        statuses: Where they stand.
        lines: The newest of the history of the one.
        at: When, on the monotonic clock.
        error: Why nothing was seen; the rest is empty then.
    """

    statuses: tuple[Status, ...] = ()
    lines: tuple[HistoryLine, ...] = ()
    at: float = 0.0
    error: FerryError | None = None


class NoSuchMigration(Exception):
    """There is no migration with that id."""


@contextlib.contextmanager
def _missing() -> Iterator[None]:
    """Raise `NoSuchMigration` if that is why something cannot be read."""
    try:
        yield
    except (Conflict, Rejected) as error:
        if isinstance(error, Rejected) and not error.missing:
            raise
        raise NoSuchMigration from error


class Watching:
    """
    Looks for everybody.

    Args:
        connection: The servers; its clients should be kept open.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._samples: dict[str, deque[Sample]] = defaultdict(lambda: deque(maxlen=SAMPLES_MAX))
        self._viewers: dict[str, set[asyncio.Queue[Look | None]]] = defaultdict(set)
        self._pollers: dict[str, asyncio.Task[None]] = {}
        self._ended = False

    def samples(self, migration_id: str) -> list[Sample]:
        """What was counted lately, oldest first."""
        return list(self._samples.get(migration_id, ()))

    def rate(self, migration_id: str) -> float | None:
        """Points copied per second, lately; None if that cannot be told."""
        samples = self.samples(migration_id)
        recent = [s for s in samples if samples[-1].at - s.at <= RATE_OVER_S]
        if len(recent) < 2 or recent[-1].at - recent[0].at < LOOK_EVERY_S / 2:  # noqa: PLR2004  two make a difference
            return None
        return max(0.0, (recent[-1].copied - recent[0].copied) / (recent[-1].at - recent[0].at))

    async def look(self, topic: str) -> Look:
        """
        Look once: at all migrations, or at the one with that id.

        Raises:
            NoSuchMigration: There is none.
            FerryError: The server does not answer.
        """
        at = time.monotonic()
        if topic == ALL:
            return Look(await aside(commands.status, self.connection), at=at)
        with _missing():
            one, history = await asyncio.gather(
                aside(commands.status_of, self.connection, topic),
                aside(commands.recent_history, self.connection, topic, lines=LINES_READ),
            )
        samples = self._samples[topic]
        if not samples or at - samples[-1].at >= LOOK_EVERY_S / 2:
            samples.append(Sample(at, one.debt, one.migration.copied_points))
        return Look((one,), history.lines, at)

    async def record(self, migration_id: str) -> Migration:
        """
        What is recorded of the migration with that id; no target's server is asked.

        Raises:
            NoSuchMigration: There is none.
            FerryError: The server does not answer.
        """
        with _missing():
            return await aside(commands.record_of, self.connection, migration_id)

    async def watch(self, topic: str) -> AsyncGenerator[Look, None]:
        """Every look at something (`ALL`, or a migration's id) from now on, until the dashboard ends."""
        queue: asyncio.Queue[Look | None] = asyncio.Queue(maxsize=1)
        viewers = self._viewers[topic]
        viewers.add(queue)
        if topic not in self._pollers and not self._ended:
            self._pollers[topic] = asyncio.create_task(self._poll(topic))
        try:
            while not self._ended:
                look = await queue.get()
                if look is None:
                    return
                yield look
        finally:
            viewers.discard(queue)
            if not viewers:
                self._viewers.pop(topic, None)
                if topic in self._pollers:
                    self._pollers.pop(topic).cancel()

    async def _poll(self, topic: str) -> None:
        while True:
            began = time.monotonic()
            try:
                look = await self.look(topic)
            except FerryError as error:
                look = Look(at=began, error=error)
            except NoSuchMigration:
                look = Look(at=began, error=FerryError("This migration's record is gone."))
            except Exception as error:  # noqa: BLE001  who watches must be told that nobody looks for them any more
                fault = FerryError(f"A fault of qferry: {type(error).__name__}: {error}.", hint="Please report it.")
                look = Look(at=began, error=fault)
            for queue in self._viewers.get(topic, ()):
                # Who is slow is given the latest look, and none of those before.
                with contextlib.suppress(asyncio.QueueEmpty):
                    queue.get_nowait()
                queue.put_nowait(look)
            await asyncio.sleep(max(0.0, began + LOOK_EVERY_S - time.monotonic()))

    @property
    def viewers(self) -> int:
        """How many pages are kept up to date."""
        return sum(len(queues) for queues in self._viewers.values())

    @property
    def watched(self) -> int:
        """How many things are being looked at."""
        return len(self._pollers)

    def end(self) -> None:
        """Let everybody who watches go."""
        self._ended = True
        for poller in self._pollers.values():
            poller.cancel()
        self._pollers.clear()
        for viewers in self._viewers.values():
            for queue in viewers:
                with contextlib.suppress(asyncio.QueueEmpty):
                    queue.get_nowait()
                queue.put_nowait(None)
