"""
Short, comparable forms of what a point holds, the same for what was sent and for what is stored.

A stored vector is compared bit by bit. That works for Cosine collections because the server leaves a vector
alone whose squared length is within 1e-6 of one, and every vector of the demo is sent normalised in float32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import orjson

Payload: TypeAlias = frozenset[tuple[str, str]]
"""One (key, fingerprint of the value) per payload key."""

PointState: TypeAlias = tuple[str, Payload] | None
"""What a point holds: its vector's fingerprint and its payload; None when the point does not exist."""

Vectors: TypeAlias = npt.NDArray[np.float32]

# Values up to this many characters stay readable in logs and findings; longer ones become a digest.
_READABLE_CHARACTERS = 40


def vector_fingerprint(vector: Iterable[float] | Vectors) -> str:
    """
    Digest of a vector's float32 bits.

    Args:
        vector: The components, as numbers that float32 holds exactly.

    Returns:
        24 hexadecimal digits, equal for two vectors exactly when all bits are equal.
    """
    bits = np.asarray(vector, dtype="<f4").tobytes()
    return hashlib.blake2b(bits, digest_size=12).hexdigest()


def payload_fingerprint(payload: Mapping[str, Any] | None) -> Payload:
    """
    The payload with every value as JSON text, or as a digest of it when it is long.

    Args:
        payload: JSON-like payload; None counts as empty.

    Returns:
        A hashable set of (key, fingerprint).
    """
    return frozenset((key, _value_fingerprint(value)) for key, value in (payload or {}).items())


def normalised(vectors: Vectors) -> Vectors:
    """
    Scale vectors to length one, computed in float64 so that float32 rounding is the only error left.

    Args:
        vectors: One vector, or one per row; none of them zero.

    Returns:
        The same shape in float32.
    """
    exact = np.asarray(vectors, dtype=np.float64)
    scaled: Vectors = (exact / np.linalg.norm(exact, axis=-1, keepdims=True)).astype(np.float32)
    return scaled


def _value_fingerprint(value: object) -> str:
    text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    if len(text) <= _READABLE_CHARACTERS:
        return text.decode()
    return "digest:" + hashlib.blake2b(text, digest_size=12).hexdigest()
