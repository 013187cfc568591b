"""`qferry mcp`: the verbs as tools for an assistant."""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated
from urllib.parse import urlsplit

import typer

from qferry.cli import output
from qferry.cli.options import Context, verb
from qferry.cli.output import Answer, usage
from qferry.errors import Misuse

# Nobody else's machine reaches these.
_LOOPBACK = {"127.0.0.1": "127.0.0.1", "localhost": "127.0.0.1", "::1": "::1"}


@verb
def mcp(
    context: Context,
    http: Annotated[
        str | None,
        typer.Option(
            "--http",
            metavar="HOST:PORT",
            show_default=False,
            help="Listen at this port of 127.0.0.1, localhost or [::1] instead of on stdin; no variable sets it.",
        ),
    ] = None,
    allow_changes: Annotated[
        bool,
        typer.Option(
            "--allow-changes",
            help="Let a client that can ask nobody change things too; no variable sets it.",
        ),
    ] = False,
) -> Answer | None:
    """Serve these verbs as tools for an assistant (MCP), on stdin and stdout."""
    listen = _loopback(http) if http is not None else None
    naming = context.naming
    try:
        from qferry.mcp.calls import Operator  # noqa: PLC0415  its packages are an extra
        from qferry.mcp.server import serve_on_http, serve_on_stdio  # noqa: PLC0415
    except ImportError as error:
        raise Misuse(
            f"To serve MCP needs packages that are not installed: {error}.",
            hint='Install them with `pip install "qferry[mcp]"`.',
        ) from error
    operator = Operator(context.connection, naming, allow_changes)
    with contextlib.suppress(KeyboardInterrupt):  # a good end
        if listen is not None:
            serve_on_http(operator, *listen, ready=lambda url: output.write_note(f"Serving MCP at {url}"))
        else:
            if sys.stdin.isatty():
                output.write_note(
                    "Waiting for an MCP client on stdin, which is what starts this command; Ctrl-D ends it."
                )
            serve_on_stdio(operator)
    return None


def _loopback(address: str) -> tuple[str, int]:
    """
    A port of this machine.

    Whoever reaches it may delete collections, and there is no authentication, so no other machine must.
    """
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname or "", parts.port
        fits = port is not None and parts.netloc == address and "@" not in address
    except ValueError:
        host, port, fits = "", None, False
    if not fits or port is None:
        raise usage("--http is not of the form HOST:PORT.", "An example: --http 127.0.0.1:8765")
    if host not in _LOOPBACK:
        raise usage(
            f"--http {address} would let other machines in, and these tools ask nobody who they are.",
            "Use 127.0.0.1, localhost or [::1]; from elsewhere, come through ssh or a proxy that asks.",
        )
    return _LOOPBACK[host], port
