"""`qferry ui`: the dashboard."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
from typing import Annotated

import typer

from qferry.cli import output
from qferry.cli.options import Context, verb
from qferry.cli.output import Answer, usage
from qferry.errors import Misuse

UI_PORT = 6340
TOKEN_VARIABLE = "QFERRY_UI_TOKEN"  # noqa: S105  its name
TOKEN_CHARACTERS_MIN = 16
_MAKE_ONE = "python3 -c 'import secrets; print(secrets.token_urlsafe())'"


def _token(token: str | None) -> str | None:
    """What signs in; nothing if the variable is empty."""
    if not token:
        return None
    if len(token) < TOKEN_CHARACTERS_MIN or not re.fullmatch(r"[\x21-\x7e]+", token):
        raise usage(
            f"--token ({TOKEN_VARIABLE}) must be at least {TOKEN_CHARACTERS_MIN} characters long, without spaces, "
            "accents or line breaks.",
            f"To make one: {_MAKE_ONE}",
        )
    return token


def _name(name: str) -> str:
    """The bare name of a host, as it is compared with what browsers ask for."""
    bare = name.lower().removesuffix(".")
    if not re.fullmatch(r"(?!-)[a-z0-9_-]{1,63}(\.(?!-)[a-z0-9_-]{1,63})*", bare):
        raise usage(
            f"--allow-host {name!r} is not the bare name of a host.",
            "Leave scheme, port, path and wildcards out: --allow-host ferry.example",
        )
    return bare


@verb
def ui(
    context: Context,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            metavar="ADDRESS",
            help="Listen at this address; any that other machines reach needs a token. No variable sets it.",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, metavar="PORT", help="And at this port; 0: any free one.")
    ] = UI_PORT,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            envvar=TOKEN_VARIABLE,
            callback=_token,
            metavar="TEXT",
            show_default=False,
            help="Let in only who knows this. Better set by the variable: others see what is typed here (`ps`).",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            show_default=False,
            help="A name under which browsers reach it, if that is another than its own; needs a token. Repeatable.",
        ),
    ] = None,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Show everything, and let nobody do anything.")
    ] = False,
) -> Answer | None:
    """Serve a dashboard for a browser: where migrations stand, and the operator's actions."""
    loopback = _is_loopback(host)
    names = {_name(name) for name in allow_host or ()}
    if names and token is None:
        raise usage(
            "--allow-host lets in who comes by another name, through a proxy perhaps, and there is no token that would "
            "keep strangers out.",
            f"Set {TOKEN_VARIABLE}; to make one: {_MAKE_ONE}",
        )
    if not loopback and token is None:
        raise usage(
            f"--host {host} lets other machines in, and there is no token that would keep strangers out.",
            f"Set {TOKEN_VARIABLE}; to make one: {_MAKE_ONE}",
        )
    if not loopback:
        names |= {host.lower(), socket.gethostname().lower()}
    try:
        from qferry.web.serving import Settings, serve  # noqa: PLC0415  its packages are an extra
    except ImportError as error:
        raise Misuse(
            f"The dashboard needs packages that are not installed: {error}.",
            hint='Install them with `pip install "qferry[ui]"`.',
        ) from error
    if token is not None and token != os.environ.get(TOKEN_VARIABLE):
        output.write_note(
            f"Note: a token on the command line can be seen by every user of this machine; {TOKEN_VARIABLE} hides it."
        )
    settings = Settings(
        connection=context.connection,
        host=host,
        port=port,
        token=token,
        names=tuple(names),
        any_address=not loopback,
        read_only=read_only,
    )
    with contextlib.suppress(KeyboardInterrupt):  # a good end
        serve(
            settings,
            ready=lambda url: output.write_note(f"The dashboard is at {url} (Ctrl-C ends it)"),
            told=output.write_note,
        )
    return None


def _is_loopback(host: str) -> bool:
    """Whether no other machine reaches this address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
