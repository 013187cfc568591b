"""
What is wrong with migrations, as far as it can be read.  Nothing here writes, and nothing is guessed.

Silence is judged as commands judge it: by counters that have stood still for a claim's, or a lease's, time on this
process's own monotonic clock.  While a command is at work, what it may be changing is not looked at.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qferry.control import records, wire
from qferry.errors import Refused, Rejected, RemoteFailure
from qferry.flows import cleanup, leftovers, lifecycle
from qferry.flows.coordinator import carries_marker, is_collection, what_became_of, what_to_save
from qferry.flows.effects import Flow, Now, Report, Sleep, Today
from qferry.protocol.phases import ENDED, JOURNALLED, Phase, Side, what_next
from qferry.protocol.records import (
    CLAIM_S,
    CONTROL_COLLECTION,
    HOME,
    LEASE_MARGIN_S,
    LEASE_S,
    Migration,
    Writer,
)
from qferry.protocol.shadow import total

LISTEN_S = 0.25
# A command leads through these in one go; where none is at work, one was interrupted.
_IN_PASSING = frozenset({Phase.PREPARING, Phase.ANNOUNCED, Phase.STARTING, Phase.FINISHING, Phase.ABORTING})
# In these, both collections are the very ones the migration has made or begun with.
_MARKED = frozenset({Phase.COPYING, Phase.COPIED, Phase.SWITCHED, Phase.FINISHING, Phase.FINISHED})
_PROVABLE = frozenset({Phase.COPIED, Phase.SWITCHED})


@dataclass(frozen=True)
class Finding:
    """
    One thing an operator may want to know.

    Args:
        source: The migration it is about.
        target: Where that leads.
        topic: What kind of thing it is, in a word, for programs.
        problem: Whether somebody has to act: it does harm, it is in the way of the next step, or it stays for ever.
            Otherwise the ordinary course of the migration takes care of it.
        what: What was found and what it means.
        mend: What to do about it.
    """

    source: str
    target: str
    topic: str
    problem: bool
    what: str
    mend: str


@dataclass(frozen=True)
class Heard:
    """
    Who makes a sign of life, and who does not.

    Args:
        migrations: Those that were asked for, as they were read last, oldest first.
        writers: All that have registered.
        silent: Ids of migrations that nobody is at work on, and of writers, that have stood still for their time.
    """

    migrations: Sequence[Migration]
    writers: Sequence[Writer]
    silent: frozenset[str]


def examine(ids: Collection[str]) -> Flow[list[Finding]]:
    """Everything worth knowing about the migrations with these ids, oldest first."""
    heard = yield from listen(ids)
    events = yield from records.all_of("event")
    findings: list[Finding] = []
    for m in heard.migrations:
        case = _Case(m, heard, [e for e in events if e["migration"] == m.id])
        yield from case.examine()
        findings += case.found
    return findings


def listen(ids: Collection[str]) -> Flow[Heard]:
    """Read the records until every claim, and every writer, has either moved or stood still for its time."""
    first = yield from _signs(ids)
    began: float = yield Now()
    while True:
        asked: float = yield Now()
        last = yield from _signs(ids)
        still = {name: limit for name, (sign, limit) in last.signs.items() if first.signs.get(name) == (sign, limit)}
        waiting = [name for name, limit in still.items() if asked - began <= limit]
        if not waiting:
            return Heard(last.migrations, last.writers, frozenset(still))
        yield Report("listen", text=f"waiting for a sign of life of {len(waiting)} process(es)")
        yield Sleep(LISTEN_S)


@dataclass(frozen=True)
class _Signs:
    migrations: Sequence[Migration]
    writers: Sequence[Writer]
    signs: Mapping[str, tuple[Any, float]]  # id -> what moves while it lives, and after how long it is given up


def _signs(ids: Collection[str]) -> Flow[_Signs]:
    found = yield from records.migrations()
    migrations = [m for m in found if m.id in ids]
    writers = yield from records.writers()
    signs: dict[str, tuple[Any, float]] = {}
    for m in migrations:
        if m.claim or m.phase in _IN_PASSING:
            signs[m.id] = ((m.claim, m.claim_beat, m.epoch), CLAIM_S)
        if m.phase in JOURNALLED:
            signs.update({w.id: (w.beat, LEASE_S + LEASE_MARGIN_S) for w in writers if m.id in w.seen})
    return _Signs(migrations, writers, signs)


@dataclass
class _Case:
    """One migration, and what was found."""

    m: Migration
    heard: Heard
    events: Sequence[Mapping[str, Any]]
    found: list[Finding] = field(default_factory=list)

    def _problem(self, topic: str, what: str, mend: str) -> None:
        self.found.append(Finding(self.m.source, self.m.target, topic, problem=True, what=what, mend=mend))

    def _note(self, topic: str, what: str, mend: str) -> None:
        self.found.append(Finding(self.m.source, self.m.target, topic, problem=False, what=what, mend=mend))

    def _command(self, words: str) -> str:
        verb, *options = words.split()
        return shlex.join(["qferry", verb, self.m.source, *options])

    @property
    def _full_check(self) -> str:
        if self.m.phase in _PROVABLE:
            return f"Run `{self._command('verify --repair')}`: only a full check settles it."
        return f"Go on; the full check after the copy, `{self._command('verify')}`, settles it."

    def examine(self) -> Flow[None]:
        """Look at everything; at what commands change only if none is at work, from the first look to the last."""
        m = self.m
        if m.phase in ENDED:
            yield from self._at_the_target(self._leftovers())
            yield from self._snapshots()
            return
        self._writers()
        self._evidence()
        if m.phase is Phase.SWITCHED:
            self._readers()
        known = len(self.found)
        if not self._at_work:
            self._interrupted()
            if m.phase in JOURNALLED:
                yield from self._journal()
            yield from self._at_the_target(self._sides())
            yield from self._snapshots()
            again = yield from records.read_migration(m.id)
            if (again.claim, again.epoch) == (m.claim, m.epoch):
                return
            del self.found[known:]
        self._note(
            "coordinator",
            f"{m.claim_by or 'A command'} is at work; what it may be changing was not looked at.",
            "Ask again when it is done.",
        )

    @property
    def _at_work(self) -> bool:
        return bool(self.m.claim) and self.m.id not in self.heard.silent

    def _interrupted(self) -> None:
        """What a command has left behind that is no more."""
        m = self.m
        if m.claim:
            self._problem(
                "coordinator",
                f"{m.claim_by} has not been heard of for {CLAIM_S:.0f} s: that command has died, or is stopped.",
                f"The next command takes its place by itself. {what_next(m.phase)}",
            )
        elif m.id in self.heard.silent:
            self._problem(
                "phase", f"It is {m.phase.value}, and no command is at work: one was interrupted.", what_next(m.phase)
            )
        if m.phase is Phase.SWITCHED and m.reads_held:
            self._problem(
                "reads",
                "Readers were sent back to the source while points were repaired, and the command that did so is gone.",
                f"Run `{self._command(f'switch --percent {m.read_percent}')}`.",
            )
        if m.paused and m.phase in (Phase.CAPTURING, Phase.COPYING, *_PROVABLE):
            self._note("pace", "Copies and comparisons are paused.", f"Run `{self._command('throttle --resume')}`.")

    def _writers(self) -> None:
        m = self.m
        if m.phase not in JOURNALLED:
            return
        for writer in self.heard.writers:
            if m.id not in writer.seen:
                continue
            if writer.id in self.heard.silent:
                self._problem(
                    "writer",
                    f"{writer.describe()} has not been heard of for {LEASE_S + LEASE_MARGIN_S:.0f} s. If it was "
                    "killed, the journal may lack what it touched last; the next command will find that out.",
                    self._full_check,
                )
            if m.id in writer.suspects:
                self._problem("writer", f"{writer.describe()} was stopped in the middle of a write.", self._full_check)
            self._pins(writer)

    def _pins(self, writer: Writer) -> None:
        """What keeps a process from following; in the way of the next step, or of a later one."""
        m = self.m
        if writer.pins.dual_write is False:
            what = f"{writer.describe()} is kept from the target by ENABLE_DUAL_WRITE=false."
            if m.phase is Phase.SWITCHED:
                what += " Readers see the target, so its writes are refused."
            add = self._problem if m.phase in _PROVABLE else self._note
            add("pin", what, "Restart it without the variable; `qferry switch` is refused until then.")
        if writer.pins.new_reads is False:
            last = m.phase is Phase.SWITCHED and m.read_percent == lifecycle.ALL_READS
            add = self._problem if last else self._note
            add(
                "pin",
                f"{writer.describe()} is kept on the source by ENABLE_NEW_READS=false.",
                "Restart it without the variable; `qferry finish` is refused until then.",
            )

    def _evidence(self) -> None:
        m = self.m
        if m.phase not in JOURNALLED:
            return
        add = self._problem if m.phase in _PROVABLE else self._note
        for reason in m.suspicions:
            add("suspicion", f"Points may differ that no journal names: {reason}.", self._full_check)
        if m.suspicions or m.phase not in _PROVABLE:
            return
        add = self._problem if m.phase is Phase.SWITCHED else self._note
        mend = f"Run `{self._command('verify')}`."
        if m.verified is None:
            add("evidence", "Nothing proves that the target equals the source.", mend)
        elif not m.searches_proven:
            add("evidence", "Nothing proves that searches on the target find what they find on the source.", mend)

    def _readers(self) -> None:
        """What readers have met on the target, and what their shadows have."""
        m = self.m
        if m.stepped_back:
            self._problem(
                "reads",
                f"Readers went back to the source by themselves: {m.stepped_back}.",
                f"Look at the target's server, then run `{self._command(f'switch --percent {m.read_percent}')}`.",
            )
        if m.shadow_percent:
            reported = [w.shadow[m.id] for w in self.heard.writers if m.id in w.shadow]
            worse = total(reported, m.shadow_since).worse(m.canary_max_errors_percent)
            if worse:
                self._problem(
                    "reads",
                    f"The two sides do not answer alike: {worse}.",
                    f"More reads are refused to the target until `{self._command('switch --percent 0 --shadow')} "
                    f"{m.shadow_percent:g}%` counts anew.",
                )

    def _journal(self) -> Flow[None]:
        m = self.m
        try:
            debt = (yield wire.count(HOME, m.journal_collection))["count"]
        except Rejected as error:
            if not error.missing:
                raise
            self._problem(
                "journal",
                f"The journal, `{m.journal_collection}`, is gone, so nobody knows what was written.",
                f"Run `{self._command('abort')}`, then start again; the source has every write.",
            )
            return
        if debt:
            mend = f"Run `{self._command('soak')}`." if m.phase in _PROVABLE else what_next(m.phase)
            self._note("journal", f"{debt:,} written point(s) wait to be checked.", mend)

    def _at_the_target(self, look: Flow[None]) -> Flow[None]:
        """Take a look for which the target's server is needed; that it fails is a finding too."""
        try:
            yield from look
        except RemoteFailure as error:
            if not self.m.target_url:
                raise
            add = self._note if self.m.phase in ENDED else self._problem
            add("server", error.message, error.hint or "Look at that server.")

    def _sides(self) -> Flow[None]:
        m = self.m
        if m.phase not in _MARKED:
            return
        lost = []
        for side in Side:
            left = (m.phase, side) == (Phase.FINISHED, Side.TARGET)
            if not (yield from cleanup.target_is_kept(m) if left else carries_marker(m, side)):
                lost.append(side)
        for side in lost:
            became = yield from what_became_of(m, side)
            self._problem("collection", f"{became}.", (yield from self._lost(side, lost)))
        if lost:
            return
        if m.phase is Phase.FINISHED:
            yield from self._aliases_left()
            yield from self._safety_period()
        if m.phase is Phase.SWITCHED:
            yield from self._mending()
        if m.phase in _PROVABLE:
            for gate in (lifecycle.require_known_aliases, lifecycle.require_same_configuration):
                try:
                    yield from gate(m)
                except Refused as error:
                    self._problem("evidence", error.message, error.hint)

    def _lost(self, side: Side, lost: Sequence[Side]) -> Flow[str]:
        """What to do about a collection that is gone, or is another one of the same name."""
        m = self.m
        if len(lost) == len(Side) or m.phase in JOURNALLED:
            return what_to_save(m, lost)
        finished = m.phase is Phase.FINISHED
        if side is Side.SOURCE and finished:
            done = f"Nothing is lost: `{m.target}` is the truth."
            by_hand = "`qferry cleanup` will not delete what it does not know; do it by hand if you are sure."
            there = yield from is_collection(HOME, m.source)
            return f"{done} {by_hand}" if there else f"{done} Run `{self._command('cleanup')}` when it is time."
        return (
            f"Let nobody delete `{m.collection(side.other)}`, and do not {'clean up' if finished else 'abort'}: it may "
            "hold all that is left. Find out who has done that."
        )

    def _aliases_left(self) -> Flow[None]:
        """Aliases that `finish` should have moved, and readers without qferry who see a source that gets no writes."""
        m = self.m
        if m.target_url != HOME:
            return
        for alias in (yield wire.aliases(HOME))["aliases"]:
            name = alias["alias_name"]
            if alias["collection_name"] == m.source and not name.startswith(CONTROL_COLLECTION):
                self._problem(
                    "alias",
                    f"The alias `{name}` still points at `{m.source}`, which gets no writes any more.",
                    f"Run `{self._command('finish')}` again; it points it at `{m.target}`.",
                )

    def _mending(self) -> Flow[None]:
        """Whether writers may bring points that the target lacks; an interrupted `finish` leaves that closed."""
        m = self.m
        listed = yield wire.aliases(m.target_url)
        if m.mend and m.mend not in [alias["alias_name"] for alias in listed["aliases"]]:
            self._problem(
                "writes",
                "Writes of points that the target lacks are refused until a command opens that again.",
                f"Run `{self._command('soak --seconds 0')}`.",
            )

    def _safety_period(self) -> Flow[None]:
        today: str = yield Today()
        if self.m.cleanup_after is not None and today >= self.m.cleanup_after:
            self._note(
                "cleanup", "The safety period is over; the source is still there.", f"Run `{self._command('cleanup')}`."
            )

    def _snapshots(self) -> Flow[None]:
        """Snapshots that an interrupted backfill has left, or may have."""
        m = self.m
        for left in (yield from leftovers.snapshots_left(m, self.events)):
            if left.kept:
                what = (
                    f"This snapshot of `{m.source}` may be left of an interrupted backfill, or a backup: {left.name}."
                )
                path = f"{wire.collection_path(m.source)}/snapshots/{left.name}"
                self._note("leftover", what, f"If it is nobody's: `DELETE {path}`.")
            else:
                what = f"A snapshot of `{m.source}` is left of an interrupted backfill: {left.name}."
                takes_it = f"`{self._command('backfill')}` and `qferry abort` remove it."
                self._note("leftover", what, self._reclaim if m.phase in ENDED else takes_it)

    def _leftovers(self) -> Flow[None]:
        """What a migration that is over should have taken with it."""
        m = self.m
        for server in dict.fromkeys((HOME, m.target_url)):
            where = "the target's server" if server else "the server"
            listed = yield from leftovers.listing(server)
            for left in (yield from leftovers.left_by(m, listed, self.events)):
                kind = "alias" if left.kind == leftovers.ALIAS else "collection"
                self._problem(
                    "leftover",
                    f"The {kind} `{left.name}` on {where} is left of a migration that is {m.phase.value}.",
                    left.kept or f"Nobody uses it. {self._reclaim}",
                )

    @property
    def _reclaim(self) -> str:
        return f"Run `{self._command('cleanup --reclaim --yes')}`."
