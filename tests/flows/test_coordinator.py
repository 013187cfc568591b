"""Tests of a coordinator's word: what is published is in force, or it says so."""

from typing import Any

import pytest
from playing import MIGRATION, Play

from qferry.errors import Conflict, Unreachable
from qferry.flows.coordinator import Coordinator
from qferry.flows.effects import Call, Request


def reading(record: dict[str, Any]) -> Play:
    """Let the record be what it is, whatever is written to it."""

    def answer(effect: Request | Call) -> Any:
        if isinstance(effect, Request) and effect.op == "scroll":
            return {"points": [{"id": MIGRATION.id, "payload": record}], "next_page_offset": None}
        return {"status": "completed"}

    return Play(answer)


def test_change_that_is_not_in_force_is_not_waited_for() -> None:
    """
    A server may accept a change and carry it out later.

    `abort` then waited for acknowledgements of the epoch it found, which all writers had given long ago, and deleted
    the target while they wrote to both sides.
    """
    mine = MIGRATION.with_changes({"claim": "token"})
    with pytest.raises(Unreachable, match="not carried it out yet"):
        reading(mine.to_payload()).run(Coordinator(mine, "token", "operator").publish({}, "roll call"))


def test_change_without_the_claim_is_a_conflict() -> None:
    """Somebody has taken the migration over; nothing was changed."""
    theirs = MIGRATION.with_changes({"claim": "another", "epoch": 9})
    with pytest.raises(Conflict):
        reading(theirs.to_payload()).run(Coordinator(MIGRATION, "token", "operator").publish({}, "roll call"))
