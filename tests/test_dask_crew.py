"""Tests of copying and comparing on a Dask cluster: two real worker processes, some of which are killed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from distributed import Client, LocalCluster
from qdrant_client import QdrantClient, models

from qferry import FerryClient, commands, dask_crew
from qferry.cli import main
from qferry.connection import Connection
from qferry.dask_crew import DaskCrew, connected
from qferry.errors import Misuse, Unreachable
from qferry.flows import coordinator
from qferry.flows.effects import Flow, Outcome, Report, Sleep
from qferry.protocol.records import Migration, Strategy

PATIENCE_S = 30.0
DIMENSIONS = 32
# Enough for four ranges, so that each of the two workers has pieces when one of them is killed.
POINTS = 48_000

pytestmark = pytest.mark.usefixtures("nobody_unseen")


def local_cluster(directory: Path, **options: Any) -> LocalCluster:
    """Return a cluster of worker processes, each started again by its nanny, that nobody else can reach."""
    return LocalCluster(
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        processes=True,
        threads_per_worker=2,
        local_directory=str(directory),
        silence_logs=50,
        **options,
    )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Give two workers."""
    with local_cluster(tmp_path_factory.mktemp("dask"), n_workers=2) as cluster:
        yield cluster


@pytest.fixture
def client(qdrant: Any) -> Iterator[QdrantClient]:
    """Give a plain client of the shared server."""
    client = QdrantClient(url=qdrant.url, api_key=qdrant.api_key, check_compatibility=False)
    yield client
    client.close()


@pytest.fixture
def connection(qdrant: Any) -> Connection:
    """Give the way to the shared server."""
    return Connection(url=qdrant.url, api_key=qdrant.api_key, grpc_port=qdrant.grpc_port)


@pytest.fixture
def source(connection: Connection, client: QdrantClient) -> Iterator[str]:
    """Give a collection of one point; its migration is aborted in the end."""
    name = f"dask-{uuid.uuid4().hex}"
    client.create_collection(name, vectors_config=models.VectorParams(size=DIMENSIONS, distance=models.Distance.DOT))
    client.upsert(name, [point(0, 0)], wait=True)
    yield name
    with contextlib.suppress(commands.FerryError):
        commands.abort(connection, name)
    for collection in (name, f"{name}-2"):
        client.delete_collection(collection)


@pytest.fixture
def migration(connection: Connection, source: str) -> Migration:
    """Give a migration that has begun."""
    commands.start(connection, source, f"{source}-2", strategy=Strategy.STREAM)
    return commands.status(connection, source)[0].migration


def point(number: int, version: int) -> models.PointStruct:
    """Return a point."""
    return models.PointStruct(
        id=number, vector=[float(number % 97 + n) for n in range(DIMENSIONS)], payload={"v": version}
    )


@pytest.fixture
def crew(cluster: LocalCluster, connection: Connection, migration: Migration) -> Iterator[DaskCrew]:
    """Give a crew whose workers have introduced themselves."""
    with connected(cluster.scheduler_address) as client:
        crew = DaskCrew(client, connection, migration, lambda _: None)
        until_room(crew, 4)
        yield crew
        crew.close()


def until_room(crew: DaskCrew, pieces: int) -> None:
    """Wait until there is room for so many pieces."""
    while crew.room(1) < pieces:
        crew.ended((), 0.1)


def until_ended(crew: DaskCrew, number: int) -> Outcome:
    """Wait for a piece."""
    while True:
        for _, outcome in crew.ended((number,), PATIENCE_S):
            return outcome


@dataclass(frozen=True)
class Telling:
    """A piece of work that writes down each time it is begun, and may kill the process it is carried out by."""

    notes: str
    dies: bool = False

    def flow(self) -> Flow[int]:
        """Carry it out."""
        with Path(self.notes).open("a") as notes:
            notes.write(f"{os.getpid()}\n")
        if self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        yield Sleep(0.0)
        return os.getpid()


@dataclass(frozen=True)
class Endless:
    """A piece of work that goes on until it is stopped; it says through a pipe that it has begun, and that it was."""

    pipe: str

    def flow(self) -> Flow[None]:
        """Carry it out."""
        with Path(self.pipe).open("w") as told:
            print("begun", file=told, flush=True)
            try:
                while True:
                    yield Sleep(0.01)
            finally:
                print("stopped", file=told, flush=True)


