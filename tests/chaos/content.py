"""
What the points hold: everything follows from a point's id and a token, so that a log line need not repeat it.

Each write carries a token of its own.  A vector holds its token in its first two components, bit for bit (the
collections use Euclidean distance, which leaves vectors alone); the others follow from it, so that a mixture of two
vectors is noticed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

DIMENSIONS = {"a": 16, "b": 4}
# Tokens of a lane follow each other; float32 holds integers up to 2**24 exactly, so a token is split in two.
TOKENS_PER_LANE = 2**20
GROUP = "group"
# Neighbouring groups share points that move between them.
POINTS_PER_GROUP = 10


class State(NamedTuple):
    """What a point holds: the tokens of its two vectors and of its payload's values; None where it has none."""

    a: Any
    b: Any
    group: Any
    rev: Any
    k1: Any
    k2: Any


FIELDS = State._fields
PAYLOAD_KEYS = FIELDS[2:]


@lru_cache(maxsize=4096)
def vector(token: int, dimensions: int) -> tuple[float, ...]:
    """The vector that stands for a token."""
    high, low = divmod(token, TOKENS_PER_LANE)
    rest = ((token * (2 * i + 1)) % 1009 for i in range(dimensions - 2))
    return (float(high), float(low), *map(float, rest))


def group_of(point: int, token: int, groups: int) -> int | None:
    """The group a point is in after the write with this token: its own, now and then the next one, or none."""
    chance = (token * 2654435761 >> 8) % 8
    if chance == 0:
        return None
    return (point + (chance == 1)) % groups


def written(point: int, token: int, groups: int) -> State:
    """The state that an upsert with this token leaves."""
    return State(token, token, group_of(point, token, groups), token, token if token % 2 else None, None)


def as_vectors(state: State) -> dict[str, Any]:
    """A state's vectors as they are sent."""
    tokens = {"a": state.a, "b": state.b}
    return {name: list(vector(token, DIMENSIONS[name])) for name, token in tokens.items() if token is not None}


def as_payload(state: State) -> dict[str, int]:
    """A state's payload as it is sent."""
    return {key: value for key, value in zip(PAYLOAD_KEYS, state[2:], strict=True) if value is not None}


def state_of(vectors: Mapping[str, Any] | None, payload: Mapping[str, Any] | None) -> State:
    """
    What was read, as a state.

    A vector that stands for no token, or a payload with unknown keys, becomes a text that equals no allowed state.
    """
    given = vectors or {}
    a, b = (_token_of(name, given.get(name)) for name in ("a", "b"))
    rest = dict(payload or {})
    values = [rest.pop(key, None) for key in PAYLOAD_KEYS]
    if rest or set(given) - set(DIMENSIONS):
        return State(f"unknown parts {sorted(rest)} {sorted(given)}", b, *values)
    return State(a, b, *values)


def _token_of(name: str, found: Any) -> int | str | None:
    if found is None:
        return None
    token = int(found[0]) * TOKENS_PER_LANE + int(found[1])
    return token if tuple(found) == vector(token, DIMENSIONS[name]) else f"no token's vector: {found[:4]}"
