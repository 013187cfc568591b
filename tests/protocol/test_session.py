"""Tests of one client's view of the migrations around it."""

import pytest

from qferry.protocol.doubt import Doubt
from qferry.protocol.phases import Phase, Routing, Side
from qferry.protocol.records import LEASE_S, Migration, Pins, WritePolicy
from qferry.protocol.session import KEEPS_JOURNAL, TIMED_MAX, Quiet, Route, Session, p99_ms
from qferry.protocol.shadow import Totals

DUAL = [Phase.STARTING, Phase.COPYING, Phase.COPIED, Phase.SWITCHED]


def migration(phase: Phase = Phase.COPIED, *, epoch: int = 1, **fields: object) -> Migration:
    """Return a migration of `a` to `b`."""
    found = Migration(id="m1", source="a", target="b", names=("a", "b", "alias"), phase=phase, epoch=epoch)
    return found.with_changes(fields)


def session(pins: Pins | None = None) -> Session:
    """Return the session of a client that has done nothing yet."""
    return Session("w", "host", 1, "now", pins or Pins(), random=lambda: 0.5)


def learn(found: Session, migrations: list[Migration], *, at: float) -> None:
    """Let a heartbeat that begins and ends at the same moment bring these migrations."""
    found.adopt(migrations, sent_at=at, now=at)


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


@pytest.mark.parametrize("pin", [None, True])
def test_held_reads_stay_on_the_source(pin: bool | None) -> None:
    """While points of the target are repaired nobody sees it, whatever the share and the pin."""
    held = migration(Phase.SWITCHED, read_percent=100).with_changes({"reads_held": True})
    assert Route.of(held, Pins(new_reads=pin)).read_percent == 0
    sealed = held.with_changes({"phase": Phase.FINISHING})
    assert Route.of(sealed, Pins(new_reads=pin)).read_percent == 100


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
    learn(found, [], at=100.0)
    assert found.valid(100.0 + LEASE_S - 0.001)
    assert not found.valid(100.0 + LEASE_S)


def test_every_name_of_a_migration_is_routed() -> None:
    """Source, target and alias lead to the same route; other names to none."""
    found = session()
    learn(found, [migration()], at=0.0)
    assert found.route("a") == found.route("b") == found.route("alias")
    assert found.route("a") is not None
    assert found.route("c") is None


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.ABORTED])
def test_migration_that_has_not_begun_or_never_was_routes_nothing(phase: Phase) -> None:
    """Clients do nothing before the target exists, and nothing after it is gone."""
    found = session()
    learn(found, [migration(phase)], at=0.0)
    assert found.route("a") is None


FIRST = Migration("m1", "a", "b", ("a", "b"), phase=Phase.CLEANED, generation=1)
SECOND = Migration("m2", "b", "c", ("b", "c", "a"), phase=Phase.COPIED, generation=2)
RETURN = Migration("m3", "b", "a", ("b", "a"), phase=Phase.CLEANED, generation=3)


@pytest.mark.parametrize(
    ("migrations", "winner"),
    [([FIRST, SECOND], SECOND), ([SECOND, FIRST], SECOND), ([FIRST, RETURN], RETURN), ([RETURN, FIRST], RETURN)],
)
def test_name_of_several_migrations_follows_the_newest(migrations: list[Migration], winner: Migration) -> None:
    """After a has moved to b, a migration from b to c takes both along, and one back to a leads both back."""
    found = session()
    learn(found, migrations, at=0.0)
    for name in ("a", "b"):
        route = found.route(name)
        assert route is not None
        assert route.migration is winner


def test_name_of_several_migrations_follows_the_living_one() -> None:
    """A migration that is over never hides one that is under way, however old that is."""
    living = Migration("m0", "a", "z", ("a", "z"), phase=Phase.COPYING, generation=0)
    found = session()
    learn(found, [living, FIRST], at=0.0)
    route = found.route("a")
    assert route is not None
    assert route.migration is living


def test_unchanged_epochs_keep_the_view() -> None:
    """A heartbeat without news does not make every call under way an old one."""
    found = session()
    learn(found, [migration()], at=0.0)
    view = found.view
    learn(found, [migration(copied_points=7)], at=1.0)
    assert found.view is view
    assert found.valid(LEASE_S + 0.5)


