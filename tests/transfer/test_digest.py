"""Tests of the verifier's pages: every difference is seen, and nothing else is taken for one."""

import copy
import math
import struct
from dataclasses import dataclass
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from qdrant_client import grpc as qdrant
from transferring import (
    BEYOND_INT64,
    EVERY_KIND,
    PAYLOAD,
    POINTS,
    UUID_HIGH,
    UUID_LOW,
    Rest,
    nested_kinds,
    write_typed,
)

from qferry.errors import Rejected
from qferry.protocol.journal import PointId
from qferry.protocol.ranges import position
from qferry.transfer.channel import Channel
from qferry.transfer.digest import DigestPage, canonical, digests_of, read_digests, same
from qferry.transfer.fidelity import may_be_doubtful
from qferry.transfer.relay import Relay

PLAIN = {"vectors": {"size": 2, "distance": "Dot"}}
WHOLE: dict[str, Any] = {
    "id": 1,
    "vector": {
        "cosine": [0.6, 0.0, 0.8],
        "a.b/ü [0]": [1.0, 2.0],
        "half": [1.0, 2.0],
        "byte": [1.0, 2.0],
        "multi": [[1.0, 2.0], [3.0, 4.0]],
        "sparse": {"indices": [1, 5], "values": [0.5, 0.25]},
    },
    "payload": PAYLOAD,
}


@dataclass(frozen=True)
class Difference:
    """What a comparison of two pages found: ids that differ, and other ids that are doubtful."""

    differing: tuple[PointId, ...] = ()
    doubtful: tuple[PointId, ...] = ()


def compare(source: DigestPage, target: DigestPage) -> Difference:
    """Compare two pages that cover the same range of ids."""
    doubtful = source.doubtful | target.doubtful
    ours = dict(zip(source.ids, source.contents, strict=True))
    theirs = dict(zip(target.ids, target.contents, strict=True))
    differing = tuple(
        i
        for i in sorted(ours.keys() | theirs.keys(), key=position)
        if i not in ours or i not in theirs or (i not in doubtful and not same(ours[i], theirs[i]))
    )
    return Difference(differing, tuple(sorted(doubtful.difference(differing), key=position)))


def float32(bits: int) -> float:
    """Return the 32-bit float of these bits."""
    (value,) = struct.unpack("<f", struct.pack("<I", bits))
    return float(value)


def changed(*path: Any, to: Any = None, drop: bool = False) -> dict[str, Any]:
    """Return the whole point with one thing changed."""
    point = copy.deepcopy(WHOLE)
    inner = point
    for step in path[:-1]:
        inner = inner[step]
    if drop:
        del inner[path[-1]]
    else:
        inner[path[-1]] = to
    return point


DIFFERENCES: dict[str, dict[str, Any]] = {
    "one bit of a vector": changed("vector", "a.b/ü [0]", 0, to=float32(0x3F800001)),
    "sign of a zero in a vector": changed("vector", "cosine", 1, to=-0.0),
    "missing vector": changed("vector", "byte", drop=True),
    "missing sparse vector": changed("vector", "sparse", drop=True),
    "empty sparse vector for none": changed("vector", "sparse_half", to={"indices": [], "values": []}),
    "sparse index": changed("vector", "sparse", "indices", to=[1, 6]),
    "sparse value": changed("vector", "sparse", "values", to=[0.5, 0.125]),
    "sparse zero": changed("vector", "sparse", to={"indices": [1, 5, 9], "values": [0.5, 0.25, 0.0]}),
    "rows of a multivector": changed("vector", "multi", to=[[1.0, 2.0]]),
    "order of rows": changed("vector", "multi", to=[[3.0, 4.0], [1.0, 2.0]]),
    "last bit of a half": changed("vector", "half", 0, to=1.0009765625),
    "a byte": changed("vector", "byte", 1, to=3.0),
    "integer for a float": changed("payload", "float", to=1),
    "float for an integer": changed("payload", "big", to=float(2**62)),
    "one more": changed("payload", "int", to=-(2**63) + 1),
    "plus zero": changed("payload", "minus", to=0.0),
    "last bit of a double": changed("payload", "place", "lat", to=math.nextafter(52.52, 60)),
    "false for null": changed("payload", "none", to=False),
    "missing null": changed("payload", "none", drop=True),
    "text for null": changed("payload", "none", to="null"),
    "empty list for an empty object": changed("payload", "empty", to=[]),
    "missing empty list": changed("payload", "list", drop=True),
    "missing empty object": changed("payload", "empty", drop=True),
    "one character": changed("payload", "text", to="u\u0000\n"),
    "composed character": changed("payload", "text", to="u\u0308\u0000\n"),
    "order of a list": changed("payload", "a.b", "c.d", to=[1.5, 1, None, {}, [], [[]], {"": {}}]),
    "name of a key": changed("payload", "", drop=True),
    "deep inside": changed("payload", "a.b", "c.d", 6, "", to=[]),
    "no payload": changed("payload", to={}),
}
SAME: dict[str, dict[str, Any]] = {
    "order of keys": {"id": 1, "payload": dict(reversed(PAYLOAD.items())), "vector": WHOLE["vector"]},
    "order of nested keys": changed("payload", "place", to={"lat": 52.52, "lon": 13.40495}),
    "order of named vectors": changed("vector", to=dict(reversed(WHOLE["vector"].items()))),
    "order of sparse indices": changed("vector", "sparse", to={"indices": [5, 1], "values": [0.25, 0.5]}),
}


