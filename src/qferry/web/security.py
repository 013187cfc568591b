"""
Who may do what: where requests may come from, who is signed in, and which forms are this dashboard's own.

Every answer, also a refusal, carries the headers that keep a page from being framed, cached or made to run anything
that does not come from here.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import secrets
import time
from collections.abc import Collection, Mapping
from http import HTTPStatus
from urllib.parse import parse_qsl, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    # With `no-referrer` browsers would send `Origin: null` along with this dashboard's own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
# Their addresses change with their contents (`views.environment`).
FILES_CACHED = "public, max-age=31536000, immutable"
SESSION_S = 12 * 3600
# A wrong token is answered so much later, and so many of them in that time.
WRONG_S, WRONG_AT_ONCE = 1.0, 5
# A form is longer than that, or takes longer to arrive, only if it is none of the dashboard's.
FORM_BYTES_MAX, FORM_FIELDS_MAX, FORM_S = 64 * 1024, 100, 10.0
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class Headers:
    """Adds `HEADERS` to every answer; files may be cached."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                if scope["path"].startswith("/static/") and message["status"] == HTTPStatus.OK:
                    headers["Cache-Control"] = FILES_CACHED  # there is nothing of anybody's in them
            await send(message)

        await self._app(scope, receive, with_headers)


def host_is_ours(host: str, names: Collection[str], *, any_address: bool) -> bool:
    """
    Whether a page that a browser asked `host` for may be served.

    A page from elsewhere can let its own name lead to this machine (DNS rebinding); the browser then takes it for the
    same site.  It cannot choose what the `Host` header says, so names are only served that this dashboard is known by.

    Args:
        host: The `Host` header.
        names: What it is known by, in lower case, without ports.
        any_address: Whether it is reached by its address too: addresses cannot be rebound.
    """
    try:
        name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return False
    if name in names or name in _LOOPBACK:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return any_address


def comes_from_elsewhere(request: Request) -> bool:
    """Whether a browser says that it sends this for a page of another site."""
    site = request.headers.get("sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        return True
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != request.headers.get("host")


class NotAForm(Exception):
    """What was sent is no form of the dashboard's."""


async def read_form(request: Request) -> dict[str, str]:
    """
    The fields of a form that a page of the dashboard sends.

    What arrives is counted, whatever the headers say of its length; nothing of it is kept anywhere but in memory, and
    there can be no files in it.

    Raises:
        NotAForm: It is too long, or slow, or of another kind.
        ClientDisconnect: Who sent it is gone.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise NotAForm
    try:
        body = await asyncio.wait_for(_body(request), FORM_S)
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=FORM_FIELDS_MAX))
    except (ValueError, asyncio.TimeoutError) as error:
        raise NotAForm from error


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > FORM_BYTES_MAX:
            raise NotAForm
    return bytes(body)


class Sessions:
    """
    Who is signed in.

    A session is a signed number, good for this process and for twelve hours; only those that ended before are kept.

    Args:
        token: What signs in; None: whoever reaches the dashboard is an operator.
        port: Cookies are shared by all ports of a machine, so each has a name of its own.
    """

    def __init__(self, token: str | None, port: int) -> None:
        self._token = token
        self._key = secrets.token_bytes(32)
        self.cookie = f"qferry-session-{port}"
        self._ended: set[str] = set()
        self._wrong = asyncio.Semaphore(WRONG_AT_ONCE)

    @property
    def wants_token(self) -> bool:
        """Whether somebody has to sign in."""
        return self._token is not None

    def new(self) -> str:
        """A session that begins now."""
        said = f"{secrets.token_urlsafe(18)}.{int(time.time())}"
        return f"{said}.{self._mac('session', said)}"

    def of(self, request: Request) -> str | None:
        """The session of a request; None if it has none that is good."""
        session = request.cookies.get(self.cookie, "")
        return session if self.is_good(session) else None

    def is_good(self, session: str) -> bool:
        """Whether this is a session that has begun here and has not ended."""
        said, _, mac = session.rpartition(".")
        if not hmac.compare_digest(self._mac("session", said).encode(), mac.encode()):
            return False
        return session not in self._ended and time.time() - _begun(session) < SESSION_S

    def end(self, session: str) -> None:
        """Sign out."""
        self._ended = {s for s in self._ended if time.time() - _begun(s) < SESSION_S} | {session}

    def form_token(self, session: str) -> str:
        """What a form of this session must send along."""
        return self._mac("form", session)

    def is_form_of(self, session: str, given: object) -> bool:
        """Whether a form is of this session."""
        return isinstance(given, str) and hmac.compare_digest(self.form_token(session).encode(), given.encode())

    def is_token(self, given: object) -> bool:
        """Whether this is the token."""
        return (
            self._token is not None
            and isinstance(given, str)
            and hmac.compare_digest(self._token.encode(), given.encode(errors="replace"))
        )

    async def slow_down(self) -> None:
        """
        Let a wrong token wait for its answer, for all of them together.

        Nobody is kept from giving the right one meanwhile: behind a proxy operators and strangers have one address.
        """
        async with self._wrong:
            await asyncio.sleep(WRONG_S)

    def _mac(self, purpose: str, text: str) -> str:
        return hmac.new(self._key, f"{purpose}:{text}".encode(), "sha256").hexdigest()


def _begun(session: str) -> int:
    return int(session.split(".")[1])