def test_new_epoch_makes_a_new_view_and_retires_the_old_one() -> None:
    """Calls begun under the old view are told from those begun under the new one."""
    found = session()
    learn(found, [migration()], at=0.0)
    old = found.view
    learn(found, [migration(epoch=2)], at=1.0)
    assert found.view.serial == old.serial + 1
    assert found.view.epochs == {"m1": 2}
    assert found.retired[-1] is old


def test_acknowledgement_waits_for_calls_of_older_views() -> None:
    """An epoch is acknowledged only when every call that began before it has ended."""
    found = session()
    learn(found, [migration()], at=0.0)
    old = found.view
    old.enter(1.0)
    learn(found, [migration(epoch=2)], at=2.0)
    assert found.settled_view(3.0) is old
    old.leave()
    assert found.settled_view(3.0) is found.view
    assert found.retired == []


def test_call_under_the_newest_view_does_not_hold_up_its_acknowledgement() -> None:
    """The view of now is settled however busy it is."""
    found = session()
    learn(found, [migration()], at=0.0)
    found.view.enter(1.0)
    assert found.settled_view(1.0) is found.view


def test_acknowledgement_waits_for_doubts_of_older_views() -> None:
    """A request that may still land on the old routing is like a call that has not ended."""
    found = session()
    learn(found, [migration()], at=0.0)
    old, doubt = found.view, Doubt([""])
    old.doubts.append(doubt)
    learn(found, [migration(epoch=2)], at=2.0)
    assert found.settled_view(1e9) is old
    assert found.unanswered() == [doubt]
    doubt.answered("", until=12.0)
    assert found.unanswered() == []
    assert found.settled_view(11.9) is old
    assert found.settled_view(12.0) is found.view


def test_views_are_settled_in_order() -> None:
    """A view in the middle with no calls is not settled while an older one has some."""
    found = session()
    learn(found, [migration()], at=0.0)
    oldest = found.view
    oldest.enter(0.0)
    for epoch in (2, 3):
        learn(found, [migration(epoch=epoch)], at=1.0)
    assert found.settled_view(2.0) is oldest


def test_acknowledged_epochs_are_those_of_the_settled_view() -> None:
    """What is acknowledged is what was known then, not what is known now."""
    found = session()
    learn(found, [migration()], at=0.0)
    settled = found.view
    learn(found, [migration(epoch=2)], at=1.0)
    found.acknowledge(settled)
    assert found.acked == {"m1": 1}
    assert found.awaiting_acknowledgement()
    found.acknowledge(found.view)
    assert not found.awaiting_acknowledgement()


@pytest.mark.parametrize("phase", Phase)
def test_journal_is_kept_exactly_while_it_is_owed(phase: Phase) -> None:
    """Touched ids are remembered through every phase that may still check them."""
    found = session()
    learn(found, [migration(Phase.COPYING)], at=0.0)
    found.journal(migration()).begin([1])
    learn(found, [migration(phase, epoch=2)], at=1.0)
    assert ("m1" in found.journals) is (phase in KEEPS_JOURNAL)


def test_journal_of_a_vanished_migration_is_dropped() -> None:
    """A record that is gone asks for nothing any more."""
    found = session()
    learn(found, [migration()], at=0.0)
    found.journal(migration()).begin([1])
    learn(found, [], at=1.0)
    assert found.journals == {}


@pytest.mark.parametrize(("phase", "live"), [(Phase.COPIED, True), (Phase.FINISHED, True), (Phase.CLEANED, False)])
def test_migration_is_live_until_cleanup(phase: Phase, live: bool) -> None:
    """A finished migration still has its source in hand; a cleaned one has nothing."""
    found = session()
    learn(found, [migration(phase)], at=0.0)
    assert (found.live_migration_of("a") is not None) is live
    assert found.live_migration_of("c") is None


