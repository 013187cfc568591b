"""The ferry way: every phase by qferry's own commands, with two processes killed on the way."""

from __future__ import annotations

import subprocess
import sys
import time

import orjson
from qdrant_client import QdrantClient

from qferry.demo.errors import DemoError
from qferry.demo.fleet import Fleet, child_environment
from qferry.demo.stage import Stage

# The coordinator is killed as soon as this share of the points has arrived in the target.
KILL_AT_SHARE = 0.1
_POLL_S = 0.01


class Coordinator:
    """Runs `qferry` commands as processes of their own, the way a person or a job runner does."""

    def __init__(self, url: str) -> None:
        """
        Prepare the commands.

        Args:
            url: The server.
        """
        self._url = url

    def run(self, verb: str, *arguments: str) -> dict[str, object]:
        """
        Run one command to its end.

        Args:
            verb: The command.
            arguments: Its arguments but `--url` and `--json`.

        Returns:
            The JSON object that the command printed.

        Raises:
            DemoError: the command did not end with exit code 0; the message carries its error output.
        """
        done = subprocess.run(  # noqa: S603 - our own command
            self._command(verb, *arguments),
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,
        )
        if done.returncode != 0:
            said = "\n".join(part for part in (done.stderr.strip(), done.stdout.strip()) if part)
            raise DemoError(f"`qferry {' '.join((verb, *arguments))}` ended with exit code {done.returncode}:\n{said}")
        answer: dict[str, object] = orjson.loads(done.stdout)
        return answer

    def launch(self, verb: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start one command without waiting for it; the caller kills it."""
        return subprocess.Popen(  # noqa: S603 - our own command
            self._command(verb, *arguments),
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _command(self, verb: str, *arguments: str) -> list[str]:
        # Points go by REST: by gRPC a demo's backfill would be over before it could be killed.
        return [sys.executable, "-m", "qferry", verb, *arguments, "--url", self._url, "--grpc-port", "0", "--json"]


def migrate_with_qferry(
    client: QdrantClient, stage: Stage, fleet: Fleet, *, url: str, source: str, target: str
) -> None:
    """
    Take a collection from plan to finish while the applications run, and go on after two kills.

    Args:
        client: A plain client, to watch the target fill.
        stage: Phases and pauses.
        fleet: The applications; one of them is killed and replaced during the backfill.
        url: The server.
        source: The collection to move.
        target: Where it goes.

    Raises:
        DemoError: a command was refused or failed.
    """
    coordinator = Coordinator(url)
    with stage.phase("plan"):
        coordinator.run("plan", source, target)
    with stage.phase("start"):
        # Page by page, so that there is something to see, and a coordinator to kill in the middle of it.
        coordinator.run("start", source, target, "--strategy", "stream")
    with stage.phase("backfill, coordinator killed") as note:
        note(_kill_during_backfill(coordinator, client, source, target))
    with stage.phase("kill -9 one application") as note:
        note(f"pid {fleet.kill_one()} killed, replacement started")
        fleet.start()
    with stage.phase("backfill, run again"):
        coordinator.run("backfill", source)
    # The dead application may have taken the ids of its last writes with it: only a full check clears that.
    with stage.phase("verify"):
        coordinator.run("verify", source, "--repair")
    for percent in (10, 100):
        _switch(coordinator, stage, fleet, source, percent)
    with stage.phase("rollback"):
        coordinator.run("rollback", source)
    stage.let_traffic_run("traffic, rolled back", fleet)
    with stage.phase("verify"):
        coordinator.run("verify", source)
    _switch(coordinator, stage, fleet, source, 100)
    with stage.phase("finish"):
        coordinator.run("finish", source, "--yes", "--safety-days", "0")


def _switch(coordinator: Coordinator, stage: Stage, fleet: Fleet, source: str, percent: int) -> None:
    with stage.phase(f"switch {percent} %"):
        coordinator.run("switch", source, "--percent", str(percent))
    stage.let_traffic_run(f"traffic, {percent} % of reads new", fleet)


def _kill_during_backfill(coordinator: Coordinator, client: QdrantClient, source: str, target: str) -> str:
    """Start a backfill and kill its process once part of the points has arrived; returns what happened."""
    wanted = KILL_AT_SHARE * client.count(source, exact=False).count
    backfill = coordinator.launch("backfill", source)
    try:
        while (arrived := client.count(target, exact=False).count) < wanted and backfill.poll() is None:
            time.sleep(_POLL_S)
    finally:
        backfill.kill()
        code = backfill.wait()
    if code == 0:
        return "the backfill was done before it could be killed; use more --points"
    if code > 0:
        # Not our kill: the command failed by itself, and running it again says why.
        return f"ended by itself with exit code {code}"
    return f"pid {backfill.pid} killed with {arrived:,} points in the target"
