"""
What compose.yaml's containers do, without an engine.

Every process begins in an empty folder, knows nothing but its environment variables, is killed in the middle of its
work and replaced; no replacement finds anything its predecessor has left, and nothing depends on it.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp_sessions import ServerLog
from qdrant_client import QdrantClient

from code_search.traffic import search
from qferry import commands
from qferry.connection import Connection
from qferry.protocol.phases import Phase
from qferry.server import QdrantServer

LEGACY, CANONICAL = "project_shop_code", "project-shop"
PATIENCE_S = 60.0
TERMINATED = 143
CODE_SEARCH, QFERRY = "code_search", "qferry"


class Containers:
    """Processes that have a folder of their own, empty, and the variables they are given; on one server."""

    def __init__(self, folder: Path, server: QdrantServer, project: Path) -> None:
        self._folder = folder
        self._started = 0
        self.connection = Connection(url=server.url, grpc_port=server.grpc_port)
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "QDRANT_URL": server.url,
            "QDRANT_GRPC_PORT": str(server.grpc_port),
            "QFERRY_STRATEGY": "stream",
            "PROJECT_NAME": "shop",
            "PROJECT_ROOT": str(project),
        }

    @contextmanager
    def started(self, program: str, *arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
        """A process that runs meanwhile; killed in the end, and its folder is gone with it."""
        self._started += 1
        home = self._folder / f"container-{self._started}"
        home.mkdir()
        process = subprocess.Popen(  # noqa: S603  our own interpreter and modules
            [sys.executable, "-m", program, *arguments],
            cwd=home,
            env={**self.environment, **variables, "HOME": str(home), "TMPDIR": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()
        shutil.rmtree(home)

    def run(self, program: str, *arguments: str, **variables: str) -> Any:
        """Run a command to its good end; what it printed."""
        with self.started(program, *arguments, "--json", **variables) as process:
            stdout, stderr = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, (arguments, stdout, stderr)
        return json.loads(stdout)

    def kill_at_work(self, verb: str, when: Callable[[], bool]) -> None:
        """Start a slow `qferry` command and kill it once it holds the migration and `when` is true."""
        with self.started(QFERRY, verb, LEGACY, "--max-points-per-s", "10") as process:
            until(lambda: process.poll() is not None or (bool(self.migration().claim) and when()))
            assert process.poll() is None, process.communicate()

    @contextmanager
    def serving(self) -> Iterator[str]:
        """A server that searches over MCP, at the URL that is given; killed in the end."""
        with self.started(CODE_SEARCH, "serve", "--http", "127.0.0.1:0") as process:
            assert process.stderr is not None
            log = ServerLog(process.stderr)
            log.start()
            try:
                yield f"{log.address()}/mcp"
            finally:
                assert process.poll() is None
                process.kill()
                log.join()

    def migration(self) -> Any:
        """The migration's record."""
        (status,) = commands.status(self.connection)
        return status.migration

    def finds(self, question: str) -> str:
        """The file on top of the answer of a search, by a process that has just come into being."""
        hits = self.run(CODE_SEARCH, "search", question)
        return str(hits[0]["path"])


def told(url: str, question: str) -> str:
    """The file on top of the answer of a server over MCP."""

    async def ask() -> str:
        async with Client(url) as client:
            return str((await search(client, question))[0]["path"])

    return anyio.run(ask)


def until(true: Callable[[], bool]) -> None:
    """Look again until something is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Give a small project."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "parcel.py").write_text('def track_parcel(number):\n    """Ask the carrier where a parcel is."""\n')
    (root / "login.py").write_text('def check_password(name, password):\n    """Whether a password is right."""\n')
    for number in range(60):
        (root / f"tax_{number}.py").write_text(f'def tax_{number}(price):\n    """The tax no. {number}."""\n')
    return root


@pytest.fixture
def containers(tmp_path: Path, project: Path) -> Iterator[Containers]:
    """Give containers beside a server, the only one with a volume."""
    with QdrantServer.start() as server:
        yield Containers(tmp_path, server, project)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_containers_are_replaced_in_the_middle_of_a_migration(containers: Containers, project: Path) -> None:
    """Coordinator, indexer and search are killed at work; new ones, with empty disks, complete what they had begun."""
    run, plain = containers.run, QdrantClient(url=containers.connection.url)
    # The system as it was before the document: the collection has its legacy name.
    run(CODE_SEARCH, "index", COLLECTION_NAME_OVERRIDE_SHOP=LEGACY)
    indexed = plain.count(LEGACY).count
    (proposal,) = run(QFERRY, "plan")["proposals"]
    assert (proposal["source"], proposal["target"]) == (LEGACY, CANONICAL)
    run(QFERRY, "start", LEGACY)
    with containers.started(CODE_SEARCH, "watch") as indexer, containers.serving() as url:
        assert told(url, "where is my parcel") == "parcel.py"
        assert indexer.stdout is not None
        indexer.stdout.readline()  # it has seen what there is
        containers.kill_at_work("backfill", lambda: plain.count(CANONICAL).count > 0)
        assert plain.count(CANONICAL).count < indexed
        (project / "umbrella.py").write_text('def open_umbrella():\n    """Keep the rain off a person."""\n')
        until(lambda: plain.count(LEGACY).count > indexed)
        assert told(url, "protection against rain") == "umbrella.py"
    with containers.serving() as url:
        assert told(url, "protection against rain") == "umbrella.py"
        with containers.started(CODE_SEARCH, "watch") as indexer:
            assert indexer.stdout is not None
            indexer.stdout.readline()
            (project / "login.py").unlink()
            run(QFERRY, "backfill", LEGACY, "--max-points-per-s", "0")
            until(lambda: plain.count(LEGACY).count == indexed)
            containers.kill_at_work("verify", lambda: True)
            # The first indexer was killed without a goodbye: only a check of everything may clear that.
            assert run(QFERRY, "verify", LEGACY, "--repair", "--max-points-per-s", "0")["ok"]
            # Refused if a process has vanished since; but one that is stopped, as containers are, says goodbye.
            indexer.terminate()
            assert indexer.wait(PATIENCE_S) == TERMINATED
            run(QFERRY, "switch", LEGACY, "--percent", "100")
            assert told(url, "where is my parcel") == "parcel.py"
            run(QFERRY, "finish", LEGACY, "--yes")
        # The same server still answers, now from the new collection.
        assert told(url, "protection against rain") == "umbrella.py"
    assert containers.finds("protection against rain") == "umbrella.py"
    assert plain.count(CANONICAL).count == plain.count(LEGACY).count == indexed
    assert containers.migration().phase is Phase.FINISHED
    plain.close()
