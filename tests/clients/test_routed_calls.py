"""Tests of calls that are not writes of points, through a migration: reads, configuration, and what is refused."""

from collections.abc import Callable
from typing import Any

import pytest
from qdrant_client import QdrantClient, models
from staging import PAIRINGS, Caller, Migrating, Pairing, ask, contents, outcome_of, point, vector

from qferry import FerryClient, NotAllowed, TargetWriteFailed, commands
from qferry.connection import Connection
from qferry.protocol.records import Strategy, WritePolicy

SHARD_REQUEST = models.ReplicateShardOperation(
    replicate_shard=models.ReplicateShard(shard_id=0, to_peer_id=1, from_peer_id=2)
)
GUARDED: dict[str, dict[str, Any]] = {
    "delete_collection": {},
    "create_collection": {"vectors_config": models.VectorParams(size=8, distance=models.Distance.DOT)},
    "recreate_collection": {"vectors_config": models.VectorParams(size=8, distance=models.Distance.DOT)},
    "recover_snapshot": {"location": "file:///nowhere"},
    "recover_shard_snapshot": {"shard_id": 0, "location": "file:///nowhere"},
    "create_shard_key": {"shard_key": "k"},
    "delete_shard_key": {"shard_key": "k"},
    "cluster_collection_update": {"cluster_operation": SHARD_REQUEST},
}


def with_alias(migrating: Migrating) -> str:
    """Give the source an alias before its migration begins; returns it."""
    alias = f"{migrating.source}-alias"
    migrating.plain.update_collection_aliases([alias_for(migrating.source, alias)])
    return alias


def alias_for(collection: str, alias: str) -> models.CreateAliasOperation:
    """Return the operation that creates an alias."""
    return models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name=collection, alias_name=alias))


def make_sides_differ(migrating: Migrating) -> None:
    """Let point 1 say on which side it was read."""
    for side, name in (("source", migrating.source), ("target", migrating.target)):
        migrating.plain.set_payload(name, {"side": side}, [1])


def side_read(client: Any, name: str) -> str:
    """Return the side that a read of `name` comes from."""
    side: str = client.retrieve(name, [1])[0].payload["side"]
    return side


@pytest.mark.parametrize("pairing", PAIRINGS, ids=str)
def test_every_read_answers_by_either_name_and_by_alias(
    migrating: Migrating, open_ferry: Callable[..., Caller], pairing: Pairing
) -> None:
    """While nothing has been copied yet, whatever name a reader uses, it sees the source."""
    alias = with_alias(migrating)
    migrating.start()
    caller = open_ferry(pairing)
    for name in (migrating.source, migrating.target, alias):
        assert caller.call("get_collection", name).points_count == 60
        assert caller.call("collection_exists", name)
        assert caller.call("count", name).count == 60
        assert len(caller.call("retrieve", name, [1, 2])) == 2
        assert len(caller.call("scroll", name, limit=5)[0]) == 5
        assert len(caller.call("query_points", name, query=vector(1), limit=3).points) == 3
        assert len(caller.call("query_batch_points", name, [models.QueryRequest(query=vector(1), limit=2)])) == 1
        assert caller.call("query_points_groups", name, "group", query=vector(1), limit=2, group_size=1).groups
        assert caller.call("search_matrix_pairs", name, sample=3, limit=2).pairs


def test_write_by_alias_reaches_both_sides(migrating: Migrating, ferry: FerryClient) -> None:
    """An application that uses an alias is as safe as one that uses the name."""
    alias = with_alias(migrating)
    migrating.backfill()
    ferry.upsert(alias, [point(1, new=True)])
    ferry.delete(alias, [2])
    source, target = migrating.sides()
    assert source == target
    assert source[1][0]["new"] is True
    assert 2 not in source


def test_alias_leads_to_the_target_after_finish(migrating: Migrating, ferry: FerryClient, plain: QdrantClient) -> None:
    """Both for qferry's clients and, moved on the server, for all others."""
    alias = with_alias(migrating)
    migrating.finish()
    ferry.upsert(alias, [point(1000)])
    assert 1000 in contents(plain, migrating.target)
    assert 1000 not in contents(plain, migrating.source)
    assert [p.id for p in plain.retrieve(alias, [1000])] == [1000]