def test_record_says_what_the_writer_owes_and_how_long_a_call_has_held_it_up() -> None:
    """An operator sees which process a command waits for."""
    found = session(Pins(dual_write=False))
    learn(found, [migration()], at=0.0)
    found.view.enter(3.0)
    learn(found, [migration(epoch=2)], at=4.0)
    found.journal(migration()).begin([1, 2])
    found.suspect("m1")
    record = found.record(now=10.0)
    assert (record.seen, record.acked, record.debts) == ({"m1": 2}, {}, {"m1": 2})
    assert record.suspects == {"m1": 1}
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


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize("migrations", [[], [migration()]], ids=["no migration", "of another collection"])
def test_call_that_no_migration_concerns_is_quiet(migrations: list[Migration], write: bool) -> None:
    """With nothing to decide a call is only counted."""
    found = session()
    learn(found, migrations, at=0.0)
    quiet = found.enter_quiet(1.0, "other", write=write)
    assert quiet == Quiet(found.view, found.term, "other", final=True, began=1.0)
    assert (found.view.active, found.calls) == (1, 1)


def test_call_is_not_quiet_when_its_lease_has_run_out_or_it_writes_what_migrates() -> None:
    """Both ask for a decision."""
    found = session()
    assert found.enter_quiet(0.0, "a", write=False) is None
    learn(found, [migration()], at=0.0)
    assert found.enter_quiet(1.0, "a", write=True) is None
    assert found.calls == 0


@pytest.mark.parametrize(
    ("routed", "place", "final"),
    [
        (migration(Phase.COPIED), "a", True),
        (migration(Phase.SWITCHED, read_percent=100), "b", False),
        (migration(Phase.FINISHED, read_percent=100), "b", True),
    ],
    ids=lambda value: value.phase.value if isinstance(value, Migration) else str(value),
)
def test_read_is_quiet_and_goes_where_it_is_routed(routed: Migration, place: str, final: bool) -> None:
    """As long as the source is truth, a read that fails on the target is not over."""
    found = session()
    learn(found, [routed], at=0.0)
    quiet = found.enter_quiet(1.0, "a", write=False)
    assert quiet is not None
    assert quiet[:5] == Quiet(found.view, found.term, place, final=final, began=1.0)[:5]
    assert (quiet.watch is None) is final
    assert found.view.active == 1


def test_read_of_a_target_on_another_server_is_not_quiet() -> None:
    """Another client carries it out."""
    found = session()
    learn(found, [migration(Phase.SWITCHED, read_percent=100, target_url="http://elsewhere")], at=0.0)
    assert found.enter_quiet(1.0, "a", write=False) is None
    assert found.view.active == 0


@pytest.mark.parametrize("url", ["", "http://elsewhere"], ids=["same server", "other server"])
@pytest.mark.parametrize("write", [False, True])
def test_side_of_a_call_is_drawn_once(url: str, write: bool) -> None:
    """By whoever carries it out; a share that is drawn twice is squared."""
    drawn: list[float] = []
    found = session()
    found.random = lambda: drawn.append(0.05) or 0.05  # type: ignore[func-returns-value]
    learn(found, [migration(Phase.SWITCHED, read_percent=10, target_url=url)], at=0.0)
    quiet = found.enter_quiet(1.0, "a", write=write)
    assert len(drawn) == (quiet is not None) == (not write and not url)


@pytest.mark.parametrize("phase", [Phase.COPIED, Phase.SWITCHED])
def test_read_is_quiet_as_long_as_nobody_reads_a_target_on_another_server(phase: Phase) -> None:
    """It costs nothing then."""
    found = session()
    learn(found, [migration(phase, target_url="http://elsewhere")], at=0.0)
    quiet = found.enter_quiet(1.0, "a", write=False)
    assert quiet is not None
    assert quiet.side is Side.SOURCE


def test_write_of_a_client_that_may_only_read_is_not_quiet() -> None:
    """No list of writers has it, so no coordinator would wait for its write."""
    found = session()
    learn(found, [], at=0.0)
    found.observer = True
    assert found.enter_quiet(1.0, "a", write=False) is not None
    assert found.enter_quiet(1.0, "a", write=True) is None


def test_lease_that_lapsed_and_was_renewed_is_a_new_term() -> None:
    """A call that began in the old one cannot tell what happened in between."""
    found = session()
    learn(found, [], at=0.0)
    term = found.term
    learn(found, [], at=LEASE_S - 0.1)
    assert found.holds(term, LEASE_S)
    learn(found, [], at=3 * LEASE_S)
    assert not found.holds(term, 3 * LEASE_S)


