"""
Every error qferry raises on its own account.

The application's ordinary errors (a bad filter, a missing point, a server that is down) stay what they are without
qferry: the exceptions of qdrant-client, unchanged.  The classes below say what only a migration can say.  Each
answers the question "whose turn is it now?"::

    FerryError
    ├── Misuse                  the call or command cannot be meant: nothing was sent, nothing changed
    │   ├── NotAllowed          this method is refused while a migration lives, or by this client altogether
    │   ├── InvalidName         a collection name or project name that no server would accept
    │   └── Refused             a command out of order, or a gate that is not passed
    ├── RemoteFailure           a server did not do its part
    │   ├── Unreachable         no answer: it may or may not have been done
    │   ├── Rejected            the server answered with an error
    │   ├── TargetWriteFailed   the source has the write, the target may not
    │   └── LeaseLost           the routing cannot be renewed, so no write may be sent
    ├── DataMismatch            source and target differ where they must be equal
    └── Conflict                another coordinator holds the migration
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any


class FerryError(Exception):
    """
    The root of qferry's errors; picklable, with fields instead of prose to parse.

    Args:
        message: What happened and what it means, in one sentence.
        hint: What to do next, in one sentence; empty where there is nothing to do.
    """

    def __init__(self, message: str, *, hint: str = "", **fields: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.fields = fields

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.hint, self.fields)


def _rebuild(cls: type[FerryError], message: str, hint: str, fields: dict[str, Any]) -> FerryError:
    return cls(message, hint=hint, **fields)


class Misuse(FerryError):
    """The call or command cannot be meant; nothing was sent and nothing changed."""


class NotAllowed(Misuse):
    """The method is refused while a migration lives, or by this client altogether."""


class InvalidName(Misuse, ValueError):
    """A collection or project name, or a naming setting, that cannot be used."""

    @property
    def names(self) -> Sequence[str]:
        """The projects, collections or variables concerned; both of them where two collide."""
        names: Sequence[str] = self.fields.get("names", ())
        return names


class Refused(Misuse):
    """A command came out of order, or a gate was not passed; nothing changed."""


class RemoteFailure(FerryError):
    """A server did not do its part."""


class Unreachable(RemoteFailure):
    """The server gave no answer: the request may or may not have been, or yet be, carried out."""


class Rejected(RemoteFailure):
    """The server answered with an error; `status` is its HTTP status code."""

    @property
    def status(self) -> int:
        """The HTTP status code of the answer."""
        return int(self.fields.get("status", 0))

    @property
    def missing(self) -> bool:
        """Whether the thing asked for does not exist."""
        return self.status == HTTPStatus.NOT_FOUND

    @property
    def exists(self) -> bool:
        """Whether the thing to be created exists already."""
        return self.status == HTTPStatus.CONFLICT

    @property
    def forbidden(self) -> bool:
        """Whether the key may not do this."""
        return self.status == HTTPStatus.FORBIDDEN

    @property
    def final(self) -> bool:
        """
        Whether the server refused the request; otherwise it failed at it, and may have done a part, or do it yet.

        408 says that the server has stopped waiting for its own work, which goes on.
        """
        return self.status < HTTPStatus.INTERNAL_SERVER_ERROR and self.status != HTTPStatus.REQUEST_TIMEOUT


class TargetWriteFailed(RemoteFailure):
    """
    The collection that is truth has the write, the other may not.

    The ids stay in the journal, so the two sides are brought together again; for the caller the write did not
    succeed.  Repeating it is safe.
    """

    @property
    def point_ids(self) -> Sequence[int | str]:
        """The ids the write touched."""
        ids: Sequence[int | str] = self.fields.get("point_ids", ())
        return ids


class LeaseLost(RemoteFailure):
    """The routing cannot be renewed, so nothing may be written on it; retry when the server answers again."""


class DataMismatch(FerryError):
    """Source and target differ where they must be equal."""


class Conflict(FerryError):
    """Another coordinator holds the migration, or took it over from this one."""
