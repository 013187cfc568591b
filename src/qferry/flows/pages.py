"""
Pages of points on their way from one collection to another.

What a page is made of is the driver's business: JSON from a REST scroll, or bytes that nobody decodes.  A flow only
asks how large it is, cuts it, and hands it on.
"""

from __future__ import annotations

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
    def size(self) -> int:
        """About how many bytes."""

    @property
    def following(self) -> PointId | None:
        """The id of the point after them; None if there is none."""

    @property
    def body(self) -> Any:
        """What `wire.write_page` takes."""

    def before(self, end: PointId) -> Page:
        """Those of the points that come before `end`, after which nothing follows."""

    def halves(self) -> tuple[Page, Page]:
        """The first half of the points, and the rest."""


@dataclass(frozen=True)
class JsonPage:
    """A page as the server's REST interface gives it."""

    points: tuple[Json, ...]
    following: PointId | None

    @property
    def count(self) -> int:
        """How many points."""
        return len(self.points)

    @cached_property
    def size(self) -> int:
        """Their JSON in bytes."""
        return len(orjson.dumps(self.points))

    @property
    def body(self) -> Json:
        """The points in the form in which they are written."""
        return {"points": [whole(point) for point in self.points]}

    def before(self, end: PointId) -> JsonPage:
        """Those of the points that come before `end`, after which nothing follows."""
        return JsonPage(tuple(p for p in self.points if position(p["id"]) < position(end)), None)

    def halves(self) -> tuple[JsonPage, JsonPage]:
        """The first half of the points, and the rest."""
        half = len(self.points) // 2
        return JsonPage(self.points[:half], self.following), JsonPage(self.points[half:], self.following)


def as_page(result: Any) -> Page:
    """The page that `wire.read_page` has brought."""
    if isinstance(result, dict):
        return JsonPage(tuple(result["points"]), result["next_page_offset"])
    page: Page = result
    return page


def whole(point: Json) -> Json:
    """A point as it is written, from one as it was read."""
    return {"id": point["id"], "payload": point.get("payload") or {}, "vector": point.get("vector") or {}}
