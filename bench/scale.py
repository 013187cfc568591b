"""How much is measured: the full run whose figures are published, and a quick one that shows the harness works."""

from __future__ import annotations

from dataclasses import dataclass, replace

PARTS = ("copy", "writes", "reads", "load", "growth")


@dataclass(frozen=True, kw_only=True)
class Scale:
    """
    Sizes of one run.

    Args:
        points: Points of the collection that is copied.
        dim: Their dimensions.
        rounds: How often each way to copy runs; the ways take turns, and medians are reported.
        turns: How often each kind of call takes its turn in the latency part.
        window_s: How long each part of the load part lasts that has no end of its own, in seconds.
        growth: Collections (points, dimensions) for the growth part.
    """

    points: int
    dim: int
    rounds: int
    turns: int
    window_s: float
    growth: tuple[tuple[int, int], ...]

    def resized(self, points: int | None, dim: int | None) -> Scale:
        """Give the same run with another collection; growth then leads up to it."""
        if points is None and dim is None:
            return self
        size, width = points or self.points, dim or self.dim
        growth = tuple((max(1, size * share // 100), width) for share in (20, 50, 100)[-len(self.growth) :])
        return replace(self, points=size, dim=width, growth=growth)


FULL = Scale(
    points=50_000,
    dim=768,
    rounds=3,
    turns=40,
    window_s=20,
    growth=((10_000, 768), (50_000, 768), (200_000, 768), (50_000, 128), (200_000, 128), (1_000_000, 128)),
)
QUICK = Scale(points=2_000, dim=768, rounds=1, turns=3, window_s=2, growth=((500, 768), (2_000, 768)))
