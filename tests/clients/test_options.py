"""Tests of a client's settings."""

import pytest

from qferry import FerryOptions, Misuse
from qferry.clients.facade import target_arguments
from qferry.protocol.records import HEARTBEAT_S, LEASE_S, Pins

UNSET: dict[str, str] = {}


def test_options_of_an_empty_environment_are_the_defaults() -> None:
    """A process without any variable follows the migration."""
    assert FerryOptions.from_environ(UNSET) == FerryOptions()
    assert FerryOptions().pins == Pins(None, None)
    assert FerryOptions().heartbeat_s == HEARTBEAT_S


@pytest.mark.parametrize("text", ["true", "True", " TRUE ", "1", "yes", "on"])
def test_flag_that_says_yes_is_true(text: str) -> None:
    """In whatever way an environment file spells it."""
    options = FerryOptions.from_environ(
        {"ENABLE_DUAL_WRITE": text, "ENABLE_NEW_READS": text, "QFERRY_JOURNAL_BEFORE": text}
    )
    assert options.pins == Pins(dual_write=True, new_reads=True)
    assert options.journal_before


@pytest.mark.parametrize("text", ["false", "False", "0", "no", "off"])
def test_flag_that_says_no_is_false(text: str) -> None:
    """In whatever way an environment file spells it."""
    options = FerryOptions.from_environ({"ENABLE_DUAL_WRITE": text, "ENABLE_NEW_READS": text})
    assert options.pins == Pins(dual_write=False, new_reads=False)


@pytest.mark.parametrize("text", ["", "  "])
def test_flag_that_is_empty_is_unset(text: str) -> None:
    """A variable that a template left empty says nothing."""
    assert FerryOptions.from_environ({"ENABLE_DUAL_WRITE": text}).dual_write is None


@pytest.mark.parametrize("name", ["ENABLE_DUAL_WRITE", "ENABLE_NEW_READS", "QFERRY_JOURNAL_BEFORE"])
def test_flag_that_is_neither_is_refused(name: str) -> None:
    """A slip must not be taken for a decision."""
    with pytest.raises(Misuse) as refused:
        FerryOptions.from_environ({name: "maybe"})
    assert refused.value.message == f"{name}='maybe' is neither true nor false."
    assert refused.value.hint == "Use `true`, `false`, or leave it unset."


@pytest.mark.parametrize("seconds", [0, -1, LEASE_S / 2 + 0.1, float("nan"), float("inf")])
def test_heartbeat_that_does_not_keep_the_lease_is_refused(seconds: float) -> None:
    """Two of them must fit into a lease, so that one may be lost."""
    with pytest.raises(Misuse, match=r"A heartbeat of .+ s does not keep a lease of 5\.0 s\.") as refused:
        FerryOptions(heartbeat_s=seconds)
    assert refused.value.hint == "Choose more than 0 and at most 2.5 seconds."


def test_longest_heartbeat_that_keeps_the_lease_is_accepted() -> None:
    """The limit itself is within it."""
    assert FerryOptions(heartbeat_s=LEASE_S / 2).heartbeat_s == LEASE_S / 2


def test_key_of_the_target_is_not_shown() -> None:
    """Settings are logged; keys are not."""
    options = FerryOptions.from_environ({"QFERRY_TARGET_API_KEY": "secret"})
    assert options.target_api_key == "secret"
    assert "secret" not in repr(options)


def test_port_of_the_target_is_the_client_s_own_unless_it_is_set() -> None:
    """Two servers on one host cannot share one; with the wrong one, writes would go to the source twice."""
    assert FerryOptions.from_environ(UNSET).target_grpc_port is None
    options = FerryOptions.from_environ({"QFERRY_TARGET_GRPC_PORT": " 7334 "})
    assert options.target_grpc_port == 7334
    own = {"url": "http://a:1", "grpc_port": 6334, "api_key": "k"}
    expected = {"location": None, "host": None, "url": "http://b:1"}
    assert target_arguments(own, FerryOptions(), "http://b:1") == {**own, **expected}
    assert target_arguments(own, options, "http://b:1") == {**own, **expected, "grpc_port": 7334}


@pytest.mark.parametrize("text", ["no", "0", "65536", "-1", "1.5"])
def test_port_that_is_none_is_refused(text: str) -> None:
    """A slip must not become a default."""
    with pytest.raises(Misuse, match="is no port"):
        FerryOptions.from_environ({"QFERRY_TARGET_GRPC_PORT": text})


@pytest.mark.parametrize("own", [{"url": "http://a:1"}, {"host": "a"}, {"location": "a:1"}])
def test_target_on_the_client_s_own_host_needs_a_grpc_port_of_its_own(own: dict[str, str]) -> None:
    """With the client's own port every write would go to the source twice, and both sides would say yes."""
    given = {**own, "grpc_port": 6334, "prefer_grpc": True}
    with pytest.raises(Misuse, match="must be another one than the client's own 6334"):
        target_arguments(given, FerryOptions(), "http://a:2")
    assert target_arguments(given, FerryOptions(target_grpc_port=7334), "http://a:2")["grpc_port"] == 7334
    assert target_arguments({**given, "prefer_grpc": False}, FerryOptions(), "http://a:2")["url"] == "http://a:2"
    assert target_arguments(given, FerryOptions(), "http://b:1")["grpc_port"] == 6334
