"""
The operator: a person or job who runs `qferry` commands until they are done, whatever happens to them.

The commands are processes of their own.  One that is killed, fails or is refused is run again; one that has been
stopped for long is left behind, and another one is started beside it, as somebody would who has lost patience.
"""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from .processes import spawn
from .stage import Server, ask

# Longer than any chain of faults has kept a command from its end; a migration that stands still for this long is an
# error of its own.
STUCK_AFTER_S = 600.0
RETRY_S = 0.5
_POLL_S = 0.02
_LONGEST_COMMAND_S = 300.0


class StuckError(Exception):
    """A command could not be brought to its end."""


@dataclass(frozen=True)
class Step:
    """One goal of the operator: a command, and how long the applications run by themselves after it."""

    verb: str
    options: tuple[str, ...] = ()
    pause_s: float = 1.0


@dataclass
class Ran:
    """One run of a command; times are nanoseconds of the monotonic clock."""

    verb: str
    start: int
    end: int = 0
    code: int | None = None
    answer: dict[str, Any] = field(default_factory=dict)
    said: str = ""

    @property
    def done(self) -> bool:
        """Whether it did what it was asked for."""
        return self.code == 0

    @property
    def error(self) -> str:
        """Its error in one line; empty if it has none."""
        found = self.answer.get("error")
        return f"{found['type']}: {found['message']} {found['hint']}" if found else ""


def journey(chance: random.Random, *, brisk: bool = False) -> Iterator[Step]:
    """
    The steps of one migration: to the end, or to an abort somewhere on the way.

    Args:
        chance: Decides about detours.
        brisk: Straight to the finish, with short pauses.
    """

    def step(verb: str, *options: str) -> Step:
        return Step(verb, options, 0.3 if brisk else chance.uniform(0.5, 3.0))

    strategy = chance.choice(("auto", "stream"))
    beginning = [step("start", "--strategy", strategy), step("backfill"), step("verify", "--repair")]
    end = [step("switch", "--percent", "100"), step("finish", "--yes", "--safety-days", "0")]
    if brisk:
        yield from (*beginning, *end)
        return
    part = str(chance.choice((1, 10, 50)))
    way = [*beginning, step("switch", "--percent", part), step("soak", "--seconds", "2")]
    if chance.random() < 0.6:
        way += [step("switch", "--percent", "100"), step("rollback")]
    if chance.random() < 0.15:
        yield from way[: chance.randint(1, len(way))]
        yield step("abort", "--yes")
        return
    yield from (*way, end[0], step("soak", "--seconds", "3"), end[1], step("cleanup"))


