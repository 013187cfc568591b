"""Tests of what gRPC cannot show and what the server does not keep, held against a real server."""

import math
import random
import struct
import time

import orjson
import pytest
from qdrant_client import grpc as qdrant
from transferring import BEYOND_INT64, Rest, vectors_of, write_typed

from qferry.transfer.channel import Channel
from qferry.transfer.fidelity import is_doubtful, is_negative, may_be_doubtful, settled, settled_payload, stored

PLAIN = {"vectors": {"size": 2, "distance": "Dot"}, "optimizers_config": {"default_segment_number": 1}}


def finite(rnd: random.Random) -> float:
    """Return a double of random bits."""
    while True:
        (value,) = struct.unpack("<d", rnd.randbytes(8))
        if math.isfinite(value):
            return float(value)


def doubles(count: int) -> list[float]:
    """Return all sorts of doubles: ordinary, small, of random bits, and the ends of the range."""
    rnd = random.Random(7)
    kinds = (rnd.random, lambda: rnd.uniform(-180, 180), lambda: math.exp(-rnd.uniform(0, 60)), lambda: finite(rnd))
    ends = [0.0, -0.0, 5e-324, -5e-324, 2.2250738585072014e-308, 1e308, 1e16, 123456789012345680.0, 1e22, 1e23]
    return ends + [kinds[n % len(kinds)]() for n in range(count)]


def written(channel: Channel, collection: str, values: list[float]) -> None:
    """Write a point for each double, exactly as it is."""
    points = [
        qdrant.PointStruct(
            id=qdrant.PointId(num=n), payload={"v": qdrant.Value(double_value=value)}, vectors=vectors_of([1.0, 2.0])
        )
        for n, value in enumerate(values)
    ]
    write_typed(channel, collection, *points)


def shown(rest: Rest, collection: str) -> list[float]:
    """Read the doubles back, by REST."""
    return [orjson.loads(point)["payload"]["v"] for point in rest.points(collection)]


def bits(values: list[float]) -> list[bytes]:
    """Return doubles as bytes, in which 0.0 is not -0.0."""
    return [struct.pack("<d", value) for value in values]


def test_server_shows_what_stored_says(channel: Channel, rest: Rest, collection_name: str) -> None:
    """Each double is read as predicted; about one in ten is not the one that was written."""
    rest.create(collection_name, PLAIN)
    values = doubles(4000)
    written(channel, collection_name, values)
    assert bits(shown(rest, collection_name)) == bits([stored(value) for value in values])
    assert any(stored(value) != value for value in values)


def test_optimizer_changes_doubles_and_settled_sees_through_it(
    channel: Channel, rest: Rest, collection_name: str
) -> None:
    """An indexed collection shows other doubles than it did before, without any write; settled they are the same."""
    rest.create(collection_name, PLAIN | {"optimizers_config": {"default_segment_number": 1, "indexing_threshold": 0}})
    values = doubles(4000)
    written(channel, collection_name, values)
    before = shown(rest, collection_name)
    # The threshold is in kilobytes of vectors; there are 32.
    rest.ask("PATCH", f"/collections/{collection_name}", {"optimizers_config": {"indexing_threshold": 10}})
    until = time.monotonic() + 60.0
    while rest.ask("GET", f"/collections/{collection_name}")["indexed_vectors_count"] < len(values):
        assert time.monotonic() < until
        time.sleep(0.1)
    after = shown(rest, collection_name)
    assert any(a != b for a, b in zip(before, after, strict=True))
    assert bits([settled(value) for value in before]) == bits([settled(value) for value in after])
    assert settled_payload(before) == settled_payload(after)


def test_settled_is_a_fixed_point_or_the_least_of_a_round() -> None:
    """It does not depend on where one is on the way, and stays within a few last bits."""
    for value in doubles(4000):
        end = settled(value)
        assert settled(stored(value)) == end
        assert settled(end) == end
        assert is_negative(end) == is_negative(value)
        # A double among the smallest has few bits to lose.
        assert abs(end - value) <= max(abs(value) * 1e-12, 1e-320)


def test_settled_leaves_what_the_server_could_not_read_alone() -> None:
    """The largest double, times a power of ten, must not become infinite."""
    assert math.isfinite(settled(1.7976931348623157e308))


def test_neighbours_among_ordinary_numbers_stay_apart() -> None:
    """Prices, coordinates, times and counts are compared bit by bit."""
    rnd = random.Random(3)
    for _ in range(2000):
        for value in (round(rnd.uniform(0, 1000), 2), round(rnd.uniform(-180, 180), 6), float(rnd.randrange(2**40))):
            assert settled(value) == value
            assert stored(value) == value


def test_settled_payload_touches_nothing_but_doubles() -> None:
    """Integers, however large, text and structure stay; 1 does not become 1.0."""
    payload = {"a": [1, 2**64 - 1, None, "x", True, {"b": 0.5}], "": {}}
    assert orjson.dumps(settled_payload(payload)) == orjson.dumps(payload)


@pytest.mark.parametrize("value", BEYOND_INT64)
def test_integer_that_grpc_shows_as_a_double_is_doubtful(value: int) -> None:
    """Whatever double stands for it is within the range."""
    encoded = qdrant.Value(double_value=float(value)).SerializeToString()
    assert is_doubtful(float(value))
    assert may_be_doubtful(encoded)


@pytest.mark.parametrize(
    "value", [math.nextafter(2.0**63, 0), math.nextafter(2.0**64, math.inf), -(2.0**63), 0.5, 1e19]
)
def test_double_just_outside_is_not_doubtful(value: float) -> None:
    """The range is exact, at both ends, in the bytes and in the number."""
    encoded = qdrant.Value(double_value=value).SerializeToString()
    assert is_doubtful(value) == may_be_doubtful(encoded) == (value == 1e19)


def test_bytes_and_number_agree_everywhere_in_the_range() -> None:
    """Every exponent and any mantissa, newlines included."""
    rnd = random.Random(5)
    for _ in range(20_000):
        (value,) = struct.unpack("<d", rnd.randbytes(6) + bytes([rnd.randrange(256), 0x43]))
        encoded = qdrant.Value(double_value=value).SerializeToString()
        assert is_doubtful(value) == may_be_doubtful(encoded)
