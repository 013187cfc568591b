"""A collection that somebody has deleted, or made anew, without qferry: no command takes it for the one it knew."""

from __future__ import annotations

import pytest
from qdrant_client import models
from staging import Migrating, contents, point

from qferry import commands
from qferry.errors import Refused
from qferry.flows import lifecycle
from qferry.flows.coordinator import Coordinator
from qferry.flows.effects import Flow
from qferry.protocol.phases import Phase, Side


def made_anew(m: Migrating, side: Side, *ids: int) -> None:
    """Let somebody delete a collection and make another of its name, with these points."""
    name = m.migration.collection(side)
    made = m.plain.get_collection(name).config.params.vectors
    m.plain.delete_collection(name)
    m.plain.create_collection(name, vectors_config=made)
    if ids:
        m.plain.upsert(name, [point(i, theirs=True) for i in ids], wait=True)


def dropping(alias: str) -> list[models.AliasOperations]:
    """Give the operation that removes an alias."""
    return [models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=alias))]


@pytest.mark.parametrize("anew", [False, True])
def test_abort_never_deletes_the_last_copy(migrating: Migrating, anew: bool) -> None:
    """Somebody has deleted the source while the target had everything; nothing is changed, and the way out is named."""
    m = migrating.switch()
    before = contents(m.plain, m.target)
    if anew:
        made_anew(m, Side.SOURCE)
    else:
        m.plain.delete_collection(m.source)
    epoch = m.migration.epoch
    with pytest.raises(Refused, match="may hold all that is left") as refused:
        m.abort()
    assert contents(m.plain, m.target) == before
    assert (m.migration.phase, m.migration.epoch) == (Phase.SWITCHED, epoch)
    alias = m.migration.marker(Side.TARGET)
    assert f"`{alias}`" in refused.value.hint
    m.plain.update_collection_aliases(dropping(alias))
    m.abort()
    assert m.migration.phase is Phase.ABORTED
    assert contents(m.plain, m.target) == before


def test_source_that_goes_while_abort_waits_for_writers_is_noticed(
    migrating: Migrating, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked for once more before the target is deleted, and so it is by the next abort."""
    m = migrating.backfill()
    before = contents(m.plain, m.target)

    def gone(_: Coordinator) -> Flow[None]:
        m.plain.delete_collection(m.source)
        yield from ()

    monkeypatch.setattr(Coordinator, "outlast_observers", gone)
    for _ in range(2):
        with pytest.raises(Refused, match="may hold all that is left"):
            m.abort()
        assert contents(m.plain, m.target) == before
    m.plain.delete_collection(m.target)
    m.abort()
    assert m.migration.phase is Phase.ABORTED


def test_abort_of_a_start_that_has_made_one_marker_is_possible(
    migrating: Migrating, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target is empty, so that it is nobody's last copy."""
    m = migrating

    def killed(*_: object) -> Flow[None]:
        yield from ()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("qferry.flows.lifecycle.configuration.copy_indexes", killed)
        with pytest.raises(KeyboardInterrupt):
            m.start()
    assert m.migration.phase is Phase.ANNOUNCED
    m.plain.update_collection_aliases(dropping(m.migration.marker(Side.SOURCE)))
    m.abort()
    assert m.migration.phase is Phase.ABORTED
    assert not m.plain.collection_exists(m.target)


@pytest.mark.parametrize("anew", [False, True])
@pytest.mark.parametrize("side", list(Side))
def test_nothing_is_repaired_by_what_somebody_has_deleted_or_made_anew(
    migrating: Migrating, side: Side, anew: bool
) -> None:
    """A source that is empty now would empty the target; a stranger's points in the target's place would be removed."""
    m = migrating.switch()
    before = contents(m.plain, m.migration.collection(side.other))
    if anew:
        made_anew(m, side, 1000, 1001)
    else:
        m.plain.delete_collection(m.migration.collection(side))
    became = "was deleted and made anew" if anew else "is gone"
    for command in (
        lambda: m.verify(repair=True),
        lambda: commands.soak(m.connection, m.source, seconds=0),
        lambda: commands.switch(m.connection, m.source, percent=50),
        lambda: commands.finish(m.connection, m.source),
    ):
        with pytest.raises(Refused, match=f"`{m.migration.collection(side)}`, the {side.value}, {became}") as refused:
            command()
        assert ("do not abort" if side is Side.SOURCE else "`qferry abort ") in refused.value.hint
        assert contents(m.plain, m.migration.collection(side.other)) == before
        assert m.migration.phase is Phase.SWITCHED
    if anew:
        assert set(contents(m.plain, m.migration.collection(side))) == {1000, 1001}
    aliases = m.plain.get_aliases().aliases
    assert not [a for a in aliases if a.alias_name.startswith(m.migration.fence_prefix)]


def test_copy_into_a_collection_that_somebody_has_made_is_refused(migrating: Migrating) -> None:
    """Also the part of it that is left."""
    m = migrating.start()
    made_anew(m, Side.TARGET, 1000)
    with pytest.raises(Refused, match="was deleted and made anew"):
        commands.backfill(m.connection, m.source)
    assert set(contents(m.plain, m.target)) == {1000}


def test_snapshot_is_not_restored_over_a_collection_that_somebody_has_made(migrating: Migrating) -> None:
    """A recovery would put its points in the place of theirs."""
    m = migrating
    commands.start(m.connection, m.source, m.target)
    assert m.migration.phase is Phase.CAPTURING
    made_anew(m, Side.TARGET, 1000)
    with pytest.raises(Refused, match="was deleted and made anew"):
        commands.backfill(m.connection, m.source)
    assert set(contents(m.plain, m.target)) == {1000}
    assert not m.plain.list_snapshots(m.source)


@pytest.mark.parametrize("side", list(Side))
def test_readers_are_not_sent_to_what_is_made_anew_meanwhile(
    migrating: Migrating, side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the fence has been put up, and the evidence looked at for the first time."""
    m = migrating.backfill()
    assert m.verify().passed

    def anew(*_: object) -> Flow[None]:
        made_anew(m, side)
        yield from ()

    monkeypatch.setattr(lifecycle, "wait_until_green", anew)
    with pytest.raises(Refused, match=f"the {side.value}, was deleted and made anew"):
        commands.switch(m.connection, m.source, percent=100)
    assert m.migration.phase is Phase.COPIED


@pytest.mark.parametrize("side", list(Side))
def test_nothing_is_sealed_that_is_made_anew_in_the_last_moment(
    migrating: Migrating, side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All gates had been passed by then."""
    m = migrating.switch()
    before = Coordinator.drop_fence

    def anew(co: Coordinator) -> Flow[None]:
        if co.fence:
            made_anew(m, side)
        yield from before(co)

    monkeypatch.setattr(Coordinator, "drop_fence", anew)
    with pytest.raises(Refused, match=f"the {side.value}, was deleted and made anew"):
        commands.finish(m.connection, m.source)
    assert m.migration.phase is Phase.SWITCHED
