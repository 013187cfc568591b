"""Tests of the flags that pin one process: ENABLE_DUAL_WRITE and ENABLE_NEW_READS."""

import os
from collections.abc import Callable

import pytest
from qdrant_client import models
from staging import PAIRINGS, Caller, Migrating, Pairing, named, point

from qferry import FerryClient, FerryOptions, NotAllowed, Refused, commands

PLAIN_PAIRING = Pairing(asynchronous=False, grpc=False)


def pinned(open_ferry: Callable[..., Caller], pairing: Pairing = PLAIN_PAIRING, **flags: bool) -> FerryClient:
    """Open a client of a process with flags."""
    return open_ferry(pairing, FerryOptions(heartbeat_s=0.1, **flags)).client  # type: ignore[no-any-return]


def side_read(client: FerryClient, migrating: Migrating) -> str:
    """Return the side a read comes from, after making the sides differ."""
    for side, name in (("source", migrating.source), ("target", migrating.target)):
        migrating.plain.set_payload(name, {"side": side}, [1])
    side: str = client.retrieve(migrating.source, [1])[0].payload["side"]  # type: ignore[index]
    return side


@pytest.mark.parametrize("pairing", PAIRINGS, ids=str)
def test_writes_of_a_process_without_dual_write_stay_on_the_source_and_are_journalled(
    migrating: Migrating, open_ferry: Callable[..., Caller], pairing: Pairing
) -> None:
    """ENABLE_DUAL_WRITE=false: what the target misses is in the journal, and settled from there."""
    caller = open_ferry(pairing, FerryOptions(heartbeat_s=0.1, dual_write=False))
    migrating.backfill()
    caller.call("upsert", migrating.source, [point(1000)])
    caller.call("delete", migrating.source, [2])
    caller.call("set_payload", migrating.source, {"seen": 1}, named("group", 3))
    source, target = migrating.sides()
    assert 1000 in source
    assert 1000 not in target
    assert 2 in target
    commands.verify(migrating.connection, migrating.source)
    source, target = migrating.sides()
    assert source == target
    assert sum("seen" in payload for payload, _ in source.values()) == 10


def test_partial_update_of_a_missing_point_fails_without_dual_write_as_it_does_without_qferry(
    migrating: Migrating, open_ferry: Callable[..., Caller]
) -> None:
    """The source alone is asked, and the source says no."""
    client = pinned(open_ferry, dual_write=False)
    migrating.start()
    with pytest.raises(Exception, match="No point with id 1000"):
        client.set_payload(migrating.source, {"a": 1}, [1000])


def test_switch_is_refused_while_a_process_is_kept_from_the_target(
    migrating: Migrating, open_ferry: Callable[..., Caller]
) -> None:
    """The message names the process and the variable; once it has gone the switch passes."""
    client = pinned(open_ferry, dual_write=False)
    migrating.backfill()
    client.count(migrating.source)  # a client that makes no calls is on no list until the first migration of its server
    assert migrating.verify().passed
    with pytest.raises(Refused, match=rf"pid {os.getpid()} .*ENABLE_DUAL_WRITE=false") as refused:
        commands.switch(migrating.connection, migrating.source, percent=1)
    assert refused.value.hint == "Restart it without the variable."
    client.close()
    commands.switch(migrating.connection, migrating.source, percent=1)


def test_write_of_a_process_without_dual_write_is_refused_once_readers_see_the_target(
    migrating: Migrating, open_ferry: Callable[..., Caller]
) -> None:
    """A process that comes up with the flag after the switch would hide its writes from readers."""
    migrating.switch(1)
    client = pinned(open_ferry, dual_write=False)
    with pytest.raises(NotAllowed, match="ENABLE_DUAL_WRITE=false keeps this process from the target") as refused:
        client.upsert(migrating.source, [point(1000)])
    assert "qferry rollback" in refused.value.hint
    assert 1000 not in migrating.sides()[0]


def test_dual_write_flag_that_is_on_changes_nothing(migrating: Migrating, open_ferry: Callable[..., Caller]) -> None:
    """ENABLE_DUAL_WRITE=true states what happens anyway."""
    client = pinned(open_ferry, dual_write=True)
    migrating.backfill()
    client.upsert(migrating.source, [point(1000)])
    source, target = migrating.sides()
    assert source == target


def test_reads_of_a_pinned_process_follow_its_flag(migrating: Migrating, open_ferry: Callable[..., Caller]) -> None:
    """ENABLE_NEW_READS decides for its process alone, and only after the switch has passed its gates."""
    eager, shy, free = (
        pinned(open_ferry, new_reads=True),
        pinned(open_ferry, new_reads=False),
        pinned(open_ferry),
    )
    migrating.backfill()
    assert [side_read(c, migrating) for c in (eager, shy, free)] == ["source", "source", "source"]
    migrating.plain.overwrite_payload(migrating.target, {"n": 0, "group": 1, "side": "source"}, [1])
    assert migrating.verify().passed
    commands.switch(migrating.connection, migrating.source, percent=1)
    free._session.random = lambda: 0.5
    assert [side_read(c, migrating) for c in (eager, shy, free)] == ["target", "source", "source"]
    commands.switch(migrating.connection, migrating.source, percent=100)
    assert [side_read(c, migrating) for c in (eager, shy, free)] == ["target", "source", "target"]


def test_finish_is_refused_while_a_process_is_kept_on_the_source(
    migrating: Migrating, open_ferry: Callable[..., Caller]
) -> None:
    """The message names the process and the variable; once it has gone finish passes."""
    client = pinned(open_ferry, new_reads=False)
    migrating.switch()
    client.count(migrating.source)
    with pytest.raises(Refused, match=rf"pid {os.getpid()} .*ENABLE_NEW_READS=false") as refused:
        commands.finish(migrating.connection, migrating.source)
    assert refused.value.hint == "Restart it without the variable."
    client.close()
    commands.finish(migrating.connection, migrating.source)


def test_reads_of_every_process_are_on_the_target_after_finish(
    migrating: Migrating, open_ferry: Callable[..., Caller]
) -> None:
    """A flag left behind in an environment does not keep a process on a collection that is out of use."""
    migrating.finish()
    client = pinned(open_ferry, new_reads=False, dual_write=False)
    assert side_read(client, migrating) == "target"
    result = client.upsert(migrating.source, [point(1000)])
    assert result.status == models.UpdateStatus.COMPLETED
    assert 1000 in migrating.sides()[1]


def test_flags_are_shown_in_the_status(migrating: Migrating, open_ferry: Callable[..., Caller]) -> None:
    """An operator sees which process is pinned."""
    client = pinned(open_ferry, dual_write=False, new_reads=True)
    migrating.start()
    client.count(migrating.source)
    told = {writer.pins.describe() for writer in migrating.status.writers}
    assert "ENABLE_DUAL_WRITE=false, ENABLE_NEW_READS=true" in told
