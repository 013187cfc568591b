"""The verbs against a real server: what they do, what they print, and what they print as JSON."""

import re
from pathlib import Path
from typing import Any

import pytest
from qdrant_client import QdrantClient, models

from qferry import FerryClient

REFERENCE = Path(__file__).parents[2] / "docs" / "cli.md"


def section(verb: str) -> str:
    """The part of the reference page that is about one verb."""
    found = re.search(rf"^## {verb}$(.*?)(?=^## |\Z)", REFERENCE.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/cli.md has no section about `{verb}`"
    return found[1]


def assert_documented(verb: str, answer: dict[str, Any]) -> None:
    """Every member of an answer is named in the verb's section, also those of objects in lists."""
    named = section(verb)
    objects = [answer, *(item for value in answer.values() if isinstance(value, list) for item in value)]
    for name in (name for item in objects if isinstance(item, dict) for name in item):
        assert f'"{name}"' in named or f"`{name}`" in named or name == "ok", f"{verb}: {name} is not documented"


def test_whole_journey_answers_as_the_reference_says(qferry: Any, source: str, target: str) -> None:
    """From plan to cleanup every verb prints one JSON object of the documented shape and leads to its phase."""
    journey = (
        ("plan", (), None),
        ("start", (), None),
        ("backfill", (), "copied"),
        ("verify", (), None),
        ("switch", ("--percent", "10"), "switched"),
        ("rollback", (), "copied"),
        ("soak", ("--seconds", "0"), "copied"),
        ("switch", ("--percent", "100"), "switched"),
        ("finish", ("--yes", "--safety-days", "0"), "finished"),
        ("cleanup", ("--confirm", source), "cleaned"),
    )
    for verb, options, phase in journey:
        outcome = qferry(verb, source, *options, "--json")
        assert (outcome.exit_code, outcome.stderr, outcome.json["ok"]) == (0, "", True), outcome
        assert_documented(verb, outcome.json)
        assert phase is None or outcome.json["phase"] == phase
    (migration,) = qferry("status", source, "--json").json["migrations"]
    assert_documented("status", migration)
    assert (migration["source_points"], migration["target_points"], migration["truth"]) == (None, 120, "target")
    history = qferry("history", source, "--json").json
    assert_documented("history", history)
    assert [line["what"] for line in history["history"]][-1] == "source deleted"
    # Its name is nobody's any more, and leads nowhere in this test.
    assert qferry("status", target, "--json").json["migrations"] == [migration]


def test_whole_journey_can_be_read_by_people(qferry: Any, source: str, target: str) -> None:
    """Without --json the verbs print sentences and tables with the names and the next command in them."""
    survey = qferry("plan")
    assert source in survey.stdout
    assert target in survey.stdout
    assert f"qferry start {source} {target}" in qferry("plan", source).stdout
    started = qferry("start", source)
    assert "every application writes to both sides" in started.stdout
    assert f"Next: qferry backfill {source}" in started.stdout
    assert "dual, copying 0 of 120" in qferry("status", source).stdout
    assert f"Next: qferry verify {source}" in qferry("backfill", source).stdout
    verified = qferry("verify", source).stdout
    assert "✓  every point" in verified
    assert f"qferry switch {source} --percent 10" in verified
    switched = qferry("switch", source, "--percent", "10").stdout
    assert f"qferry switch {source} --percent 100, or qferry rollback {source}" in switched
    status = qferry("status", source).stdout
    assert "✓ verified → ● switched 10 % → finished" in status
    assert re.search(rf"target\s+{target}\s+120\s+green\s+10 %", status)
    assert "all reads are served by" in qferry("rollback", source).stdout
    assert "dual writes begin" in qferry("history", source).stdout
    assert "is as it was" in qferry("abort", source, "--yes").stdout
    assert "● aborted" in qferry("status", source).stdout


def test_difference_is_reported_and_repaired(qferry: Any, source: str, target: str, client: QdrantClient) -> None:
    """A point that a plain client wrote fails verify with exit code 1 and its id; --repair removes it."""
    qferry("start", source)
    qferry("backfill", source)
    client.upsert(target, [models.PointStruct(id=7777, vector=[1, 2, 3, 4])], wait=True)
    found = qferry("verify", source, "--json")
    assert (found.exit_code, found.json["ok"], found.json["differing"]) == (1, False, [7777])
    repaired = qferry("verify", source, "--repair")
    assert repaired.exit_code == 0
    assert "none differ, 1 repaired" in repaired.stdout


def test_writers_are_listed_with_the_epoch_they_follow(qferry: Any, qdrant: Any, source: str) -> None:
    """A running application appears in the answer of start and in status, host, pid and acknowledgement."""
    with_key = {"api_key": qdrant.api_key} if qdrant.api_key else {}
    application = FerryClient(url=qdrant.url, check_compatibility=False, **with_key)
    try:
        application.count(source)
        (described,) = qferry("start", source, "--json").json["writers"]
        (migration,) = qferry("status", source, "--json").json["migrations"]
        (writer,) = migration["writers"]
        assert described == f"{writer['host']} pid {writer['pid']} (connected since {writer['since']})"
        assert_documented("status", writer)
        told = qferry("status", source).stdout
        assert str(writer["pid"]) in told
    finally:
        application.close()


def test_run_goes_from_wherever_it_stands_to_the_switch(qferry: Any, source: str, target: str) -> None:
    """A run takes up a migration that was begun by hand, and run again it does only what is left to do."""
    qferry("start", source)
    first = qferry("run", source, "--percent", "10", "--json")
    assert first.exit_code == 0
    assert_documented("run", first.json)
    assert [step["verb"] for step in first.json["steps"]] == ["backfill", "verify", "switch"]
    assert (first.json["phase"], first.json["read_percent"]) == ("switched", 10)
    again = qferry("run", source)
    assert again.exit_code == 0
    assert "100 % of the reads are served by the target" in again.stdout
    assert f"qferry finish {source}, or qferry rollback {source}" in again.stdout
    elsewhere = qferry("run", source, "elsewhere")
    assert elsewhere.exit_code == 1
    assert f"is on its way to `{target}`, not to `elsewhere`" in elsewhere.stderr
    qferry("rollback", source)


def test_run_ends_before_the_switch_when_sides_differ(
    qferry: Any, source: str, target: str, client: QdrantClient
) -> None:
    """A verification that fails ends the run with exit code 1, its findings, and the reads where they were."""
    qferry("start", source)
    client.upsert(target, [models.PointStruct(id=7777, vector=[1, 2, 3, 4])], wait=True)
    ran = qferry("run", source)
    assert ran.exit_code == 1
    assert "✗  verify    120 points, not passed: exact counts, every point" in ran.stdout
    assert "✗  every point" in ran.stdout
    assert "7777: extra on the target" in ran.stdout
    assert f"Next: qferry verify {source} --repair" in ran.stdout
    assert qferry("status", source, "--json").json["migrations"][0]["phase"] == "copied"


def test_run_compares_no_point_twice_where_only_searches_are_left(qferry: Any, source: str) -> None:
    """They were left out, or the target's index was not ready."""
    qferry("start", source)
    qferry("backfill", source)
    assert qferry("verify", source, "--queries", "0").exit_code == 0
    assert qferry("status", source, "--json").json["migrations"][0]["next"] == f"Run `qferry verify {source} --again`."
    ran = qferry("run", source, "--json").json
    assert [step["verb"] for step in ran["steps"]] == ["verify", "switch"]
    checks = {check["name"]: check["detail"] for check in ran["verification"]["checks"]}
    assert "of those that differed then 0 again now" in checks["every point"]
    assert "search parity" in checks
    status = qferry("status", source)
    assert "those 0 that had differed again" in status.stdout
    qferry("rollback", source)


def test_run_does_not_take_up_an_aborted_migration(qferry: Any, source: str) -> None:
    """After an abort a run begins a new migration."""
    qferry("start", source)
    qferry("abort", source, "--yes")
    ran = qferry("run", source, "--percent", "0", "--json")
    assert ran.exit_code == 0
    assert [step["verb"] for step in ran.json["steps"]] == ["start", "backfill", "verify", "switch"]
    qferry("rollback", source)


@pytest.mark.parametrize("verb", ["plan", "start"])
def test_overrides_reach_the_target(verb: str, qferry: Any, source: str, target: str, client: QdrantClient) -> None:
    """What --set names is different in the target; a plan only checks it."""
    outcome = qferry(verb, source, "--set", "hnsw_config.m=24", "--set", "on_disk_payload=false", "--json")
    assert outcome.exit_code == 0
    if verb == "start":
        config = client.get_collection(target).config
        assert (config.hnsw_config.m, config.params.on_disk_payload) == (24, False)
    else:
        assert not client.collection_exists(target)


def test_alias_as_source_is_resolved_and_said(qferry: Any, source: str, target: str, client: QdrantClient) -> None:
    """A plan of an alias is a plan of its collection, and tells so."""
    alias = f"alias-of-{source}"
    operation = models.CreateAlias(collection_name=source, alias_name=alias)
    client.update_collection_aliases([models.CreateAliasOperation(create_alias=operation)])
    assert f"`{alias}` is an alias of `{source}`." in qferry("plan", alias, target).stdout
