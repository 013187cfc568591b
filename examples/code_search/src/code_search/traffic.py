"""MCP clients that ask the same questions over and over, and an account of every answer; for the demo and the tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio.abc import TaskStatus
from mcp import Client, MCPError
from mcp.types import TextContent

# Between two questions of a client; without it, four of them would leave a small machine no time to migrate.
PAUSE_S = 0.2
HITS = 3

Session = Callable[[], Client]


class SearchFailed(Exception):
    """A search was answered with an error, of the tool's or of the protocol's."""


@dataclass
class Account:
    """What became of the searches: each was answered well, or is on exactly one of the lists."""

    searches: int = 0
    failed: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    astray: list[str] = field(default_factory=list)  # there were hits, but the best one is in another file

    @property
    def clean(self) -> bool:
        """Whether there were searches, and the best hit of each was in the file where it belongs."""
        return self.searches > 0 and not (self.failed or self.empty or self.astray)


async def search(client: Client, question: str) -> list[dict[str, Any]]:
    """
    Ask one question.

    Returns:
        The hits, best first.

    Raises:
        SearchFailed: There was an error in place of an answer.
    """
    try:
        result = await client.call_tool("semantic_code_search", {"query": question, "limit": HITS})
    except MCPError as error:
        raise SearchFailed(str(error)) from error
    if result.is_error or result.structured_content is None:
        raise SearchFailed(" ".join(block.text for block in result.content if isinstance(block, TextContent)))
    hits: list[dict[str, Any]] = result.structured_content["hits"]
    return hits


class Traffic:
    """
    Clients that search until they are stopped, each in a session of its own.

    Args:
        answers: By question, the file in which the best hit has to be.
    """

    def __init__(self, answers: Mapping[str, str]) -> None:
        self.account = Account()
        self._answers = answers
        self._rounds: list[int] = []
        self._round_over = anyio.Condition()

    @asynccontextmanager
    async def running(self, sessions: Sequence[Session]) -> AsyncIterator[None]:
        """Open all the sessions, and search in each of them until the block ends; its error comes out as it is."""
        stop = anyio.Event()
        failure: Exception | None = None
        async with anyio.create_task_group() as clients:
            async with anyio.create_task_group() as opening:
                for session in sessions:
                    opening.start_soon(clients.start, self._keep_searching, session, stop)
            try:
                yield
            except Exception as error:  # noqa: BLE001  raised again below; a task group would wrap it
                failure = error
            stop.set()
        if failure is not None:
            raise failure

    async def next_round(self) -> None:
        """Wait until every client has been answered all questions, each of them asked after this call."""
        async with self._round_over:
            goals = [done + 2 for done in self._rounds]  # the round under way began before
            while any(done < goal for done, goal in zip(self._rounds, goals, strict=True)):
                await self._round_over.wait()

    async def _keep_searching(self, session: Session, stop: anyio.Event, *, task_status: TaskStatus[None]) -> None:
        async with session() as client:
            number = len(self._rounds)
            self._rounds.append(0)
            task_status.started()
            while not stop.is_set():
                for question, path in self._answers.items():
                    await self._search_once(client, question, path)
                    await anyio.sleep(PAUSE_S)
                async with self._round_over:
                    self._rounds[number] += 1
                    self._round_over.notify_all()

    async def _search_once(self, client: Client, question: str, path: str) -> None:
        self.account.searches += 1
        try:
            hits = await search(client, question)
        except SearchFailed as error:
            self.account.failed.append(f"{question}: {error}")
            return
        if not hits:
            self.account.empty.append(question)
        elif hits[0]["path"] != path:
            self.account.astray.append(f"{question}: {hits[0]['path']}")
