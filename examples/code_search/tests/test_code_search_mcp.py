"""The tools, as a real MCP client sees them over both transports."""

import json
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from socket import socket
from typing import Any

import anyio
import httpx
import pytest
import uvicorn
from code_search_support import CountingEmbedder, grpc_error, rest_error
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import TextContent
from mcp_sessions import ANSWERS, FILES, WORD_SERVER, environment, error_of, in_process, session_over, write_project
from qdrant_client import QdrantClient, models

from code_search.errors import CodeSearchError
from code_search.server import MAX_LIMIT, _address, _said_plainly, serve
from code_search.settings import Settings
from qferry import commands
from qferry.connection import Connection
from qferry.protocol.records import CONTROL_COLLECTION
from qferry.server import QdrantServer

HELLO = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "by hand", "version": "0"}}
PATIENCE_S = 60.0
TOOLS = {"semantic_code_search", "index_project", "index_status"}
# The server itself calls Qdrant by gRPC in one of them, by REST in the other.
TRANSPORTS = pytest.mark.parametrize(("transport", "by_grpc"), [("stdio", True), ("http", False)])


@pytest.fixture
def environ(server: Any, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Give the environment of a server for a project that is not indexed yet."""
    project = uuid.uuid4().hex
    yield environment(server.url, project, write_project(tmp_path / "project"), server.api_key)
    client = QdrantClient(url=server.url, api_key=server.api_key, check_compatibility=False)
    client.delete_collection(f"project-{project}")
    client.close()


async def test_tools_are_listed_with_schemas_and_hints(environ: dict[str, str]) -> None:
    """What the three tools take, what they answer and what they change is declared."""
    async with in_process(environ) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert tools.keys() == TOOLS
    search = tools["semantic_code_search"]
    assert set(search.input_schema["properties"]) == {"query", "limit", "language", "path"}
    assert search.input_schema["required"] == ["query"]
    limit = search.input_schema["properties"]["limit"]
    assert (limit["minimum"], limit["maximum"], limit["default"]) == (1, MAX_LIMIT, 10)
    # A model can name neither a folder to index nor a server to ask.
    assert not tools["index_project"].input_schema["properties"]
    assert not tools["index_status"].input_schema["properties"]
    assert all(tool.output_schema is not None and tool.description for tool in tools.values())
    hints = {name: tool.annotations for name, tool in tools.items() if tool.annotations is not None}
    assert {name: (hint.read_only_hint, hint.open_world_hint) for name, hint in hints.items()} == {
        "semantic_code_search": (True, False),
        "index_project": (False, False),
        "index_status": (True, False),
    }
    assert (hints["index_project"].destructive_hint, hints["index_project"].idempotent_hint) == (True, True)


@TRANSPORTS
async def test_indexed_project_is_found(transport: str, by_grpc: bool, environ: dict[str, str], server: Any) -> None:
    """Indexing tells its progress; then every question finds its file, as structure and as the same JSON in text."""
    environ["QDRANT_GRPC_PORT"] = str(server.grpc_port) if by_grpc else ""
    told: list[tuple[float, float | None]] = []

    async def note(progress: float, total: float | None, _: str | None) -> None:
        told.append((progress, total))

    with session_over(transport, environ) as session:
        async with session as client:
            assert client.protocol_version >= "2025-06-18"
            assert len((await client.list_tools()).tools) == len(TOOLS)
            indexed = await client.call_tool("index_project", progress_callback=note)
            assert not indexed.is_error, indexed.content
            assert indexed.structured_content is not None
            assert indexed.structured_content["files"] == len(FILES)
            for question, path in ANSWERS.items():
                found = await client.call_tool("semantic_code_search", {"query": question})
                assert found.structured_content is not None
                best = found.structured_content["hits"][0]
                assert best["path"] == path
                lines = FILES[path].splitlines()[best["start_line"] - 1 : best["end_line"]]
                assert best["snippet"].splitlines()[0] in lines
                (block,) = found.content
                assert isinstance(block, TextContent)
                assert json.loads(block.text) == found.structured_content
            status = (await client.call_tool("index_status")).structured_content
            again = (await client.call_tool("index_project")).structured_content
    assert told
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert told[-1][0] == told[-1][1]
    assert status is not None
    assert (status["collection"], status["files"]) == (f"project-{environ['PROJECT_NAME']}", len(FILES))
    assert again is not None
    assert (again["added"], again["deleted"]) == (0, 0)


async def test_search_keeps_to_a_language_and_a_folder(environ: dict[str, str]) -> None:
    """Hits are only of the language, and only below the folder or in the file, that was asked for."""
    async with in_process(environ) as client:
        await client.call_tool("index_project")

        async def paths(**only: object) -> set[str]:
            found = await client.call_tool("semantic_code_search", {"query": "the customer", "limit": 50, **only})
            assert found.structured_content is not None
            return {hit["path"] for hit in found.structured_content["hits"]}

        assert await paths() == set(FILES)
        assert await paths(language="go") == {"server/login.go"}
        assert await paths(path="shop") == {path for path in FILES if path.startswith("shop/")}
        assert await paths(path="shop/cart.py") == {"shop/cart.py"}
        assert await paths(path="shop", language="go") == set()


@TRANSPORTS
async def test_cancelled_indexing_stops_between_batches(
    transport: str, by_grpc: bool, environ: dict[str, str], server: Any
) -> None:
    """A call that is cancelled ends before all is indexed; the next one does what is left."""
    environ["QDRANT_GRPC_PORT"] = str(server.grpc_port) if by_grpc else ""
    # Five batches: also a machine that is slow to cancel finds one that has not begun.
    many = {f"many/file_{number}.py": f"def number_{number}():\n    return {number}\n" for number in range(300)}
    write_project(Path(environ["PROJECT_ROOT"]), many)
    with session_over(transport, environ, seconds_per_text=0.01) as session:
        async with session as client:
            with anyio.CancelScope() as call:

                async def cancel(progress: float, total: float | None, _: str | None) -> None:
                    if total is not None and 0 < progress < total:
                        call.cancel()

                await client.call_tool("index_project", progress_callback=cancel)
            assert call.cancelled_caught
            # It waits for one that is still at work; had that gone on to the end, nothing would be left for it.
            rest = (await client.call_tool("index_project")).structured_content
            status = (await client.call_tool("index_status")).structured_content
    assert rest is not None
    assert status is not None
    assert 0 < rest["added"] < status["chunks"]
    assert status["files"] == len(FILES) + len(many)


async def test_what_cannot_be_answered_is_answered_with_a_sentence(environ: dict[str, str]) -> None:
    """An error of the caller's is marked as one, and says what to do next."""
    async with in_process(environ) as client:
        assert "Say in a few words" in await error_of(client, "semantic_code_search", query="  \n")
        for limit in (0, -1, MAX_LIMIT + 1):
            told = await error_of(client, "semantic_code_search", query="a cart", limit=limit)
            assert f"The limit is {limit}" in told
            assert f"1 to {MAX_LIMIT}" in told
        assert "Call index_project" in await error_of(client, "semantic_code_search", query="a cart")
        assert "python" in await error_of(client, "semantic_code_search", query="a cart", language="latin")
        assert "valid" in await error_of(client, "semantic_code_search", query="a cart", limit="many")
        assert "Unknown tool" in await error_of(client, "delete_project")


async def test_server_without_a_root_indexes_nothing(environ: dict[str, str]) -> None:
    """A server that was told no folder says so; it takes none from the caller."""
    del environ["PROJECT_ROOT"]
    async with in_process(environ) as client:
        assert "PROJECT_ROOT" in await error_of(client, "index_project", root="/etc")
        status = (await client.call_tool("index_status")).structured_content
    assert status is not None
    assert (status["collection"], status["chunks"]) == (None, 0)


async def test_qdrant_that_does_not_answer_is_told(environ: dict[str, str]) -> None:
    """Without its Qdrant a server runs, and every tool says what is missing; where it is looked for is not told."""
    with socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening: refused, and nobody else can take it
        environ["QDRANT_URL"] = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        async with in_process(environ) as client:
            for tool, arguments in (
                ("semantic_code_search", {"query": "a cart"}),
                ("index_project", {}),
                ("index_status", {}),
            ):
                told = await error_of(client, tool, **arguments)
                assert "Qdrant does not answer" in told
                assert "QDRANT_URL" in told
                assert "127.0.0.1" not in told


async def test_grpc_that_does_not_answer_is_told(environ: dict[str, str]) -> None:
    """Where REST answers and nobody listens for gRPC, the sentence names the variable that says where it is."""
    with socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        environ["QDRANT_GRPC_PORT"] = str(nobody.getsockname()[1])
        async with in_process(environ) as client:
            told = await error_of(client, "semantic_code_search", query="a cart")
            assert "Qdrant does not answer" in told
            assert "QDRANT_GRPC_PORT" in told
            assert "127.0.0.1" not in told


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (grpc_error("PERMISSION_DENIED"), "Qdrant refused this with status PERMISSION_DENIED"),
        (grpc_error("UNAUTHENTICATED"), "check QDRANT_API_KEY"),
        (grpc_error("DEADLINE_EXCEEDED"), "Qdrant does not answer"),
        (rest_error(HTTPStatus.FORBIDDEN), "Qdrant refused this with status 403"),
    ],
)
def test_refusal_is_told_whichever_way_it_came(error: Exception, told: str) -> None:
    """An error of gRPC's and one of REST's make the same sentences."""
    with pytest.raises(ToolError, match=told), _said_plainly():
        raise error