class Operator:
    """Runs the commands of one migration."""

    def __init__(
        self,
        *,
        url: str,
        grpc_port: int,
        target_url: str,
        overrides: Mapping[str, int],
        home: Server,
        names: tuple[str, str],
        folder: Path,
    ) -> None:
        """
        Prepare; nothing runs yet.

        Args:
            url: The source's server, as the commands reach it.
            grpc_port: Its port for gRPC, and that of the target's server.
            target_url: Where the target goes; empty for the same server.
            overrides: What the target's configuration is to differ in.
            home: The source's server itself, to look where the migration stands.
            names: Source and target.
            folder: For the commands' output and the operator's own log.
        """
        self._url = url
        self._grpc_port = grpc_port
        self._target_url = target_url
        self._overrides = overrides
        self._home = home
        self._source, self._target = names
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._left_behind: list[subprocess.Popen[bytes]] = []
        self._impatient = threading.Event()
        self._lock = threading.Lock()
        self._number = 0
        self.ran: list[Ran] = []
        self.phase = ""
        self.refusals: Counter[str] = Counter()
        self.crashes: list[str] = []

    # -- for the faults

    def at_work(self) -> subprocess.Popen[bytes] | None:
        """The command that runs, if any."""
        with self._lock:
            process = self._process
        return process if process is not None and process.poll() is None else None

    def leave_behind(self, process: subprocess.Popen[bytes]) -> None:
        """Do not wait for this command any longer: it is stopped, and will go on some day."""
        with self._lock:
            if process is self._process:
                self._left_behind.append(process)
                self._impatient.set()

    # -- for the round

    def take(self, step: Step) -> None:
        """
        Bring a step to its end.

        Raises:
            StuckError: it could not be done in STUCK_AFTER_S.
        """
        deadline = time.monotonic() + STUCK_AFTER_S
        command = step
        while True:
            ran = self._run(command)
            if command is step and (ran.done or self._reached(step.verb)):
                return
            if time.monotonic() > deadline:
                raise StuckError(f"`qferry {step.verb}` was not done within {STUCK_AFTER_S:.0f} s; last: {ran.error}")
            needs_check = "`qferry verify" in ran.error and step.verb != "verify"
            command = Step("verify", ("--repair",)) if needs_check else step
            time.sleep(RETRY_S)

    def outlast(self) -> None:
        """Wait for the commands that were left behind; what they do may not matter any more."""
        for process in self._left_behind:
            try:
                process.wait(_LONGEST_COMMAND_S)
            except subprocess.TimeoutExpired:
                self.crashes.append(f"pid {process.pid} was left behind and has not ended")
                process.kill()
                process.wait()

    def kill_all(self) -> None:
        """Leave nothing behind, whatever happened."""
        for process in (*self._left_behind, self._process):
            if process is not None:
                process.kill()
                process.wait()

    def look(self) -> str:
        """The phase in the migration's record, past every proxy; empty if there is none or nobody answers."""
        condition = {"must": [{"key": "source", "match": {"value": self._source}}]}
        request = {"limit": 10, "with_payload": True, "filter": condition}
        try:
            page = ask(self._home, "POST", "/collections/_qferry/points/scroll", request, timeout_s=5.0)
        except (OSError, RuntimeError):
            return ""
        found = [point["payload"]["phase"] for point in page["points"]] if page else []
        self.phase = found[-1] if found else self.phase
        return found[-1] if found else ""

    def _reached(self, verb: str) -> bool:
        """Whether an earlier run has got there, although the last one had nothing good to say."""
        phase = self.look()
        before_finish = ("copied", "switched")
        return {
            "start": phase in ("capturing", "copying", *before_finish),
            "backfill": phase in before_finish,
            "rollback": phase == "copied",
            "abort": phase == "aborted",
            "cleanup": phase == "cleaned",
        }.get(verb, False)

    def _run(self, step: Step) -> Ran:
        verb = step.verb
        arguments = [verb, self._source]
        if verb == "start":
            arguments.append(self._target)
            if self._target_url:
                arguments += ["--target-url", self._target_url]
            for name, value in self._overrides.items():
                arguments += ["--set", f"{name}={value}"]
        arguments += step.options
        if verb == "cleanup":
            arguments += ["--confirm", self._source]
        grpc_port = str(self._grpc_port)
        arguments += ["--url", self._url, "--grpc-port", grpc_port, "--target-grpc-port", grpc_port]
        arguments += ["--timeout", "15", "--json"]
        self._number += 1
        output = self._folder / f"qferry-{self._number:03}-{verb}.json"
        ran = Ran(verb, time.monotonic_ns())
        with output.open("wb") as stdout, output.with_suffix(".err").open("wb") as stderr:
            process = spawn(
                [sys.executable, "-m", "qferry", *arguments], stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr
            )
        with self._lock:
            self._process = process
            self._impatient.clear()
        ran.code = self._wait(process)
        with self._lock:
            self._process = None
        ran.end = time.monotonic_ns()
        self._note(ran, output)
        self.ran.append(ran)
        return ran

    def _wait(self, process: subprocess.Popen[bytes]) -> int | None:
        while not self._impatient.is_set():
            code = process.poll()
            if code is not None:
                return code
            time.sleep(_POLL_S)
        return None

    def _note(self, ran: Ran, output: Path) -> None:
        ran.said = output.with_suffix(".err").read_text(errors="replace").strip()
        killed_or_left = ran.code is None or ran.code < 0
        if not killed_or_left:
            try:
                ran.answer = orjson.loads(output.read_bytes())
            except orjson.JSONDecodeError:
                self.crashes.append(f"`qferry {ran.verb}` ended with {ran.code} and no JSON: {ran.said[-1500:]}")
        if ran.error:
            self.refusals[f"{ran.verb}: {ran.error[:110]}"] += 1
        line = {"verb": ran.verb, "start": ran.start, "end": ran.end, "code": ran.code, "error": ran.error}
        with (self._folder / "operator.log").open("ab") as log:
            log.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
