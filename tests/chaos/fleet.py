"""The applications that run side by side: started, stopped, killed and replaced, each by its own pid."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .application import Settings
from .processes import spawn
from .stage import Address
from .workload import Population

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
LANES = 2
TRANSPORTS = ("rest", "grpc", "async")
_POLL_S = 0.05


@dataclass(frozen=True)
class Load:
    """
    What the applications are to do.

    Args:
        collection: The name they call.
        seed: The same seed gives the same requests.
        population: The points.
        calls_per_s: The most calls a lane makes in a second.
        control: Whether to use plain clients.
    """

    collection: str
    seed: str
    population: Population
    calls_per_s: float
    control: bool


class Fleet:
    """One place per application; a killed one is replaced by a new process with a name of its own."""

    def __init__(self, load: Load, addresses: Sequence[Address], folder: Path) -> None:
        """
        Prepare the fleet; nothing runs yet.

        Args:
            load: What all of them do.
            addresses: How each place reaches its server.
            folder: For settings, logs and error output.
        """
        self._load = load
        self._addresses = addresses
        self._folder = folder
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._names: dict[int, str] = {}
        self._started = 0
        self._began_s = time.monotonic()
        self._lock = threading.Lock()
        self.places: dict[str, int] = {}  # by process name
        self.killed: dict[str, int] = {}  # when, by process name
        self.crashes: list[str] = []

    def start(self) -> None:
        """
        Start an application in every place and wait until each has had an answer.

        Raises:
            TimeoutError: one had none in START_TIMEOUT_S.
        """
        for place in range(len(self._addresses)):
            self.fill(place)
        deadline = time.monotonic() + START_TIMEOUT_S
        for name in list(self._names.values()):
            while not any(b'"o":"ok"' in log.read_bytes() for log in self._folder.glob(f"{name}.*.calls")):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{name} had no answer within {START_TIMEOUT_S} s; see {self._folder}.")
                time.sleep(_POLL_S)

    def fill(self, place: int) -> None:
        """Start an application in a place that is empty."""
        with self._lock:
            number = self._started
            self._started += 1
        name = f"app{place}-{number}"
        address = self._addresses[place]
        settings = Settings(
            name=name,
            first_place=place * LANES,
            first_lane=1 + number * LANES,
            lanes=LANES,
            transport=TRANSPORTS[place % len(TRANSPORTS)],
            control=self._load.control,
            url=address.url,
            grpc_port=address.grpc_port,
            collection=self._load.collection,
            seed=self._load.seed,
            began_s=self._began_s,
            population=self._load.population,
            calls_per_s=self._load.calls_per_s,
            folder=str(self._folder),
        )
        file = self._folder / f"{name}.json"
        settings.save(file)
        with (self._folder / f"{name}.err").open("wb") as stderr:
            process = spawn(
                [sys.executable, "-m", "tests.chaos.application", str(file)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
        with self._lock:
            self.places[name] = place
            self._names[place], self._processes[place] = name, process

    def kill(self, place: int) -> None:
        """Kill the application in a place, and leave it empty."""
        process, name = self._processes[place], self._names[place]
        self._note_crash(name, process)
        process.kill()
        process.wait()
        self.killed[name] = time.monotonic_ns()

    def signal(self, place: int, number: signal.Signals) -> None:
        """Send a signal to the application in a place."""
        self._processes[place].send_signal(number)

    def stop(self) -> None:
        """Let every application end its calls and say goodbye; one that does not is killed, and a crash."""
        for process in self._processes.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for place, process in self._processes.items():
            name = self._names[place]
            if name in self.killed:
                continue
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
                self._note_crash(name, process)
            except subprocess.TimeoutExpired:
                self.crashes.append(f"{name} did not end within {STOP_TIMEOUT_S:.0f} s of SIGTERM")
                process.kill()
                process.wait()
                self.killed[name] = time.monotonic_ns()

    def kill_all(self) -> None:
        """Leave nothing behind, whatever happened."""
        for process in self._processes.values():
            process.kill()
            process.wait()

    def _note_crash(self, name: str, process: subprocess.Popen[bytes]) -> None:
        code = process.poll()
        if code not in (None, 0):
            said = (self._folder / f"{name}.err").read_text(errors="replace").strip()
            self.crashes.append(f"{name} ended by itself with {code}: {said[-600:]}")
