"""The server: the tools behind one MCP endpoint, on stdio or on a port of this machine."""

from __future__ import annotations

import contextlib
import inspect
import os
import socket
from collections.abc import AsyncIterator, Callable
from importlib.metadata import version

import uvicorn
from mcp.server.mcpserver import MCPServer

from qferry.errors import Misuse
from qferry.mcp.calls import Operator, told
from qferry.mcp.tools import TOOLS

# When the server is stopped, calls under way may complete for this long, in seconds; then they are cancelled.
GOODBYE_S = 1
_INSTRUCTIONS = """\
Moves a live Qdrant collection to another one without stopping the application and without losing a point.
The way: survey, plan, start, backfill, verify, switch (10, then 100 percent), finish; cleanup after the safety period.
rollback and abort lead back at any time before finish. status says where a migration stands and what comes next,
doctor what is wrong. Whatever changes something asks the person first. A refusal says what to do next.
Commands that hints name are these tools; `qferry verify --repair` is repair."""


def operator_server(operator: Operator) -> MCPServer[Operator]:
    """The tools of one operator, ready to be served."""

    @contextlib.asynccontextmanager
    async def lifespan(_: MCPServer[Operator]) -> AsyncIterator[Operator]:
        yield operator

    server = MCPServer(
        "qferry",
        title="qferry",
        version=version("qferry"),
        instructions=_INSTRUCTIONS,
        lifespan=lifespan,
        # Requests to Qdrant are logged at INFO, URL and all; a fault of qferry is logged at ERROR.
        log_level="WARNING",
    )
    for tool, hints in TOOLS.items():
        server.add_tool(told(tool), description=inspect.getdoc(tool), annotations=hints, structured_output=True)
    return server


def serve_on_stdio(operator: Operator) -> None:
    """Serve the client that has started this process, until it closes stdin. Nothing else may use stdout."""
    operator_server(operator).run("stdio")


def serve_on_http(operator: Operator, host: str, port: int, *, ready: Callable[[str], None]) -> None:
    """
    Serve clients on this machine until Ctrl-C.

    Args:
        operator: What the tools are given.
        host: An address of this machine that no other reaches; whoever can connect is an operator.
        port: 0 for any that is free.
        ready: Called with the URL when it can be used.

    Raises:
        Misuse: The port is taken, or this process may not use it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise Misuse(
            f"Nothing can be served at port {port} of {host}: {os.strerror(error.errno or 0)}.",
            hint="Choose another port.",
        ) from error
    with listener:
        app = operator_server(operator).streamable_http_app(host=host)
        # What it calls an error is a call that was cancelled; those of the tools are logged by the SDK.
        config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=GOODBYE_S)
        shown = f"[{host}]" if ":" in host else host
        ready(f"http://{shown}:{listener.getsockname()[1]}/mcp")
        uvicorn.Server(config).run(sockets=[listener])
