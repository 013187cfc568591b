"""Where a migration stands, told also while a server cannot say everything."""

from typing import Any

import pytest
from playing import MIGRATION, Play

from qferry import commands
from qferry.errors import Rejected, RemoteFailure, Unreachable
from qferry.flows.effects import Call, Request
from qferry.naming import CollectionNaming
from qferry.protocol.phases import Phase

SHARDS_GONE = Rejected("Local shard 0 not found.", status=500)


def answered(effect: Request | Call) -> Any:
    """The answers of servers of which the target's has no shards just now."""
    assert isinstance(effect, Request)
    if effect.op == "count":
        return SHARDS_GONE if effect.path == f"/collections/{MIGRATION.target}/points/count" else {"count": 7}
    return {"points": [], "next_page_offset": None, "status": "green"}


def test_a_target_that_a_snapshot_is_taking_the_place_of_has_no_count() -> None:
    """For that moment the server answers 500; whoever watches is told the rest."""
    found = Play(answered).run(
        commands._status_of(MIGRATION.with_changes({"phase": Phase.CAPTURING}), CollectionNaming(), {})
    )
    assert (found.source_points, found.target_points, found.target_status) == (7, None, None)


def test_a_server_that_fails_is_not_passed_over() -> None:
    """At any other time it is an error."""
    with pytest.raises(Rejected, match="Local shard"):
        Play(answered).run(commands._status_of(MIGRATION, CollectionNaming(), {}))


@pytest.mark.parametrize(
    ("failure", "silent"),
    [(Unreachable("It gave no answer."), True), (Rejected("It has no room.", status=500), False)],
)
def test_a_target_whose_server_is_dead_takes_nothing_else_away(failure: RemoteFailure, *, silent: bool) -> None:
    """It is waited for a little, once in a look however many migrations go there, and the reason is told."""

    def target_dead(effect: Request | Call) -> Any:
        assert isinstance(effect, Request)
        if effect.server:
            assert effect.timeout_s is not None
            return failure
        return answered(effect)

    m, play, known = MIGRATION.with_changes({"target_url": "http://other:6333"}), Play(target_dead), {}
    for _ in range(2):
        found = play.run(commands._status_of(m, CollectionNaming(), known))
        assert (found.source_points, found.target_points, found.target_status) == (7, None, None)
        assert found.target_failure == failure.message
        assert not any("is gone" in metric.proof for metric in found.checklist)
    assert sum(bool(effect.server) for effect in play.sent) == (1 if silent else 2)


def test_the_target_of_an_aborted_migration_is_not_asked_for() -> None:
    """It is removed, and its server may be as well."""
    m = MIGRATION.with_changes({"target_url": "http://other:6333", "phase": Phase.ABORTED})
    play = Play(answered)
    assert play.run(commands._status_of(m, CollectionNaming(), {})).target_failure == ""
    assert not any(effect.server for effect in play.sent)
