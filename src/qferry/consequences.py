"""
What each command will do to a migration, in the words in which a person is asked to agree to it.

One wording for everyone who asks.  `{source}` and `{target}` stand for the migration's names, other words in braces
for the command's own settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Consequence:
    """
    What a person agrees to.

    Args:
        question: What will be done.
        follows: What comes of it, and how it is taken back.
        for_good: What cannot be taken back; empty: everything can.
        options: What a setting adds to it, by the setting's name.
    """

    question: str
    follows: str = ""
    for_good: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """All of it."""
        return " ".join(filter(None, (self.question, self.for_good, self.follows)))


_AGAIN = "Of the points, only those that differed the last time are compared, where that is enough."

CONSEQUENCES: Mapping[str, Consequence] = {
    "backfill": Consequence(
        "Copy everything in {source} to {target} now?",
        "It takes some of the server's time; it may be cancelled and run again.",
    ),
    "verify": Consequence(
        "Compare every point of {source} and {target}, and what searches find, now?",
        "It takes some of the server's time, settles the journal, and records the result, on which `switch` relies.",
        options={"again": _AGAIN},
    ),
    "repair": Consequence(
        "Make {target} equal to {source} wherever it is not?",
        "Every point is compared, those that differ are made equal and compared once more, then what searches find.",
        "What only {target} has is deleted there.",
        {"again": _AGAIN},
    ),
    "switch": Consequence(
        "Let {target} serve {percent} % of the reads of {source}?",
        "Readers go back by themselves if more of their reads fail there, or take longer, than is allowed. `rollback` "
        "takes it back at any time.",
    ),
    "rollback": Consequence(
        "Send every read of {target} back to {source}?",
        "Writes go on to both, so nothing is lost. A command at work is stopped.",
    ),
    "soak": Consequence(
        "Keep {source} and {target} together for a while?", "Points that were written are compared and repaired."
    ),
    "throttle": Consequence("Change how fast {source} → {target} is copied and compared?"),
    "abort": Consequence(
        "Abort {source} → {target}?",
        "{source} stays as it is, with every write. A command at work is stopped.",
        "{target} is removed.",
    ),
    "finish": Consequence(
        "Finish {source} → {target}?",
        "{source} may be deleted after {days} days.",
        "This is the point of no return: {source} gets no more writes, and the only way back is a new migration the "
        "other way.",
    ),
    "cleanup": Consequence(
        "Delete {source} for good, after a final snapshot?",
        "Everything is in {target}.",
        "{source} is deleted. What is left of it is the final snapshot, in its server's folder of snapshots.",
        {"keep_alias": "Its name becomes an alias of {target}."},
    ),
}