def test_reads_follow_the_share(migrating: Migrating, ferry: FerryClient) -> None:
    """A share of 30 % sends a read to the target when the dice show less than 30."""
    migrating.switch(30)
    make_sides_differ(migrating)
    seen = []
    for dice in (0.0, 0.299, 0.3, 0.9):
        ferry._session.random = lambda dice=dice: dice
        seen.append(side_read(ferry, migrating.source))
    assert seen == ["target", "target", "source", "source"]


def test_reads_go_back_with_a_rollback(migrating: Migrating, ferry: FerryClient) -> None:
    """One command, and every read is on the source again."""
    migrating.switch()
    make_sides_differ(migrating)
    assert side_read(ferry, migrating.source) == "target"
    commands.rollback(migrating.connection, migrating.source)
    assert side_read(ferry, migrating.source) == "source"


@pytest.mark.parametrize("pairing", PAIRINGS, ids=str)
def test_read_that_fails_on_the_target_is_answered_by_the_source(
    migrating: Migrating, open_ferry: Callable[..., Caller], pairing: Pairing
) -> None:
    """No read fails because of the migration."""
    caller = open_ferry(pairing)
    migrating.switch()
    migrating.plain.delete_collection(migrating.target)
    assert caller.call("count", migrating.source).count == 60


def test_read_that_fails_on_both_sides_raises_the_source_s_error(migrating: Migrating, ferry: FerryClient) -> None:
    """The caller's own mistake looks like it does without qferry."""
    migrating.switch()
    expected = outcome_of(lambda: migrating.plain.query_points(migrating.source, query=[1.0]))
    assert outcome_of(lambda: ferry.query_points(migrating.source, query=[1.0])) == expected


@pytest.mark.parametrize("pairing", PAIRINGS, ids=str)
def test_payload_index_is_created_and_deleted_on_both_sides(
    migrating: Migrating, open_ferry: Callable[..., Caller], pairing: Pairing
) -> None:
    """An index that only one side had would make the switch slow, or fail filters in strict mode."""
    caller = open_ferry(pairing)
    migrating.backfill()
    schema = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
    caller.call("create_payload_index", migrating.source, "group", schema)
    caller.call("create_payload_index", migrating.target, "n", models.PayloadSchemaType.INTEGER)
    for name in (migrating.source, migrating.target):
        assert set(migrating.plain.get_collection(name).payload_schema) == {"group", "n"}
    caller.call("delete_payload_index", migrating.source, "n")
    for name in (migrating.source, migrating.target):
        assert set(migrating.plain.get_collection(name).payload_schema) == {"group"}
    assert migrating.verify().passed


@pytest.mark.parametrize("pairing", PAIRINGS, ids=str)
def test_configuration_is_updated_on_both_sides(
    migrating: Migrating, open_ferry: Callable[..., Caller], pairing: Pairing
) -> None:
    """What an application tunes while it migrates is tuned on the other side, too."""
    caller = open_ferry(pairing)
    migrating.backfill()
    caller.call(
        "update_collection", migrating.source, optimizers_config=models.OptimizersConfigDiff(indexing_threshold=7)
    )
    for name in (migrating.source, migrating.target):
        assert migrating.plain.get_collection(name).config.optimizer_config.indexing_threshold == 7
    assert migrating.verify().passed


def test_configuration_reaches_the_target_alone_after_finish(migrating: Migrating, ferry: FerryClient) -> None:
    """The source stays as it was left."""
    migrating.finish()
    ferry.create_payload_index(migrating.source, "n", models.PayloadSchemaType.INTEGER)
    assert migrating.plain.get_collection(migrating.source).payload_schema == {}
    assert set(migrating.plain.get_collection(migrating.target).payload_schema) == {"n"}


def test_configuration_that_only_the_source_takes_is_told(migrating: Migrating, ferry: FerryClient) -> None:
    """An operator must know that the two have come apart."""
    migrating.backfill()
    migrating.plain.delete_collection(migrating.target)
    with pytest.raises(TargetWriteFailed, match=r"The source has the change, the target .+ has not") as failed:
        ferry.create_payload_index(migrating.source, "n", models.PayloadSchemaType.INTEGER)
    assert failed.value.fields["side"] == "target"


