"""A small project, servers that search it, and real MCP sessions with them."""

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import IO

from code_search_support import CountingEmbedder
from mcp import Client, StdioServerParameters
from mcp.types import TextContent

from code_search.server import make_server
from code_search.settings import Settings

WORD_SERVER = Path(__file__).with_name("word_server.py")
FILES = {
    "shop/cart.py": '"""The cart."""\n\n\ndef add_article(cart, article):\n    """Put an article into the cart."""\n',
    "shop/invoice.py": 'def print_invoice(order):\n    """Print the invoice of an order with its taxes."""\n',
    "shop/parcel.py": 'def track_parcel(number):\n    """Ask the carrier where a parcel is."""\n',
    "server/login.go": "package server\n\n// Login checks a customer's password.\nfunc Login(password string) {}\n",
    "README.md": "# A shop\n\nIt sells umbrellas to people in the rain.\n",
}
ANSWERS = {
    "put an article into the cart": "shop/cart.py",
    "login checks a password": "server/login.go",
}


def write_project(root: Path, files: Mapping[str, str] = FILES) -> Path:
    """Write the files below a folder and return it."""
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def environment(
    url: str, project: str, root: Path | None, api_key: str | None = None, *, grpc_port: int = 0
) -> dict[str, str]:
    """What a server is told, and nothing that this shell says of the same things."""
    ours = ("QDRANT_", "QFERRY_", "COLLECTION_", "PROJECT_", "CODE_SEARCH_", "ENABLE_")
    told = {"QDRANT_URL": url, "QDRANT_GRPC_PORT": str(grpc_port), "PROJECT_NAME": project}
    told |= {"PROJECT_ROOT": str(root)} if root is not None else {}
    told |= {"QDRANT_API_KEY": api_key} if api_key is not None else {}
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | told


def in_process(environ: Mapping[str, str]) -> Client:
    """A session with a server in this process, for what does not depend on how messages travel."""
    return Client(make_server(Settings.from_environ(environ), CountingEmbedder()))


def over_stdio(environ: Mapping[str, str], *, seconds_per_text: float = 0) -> Client:
    """A session with a server process of its own."""
    arguments = [str(WORD_SERVER), "", str(seconds_per_text)]
    return Client(StdioServerParameters(command=sys.executable, args=arguments, env=dict(environ)))


@contextlib.contextmanager
def http_server(environ: Mapping[str, str], *, seconds_per_text: float = 0) -> Iterator[str]:
    """A server process that listens on a free port; its URL."""
    command = [sys.executable, str(WORD_SERVER), "127.0.0.1:0", str(seconds_per_text)]
    process = subprocess.Popen(  # noqa: S603  our own interpreter and file
        command, env=dict(environ), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    with process:
        assert process.stderr is not None
        log = ServerLog(process.stderr)
        log.start()
        try:
            yield f"{log.address()}/mcp"
        finally:
            process.terminate()
            log.join()


class ServerLog(threading.Thread):
    """Reads what a server says, so that it never waits to say it, and finds the address in it."""

    def __init__(self, lines: IO[str]) -> None:
        super().__init__()
        self._lines = lines
        self._told: list[str] = []
        self._address: Future[str] = Future()

    def run(self) -> None:
        """Read to the end, which is the server's."""
        for line in self._lines:
            self._told.append(line)
            if not self._address.done() and (found := re.search(r"running on (http://\S+)", line)):
                self._address.set_result(found[1])
        if not self._address.done():
            self._address.set_exception(AssertionError(f"The server ended before it listened: {self._told}"))

    def address(self) -> str:
        """Wait until the server listens."""
        return self._address.result()


@contextlib.contextmanager
def session_over(transport: str, environ: Mapping[str, str], *, seconds_per_text: float = 0) -> Iterator[Client]:
    """A session, not open yet, by the transport of that name."""
    if transport == "stdio":
        yield over_stdio(environ, seconds_per_text=seconds_per_text)
    else:
        with http_server(environ, seconds_per_text=seconds_per_text) as url:
            yield Client(url)


async def error_of(client: Client, tool: str, **arguments: object) -> str:
    """The sentence with which a call is answered that has to fail."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    (block,) = result.content
    assert isinstance(block, TextContent)
    return block.text
