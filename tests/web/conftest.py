"""A small collection to move, and the dashboard of the server it is on."""

import contextlib
import html
import re
import time
import uuid
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

import pytest
from qdrant_client import QdrantClient, models
from starlette.testclient import TestClient

from qferry import commands
from qferry.connection import Connection
from qferry.errors import FerryError
from qferry.protocol.records import Migration, Strategy
from qferry.web.app import Dashboard
from qferry.web.security import Sessions

POINTS = 120


@pytest.fixture
def connection(qdrant: Any) -> Connection:
    """Give what the commands need to reach the shared server."""
    return Connection(url=qdrant.url, api_key=qdrant.api_key, grpc_port=qdrant.grpc_port)


@pytest.fixture
def plain(qdrant: Any) -> Iterator[QdrantClient]:
    """Give a client that knows nothing of migrations."""
    client = QdrantClient(url=qdrant.url, api_key=qdrant.api_key, check_compatibility=False)
    yield client
    client.close()


@pytest.fixture
def source(connection: Connection, plain: QdrantClient) -> Iterator[str]:
    """Give a collection with a legacy name and a few points; its migration is aborted in the end."""
    project = uuid.uuid4().hex
    name, target = f"project_{project}_code", f"project-{project}"
    plain.create_collection(name, vectors_config=models.VectorParams(size=4, distance=models.Distance.COSINE))
    plain.upsert(name, [models.PointStruct(id=i, vector=[i + 1, 1, 2, 3]) for i in range(POINTS)], wait=True)
    yield name
    with contextlib.suppress(FerryError):
        commands.abort(connection, name)
    for collection in (name, target):
        plain.delete_collection(collection)


@pytest.fixture
def target(source: str) -> str:
    """Give the canonical name of `source`."""
    return f"project-{source.removeprefix('project_').removesuffix('_code')}"


@pytest.fixture
def started(connection: Connection, source: str, target: str) -> Callable[[], Migration]:
    """Give a migration that has begun, as what reads its record."""
    commands.start(connection, source, target, strategy=Strategy.STREAM)
    return lambda: commands.find(connection, source)


HERE = "http://localhost:6340"


class Person:
    """
    Somebody with a browser, as far as the server can tell.

    Args:
        client: Sends what they do; it keeps their cookies.
    """

    def __init__(self, client: TestClient) -> None:
        self.client = client
        self.dashboard: Dashboard

    def look(self, path: str) -> str:
        """A page that is there."""
        answer = self.client.get(path)
        assert answer.status_code == HTTPStatus.OK, answer.text
        return answer.text

    def form(self, path: str) -> dict[str, str]:
        """What the form of a page sends if nothing is typed and no box ticked."""
        page = self.client.get(path).text
        fields = re.findall(
            r'<input (?:id="[\w-]+" )?(?:type="hidden" )?name="(\w+)" (?:type="\w+" )?value="([^"]*)"', page
        )
        return {name: html.unescape(value) for name, value in fields}

    def send(self, path: str, *, headers: dict[str, str] | None = None, **typed: str) -> Any:
        """Fill in the form of a page and send it, as a browser does."""
        return self.post(path, {**self.form(path), **typed}, headers)

    def post(self, path: str, fields: dict[str, str], headers: dict[str, str] | None = None) -> Any:
        """Send a form."""
        sent = {"Origin": HERE, "Sec-Fetch-Site": "same-origin", **(headers or {})}
        return self.client.post(path, data=fields, headers=sent, follow_redirects=False)

    def done(self, path: str, **typed: str) -> None:
        """Send a form and wait until what it has set going is done."""
        answer = self.send(path, **typed)
        assert answer.status_code == HTTPStatus.SEE_OTHER, answer.text
        address = answer.headers["location"]
        while "is at work, since" in (page := self.look(address)):
            time.sleep(0.05)
        assert "was not done" not in page, page


@pytest.fixture
def dashboard(connection: Connection) -> Callable[..., contextlib.AbstractContextManager[Person]]:
    """Give what serves a dashboard to a person."""

    @contextlib.contextmanager
    def served(token: str | None = None, to: Connection = connection, **settings: Any) -> Iterator[Person]:
        made = Dashboard(to, Sessions(token, 6340), **settings)
        with TestClient(made.app(), base_url=HERE) as client:
            person = Person(client)
            person.dashboard = made
            yield person

    return served


@pytest.fixture
def person(dashboard: Any) -> Iterator[Person]:
    """Give somebody who looks at the dashboard of the shared server."""
    with dashboard() as somebody:
        yield somebody


@pytest.fixture(autouse=True)
def spare_waits(nobody_unseen: None) -> None:
    """Spare commands waits that lead to nothing here."""
