"""
Pieces of work on the workers of a Dask cluster.

Dask runs a task again, on another worker, if the one that had it is lost.  That must not happen to a piece: what the
lost worker had sent may land after what its successor sends, and only the coordinator can make sure that it does not
(docs/adr/0014).  So a piece is made for one worker process, which carries it out once; anyone else refuses it.  And a
piece whose worker the scheduler no longer knows is lost, whatever Dask hopes to do with it.

Everything here that ends in an error other than qferry's own is, to the coordinator, a lost worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from distributed import Client, Future, Security, get_worker, wait
from distributed.comm.core import connect

from qferry.connection import Connection, Reporter
from qferry.control import wire
from qferry.drivers.blocking import BlockingDriver
from qferry.drivers.workers import lost_worker, outcome, until
from qferry.errors import Refused, RemoteFailure, Unreachable
from qferry.flows.effects import Flow, Outcome, Report, Work
from qferry.protocol.phases import Side
from qferry.protocol.records import Migration

# Threads of one process share an interpreter, and all pieces share the servers; more at once were not faster.
AT_ONCE_PER_WORKER, AT_ONCE_MAX = 4, 32
# How long the scheduler may take to answer.
CONNECT_S, LOOK_S = 10.0, 5.0
# How long a command waits for a cluster that has no worker it can use, and after which time it tries one again.
PATIENCE_S, AGAIN_S = 60.0, 10.0
# Workers that need no longer than this to say who they are need not be talked about.
QUIET_S = 3.0
# How long a worker keeps connections that no piece uses.
IDLE_S = 60.0
# A piece that Dask runs again follows its first run closely, not after so many others.
BEGUN_MAX = 10_000


class NotMine(Exception):
    """A piece was given to another process than the one it was made for, or for a second time."""


@contextlib.contextmanager
def connected(address: str) -> Iterator[Client]:
    """
    A client of the cluster whose scheduler is at `address`.

    Raises:
        Unreachable: There is none.
    """
    # What it has to say about a scheduler that is gone, the command says itself.
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    try:
        asyncio.run(_answered(address))
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    except Exception as error:
        raise Unreachable(
            f"No Dask scheduler answers at {address}.",
            hint="Check that it runs and that the address is right; nothing was changed.",
        ) from error
    try:
        yield client
    finally:
        # The scheduler takes back what this client has submitted, also if the connection just ends.
        with contextlib.suppress(Exception):
            client.close(timeout=CONNECT_S)


async def _answered(address: str) -> None:
    """Raise unless a Dask process answers; a `Client` that has not found one takes twenty seconds to go away."""
    comm = await connect(address, timeout=CONNECT_S, **Security().get_connection_args("client"))
    await comm.close()


@dataclass
class _Member:
    """A worker, as the coordinator knows it; `id` is empty until it has introduced itself, and if it is unfit."""

    threads: int
    introduction: Future[str]
    id: str = ""
    unfit: str = ""
    since: float = 0.0

    @property
    def room(self) -> int:
        return min(self.threads, AT_ONCE_PER_WORKER) if self.id else 0


@dataclass(frozen=True)
class _Piece:
    """A piece under way."""

    future: Future[Any]
    address: str
    member: _Member


class DaskCrew:
    """
    The crew of a Dask cluster.  Workers may come and go.

    Args:
        client: The cluster.
        connection: How the servers are reached, from the workers too.
        migration: Whose pieces.
        report: Told what the command waits for.
    """

    def __init__(self, client: Client, connection: Connection, migration: Migration, report: Reporter) -> None:
        self._client = client
        self._connection = connection
        self._migration = migration
        self._report = report
        self._members: dict[str, _Member] = {}
        self._pieces: dict[int, _Piece] = {}
        self._begun = 0
        self._trouble = ""  # why the cluster cannot be asked
        self._idle_since: float | None = None  # since when there has been nobody to work

    def room(self, here: int) -> int:  # noqa: ARG002  what is good for this machine says nothing of the cluster
        """
        How many pieces may be under way at once: up to four for each worker, up to 32 in all.

        Raises:
            Unreachable: Nothing is under way, and there has been no worker for a minute.
        """
        self._look()
        room = 0 if self._trouble else sum(member.room for member in self._members.values())
        if room or self._pieces:
            self._idle_since = None
        else:
            self._be_patient()
        return min(AT_ONCE_MAX, room)

    def _be_patient(self) -> None:
        now = time.monotonic()
        if self._idle_since is None:
            self._idle_since = now
        unfit = [member.unfit for member in self._members.values() if member.unfit]
        if self._trouble:
            why, what = self._trouble, "Check that the scheduler runs."
        elif unfit:
            why = f"No worker of the Dask cluster can be used: {unfit[0]}"
            what = "Every worker needs this version of qferry, and a way to the servers by the very URLs given here."
        elif self._members:
            if now - self._idle_since > QUIET_S:
                self._report(Report("waiting", text="the workers of the Dask cluster are busy with something else"))
            return
        else:
            why, what = "The Dask cluster has no workers.", "Start some, or leave --dask out."
        if now - self._idle_since > PATIENCE_S or self._client.status == "closed":
            raise Unreachable(why, hint=f"{what} Then run the command again; nothing was lost.")
        self._report(Report("waiting", text=why))

    def begin(self, work: Work) -> int:
        """Begin a piece of work, for which there must be room; returns the number to ask for it by."""
        busy = [piece.member for piece in self._pieces.values()]
        address, member = min(
            ((a, m) for a, m in self._members.items() if m.room),
            key=lambda known: busy.count(known[1]) / known[1].room,
        )
        key = f"qferry-{uuid.uuid4().hex}"
        future = self._submit(address, carry_out, key, member.id, self._connection, self._migration, work, key=key)
        self._begun += 1
        self._pieces[self._begun] = _Piece(future, address, member)
        return self._begun

    def _submit(self, address: str, *call: Any, key: str | None = None) -> Future[Any]:
        try:
            future: Future[Any] = self._client.submit(
                *call, key=key, workers=[address], allow_other_workers=False, retries=0, pure=False
            )
        except Exception as error:
            raise Unreachable(
                f"The Dask scheduler was lost: {error}.",
                hint="Run the command again when it is back; nothing was lost.",
            ) from error
        return future

    def ended(self, numbers: Iterable[int], seconds: float) -> list[tuple[int, Outcome]]:
        """Those of the pieces that have ended, once one has, or after `seconds`; each is told once."""
        asked = {number: self._pieces[number] for number in numbers}
        futures = [piece.future for piece in asked.values()]
        futures += [m.introduction for m in self._members.values() if not m.introduction.done()]
        if futures:
            # Time is up, or one of them was cancelled; each is asked below.
            with contextlib.suppress(Exception):
                wait(futures, timeout=seconds, return_when="FIRST_COMPLETED")
        else:
            time.sleep(seconds)
        self._look()
        told = []
        for number, piece in asked.items():
            if piece.future.done():
                told.append((number, self._outcome(piece)))
            elif self._members.get(piece.address) is not piece.member:
                piece.future.cancel()
                told.append((number, Outcome(error=lost_worker(f"{piece.address} has left the Dask cluster"))))
        for number, _ in told:
            del self._pieces[number]
        return told

    def _outcome(self, piece: _Piece) -> Outcome:
        if piece.future.cancelled():
            return Outcome(error=lost_worker("the Dask scheduler was lost, or has cancelled it"))
        found = outcome(lambda: piece.future.result(timeout=LOOK_S))
        refused = found.error is not None and isinstance(found.error.__cause__, NotMine)
        if refused and self._members.get(piece.address) is piece.member:
            del self._members[piece.address]  # another process is at this address now, so the member is no more
        return found

    def _look(self) -> None:
        """See who is there."""
        try:
            scheduler: Any = self._client.scheduler
            found = self._client.sync(scheduler.identity, n_workers=-1, callback_timeout=LOOK_S)
        except Exception:  # noqa: BLE001  Dask cancels the pieces as soon as it gives the scheduler up
            self._trouble = "The Dask scheduler does not answer any more."
            return
        self._trouble = ""
        now, workers = time.monotonic(), found["workers"]
        for address in [a for a in self._members if a not in workers]:
            del self._members[address]
        for address, worker in workers.items():
            member = self._members.get(address)
            if member is None or (member.unfit and now - member.since > AGAIN_S):
                introduction = self._submit(address, introduce, version("qferry"), self._connection, self._migration)
                self._members[address] = _Member(worker["nthreads"], introduction)
            elif not member.id and not member.unfit and member.introduction.done():
                member.since = now
                try:
                    member.id = member.introduction.result(timeout=LOOK_S)
                except Exception as error:  # noqa: BLE001  whatever it says, it is of no use
                    member.unfit = f"{address} says: {error}"

    def close(self) -> None:
        """Wait for nothing: pieces that have not begun never will, the others stop at their next step."""
        for piece in self._pieces.values():
            piece.future.cancel()
        self._pieces.clear()


def introduce(expected: str, connection: Connection, migration: Migration) -> str:
    """
    In a worker: say which process this is, after a look whether it can be used.  Changes nothing.

    Raises:
        Refused: It cannot.
    """
    if version("qferry") != expected:
        raise Refused(f"It has qferry {version('qferry')}, and the command {expected}.")

    def look() -> Flow[None]:
        # `localhost` is another server there, perhaps with collections of the same names.
        for side in Side:
            yield wire.info(migration.server(side), migration.marker(side))

    with _borrowed(connection, migration) as driver:
        try:
            driver.run(look())
        except RemoteFailure as error:
            raise Refused(f"It does not reach the migration's servers: {error.message}") from error
    return str(get_worker().id)


def carry_out(key: str, made_for: str, connection: Connection, migration: Migration, work: Work) -> Any:
    """
    In a worker: carry out a piece of work; stops at its next step when nobody waits for it any more.

    Raises:
        NotMine: It was made for another process, or has been begun before.
    """
    worker = get_worker()
    if worker.id != made_for or not _first(key):
        raise NotMine("Dask wanted to have it carried out a second time")

    def stopped() -> bool:
        task = worker.state.tasks.get(key)
        return task is None or task.state != "executing"

    with _borrowed(connection, migration) as driver:
        return driver.beside(until(stopped, work.flow()))


_lock = threading.Lock()
_begun: dict[str, None] = {}


def _first(key: str) -> bool:
    with _lock:
        if key in _begun:
            return False
        _begun[key] = None
        if len(_begun) > BEGUN_MAX:
            del _begun[next(iter(_begun))]
        return True


class _Shared:
    """Connections that the pieces of one migration share in a worker's process."""

    def __init__(self, connection: Connection, migration: Migration) -> None:
        self._closing = contextlib.ExitStack()
        self.driver: BlockingDriver = self._closing.enter_context(connection.driver())
        self.driver.pages = self._closing.enter_context(connection.pages(migration, lambda _: None))
        self.users = 0
        self.idle: threading.Timer | None = None

    def close(self) -> None:
        self._closing.close()


_shared: dict[tuple[Connection, str], _Shared] = {}
_sharing = threading.Lock()


@contextlib.contextmanager
def _borrowed(connection: Connection, migration: Migration) -> Iterator[BlockingDriver]:
    """A driver whose connections other pieces use too; they are closed when none has for a while."""
    place = (connection, migration.id)
    with _sharing:
        if place not in _shared:
            _shared[place] = _Shared(connection, migration)
        shared = _shared[place]
        shared.users += 1
        if shared.idle is not None:
            shared.idle.cancel()
    try:
        yield shared.driver
    finally:
        with _sharing:
            shared.users -= 1
            if not shared.users:
                shared.idle = threading.Timer(IDLE_S, _let_go, (place, shared))
                shared.idle.daemon = True
                shared.idle.start()


def _let_go(place: tuple[Connection, str], shared: _Shared) -> None:
    with _sharing:
        if shared.users or _shared.get(place) is not shared:  # it was borrowed again while this timer went off
            return
        del _shared[place]
    shared.close()
