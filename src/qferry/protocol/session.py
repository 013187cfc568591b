"""
One client's view of the migrations around it: what it may do now, until when, and what it still owes.

A `Session` is plain state.  Flows change it between two effects, and a driver never runs two such stretches at
once, so nothing in here needs a lock.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from qferry.protocol.canary import ALL_PERCENT, SILENCE_S, Watch, place_of
from qferry.protocol.doubt import Doubt
from qferry.protocol.journal import Journal
from qferry.protocol.phases import ENDED, JOURNALLED, Phase, Routing, Side
from qferry.protocol.records import HEARTBEAT_S, HOME, LEASE_S, Migration, Pins, WritePolicy, Writer, suspicion_name
from qferry.protocol.seen import note_side
from qferry.protocol.shadow import SHADOWED, Totals

# How long after its server's next answer a request that was given up may still be carried out, in seconds.  A
# server works through what it has received within its own time-outs; a proxy that holds a closed connection's
# bytes for longer than this is outside the assumptions (docs/guarantee.md).
GRACE_S = 10.0


KEEPS_JOURNAL = JOURNALLED | {Phase.FINISHING}
# And the routings under which a write is noted in it.
JOURNALS = frozenset({Routing.CAPTURE, Routing.DUAL})
# More calls than this between two heartbeats are not timed.
TIMED_MAX = 10_000
# A process that has not looked at its reads for two heartbeats has stood still; for less than this it does not matter.
STILL_MIN_S = SILENCE_S


@dataclass(frozen=True)
class Route:
    """How calls that name one of a migration's collections are carried out, pins included."""

    migration: Migration
    writes: Routing
    truth: Side
    read_percent: int
    # The share of the reads that is repeated on the other side: while it has every write, and none is repaired.
    shadow_percent: float = 0.0

    @classmethod
    def of(cls, migration: Migration, pins: Pins) -> Route:
        """The route for a process with `pins`."""
        writes, percent = migration.routing, migration.read_percent
        if writes is Routing.DUAL and migration.truth is Side.SOURCE:
            # Pins pick among what is safe: nobody reads from a target that has not passed the switch's gates.
            if pins.dual_write is False:
                writes = Routing.CAPTURE
            if pins.new_reads is not None:
                percent = 100 if pins.new_reads and migration.phase is Phase.SWITCHED else 0
            if migration.reads_held or migration.stepped_back:
                percent = 0
        if migration.truth is Side.TARGET:
            percent = 100
        shadows = migration.phase is Phase.SWITCHED and writes is Routing.DUAL and not migration.reads_held
        return cls(migration, writes, migration.truth, percent, migration.shadow_percent if shadows else 0.0)

    @property
    def must_reach_both(self) -> bool:
        """Whether a write that failed on the other side must fail for the caller too."""
        m = self.migration
        return m.policy is WritePolicy.BOTH or m.phase in (Phase.SWITCHED, Phase.FINISHING)

    @property
    def may_step_back(self) -> bool:
        """Whether this process reads the target while the source has every write as well."""
        return self.read_percent > 0 and self.truth is Side.SOURCE

    @property
    def pinned_off(self) -> bool:
        """Whether this process is kept from the target although readers already see it."""
        return self.writes is Routing.CAPTURE and self.migration.phase is Phase.SWITCHED


@dataclass
class View:
    """
    What a client knew at one moment, and how many of its calls still act on it.

    A writer acknowledges an epoch when every call that began under an older view has ended and been flushed.
    """

    serial: int
    routes: Mapping[str, Route]  # every name of a migration -> its route
    migrations: Mapping[str, Migration]
    active: int = 0
    oldest_call: float = 0.0
    doubts: list[Doubt] = field(default_factory=list)
    timed: bool = False  # whether a coordinator may want to know how long calls take

    @property
    def epochs(self) -> dict[str, int]:
        """The epoch of every migration in this view."""
        return {m.id: m.epoch for m in self.migrations.values()}

    def enter(self, now: float) -> None:
        """A call begins to act on this view."""
        if not self.active:
            self.oldest_call = now
        self.active += 1

    def leave(self) -> None:
        """A call has ended; if it may still be carried out, its doubt is in `doubts` by now."""
        self.active -= 1

    def ended(self, now: float) -> bool:
        """Whether no call that began under this view can still have an effect."""
        return not self.active and all(doubt.over(now) for doubt in self.doubts)


