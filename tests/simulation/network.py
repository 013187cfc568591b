"""
Between processes and servers: how long requests and answers take, and what becomes of them when things fail.

What is assumed here is what the guarantee assumes (docs/guarantee.md): a request that its client has given up lands
within `LATE_S` after that or never, and a request of a process that died lands within `ORPHAN_S` or never.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import orjson
from httpx import Headers
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from qferry.errors import Rejected, Unreachable
from qferry.flows.effects import Call, Request

from .fake_collection import Collection, Refusal
from .fake_qdrant import FakeQdrant, Later

if TYPE_CHECKING:
    from .world import Process, World

Answered = Callable[[Any, BaseException | None, str], None]
# A client gives up waiting after this many seconds.
TIMEOUT_S = 2.0
# How long clients and coordinators allow a request that was given up; in what ships it is 10 s.
GRACE_S = 2.5
# A request that was given up, or whose process died, lands at most this much later; clocks drift.
LATE_S = 2.2
ORPHAN_S = 2.2
# What was accepted and not applied yet is applied within this time.
DEFERRED_S = 1.5
# How long a server is busy with a snapshot at most; mostly it is much less.
WORK_S = 20.0
FAULTS = ("refused", "failed", "lost", "late", "never", "overdue")


class Server:
    """A simulated Qdrant and the state of its process."""

    def __init__(self, network: Network, name: str, page_points: int) -> None:
        self.name = name
        self.qdrant = FakeQdrant(
            page_points,
            lambda collection: network.apply_later(self, collection),
            lambda _: network.servers[""].qdrant if name in network.fetching else None,
        )
        self.at_work: dict[Flight, Later] = {}  # what takes it a while
        self.down_until = 0.0
        self.stopped_until = 0.0
        self.flights: dict[Flight, None] = {}


class Network:
    """
    Carries requests.

    Args:
        servers: By the URL requests name; the home server is "".
        faults: How often each of `FAULTS` strikes a request.
        page_points: The most points a server returns in a page.
    """

    world: World

    def __init__(self, servers: tuple[str, ...], faults: Mapping[str, float], page_points: int = 2) -> None:
        self.record_changed: Callable[[], None] = lambda: None  # told of each change of a migration's record
        self.servers = {name: Server(self, name, page_points) for name in servers}
        self.faults = dict(faults)
        self.fetching = {*servers}  # those that can fetch a snapshot from the source's server
        self.calm = False  # set at the end of a run: nothing fails any more

    def send(self, process: Process, effect: Request | Call, answered: Answered) -> None:
        """Send a request; `answered` hears of it once, with the fault that struck it, if any."""
        fault = self._fault(process)
        Flight(self, process, effect, answered, fault).send()

    def _fault(self, process: Process) -> str:
        if self.calm or not self.faults:
            return ""
        # Any failure ends a command; with as many as the application meets, none would ever get far.
        drawn = process.random.random() / process.exposure
        for name, share in self.faults.items():
            drawn -= share
            if drawn < 0:
                return name
        return ""

    def delay(self, process: Process) -> float:
        """How long a request, or an answer, is on its way, in seconds."""
        drawn, share = process.random.random(), process.random.random()
        if drawn < process.roughness * 0.1:
            return (0.3 + 1.7 * share) * self.world.pace
        return (0.01 + 0.3 * share) * self.world.pace if drawn < process.roughness else 0.0005 + 0.01 * share

    def apply_later(self, server: Server, collection: Collection) -> None:
        """Apply what `collection` has accepted, some time from now."""
        random = self.world.random
        self.world.after(random.uniform(0, DEFERRED_S), lambda: self._apply(server, collection))

    def _apply(self, server: Server, collection: Collection) -> None:
        if collection.accepted and server.down_until <= self.world.now:
            self.world.note(server.name or "home", f"applies what it had accepted for `{collection.name}`")
            collection.apply_accepted()

    def crash(self, name: str, seconds: float) -> None:
        """
        End a server's process, and start it again after `seconds`.

        Its clients see broken connections.  What it had accepted is in its log and is applied at the start; of what
        was on its way, a part had reached the log.
        """
        server = self.servers[name]
        self.world.note(name or "home", f"crashes, and is back in {seconds:.1f} s")
        server.down_until = self.world.now + seconds
        logged = [f for f in server.flights if not f.landed and f.is_write and self.world.random.random() < 0.5]
        for flight in list(server.flights):
            flight.landed = True
            flight.break_off("server crashed")
        for work in server.at_work.values():
            work.broken_off()
        server.at_work.clear()
        self.world.after(seconds, lambda: self._recover(server, logged))

    def _recover(self, server: Server, logged: list[Flight]) -> None:
        for collection in server.qdrant.collections.values():
            collection.apply_accepted()
        for flight in logged:
            flight.carry_out("lands as the server starts")

    def stop(self, name: str, seconds: float) -> None:
        """Stop a server's process, and let it go on after `seconds`: it then works off what has arrived."""
        self.world.note(name or "home", f"is stopped for {seconds:.1f} s")
        self.servers[name].stopped_until = self.world.now + seconds