@pytest.fixture
def two(channel: Channel, rest: Rest, collection_name: str, other_name: str) -> "Two":
    """Give two collections of every kind."""
    for name in (collection_name, other_name):
        rest.create(name, EVERY_KIND)
    return Two(channel, rest, collection_name, other_name)


class Two:
    """Two collections that are written by REST and compared by digests."""

    def __init__(self, channel: Channel, rest: Rest, source: str, target: str) -> None:
        self.channel, self.rest, self.source, self.target = channel, rest, source, target

    def write(self, source: list[Any], target: list[Any]) -> None:
        """Write to both."""
        for name, points in ((self.source, source), (self.target, target)):
            if points:
                self.rest.write(name, points)

    def compare(self) -> Difference:
        """Compare the first page, and the same points read by id."""
        pages = [read_digests(self.channel, name) for name in (self.source, self.target)]
        found = compare(*pages)
        ids = list({i for page in pages for i in page.ids})
        assert compare(*(digests_of(self.channel, name, ids) for name in (self.source, self.target))) == found
        return found


def test_every_planted_difference_is_detected_and_nothing_else(two: Two) -> None:
    """A single thing that is not the same makes a difference; an order that means nothing does not."""
    cases = list((DIFFERENCES | SAME).items())
    two.write(
        [{**WHOLE, "id": n} for n in range(len(cases))], [{**point, "id": n} for n, (_, point) in enumerate(cases)]
    )
    found = two.compare()
    assert {cases[n][0] for n in found.differing if isinstance(n, int)} == DIFFERENCES.keys()
    assert not found.doubtful


def test_points_of_every_kind_equal_themselves(two: Two) -> None:
    """What is equal is found equal, and canonical content does not hide a difference between points."""
    two.write(POINTS, POINTS)
    assert two.compare() == Difference()
    page = read_digests(two.channel, two.source, read_consistency="quorum")
    assert list(page.ids) == [point["id"] for point in POINTS]
    assert len({canonical(content) for content in page.contents}) == len(POINTS)


def test_missing_and_invented_points_are_detected(two: Two) -> None:
    """In the server's order, from both sides."""
    two.write([POINTS[0], POINTS[8]], [POINTS[0], POINTS[1], POINTS[9]])
    assert two.compare() == Difference((1, UUID_LOW, UUID_HIGH))


@pytest.mark.parametrize("pair", [(n, n + 1) for n in BEYOND_INT64[:1]] + [(BEYOND_INT64[0], 2.0**63)])
def test_integers_that_grpc_shows_alike_are_doubtful(two: Two, pair: tuple[Any, Any]) -> None:
    """Their bytes are equal and they are not; so the page says that they must be compared by REST."""
    points = [[{"id": n, "vector": {}, "payload": {"a": [{"v": v if n == 1 else 7}]}} for n in (1, 2)] for v in pair]
    two.write(*points)
    pages = [read_digests(two.channel, name) for name in (two.source, two.target)]
    assert pages[0].contents == pages[1].contents
    assert two.compare() == Difference(doubtful=(1,))


