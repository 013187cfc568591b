"""
What gRPC does not carry as REST does, and what the server itself does not keep.

Two holes, both measured on 1.16.3 and read in 1.14 to 1.19.

**Integers from 2**63 to 2**64 - 1.**  REST keeps them; gRPC's `Value` has only `int64`, so the server shows them as
doubles (`lib/api/src/conversions/json.rs`, `json_to_proto`).  A copy by gRPC turns 18446744073709551615 into
1.8446744073709552e19, and a comparison by gRPC cannot see it.  Such points are *doubtful*: they must be copied and
compared by REST.  A genuine double between 2**63 and 2**64 looks the same and is doubtful too; no other value is.

**Doubles that change by being stored.**  The server keeps payloads as JSON text and parses it without the
`float_roundtrip` feature of serde_json, so what is read is not always what was written, and is written anew, and may
change again, whenever the optimizer builds a segment: of 20,000 doubles of random bits 952 changed when a collection
was indexed.  Ordinary numbers settle when they are first stored; of those below 1e-6 in magnitude some 3 to 9 % go on,
and some for ever between two neighbours.  Source and target pass through different numbers of optimizations, so two
correct copies of a point may differ in the last bits.  `settled` takes a double to where that ends: what `settled`
makes equal, the server itself does not keep apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

# `double_value` (field 2, eight bytes: tag 0x11) from 2**63 to 2**64, little endian.  It may also turn up within a
# string or a vector: a match is a reason to look, not a verdict.
_MAYBE_DOUBTFUL: Final = re.compile(rb"\x11(?:.{6}[\xe0-\xef]|\x00{6}\xf0)\x43", re.DOTALL)
_POWERS: Final = tuple(float(f"1e{n}") for n in range(309))
_EXPONENT_MAX: Final = 308
_INFINITY: Final = float("inf")


def may_be_doubtful(encoded: bytes) -> bool:
    """Whether bytes of protobuf may hold an integer that gRPC cannot show; False is certain."""
    return _MAYBE_DOUBTFUL.search(encoded) is not None


def is_doubtful(value: float) -> bool:
    """Whether a double read by gRPC may be an integer from 2**63 to 2**64 - 1 in truth."""
    return 2.0**63 <= value <= 2.0**64


def settled(value: float) -> float:
    """
    Where `value` ends after it has been stored and read often enough; of an endless round, its least member.

    Two doubles with equal results cannot be told apart on a server that stores either of them.
    """
    seen: dict[float, None] = {}
    while value not in seen:
        seen[value] = None
        value = stored(value)
        if abs(value) == _INFINITY:  # the server could not even read it
            return next(iter(seen))
    members = list(seen)
    return min(members[members.index(value) :])


def settled_payload(payload: Any) -> Any:
    """A payload, as JSON, with every double in it `settled`; for the comparison of what differs bit by bit."""
    if isinstance(payload, float):
        return settled(payload)
    if isinstance(payload, dict):
        return {key: settled_payload(value) for key, value in payload.items()}
    if isinstance(payload, list):
        return [settled_payload(value) for value in payload]
    return payload


def stored(value: float) -> float:
    """
    What a server shows after it has stored a double.

    Source: serde_json 1.0.140 to 1.0.151 `de.rs`, `f64_from_parts`: all digits as an integer, rounded to a double,
    times or by a power of ten.  The shortest digits that name a double are Python's `repr` and its own.
    """
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    result = float(int(whole + fraction))
    power = int(exponent or 0) - len(fraction)
    while power < -_EXPONENT_MAX:
        result /= _POWERS[_EXPONENT_MAX]
        power += _EXPONENT_MAX
    result = result * _POWERS[power] if power >= 0 else result / _POWERS[-power]
    return -result if is_negative(value) else result


def is_negative(value: float) -> bool:
    """Whether the sign bit is set, as in -0.0."""
    return repr(value).startswith("-")


def any_doubtful(values: Iterable[float]) -> bool:
    """Whether one of these doubles may be an integer in truth."""
    return any(map(is_doubtful, values))
