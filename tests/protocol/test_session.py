"""Tests of one client's view of the migrations around it."""

import pytest

from qferry.protocol.doubt import Doubt
from qferry.protocol.phases import Phase, Routing, Side
from qferry.protocol.records import LEASE_S, Migration, Pins, WritePolicy
from qferry.protocol.session import KEEPS_JOURNAL, Route, Session

DUAL = [Phase.STARTING, Phase.COPYING, Phase.COPIED, Phase.SWITCHED]


def migration(phase: Phase = Phase.COPIED, *, epoch: int = 1, **fields: object) -> Migration:
    """Return a migration of `a` to `b`."""
    found = Migration(id="m1", source="a", target="b", names=("a", "b", "alias"), phase=phase, epoch=epoch)
    return found.with_changes(fields)


def session(pins: Pins | None = None) -> Session:
    """Return the session of a client that has done nothing yet."""
    return Session("w", "host", 1, "now", pins or Pins(), random=lambda: 0.5)


@pytest.mark.parametrize("phase", DUAL)
def test_route_without_pins_follows_the_record(phase: Phase) -> None:
    """Nobody's environment stands in the way."""
    route = Route.of(migration(phase, read_percent=30), Pins())
    assert (route.writes, route.truth, route.read_percent) == (Routing.DUAL, Side.SOURCE, 30)


@pytest.mark.parametrize("phase", DUAL)
def test_dual_write_pinned_off_keeps_writes_on_the_source(phase: Phase) -> None:
    """ENABLE_DUAL_WRITE=false: the source alone, with a journal."""
    assert Route.of(migration(phase), Pins(dual_write=False)).writes is Routing.CAPTURE


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase not in DUAL])
def test_dual_write_pinned_off_changes_nothing_outside_of_dual_writes(phase: Phase) -> None:
    """A pin never makes a process write to a side that is not truth."""
    assert Route.of(migration(phase), Pins(dual_write=False)).writes is migration(phase).routing


@pytest.mark.parametrize("pin", [None, True])
def test_dual_write_pinned_on_states_the_default(pin: bool | None) -> None:
    """ENABLE_DUAL_WRITE=true is what happens anyway, and starts nothing by itself."""
    assert Route.of(migration(Phase.COPIED), Pins(dual_write=pin)).writes is Routing.DUAL
    assert Route.of(migration(Phase.ABORTING), Pins(dual_write=pin)).writes is Routing.SOURCE_ONLY


@pytest.mark.parametrize(
    ("phase", "pin", "percent"),
    [
        (Phase.SWITCHED, True, 100),
        (Phase.SWITCHED, False, 0),
        (Phase.SWITCHED, None, 30),
        (Phase.COPIED, True, 0),  # not verified yet: no flag opens that gate
        (Phase.COPYING, True, 0),
        (Phase.FINISHING, False, 100),  # the source is no longer truth
        (Phase.FINISHED, False, 100),
    ],
)
def test_new_reads_pin_picks_among_what_is_safe(phase: Phase, pin: bool | None, percent: int) -> None:
    """ENABLE_NEW_READS decides only while both sides may be read."""
    share = 30 if phase is Phase.SWITCHED else 0
    assert Route.of(migration(phase, read_percent=share), Pins(new_reads=pin)).read_percent == percent


@pytest.mark.parametrize(
    ("phase", "policy", "must"),
    [
        (Phase.COPIED, WritePolicy.BOTH, True),
        (Phase.COPIED, WritePolicy.SOURCE_FIRST, False),
        (Phase.SWITCHED, WritePolicy.SOURCE_FIRST, True),
        (Phase.FINISHING, WritePolicy.SOURCE_FIRST, True),
    ],
)
def test_write_must_reach_both_once_readers_see_the_target(phase: Phase, policy: WritePolicy, must: bool) -> None:
    """The lenient policy ends where a missed write would be missed by a reader."""
    assert Route.of(migration(phase, policy=policy), Pins()).must_reach_both is must


def test_process_kept_from_the_target_is_pinned_off_only_once_readers_see_it() -> None:
    """Before the switch its writes are merely late on the target; after it they would be lost on readers."""
    assert not Route.of(migration(Phase.COPIED), Pins(dual_write=False)).pinned_off
    assert Route.of(migration(Phase.SWITCHED), Pins(dual_write=False)).pinned_off
    assert not Route.of(migration(Phase.SWITCHED), Pins()).pinned_off


def test_lease_runs_from_the_sending() -> None:
    """The answer may take its time; the lease does not wait for it."""
    found = session()
    assert not found.valid(0.0)
    found.adopt([], sent_at=100.0)
    assert found.valid(100.0 + LEASE_S - 0.001)
    assert not found.valid(100.0 + LEASE_S)


def test_every_name_of_a_migration_is_routed() -> None:
    """Source, target and alias lead to the same route; other names to none."""
    found = session()
    found.adopt([migration()], 0.0)
    assert found.route("a") == found.route("b") == found.route("alias")
    assert found.route("a") is not None
    assert found.route("c") is None


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.ABORTED])
def test_migration_that_has_not_begun_or_never_was_routes_nothing(phase: Phase) -> None:
    """Clients do nothing before the target exists, and nothing after it is gone."""
    found = session()
    found.adopt([migration(phase)], 0.0)
    assert found.route("a") is None


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_name_of_several_migrations_follows_the_newest(order: tuple[int, int]) -> None:
    """After a and b were merged by a first migration, a second one from b to c takes both along."""
    first = migration(Phase.CLEANED, created_at="2026-01-01T00:00:00Z")
    second = Migration("m2", "b", "c", ("b", "c", "a", "alias"), phase=Phase.COPIED, created_at="2026-02-01T00:00:00Z")
    found = session()
    found.adopt([(first, second)[i] for i in order], 0.0)
    for name in ("a", "b", "c", "alias"):
        route = found.route(name)
        assert route is not None
        assert route.migration is second


