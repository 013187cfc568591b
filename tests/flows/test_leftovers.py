"""Tests of the search for leftovers: whose they are, and that nothing of a live migration is among them."""

from typing import Any

from playing import Play

from qferry.flows.leftovers import find
from qferry.protocol.phases import Phase
from qferry.protocol.records import Migration


def test_migration_that_starts_meanwhile_is_not_taken_for_one_that_has_vanished() -> None:
    """Its record and its first line of history come between two questions; its journal is not left over."""
    m = Migration("m1-00000-rest", "old", "new", ("old", "new"), phase=Phase.STARTING)
    asked = 0

    def answer(request: Any) -> Any:
        nonlocal asked
        match request.op:
            case "scroll":
                asked += 1
                (condition,) = request.body["filter"]["must"]
                kinds = {"migration": m.to_payload(), "event": {"migration": m.id, "what": "announced", "details": {}}}
                found = kinds[condition["match"]["value"]]
                return {"points": [{"payload": found}] if asked > 1 else [], "next_page_offset": None}
            case "collections":
                return {"collections": [{"name": m.journal_collection}]}
            case "count":
                return {"count": 0}
        return {"aliases": []}

    assert Play(answer).run(find()) == []
    assert asked == 2
