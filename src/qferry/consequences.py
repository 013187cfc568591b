"""
What each command will do to a migration, in the words in which a person is asked to agree to it.

One wording for everyone who asks.  `{source}` and `{target}` stand for the migration's names, other words in braces
for the command's own settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Consequence:
    """
    What a person agrees to.

    Args:
        question: What will be done.
        follows: What comes of it, and how it is taken back.
        for_good: What cannot be taken back; empty: everything can.
    """

    question: str
    follows: str = ""
    for_good: str = ""

    def __str__(self) -> str:
        """All of it."""
        return " ".join(filter(None, (self.question, self.for_good, self.follows)))


CONSEQUENCES: Mapping[str, Consequence] = {
    "backfill": Consequence(
        "Copy everything in {source} to {target} now?",
        "It takes some of the server's time; it may be cancelled and run again.",
    ),
    "verify": Consequence(
        "Compare every point of {source} and {target} now?",
        "It takes some of the server's time, settles the journal, and records the result, on which `switch` relies.",
    ),
    "repair": Consequence(
        "Make {target} equal to {source} wherever it is not?",
        "Everything is compared before and after.",
        "What only {target} has is deleted there.",
    ),
    "switch": Consequence(
        "Let {target} serve {percent} % of the reads of {source}?", "`rollback` takes it back at any time."
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
    ),
}
