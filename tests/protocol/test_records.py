"""Tests of what is stored about migrations and writers."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qferry.errors import Refused
from qferry.protocol.phases import ROUTING, Phase, Routing, Side
from qferry.protocol.records import (
    FORMAT,
    HEARTBEAT_S,
    HOME,
    LEASE_S,
    Migration,
    Pins,
    WritePolicy,
    Writer,
)

ID = "0a1b2c3d-0000-4000-8000-000000000000"
texts = st.text(max_size=8)
numbers = st.integers(0, 2**53)
optional_flag = st.none() | st.booleans()
json_objects = st.dictionaries(texts, numbers | texts | st.none() | st.lists(numbers, max_size=2), max_size=3)


def migration(**changes: object) -> Migration:
    """Return a migration of `a` to `b`."""
    return Migration(id=ID, source="a", target="b", names=("a", "b")).with_changes(changes)


@given(
    st.builds(
        Migration,
        id=texts,
        source=texts,
        target=texts,
        names=st.lists(texts).map(tuple),
        target_url=texts,
        phase=st.sampled_from(Phase),
        epoch=numbers,
        read_percent=st.integers(0, 100),
        policy=st.sampled_from(WritePolicy),
        claim=texts,
        plan=texts,
        verified=st.none() | json_objects,
        suspicions=st.lists(texts).map(tuple),
        finished_at=st.none() | texts,
        aliases=st.lists(texts).map(tuple),
        overrides=json_objects,
    )
)
def test_migration_survives_being_stored(given_migration: Migration) -> None:
    """A migration read back from its JSON is the one that was written."""
    stored = json.loads(json.dumps(given_migration.to_payload()))
    assert stored["kind"] == "migration"
    assert Migration.from_payload(stored) == given_migration


@given(
    st.builds(
        Writer,
        id=texts,
        host=texts,
        pid=numbers,
        since=texts,
        beat=numbers,
        seen=st.dictionaries(texts, numbers),
        acked=st.dictionaries(texts, numbers),
        debts=st.dictionaries(texts, numbers),
        suspects=st.dictionaries(texts, numbers),
        pins=st.builds(Pins, optional_flag, optional_flag),
        calls=numbers,
    )
)
def test_writer_survives_being_stored(given_writer: Writer) -> None:
    """A writer read back from its JSON is the one that was written."""
    stored = json.loads(json.dumps(given_writer.to_payload()))
    assert stored["kind"] == "writer"
    assert Writer.from_payload(stored) == given_writer


@pytest.mark.parametrize("found", [FORMAT + 1, None, "1"])
def test_migration_of_an_unknown_format_is_refused(found: object) -> None:
    """What another version wrote is not guessed at."""
    stored = {**migration().to_payload(), "format": found}
    with pytest.raises(Refused, match=r"A migration record has format .+ and this version of qferry knows only 1\."):
        Migration.from_payload(stored)


def test_writer_of_an_unknown_format_is_refused() -> None:
    """A writer this version cannot understand is not overlooked."""
    with pytest.raises(Refused, match="A writer record has format 99"):
        Writer.from_payload({"kind": "writer", "format": 99})


def test_unknown_field_of_a_known_format_is_passed_over() -> None:
    """A field that was added without a new format is of no concern."""
    stored = {**migration().to_payload(), "colour": "green"}
    assert Migration.from_payload(stored) == migration()


def test_absent_optional_field_takes_its_default() -> None:
    """A record written before a field was added is still read."""
    stored = migration().to_payload()
    del stored["copied_points"], stored["aliases"]
    assert Migration.from_payload(stored) == migration()


@pytest.mark.parametrize("phase", Phase)
def test_routing_follows_the_phase(phase: Phase) -> None:
    """A migration's routing is its phase's."""
    assert migration(phase=phase).routing is ROUTING[phase]


def test_truth_is_the_source_until_the_point_of_no_return() -> None:
    """Readers and filters follow the source until `finishing`."""
    on_target = {phase for phase in Phase if migration(phase=phase).truth is Side.TARGET}
    assert on_target == {Phase.FINISHING, Phase.FINISHED, Phase.CLEANED}


def test_sides_have_their_collection_their_server_and_their_marker() -> None:
    """The source is on the server the client was made for; the target may be elsewhere."""
    found = migration(target_url="http://other:6333")
    assert (found.collection(Side.SOURCE), found.server(Side.SOURCE)) == ("a", HOME)
    assert (found.collection(Side.TARGET), found.server(Side.TARGET)) == ("b", "http://other:6333")
    assert found.marker(Side.SOURCE) != found.marker(Side.TARGET)


def test_names_of_qferry_s_own_begin_with_the_control_collection_s() -> None:
    """Whatever a migration leaves on a server can be told from the application's collections and aliases."""
    found = migration()
    own = [found.journal_collection, found.marker(Side.SOURCE), found.marker(Side.TARGET), found.fence("token")]
    assert all(name.startswith("_qferry_") for name in own)
    assert len(set(own)) == len(own)


def test_lease_outlives_several_heartbeats() -> None:
    """One lost heartbeat does not cost a lease."""
    assert LEASE_S > 2 * HEARTBEAT_S


@pytest.mark.parametrize(
    ("pins", "told"),
    [
        (Pins(), ""),
        (Pins(dual_write=False), "ENABLE_DUAL_WRITE=false"),
        (Pins(dual_write=True, new_reads=False), "ENABLE_DUAL_WRITE=true, ENABLE_NEW_READS=false"),
    ],
)
def test_pins_are_told_as_the_operator_set_them(pins: Pins, told: str) -> None:
    """An operator finds the variable by its name."""
    assert pins.describe() == told


def test_writer_is_described_by_host_and_process() -> None:
    """An operator finds the process."""
    writer = Writer("w", "box", 42, "2026-01-01T00:00:00Z", 1, {}, {}, {})
    assert writer.describe() == "box pid 42 (connected since 2026-01-01T00:00:00Z)"


def test_migration_without_a_phase_routes_to_the_source() -> None:
    """A record that was only just written changes nothing for anyone."""
    assert migration().routing is Routing.SOURCE_ONLY


@pytest.mark.parametrize("field", ["phase", "policy", "strategy"])
def test_a_word_of_a_later_version_is_refused(field: str) -> None:
    """A client that cannot know how to route must not guess; the error says which version to use."""
    payload = {**migration().to_payload(), field: "teleporting"}
    with pytest.raises(Refused, match=r"says `teleporting`.*Use the version of qferry that wrote it"):
        Migration.from_payload(payload)
