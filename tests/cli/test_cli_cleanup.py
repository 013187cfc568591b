"""`qferry cleanup` against a real server: what keeps it from deleting, and what is left when it has deleted."""

import shutil
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from qdrant_client import QdrantClient, models

from qferry import FerryClient, FerryOptions, commands
from qferry.control import records, wire
from qferry.flows import cleanup as cleanup_flow
from qferry.flows.coordinator import Coordinator, claim
from qferry.flows.effects import Flow
from qferry.protocol.records import CONTROL_COLLECTION, Migration, Writer
from qferry.server import QdrantServer

FINISHED = (
    ("start",),
    ("backfill",),
    ("verify",),
    ("switch", "--percent", "100"),
    ("finish", "--yes", "--safety-days", "0"),
)


@pytest.fixture
def finished(qferry: Any, source: str) -> str:
    """Give a migration that is over; its safety period too."""
    for verb, *options in FINISHED:
        assert qferry(verb, source, *options).exit_code == 0
    return source


@pytest.fixture
def application(qdrant: Any, finished: str) -> Iterator[FerryClient]:
    """Give an application that still calls the collection by its old name."""
    client = FerryClient(url=qdrant.url, api_key=qdrant.api_key, check_compatibility=False)
    client.count(finished)
    yield client
    client.close()


def refused(qferry: Any, client: QdrantClient, source: str, why: str, *options: str, late: bool = False) -> None:
    """Assert that cleanup says why not, in one sentence, and leaves everything alone; `late`: but for the history."""
    before = client.count(source).count
    history = qferry("history", source, "--json").json
    outcome = qferry("cleanup", source, "--confirm", source, *options)
    assert outcome.exit_code == 1
    assert why in outcome.stderr
    assert client.count(source).count == before
    if not late:
        assert qferry("history", source, "--json").json == history
    assert qferry("status", source, "--json").json["migrations"][0]["phase"] == "finished"
    assert not client.list_snapshots(source)


def test_nothing_is_deleted_within_the_safety_period(qferry: Any, client: QdrantClient, source: str) -> None:
    """Thirty days, unless `finish` was told otherwise."""
    for verb, *options in (("start",), ("backfill",), ("verify",), ("switch", "--percent", "100"), ("finish", "--yes")):
        assert qferry(verb, source, *options).exit_code == 0
    (migration,) = qferry("status", source, "--json").json["migrations"]
    after = migration["cleanup_after"]
    until, finished = (datetime.strptime(at, "%Y-%m-%dT%H:%M:%S%z") for at in (after, migration["finished_at"]))
    # The period is counted from when `finish` began, a moment before it was done.
    assert timedelta(days=30, minutes=-1) < until - finished <= timedelta(days=30)
    refused(qferry, client, source, f"The safety period runs until {after}.")


def test_nothing_is_deleted_that_an_alias_points_at(qferry: Any, client: QdrantClient, finished: str) -> None:
    """Somebody may call it by that; the refusal names the alias."""
    alias = f"{finished}-alias"
    point = models.CreateAlias(collection_name=finished, alias_name=alias)
    client.update_collection_aliases([models.CreateAliasOperation(create_alias=point)])
    refused(qferry, client, finished, f"The alias `{alias}` still points at `{finished}`.")
    gone = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))
    client.update_collection_aliases([gone])
    assert qferry("cleanup", finished, "--confirm", finished).exit_code == 0


def test_nothing_is_deleted_that_is_not_the_collection_the_migration_began_with(
    qferry: Any, client: QdrantClient, finished: str
) -> None:
    """Somebody has deleted that, and made another one of its name."""
    client.delete_collection(finished)
    client.create_collection(finished, vectors_config={})
    refused(qferry, client, finished, "lacks its marker")


def test_nothing_is_deleted_when_the_target_is_gone(
    qferry: Any, client: QdrantClient, finished: str, target: str
) -> None:
    """The source may hold all that is left, also when there is another collection of the target's name."""
    client.delete_collection(target)
    refused(qferry, client, finished, f"`{finished}` may be all that is left")
    client.create_collection(target, vectors_config={})
    refused(qferry, client, finished, f"`{finished}` may be all that is left")
    client.delete_collection(finished)
    assert qferry("cleanup", finished, "--confirm", finished).exit_code == 0  # nothing is left to lose


def test_an_application_goes_on_by_the_old_name(
    qferry: Any, client: QdrantClient, finished: str, target: str, application: FerryClient
) -> None:
    """It has been led to the target all the time; what is deleted is nobody's."""
    done = qferry("cleanup", finished, "--confirm", finished, "--json").json
    assert done["phase"] == "cleaned"
    assert not client.collection_exists(finished)
    assert application.count(finished).count == client.count(target).count > 0
    last = qferry("history", finished, "--json").json["history"][-1]
    assert last["details"]["snapshot"]["checksum"] in done["detail"]


