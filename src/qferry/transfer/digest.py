"""
The verifier's pages: each point as bytes that are equal exactly when it is.

What is read here is decoded by qdrant-client's generated classes, and by nothing the copier uses: a mistake that both
made would hide itself.  Bytes are those of protobuf's deterministic encoding, in which maps are sorted: 1 is not 1.0,
0.0 is not -0.0, no bit of a vector is lost (REST shows NaN and infinities alike, as null).  Sparse vectors come sorted
by index from the server, whatever order they were written in.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from qdrant_client import grpc as qdrant

from qferry.protocol.journal import PointId
from qferry.protocol.ranges import position
from qferry.transfer.channel import PAGE_POINTS, Channel, undecodable
from qferry.transfer.fidelity import any_doubtful, may_be_doubtful, settled
from qferry.transfer.ids import consistency, from_proto, to_proto

_SCROLL: Final = "Points/Scroll"
_GET: Final = "Points/Get"


@dataclass(frozen=True)
class DigestPage:
    """
    Consecutive points of a collection, in the server's order, ready to be compared.

    Attributes:
        ids: Their ids.
        contents: Each point whole, as bytes; the same length as `ids`.
        next_offset: Where the next page begins; None after the last point.
        doubtful: Ids of points of which gRPC may not show everything (`fidelity`), or nothing that can be decoded: you
            must compare these by REST, even if their bytes are equal.
    """

    ids: Sequence[PointId] = field(repr=False)
    contents: Sequence[bytes] = field(repr=False)
    next_offset: PointId | None
    doubtful: frozenset[PointId] = frozenset()

    def before(self, end: PointId | None) -> DigestPage:
        """The points whose id comes before `end`, which becomes the next page's offset; all of them for None."""
        if end is None:
            return self
        cut = bisect_left(self.ids, position(end), key=position)
        if cut == len(self.ids):
            return self
        ids = self.ids[:cut]
        return DigestPage(ids, self.contents[:cut], end, self.doubtful.intersection(ids))

    def same(self, one: bytes, other: bytes) -> bool:
        """Whether two contents that are not equal are the same point's all the same, as far as a server keeps it."""
        return same(one, other)


def read_digests(
    channel: Channel,
    collection: str,
    offset: PointId | None = None,
    *,
    limit: int = PAGE_POINTS,
    read_consistency: str | None = None,
) -> DigestPage:
    """
    A page of at most `limit` points from `offset` on.

    Args:
        channel: The way to the server.
        collection: The collection's name, or an alias of it.
        offset: The first id, or where it would be; None is the beginning.
        limit: At least 1.
        read_consistency: "all", "majority" or "quorum" where several copies of a shard are asked.

    Raises:
        RemoteFailure: See `Channel.call`.
    """
    request = qdrant.ScrollPoints(
        collection_name=collection,
        offset=None if offset is None else to_proto(offset),
        limit=limit,
        with_payload=qdrant.WithPayloadSelector(enable=True),
        with_vectors=qdrant.WithVectorsSelector(enable=True),
        read_consistency=consistency(read_consistency),
    )
    raw = channel.call(_SCROLL, request)
    try:
        answer = qdrant.ScrollResponse.FromString(raw)
    except DecodeError as error:
        result = _by_number(raw, error)
        end = from_proto(qdrant.PointId.FromString(result[1][0])) if 1 in result else None
        return _salvaged(result.get(2, []), end, error)
    end = from_proto(answer.next_page_offset) if answer.HasField("next_page_offset") else None
    return _page(answer.result, end, doubt=may_be_doubtful(raw))


def digests_of(
    channel: Channel, collection: str, ids: Sequence[PointId], *, read_consistency: str | None = None
) -> DigestPage:
    """
    The points among `ids` that exist, as a page; for a second look.

    Raises:
        RemoteFailure: See `Channel.call`.
    """
    request = qdrant.GetPoints(
        collection_name=collection,
        ids=[to_proto(i) for i in ids],
        with_payload=qdrant.WithPayloadSelector(enable=True),
        with_vectors=qdrant.WithVectorsSelector(enable=True),
        read_consistency=consistency(read_consistency),
    )
    raw = channel.call(_GET, request)
    try:
        answer = qdrant.GetResponse.FromString(raw)
    except DecodeError as error:
        page = _salvaged(_by_number(raw, error).get(1, []), None, error)
    else:
        page = _page(answer.result, None, doubt=may_be_doubtful(raw))
    order = sorted(range(len(page.ids)), key=lambda n: position(page.ids[n]))
    return DigestPage([page.ids[n] for n in order], [page.contents[n] for n in order], None, page.doubtful)