class Flight:
    """One request, from its sending to its answer."""

    def __init__(
        self, network: Network, process: Process, effect: Request | Call, answered: Answered, fault: str
    ) -> None:
        self.network = network
        self.world = network.world
        self.process = process
        self.effect = effect
        self.server = network.servers[effect.server]
        self.landed = False
        self._answered: Answered | None = answered
        self._fault = fault
        self._orphaned = False

    @property
    def is_write(self) -> bool:
        """Whether it changes points; only those are in a server's log."""
        if isinstance(self.effect, Call):
            return self.effect.method != "retrieve"
        return self.effect.op in ("upsert", "write_page", "delete", "set_payload")

    def send(self) -> None:
        """Let it go."""
        network, process, fault = self.network, self.process, self._fault
        self.server.flights[self] = None
        delay = network.delay(process)
        if fault:
            self.world.note(process.name, f"fault: {fault}", self.effect)
        patience = TIMEOUT_S if process.random.random() < 0.5 else delay + network.delay(process)
        if fault in ("", "overdue"):
            self.world.after(delay, self.arrive)
            return
        if fault in ("refused", "failed"):
            self.world.after(delay, lambda: self.break_off(fault))
            return
        self.world.after(patience, lambda: self.break_off(fault))
        if fault == "lost":
            self.world.after(min(delay, patience), self.arrive)
        elif fault == "late":
            self.world.after(patience + process.random.uniform(0, LATE_S), self.arrive)

    def arrive(self) -> None:
        """Reach the server."""
        world, server, chance = self.world, self.server, self.process.random
        if self.landed:
            return
        if not self.process.alive and not self._orphaned and not self.network.calm:
            # Its process died with the request half sent: it may be lost, or linger.
            self._orphaned = True
            fate = chance.random()
            if fate < 0.2:
                return
            if fate < 0.5:
                world.after(chance.uniform(0, ORPHAN_S), self.arrive)
                return
        if server.down_until > world.now:
            self.break_off("server down")
            return
        if server.stopped_until > world.now:
            if self._answered is not None:
                world.after(TIMEOUT_S, lambda: self.break_off("server stopped"))
            world.after(server.stopped_until - world.now + chance.uniform(0, 0.5), self.arrive)
            return
        self.landed = True
        value, error = self.carry_out("lands" if self._answered is not None else "lands late")
        if isinstance(value, Later):
            server.at_work[self] = value
            world.after(WORK_S * chance.random() ** 3, self._finish)
        else:
            self._respond(value, error)

    def _finish(self) -> None:
        """Let the server come to an end with what it is at."""
        work = self.server.at_work.pop(self, None)
        if work is not None:
            self._respond(*self._tried(work.finish, "is done with"))

    def _respond(self, value: Any, error: Exception | None) -> None:
        if self._fault != "lost":
            hurt = self._fault if self._fault == "overdue" else ""
            self.world.after(self.network.delay(self.process), lambda: self._answer(value, error, hurt))

    def _tried(self, act: Callable[[], Any], what: str) -> tuple[Any, Exception | None]:
        try:
            value = act()
        except Refusal as refusal:
            self.world.note(self.process.name, f"{what}: {refusal.status} {refusal.text}", self.effect)
            return None, error_of(self.effect, refusal.status, refusal.text)
        self.world.note(self.process.name, what, (self.effect, value))
        return value, None

    def carry_out(self, what: str) -> tuple[Any, Exception | None]:
        """Let the server do it."""
        overdue = self._fault == "overdue"
        effect, qdrant = self.effect, self.server.qdrant

        def act() -> Any:
            if isinstance(effect, Call):
                return qdrant.call(effect.method, effect.collection, effect.kwargs, overdue=overdue)
            return qdrant.request(effect.method, effect.path, effect.body, effect.params, overdue=overdue)

        value, error = self._tried(act, what)
        if error is not None:
            return None, error
        if isinstance(effect, Request) and effect.op == "set_payload":
            self.network.record_changed()
        if isinstance(effect, Request) and self.is_write and value["status"] == "wait_timeout":
            return None, _no_answer(effect, "wait_timeout")  # as the drivers do
        return value, None

    def break_off(self, why: str) -> None:
        """The client gets no answer, or `failed`: one that says nothing."""
        if why == "failed":
            self._answer(None, error_of(self.effect, 500, "Service internal error: simulated"), why)
        else:
            self._answer(None, _no_answer(self.effect, why), why)

    def _answer(self, value: Any, error: Exception | None, hurt: str) -> None:
        if self._answered is None:
            return
        answered, self._answered = self._answered, None
        self.server.flights.pop(self, None)
        if error is not None:
            self.world.note(self.process.name, f"gets {type(error).__name__} {error}".splitlines()[0], self.effect)
        answered(value, error, hurt)


def error_of(effect: Request | Call | None, status: int, text: str) -> Exception:
    """An error of the server, as the drivers raise it."""
    if isinstance(effect, Request):
        return Rejected(f"The server answered {status} to {effect.method} {effect.path}: {text}", status=status)
    content = orjson.dumps({"status": {"error": text}, "time": 0.0})
    return UnexpectedResponse(status, "simulated", content, Headers())


def _no_answer(effect: Request | Call, why: str) -> Exception:
    if isinstance(effect, Request):
        return Unreachable(f"The server gave no answer to {effect.method} {effect.path}: {why}")
    return ResponseHandlingException(ConnectionError(why))
