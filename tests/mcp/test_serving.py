"""`qferry mcp` as a process: what a host starts, what listens on a port, and what it refuses."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from operating import POINTS, Person

from qferry.cli import main

COMMAND = ["-m", "qferry", "mcp"]


def environment(qdrant: Any, **more: str) -> dict[str, str]:
    """The variables of a process that reaches the shared server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("QFERRY_", "COLLECTION_"))}
    key = {"QDRANT_API_KEY": qdrant.api_key} if qdrant.api_key else {}
    return {**kept, "QDRANT_URL": qdrant.url, "QDRANT_GRPC_PORT": str(qdrant.grpc_port), **key, **more}


@contextmanager
def process(*arguments: str, env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """The command as a process, killed in the end if it has not ended."""
    with subprocess.Popen(  # noqa: S603  our own command
        [sys.executable, *COMMAND, *arguments],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            yield running
        finally:
            running.kill()


async def test_host_starts_it_and_talks_to_it(qdrant: Any, source: str) -> None:
    """Over stdin and stdout a client lists the tools, looks, and is asked before anything happens."""
    person = Person(lambda _: "decline")
    command = StdioServerParameters(command=sys.executable, args=COMMAND, env=environment(qdrant))
    async with Client(command, mode="legacy", elicitation_callback=person.reply) as client:
        assert "backfill" in {tool.name for tool in (await client.list_tools()).tools}
        planned = await client.call_tool("plan", {"source": source})
        assert planned.structured_content is not None
        assert planned.structured_content["points"] == POINTS
        declined = await client.call_tool("start", {"source": source})
        assert "nothing was changed" in declined.content[0].text  # type: ignore[union-attr]  # it is text
    (question,) = person.asked
    assert f"Start to move `{source}`" in question


def test_it_ends_when_its_client_has_gone(qdrant: Any) -> None:
    """Closing stdin is how a host ends it: exit code 0, and not a word on stdout or stderr."""
    with process(env=environment(qdrant)) as running:
        assert running.communicate("", timeout=30) == ("", "")
        assert running.returncode == 0


async def test_it_can_listen_on_a_port_of_this_machine(qdrant: Any, source: str) -> None:
    """It says where; it ends by Ctrl-C with exit code 0."""
    with process("--http", "localhost:0", "--allow-changes", env=environment(qdrant)) as running:
        assert running.stderr is not None
        announced = re.fullmatch(r"Serving MCP at (http://127\.0\.0\.1:\d+/mcp)\n", running.stderr.readline())
        assert announced is not None
        async with Client(announced[1]) as client:
            planned = await client.call_tool("plan", {"source": source})
            assert not planned.is_error
        running.send_signal(signal.SIGINT)
        assert running.communicate(timeout=30) == ("", "")
        assert running.returncode == 0


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("0.0.0.0:8765", "would let other machines in"),
        ("[::]:8765", "would let other machines in"),
        ("192.168.1.2:8765", "would let other machines in"),
        ("example.org:8765", "would let other machines in"),
        ("127.0.0.1", "HOST:PORT"),
        (":8765", "would let other machines in"),
        ("127.0.0.1:http", "HOST:PORT"),
        ("127.0.0.1:99999", "HOST:PORT"),
        ("http://127.0.0.1:8765", "HOST:PORT"),
        ("127.0.0.1:8765/mcp", "HOST:PORT"),
        ("someone@127.0.0.1:8765", "HOST:PORT"),
        ("", "HOST:PORT"),
    ],
)
def test_it_listens_nowhere_else(address: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An address that other machines reach, or that is none, is a usage error."""
    assert main(["mcp", "--http", address]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert says in said.err
    assert said.err.count("\n") == 1


def test_port_that_is_taken_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1, and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["mcp", "--http", f"127.0.0.1:{port}"]) == 1
    assert capsys.readouterr().err == (
        f"Nothing can be served at port {port} of 127.0.0.1: Address already in use. Choose another port.\n"
    )


def test_missing_packages_are_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the extra the command says how to get it."""
    for module in ("qferry.mcp.calls", "qferry.mcp.server"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "mcp.server.mcpserver", None)
    assert main(["mcp"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("To serve MCP needs packages that are not installed: ")
    assert said.err.endswith('Install them with `pip install "qferry[mcp]"`.\n')
