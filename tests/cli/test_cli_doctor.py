"""`qferry doctor` against a real server."""

from collections.abc import Callable
from typing import Any

import pytest
from qdrant_client import QdrantClient, models
from test_cli_journey import assert_documented

from qferry import FerryClient, FerryOptions, commands
from qferry.connection import Connection
from qferry.protocol.records import CONTROL_COLLECTION


@pytest.fixture
def connection(qdrant: Any) -> Connection:
    """Give what the commands need to reach the shared server."""
    return Connection(url=qdrant.url, api_key=qdrant.api_key, grpc_port=qdrant.grpc_port)


@pytest.fixture
def found(qferry: Any, source: str) -> Callable[[], tuple[int, list[tuple[str, bool]]]]:
    """Give what examines the migration: the exit code, and what was found."""

    def examine() -> tuple[int, list[tuple[str, bool]]]:
        outcome = qferry("doctor", source, "--json")
        assert outcome.json["ok"] is (outcome.exit_code == 0)
        assert outcome.json["migrations"] == 1
        return outcome.exit_code, [(f["topic"], f["problem"]) for f in outcome.json["findings"]]

    return examine


def test_migration_on_its_way_needs_nobody(qferry: Any, source: str, target: str, found: Any) -> None:
    """Exit code 0 from the start to the end, with notes or without; nothing is changed."""
    qferry("start", source)
    assert found() == (0, [])
    assert qferry("doctor", source).stdout == "✓ Nothing is wrong with 1 migration(s).\n"
    qferry("backfill", source)
    assert found() == (0, [("evidence", False)])
    said = qferry("doctor", source).stdout
    assert f"{source} → {target}\n· Nothing proves that the target equals the source.\n" in said
    assert f"  Run `qferry verify {source}`.\nNothing that needs you.\n" in said
    qferry("verify", source)
    qferry("switch", source, "--percent", "100")
    before = qferry("status", source, "--json").json, qferry("history", source, "--json").json
    assert found() == (0, [])
    assert (qferry("status", source, "--json").json, qferry("history", source, "--json").json) == before
    qferry("finish", source, "--yes", "--safety-days", "0")
    assert found() == (0, [("cleanup", False)])
    qferry("cleanup", source, "--confirm", source)
    assert found() == (0, [])


def test_what_needs_somebody_is_a_problem(
    qferry: Any, connection: Connection, source: str, client: QdrantClient, found: Any
) -> None:
    """A suspicion, an alias that clients do not know, and a target that is gone: exit code 1, and what mends it."""
    qferry("start", source)
    qferry("backfill", source)
    qferry("verify", source)
    m = commands.find(connection, source)
    client.set_payload(CONTROL_COLLECTION, {"suspicions": ["web pid 9 vanished"], "verified": None}, [m.id], wait=True)
    alias = f"alias-of-{source}"
    operation = models.CreateAlias(collection_name=source, alias_name=alias)
    client.update_collection_aliases([models.CreateAliasOperation(create_alias=operation)])
    assert found() == (1, [("suspicion", True), ("evidence", True)])
    outcome = qferry("doctor", source, "--json")
    assert_documented("doctor", outcome.json)
    assert f"`qferry verify {source} --repair`" in outcome.json["findings"][0]["mend"]
    said = qferry("doctor", source)
    assert said.exit_code == 1
    assert "✗ Points may differ that no journal names: web pid 9 vanished.\n" in said.stdout
    assert said.stdout.endswith("2 problem(s)\n")
    client.update_collection_aliases([models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))])
    assert qferry("verify", source, "--repair").exit_code == 0
    assert found() == (0, [])
    client.delete_collection(m.target)
    assert found() == (1, [("collection", True)])
    assert qferry("abort", source, "--yes").exit_code == 0
    assert found() == (0, [])


def test_what_an_interrupted_finish_has_left_is_mended_by_what_doctor_says(
    qferry: Any, connection: Connection, source: str, target: str, client: QdrantClient, found: Any
) -> None:
    """A closed door for missing points before the point of no return, aliases of the source after it."""
    for verb, *options in (("start",), ("backfill",), ("verify",), ("switch", "--percent", "100")):
        assert qferry(verb, source, *options).exit_code == 0
    door = models.DeleteAlias(alias_name=commands.find(connection, source).mend)
    client.update_collection_aliases([models.DeleteAliasOperation(delete_alias=door)])
    assert found() == (1, [("writes", True)])
    assert qferry("soak", source, "--seconds", "0").exit_code == 0
    assert found() == (0, [])
    assert qferry("finish", source, "--yes").exit_code == 0
    alias = models.CreateAlias(collection_name=source, alias_name=f"alias-of-{source}")
    client.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])
    assert found() == (1, [("alias", True)])
    assert qferry("finish", source, "--yes").exit_code == 0
    assert found() == (0, [])
    assert alias.alias_name in [a.alias_name for a in client.get_collection_aliases(target).aliases]


def test_process_that_is_kept_from_the_target_is_named(qferry: Any, qdrant: Any, source: str, found: Any) -> None:
    """Its flag bars the switch, so somebody has to restart it."""
    key = {"api_key": qdrant.api_key} if qdrant.api_key else {}
    options = FerryOptions(dual_write=False, heartbeat_s=0.2)
    application = FerryClient(url=qdrant.url, check_compatibility=False, ferry=options, **key)
    try:
        for verb in ("start", "backfill", "verify"):
            assert qferry(verb, source).exit_code == 0
        application.count(source)  # one that makes no calls is on no list until the first migration of its server
        assert found() == (1, [("pin", True)])
    finally:
        application.close()
    assert found() == (0, [])


def test_what_an_aborted_migration_has_left_is_named(
    qferry: Any, connection: Connection, source: str, client: QdrantClient, found: Any
) -> None:
    """It is named, with the command that removes it, until it is gone."""
    qferry("start", source)
    m = commands.find(connection, source)
    qferry("abort", source, "--yes")
    assert found() == (0, [])
    client.create_collection(m.journal_collection, vectors_config={})
    try:
        assert found() == (1, [("leftover", True)])
        assert f"`qferry cleanup {source} --reclaim --yes`" in qferry("doctor", source).stdout
        assert qferry("cleanup", source, "--reclaim", "--yes").exit_code == 0
    finally:
        client.delete_collection(m.journal_collection)
    assert found() == (0, [])


def test_server_without_migrations_is_healthy(qferry: Any, fresh_qdrant: Any) -> None:
    """There is nothing to find before the first start, and nothing is made."""
    outcome = qferry("doctor", "--url", fresh_qdrant.url, "--json")
    assert outcome.json == {"ok": True, "migrations": 0, "findings": []}
    assert "No migration is recorded" in qferry("doctor", "--url", fresh_qdrant.url).stdout
