"""`qferry cleanup --reclaim` against a real server: what is found, what is kept, and what is gone afterwards."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient, models
from test_cli_journey import assert_documented

from qferry import commands
from qferry.connection import Connection
from qferry.control import wire
from qferry.protocol.phases import Side
from qferry.protocol.records import CONTROL_COLLECTION, Migration
from qferry.server import QdrantServer

OLD, NEW = "project_left_code", "project-left"
CLOSED = models.StrictModeConfig(enabled=True, upsert_max_batchsize=0)
WAY = (
    ("start",),
    ("backfill",),
    ("verify",),
    ("switch", "--percent", "100"),
    ("finish", "--yes", "--safety-days", "0"),
)


@pytest.fixture
def client(fresh_qdrant: QdrantServer) -> Iterator[QdrantClient]:
    """Give a plain client of a server of the test's own, where nothing else is left of anybody."""
    client = QdrantClient(url=fresh_qdrant.url, check_compatibility=False)
    yield client
    client.close()


@pytest.fixture
def here(qferry: Any, fresh_qdrant: QdrantServer, client: QdrantClient) -> Callable[..., Any]:
    """Give the command on that server, where there is a collection to move."""
    client.create_collection(OLD, vectors_config=models.VectorParams(size=4, distance=models.Distance.COSINE))
    client.upsert(OLD, [models.PointStruct(id=i, vector=[i + 1, 1, 2, 3], payload={}) for i in range(50)], wait=True)

    def call(*arguments: str) -> Any:
        return qferry(*arguments, "--url", fresh_qdrant.url, "--grpc-port", str(fresh_qdrant.grpc_port))

    return call


@pytest.fixture
def found(here: Any) -> Callable[..., list[tuple[str, str, bool, bool]]]:
    """Give what is left behind: kind, name, whether it is kept, and whether it was removed."""

    def look(*options: str) -> list[tuple[str, str, bool, bool]]:
        outcome = here("cleanup", "--reclaim", *options, "--json")
        assert outcome.exit_code == 0, outcome
        assert outcome.json["dry_run"] is ("--yes" not in options)
        assert_documented("cleanup", outcome.json)
        return [(x["kind"], x["name"], bool(x["kept"]), x["removed"]) for x in outcome.json["leftovers"]]

    return look


def cleaned(here: Any, server: QdrantServer) -> tuple[Migration, Path]:
    """Move the collection, clean up, and return the migration and its final snapshot's file."""
    for verb, *options in WAY:
        assert here(verb, OLD, *options).exit_code == 0
    assert here("cleanup", OLD, "--confirm", OLD).exit_code == 0
    (kept,) = (server.folder / "snapshots" / OLD).glob("*.snapshot")
    return commands.find(Connection(url=server.url, grpc_port=server.grpc_port), OLD), kept


def point(client: QdrantClient, alias: str, collection: str) -> None:
    """Give a collection an alias."""
    made = models.CreateAlias(collection_name=collection, alias_name=alias)
    client.update_collection_aliases([models.CreateAliasOperation(create_alias=made)])


def names(client: QdrantClient) -> set[str]:
    """Give the names of all collections and aliases but the records'."""
    found = {c.name for c in client.get_collections().collections} - {CONTROL_COLLECTION}
    return found | {a.alias_name for a in client.get_aliases().aliases}


def test_server_without_leftovers_has_nothing_to_reclaim(here: Any, found: Any, client: QdrantClient) -> None:
    """Neither before the first migration, nor while one is live, whose journal and markers are in use."""
    assert found() == []
    here("start", OLD)
    here("backfill", OLD)
    before = names(client)
    assert found("--yes") == []
    assert "No migration that is over has left anything behind." in here("cleanup", "--reclaim").stdout
    outcome = here("cleanup", OLD, "--reclaim", "--yes")
    assert outcome.exit_code == 1
    assert f"There is no migration of `{OLD}` on this server that is over" in outcome.stderr
    assert names(client) == before
    assert len(before) > 3