def test_unchanged_epochs_keep_the_view() -> None:
    """A heartbeat without news does not make every call under way an old one."""
    found = session()
    found.adopt([migration()], 0.0)
    view = found.view
    found.adopt([migration(copied_points=7)], 1.0)
    assert found.view is view
    assert found.valid(LEASE_S + 0.5)


def test_new_epoch_makes_a_new_view_and_retires_the_old_one() -> None:
    """Calls begun under the old view are told from those begun under the new one."""
    found = session()
    found.adopt([migration()], 0.0)
    old = found.view
    found.adopt([migration(epoch=2)], 1.0)
    assert found.view.serial == old.serial + 1
    assert found.view.epochs == {"m1": 2}
    assert found.retired[-1] is old


def test_acknowledgement_waits_for_calls_of_older_views() -> None:
    """An epoch is acknowledged only when every call that began before it has ended."""
    found = session()
    found.adopt([migration()], 0.0)
    old = found.view
    old.enter(1.0)
    found.adopt([migration(epoch=2)], 2.0)
    assert found.settled_view(3.0) is old
    old.leave()
    assert found.settled_view(3.0) is found.view
    assert found.retired == []


def test_call_under_the_newest_view_does_not_hold_up_its_acknowledgement() -> None:
    """The view of now is settled however busy it is."""
    found = session()
    found.adopt([migration()], 0.0)
    found.view.enter(1.0)
    assert found.settled_view(1.0) is found.view


def test_acknowledgement_waits_for_doubts_of_older_views() -> None:
    """A request that may still land on the old routing is like a call that has not ended."""
    found = session()
    found.adopt([migration()], 0.0)
    old, doubt = found.view, Doubt([""])
    old.doubts.append(doubt)
    found.adopt([migration(epoch=2)], 2.0)
    assert found.settled_view(1e9) is old
    assert found.unanswered() == [doubt]
    doubt.answered("", until=12.0)
    assert found.unanswered() == []
    assert found.settled_view(11.9) is old
    assert found.settled_view(12.0) is found.view


def test_views_are_settled_in_order() -> None:
    """A view in the middle with no calls is not settled while an older one has some."""
    found = session()
    found.adopt([migration()], 0.0)
    oldest = found.view
    oldest.enter(0.0)
    for epoch in (2, 3):
        found.adopt([migration(epoch=epoch)], 1.0)
    assert found.settled_view(2.0) is oldest


def test_acknowledged_epochs_are_those_of_the_settled_view() -> None:
    """What is acknowledged is what was known then, not what is known now."""
    found = session()
    found.adopt([migration()], 0.0)
    settled = found.view
    found.adopt([migration(epoch=2)], 1.0)
    found.acknowledge(settled)
    assert found.acked == {"m1": 1}
    assert found.awaiting_acknowledgement()
    found.acknowledge(found.view)
    assert not found.awaiting_acknowledgement()


@pytest.mark.parametrize("phase", Phase)
def test_journal_is_kept_exactly_while_it_is_owed(phase: Phase) -> None:
    """Touched ids are remembered through every phase that may still check them."""
    found = session()
    found.adopt([migration(Phase.COPYING)], 0.0)
    found.journal(migration()).begin([1])
    found.adopt([migration(phase, epoch=2)], 1.0)
    assert ("m1" in found.journals) is (phase in KEEPS_JOURNAL)


def test_journal_of_a_vanished_migration_is_dropped() -> None:
    """A record that is gone asks for nothing any more."""
    found = session()
    found.adopt([migration()], 0.0)
    found.journal(migration()).begin([1])
    found.adopt([], 1.0)
    assert found.journals == {}


@pytest.mark.parametrize(("phase", "live"), [(Phase.COPIED, True), (Phase.FINISHED, True), (Phase.CLEANED, False)])
def test_migration_is_live_until_cleanup(phase: Phase, live: bool) -> None:
    """A finished migration still has its source in hand; a cleaned one has nothing."""
    found = session()
    found.adopt([migration(phase)], 0.0)
    assert (found.live_migration_of("a") is not None) is live
    assert found.live_migration_of("c") is None


def test_record_says_what_the_writer_owes_and_how_long_a_call_has_held_it_up() -> None:
    """An operator sees which process a command waits for."""
    found = session(Pins(dual_write=False))
    found.adopt([migration()], 0.0)
    found.view.enter(3.0)
    found.adopt([migration(epoch=2)], 5.0)
    found.journal(migration()).begin([1, 2])
    found.suspects.add("m1")
    record = found.record(now=10.0)
    assert (record.seen, record.acked, record.debts) == ({"m1": 2}, {}, {"m1": 2})
    assert record.suspects == ("m1",)
    assert record.pins == Pins(dual_write=False)
    assert record.busy_s == pytest.approx(7.0)


def test_record_of_an_idle_writer_is_not_busy() -> None:
    """Calls of the newest view hold nothing up."""
    found = session()
    found.view.enter(0.0)
    assert found.record(now=10.0).busy_s == 0.0


def test_view_remembers_when_its_oldest_call_began() -> None:
    """The time counts from the first of the calls that overlap, anew after a pause."""
    view = session().view
    view.enter(1.0)
    view.enter(2.0)
    assert view.oldest_call == 1.0
    view.leave()
    view.leave()
    view.enter(3.0)
    assert view.oldest_call == 3.0
