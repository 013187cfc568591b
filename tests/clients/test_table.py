"""Tests of the table that says what becomes of each of qdrant-client's public names."""

import inspect
from importlib.metadata import version
from typing import Any

import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient

from qferry.clients.table import ROUTED, TABLE, Kind

UPSTREAM = [QdrantClient, AsyncQdrantClient]
INSTALLED = tuple(int(number) for number in version("qdrant-client").split(".")[:2])

# The names that some supported versions of qdrant-client lack: first version with them, first version without.
SINCE = {
    "list_shard_keys": (1, 17),
    "cluster_telemetry": (1, 17),
    "get_optimizations": (1, 17),
    "create_vector_name": (1, 18),
    "delete_vector_name": (1, 18),
}
UNTIL = dict.fromkeys(
    [
        "add",
        "query",
        "query_batch",
        "set_model",
        "set_sparse_model",
        "embedding_model_name",
        "sparse_embedding_model_name",
        "get_vector_field_name",
        "get_sparse_vector_field_name",
        "get_fastembed_vector_params",
        "get_fastembed_sparse_vector_params",
        "DEFAULT_EMBEDDING_MODEL",
    ],
    (1, 19),
)


def public_names(cls: type[Any]) -> set[str]:
    """Return the names an application may use."""
    return {name for name in dir(cls) if not name.startswith("_")}


@pytest.mark.parametrize("upstream", UPSTREAM)
def test_every_public_name_is_classified(upstream: type[Any]) -> None:
    """A name that upstream adds fails this test before it is refused to anyone."""
    assert public_names(upstream) - TABLE.keys() == set()


@pytest.mark.parametrize("upstream", UPSTREAM)
def test_every_entry_still_has_its_name_upstream(upstream: type[Any]) -> None:
    """An entry whose name is gone is stale, unless a supported version is known to have it."""
    absent = {name for name, since in SINCE.items() if since > INSTALLED}
    absent |= {name for name, until in UNTIL.items() if until <= INSTALLED}
    assert TABLE.keys() - public_names(upstream) == absent


def test_names_of_other_versions_are_in_the_table() -> None:
    """The lists above name nothing that the table does not."""
    assert SINCE.keys() | UNTIL.keys() <= TABLE.keys()


@pytest.mark.parametrize("upstream", UPSTREAM)
def test_first_argument_of_a_routed_method_is_the_collection(upstream: type[Any]) -> None:
    """What a routed call is routed by is where qferry looks for it."""
    for name in public_names(upstream):
        if TABLE[name] in ROUTED:
            assert list(inspect.signature(getattr(upstream, name)).parameters)[:2] == ["self", "collection_name"], name


@pytest.mark.parametrize("upstream", UPSTREAM)
def test_method_that_is_passed_through_names_no_collection(upstream: type[Any]) -> None:
    """A method classified as the server's has no collection that a migration could have in hand."""
    for name in public_names(upstream):
        method = inspect.getattr_static(upstream, name)
        if TABLE[name] is Kind.SERVER and inspect.isfunction(method):
            assert "collection_name" not in inspect.signature(method).parameters, name


@pytest.mark.parametrize("upstream", UPSTREAM)
def test_every_method_with_a_wait_argument_is_routed(upstream: type[Any]) -> None:
    """Upstream gives `wait` to methods that write; none of them is taken for a read."""
    for name in public_names(upstream):
        method = inspect.getattr_static(upstream, name)
        if inspect.isfunction(method) and "wait" in inspect.signature(method).parameters:
            assert TABLE[name] not in (Kind.READ, Kind.COMPOSED), name


def test_blocking_and_asyncio_clients_have_the_same_names() -> None:
    """One table serves both."""
    assert public_names(QdrantClient) == public_names(AsyncQdrantClient)
