"""The demo's application processes: started, killed, replaced, restarted and stopped, each by its own pid."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from qferry.demo.call_log import Call, read_calls
from qferry.demo.errors import DemoError
from qferry.demo.settings import ApplicationSettings

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 30
_POLL_S = 0.05

# Whatever the person's shell has set, pins or servers, must not reach the demo: it would act on them. The numeric
# libraries would otherwise keep a spinning thread per core in every process.
_THEIRS = ("ENABLE_DUAL_WRITE", "ENABLE_NEW_READS", "QFERRY_", "QDRANT_", "COLLECTION_")
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def child_environment(flags: Mapping[str, str] | None = None) -> dict[str, str]:
    """
    The environment for a process of the demo.

    Args:
        flags: The document's flags to set; the others are unset.

    Returns:
        This process's environment with the flags replaced, without what names servers, keys and collections, and with
        numeric libraries on one thread.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_THEIRS)}
    return {**inherited, **_ONE_THREAD, **(flags or {})}


@dataclass
class _Application:
    name: str
    process: subprocess.Popen[bytes]
    log: Path
    errors: Path


class Fleet:
    """A few application processes with the same settings but names, logs and seeds of their own."""

    def __init__(self, settings: ApplicationSettings, folder: Path) -> None:
        """
        Prepare the fleet; nothing runs yet.

        Args:
            settings: What all processes share; process name and log are filled in per process.
            folder: For settings, logs and error output.
        """
        self._settings = settings
        self._folder = folder
        self._flags: dict[str, str] = {}
        self._running: list[_Application] = []
        self._logs: list[Path] = []

    def start(self, count: int = 1) -> None:
        """
        Start more processes and wait until each has made its first call.

        Args:
            count: How many.

        Raises:
            DemoError: one ended by itself or made no call within START_TIMEOUT_S.
        """
        started = [self._launch() for _ in range(count)]
        deadline = time.monotonic() + START_TIMEOUT_S
        while not all(application.log.exists() for application in started):
            self.check_alive()
            if time.monotonic() > deadline:
                raise DemoError(f"An application made no call within {START_TIMEOUT_S} s of its start.")
            time.sleep(_POLL_S)

    def kill_one(self) -> int:
        """Kill the oldest process with SIGKILL, in the middle of whatever it does; returns its pid."""
        victim = self._running.pop(0).process
        victim.kill()
        victim.wait()
        return victim.pid

    def restart_with(self, flags: Mapping[str, str]) -> None:
        """Replace the processes one after the other by ones with these flags, like a rolling deployment."""
        self._flags = dict(flags)
        for old in list(self._running):
            self.start()
            self._stop([old])

    def check_alive(self) -> None:
        """
        Make sure that every process still runs.

        Raises:
            DemoError: one has ended by itself; the message carries its error output.
        """
        for application in self._running:
            code = application.process.poll()
            if code is not None:
                errors = application.errors.read_text(errors="replace").strip()
                raise DemoError(f"The application {application.name} ended by itself with exit code {code}:\n{errors}")

    def stop(self) -> None:
        """
        Let every process finish its current call and end.

        Raises:
            DemoError: one had ended by itself before.
        """
        self.check_alive()
        self._stop(list(self._running))

    def kill_all(self) -> None:
        """End what still runs, at once; for the way out after an error or Ctrl-C."""
        while self._running:
            self.kill_one()

    def calls(self) -> list[Call]:
        """Every call of every process that ever ran, each process's in order."""
        return [call for log in self._logs if log.exists() for call in read_calls(log)]

    def _launch(self) -> _Application:
        name = f"app{len(self._logs) + 1}"
        log = self._folder / f"{name}.jsonl"
        settings_file = self._folder / f"{name}.settings.json"
        errors = self._folder / f"{name}.stderr"
        replace(self._settings, process=name, log=str(log)).save(settings_file)
        with errors.open("wb") as stderr:
            process = subprocess.Popen(  # noqa: S603 - our own module with our own file
                [sys.executable, "-m", "qferry.demo.application", str(settings_file)],
                env=child_environment(self._flags),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                # Ctrl-C goes to the demo alone, which then stops its processes in order.
                start_new_session=True,
            )
        application = _Application(name, process, log, errors)
        self._running.append(application)
        self._logs.append(log)
        return application

    def _stop(self, applications: list[_Application]) -> None:
        for application in applications:
            application.process.terminate()
        # Each stays on the list until it has ended: `kill_all` must reach it if this is interrupted.
        for application in applications:
            _wait_for_end(application)
            self._running.remove(application)


def _wait_for_end(application: _Application) -> None:
    try:
        application.process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise DemoError(
            f"The application {application.name} did not end within {STOP_TIMEOUT_S} s of SIGTERM."
        ) from None
