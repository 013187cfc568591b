"""Where a migration stands, told also while a server cannot say everything."""

from typing import Any

import pytest
from playing import MIGRATION, Play

from qferry import commands
from qferry.errors import Rejected
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
        commands._status_of(MIGRATION.with_changes({"phase": Phase.CAPTURING}), CollectionNaming())
    )
    assert (found.source_points, found.target_points, found.target_status) == (7, None, None)


def test_a_server_that_fails_is_not_passed_over() -> None:
    """At any other time it is an error."""
    with pytest.raises(Rejected, match="Local shard"):
        Play(answered).run(commands._status_of(MIGRATION, CollectionNaming()))
