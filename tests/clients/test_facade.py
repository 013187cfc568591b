"""Tests of the clients as objects: they look like upstream's, and refuse what they cannot carry out safely."""

import copy
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from staging import PAIRINGS, Caller, Opener, Pairing

from qferry import AsyncFerryClient, FerryClient, FerryOptions, NotAllowed
from qferry.clients.facade import by_name, lay_over, parameter_names, points_of
from qferry.clients.table import ROUTED, TABLE, Kind

CLIENTS = [(FerryClient, QdrantClient), (AsyncFerryClient, AsyncQdrantClient)]
# Written out by hand, for reasons their docstrings give.
OWN = {"close"}
OWN_ASYNC = OWN | {"upload_points", "upload_collection"}
RAW = sorted(name for name, kind in TABLE.items() if kind is Kind.RAW)


@pytest.fixture(params=PAIRINGS, ids=str)
def caller(request: pytest.FixtureRequest, open_ferry: Callable[..., Caller]) -> Caller:
    """Give a client of each kind."""
    return open_ferry(request.param)


@pytest.mark.parametrize(("ours", "upstream"), CLIENTS)
def test_client_is_a_true_subclass(ours: type[Any], upstream: type[Any]) -> None:
    """Libraries that check with isinstance accept it unchanged."""
    assert issubclass(ours, upstream)
    assert isinstance(ours.__new__(ours), upstream)


@pytest.mark.parametrize(("ours", "upstream"), CLIENTS)
def test_routed_method_has_upstream_s_name_signature_and_docstring(ours: type[Any], upstream: type[Any]) -> None:
    """Help, completion and type checkers show what they show without qferry."""
    own = OWN_ASYNC if ours is AsyncFerryClient else OWN
    for name, kind in TABLE.items():
        if (kind in ROUTED or kind is Kind.ALIASES) and hasattr(upstream, name) and name not in own:
            mine, theirs = getattr(ours, name), getattr(upstream, name)
            assert mine is not theirs, name
            assert inspect.signature(mine) == inspect.signature(theirs), name
            assert (mine.__name__, mine.__doc__) == (theirs.__name__, theirs.__doc__), name
            assert inspect.iscoroutinefunction(mine) == inspect.iscoroutinefunction(theirs), name


@pytest.mark.parametrize(("ours", "upstream"), CLIENTS)
def test_own_method_takes_what_upstream_s_takes(ours: type[Any], upstream: type[Any]) -> None:
    """What is written by hand can be called the same way, too."""
    for name in OWN_ASYNC if ours is AsyncFerryClient else OWN:
        assert inspect.iscoroutinefunction(getattr(ours, name)) == inspect.iscoroutinefunction(getattr(upstream, name))
        theirs = inspect.signature(getattr(upstream, name))
        kinds = {p.kind for p in inspect.signature(getattr(ours, name)).parameters.values()}
        assert inspect.Parameter.VAR_KEYWORD in kinds, theirs


@pytest.mark.parametrize(("ours", "upstream"), CLIENTS)
def test_server_method_is_upstream_s_own(ours: type[Any], upstream: type[Any]) -> None:
    """What names no collection is not touched at all."""
    for name, kind in TABLE.items():
        if kind in (Kind.SERVER, Kind.COMPOSED) and hasattr(upstream, name) and name not in OWN:
            assert inspect.getattr_static(ours, name) is inspect.getattr_static(upstream, name), name


def test_blocking_and_asyncio_clients_have_the_same_public_names() -> None:
    """What one can do the other can."""
    blocking, asynchronous = ({n for n in dir(c) if not n.startswith("_")} for c in (FerryClient, AsyncFerryClient))
    assert blocking == asynchronous