def test_suspicion_that_the_record_carries_is_not_reported_again() -> None:
    """It has been heard; the next one has a name of its own."""
    found = session()
    learn(found, [migration()], at=0.0)
    found.suspect("m1")
    first = found.suspicion("m1")
    learn(found, [migration(epoch=2, suspicions=(f"somebody {first} was stopped",))], at=1.0)
    assert found.record(2.0).suspects == {}
    found.suspect("m1")
    assert found.suspicion("m1") != first


def test_suspicion_that_the_record_does_not_carry_is_reported_until_it_does() -> None:
    """A coordinator may be slow to listen."""
    found = session()
    learn(found, [migration()], at=0.0)
    found.suspect("m1")
    learn(found, [migration(epoch=2)], at=1.0)
    assert "m1" in found.record(2.0).suspects


def test_lapse_during_a_call_that_is_not_journalled_makes_the_migration_suspect() -> None:
    """The call may have written, on the source alone, what no journal has noted."""
    found = session()
    learn(found, [], at=0.0)
    found.view.enter(1.0)
    learn(found, [migration()], at=LEASE_S + 1)
    assert "m1" in found.suspects


def test_lapse_without_a_call_makes_nothing_suspect() -> None:
    """A process that was asleep has written nothing."""
    found = session()
    learn(found, [], at=0.0)
    learn(found, [migration()], at=LEASE_S + 1)
    assert found.suspects == {}


def test_record_that_vanished_is_missed_only_if_it_decides_where_writes_belong() -> None:
    """An aborted migration may be forgotten; one that has moved the truth may not."""
    found = session()
    learn(found, [migration(Phase.ABORTED)], at=0.0)
    assert found.lost([]) is None
    learn(found, [migration(Phase.FINISHED, epoch=2)], at=1.0)
    assert found.lost([]) is not None
    assert found.lost([migration(Phase.CLEANED, epoch=3)]) is None


def test_client_can_account_for_everything_when_nothing_is_open() -> None:
    """Then, and only then, it may leave without a trace."""
    found = session()
    learn(found, [migration()], at=0.0)
    assert found.accounted_for()
    found.view.enter(1.0)
    assert not found.accounted_for()
    found.view.leave()
    found.journal(migration()).begin([1])
    assert not found.accounted_for()


def test_calls_are_timed_only_while_a_migration_journals() -> None:
    """And only of what is migrated; otherwise nobody wants to know."""
    found = session()
    learn(found, [migration(Phase.ANNOUNCED)], at=0.0)
    quiet = found.enter_quiet(1.0, "other", write=False)
    assert quiet is not None
    assert found.over(quiet, 1.5)
    assert found.record(1.5).p99_ms is None
    learn(found, [migration(Phase.COPYING, epoch=9)], at=2.0)
    for name, told in (("other", None), ("a", 250.0)):
        quiet = found.enter_quiet(2.0, name, write=False)
        assert quiet is not None
        assert found.over(quiet, 2.25)
        assert found.record(2.5).p99_ms == told


def test_timed_calls_are_bounded() -> None:
    """A client that cannot report must not fill the memory."""
    found = session()
    learn(found, [migration(Phase.COPYING)], at=0.0)
    for _ in range(TIMED_MAX + 5):
        found.time(found.view, 0.001)
    assert len(found.timed_s) == TIMED_MAX


@pytest.mark.parametrize(
    ("seconds", "found"), [([], None), ([0.5], 500.0), ([0.001] * 99 + [9.0], 1.0), ([0.001] * 98 + [9.0], 9000.0)]
)
def test_all_but_a_hundredth_of_the_calls_take_p99_at_most(seconds: list[float], found: float | None) -> None:
    """Of fewer than a hundred it is the slowest."""
    assert p99_ms(seconds) == found


def at(percent: int, **changes: object) -> Migration:
    """Return a switched migration, with that share of the reads on the target."""
    return migration(Phase.SWITCHED, read_percent=percent, **changes)


def test_reads_of_one_caller_go_to_one_side() -> None:
    """And who is on the target stays there as the share grows; without a key, reads are drawn."""
    keys = [f"tenant-{n}" for n in range(100)]
    served = {}
    for percent in (10, 25, 100):
        found = session()
        learn(found, [at(percent)], at=0.0)
        route = found.route("a")
        assert route is not None
        served[percent] = set()
        for key in keys:
            found.caller = lambda key=key: key  # type: ignore[misc]  # the loop's present key
            sides = {found.side_to_read(route) for _ in range(5)}
            assert len(sides) == 1
            served[percent] |= {key} if sides == {Side.TARGET} else set()
        found.caller = lambda: None
        assert found.side_to_read(route) is (Side.TARGET if percent > 50 else Side.SOURCE)
    assert set() < served[10] < served[25] < served[100] == set(keys)


