"""A collection that somebody has deleted, or made anew, without qferry: no command takes it for the one it knew."""

from __future__ import annotations

import pytest
from qdrant_client import models
from staging import Migrating, contents, point

from qferry.errors import Refused
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
