"""How large the source is and how fast it can be read, from its first points."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from qferry.control import wire
from qferry.errors import RemoteFailure
from qferry.flows.copy import PAGE_BYTES, PAGE_POINTS
from qferry.flows.effects import Flow, Json, Now
from qferry.flows.pages import as_page
from qferry.planning import Plan
from qferry.preflight.report import Estimate, Machine, Sample, Size
from qferry.protocol.journal import PointId
from qferry.protocol.records import HOME, Strategy

# What the whole look at points may read, and how long it may take; a page that was begun is read to its end.
SAMPLE_POINTS: Final = 2_000
SAMPLE_S: Final = 2.0
# A snapshot is the collection once more, and is unpacked beside what it replaces (docs/cli.md, `start`).
SNAPSHOT_ROOMS: Final = 3
# What a number of a vector takes on disk, by the vector's datatype, in bytes (Qdrant, "Vectors": datatypes).
_NUMBER_BYTES: Final = {"float32": 4, "float16": 2, "uint8": 1}
_SPARSE_INDEX_BYTES: Final = 4
_KB: Final = 1024
# Of vectors in fewer dimensions than this some change when they are normalised again: 1 % at 4 and 8, 0.2 % at 16,
# 0.03 % at 24, none of 20,000 at 32 (NumPy, random directions); the rest is margin.
FLOAT16_DIMENSIONS: Final = 64


@dataclass(frozen=True)
class _Vector:
    """How a vector is configured."""

    datatype: str
    is_sparse: bool = False


def size(planned: Plan, info: Json) -> Flow[Size]:
    """How large a source is, going by a page of its points."""
    try:
        points = (yield wire.scroll(HOME, planned.source, limit=PAGE_POINTS, vector=True))["points"]
    except RemoteFailure:
        return Size(planned.points, None, None, None)
    if not points:
        return Size(planned.points, 0, 0, 0)
    kinds = _kinds(info)
    vectors = vector_bytes = payload_bytes = 0
    for point in points:
        for name, vector in named(point.get("vector")).items():
            vectors += 1
            vector_bytes += _bytes(vector, kinds.get(name, _Vector("float32")))
        payload_bytes += len(orjson.dumps(point.get("payload") or {}))
    share = planned.points / len(points)
    return Size(planned.points, round(vectors * share), round(vector_bytes * share), round(payload_bytes * share))


def named(vectors: Any) -> Mapping[str, Any]:
    """A point's vectors by their names; the one without a name by the empty one."""
    if isinstance(vectors, Mapping):
        return vectors
    return {"": vectors} if vectors else {}


def _kinds(info: Json) -> dict[str, _Vector]:
    params = info["config"]["params"]
    found = {
        name: _Vector(vector.get("datatype") or "float32")
        for name, vector in dense(params.get("vectors") or {}).items()
    }
    for name, vector in (params.get("sparse_vectors") or {}).items():
        found[name] = _Vector(((vector or {}).get("index") or {}).get("datatype") or "float32", is_sparse=True)
    return found


def dense(vectors: Mapping[str, Any]) -> Mapping[str, Any]:
    """The dense vectors of a configuration by their names; the one without a name by the empty one."""
    return {"": vectors} if isinstance(vectors.get("size"), int) else vectors  # one may be named so


def _bytes(vector: Any, kind: _Vector) -> int:
    number = _NUMBER_BYTES.get(kind.datatype, _NUMBER_BYTES["float32"])
    if kind.is_sparse:
        return len(vector.get("indices") or ()) * (number + _SPARSE_INDEX_BYTES)
    rows = vector if vector and isinstance(vector[0], list) else [vector]
    return sum(map(len, rows)) * number


def measured(source: str, *, way: str) -> Flow[Sample | None]:
    """Read points as a copy does, in one range, for a moment; None if the server does not let it, or has no points."""
    began: float = yield Now()
    before, now = began, began
    read = page_bytes = 0
    fastest, limit = 0.0, PAGE_POINTS
    left = SAMPLE_POINTS - PAGE_POINTS  # those that `size` has read count too
    cursor: PointId | None = None
    while left and now - began < SAMPLE_S:
        try:
            page = as_page((yield wire.read_page(HOME, source, offset=cursor, limit=min(limit, left))))
        except RemoteFailure:
            return None
        before, now = now, (yield Now())
        if page.count:
            fastest = max(fastest, page.count / max(now - before, 1e-6))
            limit = max(
                1, 2 * limit if page.size_bytes * 2 <= PAGE_BYTES else page.count * PAGE_BYTES // page.size_bytes
            )
        read, page_bytes, left, cursor = (
            read + page.count,
            page_bytes + page.size_bytes,
            left - page.count,
            page.next_offset,
        )
        if cursor is None:
            break
    return Sample(way, read, page_bytes, now - began, fastest) if read else None