def test_what_an_ended_migration_has_left_is_removed_and_nothing_else(
    here: Any, found: Any, client: QdrantClient, fresh_qdrant: QdrantServer
) -> None:
    """Journal, fence, door, marker; a look-alike that no record knows, and a live migration's, stay."""
    here("start", OLD)
    m = commands.find(Connection(url=fresh_qdrant.url), OLD)
    here("abort", OLD, "--yes")
    assert found() == []
    client.create_collection("theirs", vectors_config={})
    here("start", "theirs", "theirs-2")
    live = commands.find(Connection(url=fresh_qdrant.url), "theirs")
    for name in (m.journal_collection, m.fence("abc"), f"{CONTROL_COLLECTION}_journal_deadbeef", f"{m.prefix}other"):
        client.create_collection(name, vectors_config={})
    client.create_snapshot(m.fence("abc"))
    for name in (m.marker(Side.SOURCE), f"{m.mend_prefix}def", f"{CONTROL_COLLECTION}_deadbeef_target"):
        point(client, name, OLD)
    before = names(client)
    ours = [
        ("collection", m.fence("abc")),
        ("journal", m.journal_collection),
        ("alias", f"{m.mend_prefix}def"),
        ("alias", m.marker(Side.SOURCE)),
    ]
    stranger = [
        ("alias", f"{CONTROL_COLLECTION}_deadbeef_target", True, False),
        ("collection", f"{CONTROL_COLLECTION}_journal_deadbeef", True, False),
    ]
    assert found() == [(*one, False, False) for one in ours] + stranger
    assert names(client) == before
    said = here("cleanup", "--reclaim").stdout
    assert "Nothing was removed. Add --yes to remove what is not kept." in said
    assert found("--yes") == [(*one, False, True) for one in ours] + stranger
    assert names(client) == before - {name for _, name in ours}
    assert {live.journal_collection, live.marker(Side.SOURCE), live.marker(Side.TARGET)} <= names(client)
    assert found("--yes") == stranger
    assert not list((fresh_qdrant.folder / "snapshots" / m.fence("abc")).glob("*"))


def test_what_a_vanished_migration_has_left_is_known_by_its_history(
    here: Any, found: Any, client: QdrantClient, fresh_qdrant: QdrantServer
) -> None:
    """Somebody has deleted its record; its lines of history prove that journal and markers were its own."""
    here("start", OLD)
    m = commands.find(Connection(url=fresh_qdrant.url), OLD)
    client.delete(CONTROL_COLLECTION, [m.id], wait=True)
    ours = {m.journal_collection, m.marker(Side.SOURCE), m.marker(Side.TARGET)}
    assert {name for _, name, kept, _ in found() if not kept} == ours
    assert ours <= names(client)
    found("--yes")
    assert names(client) == {OLD, NEW}


def test_snapshot_of_a_backfill_goes_and_a_backup_stays(
    here: Any, found: Any, client: QdrantClient, fresh_qdrant: QdrantServer
) -> None:
    """One is named in the record; of another that history names nobody can tell whose it is."""
    here("start", OLD)
    m = commands.find(Connection(url=fresh_qdrant.url), OLD)
    here("abort", OLD, "--yes")
    taken = client.create_snapshot(OLD)
    assert taken is not None
    line = {
        "kind": "event",
        "migration": m.id,
        "at": "",
        "who": "",
        "epoch": 1,
        "what": "a snapshot may have been left",
    }
    client.set_payload(CONTROL_COLLECTION, {"archive": {"name": taken.name}}, [m.id], wait=True)
    assert found() == [("snapshot", taken.name, False, False)]
    event = models.PointStruct(id=1, vector={}, payload={**line, "details": {"snapshots": [taken.name]}})
    client.upsert(CONTROL_COLLECTION, [event], wait=True)
    assert found() == [("snapshot", taken.name, False, False)]
    client.set_payload(CONTROL_COLLECTION, {"archive": {}}, [m.id], wait=True)
    assert found("--yes") == [("snapshot", taken.name, True, False)]
    client.set_payload(CONTROL_COLLECTION, {"archive": {"name": taken.name}}, [m.id], wait=True)
    assert found("--yes") == [("snapshot", taken.name, False, True)]
    assert client.list_snapshots(OLD) == []