def test_doubtful_on_one_side_only_is_doubtful(two: Two) -> None:
    """And what differs besides is told apart."""
    points = [{"id": n, "vector": {}, "payload": {"v": n}} for n in (1, 2, 3)]
    two.write(points, [{**points[0], "payload": {"v": 2**63}}, {**points[1], "payload": {"v": 9}}, points[2]])
    assert two.compare() == Difference((2,), (1,))


def test_vector_that_looks_like_a_doubtful_integer_is_not_doubtful(
    channel: Channel, rest: Rest, collection_name: str
) -> None:
    """The payload decides, not the bytes of a vector."""
    rest.create(collection_name, {"vectors": {"size": 3, "distance": "Dot"}})
    vector = [float32(0x11000000), 1.0, float32(0x43E00000)]
    rest.write(collection_name, [{"id": 1, "vector": vector, "payload": {"v": 1.5}}])
    page = read_digests(channel, collection_name)
    assert may_be_doubtful(page.contents[0])
    assert not page.doubtful
    assert not Relay(channel).read(collection_name).doubtful


@nested_kinds
def test_payload_nested_too_deeply_hides_no_difference(two: Two, payload: Any) -> None:
    """A point that cannot be decoded does not stop the verification, nor does it or any other pass for equal."""
    points = [
        {"id": n, "vector": {}, "payload": payload if n == UUID_LOW else {"v": 1}} for n in (1, UUID_LOW, UUID_HIGH)
    ]
    two.write(points, [{**points[0], "payload": {"v": 2**63}}, points[1], {**points[2], "payload": {"v": 2}}])
    found = two.compare()
    assert (found.differing, found.doubtful) in {((UUID_HIGH,), (1, UUID_LOW)), ((UUID_HIGH,), (1,))}
    two.write([], [{**points[1], "payload": {"p": [payload["p"]]}}])
    found = two.compare()
    assert UUID_LOW in found.differing + found.doubtful
    page = read_digests(two.channel, two.source, UUID_LOW, limit=1)
    assert (list(page.ids), page.next_offset) == ([UUID_LOW], UUID_HIGH)


def test_nan_and_infinity_are_told_apart(channel: Channel, rest: Rest, collection_name: str, other_name: str) -> None:
    """REST shows both as null."""
    for name, value in ((collection_name, math.nan), (other_name, math.inf)):
        rest.create(name, PLAIN)
        vector = qdrant.Vectors(vector=qdrant.Vector(data=[value, 1.0]))
        write_typed(channel, name, qdrant.PointStruct(id=qdrant.PointId(num=1), vectors=vector))
    assert rest.points(collection_name) == rest.points(other_name)
    found = compare(*(read_digests(channel, name) for name in (collection_name, other_name)))
    assert found == Difference((1,))


def test_double_that_the_server_changed_is_not_a_difference(two: Two) -> None:
    """A copy of an unsettled double may differ in its last bits, and so may the source after an optimization."""
    source = 1.7577945552482148e-149  # read, written and read again: 1.757794555248215e-149
    page = [{"id": 1, "vector": {}, "payload": {"v": [{"p": source}, "x"]}}]
    two.write(page, [{"id": 1, "vector": {}, "payload": {"v": [{"p": 1.757794555248215e-149}, "x"]}}])
    pages = [read_digests(two.channel, name) for name in (two.source, two.target)]
    assert compare(*pages) == Difference()


