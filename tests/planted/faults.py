"""The faults, each planted once at a random place of the target, and what `qferry verify` must say of it."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .pair import DENSE, INDEXES, SPARSE, TARGET, WRONG, WRONG_DISTANCE, Found, Pair, PointId

_POINTS = f"/collections/{TARGET}/points"
_EVERY_POINT, _INDEXES, _CONFIGURATION = "every point", "payload indexes", "configuration"
# Of a float's 32 bits: not the exponent's, which may make it something that JSON has no word for.
_BITS = (*range(23), 31)


@dataclass(frozen=True)
class Fault:
    """
    A fault that has been planted.

    Args:
        where: The place, in a word.
        check: The check that must fail.
        names: What its detail must contain.
        differing: The ids that must be named, and no others.
        undo: What takes it back where `--repair` cannot; None: `--repair` must.
    """

    where: str
    check: str
    names: str
    differing: tuple[PointId, ...] = ()
    undo: Callable[[], None] | None = None

    def missed(self, found: Found) -> str:
        """What was not found of it; empty if everything was."""
        if found.exit_code != 1:
            return f"exit code {found.exit_code}"
        if self.names not in found.failed.get(self.check, ""):
            return f"failed checks {dict(found.failed)}"
        if tuple(found.differing) != self.differing:
            return f"differing {list(found.differing)[:5]}, not {list(self.differing)}"
        return ""


def one_bit(pair: Pair) -> Fault:
    """Flip one bit of one number of a point's dense or sparse vector."""
    point = pair.random.choice(pair.ids)
    vectors = pair.read(point)["vector"]
    name = pair.random.choice((DENSE, SPARSE))
    numbers = vectors[name] if name == DENSE else vectors[name]["values"]
    place, bit = pair.random.randrange(len(numbers)), pair.random.choice(_BITS)
    (bits,) = struct.unpack("<I", struct.pack("<f", numbers[place]))
    (numbers[place],) = struct.unpack("<f", struct.pack("<I", bits ^ 1 << bit))
    pair.ask("PUT", f"{_POINTS}/vectors", {"points": [{"id": point, "vector": {name: vectors[name]}}]})
    return _of_point(point, f"bit {bit} of {name}[{place}] of {point}")


def missing_point(pair: Pair) -> Fault:
    """Delete a point of the target."""
    point = pair.random.choice(pair.ids)
    pair.ask("POST", f"{_POINTS}/delete", {"points": [point]})
    return _of_point(point, str(point))


def extra_point(pair: Pair) -> Fault:
    """Write a point to the target that the source has not."""
    extra = pair.point(pair.points + pair.random.randrange(10**6))
    pair.ask("PUT", _POINTS, {"points": [extra]})
    return _of_point(extra["id"], str(extra["id"]))


def payload_type(pair: Pair) -> Fault:
    """Make a float of an integer in a payload, on its ground floor or deeper."""
    point = pair.random.choice(pair.ids)
    key = pair.random.choice(("line", "version", "deep.count"))
    payload = pair.read(point)["payload"]
    place: Any = payload
    *path, last = key.split(".")
    for name in path:
        place = place[name]
    place[last] = float(place[last])
    pair.ask("PUT", f"{_POINTS}/payload", {"points": [point], "payload": payload})
    return _of_point(point, f"{key} of {point}")


def index_parameter(pair: Pair) -> Fault:
    """Make a payload index anew without one of its parameters."""
    key = pair.random.choice(list(INDEXES))
    schema = dict(INDEXES[key])
    chosen = pair.random.choice([name for name in schema if name not in ("type", "tokenizer")])
    del schema[chosen]
    if key == "line":
        del schema["range" if chosen == "lookup" else "lookup"]  # a server takes both of them or neither
    pair.ask("DELETE", f"/collections/{TARGET}/index/{key}")
    pair.ask("PUT", f"/collections/{TARGET}/index", {"field_name": key, "field_schema": schema})
    return Fault(f"{chosen} of the index {key}", _INDEXES, f"index {key}: ")


def dropped_sparse_vector(pair: Pair) -> Fault:
    """Take a point's sparse vector away."""
    point = pair.random.choice(pair.ids)
    pair.ask("POST", f"{_POINTS}/vectors/delete", {"points": [point], "vector": [SPARSE]})
    return _of_point(point, str(point))


def stale_point(pair: Pair) -> Fault:
    """Put an earlier version of a point in its place."""
    point = pair.random.choice(pair.ids)
    stale = pair.read(point)
    stale["payload"]["version"] = 1
    stale["vector"][DENSE] = [pair.random.uniform(-1, 1) for _ in stale["vector"][DENSE]]
    pair.ask("PUT", _POINTS, {"points": [{key: stale[key] for key in ("id", "payload", "vector")}]})
    return _of_point(point, str(point))


def wrong_distance(pair: Pair) -> Fault:
    """Put a collection in the target's place that has every point, bit by bit, and measures by another distance."""
    pair.replace_target(WRONG)
    return Fault(
        WRONG_DISTANCE, _CONFIGURATION, f"{WRONG_DISTANCE!r} on the target", undo=lambda: pair.replace_target(TARGET)
    )


def _of_point(point: PointId, where: str) -> Fault:
    return Fault(where, _EVERY_POINT, str(point), (point,))


FAULTS: Mapping[str, Callable[[Pair], Fault]] = {
    "one bit of one vector": one_bit,
    "a missing point": missing_point,
    "an extra point": extra_point,
    "a payload type, 1 to 1.0": payload_type,
    "a missing parameter of a payload index": index_parameter,
    "a dropped sparse vector": dropped_sparse_vector,
    "a stale point": stale_point,
    "a wrong distance": wrong_distance,
}


def play(pair: Pair, kind: str) -> tuple[Fault, Found, str]:
    """
    Plant a fault, let it be found, mend it, and see that nothing is left.

    Returns what was planted, what was found, and what was missed; empty if nothing was.
    """
    fault = FAULTS[kind](pair)
    found = pair.verify()
    missed = fault.missed(found)
    mended = pair.verify("--repair") if fault.undo is None else fault.undo()
    if mended is not None and mended.exit_code:
        missed = missed or f"not repaired: {dict(mended.failed)}"
    left = pair.verify()
    return fault, found, missed or (f"left after it was mended: {dict(left.failed)}" if left.exit_code else "")
