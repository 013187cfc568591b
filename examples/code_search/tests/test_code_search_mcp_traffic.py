"""What counts the answers during a migration sees the bad ones, too."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from mcp import Client
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

from code_search.traffic import Account, SearchFailed, Traffic, search

QUESTION, PATH = "a question", "the/right/file.py"


def session_with(answer: Callable[[], list[dict[str, Any]]]) -> Callable[[], Client]:
    """Make sessions with a server that answers every search alike."""
    server = MCPServer("stub", log_level="CRITICAL")

    @server.tool()
    def semantic_code_search(query: str, limit: int) -> dict[str, Any]:  # noqa: ARG001  the tool's signature
        return {"hits": answer()}

    return lambda: Client(server)


def right() -> list[dict[str, Any]]:
    """Give the hit that is expected."""
    return [{"path": PATH}]


def refuse() -> list[dict[str, Any]]:
    """Give an error that the tool foresaw."""
    raise ToolError("not found")


def crash() -> list[dict[str, Any]]:
    """Give an error that nobody foresaw."""
    raise LookupError


async def account_of(*answers: Callable[[], list[dict[str, Any]]]) -> Account:
    """Let one client per answer search for a round."""
    traffic = Traffic({QUESTION: PATH})
    async with traffic.running([session_with(answer) for answer in answers]):
        await traffic.next_round()
    return traffic.account


async def test_right_answers_are_clean() -> None:
    """Searches whose best hit is in the right file are counted and leave nothing on the lists."""
    account = await account_of(right, right)
    assert account == Account(searches=account.searches)
    assert account.searches >= 4
    assert account.clean


@pytest.mark.parametrize(
    ("answer", "kind"), [(refuse, "failed"), (crash, "failed"), (list, "empty"), (lambda: [{"path": "x"}], "astray")]
)
async def test_bad_answers_are_counted(answer: Callable[[], list[dict[str, Any]]], kind: str) -> None:
    """One client among good ones that is answered with an error, nothing or another file spoils the account."""
    account = await account_of(right, answer)
    lists = {"failed": account.failed, "empty": account.empty, "astray": account.astray}
    assert [name for name, searches in lists.items() if searches] == [kind]
    assert all(QUESTION in one for one in lists[kind])
    assert len(lists[kind]) < account.searches
    assert not account.clean


def test_account_without_a_search_is_not_clean() -> None:
    """Where nobody searched nothing is shown."""
    assert not Account().clean


async def test_error_in_the_block_comes_out_as_it_is() -> None:
    """The clients are stopped, and the error is not wrapped in a group."""
    with pytest.raises(KeyError, match="mine"):
        async with Traffic({QUESTION: PATH}).running([session_with(right)]):
            raise KeyError("mine")


async def test_round_is_one_that_began_after_the_call() -> None:
    """A change that was made before waiting for the round is in the round's answers."""
    changed = anyio.Event()
    seen: list[bool] = []

    def answer() -> list[dict[str, Any]]:
        seen.append(changed.is_set())
        return right()

    traffic = Traffic({QUESTION: PATH, "another": PATH})
    async with traffic.running([session_with(answer)]):
        await traffic.next_round()
        changed.set()
        before = len(seen)
        await traffic.next_round()
    assert seen[before:].count(True) >= 2


async def test_protocol_error_is_a_failed_search() -> None:
    """A server without the tool fails the search instead of the client."""
    async with Client(MCPServer("empty", log_level="CRITICAL")) as client:
        with pytest.raises(SearchFailed, match="Unknown tool"):
            await search(client, QUESTION)
