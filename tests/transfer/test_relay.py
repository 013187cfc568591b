"""Tests of the copier's pages: what is read is written as it is, and what gRPC cannot carry is named."""

import math
from dataclasses import replace

import pytest
from google.protobuf.descriptor import Descriptor
from qdrant_client import grpc as qdrant
from transferring import BEYOND_INT64, EVERY_KIND, POINTS, UUID_HIGH, UUID_LOW, Rest, nested_kinds, write_typed

from qferry.errors import Rejected, Unreachable
from qferry.transfer.channel import Channel
from qferry.transfer.relay import _LAYOUT, Page, Relay, require_completed

PLAIN = {"vectors": {"size": 2, "distance": "Dot"}}
# What of each message the relay carries or sets, and what it leaves alone on purpose.
KNOWN = {
    "Read": (qdrant.RetrievedPoint, {"shard_key", "order_value"}),
    "Answer": (qdrant.ScrollResponse, {"time", "usage"}),
    "Found": (qdrant.GetResponse, {"time", "usage"}),
    "Written": (qdrant.PointStruct, set()),
    "Upsert": (qdrant.UpsertPoints, {"ordering", "update_filter", "timeout", "update_mode"}),
}


@pytest.mark.parametrize("name", KNOWN)
def test_layout_is_that_of_the_installed_client(name: str) -> None:
    """A renumbered or a new field of upstream's messages is noticed here."""
    upstream, left_alone = KNOWN[name]
    fields = {f.name: (f.number, f.is_repeated) for f in upstream.DESCRIPTOR.fields if f.name not in left_alone}
    assert fields == {name: (number, repeated) for name, (number, _, repeated) in _LAYOUT[name].items()}


def shape(read: Descriptor, written: Descriptor) -> None:
    """Fail unless everything `read` can say means the same in `written`."""
    known = {field.number: field for field in written.fields}
    for field in read.fields:
        twin = known[field.number]
        assert (field.name, field.type, field.is_repeated) == (twin.name, twin.type, twin.is_repeated)
        if field.message_type is not None and field.message_type is not twin.message_type:
            shape(field.message_type, twin.message_type)


def test_what_is_read_has_the_form_of_what_is_written() -> None:
    """`VectorsOutput` is read as `Vectors`, and a payload entry as a payload entry."""
    read, written = qdrant.RetrievedPoint.DESCRIPTOR, qdrant.PointStruct.DESCRIPTOR
    for name in ("id", "payload", "vectors"):
        shape(read.fields_by_name[name].message_type, written.fields_by_name[name].message_type)


def copied(relay: Relay, source: str, target: str, limit: int) -> list[Page]:
    """Copy a collection page by page."""
    pages = [relay.read(source, limit=limit)]
    while pages[-1].next_offset is not None:
        pages.append(relay.read(source, pages[-1].next_offset, limit=limit))
    for page in pages:
        relay.write(target, page)
    return pages


@pytest.mark.parametrize("limit", [1, 3, 100])
def test_points_of_every_kind_arrive_as_they_are(
    relay: Relay, rest: Rest, collection_name: str, other_name: str, limit: int
) -> None:
    """REST shows the same on both sides, byte by byte."""
    for name in (collection_name, other_name):
        rest.create(name, EVERY_KIND)
    rest.write(collection_name, POINTS)
    pages = copied(relay, collection_name, other_name, limit)
    assert sum(page.count for page in pages) == len(POINTS)
    assert not any(page.doubtful for page in pages)
    assert rest.points(other_name) == rest.points(collection_name)
    assert len(rest.points(other_name)) == len(POINTS)


def test_unnamed_multivectors_and_collections_without_vectors_arrive(
    relay: Relay, rest: Rest, collection_name: str, other_name: str
) -> None:
    """The form without names, and the one without any vector."""
    for config, vector in (
        ({"vectors": PLAIN["vectors"] | {"multivector_config": {"comparator": "max_sim"}}}, [[1.5, 2.0], [3.0, 4.0]]),
        ({}, {}),
    ):
        names = [f"{name}-{len(config)}" for name in (collection_name, other_name)]
        for name in names:
            rest.create(name, config)
        rest.write(names[0], [{"id": 1, "vector": vector, "payload": {"a": 1}}])
        copied(relay, *names, limit=10)
        assert rest.points(names[1]) == rest.points(names[0])


def test_vectors_that_rest_cannot_write_arrive(
    channel: Channel, relay: Relay, rest: Rest, collection_name: str, other_name: str
) -> None:
    """NaN and infinity, which REST shows as null and refuses to take back."""
    for name in (collection_name, other_name):
        rest.create(name, PLAIN)
    vector = qdrant.Vectors(vector=qdrant.Vector(data=[math.nan, -math.inf]))
    write_typed(channel, collection_name, qdrant.PointStruct(id=qdrant.PointId(num=1), vectors=vector))
    copied(relay, collection_name, other_name, 10)
    (point,) = relay.read(other_name).points
    found = qdrant.VectorsOutput.FromString(point.vectors).vector
    data = list(found.data or found.dense.data)
    assert math.isnan(data[0])
    assert data[1] == -math.inf


