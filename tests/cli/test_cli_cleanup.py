"""`qferry cleanup` against a real server: what keeps it from deleting, and what is left when it has deleted."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from qdrant_client import QdrantClient, models

from qferry import FerryClient


@pytest.fixture
def finished(qferry: Any, source: str) -> str:
    """Give a migration that is over; its safety period too."""
    for verb, *options in (
        ("start",),
        ("backfill",),
        ("verify",),
        ("switch", "--percent", "100"),
        ("finish", "--yes", "--safety-days", "0"),
    ):
        assert qferry(verb, source, *options).exit_code == 0
    return source


@pytest.fixture
def application(qdrant: Any, finished: str) -> Iterator[FerryClient]:
    """Give an application that still calls the collection by its old name."""
    client = FerryClient(url=qdrant.url, api_key=qdrant.api_key, check_compatibility=False)
    client.count(finished)
    yield client
    client.close()


def refused(qferry: Any, client: QdrantClient, source: str, why: str) -> None:
    """Assert that cleanup says why not, in one sentence, and leaves everything alone."""
    before = client.count(source).count
    outcome = qferry("cleanup", source, "--confirm", source)
    assert outcome.exit_code == 1
    assert why in outcome.stderr
    assert client.count(source).count == before
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
    before = qferry("history", finished, "--json").json
    refused(qferry, client, finished, f"`{finished}` may be all that is left")
    client.create_collection(target, vectors_config={})
    refused(qferry, client, finished, f"`{finished}` may be all that is left")
    assert qferry("history", finished, "--json").json == before
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