def same(one: bytes, other: bytes) -> bool:
    """Whether two contents are those of the same point, as far as a server keeps it."""
    return one == other or canonical(one) == canonical(other)


def canonical(content: bytes) -> bytes:
    """
    A point's content in the one form that all servers' answers can be brought to; slow, for what differs.

    Doubles are settled (`fidelity`), vectors take the form they have up to 1.16, and what says nothing about the point
    (its shard key) is left out.
    """
    point = qdrant.RetrievedPoint.FromString(content)
    point.ClearField("shard_key")
    point.ClearField("order_value")
    for value in _numbers(point.payload.values()):
        value.double_value = settled(value.double_value)
    if point.vectors.WhichOneof("vectors_options") == "vector":
        _unify(point.vectors.vector)
    else:
        point.vectors.vectors.SetInParent()
        for vector in point.vectors.vectors.vectors.values():
            _unify(vector)
    encoded: bytes = point.SerializeToString(deterministic=True)
    return encoded


def _page(points: Iterable[Any], end: PointId | None, *, doubt: bool) -> DigestPage:
    kept = list(points)
    ids = [point_id.num or from_proto(point_id) for point_id in [point.id for point in kept]]
    contents = [point.SerializeToString(deterministic=True) for point in kept]
    doubtful: frozenset[PointId] = frozenset()
    if doubt:
        doubtful = frozenset(i for i, point in zip(ids, kept, strict=True) if _is_doubtful(point))
    return DigestPage(ids, contents, end, doubtful)


def _is_doubtful(point: Any) -> bool:
    return any_doubtful(value.double_value for value in _numbers(point.payload.values()))


def _numbers(values: Iterable[Any]) -> Iterator[Any]:
    """All values that are doubles, also within lists and objects."""
    for value in values:
        kind = value.WhichOneof("kind")
        if kind == "double_value":
            yield value
        elif kind == "struct_value":
            yield from _numbers(value.struct_value.fields.values())
        elif kind == "list_value":
            yield from _numbers(value.list_value.values)


def _unify(vector: Any) -> None:
    """
    Bring a vector to the form that servers up to 1.16 give it (`VectorOutput.data`, `indices`, `vectors_count`).

    Through protobuf's own encoding, in which a dense vector and `data` are the same bytes: no float is touched.
    """
    kind = vector.WhichOneof("vector")
    if kind == "dense":
        vector.ParseFromString(vector.dense.SerializeToString())
    elif kind == "multi_dense":
        flat = qdrant.DenseVector()
        for row in vector.multi_dense.vectors:
            flat.MergeFrom(row)
        count = len(vector.multi_dense.vectors)
        vector.ParseFromString(flat.SerializeToString())
        vector.vectors_count = count
    elif kind == "sparse":
        indices = list(vector.sparse.indices)
        vector.sparse.ClearField("indices")
        vector.ParseFromString(vector.sparse.SerializeToString())
        vector.indices.SetInParent()
        vector.indices.data.extend(indices)


def _salvaged(encoded: Iterable[bytes], end: PointId | None, error: DecodeError) -> DigestPage:
    """A page with a point that cannot be decoded, such as one whose payload is nested more than 32 deep."""
    ids: list[PointId] = []
    contents: list[bytes] = []
    doubtful: set[PointId] = set()
    for each in encoded:
        try:
            page = _page([qdrant.RetrievedPoint.FromString(each)], None, doubt=may_be_doubtful(each))
        except DecodeError:
            point_id = from_proto(qdrant.PointId.FromString(_by_number(each, error)[1][0]))
            page = DigestPage([point_id], [each], None, frozenset({point_id}))
        ids += page.ids
        contents += page.contents
        doubtful |= page.doubtful
    return DigestPage(ids, contents, end, frozenset(doubtful))


def _by_number(encoded: bytes, error: DecodeError) -> dict[int, list[Any]]:
    """
    The fields of a message, undecoded: what a message type without any fields does not know of it.

    Raises:
        Rejected: It is no message at all.
    """
    try:
        unknown = UnknownFieldSet(qdrant.HealthCheckRequest.FromString(encoded))
    except DecodeError:
        raise undecodable(error, _SCROLL) from error
    found: dict[int, list[Any]] = {}
    for each in unknown:
        found.setdefault(each.field_number, []).append(each.data)
    return found
