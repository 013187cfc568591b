"""
The copier's pages: points pass from one server to another without being decoded.

The messages below are wire compatible with `ScrollResponse` and `UpsertPoints`, but declare what is inside a point
as `bytes`: the id, each payload entry, the vectors.  So protobuf's C core moves them as they are, and a field inside
them that this version does not know passes unchanged.  `Vectors` reads what `VectorsOutput` wrote, in the form of every
server from 1.14 to 1.19 (`lib/api/src/grpc/proto/points.proto`); tests/transfer/test_relay.py holds the field numbers
against the installed client.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeAlias

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from qdrant_client import grpc as qdrant

from qferry.errors import Unreachable
from qferry.protocol.journal import PointId
from qferry.protocol.ranges import position
from qferry.transfer.channel import PAGE_POINTS, Channel, undecodable
from qferry.transfer.fidelity import may_be_doubtful
from qferry.transfer.ids import consistency, from_proto, to_proto

Opaque: TypeAlias = Any  # an instance of a message type made below

_Field = descriptor_pb2.FieldDescriptorProto
# Message: field: (number, type, repeated)
_LAYOUT: Final[dict[str, dict[str, tuple[int, int, bool]]]] = {
    "Read": {  # RetrievedPoint; `shard_key` and `order_value` say nothing about the point
        "id": (1, _Field.TYPE_BYTES, False),
        "payload": (2, _Field.TYPE_BYTES, True),
        "vectors": (4, _Field.TYPE_BYTES, False),
    },
    "Answer": {  # ScrollResponse
        "next_page_offset": (1, _Field.TYPE_BYTES, False),
        "result": (2, _Field.TYPE_MESSAGE, True),  # Read
    },
    "Found": {"result": (1, _Field.TYPE_MESSAGE, True)},  # GetResponse
    "Written": {  # PointStruct
        "id": (1, _Field.TYPE_BYTES, False),
        "payload": (3, _Field.TYPE_BYTES, True),
        "vectors": (4, _Field.TYPE_BYTES, False),
    },
    "Upsert": {  # UpsertPoints
        "collection_name": (1, _Field.TYPE_STRING, False),
        "wait": (2, _Field.TYPE_BOOL, False),
        "points": (3, _Field.TYPE_MESSAGE, True),  # Written
        "shard_key_selector": (5, _Field.TYPE_BYTES, False),
    },
}
_INNER: Final = {"result": "Read", "points": "Written"}
# A point needs a `vectors`, be it without any: NamedVectors{}.
_NO_VECTORS: Final = qdrant.Vectors(vectors=qdrant.NamedVectors()).SerializeToString()


def _messages() -> dict[str, type[Opaque]]:
    file = descriptor_pb2.FileDescriptorProto(name="qferry/relay.proto", package="qferry.relay", syntax="proto2")
    for message, fields in _LAYOUT.items():
        described = file.message_type.add(name=message)
        for name, (number, kind, repeated) in fields.items():
            added = described.field.add(name=name, number=number)
            added.type = kind
            added.label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            if kind == _Field.TYPE_MESSAGE:
                added.type_name = f".qferry.relay.{_INNER[name]}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"qferry.relay.{name}")) for name in _LAYOUT
    }


_MESSAGES: Final = _messages()
_Answer, _Found, _Upsert = _MESSAGES["Answer"], _MESSAGES["Found"], _MESSAGES["Upsert"]


@dataclass(frozen=True)
class Page:
    """
    Consecutive points of a collection, in the server's order.

    You must copy the `doubtful` ones by REST: `Relay.write` leaves them out, since gRPC does not carry them faithfully
    (`fidelity`).

    Attributes:
        points: The points, undecoded.
        size_bytes: What they are on the wire, in bytes.
        next_offset: Where the next page begins; None after the last point.
        doubtful: Ids of points that gRPC may not have shown as they are.
    """

    points: Sequence[Opaque] = field(repr=False)
    size_bytes: int
    next_offset: PointId | None
    doubtful: tuple[PointId, ...] = ()

    @property
    def count(self) -> int:
        """How many points, the doubtful ones included."""
        return len(self.points)

    @property
    def first_id(self) -> PointId | None:
        """The first point's id; None if there is no point."""
        return _id(self.points[0]) if self.points else None

    @property
    def last_id(self) -> PointId | None:
        """The last point's id; None if there is no point."""
        return _id(self.points[-1]) if self.points else None

    @property
    def ids(self) -> list[PointId]:
        """All ids, in order; decoded one by one."""
        return [_id(point) for point in self.points]

    def before(self, end: PointId | None) -> Page:
        """The points whose id comes before `end`, which becomes the next page's offset; all of them for None."""
        if end is None:
            return self
        cut = bisect_left(self.points, position(end), key=lambda point: position(_id(point)))
        return self if cut == self.count else self._part(0, cut, end)

    def halves(self) -> tuple[Page, Page]:
        """
        The page as two, for when it is too large for one request.

        A page of one point gives an empty second half; you must not halve on.
        """
        half = (self.count + 1) // 2
        following = _id(self.points[half]) if half < self.count else self.next_offset
        return self._part(0, half, following), self._part(half, self.count, self.next_offset)

    def _part(self, start: int, stop: int, next_offset: PointId | None) -> Page:
        points = self.points[start:stop]
        among = {_id(point) for point in points} if self.doubtful else frozenset()
        return replace(
            self,
            points=points,
            size_bytes=sum(point.ByteSize() for point in points),
            next_offset=next_offset,
            doubtful=tuple(i for i in self.doubtful if i in among),
        )


