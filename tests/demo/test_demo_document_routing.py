"""The document's flags route as the document says, and a refused second write is a failure."""

from collections.abc import Iterator

import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from qferry.demo.application import outcome_of
from qferry.demo.call_log import Action, Effect, Outcome
from qferry.demo.document_routing import DocumentRouting, SecondWriteRefusedError
from qferry.demo.naive import backfill, validate
from qferry.demo.workload import Request
from qferry.server import QdrantServer

DUAL = {"ENABLE_DUAL_WRITE": "true"}
MARK = Request("set_payload", {"payload": {"a": 1}, "points": [1]}, (Effect(Action.SET_PAYLOAD, 1),))
UPSERT = Request(
    "upsert",
    {"points": [models.PointStruct(id=1, vector=[1.0, 0.0], payload={})]},
    (Effect(Action.UPSERT, 1),),
)


@pytest.fixture
def client(fresh_qdrant: QdrantServer) -> Iterator[QdrantClient]:
    """Give a client with an empty legacy and an empty new collection."""
    client = QdrantClient(url=fresh_qdrant.url, check_compatibility=False)
    for name in ("legacy", "new"):
        client.create_collection(name, vectors_config=models.VectorParams(size=2, distance=models.Distance.COSINE))
    yield client
    client.close()


def routing(flags: dict[str, str]) -> DocumentRouting:
    """Read the flags for the two collections."""
    return DocumentRouting.from_environ(flags, legacy="legacy", new="new")


def counts(client: QdrantClient) -> tuple[int, int]:
    """Count the points of both collections."""
    return client.count("legacy").count, client.count("new").count


def test_writes_go_where_the_flags_say(client: QdrantClient) -> None:
    """Without flags to legacy, with dual write to both, with new reads alone to the new collection."""
    routing({}).perform(client, UPSERT)
    assert counts(client) == (1, 0)
    client.delete("legacy", [1])
    routing({"ENABLE_NEW_READS": "true"}).perform(client, UPSERT)
    assert counts(client) == (0, 1)
    routing(DUAL).perform(client, UPSERT)
    assert counts(client) == (1, 1)


def test_reads_go_where_the_flag_says(client: QdrantClient) -> None:
    """A read asks one collection only: one that does not exist shows which."""
    client.delete_collection("legacy")
    read = Request("count", {})
    routing(DUAL | {"ENABLE_NEW_READS": "true"}).perform(client, read)
    with pytest.raises(UnexpectedResponse) as raised:
        routing(DUAL).perform(client, read)
    assert outcome_of(raised.value) is Outcome.REFUSED


def test_partial_update_that_only_the_new_collection_lacks_fails(client: QdrantClient) -> None:
    """The legacy collection took the write, the application is told that it failed: an error, not a 404."""
    client.upsert("legacy", UPSERT.arguments["points"])
    with pytest.raises(SecondWriteRefusedError, match=r"set_payload on new: .*404") as raised:
        routing(DUAL).perform(client, MARK)
    assert outcome_of(raised.value) is Outcome.REFUSED


def test_partial_update_of_an_absent_point_is_a_normal_answer(client: QdrantClient) -> None:
    """When the legacy collection lacks the point, that is what the application is told."""
    with pytest.raises(UnexpectedResponse) as raised:
        routing(DUAL).perform(client, MARK)
    assert outcome_of(raised.value) is Outcome.NOT_FOUND


def test_unreachable_server_leaves_the_outcome_unknown() -> None:
    """An error that is no answer of the server may hide a write that counts."""
    assert outcome_of(TimeoutError("late")) is Outcome.UNKNOWN


def test_backfill_copies_all_pages_and_validation_compares(client: QdrantClient) -> None:
    """Several pages arrive with vectors and payload; the document's checks see the difference before."""
    points = [models.PointStruct(id=i, vector=[1.0, i + 1.0], payload={"i": i}) for i in range(250)]
    client.upsert("legacy", points)
    assert validate(client, "legacy", "new") == "counts 250 and 0, sample search different"
    assert backfill(client, "legacy", "new") == 250
    assert validate(client, "legacy", "new") == "counts 250 and 250, sample search equal"
    legacy, new = (client.scroll(name, limit=250, with_vectors=True)[0] for name in ("legacy", "new"))
    assert legacy == new
