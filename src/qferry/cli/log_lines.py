"""What a command logs, as one JSON object a line on stderr, for whoever collects it by machine."""

from __future__ import annotations

import logging
import sys
from datetime import datetime, timezone

import orjson

from qferry.logs import logger

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLine(logging.Formatter):
    """Time, level, sentence, and the facts beside it."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        at = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        line = {
            "time": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **({"exception": self.formatException(record.exc_info)} if record.exc_info else {}),
            **{name: value for name, value in vars(record).items() if name not in _OWN},
        }
        return orjson.dumps(line, default=str).decode()


class _Stderr(logging.StreamHandler):  # type: ignore[type-arg]  # it is generic for type checkers only
    """To whatever stderr is at the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


_handler = _Stderr()
_handler.setFormatter(JsonLine())


def begin() -> None:
    """Write what is logged as JSON from now on: everything of qferry's own, and others' warnings."""
    logging.getLogger().addHandler(_handler)
    logger.setLevel(logging.INFO)


def end() -> None:
    """Leave logging as it was."""
    if active():
        logging.getLogger().removeHandler(_handler)
        logger.setLevel(logging.NOTSET)


def active() -> bool:
    """Whether stderr is for JSON alone."""
    return _handler in logging.getLogger().handlers