class Relay:
    """
    Reads pages of one server and writes pages to one; for any number of threads.

    Args:
        channel: The way to the server.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def read(
        self,
        collection: str,
        offset: PointId | None = None,
        *,
        limit: int = PAGE_POINTS,
        read_consistency: str | None = None,
    ) -> Page:
        """
        A page of at most `limit` points from `offset` on, with payloads and vectors.

        Args:
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
        raw = self._channel.call("Points/Scroll", request)
        answer = _decoded(_Answer, raw, "Points/Scroll")
        end = from_proto(qdrant.PointId.FromString(answer.next_page_offset)) if answer.next_page_offset else None
        return _page(raw, answer.result, end)

    def fetch(self, collection: str, ids: Sequence[PointId], *, read_consistency: str | None = None) -> Page:
        """
        The points among `ids` that exist, as a page; for repairs.

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
        raw = self._channel.call("Points/Get", request)
        found = _decoded(_Found, raw, "Points/Get")
        return _page(raw, sorted(found.result, key=lambda point: position(_id(point))), None)

    def write(
        self,
        collection: str,
        page: Page,
        *,
        shard_key_selector: qdrant.ShardKeySelector | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """
        Write the page's points, the doubtful ones excepted, and return how many when they are applied.

        You must halve a page that is too large.  The server sets no limit to a gRPC request (REST: 32 MB), but keeps it
        in memory and in its log; a proxy in between may have a limit.

        Raises:
            Rejected: The server refused.  Status 400 also stands for a payload nested too deeply for gRPC (32 objects
                or 48 lists; REST allows 123): you must write that page by REST.
            Unreachable: Nobody knows whether it was, or will be, applied; also when it is accepted only.

        Retry: safe; an upsert is keyed by id.
        """
        request = _Upsert(collection_name=collection, wait=True)
        if shard_key_selector is not None:
            request.shard_key_selector = shard_key_selector.SerializeToString()
        left_out = {to_proto(i).SerializeToString() for i in page.doubtful}
        add = request.points.add
        for point in page.points:
            if left_out and point.id in left_out:
                continue
            add(id=point.id, payload=point.payload, vectors=point.vectors or _NO_VECTORS)
        count = len(request.points)
        if count:
            require_completed(self._channel.call("Points/Upsert", request, timeout_s=timeout_s))
        return count


def require_completed(answer: bytes) -> None:
    """
    Make sure that a write that was to be waited for is applied.

    Raises:
        Unreachable: It is accepted only; servers from 1.18 say `WaitTimeout` when it is not applied in time.
    """
    try:
        status = qdrant.PointsOperationResponse.FromString(answer).result.status
    except DecodeError as error:
        raise undecodable(error, "Points/Upsert") from error
    if status != qdrant.UpdateStatus.Completed:
        raise Unreachable(
            "The server has accepted Points/Upsert, but not applied it in time.",
            hint="It is overloaded; try again.",
        )


def _decoded(kind: type[Opaque], raw: bytes, method: str) -> Opaque:
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise undecodable(error, method) from error


def _page(raw: bytes, points: Sequence[Opaque], next_offset: PointId | None) -> Page:
    doubtful: tuple[PointId, ...] = ()
    if may_be_doubtful(raw):  # once per page: vectors may match by chance, payloads decide
        doubtful = tuple(_id(point) for point in points if any(may_be_doubtful(entry) for entry in point.payload))
    return Page(points, len(raw), next_offset, doubtful)


def _id(point: Opaque) -> PointId:
    return from_proto(qdrant.PointId.FromString(point.id))
