"""What the tests of the tools share: who is asked, and what opens a client."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mcp import Client
from mcp_types import ElicitRequestParams, ElicitResult

POINTS = 120
# The protocol of the user's document and its successors; and the one in which a question is an answer to a call.
MODES = ("legacy", "auto")


@dataclass
class Person:
    """
    Who is asked.

    Args:
        answers: Answer to each question: typed into the form; or how it is put away, `decline` or `cancel`.
        asked: The questions.
    """

    answers: Callable[[str], dict[str, Any] | str]
    asked: list[str] = field(default_factory=list)

    async def reply(self, _: Any, params: ElicitRequestParams) -> ElicitResult:
        """Answer a question."""
        self.asked.append(params.message)
        answer = self.answers(params.message)
        if isinstance(answer, str):
            return ElicitResult(action=answer)  # type: ignore[arg-type]  # one of the words of the protocol
        return ElicitResult(action="accept", content=answer)


# Opens a client of the tools; without a person it can ask nobody.
Opener = Callable[..., contextlib.AbstractAsyncContextManager[Client]]


def agreeing(source: str) -> Person:
    """Return a person who agrees to everything."""
    return Person(lambda question: {"name": source} if "Type `" in question else {"go_ahead": True})