class Quiet(NamedTuple):
    """A call that needs no flow: the view and the term it acts on, and where it goes."""

    view: View
    term: int
    collection: str
    final: bool  # whether what it comes to is the caller's; a read that fails on the target may succeed on the source
    began: float
    route: Route | None = None  # the migration's whose collection it is
    side: Side = Side.SOURCE
    watch: Watch | None = None  # what watches it, if it is a read on the target
    number: int = 0  # by which it is known there


class Step(NamedTuple):
    """
    That a client has had enough of a target, which it has yet to say in the migration's record.

    Until that is there its reads stay where they are: a target may become the truth only while nobody reads the source.
    """

    epoch: int
    reason: str


@dataclass
class Session:
    """
    The state of one client between its calls.

    Args:
        writer_id: A unique id of this client.
        host, pid, since: Who it is, for the operator.
        pins: What the environment fixes for this process.
        random: Returns a float in [0, 1); decides which reads go to the target.
        caller: Returns the key of the caller whose call is being made, if it has one; that decides in its place.
    """

    writer_id: str
    host: str
    pid: int
    since: str
    pins: Pins
    random: Callable[[], float]
    caller: Callable[[], str | None] = lambda: None
    grace_s: float = GRACE_S
    lease_until: float = float("-inf")
    term: int = 0  # rises whenever the lease has lapsed: what began in an earlier term may have acted on old routing
    view: View = field(default_factory=lambda: View(0, {}, {}))
    retired: list[View] = field(default_factory=list)
    journals: dict[str, Journal] = field(default_factory=dict)
    suspects: dict[str, int] = field(default_factory=dict)  # migration id -> how often it could not account for a write
    failed: dict[str, int] = field(default_factory=dict)  # migration id -> writes that failed on one side alone
    occurrences: int = 0
    beat: int = 0
    flushes: int = 0
    registered: bool = False
    observer: bool = False  # the key may read but not write: it is no writer, and leases alone govern its reads
    calls: int = 0
    calls_at_last_beat: int = 0
    acked: dict[str, int] = field(default_factory=dict)
    journal_before: bool = False  # make ids durable before each write, for those who pay the round trip
    timed_s: list[float] = field(default_factory=list)  # what calls since the last report have taken
    watches: dict[str, Watch] = field(default_factory=dict)  # migration id -> its reads on the target
    shadows: dict[str, Totals] = field(default_factory=dict)  # migration id -> what its shadow reads have found
    looked_at: float | None = None  # when its reads on targets were looked at last, or the heartbeat with that ended
    heartbeat_s: float = HEARTBEAT_S
    steps: dict[str, Step] = field(default_factory=dict)  # migration id -> why readers should go back

    def valid(self, now: float) -> bool:
        """Whether the present view may still be acted on."""
        return now < self.lease_until

    def holds(self, term: int, now: float) -> bool:
        """Whether the lease has held since `term` was the present one."""
        return self.term == term and self.valid(now)

    def over(self, quiet: Quiet, now: float) -> bool:
        """Whether the lease has held throughout a quiet call, which ends now."""
        if quiet.collection in quiet.view.routes:  # what others take is another matter
            self.time(quiet.view, now - quiet.began)
        return self.holds(quiet.term, now)

    def time(self, view: View, seconds: float) -> None:
        """Note how long a call of the application has taken, while that may matter to somebody."""
        if view.timed and len(self.timed_s) < TIMED_MAX:
            self.timed_s.append(seconds)

    def enter_quiet(self, now: float, collection: str, *, write: bool) -> Quiet | None:
        """
        Begin a call that goes to one collection of the client's own server as it is; None if it must be routed.

        That is any call that no migration concerns, and a read.  It does at once what `flows.routed` does step by step,
        for the cases in which there is nothing more to it.
        """
        if not self.valid(now) or (write and self.observer):
            return None
        route = self.view.routes.get(collection)
        if route is None:
            self.calls += 1
            self.view.enter(now)
            return Quiet(self.view, self.term, collection, final=True, began=now)
        # Whoever carries it out instead draws the side: drawn twice, the share would be squared.
        if write or (route.read_percent and route.migration.server(Side.TARGET) != HOME):
            return None
        side = self.side_to_read(route)
        self.calls += 1
        self.view.enter(now)
        place, final = route.migration.collection(side), side is route.truth
        watch = None if final else self.watch(route)
        number = watch.begin(now) if watch is not None else 0
        return Quiet(self.view, self.term, place, final, now, route, side, watch, number)

    def side_to_read(self, route: Route) -> Side:
        """The side that the next read goes to: the target for the read share, of callers or of calls."""
        percent = route.read_percent
        if 0 < percent < ALL_PERCENT and (key := self.caller()) is not None:
            place = place_of(route.migration.id, key)
        else:
            place = self.random() * ALL_PERCENT
        side = Side.TARGET if percent > place else Side.SOURCE
        note_side(side)
        return side

    def watch(self, route: Route) -> Watch:
        """What becomes of this client's reads on the target of `route`."""
        return self.watches.setdefault(route.migration.id, Watch())

    def shadowed(self, route: Route, method: str) -> bool:
        """Whether a read that has just been answered is to be repeated on the other side."""
        percent = route.shadow_percent
        return percent > 0 and percent > self.random() * ALL_PERCENT and method in SHADOWED

    def shadow(self, migration: Migration, found: Totals) -> None:
        """Add to what the shadow reads of a migration have found; only one thread at a time may do so."""
        before = self.shadows.get(migration.id)
        if before is None or before.since != migration.shadow_since:
            before = Totals(migration.shadow_since)
        self.shadows[migration.id] = before + found

    def look_at_targets(self, now: float) -> None:
        """
        Step back from every target that fails this client's reads, or is too slow; who may not say so cannot.

        Looks come with the heartbeat.  If one is late, this process has stood still (stopped, paused with its machine,
        too busy), and so have its reads, without any fault of the target.
        """
        still_s = now - self.looked_at if self.looked_at is not None else 0.0
        late = still_s > max(2 * self.heartbeat_s, STILL_MIN_S)
        self.looked_at = now
        if late:
            for watch in self.watches.values():
                watch.resume(now)
        if late or not self.registered:
            return
        for migration_id, watch in list(self.watches.items()):
            m = self.view.migrations.get(migration_id)
            route = self.view.routes.get(m.source) if m is not None else None
            if m is None or route is None or route.migration is not m or not route.may_step_back:
                continue
            reason = watch.verdict(now, m.tolerance)
            if reason:
                self.step_back(m, f"{self.host} pid {self.pid}: {reason}")

    def step_back(self, migration: Migration, reason: str) -> None:
        """Let the next report ask for readers to go back to the source of `migration`, which is still the truth."""
        before = self.steps.get(migration.id)
        if before is None or before.epoch != migration.epoch:  # else it may be recorded already, in those words
            self.steps[migration.id] = Step(migration.epoch, reason)

    def adopt(self, migrations: Iterable[Migration], sent_at: float, now: float) -> None:
        """
        Take over what the control collection says, and let the lease run from the request's *sending*.

        Names given to several migrations follow the living one, otherwise the newest.

        Args:
            migrations: Every record there is.
            sent_at: When this heartbeat began.
            now: The present moment: if the lease has lapsed by now, a new term begins.
        """
        found = {m.id: m for m in migrations}
        if now >= self.lease_until:
            self.term += 1
            self._suspect_unjournalled(found.values())
        self.lease_until = sent_at + LEASE_S
        for m in found.values():
            # A suspicion of ours that the record carries need not be reported again.
            if any(self.suspicion(m.id) in why for why in m.suspicions):
                self.suspects.pop(m.id, None)
        if _marks(found) == _marks(self.view.migrations):
            return
        for migration_id in [i for i, step in self.steps.items() if i not in found or found[i].epoch != step.epoch]:
            del self.steps[migration_id]  # a coordinator has spoken since
        self._watch_anew(found, now)
        routes: dict[str, Route] = {}
        for migration in sorted(found.values(), key=lambda m: (m.phase not in ENDED, m.generation)):
            if migration.phase in (Phase.PREPARING, Phase.ABORTED):
                continue
            route = Route.of(migration, self.pins)
            routes.update(dict.fromkeys(migration.names, route))
        self.retired.append(self.view)
        timed = any(m.phase in JOURNALLED for m in found.values())
        self.view = View(self.view.serial + 1, routes, found, timed=timed)
        for migration_id in [i for i in self.journals if i not in found or found[i].phase not in KEEPS_JOURNAL]:
            del self.journals[migration_id]

    def _watch_anew(self, found: Mapping[str, Migration], now: float) -> None:
        """Forget what reads on a target have come to, unless readers see it now as they did before."""
        known, self.watches = self.watches, {}
        for migration_id, migration in found.items():
            if migration.phase is not Phase.SWITCHED:
                continue
            before = self.view.migrations.get(migration_id)
            if before is None or before.phase is not Phase.SWITCHED or migration_id not in known:
                self.watches[migration_id] = Watch(since=now)
                continue
            watch = self.watches[migration_id] = known[migration_id]
            if migration.stepped_back or before.stepped_back:
                watch.forget(now)

    def _suspect_unjournalled(self, found: Iterable[Migration]) -> None:
        """After a lapse: a call that is still under way may have written what a new journal has not noted."""
        running = [view for view in [*self.retired, self.view] if view.active or view.doubts]
        for m in found:
            routes = [view.routes.get(m.source) for view in running]
            if m.phase in JOURNALLED and any(r is None or r.writes not in JOURNALS for r in routes):
                self.suspect(m.id)

    def suspect(self, migration_id: str) -> None:
        """The client cannot account for something it wrote; only a full check can."""
        self.occurrences += 1
        self.suspects[migration_id] = self.occurrences

    def note_failed(self, migration: Migration | None) -> None:
        """A dual write has failed on one side, or could not be sent to both; its points are in the journal."""
        if migration is not None:
            self.failed[migration.id] = self.failed.get(migration.id, 0) + 1

    def suspicion(self, migration_id: str) -> str:
        """How the present suspicion of a migration is named in its record."""
        return suspicion_name(self.writer_id, self.suspects.get(migration_id, 0))

    def lost(self, found: Iterable[Migration]) -> Migration | None:
        """A migration that decides where writes go and is no longer among the records; there should be none."""
        ids = {m.id for m in found}
        known = self.view.migrations.values()
        return next((m for m in known if m.id not in ids and m.routing is not Routing.SOURCE_ONLY), None)

    def accounted_for(self) -> bool:
        """Whether no call is under way, in doubt or unflushed, so that leaving takes no knowledge along."""
        views = [*self.retired, self.view]
        owing = any(journal.debt for journal in self.journals.values())
        return not owing and not self.suspects and not any(view.active or view.doubts for view in views)

    def journal(self, migration: Migration) -> Journal:
        """The journal this client keeps for `migration`."""
        return self.journals.setdefault(migration.id, Journal())

    def unanswered(self) -> list[Doubt]:
        """The doubts whose servers have yet to answer something newer."""
        return [doubt for view in [*self.retired, self.view] for doubt in view.doubts if doubt.unanswered]

    def settled_view(self, now: float) -> View:
        """The newest view such that every call begun under an older one has ended; drops those older ones."""
        while self.retired and self.retired[0].ended(now):
            self.retired.pop(0)
        self.view.doubts = [doubt for doubt in self.view.doubts if not doubt.over(now)]
        return self.retired[0] if self.retired else self.view

    def acknowledge(self, view: View) -> None:
        """Record that what began before `view` has ended and that a flush begun after that has succeeded."""
        self.acked = view.epochs

    def awaiting_acknowledgement(self) -> bool:
        """Whether the control record is ahead of what has been acknowledged."""
        return self.acked != self.view.epochs

    def record(self, now: float) -> Writer:
        """The client as the next heartbeat reports it."""
        waiting = [v.oldest_call for v in self.retired if v.active]
        return Writer(
            id=self.writer_id,
            host=self.host,
            pid=self.pid,
            since=self.since,
            beat=self.beat,
            seen=self.view.epochs,
            acked=dict(self.acked),
            debts={i: j.debt for i, j in self.journals.items()},
            suspects=dict(self.suspects),
            failed=dict(self.failed),
            pins=self.pins,
            calls=self.calls,
            busy_s=round(now - min(waiting), 1) if waiting else 0.0,
            p99_ms=p99_ms(self.timed_s),
            shadow={i: totals.plain() for i, totals in list(self.shadows.items()) if i in self.view.migrations},
        )

    def route(self, collection: str) -> Route | None:
        """How calls naming `collection` are carried out; None: as if there were no qferry."""
        return self.view.routes.get(collection)

    def live_migration_of(self, collection: str) -> Migration | None:
        """The migration that has `collection` in hand right now, if any."""
        route = self.route(collection)
        if route is None or route.migration.phase in ENDED:
            return None
        return route.migration


def p99_ms(seconds: Collection[float]) -> float | None:
    """What all but a hundredth have taken at most, in milliseconds; of fewer than a hundred, the longest."""
    found = sorted(seconds)  # a copy: calls in other threads may go on noting theirs
    return round(found[-1 - len(found) // 100] * 1000, 1) if found else None


def _marks(found: Mapping[str, Migration]) -> dict[str, tuple[int, str]]:
    """What a view depends on that may change in a record: the epoch, and what clients may change without it."""
    return {i: (m.epoch, m.stepped_back) for i, m in found.items()}
