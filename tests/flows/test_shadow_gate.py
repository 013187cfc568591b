"""Tests of the gate that shadow reads are: how many must have been compared, and who may do without."""

from typing import Any

import pytest
from playing import MIGRATION, Play

from qferry.errors import Refused
from qferry.flows.effects import Call, Request
from qferry.flows.lifecycle import require_good_shadows
from qferry.protocol.phases import Phase
from qferry.protocol.records import Pins, Writer
from qferry.protocol.shadow import COMPARED_MIN, Totals

SHADOWED = MIGRATION.with_changes(
    {"phase": Phase.SWITCHED, "read_percent": 10, "shadow_percent": 5.0, "shadow_since": 3}
)
GOOD = Totals(3, compared=COMPARED_MIN, overlap=float(COMPARED_MIN))
BAD = Totals(3, compared=100, overlap=21.0)


def reporting(*found: Totals) -> Play:
    """Let one writer after the other have found this."""
    written = [
        Writer(f"w{n}", "host", n, "now", 1, {}, {}, {}, pins=Pins(), shadow={SHADOWED.id: totals.plain()}).to_payload()
        for n, totals in enumerate(found)
    ]

    def answer(effect: Request | Call) -> Any:
        assert isinstance(effect, Request)
        assert effect.op == "scroll"
        return {"points": [{"payload": payload} for payload in written], "next_page_offset": None}

    return Play(answer)


@pytest.mark.parametrize(
    "found", [(), (Totals(3, compared=COMPARED_MIN - 1, overlap=19.0),), (Totals(2, compared=99),)]
)
def test_too_few_comparisons_are_no_evidence(found: tuple[Totals, ...]) -> None:
    """A process that had found the answers to differ may have ended, and taken that along."""
    with pytest.raises(Refused, match=rf"Too few shadow reads .*: (0|19) of {COMPARED_MIN}\.") as refused:
        reporting(*found).run(require_good_shadows(SHADOWED))
    assert "`qferry switch --percent 10 --shadow 0`" in refused.value.hint


def test_enough_comparisons_that_agree_are() -> None:
    """Of all processes together; failed ones are counted among them."""
    half = Totals(3, compared=COMPARED_MIN // 2, overlap=COMPARED_MIN / 2)
    for found in ((GOOD,), (half, half)):
        reporting(*found).run(require_good_shadows(SHADOWED))
    with pytest.raises(Refused, match="have failed"):
        reporting(Totals(3, errors=COMPARED_MIN)).run(require_good_shadows(SHADOWED))


@pytest.mark.parametrize("found", [(), (BAD,)], ids=["none", "bad"])
def test_whoever_does_without_shadow_reads_is_not_held_up_by_them(found: tuple[Totals, ...]) -> None:
    """That is what the refusals tell to do; asking for another share is no way around the gate."""
    play = reporting(*found)
    play.run(require_good_shadows(SHADOWED, 0.0))
    play.run(require_good_shadows(SHADOWED.with_changes({"shadow_percent": 0.0}), 5.0))
    assert play.sent == []
    with pytest.raises(Refused):
        play.run(require_good_shadows(SHADOWED, 50.0))
