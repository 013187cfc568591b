"""Fingerprints tell one bit apart and nothing else."""

import numpy as np

from qferry.demo.fingerprint import normalised, payload_fingerprint, vector_fingerprint


def test_vector_fingerprint_survives_the_way_through_json_numbers() -> None:
    """A float32 vector and its components as Python floats are the same."""
    vector = normalised(np.random.default_rng(0).standard_normal(384))
    assert vector_fingerprint(vector) == vector_fingerprint(vector.tolist())


def test_vector_fingerprint_sees_a_single_bit() -> None:
    """The smallest change of one component is another vector."""
    vector = normalised(np.ones(8, dtype=np.float32))
    changed = vector.copy()
    changed[3] = np.nextafter(changed[3], np.float32(2))
    assert vector_fingerprint(vector) != vector_fingerprint(changed)


def test_payload_fingerprint_ignores_key_order_and_sees_values() -> None:
    """Order does not matter, at any depth; values and their types do."""
    long = "x" * 500
    assert payload_fingerprint({"a": {"x": 1, "y": 2}, "b": long}) == payload_fingerprint(
        {"b": long, "a": {"y": 2, "x": 1}}
    )
    assert payload_fingerprint({"a": 1}) != payload_fingerprint({"a": "1"})
    assert payload_fingerprint({"a": long}) != payload_fingerprint({"a": long + "x"})
    assert payload_fingerprint(None) == payload_fingerprint({})