def test_configuration_that_the_source_refuses_raises_its_error(migrating: Migrating, ferry: FerryClient) -> None:
    """The caller's own mistake looks like it does without qferry."""
    migrating.backfill()
    wrong = models.PayloadSchemaType.INTEGER
    expected = outcome_of(lambda: migrating.plain.create_payload_index(migrating.source, "", wrong))
    assert outcome_of(lambda: ferry.create_payload_index(migrating.source, "", wrong)) == expected


def test_write_that_the_target_misses_fails_and_stays_in_the_journal(migrating: Migrating, ferry: FerryClient) -> None:
    """Policy `both`: the caller is told which side holds what, and repeating is safe."""
    migrating.backfill()
    migrating.plain.delete_collection(migrating.target)
    with pytest.raises(TargetWriteFailed, match=r"The source .+ has the write, the target .+ may not") as failed:
        ferry.upsert(migrating.source, [point(1, new=True)])
    assert failed.value.point_ids == [1]
    assert migrating.plain.retrieve(migrating.source, [1])[0].payload["new"] is True
    ferry.close()
    assert 1 in migrating.journal()


def test_write_that_the_target_misses_succeeds_with_policy_source_first(
    migrating: Migrating, ferry: FerryClient, connection: Connection
) -> None:
    """A sick target does not take the application down; the ids are durable before the caller hears of success."""
    commands.start(
        connection,
        migrating.source,
        migrating.target,
        policy=WritePolicy.SOURCE_FIRST,
        strategy=Strategy.STREAM,
    )
    ferry.count(migrating.source)
    migrating.plain.delete_collection(migrating.target)
    with ferry._beating:  # no heartbeat: it is the call itself that makes the id durable
        result = ferry.upsert(migrating.source, [point(1, new=True)])
        assert 1 in migrating.journal()
    assert result.status == models.UpdateStatus.COMPLETED


def test_write_with_a_shard_key_is_refused_while_a_migration_journals(migrating: Migrating, ferry: FerryClient) -> None:
    """Points of different shard keys may share an id, which the journal could not tell apart."""
    migrating.start()
    with pytest.raises(NotAllowed, match="Writes with shard keys are not supported while a migration lives"):
        ferry.upsert(migrating.source, [point(1)], shard_key_selector="k")


def test_write_is_waited_for_while_a_migration_journals(migrating: Migrating, ferry: FerryClient) -> None:
    """`wait=False` would leave it open when the write has ended, and only an ended write can be checked."""
    migrating.backfill()
    result = ferry.upsert(migrating.source, [point(1, new=True)], wait=False)
    assert result.status == models.UpdateStatus.COMPLETED
    source, target = migrating.sides()
    assert source == target


def test_write_without_a_migration_is_not_waited_for_unless_asked(ferry: FerryClient, collection: str) -> None:
    """Without a migration nothing about a call changes."""
    result = ferry.upsert(collection, [point(1, new=True)], wait=False)
    assert result.status == models.UpdateStatus.ACKNOWLEDGED


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("pairing", PAIRINGS, ids=str)
def test_call_that_would_pull_the_collection_away_is_refused(
    migrating: Migrating, open_ferry: Callable[..., Caller], pairing: Pairing
) -> None:
    """By any of the migration's names, with the reason and the way out; nothing is sent."""
    alias = with_alias(migrating)
    migrating.start()
    caller = open_ferry(pairing)
    for method, arguments in GUARDED.items():
        for name in (migrating.source, migrating.target, alias):
            with pytest.raises(
                NotAllowed, match=f"`{method}` is refused: `{name}` belongs to the migration"
            ) as refused:
                caller.call(method, name, **arguments)
            assert "copying" in refused.value.message
            assert "qferry abort" in refused.value.hint
    assert len(migrating.sides()[0]) == 60


