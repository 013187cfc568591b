"""
The life of a migration, as one table.

Law 1: everything that may change a migration's phase is listed in `TRANSITIONS`; an event that is not listed there
for the present phase raises `Refused` and changes nothing.
Law 2: what a client does with a call follows from the phase alone (`ROUTING`), plus the read share and the pins.
"""

from __future__ import annotations

from enum import Enum

from qferry.errors import Refused


class Side(str, Enum):
    """One of the two collections of a migration."""

    SOURCE = "source"
    TARGET = "target"

    @property
    def other(self) -> Side:
        """The opposite side."""
        return Side.TARGET if self is Side.SOURCE else Side.SOURCE


class Routing(str, Enum):
    """What a client does with a write."""

    SOURCE_ONLY = "source_only"  # to the source; no journal
    CAPTURE = "capture"  # to the side that is truth; journalled, because the other side misses it
    DUAL = "dual"  # to both sides at once; journalled
    TARGET_ONLY = "target_only"  # to the target; no journal, no way back


class Phase(str, Enum):
    """Where a migration stands."""

    PREPARING = "preparing"  # recorded; clients do nothing yet
    ANNOUNCED = "announced"  # clients lead every name to the source, so that nobody meets the target half made
    CAPTURING = "capturing"  # writes go to the source alone and are journalled; a snapshot of it becomes the target
    STARTING = "starting"  # clients take up dual writes; the copy waits until all of them have
    COPYING = "copying"  # history is being copied; the journal only grows
    COPIED = "copied"  # every page has landed; the journal is being settled, verification may run
    SWITCHED = "switched"  # a share of the reads, 1 to 100 %, goes to the target
    FINISHING = "finishing"  # the point of no return: the target is truth, the source still gets every write
    FINISHED = "finished"  # the source is out of use and waits for cleanup
    CLEANED = "cleaned"  # the source is gone; its name leads to the target
    ABORTING = "aborting"  # clients return to the source alone; the target waits to be removed
    ABORTED = "aborted"  # as if it had never been


class Event(str, Enum):
    """What a coordinator may do to a migration."""

    ANNOUNCE = "announce"
    CREATED = "created"  # target, journal and markers exist
    CAPTURED = "captured"  # the same, and a snapshot will be taken of what is written from now on
    RESTORED = "restored"  # the target is the snapshot; nothing can put another one in its place any more
    WRITERS_READY = "writers_ready"  # every live writer writes to both sides
    COPY_DONE = "copy_done"  # every page has landed, or every writer has taken up dual writes to a restored target
    READS_SWITCHED = "reads_switched"
    ROLLED_BACK = "rolled_back"
    SEALED = "sealed"  # finish passed its gates
    SOURCE_RETIRED = "source_retired"  # every live writer follows the target
    SOURCE_DELETED = "source_deleted"
    ABANDONED = "abandoned"  # abort began
    DISMANTLED = "dismantled"  # abort is complete


TRANSITIONS: dict[Phase, dict[Event, Phase]] = {
    Phase.PREPARING: {Event.ANNOUNCE: Phase.ANNOUNCED, Event.ABANDONED: Phase.ABORTING},
    Phase.ANNOUNCED: {
        Event.CREATED: Phase.STARTING,
        Event.CAPTURED: Phase.CAPTURING,
        Event.ABANDONED: Phase.ABORTING,
    },
    Phase.CAPTURING: {Event.RESTORED: Phase.STARTING, Event.ABANDONED: Phase.ABORTING},
    Phase.STARTING: {
        Event.WRITERS_READY: Phase.COPYING,
        Event.COPY_DONE: Phase.COPIED,
        Event.ABANDONED: Phase.ABORTING,
    },
    Phase.COPYING: {Event.COPY_DONE: Phase.COPIED, Event.ABANDONED: Phase.ABORTING},
    Phase.COPIED: {Event.READS_SWITCHED: Phase.SWITCHED, Event.ABANDONED: Phase.ABORTING},
    Phase.SWITCHED: {
        Event.READS_SWITCHED: Phase.SWITCHED,
        Event.ROLLED_BACK: Phase.COPIED,
        Event.SEALED: Phase.FINISHING,
    },
    Phase.FINISHING: {Event.SOURCE_RETIRED: Phase.FINISHED},
    Phase.FINISHED: {Event.SOURCE_DELETED: Phase.CLEANED},
    Phase.CLEANED: {},
    Phase.ABORTING: {Event.DISMANTLED: Phase.ABORTED},
    Phase.ABORTED: {},
}

