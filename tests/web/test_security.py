"""Who is let in, and which forms are believed."""

import asyncio
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any

import pytest

from qferry.connection import Connection
from qferry.protocol.records import Migration
from qferry.web import security
from qferry.web.actions import ACTIONS
from qferry.web.security import Sessions, host_is_ours

TOKEN = "correct-horse-battery"
STRANGE = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}


def sign_in(person: Any, token: str = TOKEN, **more: str) -> Any:
    """Send the login form."""
    return person.post("/login", {"token": token, **more})


def test_every_answer_has_the_headers(person: Any, started: Callable[[], Migration]) -> None:
    """Pages, refusals and files: no frames, no scripts from elsewhere, no copies in caches."""
    for path in ("/", f"/migrations/{started().id}", "/nowhere", "/static/style.css", "/static/%2e%2e/app.py"):
        headers = person.client.get(path).headers
        for name, value in security.HEADERS.items():
            may_be_kept = name == "Cache-Control" and path == "/static/style.css"
            assert headers[name] == (security.FILES_CACHED if may_be_kept else value), path
    policy = security.HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy


def test_pages_need_nothing_that_the_policy_forbids(person: Any, started: Callable[[], Migration]) -> None:
    """No script or style in the page itself, no handler in an attribute, nothing from another site."""
    m = started()
    for path in ("/", f"/migrations/{m.id}", f"/migrations/{m.id}/abort", f"/migrations/{m.id}/history"):
        page = person.look(path)
        assert not re.search(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=", page), path
        assert not re.search(r"(src|href|action)=\"(?!/|#)", page), path


@pytest.mark.parametrize("forgery", ["no token", "foreign token", "foreign origin", "foreign site", "null origin"])
def test_forged_form_changes_nothing(
    person: Any, dashboard: Any, started: Callable[[], Migration], source: str, forgery: str
) -> None:
    """A form without this session's token, or sent by another site's page, is refused before it is read."""
    m = started()
    address = f"/migrations/{m.id}"
    fields = {**person.form(f"{address}/abort"), "typed_name": source, "percent": "0"}
    headers = {"foreign origin": {"Origin": "http://evil.example"}, "null origin": {"Origin": "null"}}.get(forgery, {})
    if forgery == "foreign site":
        headers = {"Sec-Fetch-Site": "same-site"}
    if forgery == "no token":
        del fields["form_token"]
    if forgery == "foreign token":
        with dashboard() as another:
            fields["form_token"] = another.form(f"{address}/abort")["form_token"]
    for verb in (*ACTIONS, "stop"):
        answer = person.post(f"{address}/{verb}", fields, headers)
        assert answer.status_code == HTTPStatus.FORBIDDEN, verb
        assert "That form is refused; nothing was changed" in answer.text
    assert person.dashboard.works.latest(m.id) is None
    assert started() == m


def test_token_of_another_session_is_no_good(dashboard: Any, started: Callable[[], Migration], source: str) -> None:
    """Two who are signed in cannot use each other's forms."""
    m = started()
    with dashboard(TOKEN) as person:
        sign_in(person)
        fields = {**person.form(f"/migrations/{m.id}/abort"), "typed_name": source}
        person.client.cookies.clear()
        sign_in(person)
        assert person.post(f"/migrations/{m.id}/abort", fields).status_code == HTTPStatus.FORBIDDEN
    assert started() == m


def test_opening_an_address_does_nothing(person: Any, started: Callable[[], Migration], source: str) -> None:
    """No action by GET or HEAD, whatever is in the address."""
    m = started()
    fields = {**person.form(f"/migrations/{m.id}/abort"), "typed_name": source, "percent": "100"}
    for verb in (*ACTIONS, "stop"):
        for method in ("GET", "HEAD"):
            person.client.request(method, f"/migrations/{m.id}/{verb}", params=fields)
            person.client.request(method, f"/migrations/{m.id}/{verb}", data=fields)
        for method in ("PUT", "DELETE", "PATCH"):
            answer = person.client.request(method, f"/migrations/{m.id}/{verb}", params=fields)
            assert answer.status_code == HTTPStatus.METHOD_NOT_ALLOWED
    assert person.dashboard.works.latest(m.id) is None
    assert started() == m


def test_form_that_is_too_long_is_refused(person: Any, started: Callable[[], Migration]) -> None:
    """Before it is read."""
    m = started()
    fields = {**person.form(f"/migrations/{m.id}/abort"), "typed_name": "x" * 100_000}
    assert person.post(f"/migrations/{m.id}/abort", fields).status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE


@pytest.mark.parametrize("multipart", [True, False])
def test_form_of_unknown_length_or_with_files_is_refused(dashboard: Any, *, multipart: bool) -> None:
    """What arrives is counted, whatever is said of its length; a file is never taken."""
    arriving = (b"a" * 1000 for _ in range(1000))
    kind = "multipart/form-data; boundary=x" if multipart else "application/x-www-form-urlencoded"
    with dashboard(TOKEN) as person:
        headers = {"Content-Type": kind, "Content-Length": "10"}
        answer = person.client.post("/login", content=arriving, headers=headers)
        assert answer.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        assert person.client.post("/login", files={"token": b"x"}).status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE


def test_without_the_token_nothing_is_shown(dashboard: Any, started: Callable[[], Migration], source: str) -> None:
    """Every page leads to the login form; what is live and every form are refused."""
    m = started()
    address = f"/migrations/{m.id}"
    with dashboard(TOKEN) as person:
        for path in ("/", address, f"{address}/history", f"{address}/doctor", f"{address}/abort"):
            answer = person.client.get(path, follow_redirects=False)
            assert (answer.status_code, answer.headers["location"]) == (HTTPStatus.SEE_OTHER, f"/login?next={path}")
            assert source not in answer.text
        assert person.client.get("/live").status_code == HTTPStatus.UNAUTHORIZED
        for verb in ACTIONS:
            assert person.post(f"{address}/{verb}", {"typed_name": source}).status_code == HTTPStatus.UNAUTHORIZED
    assert started() == m


def test_token_signs_in_and_out(dashboard: Any) -> None:
    """The cookie can neither be read by scripts nor be sent by other sites' pages; it leads nowhere else."""
    with dashboard(TOKEN) as person:
        answer = sign_in(person, next="/")
        assert answer.status_code == HTTPStatus.SEE_OTHER
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert TOKEN not in cookie
        assert "Migrations" in person.look("/")
        assert TOKEN not in person.look("/")
        form_token = re.search(r'name="form_token" value="(\w+)"', person.look("/"))
        session = person.client.cookies[person.dashboard._sessions.cookie]
        assert form_token is not None
        assert person.post("/logout", {"form_token": form_token[1]}).status_code == HTTPStatus.SEE_OTHER
        assert person.client.get("/", follow_redirects=False).status_code == HTTPStatus.SEE_OTHER
        person.client.cookies.set(person.dashboard._sessions.cookie, session)  # as if it had been stolen
        assert person.client.get("/", follow_redirects=False).status_code == HTTPStatus.SEE_OTHER
        assert person.client.get("/live").status_code == HTTPStatus.UNAUTHORIZED


def test_signing_out_ends_what_is_live(dashboard: Any) -> None:
    """With the next look."""
    with dashboard(TOKEN) as person:
        sign_in(person)
        session = person.client.cookies[person.dashboard._sessions.cookie]

        async def watch() -> int:
            events = person.dashboard._events("", session)
            parts = [await anext(events), await anext(events)]
            person.dashboard._sessions.end(session)
            return len(parts) + len([event async for event in events])

        assert person.client.portal.call(watch) == 2


def test_ended_sessions_are_forgotten_with_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are no good by then anyway, and memory is not for ever."""
    sessions, now = Sessions(TOKEN, 1), [1000.0]
    monkeypatch.setattr(security, "time", SimpleNamespace(time=lambda: now[0]))
    for _ in range(2):
        session = sessions.new()
        sessions.end(session)
        assert not sessions.is_good(session)
        now[0] += security.SESSION_S
    assert sessions._ended == {session}


@pytest.mark.parametrize("following", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:1", ""])
def test_signing_in_leads_nowhere_else(dashboard: Any, following: str) -> None:
    """Whatever the form says."""
    with dashboard(TOKEN) as person:
        assert sign_in(person, next=following).headers["location"] == "/"


def test_wrong_tokens_lock_nobody_out(dashboard: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are sent from the address that a proxy gives to everybody; the right one is answered meanwhile."""
    waits = asyncio.Event()

    async def waiting(seconds: float) -> None:
        assert seconds == security.WRONG_S
        await waits.wait()

    with dashboard(TOKEN) as person, ThreadPoolExecutor() as others, monkeypatch.context() as patched:
        patched.setattr(security, "asyncio", SimpleNamespace(sleep=waiting, wait_for=asyncio.wait_for))
        wrong = [others.submit(sign_in, person, "wrong-wrong-wrong") for _ in range(security.WRONG_AT_ONCE + 2)]
        while not person.dashboard._sessions._wrong.locked():
            time.sleep(0.01)
        assert sign_in(person).status_code == HTTPStatus.SEE_OTHER
        assert not any(answer.done() for answer in wrong)
        person.client.portal.call(waits.set)
        answers = [answer.result() for answer in wrong]
    assert {answer.status_code for answer in answers} == {HTTPStatus.FORBIDDEN}
    assert not any("set-cookie" in answer.headers for answer in answers)


@pytest.mark.parametrize("token", [None, "", TOKEN[:-1], TOKEN + "x", "\udcff", 7])
def test_only_the_token_is_the_token(token: Any) -> None:
    """And where there is none, nothing signs in."""
    assert not Sessions(TOKEN, 1).is_token(token)
    assert not Sessions(None, 1).is_token(token)


def test_login_from_another_site_is_refused(dashboard: Any) -> None:
    """A page elsewhere cannot try tokens through somebody's browser."""
    with dashboard(TOKEN) as person:
        assert person.post("/login", {"token": TOKEN}, STRANGE).status_code == HTTPStatus.FORBIDDEN


@pytest.mark.parametrize("session", ["", "x", "x.1.y", ".", "a.b.c", "é"])
def test_made_up_session_is_none(dashboard: Any, session: str) -> None:
    """A cookie that this process has not signed."""
    with dashboard(TOKEN) as person:
        cookie = f"{Sessions(None, 6340).cookie}={session}".encode()
        answer = person.client.get("/", headers=[(b"cookie", cookie)], follow_redirects=False)
        assert answer.status_code == HTTPStatus.SEE_OTHER


def test_session_ends_after_its_time(dashboard: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve hours."""
    with dashboard(TOKEN) as person:
        sign_in(person)
        person.look("/")
        later = security.time.time() + security.SESSION_S + 1
        monkeypatch.setattr(security.time, "time", lambda: later)
        assert person.client.get("/", follow_redirects=False).status_code == HTTPStatus.SEE_OTHER


@pytest.mark.parametrize(
    ("host", "on_loopback", "elsewhere"),
    [
        ("localhost", True, True),
        ("localhost:6340", True, True),
        ("127.0.0.1:6340", True, True),
        ("[::1]:6340", True, True),
        ("LOCALHOST", True, True),
        ("ferry.example:6340", False, True),
        ("ferry.example.", False, True),
        ("10.1.2.3:6340", False, True),
        ("evil.example", False, False),
        ("localhost.evil.example", False, False),
        ("127.0.0.1.evil.example", False, False),
        ("", False, False),
        ("[", False, False),
    ],
)
def test_host_that_is_served(host: str, *, on_loopback: bool, elsewhere: bool) -> None:
    """Names that lead here against this dashboard's will (DNS rebinding) are not."""
    assert host_is_ours(host, (), any_address=False) is on_loopback
    assert host_is_ours(host, ("ferry.example",), any_address=True) is elsewhere


def test_page_under_a_strange_name_is_not_served(person: Any, started: Callable[[], Migration], source: str) -> None:
    """Neither shown nor done anything to."""
    m = started()
    fields = {**person.form(f"/migrations/{m.id}/abort"), "typed_name": source}
    answer = person.client.get("/", headers={"Host": "evil.example"})
    assert answer.status_code == HTTPStatus.MISDIRECTED_REQUEST
    assert "not known by the name" in answer.text
    sent = person.post(f"/migrations/{m.id}/abort", fields, {"Host": "evil.example", "Origin": "http://evil.example"})
    assert sent.status_code == HTTPStatus.MISDIRECTED_REQUEST
    assert started() == m


@pytest.mark.filterwarnings("ignore:Api key is used:UserWarning")
def test_no_page_shows_a_key(dashboard: Any, qdrant: Any, started: Callable[[], Migration]) -> None:
    """Neither the servers' keys nor the token are on any page, nor what represents them."""
    m = started()
    key = qdrant.api_key or "hush-hush-hush"
    with dashboard(TOKEN, to=Connection(url=qdrant.url, api_key=key, grpc_port=qdrant.grpc_port)) as person:
        sign_in(person)
        for path in ("/", f"/migrations/{m.id}", f"/migrations/{m.id}/abort", f"/migrations/{m.id}/doctor"):
            assert key not in person.look(path)
            assert TOKEN not in person.look(path)
