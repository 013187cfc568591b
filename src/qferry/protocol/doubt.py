"""A request nobody knows the fate of."""

from __future__ import annotations

from collections.abc import Iterable


class Doubt:
    """
    One call that ended without an answer: it may have been carried out, or may yet be.

    It is over a grace period after each server concerned has answered something that was sent *later*: a server
    that was merely stopped for an hour then works off what it had received, and no clock could have known.

    Args:
        servers: Where the request may still land.
    """

    def __init__(self, servers: Iterable[str]) -> None:
        self.unanswered = set(servers)
        self._until = 0.0

    def answered(self, server: str, until: float) -> None:
        """`server` answered a request sent after this one went missing; it can land until `until`."""
        self.unanswered.discard(server)
        self._until = max(self._until, until)

    def over(self, now: float) -> bool:
        """Whether the request has landed or can no longer land."""
        return not self.unanswered and self._until <= now
