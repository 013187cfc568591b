"""A collection's configuration as raw JSON: copying it whole, and telling two of them apart."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import orjson

from qferry.control import wire
from qferry.errors import Refused
from qferry.flows.effects import Flow, Json

# Where collection info and collection creation name the same thing differently.
_CREATED_AS = {"optimizer_config": "optimizers_config"}
# Vectors are copied bit by bit; a change of these would be a transform (docs/adr/0006).
_FIXED = ("size", "distance", "datatype", "multivector_config")

# What `PATCH /collections/{name}` changes of a collection that exists, and which of it is under `params` there (Qdrant,
# "Update collection parameters", 1.16; held against a server by tests/cli/test_cli_plan.py).
_IN_PLACE = frozenset({"hnsw_config", "optimizers_config", "quantization_config", "strict_mode_config"})
_IN_PLACE_PARAMS = frozenset({"on_disk_payload", "replication_factor", "write_consistency_factor"})


def in_place(overrides: Mapping[str, Any]) -> Json:
    """The body with which a server makes these changes in place, without a migration; None if it cannot."""
    if not overrides or not overrides.keys() <= _IN_PLACE | _IN_PLACE_PARAMS:
        return None
    params = {name: value for name, value in overrides.items() if name in _IN_PLACE_PARAMS}
    body = {name: value for name, value in overrides.items() if name in _IN_PLACE}
    return {**body, **({"params": params} if params else {})}


def is_replicated(overrides: Mapping[str, Any]) -> bool:
    """Whether a target made with `overrides` is on a cluster: there, and only there, `plan` wants copies counted."""
    return "replication_factor" in overrides


def to_create(info: Json, overrides: Mapping[str, Any]) -> Json:
    """
    The body that creates a collection configured like the one `info` describes, with `overrides` laid over it.

    Raises:
        Refused: An override would change what the vectors are.
    """
    config = info["config"]
    body = {**config["params"]}
    for name, value in config.items():
        if name != "params" and value is not None:
            body[_CREATED_AS.get(name, name)] = value
    merged = _merged(body, overrides)
    for name, vector in _vectors(body).items():
        changed = _vectors(merged).get(name, {})
        for key in _FIXED:
            if changed.get(key) != vector.get(key):
                raise Refused(
                    f"The override changes `{key}` of the vectors; qferry copies vectors bit by bit.",
                    hint="Leave size, distance, datatype and multivector configuration as they are.",
                )
    if _vectors(merged).keys() != _vectors(body).keys():
        raise Refused("The override adds or removes a vector; qferry copies points as they are.")
    return merged


def _vectors(body: Json) -> dict[str, Json]:
    vectors = body.get("vectors") or {}
    dense = {"": vectors} if isinstance(vectors.get("size"), int) else vectors  # one may be named so
    return {**dense, **{name: {} for name in body.get("sparse_vectors") or {}}}


def _merged(base: Any, over: Any) -> Any:
    if not isinstance(base, Mapping) or not isinstance(over, Mapping):
        return over
    return {**base, **{key: _merged(base.get(key), value) for key, value in over.items()}}


def indexes(info: Json) -> dict[str, Json]:
    """The payload indexes with all their parameters, in the form that creates them."""
    found = {}
    for name, schema in (info.get("payload_schema") or {}).items():
        params = schema.get("params")
        found[name] = params or schema["data_type"]
    return found


def unindexed(overrides: Mapping[str, Any]) -> Json:
    """Overrides of a target that builds no vector index yet (Qdrant, "Optimizer": a threshold of 0 disables it)."""
    return _merged(overrides, {"optimizers_config": {"indexing_threshold": 0}})


def let_index(server: str, target: str, source_info: Json, overrides: Mapping[str, Any]) -> Flow[None]:
    """Let a target that was `unindexed` build its vector indexes, as it was asked for."""
    wanted = to_create(source_info, overrides)["optimizers_config"]
    yield wire.update_collection(server, target, {"optimizers_config": wanted})


def differences(source: Json, target: Json, overrides: Mapping[str, Any]) -> list[str]:
    """What in the target's configuration is not as the source's and the overrides say, one line each."""
    wanted, found = to_create(source, overrides), to_create(target, {})
    # The server fills in what creation left out, and it is free to name defaults of its own.
    return [
        f"{path}: {value!r} on the source, {other!r} on the target" for path, value, other in _unlike(wanted, found)
    ]


def _unlike(wanted: Any, found: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        lines = []
        for key in sorted({*wanted, *found}):
            lines += _unlike(wanted.get(key), found.get(key), f"{path}.{key}" if path else key)
        return lines
    return [] if wanted == found else [(path, wanted, found)]


def index_differences(source: Json, target: Json) -> list[str]:
    """Payload indexes that are missing, different or superfluous on the target, one line each."""
    return [
        f"index {name}: {wanted!r} on the source, {found!r} on the target"
        for name, wanted, found in _unlike_indexes(source, target)
    ]


def _unlike_indexes(source: Json, target: Json) -> list[tuple[str, Any, Any]]:
    wanted, found = indexes(source), indexes(target)
    return [(n, wanted.get(n), found.get(n)) for n in sorted({*wanted, *found}) if wanted.get(n) != found.get(n)]


def fingerprint(source: Json, target: Json) -> str:
    """What changes when the configuration or a payload index of either side does."""
    told = [{"config": info["config"], "indexes": indexes(info)} for info in (source, target)]
    return sha256(orjson.dumps(told, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def copy_indexes(server: str, target: str, source_info: Json, target_info: Json) -> Flow[list[str]]:
    """Create, on the target, each payload index that differs there; returns their names."""
    changed = []
    for name, wanted, found in _unlike_indexes(source_info, target_info):
        if found is not None:
            yield wire.delete_index(server, target, name)
        if wanted is not None:
            yield wire.create_index(server, target, name, wanted)
        changed.append(name)
    return changed
