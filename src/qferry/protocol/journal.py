"""
The writer's half of the journal: which points were written and are not yet safely recorded.

Rule (J) of docs/guarantee.md: a written point stays in the journal until a check finds both sides equal, and that
check began after the write had ended.  Here that means: an id leaves this object only through a flush that *began
after its last write ended*; an id in flight is flushed too, but stays.  From then on the durable entry carries it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from qferry.protocol.doubt import Doubt

PointId = int | str


@dataclass(frozen=True)
class Flush:
    """One attempt to make ids durable; give it back to `Journal.flushed` once the server has confirmed them."""

    ids: tuple[PointId, ...]
    began: int  # everything that ended up to this serial number is covered


@dataclass
class Journal:
    """What one writer still owes the durable journal of one migration."""

    _serial: int = 0
    _in_flight: dict[PointId, int] = field(default_factory=dict)
    _ended: dict[PointId, int] = field(default_factory=dict)
    _doubts: list[tuple[Doubt, tuple[PointId, ...]]] = field(default_factory=list)
    waiting: dict[PointId, int] = field(default_factory=dict)  # how many writes wait for a point to be on the target
    brought: set[PointId] = field(default_factory=set)  # points that one of them is bringing there just now

    def begin(self, ids: Iterable[PointId]) -> None:
        """Note that a write to `ids` is about to be sent."""
        for point_id in ids:
            self._in_flight[point_id] = self._in_flight.get(point_id, 0) + 1

    def in_flight(self, point_id: PointId) -> int:
        """How many writes to a point are under way."""
        return self._in_flight.get(point_id, 0)

    def end(self, ids: Iterable[PointId], doubt: Doubt | None = None) -> None:
        """
        Note that a write to `ids` has ended.

        Args:
            ids: The ids given to `begin`.
            doubt: Set when nobody knows whether it was, or will yet be, carried out; the ids then stay until the
                doubt is over, and are flushed once more after that.
        """
        self._serial += 1
        touched = tuple(ids)
        for point_id in touched:
            left = self._in_flight[point_id] - 1
            if left:
                self._in_flight[point_id] = left
            else:
                del self._in_flight[point_id]
            self._ended[point_id] = self._serial
        if doubt is not None:
            self._doubts.append((doubt, touched))

    def start_flush(self) -> Flush:
        """Every id that must be durable before a crash may forget it: ended, in doubt, and in flight."""
        ids = dict.fromkeys([*self._ended, *self._doubtful(), *self._in_flight])
        return Flush(tuple(ids), self._serial)

    def flushed(self, flush: Flush) -> None:
        """The server confirmed `flush`: forget what had ended when it began and has not been written since."""
        for point_id in flush.ids:
            if self._ended.get(point_id, flush.began + 1) <= flush.began:
                del self._ended[point_id]

    def expire_doubts(self, now: float) -> None:
        """Turn doubts that are over into ordinary ended writes: only a flush from now on is known to follow them."""
        over = [ids for doubt, ids in self._doubts if doubt.over(now)]
        if not over:
            return
        self._doubts = [(doubt, ids) for doubt, ids in self._doubts if not doubt.over(now)]
        self._serial += 1
        self._ended.update((point_id, self._serial) for ids in over for point_id in ids)

    def _doubtful(self) -> Iterator[PointId]:
        return (point_id for _, ids in self._doubts for point_id in ids)

    @property
    def debt(self) -> int:
        """How many ids are held here and would be lost with this process."""
        return len({*self._ended, *self._doubtful(), *self._in_flight})
