"""Local inference by several threads of one client: shadow reads and dual writes have some that nobody sees."""

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from qdrant_client import QdrantClient, models

from qferry import FerryClient
from qferry.protocol.records import HOME

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
ELSEWHERE = "http://127.0.0.1:10"


class Embedder:
    """Stands in for a model; the first caller waits, for a while, for a second one to come in beside it."""

    def __init__(self) -> None:
        self.entered, self.met = threading.Event(), threading.Event()

    def embed(self, model_name: str, texts: list[str], **_: Any) -> list[list[float]]:
        """Return vectors that tell of which text they are."""
        assert model_name == MODEL
        if self.entered.is_set():
            self.met.set()
        else:
            self.entered.set()
            self.met.wait(0.3)
        return [[float(len(text))] for text in texts]


@pytest.fixture
def ferry() -> Iterator[FerryClient]:
    """Give a client that reaches no server."""
    client = FerryClient(url="http://127.0.0.1:9", check_compatibility=False)
    yield client
    client.close()


@pytest.mark.parametrize("server", [HOME, ELSEWHERE], ids=["own", "target"])
def test_threads_that_embed_at_once_get_the_vectors_of_their_own_texts(
    ferry: FerryClient, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upstream's embedder would mix them up, or raise."""
    client, embedder = ferry._server(server), Embedder()
    monkeypatch.setattr(client._model_embedder.embedder, "is_supported_text_model", lambda _: True)
    monkeypatch.setattr(client._model_embedder.embedder, "embed", embedder.embed)
    monkeypatch.setattr(client._client, "query_points", lambda **sent: sent["query"].nearest)
    monkeypatch.setattr(client._client, "upsert", lambda **sent: [p.vector for p in sent["points"]])
    beside: list[Any] = []

    def search() -> None:
        embedder.entered.wait(30)
        beside.append(QdrantClient.query_points(client, "c", models.Document(text="shadow", model=MODEL)))

    thread = threading.Thread(target=search)
    thread.start()
    texts = ["a" * (n + 1) for n in range(4)]
    points = [models.PointStruct(id=n, vector=models.Document(text=t, model=MODEL)) for n, t in enumerate(texts)]
    try:
        assert QdrantClient.upsert(client, "c", points) == [[1.0], [2.0], [3.0], [4.0]]
    finally:
        embedder.entered.set()
        thread.join()
    assert beside == [[6.0]]


def test_forked_child_embeds_though_a_thread_of_its_parent_did(ferry: FerryClient) -> None:
    """The lock of one that does not exist there is not waited for."""
    held, go = threading.Event(), threading.Event()

    def embed() -> None:
        with ferry._embedding:
            held.set()
            go.wait(30)

    thread = threading.Thread(target=embed)
    thread.start()
    assert held.wait(30)
    child = os.fork()
    if child == 0:
        try:
            free = ferry._embedding.acquire(blocking=False)
        finally:
            os._exit(0 if free else 1)
    go.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