def estimate(planned: Plan, found: Size, sample: Sample | None, copies: int) -> Estimate:
    """
    What copy and comparison take at the least: every point is read once, in one range, at the sample's fastest.

    That several ranges are read at once does not make up for what is done beside reading: 50,000 points of 768
    dimensions are read in 0.8 s, and are copied by four workers, without any index, in 1.6 s (1.16.3).
    """
    is_snapshot = planned.strategy == Strategy.SNAPSHOT.value
    rooms = SNAPSHOT_ROOMS if is_snapshot else copies
    room = found.total_bytes * rooms if found.total_bytes is not None else None
    read_s = 0.0 if not planned.points else planned.points / sample.points_per_s if sample else None
    left_out = "building vector and payload indexes, write-ahead logs, what applications write meanwhile, limits"
    if is_snapshot:
        left_out += "; how long the server takes for the snapshot"
    else:
        left_out += "; writing to the target, which takes several times as long as reading"
    return Estimate(room, None if is_snapshot else read_s, read_s, left_out)


def machine(told: Json | RemoteFailure) -> Machine:
    """What a server's telemetry tells of its machine (1.14 to 1.19: `app.system` in KiB, `memory` in bytes)."""
    telemetry = {} if isinstance(told, RemoteFailure) else told
    system = (telemetry.get("app") or {}).get("system") or {}
    used = (telemetry.get("memory") or {}).get("resident_bytes")
    memory, disk = (_bytes_of(system.get(name)) for name in ("ram_size", "disk_size"))
    untold = [name for name, value in (("memory", memory), ("memory in use", used), ("disk", disk)) if value is None]
    note = "No server tells how much of its disk is free, nor what else its machine runs."
    if isinstance(told, RemoteFailure):
        note = f"The server's telemetry could not be read: {told.message} {note}"
    elif untold:
        note = f"The server does not tell: {', '.join(untold)}. {note}"
    return Machine(memory, used, disk, note)


def _bytes_of(kib: Any) -> int | None:
    return int(kib) * _KB if kib else None


def short_of_room(there: Machine, room: Estimate, found: Size, *, in_memory: bool, beside: bool) -> Iterator[str]:
    """
    What the target's machine will be short of, as far as it is told.

    Args:
        there: The machine.
        room: What the copy takes.
        found: The source's size.
        in_memory: Whether the target's vectors are to be in memory.
        beside: Whether the source lies on the same machine.
    """
    total = found.total_bytes
    needed = None if room.room_bytes is None or total is None else room.room_bytes + (total if beside else 0)
    if needed is not None and there.disk_bytes is not None and needed > there.disk_bytes:
        what = "source and target need" if beside else "the target needs"
        yield (
            f"The disk of the target's server is too small: {what} {human(needed)} at the least, and it has "
            f"{human(there.disk_bytes)} in all."
        )
    if not in_memory or found.vector_bytes is None or there.memory_bytes is None or there.memory_used_bytes is None:
        return
    free = max(0, there.memory_bytes - there.memory_used_bytes)
    if found.vector_bytes > free:
        yield (
            f"The target's vectors may not fit into memory: they take {human(found.vector_bytes)}, and of "
            f"{human(there.memory_bytes)} its server leaves {human(free)} at the most. Keep them on disk (`on_disk`), "
            "or give it more."
        )


def human(count: float) -> str:
    """A number of bytes as people say it."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < _KB:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= _KB
    return f"{count:.1f} TiB"


def never_equal(params: Json) -> Iterator[str]:
    """The vectors whose points a streamed copy may change, so that `verify` never accepts them (docs/guarantee.md)."""
    for name, vector in dense(params.get("vectors") or {}).items():
        if (
            vector.get("datatype") == "float16"
            and vector.get("distance") == "Cosine"
            and vector["size"] < FLOAT16_DIMENSIONS
        ):
            what = f"The vector `{name}` is" if name else "The vectors are"
            yield (
                f"{what} float16 under cosine distance in {vector['size']} dimensions: the server normalises some "
                "anew whenever it is given them, so points that are streamed or repaired may differ in their last "
                "bits, and `verify` will not accept them. In 128 dimensions that was not seen."
            )
