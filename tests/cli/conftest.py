"""The command in this process, against the shared server, and a small legacy collection to move."""

import contextlib
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from qdrant_client import QdrantClient, models

from qferry import commands
from qferry.cli import main
from qferry.connection import Connection
from qferry.errors import FerryError

POINTS = 120


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The one JSON object on stdout."""
        assert self.stdout.count("\n") == 1, self.stdout
        return orjson.loads(self.stdout)


Qferry = Callable[..., Outcome]


@pytest.fixture
def qferry(qdrant: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Qferry:
    """Give the command, connected to the shared server by its variables and by nothing else the shell has set."""
    for name in os.environ:
        if name.startswith(("QDRANT_", "QFERRY_", "COLLECTION_")) and name != "QFERRY_QDRANT_BIN":
            monkeypatch.delenv(name)
    monkeypatch.setenv("QDRANT_URL", qdrant.url)
    monkeypatch.setenv("QDRANT_GRPC_PORT", str(qdrant.grpc_port))
    monkeypatch.setenv("QFERRY_STRATEGY", "stream")  # what most tests look at; a snapshot is asked for by its option
    if qdrant.api_key:
        monkeypatch.setenv("QDRANT_API_KEY", qdrant.api_key)

    def call(*arguments: str) -> Outcome:
        capsys.readouterr()
        exit_code = main(arguments)
        said = capsys.readouterr()
        return Outcome(exit_code, said.out, said.err)

    return call


@pytest.fixture
def client(qdrant: Any) -> Iterator[QdrantClient]:
    """Give a plain client of the shared server."""
    client = QdrantClient(url=qdrant.url, api_key=qdrant.api_key, check_compatibility=False)
    yield client
    client.close()


@pytest.fixture
def source(qdrant: Any, client: QdrantClient) -> Iterator[str]:
    """Give a collection with a legacy name and a few points; its migration is aborted in the end."""
    project = uuid.uuid4().hex
    name, target = f"project_{project}_code", f"project-{project}"
    client.create_collection(name, vectors_config=models.VectorParams(size=4, distance=models.Distance.COSINE))
    client.create_payload_index(name, "group", models.PayloadSchemaType.INTEGER)
    points = [models.PointStruct(id=i, vector=[i + 1, 1, 2, 3], payload={"group": i % 7}) for i in range(POINTS)]
    client.upsert(name, points, wait=True)
    yield name
    with contextlib.suppress(FerryError):
        commands.abort(Connection(url=qdrant.url, api_key=qdrant.api_key, grpc_port=qdrant.grpc_port), name)
    for collection in (name, target):
        client.delete_collection(collection)


@pytest.fixture
def target(source: str) -> str:
    """Give the canonical name of `source`."""
    return f"project-{source.removeprefix('project_').removesuffix('_code')}"


@pytest.fixture(autouse=True)
def spare_waits(nobody_unseen: None) -> None:
    """Spare commands waits that lead to nothing here."""
