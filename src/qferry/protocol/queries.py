"""Searches made of points: with their vectors, and filters on values of their indexed payload fields."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qferry.protocol.journal import PointId
from qferry.protocol.parity import K

# What a server takes in a filter (Qdrant 1.16.3: `lib/segment/src/types.rs`, integers of 64 bits, degrees, and times
# as RFC 3339 or a little less); anything else in a payload it keeps, does not index, and refuses to be asked for.
_INTEGERS = (-(2**63), 2**63 - 1)
_LAT_MAX, _LON_MAX = 90, 180
_TIME = re.compile(
    r"(\d{4})-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"
    r"([T ]([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)?)?",
    re.ASCII,
)
# Points within this distance, in metres, of one that was sampled.
_RADIUS_M = 100_000.0


@dataclass(frozen=True)
class VectorKind:
    """
    One of a collection's vectors.

    Args:
        name: Its name; empty for the unnamed one.
        sparse: Whether it is sparse: the server always searches those exactly.
        relative: Whether scores depend on more than the two vectors, so that equal points may be ranked differently:
            IDF is taken of a shard's index, which still counts what was deleted until the optimizer has passed, and
            8-bit weights are scaled segment by segment (Qdrant 1.16.3: `fill_idf_statistics` adds up the lengths of
            posting lists, `segment/src/index/sparse_index/sparse_vector_index.rs`); 16-bit ones are rounded in
            segments that the optimizer has built, and not in the others: exact searches of equal
            points were found to disagree for it.
    """

    name: str
    sparse: bool = False
    relative: bool = False

    def __str__(self) -> str:
        kind = "sparse vector" if self.sparse else "vector"
        return f"{kind} {self.name}" if self.name else kind


def kinds(info: Mapping[str, Any]) -> list[VectorKind]:
    """The vectors of a collection, going by its info."""
    params = info["config"]["params"]
    dense = params.get("vectors") or {}
    # A vector may be named "size".
    found = [VectorKind(name) for name in ([""] if isinstance(dense.get("size"), int) else dense)]
    for name, config in (params.get("sparse_vectors") or {}).items():
        coarse = (config.get("index") or {}).get("datatype") in ("float16", "uint8")
        found.append(VectorKind(name, sparse=True, relative=coarse or config.get("modifier") == "idf"))
    return found


@dataclass(frozen=True)
class Search:
    """
    One search.

    Args:
        point: The point it was made of.
        vector: What it searches in.
        query: That point's vector.
        field: The payload field that is filtered by; empty without a filter.
        condition: The filter's condition.
    """

    point: PointId
    vector: VectorKind
    query: Any
    field: str = ""
    condition: Any = None

    def body(self, *, exact: bool, among: list[PointId] | None = None) -> dict[str, Any]:
        """
        As the server takes it.

        Args:
            exact: Whether to compare with every point instead of asking the index.
            among: Only these points.
        """
        body: dict[str, Any] = {"query": self.query, "using": self.vector.name, "limit": K, "with_payload": False}
        if exact:
            body["params"] = {"exact": True}
        must = [self.condition] if self.condition else []
        if among is not None:
            must.append({"has_id": among})
        return {**body, "filter": {"must": must}} if must else body

    def __str__(self) -> str:
        filtered = f", filtered by {self.field}" if self.field else ""
        return f"{self.vector} of point {self.point}{filtered}"


def conditions(payload: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """
    For each indexed field of which the payload has a value that can be filtered by: a condition this point fulfils.

    Args:
        payload: A point's payload.
        schema: The `payload_schema` of its collection.
    """
    found = {}
    for field, index in schema.items():
        for value in _at(payload, field.replace("[]", "").split(".")):
            condition = _condition(index, value)
            if condition is not None:
                found[field] = {"key": field, **condition}
                break
    return found


def _at(value: Any, path: list[str]) -> list[Any]:
    """The values at a path, those within lists too."""
    if isinstance(value, list):
        return [found for each in value for found in _at(each, path)]
    if not path:
        return [value]
    return _at(value.get(path[0]), path[1:]) if isinstance(value, Mapping) else []


def _is_time(value: str) -> bool:
    found = _TIME.fullmatch(value)
    if found is None:
        return False
    year, month, day = (int(found[n]) for n in (1, 2, 3))
    leaps = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return day <= (28 + leaps if month == 2 else 30 if month in (4, 6, 9, 11) else 31)  # noqa: PLR2004  the calendar


def _condition(index: Mapping[str, Any], value: Any) -> dict[str, Any] | None:
    match index["data_type"], value:
        case "bool", bool():
            return {"match": {"value": value}}
        case _, bool():
            return None
        case "keyword" | "uuid", str():
            return {"match": {"value": value}}
        case "integer", int() if not _INTEGERS[0] <= value <= _INTEGERS[1]:
            return None
        case "integer", int() if (index.get("params") or {}).get("lookup") is False:
            return {"range": {"gte": value, "lte": value}}
        case "integer", int():
            return {"match": {"value": value}}
        case "float", int() | float():
            return {"range": {"gte": value}}
        case "datetime", str() if _is_time(value):
            return {"range": {"gte": value}}
        case "text", str() if value.split():
            return {"match": {"text": max(value.split(), key=len)}}
        case "geo", {"lat": int() | float() as lat, "lon": int() | float() as lon} if (
            abs(lat) <= _LAT_MAX and abs(lon) <= _LON_MAX
        ):
            return {"geo_radius": {"center": {"lat": lat, "lon": lon}, "radius": _RADIUS_M}}
    return None