@pytest.mark.parametrize(
    ("host", "origin", "refused"),
    [
        ("localhost:8000", None, None),
        ("127.0.0.1", "http://localhost:3000", None),
        ("[::1]:8000", "https://127.0.0.1", None),
        ("search.example.com", "https://search.example.com", None),
        ("search.example.com:8000", None, None),
        ("10.0.0.7:8000", None, None),
        ("10.0.0.7:8001", None, 421),
        ("evil.example:8000", None, 421),
        ("localhost:8000", "http://evil.example", 403),
    ],
)
async def test_only_known_names_are_answered_wherever_the_server_listens(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, host: str, origin: str | None, refused: int | None
) -> None:
    """A web page whose name is made to lead to the server reaches no tool, also if it listens on all addresses."""
    environ["CODE_SEARCH_ALLOWED_HOSTS"] = "search.example.com,10.0.0.7:8000"
    apps: list[Any] = []
    monkeypatch.setattr(uvicorn, "run", lambda app, **_: apps.append(app))
    serve(Settings.from_environ(environ), "0.0.0.0:8000", embedder=CountingEmbedder())
    headers = {"host": host, "accept": "application/json, text/event-stream"}
    headers |= {"origin": origin} if origin else {}
    message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HELLO}
    async with (
        apps[0].router.lifespan_context(apps[0]),
        httpx.AsyncClient(transport=httpx.ASGITransport(apps[0]), base_url="http://server") as browser,
    ):
        answer = await browser.post("/mcp", headers=headers, json=message)
    assert answer.status_code == (refused or 200)


