"""What copying and comparing by ranges have in common: how ranges are drawn, and a piece that needs no worker."""

from __future__ import annotations

from typing import TypeVar

from qferry.control import wire
from qferry.flows.effects import Flow, Outcome
from qferry.protocol.journal import PointId
from qferry.protocol.ranges import Plan, split
from qferry.protocol.records import HOME, Migration

T = TypeVar("T")
# Ids that ranges are drawn by: so many for each, and so many at most.
SAMPLE_PER_RANGE, SAMPLE_MAX = 20, 2_000


def drawn(m: Migration, parts: int) -> Flow[Plan]:
    """About equally large ranges of the source's ids, at most `parts`, going by a random sample; nothing is done."""
    sample: list[PointId] = []
    if parts > 1:
        found = yield wire.sample(HOME, m.source, min(SAMPLE_MAX, SAMPLE_PER_RANGE * parts))
        sample = [point["id"] for point in found["points"]]
    return Plan.of(split(sample, max(parts, 1)))


def carried_out_here(flow: Flow[T]) -> Flow[Outcome]:
    """A piece of work, carried out by the flow that would otherwise begin it elsewhere."""
    try:
        return Outcome((yield from flow))
    except Exception as error:  # noqa: BLE001  that is what an Outcome is for
        return Outcome(error=error)