def test_final_snapshot_goes_only_when_the_name_of_its_source_is_typed(
    here: Any, found: Any, client: QdrantClient, fresh_qdrant: QdrantServer
) -> None:
    """It is the last copy.  Nothing is left of the collection through which the server finds it."""
    m, kept = cleaned(here, fresh_qdrant)
    assert here("doctor").exit_code == 0
    assert found() == found("--yes") == [("final snapshot", kept.name, False, False)]
    assert f"qferry cleanup {OLD} --reclaim --yes --confirm {OLD}" in here("cleanup", "--reclaim").stdout
    outcome = here("cleanup", "--reclaim", "--yes", "--confirm", NEW)
    assert outcome.exit_code == 1
    assert f"There is no final snapshot of `{NEW}` that may go; nothing was removed." in outcome.stderr
    assert found("--confirm", OLD) == [("final snapshot", kept.name, False, False)]
    assert kept.exists()
    assert found("--yes", "--confirm", OLD) == [("final snapshot", kept.name, False, True)]
    assert not kept.exists()
    assert found() == []
    assert names(client) == {NEW, m.marker(Side.TARGET)}
    told = [line["what"] for line in here("history", OLD, "--json").json["history"]]
    assert told.count("final snapshot removed") == 1
    assert told.count("a collection is made to reach a final snapshot") == 1


@pytest.mark.parametrize("case", ["alias", "target gone", "target made anew", "live", "another snapshot"])
def test_final_snapshot_is_kept_while_it_may_be_needed(
    here: Any, found: Any, client: QdrantClient, fresh_qdrant: QdrantServer, case: str
) -> None:
    """Or while no server would find it; typing its name does not help, and the reason is said."""
    _, kept = cleaned(here, fresh_qdrant)
    if case == "alias":
        assert here("cleanup", OLD, "--confirm", OLD, "--keep-alias").exit_code == 0
        why = f"`{OLD}` is an alias now"
    elif case == "target gone":
        client.delete_collection(NEW)
        why = f"`{NEW}` is gone"
    elif case == "target made anew":
        client.delete_collection(NEW)
        client.create_collection(NEW, vectors_config={})
        why = f"`{NEW}` lacks the alias"
    elif case == "live":
        here("start", NEW, "newest")
        why = f"`{NEW}` → `newest` is copying"
    else:
        kept.with_suffix(".snapshot.checksum").write_text("0" * 64)
        client.create_collection(OLD, vectors_config={})
        why = "it is another one"
    assert [entry for entry in found("--yes") if entry[0] == "final snapshot"] == [
        ("final snapshot", kept.name, True, False)
    ]
    outcome = here("cleanup", "--reclaim", "--yes", "--confirm", OLD, "--json")
    assert outcome.exit_code == 1
    assert why in outcome.json["error"]["hint"]
    assert kept.exists()


@pytest.mark.parametrize("lost", [False, True])
def test_final_snapshot_goes_when_what_a_later_migration_made_of_the_target_is_there(
    here: Any, found: Any, client: QdrantClient, fresh_qdrant: QdrantServer, lost: bool
) -> None:
    """The mark of the target is handed on with its points; where they end it proves nothing any more."""
    first, kept = cleaned(here, fresh_qdrant)
    for verb, *options in (("start", "newest"), *WAY[1:]):
        assert here(verb, NEW, *options).exit_code == 0
    assert here("cleanup", NEW, "--confirm", NEW).exit_code == 0
    second = commands.find(Connection(url=fresh_qdrant.url, grpc_port=fresh_qdrant.grpc_port), NEW)
    assert names(client) == {"newest", first.marker(Side.TARGET), second.marker(Side.TARGET)}
    assert here("doctor").exit_code == 0
    if lost:
        client.delete_collection("newest")
        client.create_collection(NEW, vectors_config={})
    finals = [entry for entry in found("--yes") if entry[0] == "final snapshot"]
    assert finals[0] == ("final snapshot", kept.name, lost, False)
    assert [is_kept for _, _, is_kept, _ in finals] == [lost, lost]


