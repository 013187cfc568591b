"""Whose call it is, so that the same caller is served by the same side while reads move over bit by bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from qferry.errors import Misuse

_key: ContextVar[str | None] = ContextVar("qferry-caller", default=None)
# The key of the call that is being made; None: it has none.
current_caller = _key.get


@contextmanager
def caller(key: str) -> Iterator[None]:
    """
    Name the one for whom the calls inside are made.

        with caller("tenant-7"):
            client.query_points(...)

    While a share of the reads goes to the target, all reads of one key go to the same side, and a key that is served
    by the target at 10 % is so at 25 %.  Reads without a key are drawn one by one.  It holds for the thread, or the
    asyncio task, that enters it, and for the tasks that are begun inside.

    Args:
        key: A tenant, a user, a session; anything that stays the same.

    Raises:
        Misuse: The key is no text.
    """
    if not isinstance(key, str):
        raise Misuse(f"A caller's key is text, not {type(key).__name__}.", hint="Give str(key).")
    token = _key.set(key)
    try:
        yield
    finally:
        _key.reset(token)
