"""`qferry metrics`, and `--metrics-listen` of the other verbs: scrapes are answered while a command runs."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from qferry.cli import output
from qferry.cli.options import Context, verb
from qferry.cli.output import Answer, usage
from qferry.connection import Connection
from qferry.errors import Misuse
from qferry.flows.effects import Report

DEFAULT_ADDRESS = ("127.0.0.1", 9464)


def listen_address(text: str | None) -> tuple[str, int] | None:
    """Where to listen; None if nothing was said."""
    if text is None:
        return None
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname or "", parts.port
        fits = bool(host) and port is not None and parts.netloc == text and "@" not in text
    except ValueError:
        host, port, fits = "", None, False
    if not fits or port is None:
        raise usage("--metrics-listen is not of the form HOST:PORT.", "An example: --metrics-listen 127.0.0.1:9464")
    return host, port


@contextlib.contextmanager
def served(
    connection: Connection, address: tuple[str, int], *, announced: str = ""
) -> Iterator[Callable[[Report], None]]:
    """
    Answer scrapes meanwhile; yields what is to be told how far the command is.

    Args:
        connection: The servers.
        address: Where to listen; at port 0: at any free one, which is announced.
        announced: What to say besides where that is; empty: nothing is said of a port that was chosen.
    """
    try:
        from qferry.exporter import serving  # noqa: PLC0415  its package is an extra
    except ImportError as error:
        raise Misuse(
            f"Metrics need a package that is not installed: {error}.",
            hint='Install it with `pip install "qferry[metrics]"`, or leave --metrics-listen out.',
        ) from error
    host, port = address
    with serving(connection, host, port) as metrics:
        if announced or not port:
            where = f"[{host}]" if ":" in host else host
            output.write_note(f"Serving metrics at http://{where}:{metrics.port}/metrics{announced}.")
        yield metrics.report


@verb
def metrics(context: Context) -> Answer | None:
    """Answer Prometheus's scrapes with where migrations stand, until Ctrl-C. Changes nothing."""
    address = context.metrics_listen or DEFAULT_ADDRESS
    with (
        served(context.connection, address, announced="; Ctrl-C ends it"),
        contextlib.suppress(KeyboardInterrupt),  # a good end
    ):
        threading.Event().wait()
    return None
