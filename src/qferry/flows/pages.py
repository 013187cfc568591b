"""
Pages of points on their way from one collection to another.

What a page is made of is the driver's business: JSON from a REST scroll, or bytes that nobody decodes.  A flow only
asks how large it is, cuts it, and hands it on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import orjson

from qferry.flows.effects import Json
from qferry.protocol.journal import PointId
from qferry.protocol.ranges import position


class Page(Protocol):
    """Some points of a collection, in order of id."""

    @property
    def count(self) -> int:
        """How many points."""

    @property
    def ids(self) -> Sequence[PointId]:
        """Their ids."""

    @property
    def size_bytes(self) -> int:
        """About how large they are, in bytes."""

    @property
    def next_offset(self) -> PointId | None:
        """The id of the point after them; None if there is none."""

    @property
    def doubtful(self) -> Sequence[PointId]:
        """Those that writing the page leaves out, because it would not carry them faithfully."""

    def before(self, end: PointId | None) -> Page:
        """The points before `end`, which is then what follows them; all of them for None."""

    def halves(self) -> tuple[Page, Page]:
        """The first half of the points, and the rest."""


@dataclass(frozen=True)
class JsonPage:
    """A page as the server's REST interface gives it."""

    points: tuple[Json, ...]
    next_offset: PointId | None
    doubtful: tuple[PointId, ...] = ()

    @property
    def count(self) -> int:
        """How many points."""
        return len(self.points)

    @property
    def ids(self) -> list[PointId]:
        """Their ids."""
        return [point["id"] for point in self.points]

    @cached_property
    def size_bytes(self) -> int:
        """Their JSON, in bytes."""
        return len(orjson.dumps(self.points))

    def before(self, end: PointId | None) -> JsonPage:
        """The points before `end`, which is then what follows them; all of them for None."""
        kept = [p for p in self.points if end is None or position(p["id"]) < position(end)]
        return self if len(kept) == self.count else JsonPage(tuple(kept), end)

    def halves(self) -> tuple[JsonPage, JsonPage]:
        """The first half of the points, and the rest."""
        half = self.count // 2
        return JsonPage(self.points[:half], self.points[half]["id"]), JsonPage(self.points[half:], self.next_offset)


def to_write(page: Page) -> Any:
    """A page in the form that `wire.write_page` takes."""
    return {"points": [whole(point) for point in page.points]} if isinstance(page, JsonPage) else page


def as_page(result: Any) -> Page:
    """The page that `wire.read_page` has brought."""
    if isinstance(result, dict):
        return JsonPage(tuple(result["points"]), result["next_page_offset"])
    page: Page = result
    return page


def whole(point: Json) -> Json:
    """A point as it is written, from one as it was read."""
    return {"id": point["id"], "payload": point.get("payload") or {}, "vector": point.get("vector") or {}}