def test_pages_are_read_on_and_cut(two: Two) -> None:
    """Each page begins where the one before ended."""
    two.write(POINTS, POINTS)
    ids: list[Any] = []
    offset = None
    while True:
        page = read_digests(two.channel, two.source, offset, limit=3)
        ids += page.ids
        offset = page.next_offset
        if offset is None:
            break
    assert ids == [point["id"] for point in POINTS]
    whole = read_digests(two.channel, two.source)
    assert whole.before(None) is whole
    assert whole.before("ffffffff-ffff-4fff-bfff-fffffffffff0").next_offset == "ffffffff-ffff-4fff-bfff-fffffffffff0"
    assert list(whole.before(3).ids) == [0, 1, 2]
    assert whole.before(3).next_offset == 3
    assert DigestPage([1, 2], [b"", b""], None, frozenset({1, 2})).before(2).doubtful == {1}
    beyond = DigestPage([1, 2], [b"", b""], None)
    assert beyond.before(5) is beyond


def old(kind: str) -> qdrant.VectorOutput:
    """Return a vector as servers up to 1.16 show it."""
    if kind == "sparse":
        return qdrant.VectorOutput(data=[0.5, -0.0], indices=qdrant.SparseIndices(data=[1, 4]))
    if kind == "no sparse":
        return qdrant.VectorOutput(indices=qdrant.SparseIndices())
    if kind == "multi":
        return qdrant.VectorOutput(data=[1.0, 2.0, 3.0, -0.0], vectors_count=2)
    return qdrant.VectorOutput(data=[1.0, -0.0])


def new(kind: str) -> qdrant.VectorOutput:
    """Return the same vector as servers from 1.17 show it."""
    if kind == "sparse":
        return qdrant.VectorOutput(sparse=qdrant.SparseVector(values=[0.5, -0.0], indices=[1, 4]))
    if kind == "no sparse":
        return qdrant.VectorOutput(sparse=qdrant.SparseVector())
    if kind == "multi":
        rows = [qdrant.DenseVector(data=[1.0, 2.0]), qdrant.DenseVector(data=[3.0, -0.0])]
        return qdrant.VectorOutput(multi_dense=qdrant.MultiDenseVector(vectors=rows))
    return qdrant.VectorOutput(dense=qdrant.DenseVector(data=[1.0, -0.0]))


def content(vector: qdrant.VectorOutput, name: str | None, **more: Any) -> bytes:
    """Return a point's content."""
    named = qdrant.NamedVectorsOutput(vectors={} if name is None else {name: vector})
    vectors = qdrant.VectorsOutput(vector=vector) if name is None else qdrant.VectorsOutput(vectors=named)
    point = qdrant.RetrievedPoint(id=qdrant.PointId(num=1), vectors=vectors, **more)
    encoded: bytes = point.SerializeToString(deterministic=True)
    return encoded


@pytest.mark.parametrize("name", [None, "v"])
@pytest.mark.parametrize("kind", ["dense", "multi", "sparse", "no sparse"])
def test_vectors_of_old_and_new_servers_are_equal_when_their_numbers_are(kind: str, name: str | None) -> None:
    """The form changed with 1.17; a source and a target on different versions are compared all the same."""
    assert content(old(kind), name) != content(new(kind), name)
    assert same(content(old(kind), name), content(new(kind), name))
    for other in {"dense", "multi", "sparse", "no sparse"} - {kind}:
        assert not same(content(old(kind), name), content(new(other), name))


def test_shard_key_says_nothing_about_a_point() -> None:
    """A target may be sharded another way."""
    key = qdrant.ShardKey(keyword="k")
    assert same(content(old("dense"), None), content(old("dense"), None, shard_key=key))
    bare = qdrant.RetrievedPoint(id=qdrant.PointId(num=1))
    empty = qdrant.RetrievedPoint(
        id=qdrant.PointId(num=1), vectors=qdrant.VectorsOutput(vectors=qdrant.NamedVectorsOutput())
    )
    assert same(bare.SerializeToString(), empty.SerializeToString())


@pytest.mark.parametrize("read", [read_digests, digests_of])
def test_answer_that_is_none_is_an_error(channel: Channel, monkeypatch: pytest.MonkeyPatch, read: Any) -> None:
    """Garbage does not pass for an empty page."""
    monkeypatch.setattr(channel, "call", lambda *_, **__: b"\xff")
    with pytest.raises(Rejected, match="cannot be read") as raised:
        read(channel, "any", [] if read is digests_of else None)
    assert isinstance(raised.value.__cause__, DecodeError)