def test_nothing_is_deleted_when_another_name_is_typed(qferry: Any, client: QdrantClient, finished: str) -> None:
    """The target's is not the source's, nor is one that differs in a letter."""
    for name in (finished.replace("_", "-"), finished.upper(), f" {finished}", ""):
        outcome = qferry("cleanup", finished, "--confirm", name)
        assert outcome.exit_code == 1
        assert f"`{name}` is not the name of the source, `{finished}`; nothing was deleted." in outcome.stderr
    assert client.collection_exists(finished)
    assert qferry("status", finished, "--json").json["migrations"][0]["phase"] == "finished"


def test_nothing_is_deleted_while_an_application_does_not_say_that_it_has_left(
    qferry: Any, client: QdrantClient, finished: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of its calls may still be under way on the source; the refusal names the process."""
    beats = iter(range(10_000))

    def writers() -> Flow[list[Writer]]:
        yield from ()
        return [Writer("w", "web-7", 812, "09:00", next(beats), seen={}, acked={}, debts={}, busy_s=3.5)]

    def impatient(m: Migration, who: str, **_: Any) -> Flow[Coordinator]:
        return claim(m, who, ack_timeout_s=0.3)

    with monkeypatch.context() as patch:
        patch.setattr(records, "writers", writers)
        patch.setattr(commands, "claim", impatient)
        refused(qferry, client, finished, "web-7 pid 812", late=True)
    assert qferry("cleanup", finished, "--confirm", finished).exit_code == 0


def test_application_that_is_kept_from_new_reads_does_not_need_the_source(
    qferry: Any, qdrant: Any, client: QdrantClient, finished: str, target: str
) -> None:
    """`ENABLE_NEW_READS=false` bars `finish`; in a process started after that it leads nobody back to the source."""
    options = FerryOptions(new_reads=False)
    reader = FerryClient(url=qdrant.url, api_key=qdrant.api_key, check_compatibility=False, ferry=options)
    try:
        client.upsert(target, [models.PointStruct(id=100_000, vector=[1, 1, 1, 1])], wait=True)
        assert reader.count(finished).count == client.count(target).count == client.count(finished).count + 1
        assert qferry("cleanup", finished, "--confirm", finished).exit_code == 0
        assert reader.count(finished).count == client.count(target).count
    finally:
        reader.close()


def test_nothing_is_deleted_that_a_plain_client_searches(
    qferry: Any, client: QdrantClient, finished: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server counts searches, so one while cleanup listens is noticed; one of before is nobody's any more."""

    def search() -> None:
        client.query_points(finished, [1.0, 1.0, 1.0, 1.0])

    def someone_searches(_: Coordinator) -> Flow[None]:
        search()
        yield from ()

    search()
    with monkeypatch.context() as patch:
        patch.setattr(Coordinator, "outlast_observers", someone_searches)
        refused(qferry, client, finished, f"`{finished}` was searched within the last", late=True)
    assert qferry("cleanup", finished, "--confirm", finished).exit_code == 0


def lost_meanwhile(monkeypatch: pytest.MonkeyPatch, lose: Callable[[], Any]) -> None:
    """Let something happen while the final snapshot is taken."""
    take = wire.create_snapshot

    def taken(*arguments: Any) -> Any:
        lose()
        return take(*arguments)

    monkeypatch.setattr(wire, "create_snapshot", taken)


def test_target_that_goes_while_the_snapshot_is_taken_is_noticed(
    qferry: Any, client: QdrantClient, finished: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large snapshot takes long; the source may have become all that is left meanwhile."""
    lost_meanwhile(monkeypatch, lambda: client.delete_collection(target))
    outcome = qferry("cleanup", finished, "--confirm", finished)
    assert outcome.exit_code == 1
    assert f"`{finished}` may be all that is left" in outcome.stderr
    assert client.collection_exists(finished)
    assert qferry("status", finished, "--json").json["migrations"][0]["phase"] == "finished"


def test_alias_that_comes_while_the_snapshot_is_taken_is_noticed(
    qferry: Any, client: QdrantClient, finished: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody uses the source by it."""
    lost_meanwhile(monkeypatch, lambda: point(client, f"{finished}-late", finished))
    outcome = qferry("cleanup", finished, "--confirm", finished)
    assert outcome.exit_code == 1
    assert f"The alias `{finished}-late` still points at `{finished}`." in outcome.stderr
    assert client.collection_exists(finished)


def point(client: QdrantClient, alias: str, collection: str) -> None:
    """Give a collection an alias."""
    made = models.CreateAlias(collection_name=collection, alias_name=alias)
    client.update_collection_aliases([models.CreateAliasOperation(create_alias=made)])


def drop(client: QdrantClient, alias: str) -> None:
    """Take an alias away."""
    gone = models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))
    client.update_collection_aliases([gone])


