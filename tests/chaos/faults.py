"""The script of faults: what is done to whom, when and for how long; the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

GAP_S = (2.0, 4.0)
LONGEST_PAUSE_S = 15.0


@dataclass(frozen=True)
class Fault:
    """
    One fault.

    Args:
        at_s: When it begins, in seconds after the round's faults began.
        kind: `kill`, `pause`, `cut`, `delay`, `hold` or `refuse`.
        subject: Whom it hits.
        lasts_s: How long, in seconds; after a kill: until the subject is started again.
        delay_s: What a delay adds to each piece of data, in seconds.
    """

    at_s: float
    kind: str
    subject: str
    lasts_s: float
    delay_s: float = 0.0


@dataclass(frozen=True)
class Cast:
    """Who may be hit."""

    servers: Sequence[str]
    applications: Sequence[str]
    coordinator: str
    links: Sequence[str]
    own_links: Sequence[str]  # those that only one application uses


# A storm may hit anybody with anything.  A command that was killed waits for its claim to lapse and for what it may
# have sent to land before it goes on, half a minute in all; in the lull between two storms it can get there, and only
# suffers what it survives.
STORM_S, LULL_S = 20.0, 45.0
_STORM = {
    ("kill", "server"): 11,
    ("pause", "server"): 10,
    ("kill", "application"): 9,
    ("pause", "application"): 14,
    ("kill", "coordinator"): 14,
    ("pause", "coordinator"): 10,
    ("cut", "link"): 11,
    ("delay", "link"): 7,
    ("hold", "link"): 8,
    ("refuse", "link"): 6,
}
_LULL = {
    ("pause", "server"): 10,
    ("pause", "application"): 20,
    ("pause", "coordinator"): 10,
    ("cut", "own link"): 20,
    ("delay", "link"): 10,
    ("hold", "own link"): 15,
    ("refuse", "own link"): 15,
}
# Of anything in a lull: well below the lease, so that nobody is taken for dead.
LULL_LONGEST_S = 2.5


def script(seed: str, cast: Cast) -> Iterator[Fault]:
    """
    The faults of one round, without end.

    Args:
        seed: The same seed gives the same faults.
        cast: Who may be hit.
    """
    chance = random.Random(f"faults of {seed}")
    whom: dict[str, Sequence[str]] = {
        "server": cast.servers,
        "application": cast.applications,
        "coordinator": [cast.coordinator],
        "link": cast.links,
        "own link": cast.own_links,
    }
    began = chance.uniform(0, STORM_S + LULL_S)
    for at_s in accumulate(iter(lambda: chance.uniform(*GAP_S), None)):
        storm = (began + at_s) % (STORM_S + LULL_S) < STORM_S
        weights = _STORM if storm else _LULL
        ((kind, role),) = chance.choices(list(weights), list(weights.values()))
        subject = chance.choice(whom[role])
        lasts_s = _lasts_s(chance, kind, role) if storm else chance.uniform(0.2, LULL_LONGEST_S)
        yield Fault(at_s, kind, subject, 0.0 if kind == "cut" else lasts_s, chance.uniform(0.02, 0.3))


def _lasts_s(chance: random.Random, kind: str, role: str) -> float:
    if kind == "kill":
        return 0.0 if role == "coordinator" else chance.uniform(0.0, 3.0)
    if kind == "pause":
        # Mostly short, and at times well beyond the lease of 5 s and the claim of 10 s.
        return chance.choice((chance.uniform(0.5, 3.0), chance.uniform(3.0, 8.0), chance.uniform(8.0, LONGEST_PAUSE_S)))
    return chance.uniform(0.5, 6.0)
