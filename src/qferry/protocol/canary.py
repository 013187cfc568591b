"""
Who is served by the target, and when readers go back to the source by themselves.

While a share of the reads is on the target and the source is still the truth, each client watches its own reads there.
A target that fails them, or takes too long, loses its readers (docs/adr/0018).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from hashlib import blake2b
from math import isfinite
from typing import Any

# Reads of the last so many seconds are looked at, and of those at most so many.
WINDOW_S = 5.0
READS_MAX = 2_000
# One bad read is an accident; two among the reads of a few seconds are not, if their share is too large.
BAD_MIN = 2
# The latency that must not be exceeded is the 95th percentile: so many reads may take longer.
SLOW_PERCENT = 5.0
# A target that has said nothing for so long, while reads have waited, does not answer; with a limit of latency, for as
# long as that, but this much at least.  With a heartbeat before it is seen, and another one until all readers are back,
# this makes less than five seconds.
SILENCE_S, SILENCE_MIN_S = 2.0, 1.0
ALL_PERCENT = 100.0
_PLACES = 1 << 64


def place_of(migration_id: str, key: str) -> float:
    """Where a caller stands between 0 and 100, always the same; the target serves those who are below its share."""
    digest = blake2b(f"{migration_id} {key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / _PLACES * ALL_PERCENT


@dataclass(frozen=True)
class Tolerance:
    """
    What readers put up with on the target.

    Args:
        max_errors_percent: Reads that may fail, in per cent; 100: all of them.
        max_ms: What 95 of 100 reads may take, in milliseconds; 0: no limit.
    """

    max_errors_percent: float = 5.0
    max_ms: float = 0.0

    @classmethod
    def checked(cls, changes: Mapping[str, Any]) -> dict[str, float]:
        """
        Those limits as they are stored.

        Raises:
            ValueError: One is none, or out of range.
        """
        given = {name: changes[name] for name in (f.name for f in fields(cls)) if changes.get(name) is not None}
        for name, value in given.items():
            most = ALL_PERCENT if name == "max_errors_percent" else float("inf")
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value):
                raise ValueError(f"{name} is {value!r}, which is no number")
            if not 0 <= value <= most:
                raise ValueError(f"{name} is {value:g}, which is not between 0 and {most:g}")
        return {f"canary_{name}": float(value) for name, value in given.items()}


@dataclass
class Watch:
    """One client's reads on the target of one migration, as far as they matter just now."""

    ended: deque[tuple[float, float, bool]] = field(default_factory=lambda: deque(maxlen=READS_MAX))
    given_up: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=READS_MAX))
    under_way: dict[int, float] = field(default_factory=dict)  # number -> when it began
    silent_s: float = 0.0  # for how long reads have waited since the target was heard last, given up since or not
    looked_at: float = float("-inf")  # up to when that is counted
    begun: int = 0
    since: float = float("-inf")  # what began before does not count

    def begin(self, now: float) -> int:
        """A read goes to the target; returns the number to end it by."""
        self._wait(now)
        self.begun += 1
        self.under_way[self.begun] = now
        return self.begun

    def end(self, number: int, now: float, *, answered: bool, heard: bool) -> None:
        """
        It has ended.

        Args:
            number: By which it is known.
            now: When.
            answered: Whether it has its answer; if not, whose fault that is is known when the source has been asked
                (`fail`).
            heard: Whether the target has said anything, be it an error; not, if the caller has given the read up.
        """
        self._wait(now)
        began = self.under_way.pop(number, None)
        if began is None:
            return
        if heard:
            self.silent_s = 0.0
        else:
            self.given_up.append((now, now - began))
        if answered:
            self.ended.append((now, now - began, False))

    def _wait(self, now: float) -> None:
        if self.under_way:
            self.silent_s += max(0.0, now - self.looked_at)
        self.looked_at = max(now, self.looked_at)

    def fail(self, now: float, *, began: float) -> None:
        """A read has failed that the source has answered: it is the target that cannot, or could not when it began."""
        if began >= self.since:
            self.ended.append((now, 0.0, True))

    def forget(self, now: float) -> None:
        """Whatever was seen counts no more, nor does what becomes of reads that have begun by now."""
        self.since = now
        self.ended.clear()
        self.given_up.clear()
        self.under_way.clear()
        self.silent_s = 0.0

    def resume(self, now: float) -> None:
        """The process has stood still: nothing that was seen counts, and what is under way begins now."""
        under_way = self.under_way.copy()
        self.forget(now)
        self.under_way.update(dict.fromkeys(under_way, now))
        self.looked_at = now

    def verdict(self, now: float, tolerance: Tolerance) -> str:
        """What is wrong with the target, in words; empty: nothing that is not put up with."""
        self._wait(now)
        for past in (self.ended, self.given_up):
            while past and past[0][0] <= now - WINDOW_S:
                past.popleft()
        if tolerance.max_errors_percent >= ALL_PERCENT and not tolerance.max_ms:
            return ""
        return self._failing(tolerance) or self._slow(now, tolerance) or self._silent(tolerance)

    def _failing(self, tolerance: Tolerance) -> str:
        failed, reads = sum(bad for _, _, bad in self.ended), len(self.ended)
        if not _too_many(failed, reads, tolerance.max_errors_percent):
            return ""
        share = f"{failed / reads:.0%}, allowed {tolerance.max_errors_percent:g} %"
        return f"{failed} of its {reads} reads on the target within {WINDOW_S:.0f} s have failed ({share})"

    def _slow(self, now: float, tolerance: Tolerance) -> str:
        if not tolerance.max_ms:
            return ""
        limit_s = tolerance.max_ms / 1000
        # One that is still under way, or was given up, has taken its age at least; a young one tells nothing.
        ages = [*(now - began for began in self.under_way.values()), *(seconds for _, seconds in self.given_up)]
        waiting = [seconds for seconds in ages if seconds > limit_s]
        taken = sorted([*(seconds for _, seconds, bad in self.ended if not bad), *waiting])
        slow = sum(seconds > limit_s for seconds in taken)
        if not _too_many(slow, len(taken), SLOW_PERCENT):
            return ""
        p95_ms = taken[-1 - len(taken) * int(SLOW_PERCENT) // 100] * 1000
        return (
            f"its reads on the target take {p95_ms:,.0f} ms (p95 of {len(taken)} within {WINDOW_S:.0f} s, allowed "
            f"{tolerance.max_ms:g} ms)"
        )

    def _silent(self, tolerance: Tolerance) -> str:
        if self.silent_s < (max(SILENCE_MIN_S, tolerance.max_ms / 1000) if tolerance.max_ms else SILENCE_S):
            return ""
        return f"the target has left its reads without an answer for {self.silent_s:.1f} s"


def _too_many(bad: int, reads: int, allowed_percent: float) -> bool:
    return bad >= BAD_MIN and bad / reads * ALL_PERCENT > allowed_percent
