"""
What makes a coordinator one: its claim, its fence, its word (epochs) and its ear (acknowledgements).

*Claim.*  A token in the migration's record, changed by compare-and-set; every change of the record is conditional on
it, so whoever has lost it changes nothing any more.

*Fence.*  Copies and repairs are written to the target through an alias that only this coordinator's token names.
Taking over drops it.  The server changes aliases while no other request holds a collection, so from its answer on
nothing the predecessor has sent, or will send when its process wakes up in an hour, can land (docs/adr/0003).
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from qferry.control import records, wire
from qferry.errors import Conflict, FerryError, Refused, Rejected, RemoteFailure, Unreachable
from qferry.flows.effects import Flow, Json, NewId, Now, Report, Request, Sleep, Today
from qferry.logs import tell
from qferry.protocol import phases
from qferry.protocol.phases import JOURNALLED, Event, Phase, Side
from qferry.protocol.records import CLAIM_S, HOME, LEASE_MARGIN_S, LEASE_S, Migration, Writer, suspicion_name

# How often a coordinator bumps its claim, and looks at what it waits for.
CLAIM_BEAT_S = 2.0
POLL_S = 0.2
# How long a write to the target may be tried again while its server does not answer.
PATIENCE_S = 60.0
# How long a request that a server was working on when its fence was dropped may still take to land.
LANDING_S = 10.0


@dataclass
class Coordinator:
    """
    One command at work on one migration.

    Args:
        migration: The record as last read.
        token: The claim it holds.
        who: Host and pid, for the record.
        ack_timeout_s: How long a live writer may take to acknowledge, in seconds.
        fence: The alias its writes to the target go through; empty until it is needed, so that a rollback does not
            depend on the target's server.
    """

    migration: Migration
    token: str
    who: str
    ack_timeout_s: float = 60.0
    fence: str = ""
    pace: str = ""  # how fast it goes and why, to be recorded with the next beat
    _beat_at: float = 0.0
    _beats: int = 0
    _reads_are_held: bool = False
    _owing: bool = False  # a write to the target may still be carried out behind the fence
    _last_moved: dict[str, tuple[int, float]] = field(default_factory=dict)

    def claim_gone(self) -> Conflict:
        """The error of a coordinator that has lost its claim."""
        return Conflict(
            "Another coordinator has taken this migration over; this one has stopped.",
            hint="Look at `qferry status`.",
        )

    def publish(
        self, changes: Mapping[str, Any], what: str, *, stepped_back: str | None = None, **details: Json
    ) -> Flow[int]:
        """
        Change the record, raise the epoch and write a line of history; returns the new epoch.

        With `stepped_back` only if that is still why readers see the source; empty: they do not.

        Raises:
            Conflict: The claim is lost; nothing was changed.
            Refused: Readers have just stepped back to the source; nothing was changed.
        """
        epoch = self.migration.epoch + 1
        yield from self.save({**changes, "epoch": epoch}, stepped_back=stepped_back)
        yield from self.note(what, **details)
        return epoch

    def move(
        self,
        event: Event,
        what: str,
        changes: Mapping[str, Any] | None = None,
        *,
        stepped_back: str | None = None,
        **details: Json,
    ) -> Flow[int]:
        """Publish a change of phase; refuses one the table does not know."""
        phase = phases.after(self.migration.phase, event)
        changes = {**(changes or {}), "phase": phase.value}
        return (yield from self.publish(changes, what, stepped_back=stepped_back, **details))

    def save(self, changes: Mapping[str, Any], *, stepped_back: str | None = None) -> Flow[None]:
        """
        Change the record without raising the epoch: progress, not routing.

        `stepped_back` as for `publish`.

        Raises:
            Conflict: The claim is lost; nothing was changed.
            Refused: Readers have just stepped back to the source; nothing was changed.
        """
        m = self.migration
        yield records.change_migration(m.id, self.token, changes, stepped_back=stepped_back)
        self.migration = yield from records.read_migration(m.id)
        if self.migration.claim != self.token:
            raise self.claim_gone()
        if self.migration.epoch < changes.get("epoch", 0):
            if stepped_back not in (None, self.migration.stepped_back):
                self.require_readers()
            # Nobody can have acknowledged what is not in force; going on would take their silence for consent.
            raise Unreachable(
                "The server has accepted a change of the migration's record and not carried it out yet.",
                hint="Run the command again; nothing was lost.",
            )

    def require_readers(self) -> None:
        """Refuse while readers have been sent back to the source by what they have met on the target."""
        m = self.migration
        if m.stepped_back and m.phase is Phase.SWITCHED:
            raise Refused(
                f"Readers have stepped back to the source: {m.stepped_back}.",
                hint="Look at the target's server, then send them there again with `qferry switch`.",
            )

    def note(self, what: str, **details: Json) -> Flow[None]:
        """Append a line of history: who did what, when, at which epoch."""
        event_id: str = yield NewId()
        at: str = yield Today()
        m = self.migration
        line = {"migration": m.id, "at": at, "who": self.who, "epoch": m.epoch, "what": what, "details": details}
        yield records.put_event(event_id, line)
        facts = {"source": m.source, "target": m.target, "phase": m.phase.value, "epoch": m.epoch, "details": details}
        tell(logging.INFO, "history", f"`{m.source}` to `{m.target}`: {what}.", what=what, who=self.who, **facts)

    def stay(self, *, every_s: float = CLAIM_BEAT_S) -> Flow[None]:
        """Keep the claim; call it in every loop that takes longer than a moment."""
        now: float = yield Now()
        if now - self._beat_at >= every_s:
            self._beat_at = now
            self._beats += 1
            told = {"pace": self.pace} if self.pace != self.migration.pace else {}
            yield from self.save({"claim_beat": self.migration.claim_beat + 1, **told})

    def fenced(self) -> Flow[None]:
        """Put up the fence unless it stands; what copies, checks or repairs begins with this."""
        if not self.fence:
            yield from self.raise_fence()

    def raise_fence(self) -> Flow[None]:
        """
        Make sure that nothing sent to the target through an earlier fence can still land, and put up a new one.

        From the change on, a request through an earlier fence is refused.  One that was being carried out at that
        moment may outlive its connection for a little (docs/adr/0003), hence the wait; the barrier then lets finish
        what had been accepted.

        Raises:
            Conflict: Another coordinator has taken over.
            Refused: Somebody has deleted one of the two collections, or made it anew; no fence stands.
        """
        m = self.migration
        old = yield from self.fences()
        # Whoever is interrupted before the end of the wait leaves the new fence standing, so that the next one waits.
        # And what one owes oneself must be outlasted also if somebody else has dropped one's fence.
        must_wait = self._owing = bool(old) or self._owing
        token: str = yield NewId()
        self.fence = m.fence(token[:12])
        try:
            yield wire.change_aliases(m.target_url, drop=old, create={self.fence: m.target})
        except Rejected as error:
            if error.missing:
                yield from require_both_sides(m)
            raise
        # Whoever takes over claims before it lists the fences.  So either its claim is seen here, or this fence is
        # seen, and dropped, there.
        if (yield from records.read_migration(m.id)).claim != self.token:
            yield wire.change_aliases(m.target_url, drop=[self.fence])
            raise self.claim_gone()
        try:
            # Marker and fence go with their collection, so while this fence stands it leads to the one that is marked.
            yield from require_both_sides(m)
        except Refused:
            yield from self.drop_fence()
            raise
        if must_wait:
            yield Report("fence", text="waiting until nothing of an earlier coordinator can be under way any more")
            yield Sleep(LANDING_S)
        if m.phase is not Phase.CAPTURING:  # nothing but recoveries go through it then, and they leave no shard to ask
            yield wire.barrier(m.target_url, m.target)
        self._owing = False

    def fences(self) -> Flow[list[str]]:
        """The fences that stand, one's own and others'."""
        return (yield from self._aliases(self.migration.fence_prefix))

    def _aliases(self, prefix: str) -> Flow[list[str]]:
        listed = yield wire.aliases(self.migration.target_url)
        return [a["alias_name"] for a in listed["aliases"] if a["alias_name"].startswith(prefix)]

    def open_mending(self) -> Flow[None]:
        """
        Let writers bring single points to the target, through a new door; what is sent through an old one is refused.

        The next full check, or a wait, must follow before anyone relies on nothing landing through the old one.
        """
        m = self.migration
        old = yield from self._aliases(m.mend_prefix)
        token: str = yield NewId()
        # A coordinator that is overtaken right here has opened a door that no record will ever name.
        door = f"{m.mend_prefix}{token[:12]}"
        yield wire.change_aliases(m.target_url, create={door: m.target})
        yield from self.publish({"mend": door}, "mending opened")
        if old:
            yield wire.change_aliases(m.target_url, drop=old)

    def keep_mending(self) -> Flow[None]:
        """Open mending if a command that died has left it closed."""
        m = self.migration
        if m.phase is Phase.SWITCHED and m.mend not in (yield from self._aliases(m.mend_prefix)):
            yield from self.open_mending()

    def leave_unsealed(self) -> Flow[None]:
        """
        After a seal that failed, and may be carried out yet: let writers mend again, if it has not been.

        First this coordinator takes a new claim.  The seal asks for the old one, so from then on it cannot come after
        what a writer mends.
        """
        token: str = yield NewId()
        yield records.change_migration(self.migration.id, self.token, {"claim": token})
        m = yield from records.read_migration(self.migration.id)
        if m.claim == token:
            self.migration, self.token = m, token
            yield from self.keep_mending()

    def close_mending(self) -> Flow[None]:
        """Let no writer begin to bring a point any more; those under way end before the next acknowledgement."""
        old = yield from self._aliases(self.migration.mend_prefix)
        if old:
            yield wire.change_aliases(self.migration.target_url, drop=old)

    @property
    def must_hold_reads(self) -> bool:
        """Whether somebody may be reading the target: its share is switched, or was rolled back a moment ago."""
        if self._reads_are_held:
            return False
        return self.migration.phase is Phase.SWITCHED or self.migration.reads_held

    def hold_reads(self) -> Flow[None]:
        """
        Let readers see the source while points of the target are repaired.

        A repair writes what it has read a moment before.  A write that is between its two sides just then is undone
        on the target, and nobody looks at the point again before the write has ended and been flushed; its caller
        has been told of success by then (docs/adr/0008).
        """
        epoch = self.migration.epoch
        if not self.migration.reads_held:
            epoch = yield from self.publish({"reads_held": True}, "reads held on the source: points differ")
        yield from self.acknowledged(epoch)
        yield from self.outlast_observers()
        if self.migration.phase is Phase.COPIED:
            yield from self.save({"reads_held": False})
        self._reads_are_held = True

    def give_reads_back(self) -> Flow[None]:
        """Let readers see the target again; done when new calls follow it."""
        self._reads_are_held = False
        epoch = yield from self.publish({"reads_held": False}, "reads given back to the target")
        yield from self.acknowledged(epoch, seen=True)

    def outlast_observers(self) -> Flow[None]:
        """
        Wait for a lease.

        A client whose key may only read is on no list; its reads follow its lease, and have taken up the latest epoch
        when that has run out.
        """
        yield Report("lease", text="waiting for clients that may only read")
        yield from self.stay()
        yield Sleep(LEASE_S + LEASE_MARGIN_S)

    def drop_fence(self) -> Flow[None]:
        """Stop for good: no copy or repair through this fence can land any more."""
        fence, self.fence = self.fence, ""
        if fence:
            yield wire.change_aliases(self.migration.target_url, drop=[fence])

    def still_mine(self) -> Flow[None]:
        """Make sure of the claim right before something that cannot be undone; raises `Conflict` if it is gone."""
        yield from self.save({"claim_beat": self.migration.claim_beat + 1})

    def write_target(self, request: Request) -> Flow[bool]:
        """
        Send a write through the fence.

        Returns:
            False if nobody can tell whether it was carried out.  It can no longer land by then, and the caller must
            read again before it writes again.

        Raises:
            Conflict: The fence is gone: another coordinator has taken over.
        """
        with self.owing():
            try:
                yield request
            except (Unreachable, Rejected) as error:
                yield from self.outlast(error)
                return False
        return True

    @contextmanager
    def owing(self) -> Iterator[None]:
        """Writes through the fence are under way inside; if it is left by an error, some may be still."""
        self._owing = True  # also if this process is interrupted right here
        yield
        self._owing = False

    def outlast(self, error: RemoteFailure) -> Flow[None]:
        """
        After a write through the fence has failed: make sure that it can no longer land.

        Nothing else may be under way through the fence, which is replaced by another.

        Raises:
            Conflict: The fence is gone: another coordinator has taken over.
            Rejected: The server has refused it, so there is nothing to outlast.
        """
        if isinstance(error, Rejected) and (error.missing or error.final):
            self._owing = False
            if error.missing:
                raise self.claim_gone() from error
            raise error
        yield from self._fence_again(error)

    def _fence_again(self, error: Exception) -> Flow[None]:
        start: float = yield Now()
        while True:
            try:
                yield from self.stay()
                yield from self.raise_fence()
            except (Unreachable, Rejected) as again:
                now: float = yield Now()
                if now - start > PATIENCE_S:
                    raise error from again
                yield Report("waiting", text=f"the target's server does not answer: {again.message}")
                yield Sleep(1.0)
            else:
                return

    def acknowledged(self, epoch: int, *, seen: bool = False) -> Flow[list[Writer]]:
        """
        Wait until every live writer has acknowledged `epoch`, and return those writers.

        With `seen` it is enough that new calls follow it; older ones may still be under way.

        A writer whose beat has not moved for a lease and a margin is dead: it cannot act on old routing any more.
        If it did not say goodbye it may have taken unflushed ids with it, so the migration becomes suspect.

        Raises:
            Refused: A live writer does not acknowledge; the message names it.
        """
        began: float = yield Now()
        while True:
            # Looked at before and after: this process too may be stopped between any two lines, and the time it was
            # away must not count as silence of the writer.
            asked: float = yield Now()
            listed = yield from records.writers()
            now: float = yield Now()
            waiting: list[Writer] = []
            for writer in listed:
                if (writer.seen if seen else writer.acked).get(self.migration.id, 0) >= epoch:
                    continue
                beat, since = self._last_moved.get(writer.id, (-1, now))
                if writer.beat != beat:
                    self._last_moved[writer.id] = (writer.beat, now)
                elif asked - since > LEASE_S + LEASE_MARGIN_S:
                    yield from self._bury(writer)
                    continue
                waiting.append(writer)
            if not waiting:
                if (yield from self._hear_suspicions(listed)):
                    epoch = self.migration.epoch  # so that the writers know they have been heard
                    continue
                return listed
            if now - began > self.ack_timeout_s:
                raise self._unacknowledged(waiting, epoch)
            yield Report("acknowledge", len(listed) - len(waiting), len(listed), f"waiting for {waiting[0].describe()}")
            yield from self.stay()
            yield Sleep(POLL_S)

    def _unacknowledged(self, waiting: Sequence[Writer], epoch: int) -> Refused:
        names = "; ".join(
            writer.describe() + (f", a call has been running for {writer.busy_s:.0f} s" if writer.busy_s else "")
            for writer in waiting
        )
        return Refused(
            f"After {self.ack_timeout_s:.0f} s {len(waiting)} writer(s) have not taken up epoch {epoch}: {names}.",
            hint="Let that call end or stop that process, then run the command again; nothing was lost.",
            writers=[writer.id for writer in waiting],
        )

    def _bury(self, writer: Writer) -> Flow[None]:
        """Take a dead writer off the list; the suspicion first, or it would be lost with this coordinator."""
        if self.migration.phase in JOURNALLED:
            yield from self.suspect(
                f"{writer.describe()} vanished without saying goodbye {suspicion_name(writer.id, writer.beat)}"
            )
        else:
            yield from self.note("writer vanished", writer=writer.describe())
        yield records.forget(writer.id)

    def _hear_suspicions(self, writers: Sequence[Writer]) -> Flow[bool]:
        """Take over what writers suspect of themselves; they stop saying so once they read it in the record."""
        heard = False
        for writer in writers:
            occurrence = writer.suspects.get(self.migration.id)
            if occurrence is None:
                continue
            name = suspicion_name(writer.id, occurrence)
            reason = f"{writer.describe()} was stopped in the middle of a write {name}"
            if reason not in self.migration.suspicions:
                yield from self.suspect(reason)
                heard = True
        return heard

    def suspect(self, reason: str) -> Flow[None]:
        """Only a full check that begins from now on may be trusted."""
        suspicions = [*self.migration.suspicions, reason]
        yield from self.publish({"suspicions": suspicions, "verified": None, "parity": None}, "suspect", reason=reason)

    def roll_call(self, what: str) -> Flow[list[Writer]]:
        """
        Raise the epoch and hear every live writer.

        When it returns, every write that was in flight when it began has ended and been flushed, and every writer
        that is no longer there is known.
        """
        epoch = yield from self.publish({}, what)
        heard: list[Writer] = yield from self.acknowledged(epoch)
        return heard

    def release(self) -> Flow[None]:
        """
        Give the claim back, also if the target's server does not answer.

        A fence behind which something may still be carried out is left standing: whoever finds it waits.
        """
        failed: FerryError | None = None
        if self.fence and not self._owing:
            try:
                yield from self.drop_fence()
            except FerryError as error:
                failed = error
        yield records.change_migration(self.migration.id, self.token, {"claim": "", "claim_by": "", "pace": ""})
        if failed is not None:
            raise failed


def claim(migration: Migration, who: str, *, ack_timeout_s: float = 60.0, at_once: bool = False) -> Flow[Coordinator]:
    """
    Become the coordinator of `migration`.

    With `at_once` also while another one is at work, which then stops: for the way back, which must not wait.

    A claim whose beat moves belongs to a coordinator at work.  One that has stood still for `CLAIM_S` belongs to one
    that died, or that is stopped: the fence makes sure that it does no harm when it wakes.

    Raises:
        Conflict: Another coordinator is at work.
    """
    m = migration
    if m.claim and not at_once:
        yield Report("claim", text=f"waiting up to {CLAIM_S:.0f} s for the claim of {m.claim_by} to lapse")
        began: float = yield Now()
        while True:
            asked: float = yield Now()
            m = yield from records.read_migration(m.id)
            if m.claim != migration.claim or m.claim_beat != migration.claim_beat:
                if m.claim:
                    raise Conflict(
                        f"{m.claim_by} is at work on this migration.",
                        hint="Wait until it is done, or stop it and run this command again.",
                    )
                break
            if asked - began > CLAIM_S:
                break
            yield Sleep(POLL_S)
    token: str = yield NewId()
    yield records.change_migration(m.id, m.claim, {"claim": token, "claim_by": who, "pace": ""})
    m = yield from records.read_migration(m.id)
    if m.claim != token:
        raise Conflict("Another coordinator was faster.", hint="Look at `qferry status`, then run the command again.")
    facts = {"source": m.source, "target": m.target, "who": who, "taken_from": migration.claim_by or None}
    tell(logging.INFO, "claimed", f"`{m.source}` to `{m.target}`: claimed by {who}.", **facts)
    return Coordinator(m, token, who, ack_timeout_s)


def carries_marker(m: Migration, side: Side) -> Flow[bool]:
    """Whether the collection of that name is still the very one this migration began with."""
    return _marks((yield wire.aliases(m.server(side))), m, side)


def _marks(listed: Json, m: Migration, side: Side) -> bool:
    return {"alias_name": m.marker(side), "collection_name": m.collection(side)} in listed["aliases"]


def lost_sides(m: Migration) -> Flow[list[Side]]:
    """The sides whose collection is not the very one this migration began with, as far as their servers tell."""
    home = yield wire.aliases(HOME)
    there = (yield wire.aliases(m.target_url)) if m.target_url != HOME else home
    return [side for side, listed in ((Side.SOURCE, home), (Side.TARGET, there)) if not _marks(listed, m, side)]


def require_both_sides(m: Migration) -> Flow[None]:
    """
    Refuse to go by collections that are not the very ones this migration began with.

    One that was made anew under the old name is empty, or holds what is somebody else's.  A repair would make the
    target like such a source, or take a stranger's points away; and what was checked, was checked of another one.

    Raises:
        Refused: Somebody has deleted one of them, or made it anew.
    """
    lost = yield from lost_sides(m)
    if lost:
        became = yield from what_became_of(m, lost[0])
        raise Refused(
            f"{became}, so what this migration has copied and checked counts for nothing any more.",
            hint=what_to_save(m, lost),
        )


def what_became_of(m: Migration, side: Side) -> Flow[str]:
    """What happened to a collection that has lost its marker, without a full stop."""
    there = yield from is_collection(m.server(side), m.collection(side))
    became = "was deleted and made anew since the start" if there else "is gone"
    return f"`{m.collection(side)}`, the {side.value}, {became}"


def what_to_save(m: Migration, lost: Sequence[Side]) -> str:
    """What to do, before `finish`, about collections that have lost their markers."""
    if len(lost) == len(Side):
        return "Neither side is what it was. Let nobody delete what is there, and find out who has done that."
    if lost[0] is Side.TARGET:
        return f"Run `{shlex.join(['qferry', 'abort', m.source])}`, then start again; the source has every write."
    return (
        f"Let nobody delete `{m.target}`, and do not abort: it may hold all that is left. Find out who has done that."
    )


def is_collection(server: str, name: str) -> Flow[bool]:
    """Whether a collection has this real name; `exists` also says so of an alias."""
    listed = yield wire.collections(server)
    return any(found["name"] == name for found in listed["collections"])
