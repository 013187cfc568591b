"""docs/operate.md, followed to the letter: its commands, in its order, beside an application that notices nothing."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient, models

from qferry import FerryClient, FerryOptions
from qferry.protocol.shadow import COMPARED_MIN
from qferry.server import QdrantServer

PAGE = Path(__file__).parents[2] / "docs" / "operate.md"
SOURCE, TARGET = "project_docs_code", "project-docs"
POINTS = 600
SLOW_S = 0.4
EXIT = re.compile(r"# exit code (\d+)")


@dataclass
class Command:
    """A command of the page, and what it says of it."""

    words: str
    lines: list[str]
    exit_code: int = 0

    def expects(self) -> list[str]:
        """Patterns for what it prints, blanks apart."""
        return [".*?".join(re.escape(part) for part in squeezed(line).split("…")) for line in self.lines]


def squeezed(text: str) -> str:
    """Return the text without line breaks, and with single blanks."""
    return " ".join(text.split())


def steps() -> Iterator[Command | str]:
    """Give the page's commands, and the names of what happens in between."""
    command, inside = None, False
    for line in PAGE.read_text().splitlines():
        if line.startswith("```"):
            inside = line == "```console"
        elif inside and line.startswith("$ "):
            if command is not None:
                yield command
            command = Command(line.removeprefix("$ "), [])
        elif inside and (code := EXIT.fullmatch(line)):
            assert command is not None
            command.exit_code = int(code[1])
        elif inside:
            assert command is not None
            command.lines.append(line)
        elif meanwhile := re.fullmatch(r"<!-- meanwhile: (\w+) -->", line):
            if command is not None:
                yield command
            command = None
            yield meanwhile[1]
    if command is not None:
        yield command


class Application(threading.Thread):
    """What must notice nothing: it searches and writes until it is stopped."""

    def __init__(self, server: QdrantServer) -> None:
        super().__init__()
        self.client = FerryClient(
            url=server.url, check_compatibility=False, timeout=30, ferry=FerryOptions(heartbeat_s=0.2)
        )
        self.slow_target = threading.Event()
        self.stopped = threading.Event()
        self.reads = 0
        self.errors: list[Exception] = []
        remote = self.client._client
        search = remote.query_points

        def delayed(collection_name: str, *args: Any, **kwargs: Any) -> Any:
            if collection_name == TARGET and self.slow_target.is_set():
                time.sleep(SLOW_S)
            return search(collection_name, *args, **kwargs)

        remote.query_points = delayed

    def run(self) -> None:
        """Work."""
        n = 0
        while not self.stopped.wait(0.01):
            n += 1
            try:
                found = self.client.query_points(SOURCE, query=[n % 50 + 1.0, 1.0, 2.0, 3.0], limit=5)
                assert len(found.points) == 5
                self.reads += 1
                if n % 5 == 0:
                    point = models.PointStruct(id=n % POINTS, vector=[n % 97 + 1.0, 1.0, 2.0, 3.0], payload={"n": n})
                    self.client.upsert(SOURCE, [point], wait=True)
            except Exception as error:  # noqa: BLE001  judged in the end
                self.errors.append(error)

    def wait_for(self, reads: int) -> None:
        """Return when it has made so many reads more."""
        until = self.reads + reads
        while self.reads < until:
            assert self.is_alive()
            self.stopped.wait(0.02)


@pytest.fixture
def application(fresh_qdrant: QdrantServer) -> Iterator[Application]:
    """Give an application at work on a collection of its own."""
    plain = QdrantClient(url=fresh_qdrant.url, check_compatibility=False)
    plain.create_collection(SOURCE, models.VectorParams(size=4, distance=models.Distance.COSINE))
    plain.create_payload_index(SOURCE, "n", models.PayloadSchemaType.INTEGER)
    points = [models.PointStruct(id=i, vector=[i % 50 + 1, 1, 2, i % 7], payload={"n": i}) for i in range(POINTS)]
    plain.upsert(SOURCE, points, wait=True)
    plain.close()
    application = Application(fresh_qdrant)
    application.start()
    yield application
    application.stopped.set()
    application.join()
    application.client.close()


@pytest.fixture
def happenings(application: Application, fresh_qdrant: QdrantServer) -> dict[str, Callable[[], None]]:
    """Give what happens between the page's commands, by its name there."""

    def a_plain_client_writes() -> None:
        plain = QdrantClient(url=fresh_qdrant.url, check_compatibility=False)
        plain.delete(TARGET, [POINTS - 1], wait=True)
        plain.upsert(TARGET, [models.PointStruct(id=10**9, vector=[1, 2, 3, 4])], wait=True)
        plain.close()

    def the_application_reads_for_a_while() -> None:
        session = application.client._session
        while sum(found.repeated for found in session.shadows.values()) < COMPARED_MIN:
            application.wait_for(10)
        beat = session.beat
        while session.beat < beat + 2:  # the next one may have begun before
            application.wait_for(1)

    def the_target_becomes_slow() -> None:
        application.slow_target.set()
        began = time.monotonic()
        plain = FerryClient(url=fresh_qdrant.url, check_compatibility=False)
        while not plain.retrieve("_qferry", [migration_id(plain)])[0].payload["stepped_back"]:
            assert time.monotonic() - began < 5, "it has not gone back within five seconds"
            time.sleep(0.05)
        plain.close()

    return {
        "a_plain_client_writes": a_plain_client_writes,
        "the_application_reads_for_a_while": the_application_reads_for_a_while,
        "the_target_becomes_slow": the_target_becomes_slow,
        "the_target_is_fast_again": application.slow_target.clear,
    }


def migration_id(client: QdrantClient) -> Any:
    """Return the id of the only migration's record."""
    is_one = models.FieldCondition(key="kind", match=models.MatchValue(value="migration"))
    records, _ = client.scroll("_qferry", scroll_filter=models.Filter(must=[is_one]), limit=1)
    return records[0].id


def test_a_person_who_follows_the_page_gets_through(
    application: Application,
    fresh_qdrant: QdrantServer,
    happenings: dict[str, Callable[[], None]],
    qferry: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Through a failed verification, a repair, a canary that steps back, a second try, finish and cleanup."""
    monkeypatch.setenv("QDRANT_URL", fresh_qdrant.url)
    monkeypatch.setenv("QDRANT_GRPC_PORT", str(fresh_qdrant.grpc_port))
    monkeypatch.delenv("QFERRY_STRATEGY")
    monkeypatch.delenv("QDRANT_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)
    for step in steps():
        if isinstance(step, str):
            happenings.pop(step)()
            continue
        program, *arguments = step.words.split()
        assert program == "qferry"
        outcome = qferry(*arguments)
        said = squeezed(outcome.stdout + " " + outcome.stderr)
        assert outcome.exit_code == step.exit_code, f"{step.words}: {said}"
        for pattern in step.expects():
            assert re.search(pattern, said), f"{step.words} does not print `{pattern}`: {said}"
    assert not happenings, "the page leaves out what this test would let happen"
    assert application.reads > 200
    assert application.errors == []