def test_call_that_would_pull_the_collection_away_is_allowed_after_abort(
    migrating: Migrating, ferry: FerryClient
) -> None:
    """When the migration is over, the collection is the application's again."""
    migrating.start()
    ferry.count(migrating.source)
    migrating.abort()
    assert ferry.delete_collection(migrating.source)
    assert not ferry.collection_exists(migrating.source)
    assert ferry.create_collection(
        migrating.source, vectors_config=models.VectorParams(size=8, distance=models.Distance.DOT)
    )


def test_call_that_concerns_another_collection_is_allowed(
    migrating: Migrating, ferry: FerryClient, collection_name: str
) -> None:
    """A migration has its own two collections in hand, and no other."""
    migrating.start()
    other = f"{collection_name}-other"
    assert ferry.create_collection(other, vectors_config=models.VectorParams(size=8, distance=models.Distance.DOT))
    assert ferry.delete_collection(other)


@pytest.mark.parametrize("pairing", PAIRINGS, ids=str)
def test_alias_operation_on_a_migrating_collection_is_refused(
    migrating: Migrating, open_ferry: Callable[..., Caller], pairing: Pairing
) -> None:
    """Creating, deleting or renaming an alias would change which calls the migration sees."""
    alias = with_alias(migrating)
    migrating.start()
    caller = open_ferry(pairing)
    operations = [
        alias_for(migrating.source, "fresh"),
        alias_for(migrating.target, "fresh"),
        models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias)),
        models.RenameAliasOperation(rename_alias=models.RenameAlias(old_alias_name=alias, new_alias_name="fresh")),
    ]
    for operation in operations:
        with pytest.raises(NotAllowed, match=r"`update_collection_aliases` is refused: .+ belongs to the migration"):
            caller.call("update_collection_aliases", [operation])
    assert [a.alias_name for a in migrating.plain.get_aliases().aliases if a.alias_name == "fresh"] == []


def test_alias_operation_is_allowed_after_abort(migrating: Migrating, ferry: FerryClient) -> None:
    """When the migration is over, its names are the application's again."""
    migrating.start()
    ferry.count(migrating.source)
    migrating.abort()
    alias = f"{migrating.source}-late"
    assert ferry.update_collection_aliases([alias_for(migrating.source, alias)])
    assert ferry.count(alias).count == 60


def test_alias_operation_on_another_collection_is_allowed(
    migrating: Migrating, ferry: FerryClient, plain: QdrantClient, collection_name: str
) -> None:
    """Aliases of other collections are none of the migration's business."""
    migrating.start()
    other = f"{collection_name}-other"
    plain.create_collection(other, vectors_config=models.VectorParams(size=8, distance=models.Distance.DOT))
    assert ferry.update_collection_aliases([alias_for(other, f"{other}-alias")])


def test_snapshot_is_taken_of_the_side_that_is_truth(migrating: Migrating, ferry: FerryClient) -> None:
    """By whatever name it is asked for, a backup holds everything."""
    migrating.start()
    ferry.create_snapshot(migrating.target)
    assert len(ferry.list_snapshots(migrating.target)) == 1
    assert len(ask(migrating.plain, "GET", f"/collections/{migrating.source}/snapshots")) == 1
    assert ask(migrating.plain, "GET", f"/collections/{migrating.target}/snapshots") == []


def test_abort_returns_the_application_to_the_source(migrating: Migrating, ferry: FerryClient) -> None:
    """Writes go on without a pause, to the source alone, as if nothing had been."""
    migrating.backfill()
    ferry.upsert(migrating.source, [point(1000)])
    migrating.abort()
    ferry.upsert(migrating.source, [point(1001)])
    assert {1000, 1001} <= contents(migrating.plain, migrating.source).keys()
    assert not migrating.plain.collection_exists(migrating.target)
    assert ferry._session.journals == {}


def test_collection_that_does_not_exist_raises_what_it_raises_without_qferry(
    ferry: FerryClient, plain: QdrantClient
) -> None:
    """A mistake in a name is not qferry's to explain."""
    for call in (lambda c: c.upsert("nowhere", [point(1)]), lambda c: c.count("nowhere")):
        assert outcome_of(lambda: call(ferry)) == outcome_of(lambda: call(plain)) == "UnexpectedResponse 404"  # noqa: B023  called at once
