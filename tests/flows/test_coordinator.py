"""Tests of a coordinator's word: what is published is in force, or it says so."""

from collections.abc import Mapping
from typing import Any

import pytest
from playing import MIGRATION, Play

from qferry.errors import Conflict, Unreachable
from qferry.flows.coordinator import LANDING_S, Coordinator
from qferry.flows.effects import Call, Request, Sleep
from qferry.protocol.phases import Side

MARKED = {MIGRATION.marker(side): MIGRATION.collection(side) for side in Side}


def listed(aliases: Mapping[str, str]) -> Any:
    """Give a server's answer about its aliases."""
    return {"aliases": [{"alias_name": alias, "collection_name": name} for alias, name in aliases.items()]}


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


def test_wait_for_landing_that_is_interrupted_is_waited_for_by_the_next_command() -> None:
    """
    A was interrupted with a page under way, and so was B while it waited for that to land.

    B's own fence is all that tells C; were it dropped, C would settle what A's page then changes.
    """
    aliases = {**MARKED, "_qferry_m1-00000_fence_a": "b"}

    def answer(effect: Request | Call) -> Any:
        assert isinstance(effect, Request)
        if effect.op == "aliases":
            return listed(aliases)
        if effect.op == "change_aliases":
            for action in effect.body["actions"]:
                (change,) = action.values()
                aliases.pop(change["alias_name"], None)
                if "create_alias" in action:
                    aliases[change["alias_name"]] = change["collection_name"]
        if effect.op == "scroll":
            return {"points": [{"payload": MIGRATION.with_changes({"claim": "b"}).to_payload()}]}
        return {"status": "completed"}

    play = Play(answer)
    b = Coordinator(MIGRATION.with_changes({"claim": "b"}), "b", "b")
    flow = b.raise_fence()
    effect = next(flow)
    while not isinstance(effect, Sleep):
        effect = flow.send(play._perform(effect))
    with pytest.raises(KeyboardInterrupt):
        flow.throw(KeyboardInterrupt())
    play.run(b.release())
    assert aliases == {**MARKED, b.fence: "b"}
    c = Coordinator(MIGRATION.with_changes({"claim": "b"}), "b", "c")
    play.run(c.raise_fence())
    assert play.slept == [LANDING_S]
    play.run(c.release())
    assert aliases == MARKED


def test_own_write_is_outlasted_also_if_another_has_dropped_the_fence() -> None:
    """One that was overtaken and wakes up may drop it before it learns of that."""
    play = Play(lambda e: listed(MARKED) if e.op == "aliases" else {"points": [{"payload": MIGRATION.to_payload()}]})  # type: ignore[union-attr]
    co = Coordinator(MIGRATION, "", "me")
    co._owing = True
    play.run(co.raise_fence())
    assert play.slept == [LANDING_S]
    assert not co._owing