@pytest.mark.parametrize("value", [*BEYOND_INT64, {"a": [[2**63]]}])
def test_integer_beyond_int64_is_doubtful_and_not_written(
    relay: Relay, rest: Rest, collection_name: str, other_name: str, value: object
) -> None:
    """What gRPC would turn into a double is left to REST; the points around it are copied."""
    for name in (collection_name, other_name):
        rest.create(name, PLAIN)
    points = [{"id": n, "vector": [1.0, 450.0], "payload": {"v": value if n == 2 else 2**63 - n}} for n in range(1, 4)]
    rest.write(collection_name, points)
    page = relay.read(collection_name)
    assert page.doubtful == (2,)
    assert relay.write(other_name, page) == 2
    expected = rest.points(collection_name)
    assert rest.points(other_name) == [expected[0], expected[2]]
    assert page.before(2).doubtful == ()
    assert page.before(3).doubtful == (2,)
    assert [half.doubtful for half in page.halves()] == [(2,), ()]


def test_page_of_doubtful_points_only_writes_nothing(relay: Relay, rest: Rest, collection_name: str) -> None:
    """No empty request is sent, which the server would refuse."""
    rest.create(collection_name, PLAIN)
    rest.write(collection_name, [{"id": 1, "vector": [1.0, 2.0], "payload": {"v": 2**63}}])
    assert relay.write("no such collection", relay.read(collection_name)) == 0


@nested_kinds
def test_payload_nested_too_deeply_is_read_but_refused(
    relay: Relay, rest: Rest, collection_name: str, payload: object
) -> None:
    """The server writes what it cannot read; the page is the caller's to write by REST."""
    rest.create(collection_name, PLAIN)
    rest.write(collection_name, [{"id": 1, "vector": [1.0, 2.0], "payload": payload}])
    page = relay.read(collection_name)
    assert page.ids == [1]
    with pytest.raises(Rejected) as raised:
        relay.write(collection_name, page)
    assert raised.value.status == 400
    assert raised.value.final


def test_pages_are_cut_at_an_id_and_halved(relay: Relay, rest: Rest, collection_name: str) -> None:
    """Numbers come first, then UUIDs; what is cut off begins the next page."""
    rest.create(collection_name, EVERY_KIND)
    rest.write(collection_name, POINTS)
    ids = [point["id"] for point in POINTS]
    page = relay.read(collection_name)
    assert page.ids == ids
    assert (page.first_id, page.last_id, page.next_offset) == (0, UUID_HIGH, None)
    assert page.before(None) is page
    assert page.before("ffffffff-ffff-4fff-bfff-fffffffffff0").ids == ids[:-1]
    for end in (0, 3, 2**64 - 1, UUID_LOW):
        part = page.before(end)
        assert part.ids == ids[: ids.index(end)]
        assert part.next_offset == end
        assert part.size_bytes < page.size_bytes
    first, second = page.halves()
    assert (first.ids, first.next_offset) == (ids[:5], ids[5])
    assert (second.ids, second.next_offset) == (ids[5:], None)
    assert first.size_bytes + second.size_bytes <= page.size_bytes
    single, nothing = page.before(1).halves()
    assert (single.ids, single.next_offset) == ([0], 1)
    assert (nothing.count, nothing.first_id, nothing.last_id, nothing.next_offset) == (0, None, None, 1)
    assert relay.write(collection_name, nothing) == 0


def test_points_are_fetched_by_id_in_order(relay: Relay, rest: Rest, collection_name: str, other_name: str) -> None:
    """Those that exist, as a page that can be written."""
    for name in (collection_name, other_name):
        rest.create(name, EVERY_KIND)
    rest.write(collection_name, POINTS)
    page = relay.fetch(collection_name, [UUID_LOW, 77, 3, 0], read_consistency="all")
    assert page.ids == [0, 3, UUID_LOW]
    relay.write(other_name, page)
    kept = rest.points(collection_name)
    assert rest.points(other_name) == [kept[0], kept[3], kept[8]]


def test_write_must_be_applied_and_not_only_accepted() -> None:
    """Every status but `Completed` leaves the write open."""
    for name, status in qdrant.UpdateStatus.items():
        answer = qdrant.PointsOperationResponse(result=qdrant.UpdateResult(operation_id=1, status=status))
        if name == "Completed":
            require_completed(answer.SerializeToString())
            continue
        with pytest.raises(Unreachable, match="has accepted"):
            require_completed(answer.SerializeToString())
    with pytest.raises(Rejected, match="cannot be read"):
        require_completed(b"\xff")


def test_answer_that_is_none_is_an_error(channel: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Garbage does not pass for an empty page."""
    monkeypatch.setattr(channel, "call", lambda *_, **__: b"\xff")
    with pytest.raises(Rejected, match="cannot be read"):
        Relay(channel).read("any")


def test_shard_key_is_passed_on(relay: Relay, rest: Rest, collection_name: str) -> None:
    """A single node knows no shard keys and says so: the selector has arrived."""
    rest.create(collection_name, PLAIN)
    rest.write(collection_name, [{"id": 1, "vector": [1.0, 2.0]}])
    page = relay.read(collection_name, read_consistency="majority")
    selector = qdrant.ShardKeySelector(shard_keys=[qdrant.ShardKey(keyword="key")])
    with pytest.raises(Rejected):
        relay.write(collection_name, page, shard_key_selector=selector)


def test_point_without_a_vectors_field_is_written_without_vectors(
    relay: Relay, rest: Rest, collection_name: str
) -> None:
    """The server refuses a point that does not say that it has none."""
    rest.create(collection_name, PLAIN)
    rest.write(collection_name, [{"id": 1, "vector": [1.0, 2.0]}])
    page = relay.read(collection_name)
    bare = type(page.points[0])(id=page.points[0].id)
    assert relay.write(collection_name, replace(page, points=[bare])) == 1
    assert b'"vector":{}' in rest.points(collection_name)[0]