def test_pieces_are_carried_out_by_the_workers(crew: DaskCrew, tmp_path: Path) -> None:
    """By every one of them, and by no thread of this process."""
    numbers = [crew.begin(Telling(str(tmp_path / str(n)))) for n in range(4)]
    pids = {until_ended(crew, number).result() for number in numbers}
    assert len(pids) == 2
    assert os.getpid() not in pids


def test_a_piece_of_a_killed_worker_is_lost_and_not_begun_again(crew: DaskCrew, tmp_path: Path) -> None:
    """Dask would carry it out on the other worker; what the first had sent could land after that."""
    notes = tmp_path / "notes"
    outcome = until_ended(crew, crew.begin(Telling(str(notes), dies=True)))
    assert isinstance(outcome.error, Unreachable)
    assert "A worker was lost" in outcome.error.message
    until_room(crew, 4)  # the worker that takes its place introduces itself
    assert until_ended(crew, crew.begin(Telling(str(tmp_path / "other")))).error is None
    assert len(notes.read_text().splitlines()) == 1


def test_a_worker_that_was_started_again_at_the_same_address_refuses_the_piece(
    connection: Connection, migration: Migration, tmp_path: Path
) -> None:
    """Dask takes it for the worker that the piece was pinned to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    notes = tmp_path / "notes"
    with (
        local_cluster(tmp_path, n_workers=1, worker_port=port) as cluster,
        connected(cluster.scheduler_address) as client,
    ):
        crew = DaskCrew(client, connection, migration, lambda _: None)
        until_room(crew, 2)
        number = crew.begin(Telling(str(notes), dies=True))
        # As if the list of workers had been looked at before and after, and never in between.
        with pytest.raises(dask_crew.NotMine):
            crew._pieces[number].future.result(timeout=PATIENCE_S)
        assert isinstance(until_ended(crew, number).error, Unreachable)
        until_room(crew, 2)
        assert until_ended(crew, crew.begin(Telling(str(tmp_path / "other")))).error is None
    assert len(notes.read_text().splitlines()) == 1


def test_a_piece_stops_when_its_client_is_gone(
    cluster: LocalCluster, connection: Connection, migration: Migration, tmp_path: Path
) -> None:
    """A command that has ended, or was killed, writes nothing more."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with connected(cluster.scheduler_address) as client:
        crew = DaskCrew(client, connection, migration, lambda _: None)
        until_room(crew, 1)
        crew.begin(Endless(str(pipe)))
        told = pipe.open()
        assert told.readline() == "begun\n"
    with told:
        assert told.readline() == "stopped\n"


