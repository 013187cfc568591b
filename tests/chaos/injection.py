"""Carries out a script of faults, and remembers what was at work when."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import inf

from .coordinator import Operator
from .faults import Fault
from .fleet import Fleet
from .judge import Window
from .proxy import Proxy
from .stage import Server

# Beyond the claim: somebody who waits for the command has started it again meanwhile.
IMPATIENT_AFTER_S = 11.0
_AT_ONCE = 16


@dataclass(frozen=True)
class Reach:
    """What the injector can get at."""

    servers: dict[str, Server]
    fleet: Fleet
    operator: Operator | None
    proxy: Proxy


class Injector:
    """Runs beside the round in threads of its own; every subject suffers one fault at a time."""

    def __init__(self, faults: Iterable[Fault], reach: Reach, told: Callable[[str], None]) -> None:
        """
        Prepare; nothing happens yet.

        Args:
            faults: The script, in order of time; without end.
            reach: Whom it can hit.
            told: Receives a line about every fault.
        """
        self._faults = faults
        self._reach = reach
        self._told = told
        self._until = inf
        self._over = threading.Event()
        self._busy: set[str] = set()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="chaos-fault")
        self._thread = threading.Thread(target=self._run, name="chaos-script")
        self._under_way: list[Future[None]] = []
        self.windows: list[Window] = []
        self.injected: Counter[str] = Counter()

    def start(self, until: float) -> None:
        """Begin with the script; no fault begins after this moment of the monotonic clock."""
        self._until = until
        self._thread.start()

    def stop(self) -> None:
        """
        Begin no more faults, and heal those under way.

        Raises:
            Exception: what went wrong in a fault, such as a server that does not start again.
        """
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        self._pool.shutdown(wait=True)
        for future in self._under_way:
            future.result()

    def _run(self) -> None:
        began = time.monotonic()
        for fault in self._faults:
            due = began + fault.at_s
            if due > self._until or self._over.wait(max(0.0, due - time.monotonic())):
                return
            with self._lock:
                if _one_of(fault.subject) in self._busy:
                    continue
                self._busy.add(_one_of(fault.subject))
            self._under_way.append(self._pool.submit(self._suffer, fault))

    def _suffer(self, fault: Fault) -> None:
        start = time.monotonic_ns()
        try:
            victim = self._victim(fault)
            if victim is None:
                return
            role = fault.subject.partition(":")[0].rstrip("0123456789")
            self.injected[f"{fault.kind} {role}"] += 1
            self._told(f"{fault.kind} {fault.subject} {fault.lasts_s:.1f} s")
            undo, hit = victim
            try:
                self._over.wait(fault.lasts_s)
            finally:
                undo()
                self.windows += [Window(subject, start, time.monotonic_ns()) for subject in {fault.subject, hit}]
        finally:
            with self._lock:
                self._busy.discard(_one_of(fault.subject))

    def _victim(self, fault: Fault) -> tuple[Callable[[], None], str] | None:
        """Do it; returns how to undo it and what the judge calls the subject, or None if nobody is there."""
        kind, _, name = fault.subject.partition(":")
        if kind == "server":
            return self._hit_server(fault), fault.subject
        if kind == "link":
            return self._hit_link(fault), fault.subject
        if kind == "app":
            return self._hit_application(fault, int(name))
        return self._hit_coordinator(fault)

    def _hit_server(self, fault: Fault) -> Callable[[], None]:
        server = self._reach.servers[fault.subject]
        if fault.kind == "kill":
            server.kill()
            return server.restart
        server.pause()
        return server.resume

    def _hit_link(self, fault: Fault) -> Callable[[], None]:
        proxy, name = self._reach.proxy, fault.subject
        if fault.kind == "cut":
            proxy.cut(name)
        elif fault.kind == "delay":
            proxy.set(name, delay_s=fault.delay_s)
        elif fault.kind == "hold":
            proxy.set(name, hold=True)
        else:
            proxy.set(name, refuse=True)
        return lambda: proxy.set(name)

    def _hit_application(self, fault: Fault, place: int) -> tuple[Callable[[], None], str]:
        fleet = self._reach.fleet
        name = next(n for n, p in reversed(fleet.places.items()) if p == place)
        if fault.kind == "kill":
            fleet.kill(place)
            return lambda: fleet.fill(place), name
        fleet.signal(place, signal.SIGSTOP)
        return lambda: fleet.signal(place, signal.SIGCONT), name

    def _hit_coordinator(self, fault: Fault) -> tuple[Callable[[], None], str] | None:
        operator = self._reach.operator
        process = operator.at_work() if operator is not None else None
        if operator is None or process is None:
            return None
        if fault.kind == "kill":
            process.kill()
            return lambda: None, fault.subject
        process.send_signal(signal.SIGSTOP)
        if fault.lasts_s > IMPATIENT_AFTER_S:
            operator.leave_behind(process)
        return lambda: process.send_signal(signal.SIGCONT), fault.subject


def _one_of(subject: str) -> str:
    """What suffers one fault at a time: the nodes of a cluster together, as two of three are no cluster."""
    return "server:node" if subject.startswith("server:node") else subject
