"""Point ids (an `int`, or a UUID as the server writes it) as gRPC carries them."""

from __future__ import annotations

from qdrant_client import grpc as qdrant

from qferry.protocol.journal import PointId


def to_proto(point_id: PointId) -> qdrant.PointId:
    """An id as requests carry it."""
    return qdrant.PointId(num=point_id) if isinstance(point_id, int) else qdrant.PointId(uuid=point_id)


def from_proto(point_id: qdrant.PointId) -> PointId:
    """An id as answers carry it."""
    number: int = point_id.num
    uuid: str = point_id.uuid
    return number if point_id.HasField("num") else uuid


def consistency(name: str | None) -> qdrant.ReadConsistency | None:
    """What REST's query parameter `consistency` says in a word ("all", "majority", "quorum"), for gRPC."""
    if name is None:
        return None
    return qdrant.ReadConsistency(type=qdrant.ReadConsistencyType.Value(name.capitalize()))