@pytest.mark.parametrize("pin", [None, True])
def test_readers_who_stepped_back_read_the_source(pin: bool | None) -> None:
    """Whatever the share and the pin, as long as the source is the truth."""
    back = at(100, stepped_back="web-1: slow")
    assert Route.of(back, Pins(new_reads=pin)).read_percent == 0
    sealed = back.with_changes({"phase": Phase.FINISHING})
    assert Route.of(sealed, Pins(new_reads=pin)).read_percent == 100


def fail_on_target(found: Session, *, now: float) -> None:
    """Let two reads on the target fail that the source answers."""
    route = found.route("a")
    assert route is not None
    found.watch(route).fail(now, began=now)
    found.watch(route).fail(now, began=now)


def registered() -> Session:
    """Return the session of a client that is on the list of writers."""
    found = session()
    found.registered = True
    return found


def test_client_that_meets_errors_on_the_target_reads_the_source_once_the_record_says_so() -> None:
    """
    With a reason that names it; writes go on as they were, and nothing is to be acknowledged anew.

    Not before: a target may become the truth while the word is under way, and then the source misses writes.
    """
    found = registered()
    learn(found, [at(100)], at=0.0)
    found.acknowledge(found.view)
    fail_on_target(found, now=1.0)
    found.look_at_targets(1.0)
    assert found.steps["m1"].epoch == 1
    assert found.steps["m1"].reason.startswith("host pid 1: 2 of its 2 reads on the target")
    for stepped_back, percent in (("", 100), (found.steps["m1"].reason, 0)):
        learn(found, [at(100, stepped_back=stepped_back)], at=1.0)
        route = found.route("a")
        assert route is not None
        assert (route.read_percent, route.writes) == (percent, Routing.DUAL)
    assert not found.awaiting_acknowledgement()


def test_client_that_is_on_no_list_does_not_step_back() -> None:
    """It could not say so, and nobody may read the source unsaid."""
    found = session()
    learn(found, [at(100)], at=0.0)
    fail_on_target(found, now=1.0)
    found.look_at_targets(1.0)
    assert found.steps == {}


def test_client_does_not_step_back_once_the_target_is_the_truth() -> None:
    """There is nothing to step back to."""
    found = registered()
    learn(found, [at(100)], at=0.0)
    fail_on_target(found, now=1.0)
    learn(found, [migration(Phase.FINISHING, epoch=2, read_percent=100)], at=1.0)
    found.look_at_targets(1.0)
    assert (found.steps, found.watches) == ({}, {})


def test_step_back_of_others_is_adopted_without_a_new_epoch() -> None:
    """Clients may not raise it."""
    found = session()
    learn(found, [at(30)], at=0.0)
    learn(found, [at(30, stepped_back="web-2: slow")], at=1.0)
    route = found.route("a")
    assert route is not None
    assert route.read_percent == 0


def test_new_epoch_ends_a_step_back_and_what_was_seen_counts_on() -> None:
    """A coordinator has spoken; a target that is no better is left again with the next heartbeat."""
    found = registered()
    learn(found, [at(100)], at=0.0)
    fail_on_target(found, now=1.0)
    found.look_at_targets(1.0)
    learn(found, [at(100, epoch=2)], at=1.0)
    assert found.steps == {}
    found.look_at_targets(2.0)
    assert found.steps["m1"].epoch == 2


def test_what_was_seen_before_a_recorded_step_back_does_not_count_after_the_next_switch() -> None:
    """The target has been mended, or so the operator says."""
    found = registered()
    learn(found, [at(100)], at=0.0)
    fail_on_target(found, now=1.0)
    learn(found, [at(100, stepped_back="web-2: slow")], at=1.0)
    learn(found, [at(100, epoch=2)], at=1.5)
    found.look_at_targets(2.0)
    assert found.steps == {}


