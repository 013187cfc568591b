"""
What qferry says through `logging`, under the name `qferry`.

Every record has an `event` with a stable name, and its facts as attributes of their own (docs/monitoring.md lists
them), so that a formatter that writes JSON needs no parser.  Nothing is said for each call.
"""

from __future__ import annotations

import logging
from typing import Any

logger = logging.getLogger("qferry")


def tell(level: int, event: str, message: str, **facts: Any) -> None:
    """
    Say one thing.

    Args:
        level: One of `logging`'s.
        event: Its stable name.
        message: The same for people, in one sentence.
        **facts: Names that no `LogRecord` has of its own.
    """
    if logger.isEnabledFor(level):
        logger.log(level, "%s", message, extra={"event": event, **facts}, stacklevel=2)