@pytest.fixture(scope="module")
def migrating() -> Iterator[QdrantServer]:
    """Give a server on which a migration lives, so that every client has to be known."""
    with QdrantServer.start() as server:
        plain = QdrantClient(url=server.url, check_compatibility=False)
        plain.create_collection("old", vectors_config=models.VectorParams(size=2, distance=models.Distance.COSINE))
        plain.close()
        commands.start(Connection(url=server.url, grpc_port=server.grpc_port), "old", "new")
        yield server


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (lambda process: process.stdin.close(), 0),
        (lambda process: process.send_signal(signal.SIGTERM), 143),
        (lambda process: process.send_signal(signal.SIGINT), 130),
    ],
    ids=["stdin", "SIGTERM", "SIGINT"],
)
def test_stdio_server_says_goodbye_however_it_is_ended(
    migrating: QdrantServer, tmp_path: Path, end: Callable[[Any], None], code: int
) -> None:
    """Its host closes stdin, or leaves that open and sends a signal: no writer is left that a migration waits for."""
    environ = environment(migrating.url, uuid.uuid4().hex, write_project(tmp_path))
    plain = QdrantClient(url=migrating.url, check_compatibility=False)
    process = subprocess.Popen(  # noqa: S603  our own interpreter and file
        [sys.executable, str(WORD_SERVER), "", "0"],
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )

    def writers() -> int:
        ours = models.Filter(must=[models.FieldCondition(key="pid", match=models.MatchValue(value=process.pid))])
        return len(plain.scroll(CONTROL_COLLECTION, scroll_filter=ours)[0])

    with process:
        try:
            talk(process, {"id": 1, "method": "initialize", "params": HELLO}, {"method": "notifications/initialized"})
            talk(process, {"id": 2, "method": "tools/call", "params": {"name": "index_project", "arguments": {}}})
            assert writers() == 1
            end(process)
            assert process.wait(PATIENCE_S) == code
            assert writers() == 0
        finally:
            process.kill()
    plain.close()