def test_a_cluster_without_workers_is_waited_for_and_then_named(
    connection: Connection, migration: Migration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that joins meanwhile is used; without one the error says what to do."""
    told: list[Report] = []
    with local_cluster(tmp_path, n_workers=0) as cluster, connected(cluster.scheduler_address) as client:
        crew = DaskCrew(client, connection, migration, told.append)
        assert crew.room(4) == 0
        assert told[-1].text == "The Dask cluster has no workers."
        cluster.scale(1)
        until_room(crew, 2)
        cluster.scale(0)
        monkeypatch.setattr(dask_crew, "PATIENCE_S", 0.2)
        with pytest.raises(Unreachable, match="has no workers"):
            until_room(crew, 99)


def test_workers_that_do_not_reach_the_servers_are_not_used(
    cluster: LocalCluster, qdrant: Any, migration: Migration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or that reach another one under that URL; the error says so."""
    elsewhere = Connection(url="http://127.0.0.1:1", api_key=qdrant.api_key)
    monkeypatch.setattr(dask_crew, "PATIENCE_S", 0.2)
    with connected(cluster.scheduler_address) as client:
        crew = DaskCrew(client, elsewhere, migration, lambda _: None)
        with pytest.raises(Unreachable, match="does not reach the migration's servers"):
            until_room(crew, 1)


class Writing:
    """An application that writes and deletes while its collection moves."""

    def __init__(self, qdrant: Any, source: str) -> None:
        self._client = FerryClient(url=qdrant.url, api_key=qdrant.api_key, check_compatibility=False)
        self._source = source
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self.writes = 0
        self.error: Exception | None = None

    def _write(self) -> None:
        try:
            while not self._over.wait(0.002):
                self.writes += 1
                ids = [(self.writes * 7919 + n * 4111) % (2 * POINTS) for n in range(8)]
                if self.writes % 3:
                    self._client.upsert(self._source, [point(i, self.writes) for i in ids], wait=True)
                else:
                    self._client.delete(self._source, ids, wait=True)
        except Exception as error:  # noqa: BLE001  the test fails by it
            self.error = error

    def __enter__(self) -> Writing:  # noqa: PYI034  Self is not in 3.10
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._client.close()


def test_a_worker_killed_in_the_middle_of_a_backfill_costs_nothing(
    cluster: LocalCluster,
    connection: Connection,
    client: QdrantClient,
    qdrant: Any,
    source: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    While an application writes: a new fence is put up, the other worker goes on, and both sides are equal.

    A command before it had found no scheduler.
    """
    monkeypatch.setattr(coordinator, "LANDING_S", 1.0)  # the server is on this machine, and is not killed
    monkeypatch.setattr(dask_crew, "CONNECT_S", 2.0)
    client.upload_points(source, [point(i, 0) for i in range(POINTS)], batch_size=2_000, wait=True)
    told: list[Report] = []
    killed: list[int] = []

    with Client(cluster.scheduler_address, set_as_default=False) as watch, Writing(qdrant, source) as application:
        watch.wait_for_workers(2, PATIENCE_S)
        pids = watch.run(os.getpid)

        def kill_one(report: Report) -> None:
            told.append(report)
            if report.stage != "copy" or killed:
                return
            for address, pid in pids.items():
                os.kill(pid, signal.SIGSTOP)  # so that what it is at now stays unfinished
                if any(key.startswith("qferry-") for key in watch.processing([address])[address]):
                    killed.append(pid)
                    os.kill(pid, signal.SIGKILL)
                    return
                os.kill(pid, signal.SIGCONT)

        commands.start(connection, source, f"{source}-2", strategy=Strategy.STREAM)
        with pytest.raises(Unreachable):
            commands.backfill(connection, source, dask="tcp://127.0.0.1:1")
        commands.backfill(connection, source, dask=cluster.scheduler_address, report=kill_one)
        assert commands.verify(connection, source, dask=cluster.scheduler_address).passed
    assert application.error is None
    assert application.writes > 100
    assert len(killed) == 1
    assert [report for report in told if report.stage == "fence"]
    assert commands.verify(connection, source).passed


def test_an_unreachable_scheduler_is_one_sentence(
    qdrant: Any, migration: Migration, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is claimed, and nothing is changed."""
    monkeypatch.setattr(dask_crew, "CONNECT_S", 0.5)
    servers = ("--url", qdrant.url, "--grpc-port", str(qdrant.grpc_port))
    if qdrant.api_key:
        monkeypatch.setenv("QDRANT_API_KEY", qdrant.api_key)
    monkeypatch.setenv("QFERRY_DASK", "tcp://127.0.0.1:1")
    before = commands.status(Connection(url=qdrant.url, api_key=qdrant.api_key), migration.source)[0].migration
    assert main(["backfill", migration.source, *servers]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        "No Dask scheduler answers at tcp://127.0.0.1:1. Check that it runs and that the address is right; "
        "nothing was changed.\n"
    )
    assert commands.status(Connection(url=qdrant.url, api_key=qdrant.api_key), migration.source)[0].migration == before


def test_what_is_no_scheduler_is_not_waited_for(qdrant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the Qdrant server, which accepts the connection."""
    monkeypatch.setattr(dask_crew, "CONNECT_S", 0.5)
    address = f"tcp://{urlsplit(qdrant.url).hostname}:{qdrant.http_port}"
    with pytest.raises(Unreachable, match="No Dask scheduler answers"), connected(address):
        pass


@pytest.mark.parametrize(
    "address", ["127.0.0.1:8786", "tcp://host", "http://host:8786", "tcp://host:port", "tcp://me:secret@host:1"]
)
def test_what_is_no_address_is_a_usage_error(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is found before anything is sent."""
    assert main(["verify", "any", "--dask", address]) == 2
    assert "It should look like tcp://host:8786." in capsys.readouterr().err


def test_without_the_extra_the_error_says_what_to_install(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its packages are many, so nobody gets them who has no cluster."""
    monkeypatch.delattr("qferry.dask_crew")
    monkeypatch.delitem(sys.modules, "qferry.dask_crew")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(Misuse, match=r'pip install "qferry\[dask\]"'):
        commands.backfill(connection, "any", dask="tcp://127.0.0.1:1")