ROUTING: dict[Phase, Routing] = {
    Phase.PREPARING: Routing.SOURCE_ONLY,
    Phase.ANNOUNCED: Routing.SOURCE_ONLY,
    Phase.CAPTURING: Routing.CAPTURE,
    Phase.STARTING: Routing.DUAL,
    Phase.COPYING: Routing.DUAL,
    Phase.COPIED: Routing.DUAL,
    Phase.SWITCHED: Routing.DUAL,
    Phase.FINISHING: Routing.DUAL,
    Phase.FINISHED: Routing.TARGET_ONLY,
    Phase.CLEANED: Routing.TARGET_ONLY,
    Phase.ABORTING: Routing.SOURCE_ONLY,
    Phase.ABORTED: Routing.SOURCE_ONLY,
}

# The side whose answer the caller gets and on which filters are resolved.  It changes with FINISHING, one step
# before the source is let go: see docs/adr/0004.
TARGET_IS_TRUTH = frozenset({Phase.FINISHING, Phase.FINISHED, Phase.CLEANED})

# Phases that concern nobody any more: no coordinator works on them and no client journals for them.
ENDED = frozenset({Phase.CLEANED, Phase.ABORTED})

# A writer that vanishes in one of these may take unflushed ids with it.
JOURNALLED = frozenset({Phase.CAPTURING, Phase.STARTING, Phase.COPYING, Phase.COPIED, Phase.SWITCHED})

_WAY: dict[Event, str] = {
    Event.WRITERS_READY: "qferry start",
    Event.RESTORED: "qferry backfill",
    Event.COPY_DONE: "qferry backfill",
    Event.READS_SWITCHED: "qferry switch",
    Event.ROLLED_BACK: "qferry rollback",
    Event.SEALED: "qferry finish",
    Event.SOURCE_DELETED: "qferry cleanup",
    Event.ABANDONED: "qferry abort",
}

_NEXT: dict[Phase, str] = {
    Phase.ANNOUNCED: "run `qferry start` again to complete it",
    Phase.PREPARING: "run `qferry start` again to complete it",
    Phase.STARTING: "run `qferry start` again to complete it",
    Phase.CAPTURING: "run `qferry backfill`",
    Phase.COPYING: "run `qferry backfill`",
    Phase.COPIED: "run `qferry verify`, then `qferry switch`",
    Phase.SWITCHED: "`qferry switch`, `qferry rollback` and `qferry finish` are possible",
    Phase.FINISHING: "it is past the point of no return: run `qferry finish` again to complete it",
    Phase.FINISHED: "run `qferry cleanup` after the safety period; the way back is a new migration the other way",
    Phase.CLEANED: "it is complete",
    Phase.ABORTING: "run `qferry abort` again to complete it",
    Phase.ABORTED: "start a new one with `qferry start`",
}


def after(phase: Phase, event: Event) -> Phase:
    """
    The phase that `event` leads to.

    Raises:
        Refused: `event` is not possible in `phase`; the message says what is.
    """
    try:
        return TRANSITIONS[phase][event]
    except KeyError:
        raise out_of_order(phase, _WAY.get(event, event.value)) from None


def out_of_order(phase: Phase, command: str) -> Refused:
    """The error for a command that does not fit the phase, naming the ones that do."""
    return Refused(
        f"The migration is {phase.value}, so `{command}` is not possible.",
        hint=what_next(phase),
        phase=phase.value,
    )


def what_next(phase: Phase) -> str:
    """What is possible in a phase, as a sentence."""
    return f"What next: {_NEXT[phase]}."