def test_final_snapshot_is_found_through_a_collection_of_its_name_that_is_somebodys(
    here: Any, found: Any, client: QdrantClient, fresh_qdrant: QdrantServer
) -> None:
    """That stays, with its points and its own snapshots."""
    _, kept = cleaned(here, fresh_qdrant)
    client.create_collection(OLD, vectors_config={})
    client.upsert(OLD, [models.PointStruct(id=1, vector={}, payload={})], wait=True)
    while time.strftime("%Y-%m-%d-%H-%M-%S", time.gmtime()) in kept.name:
        time.sleep(0.05)  # snapshots are named by the second
    theirs = client.create_snapshot(OLD)
    assert theirs is not None
    assert found("--yes", "--confirm", OLD) == [("final snapshot", kept.name, False, True)]
    assert client.count(OLD).count == 1
    assert [s.name for s in client.list_snapshots(OLD)] == [theirs.name]


def test_collection_that_was_made_for_a_moment_and_never_marked_is_known_by_history(
    here: Any, found: Any, client: QdrantClient, fresh_qdrant: QdrantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only while it is empty and takes no writes: another one of that name is somebody's."""
    m, kept = cleaned(here, fresh_qdrant)

    def dies(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(wire, "change_aliases", dies)
        with pytest.raises(KeyboardInterrupt):
            commands.reclaim(Connection(url=fresh_qdrant.url), OLD, remove=True, confirm=OLD)
    assert names(client) == {NEW, OLD, m.marker(Side.TARGET)}
    assert found() == [("collection", OLD, False, False), ("final snapshot", kept.name, False, False)]
    client.delete_collection(OLD)
    client.create_collection(OLD, vectors_config={})
    assert found() == [("final snapshot", kept.name, False, False)]
    client.delete_collection(OLD)
    client.create_collection(OLD, vectors_config={}, strict_mode_config=CLOSED)
    assert found("--yes") == [("collection", OLD, False, True), ("final snapshot", kept.name, False, False)]
    assert names(client) == {NEW, m.marker(Side.TARGET)}


def test_removal_that_was_interrupted_is_completed_by_the_next(
    here: Any, found: Any, client: QdrantClient, fresh_qdrant: QdrantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The collection that was made for the moment takes no writes, is known by its mark, and goes."""
    m, kept = cleaned(here, fresh_qdrant)

    class Killed(BaseException):
        pass

    def dies(*_: Any) -> Any:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(wire, "delete_snapshot", dies)
        with pytest.raises(Killed):
            here("cleanup", "--reclaim", "--yes", "--confirm", OLD)
    assert names(client) == {NEW, OLD, f"{m.prefix}hatch", m.marker(Side.TARGET)}
    with pytest.raises(Exception, match="Limit exceeded"):
        client.upsert(OLD, [models.PointStruct(id=1, vector={}, payload={})], wait=True)
    assert found() == [("collection", OLD, False, False), ("final snapshot", kept.name, False, False)]
    assert found("--yes") == [("collection", OLD, False, True), ("final snapshot", kept.name, False, False)]
    assert kept.exists()
    assert found("--yes", "--confirm", OLD) == [("final snapshot", kept.name, False, True)]
    assert names(client) == {NEW, m.marker(Side.TARGET)}


def test_server_of_the_target_that_is_gone_is_named_as_not_looked_at(
    here: Any, found: Any, client: QdrantClient, fresh_qdrant: QdrantServer
) -> None:
    """What is on the source's server is found all the same."""
    m, kept = cleaned(here, fresh_qdrant)
    client.set_payload(CONTROL_COLLECTION, {"target_url": "http://127.0.0.1:1"}, [m.id], wait=True)
    assert found() == [
        ("server", "http://127.0.0.1:1", True, False),
        ("final snapshot", kept.name, True, False),
    ]


@pytest.mark.parametrize(
    ("options", "why"),
    [(("--reclaim", "--keep-alias"), "keeps no alias"), (("--yes",), "its name must be typed")],
)
def test_options_that_do_not_go_together_are_typed_wrong(here: Any, options: tuple[str, ...], why: str) -> None:
    """Exit code 2, one sentence, nothing asked of the server."""
    outcome = here("cleanup", OLD, *options, "--json")
    assert outcome.exit_code == 2
    assert why in json.loads(outcome.stdout)["error"]["message"]