def talk(process: subprocess.Popen[str], *messages: dict[str, Any]) -> dict[int, Any]:
    """Send messages over stdio, each after the answer to the one before; the results, by the requests' ids."""
    assert process.stdin is not None
    assert process.stdout is not None
    answers: dict[int, Any] = {}
    for message in messages:
        process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        process.stdin.flush()
        while "id" in message and message["id"] not in answers:
            answer = json.loads(process.stdout.readline())
            assert answer["jsonrpc"] == "2.0"
            answers[answer["id"]] = answer["result"]
    return answers


def test_stdio_carries_the_protocol_of_2025_06_18_and_nothing_else(environ: dict[str, str]) -> None:
    """The command, with the real model, answers the older revision with messages alone, and ends when stdin does."""
    search = {"name": "semantic_code_search", "arguments": {"query": "how customers log in"}}
    messages: tuple[dict[str, Any], ...] = (
        {"id": 1, "method": "initialize", "params": HELLO},
        {"method": "notifications/initialized"},
        {"id": 2, "method": "tools/call", "params": {"name": "index_project", "arguments": {}}},
        {"id": 3, "method": "tools/call", "params": search},
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "code_search", "serve"],
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        answers = talk(process, *messages)
        process.stdin.close()
        assert process.stdout.read() == ""
        assert process.wait() == 0
    assert answers[1]["protocolVersion"] == "2025-06-18"
    assert not answers[2].get("isError"), answers[2]
    assert answers[3]["structuredContent"]["hits"][0]["path"] == "server/login.go"


@pytest.mark.parametrize(
    ("http", "address"),
    [
        ("127.0.0.1:8000", ("127.0.0.1", 8000)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:80", ("::1", 80)),
        (":8000", ("127.0.0.1", 8000)),
    ],
)
def test_http_listens_where_it_is_told(http: str, address: tuple[str, int]) -> None:
    """A port without a host is one on loopback."""
    assert _address(http) == address


@pytest.mark.parametrize("http", ["", "8000", "host", "host:port", "host:99999", "host:80/mcp", "http://host:80"])
def test_what_is_no_address_is_refused(http: str) -> None:
    """The error says how an address is written."""
    with pytest.raises(CodeSearchError, match="HOST:PORT"):
        _address(http)