@pytest.mark.parametrize(("ours", "upstream"), CLIENTS)
def test_constructor_takes_every_argument_of_upstream_s(ours: type[Any], upstream: type[Any]) -> None:
    """Every argument arrives, by position or by name, without a connection being opened."""
    given: dict[str, Any] = {
        "location": None,
        "url": "http://127.0.0.1:9",
        "port": 9,
        "grpc_port": 10,
        "prefer_grpc": False,
        "https": False,
        "api_key": None,
        "prefix": "p",
        "timeout": 3,
        "host": None,
        "path": None,
        "force_disable_check_same_thread": False,
        "grpc_options": {"grpc.max_send_message_length": 1 << 20},
        "auth_token_provider": None,
        "cloud_inference": False,
        "local_inference_batch_size": 4,
        "check_compatibility": False,
        "pool_size": 2,
        "headers": {"x-a": "b"},
    }
    accepted = [
        p.name
        for p in inspect.signature(upstream.__init__).parameters.values()
        if p.name != "self" and p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    known = {name: given[name] for name in accepted if name in given}
    assert accepted == list(known), "upstream's constructor has an argument that this test does not know"
    for client in (ours(**copy.deepcopy(known)), ours(*copy.deepcopy(known).values())):
        assert client.init_options.keys() == known.keys()
        assert {k: v for k, v in client.init_options.items() if k != "grpc_options"} == {
            k: v for k, v in known.items() if k != "grpc_options"
        }
        assert client.init_options["grpc_options"].items() >= known["grpc_options"].items()


def test_ferry_option_defaults_to_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client without `ferry=` follows the flags of its process."""
    monkeypatch.setenv("ENABLE_DUAL_WRITE", "false")
    client = FerryClient(url="http://127.0.0.1:9", check_compatibility=False)
    assert client.ferry_options == FerryOptions(dual_write=False)


def test_ferry_option_that_is_given_overrides_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code has the last word over flags."""
    monkeypatch.setenv("ENABLE_DUAL_WRITE", "false")
    client = FerryClient(url="http://127.0.0.1:9", check_compatibility=False, ferry=FerryOptions())
    assert client.ferry_options.dual_write is None


class Future(QdrantClient):
    """A later version of upstream's client, with a method nobody has heard of."""

    def transmogrify(self, collection_name: str) -> str:
        """Write who knows what."""
        raise AssertionError(collection_name)


def test_unclassified_method_is_refused() -> None:
    """A method this version does not know may write, so it is not passed through."""

    class FutureFerry(Future):
        pass

    lay_over(FutureFerry, Future, lambda _name, _kind, _original: lambda *_: None)
    client = FutureFerry(url="http://127.0.0.1:9", check_compatibility=False)
    with pytest.raises(NotAllowed, match="this version of qferry does not know it") as refused:
        client.transmogrify("c")
    assert "Upgrade qferry" in refused.value.hint


def test_method_the_client_defines_itself_is_left_alone() -> None:
    """What is written by hand is not overwritten."""

    class FutureFerry(Future):
        def transmogrify(self, collection_name: str) -> str:
            return collection_name

    lay_over(FutureFerry, Future, lambda _name, _kind, _original: lambda *_: None)
    assert FutureFerry(url="http://127.0.0.1:9", check_compatibility=False).transmogrify("c") == "c"


@pytest.mark.parametrize("handle", RAW)
def test_raw_handle_is_refused(caller: Caller, handle: str) -> None:
    """What is done through a raw handle is seen by no migration."""
    with pytest.raises(NotAllowed, match=f"`{handle}` is refused: calls on the raw handle are seen by no migration"):
        getattr(caller.client, handle)


@pytest.mark.parametrize("handle", RAW)
def test_raw_handle_is_given_out_when_allowed(opener: Opener, handle: str) -> None:
    """An operator who knows that nothing migrates gets upstream's handle."""
    caller = opener.ferry(Pairing(asynchronous=False, grpc=True), FerryOptions(allow_raw=True))
    try:
        assert getattr(caller.client, handle) is not None
    finally:
        caller.call("close")


def test_migrate_is_refused(caller: Caller, opener: Opener) -> None:
    """Upstream's own way of copying collections would write behind a migration's back."""
    with pytest.raises(NotAllowed, match="`migrate` is refused") as refused:
        caller.call("migrate", opener)
    assert refused.value.hint == "Use the `qferry` command."


def test_too_many_positional_arguments_raise_what_python_raises(caller: Caller) -> None:
    """A wrong call fails like any other wrong call."""
    with pytest.raises(TypeError, match="positional arguments but 9 were given"):
        caller.call("delete", "c", [1], True, None, None, None, 7, 8)


def test_argument_given_twice_raises_what_python_raises(caller: Caller) -> None:
    """By position and by name is once too often."""
    with pytest.raises(TypeError, match="multiple values for argument 'points_selector'"):
        caller.call("delete", "c", [1], points_selector=[2])


def test_missing_argument_raises_type_error(caller: Caller) -> None:
    """A call without a required argument fails as it does without qferry."""
    with pytest.raises(TypeError, match="points"):
        caller.call("upsert", "c")


def test_collection_name_may_be_given_by_name(caller: Caller, collection: str) -> None:
    """`collection_name=` is how most applications call."""
    assert caller.call("count", collection_name=collection).count == 60


def test_arguments_are_matched_to_their_names() -> None:
    """Positional arguments take the names of upstream's signature, after the collection."""
    names = parameter_names(QdrantClient.delete)
    assert names[:2] == ("points_selector", "wait")
    assert by_name(names, ([1],), {"wait": False}) == {"points_selector": [1], "wait": False}


def test_local_mode_works_as_without_qferry() -> None:
    """`:memory:`, which applications use in their own tests, has no server to migrate on and nothing to wait for."""
    client = FerryClient(":memory:")
    client.create_collection("c", vectors_config=models.VectorParams(size=2, distance=models.Distance.DOT))
    client.upsert("c", [models.PointStruct(id=1, vector=[1.0, 2.0])])
    assert client.count("c").count == 1
    client.close()


def test_points_of_a_collection_get_ids_where_none_are_given() -> None:
    """Without ids each point gets a fresh UUID, as upstream does it."""
    made = list(points_of("upload_collection", {"vectors": [[1.0], [2.0]], "payload": [{"n": 1}, {"n": 2}]}))
    assert [p.payload for p in made] == [{"n": 1}, {"n": 2}]
    assert len({p.id for p in made}) == 2