def test_quiet_read_on_the_target_is_watched() -> None:
    """From when it begins."""
    found = session()
    learn(found, [at(100)], at=0.0)
    quiet = found.enter_quiet(1.0, "a", write=False)
    assert quiet is not None
    assert (quiet.side, quiet.watch) == (Side.TARGET, found.watches["m1"])
    assert found.watches["m1"].under_way == {quiet.number: 1.0}


def test_read_that_began_before_the_present_epoch_does_not_end_another_one() -> None:
    """It knows its own watch."""
    found = session()
    learn(found, [at(100)], at=0.0)
    old = found.enter_quiet(1.0, "a", write=False)
    learn(found, [migration(Phase.COPIED, epoch=2)], at=1.0)
    learn(found, [at(100, epoch=3)], at=1.0)
    new = found.enter_quiet(1.0, "a", write=False)
    assert old is not None
    assert new is not None
    assert (old.number, old.watch is new.watch) == (new.number, False)


@pytest.mark.parametrize(
    ("changes", "pins", "percent"),
    [
        ({}, Pins(), 60.0),
        ({"reads_held": True}, Pins(), 0.0),
        ({"phase": Phase.COPIED}, Pins(), 0.0),
        ({"phase": Phase.FINISHING}, Pins(), 0.0),
        ({}, Pins(dual_write=False), 0.0),
        ({"stepped_back": "web-1: slow"}, Pins(), 60.0),
    ],
)
def test_reads_are_shadowed_while_both_sides_have_every_write(
    changes: dict[str, object], pins: Pins, percent: float
) -> None:
    """And while no point is being repaired."""
    found = session(pins)
    learn(found, [at(0).with_changes({"shadow_percent": 60.0, **changes})], at=0.0)
    route = found.route("a")
    assert route is not None
    assert route.shadow_percent == percent
    assert found.shadowed(route, "query_points") is (percent > 50)
    assert not found.shadowed(route, "facet")


def test_shadow_totals_begin_anew_when_shadows_are_asked_for_anew() -> None:
    """What was compared before does not count."""
    found = session()
    learn(found, [at(0, shadow_percent=5.0, shadow_since=1)], at=0.0)
    found.shadow(at(0, shadow_since=1), Totals(compared=1, overlap=1.0))
    found.shadow(at(0, shadow_since=1), Totals(dropped=1))
    assert found.record(0.0).shadow == {"m1": Totals(1, compared=1, overlap=1.0, dropped=1).plain()}
    found.shadow(at(0, shadow_since=9), Totals(errors=1))
    assert found.record(0.0).shadow == {"m1": Totals(9, errors=1).plain()}


@pytest.mark.parametrize(
    "left",
    [at(100, stepped_back="web-2: slow"), migration(Phase.COPIED, epoch=2)],
    ids=["stepped back", "rolled back"],
)
def test_read_of_before_readers_were_sent_to_the_target_does_not_count(left: Migration) -> None:
    """It was on its way when the others went back, or when the operator sent them there."""
    found = registered()
    learn(found, [at(100)], at=0.0)
    learn(found, [left], at=1.0)
    learn(found, [at(100, epoch=3)], at=3.0)
    route = found.route("a")
    assert route is not None
    for began in (0.5, 2.0, 3.0):
        found.watch(route).fail(4.0, began=began)
    assert len(found.watches["m1"].ended) == 1


@pytest.mark.parametrize(
    ("heartbeat_s", "still_s", "judged"),
    [(1.0, 2.0, True), (1.0, 3.0, False), (0.2, 1.9, True), (0.2, 2.1, False), (2.5, 4.9, True), (2.5, 5.1, False)],
)
def test_process_that_has_stood_still_does_not_blame_the_target(
    heartbeat_s: float, still_s: float, judged: bool
) -> None:
    """Its reads have not been answered because it was not there; what is under way begins when it wakes."""
    found = registered()
    found.heartbeat_s = heartbeat_s
    found.lease_until = 1000.0
    learn(found, [at(100, canary_max_ms=500.0)], at=0.0)
    found.look_at_targets(0.0)
    quiet = found.enter_quiet(0.0, "a", write=False)
    assert quiet is not None
    found.look_at_targets(still_s)
    assert bool(found.steps) is judged
    found.steps.clear()
    found.look_at_targets(still_s + 0.9)
    assert bool(found.steps) is judged
    found.look_at_targets(still_s + 1.8)
    assert found.steps
