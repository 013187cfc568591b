"""
The effects a flow may yield: all it can do to the world.

A driver (blocking, asyncio, or the tests' simulator) carries an effect out and sends its result into the flow, or
throws the error.  Nothing else in `flows/` touches a network, a clock or a thread.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, TypeVar

Json: TypeAlias = Any


@dataclass(frozen=True)
class Request:
    """
    One HTTP request of qferry's own; its result is the `result` member of the answer.

    Args:
        server: Where it goes: `HOME`, or the URL of the target's server.
        op: What it does, in a word; for messages, and for the simulator.
        method: The HTTP method.
        path: The path, names already quoted.
        body: The JSON body.
        params: The query.
        timeout_s: Deadline in seconds; None is the client's own.
    """

    server: str
    op: str
    method: str
    path: str
    body: Json = None
    params: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = None


@dataclass(frozen=True)
class Call:
    """The application's own call, carried out by the method of qdrant-client that it named."""

    server: str
    method: str
    collection: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass(frozen=True)
class Together:
    """Several effects, sent at once; the result is one `Outcome` each, in order. Nothing is thrown."""

    effects: tuple[Request | Call, ...]


@dataclass(frozen=True)
class Outcome:
    """What came of something: a value, or the error it ended in; neither if it was interrupted."""

    value: Any = None
    error: Exception | None = None
    interrupted: bool = False

    def result(self) -> Any:
        """The value; the error is raised."""
        if self.error is not None:
            raise self.error
        return self.value


@dataclass(frozen=True)
class Carry:
    """
    The bytes that one request answers with, sent on as the file of another while they arrive.

    The result is the second one's; an error of either is thrown.
    """

    download: Request
    upload: Request


@dataclass(frozen=True)
class Now:
    """The monotonic clock, in seconds."""


@dataclass(frozen=True)
class Today:
    """The wall clock, as ISO 8601 in UTC; for people and for the safety period, never for the protocol."""


@dataclass(frozen=True)
class Sleep:
    """Wait, in seconds."""

    seconds: float


@dataclass(frozen=True)
class Fresh:
    """
    Make the session's view valid by a heartbeat; only one runs at a time.

    Args:
        renew: Whether to beat even if the view is still valid.
    """

    renew: bool = False


@dataclass(frozen=True)
class NewId:
    """A new unique id: 32 hexadecimal digits."""


@dataclass(frozen=True)
class Report:
    """Something a person waiting may want to see."""

    stage: str
    done: int | None = None
    total: int | None = None
    text: str = ""
    repaired: int = 0  # points written to the target since the report before


class Work(Protocol):
    """A piece of work that may be carried out elsewhere: a value that can be pickled, and a flow of its own there."""

    def flow(self) -> Generator[Any, Any, Any]:
        """The flow that carries it out."""


@dataclass(frozen=True)
class Room:
    """
    How many pieces of work may be under way at once, just now.

    Args:
        here: How many it should be while they are carried out on this machine.
    """

    here: int


@dataclass(frozen=True)
class Begin:
    """Let a piece of work be carried out beside this flow; the result is a number to await it by."""

    work: Work


@dataclass(frozen=True)
class Await:
    """
    Wait until any of these pieces of work has ended, or `seconds` have passed.

    The result names those that have ended, each once: `[(number, Outcome), ...]`.  A piece whose worker was lost
    ends in `Unreachable`: what it had sent may still be carried out.
    """

    numbers: tuple[int, ...]
    seconds: float


Effect: TypeAlias = (
    Request | Call | Together | Carry | Now | Today | Sleep | Fresh | NewId | Report | Room | Begin | Await
)
T = TypeVar("T")
Flow: TypeAlias = Generator[Effect, Any, T]