def test_old_name_is_kept_as_an_alias_of_the_target(
    qferry: Any, client: QdrantClient, finished: str, target: str, application: FerryClient
) -> None:
    """For plain clients; those with qferry go by the record as before.  Again, it changes nothing."""
    try:
        done = qferry("cleanup", finished, "--confirm", finished, "--keep-alias", "--json").json
        assert f"its name is an alias of `{target}`" in done["detail"]
        aliases = {a.alias_name for a in client.get_collection_aliases(target).aliases}
        assert {name for name in aliases if not name.startswith(CONTROL_COLLECTION)} == {finished}
        assert client.count(finished).count == application.count(finished).count == client.count(target).count
        (migration,) = qferry("status", finished, "--json").json["migrations"]
        assert (migration["phase"], migration["source_points"]) == ("cleaned", None)
        assert qferry("doctor", finished).exit_code == 0
        history = qferry("history", finished, "--json").json
        assert qferry("cleanup", finished, "--confirm", finished, "--keep-alias").exit_code == 0
        assert qferry("history", finished, "--json").json == history
        assert "it is complete" in qferry("cleanup", finished, "--confirm", finished).stderr
        assert client.collection_exists(target)
    finally:
        drop(client, finished)


def test_alias_is_made_by_running_cleanup_again_wherever_it_was_interrupted(
    qferry: Any, client: QdrantClient, finished: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right after the deletion, and right after the alias; the source that is gone is not asked for twice."""

    class Killed(BaseException):
        pass

    def dies(*_: Any) -> Any:
        raise Killed

    again = ("cleanup", finished, "--confirm", finished, "--keep-alias")
    try:
        with monkeypatch.context() as patch:
            patch.setattr(cleanup_flow, "_lead_on", dies)
            with pytest.raises(Killed):
                qferry(*again)
        assert not client.collection_exists(finished)
        with monkeypatch.context() as patch:
            patch.setattr(cleanup_flow, "dismantle", dies)
            with pytest.raises(Killed):
                qferry(*again)
        assert client.count(finished).count == client.count(target).count
        assert qferry("doctor", finished, "--json").json["findings"][0]["what"] == f"`{finished}`, the source, is gone."
        done = qferry(*again, "--json").json
        assert done["phase"] == "cleaned"
        assert "final snapshot" in done["detail"]
        assert client.count(finished).count == client.count(target).count
    finally:
        drop(client, finished)


def test_alias_is_refused_where_somebody_has_taken_the_name(
    qferry: Any, client: QdrantClient, finished: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collection or an alias made since the deletion stays as it is; the cleanup itself is complete."""
    lead_on = cleanup_flow._lead_on

    def taken(co: Coordinator) -> Flow[None]:
        client.create_collection(finished, vectors_config={})
        yield from lead_on(co)

    again = ("cleanup", finished, "--confirm", finished, "--keep-alias")
    with monkeypatch.context() as patch:
        patch.setattr(cleanup_flow, "_lead_on", taken)
        outcome = qferry(*again)
    assert outcome.exit_code == 1
    assert f"somebody has made a collection `{finished}` since" in outcome.stderr
    assert qferry("status", finished, "--json").json["migrations"][0]["phase"] == "cleaned"
    assert f"somebody has made a collection `{finished}` since" in qferry(*again).stderr
    assert client.count(finished).count == 0
    client.delete_collection(finished)
    client.create_collection(f"{finished}-theirs", vectors_config={})
    try:
        point(client, finished, f"{finished}-theirs")
        assert f"an alias `{finished}` of `{finished}-theirs` since" in qferry(*again).stderr
        assert client.count(finished).count == 0
        client.delete_collection(f"{finished}-theirs")
        assert qferry(*again).exit_code == 0
        assert client.count(finished).count == client.count(target).count > 0
    finally:
        client.delete_collection(f"{finished}-theirs")
        drop(client, finished)


def test_later_migration_takes_the_alias_along(qferry: Any, client: QdrantClient, finished: str, target: str) -> None:
    """A plan from the target notes it, a finish moves it; the cleanup of before gives the name away no more."""
    again = ("cleanup", finished, "--confirm", finished, "--keep-alias")
    assert qferry(*again).exit_code == 0
    newer = f"{target}-2"
    try:
        assert finished in qferry("plan", target, newer, "--json").json["aliases"]
        for verb, *options in (("start", newer), *FINISHED[1:]):
            assert qferry(verb, target, *options).exit_code == 0
        assert {a.alias_name for a in client.get_collection_aliases(newer).aliases if "qferry" not in a.alias_name} == {
            finished
        }
        drop(client, finished)
        assert f"`{finished}` is not the name of the source, `{target}`" in qferry(*again).stderr
    finally:
        assert qferry("cleanup", target, "--confirm", target).exit_code == 0
        client.delete_collection(newer)


def test_alias_is_refused_where_the_target_is_gone(
    qferry: Any, client: QdrantClient, finished: str, target: str
) -> None:
    """Whoever asks for it later hears that there is nothing to lead to."""
    assert qferry("cleanup", finished, "--confirm", finished).exit_code == 0
    client.delete_collection(target)
    outcome = qferry("cleanup", finished, "--confirm", finished, "--keep-alias")
    assert (outcome.exit_code, outcome.stderr.count("\n")) == (1, 1), outcome.stderr
    assert f"`{target}` is gone, so there is nothing to lead to." in outcome.stderr


def test_alias_is_refused_where_the_target_is_on_another_server(
    qferry: Any, client: QdrantClient, source: str, target: str, fresh_qdrant: QdrantServer
) -> None:
    """Before anything is done: an alias cannot lead there."""
    there = ("--target-url", fresh_qdrant.url, "--target-grpc-port", str(fresh_qdrant.grpc_port))
    for verb, *options in FINISHED:
        assert qferry(verb, source, *options, *there).exit_code == 0
    refused(qferry, client, source, f"`{target}` is on another server", "--keep-alias", *there)
    assert qferry("cleanup", source, "--confirm", source, *there).exit_code == 0


def everything(client: QdrantClient, collection: str) -> tuple[Any, Any, dict[Any, Any]]:
    """Give a collection's parameters, its payload indexes, and every point whole."""
    info = client.get_collection(collection)
    indexes = {name: (index.data_type, index.params) for name, index in info.payload_schema.items()}
    points, _ = client.scroll(collection, limit=10_000, with_payload=True, with_vectors=True)
    return info.config.params, indexes, {p.id: (p.payload, p.vector) for p in points}


@pytest.mark.parametrize("alias", [False, True])
def test_source_is_brought_back_from_its_final_snapshot(qferry: Any, fresh_qdrant: QdrantServer, alias: bool) -> None:
    """The drill: finish, cleanup, then the request that cleanup has printed; every point is what it was, bit by bit."""
    old, new = "project_drill_code", "project-drill"
    client = QdrantClient(url=fresh_qdrant.url, check_compatibility=False)
    here = ("--url", fresh_qdrant.url, "--grpc-port", str(fresh_qdrant.grpc_port))
    client.create_collection(
        old,
        vectors_config={"code": models.VectorParams(size=4, distance=models.Distance.COSINE)},
        sparse_vectors_config={"words": models.SparseVectorParams()},
    )
    client.create_payload_index(old, "line", models.IntegerIndexParams(type="integer", lookup=True, range=False))
    client.upsert(
        old,
        [
            models.PointStruct(
                id=i,
                vector={
                    "code": [i + 1, 1, 2, 3],
                    "words": models.SparseVector(indices=[i, i + 7], values=[0.5, i + 1]),
                },
                payload={"line": i, "share": i / 3, "path": f"src/{i}.py"},
            )
            for i in range(300)
        ],
        wait=True,
    )
    for verb, *options in FINISHED:
        assert qferry(verb, old, *options, *here).exit_code == 0
    before = everything(client, old)
    # What was written since is in the target alone, and must stay there.
    client.upsert(new, [models.PointStruct(id=1000, vector={"code": [1, 1, 1, 1]}, payload={})], wait=True)
    after = everything(client, new)
    done = qferry("cleanup", old, "--confirm", old, *here, *["--keep-alias"][:alias], "--json").json
    method, path, body = done["restore"].split(" ", 2)
    assert path == f"/collections/{old}-restored/snapshots/recover?wait=true"
    request = orjson.loads(body)
    folder = Path(fresh_qdrant.folder).absolute() / "snapshots"
    assert cleanup_flow.SNAPSHOTS_FOLDER in request["location"]
    request["location"] = request["location"].replace(cleanup_flow.SNAPSHOTS_FOLDER, f"file://{folder}")
    answer = httpx.request(method, f"{fresh_qdrant.url}{path}", json=request, timeout=60)
    assert answer.status_code == 200, answer.text
    assert everything(client, f"{old}-restored") == before
    assert everything(client, new) == after
    client.close()
    assert "To have it back" not in qferry("status", old, *here).stdout
    shutil.rmtree(folder / old)
