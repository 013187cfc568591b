"""`qferry ui` as a process: where it listens, what it refuses, and how it ends."""

import asyncio
import builtins
import contextlib
import signal
import socket
import sys
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson
import pytest
import uvicorn
from browsing import DEADLINE_S, dashboard

from qferry import commands
from qferry.cli import main
from qferry.connection import Connection
from qferry.protocol.records import Migration
from qferry.web import serving
from qferry.web.serving import Settings

TOKEN = "correct-horse-battery"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit code and the one sentence of a command that does not begin."""
    code = main(["ui", *arguments])
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return code, said.err


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no token of the shell's be taken for one of the test's."""
    monkeypatch.delenv("QFERRY_UI_TOKEN", raising=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "ferry.example", "127.0.0.1.example"])  # noqa: S104
def test_other_machines_need_a_token(capsys: pytest.CaptureFixture[str], host: str) -> None:
    """Without one nothing is served."""
    code, said = refused(capsys, "--host", host)
    assert code == 2
    assert "there is no token" in said
    assert "QFERRY_UI_TOKEN" in said


def test_another_name_needs_a_token(capsys: pytest.CaptureFixture[str]) -> None:
    """It is asked for by a proxy, behind which everybody is."""
    code, said = refused(capsys, "--allow-host", "ferry.example")
    assert code == 2
    assert "there is no token" in said
    assert "QFERRY_UI_TOKEN" in said


@pytest.mark.parametrize(
    "name", ["", "*", "*.example", "http://ferry.example", "ferry.example:80", "a/b", "a b", "[::1]", "a..b", "-a"]
)
def test_name_that_is_none_is_refused(capsys: pytest.CaptureFixture[str], name: str) -> None:
    """It would be compared with what browsers ask for, and never be found."""
    code, said = refused(capsys, f"--allow-host={name}", "--token", TOKEN)
    assert code == 2
    assert "not the bare name of a host" in said


@pytest.mark.parametrize("token", ["short", "with spaces in the middle", "accénts-are-no-good-here"])
def test_token_that_is_no_good_is_refused_without_repeating_it(capsys: pytest.CaptureFixture[str], token: str) -> None:
    """It may be a secret that was only typed wrong."""
    code, said = refused(capsys, "--token", token)
    assert code == 2
    assert "at least 16 characters" in said
    assert token not in said


def test_port_that_is_taken_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code, said = refused(capsys, "--port", str(port))
    assert code == 1
    assert said.startswith(f"Nothing can be served at port {port} of 127.0.0.1: Address already in use.")


def test_host_that_there_is_not_is_a_sentence(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """In the words of the system, whose numbers are of another kind here."""

    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "create_server", unknown)
    monkeypatch.setenv("QFERRY_UI_TOKEN", TOKEN)
    code, said = refused(capsys, "--host", "nosuchhost.invalid")
    assert code == 1
    assert "of nosuchhost.invalid: Name or service not known." in said


def test_missing_packages_are_a_sentence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that brings them."""
    real = builtins.__import__

    def without_starlette(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".", maxsplit=1)[0] in ("starlette", "uvicorn"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    # Only this one: of a package that is made anew, nobody who has imported the old one would know.
    monkeypatch.delitem(sys.modules, "qferry.web.serving", raising=False)
    monkeypatch.setattr(builtins, "__import__", without_starlette)
    code, said = refused(capsys)
    assert code == 1
    assert 'pip install "qferry[ui]"' in said


@pytest.mark.parametrize("typed", [True, False])
def test_token_on_the_command_line_is_warned_of(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, typed: bool
) -> None:
    """One of the environment is not; it is not in what is said."""
    given: list[Settings] = []
    monkeypatch.setattr("qferry.web.serving.serve", lambda settings, **_: given.append(settings))
    if not typed:
        monkeypatch.setenv("QFERRY_UI_TOKEN", TOKEN)
    assert main(["ui", *(["--token", TOKEN] if typed else [])]) == 0
    said = capsys.readouterr().err
    assert ("can be seen by every user" in said) is typed
    assert TOKEN not in said
    assert given[0].token == TOKEN


def test_nobody_fills_the_disk(qdrant: Any) -> None:
    """A form is counted as it arrives, whatever its headers say; who breaks off leaves no trace."""
    with dashboard(qdrant, QFERRY_UI_TOKEN=TOKEN) as (url, running):
        address = urlsplit(url)
        head = f"POST /login HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: 10\r\n".encode()
        kinds = ("multipart/form-data; boundary=x", "application/x-www-form-urlencoded")
        part = b'--x\r\nContent-Disposition: form-data; name="token"; filename="f"\r\n\r\n'
        for kind in kinds:
            with socket.create_connection((address.hostname, address.port), timeout=DEADLINE_S) as sender:
                sender.sendall(head + f"Transfer-Encoding: chunked\r\nContent-Type: {kind}\r\n\r\n".encode())
                with contextlib.suppress(OSError):  # it has hung up
                    for piece in (part, *[b"a" * (1 << 20)] * 20):
                        sender.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
                with contextlib.suppress(ConnectionResetError):
                    assert sender.recv(100).split(b" ")[1] in (b"413", b"400")
        with socket.create_connection((address.hostname, address.port)) as sender:
            sender.sendall(head + f"Content-Type: {kinds[1]}\r\n\r\ntok".encode())
        assert httpx.get(f"{url}/login").status_code == HTTPStatus.OK
        running.send_signal(signal.SIGINT)
        assert running.communicate(timeout=DEADLINE_S) == ("", "")


def test_who_asks_for_nothing_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also who never completes a request, and sooner if there is no room; who waits for an answer is not."""
    monkeypatch.setattr(serving, "ASK_S", 0.05)
    monkeypatch.setattr(serving, "CONNECTIONS_MAX", 3)
    answers = asyncio.Event()

    async def app(_: Any, __: Any, send: Any) -> None:
        await answers.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def run() -> None:
        config = uvicorn.Config(app, http=serving.Listening, lifespan="off", log_level="critical", port=0)
        server = uvicorn.Server(config)
        config.load()
        listener = await asyncio.get_running_loop().create_server(
            lambda: serving.Listening(config, server.server_state, {}), "127.0.0.1", 0
        )
        port = listener.sockets[0].getsockname()[1]
        busy, ask = await asyncio.open_connection("127.0.0.1", port)
        ask.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        for said in (b"", b"GET / HTTP/1.1\r\nHost: x\r\nX: "):
            idle, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(said)
            assert await asyncio.wait_for(idle.read(), 60) == b""
            writer.close()
        monkeypatch.setattr(serving, "ASK_S", 600)
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
        while len(server.server_state.connections) > serving.CONNECTIONS_MAX:  # noqa: ASYNC110  uvicorn tells nobody
            await asyncio.sleep(0.01)
        answers.set()
        assert (await asyncio.wait_for(busy.readline(), 60)).startswith(b"HTTP/1.1 204")
        for _, writer in [*idle, (busy, ask)]:
            writer.close()
        listener.close()

    asyncio.run(run())


def test_ctrl_c_ends_it_at_once_though_somebody_watches(qdrant: Any) -> None:
    """
    Streams end, not a word is said, and the exit code is 0.

    Until then it is served under a name that was allowed, and a proxy's word for the name does not count.
    """
    allowed = ("--allow-host", "Ferry.Example")
    with (
        dashboard(qdrant, *allowed, QFERRY_UI_TOKEN=TOKEN) as (url, running),
        httpx.Client(base_url=url, timeout=DEADLINE_S) as client,
    ):
        assert client.get("/login", headers={"Host": "ferry.example"}).status_code == HTTPStatus.OK
        strange = {"Host": "evil.example", "X-Forwarded-Host": "localhost"}
        assert client.get("/login", headers=strange).status_code == HTTPStatus.MISDIRECTED_REQUEST
        signed_in = client.post("/login", data={"token": TOKEN}, headers={"Origin": url})
        assert signed_in.status_code == HTTPStatus.SEE_OTHER
        with client.stream("GET", "/live?of=") as live:
            lines = live.iter_lines()
            assert next(lines) == "retry: 2000"
            data = next(line for line in lines if line.startswith("data: "))
            assert "migrations" in orjson.loads(data.removeprefix("data: "))["parts"]["list"]
            began = time.monotonic()
            running.send_signal(signal.SIGINT)
            list(lines)  # to the end of the stream, which is no error
        assert running.wait(DEADLINE_S) == 0
        assert time.monotonic() - began < DEADLINE_S / 2
        assert running.communicate() == ("", "")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_what_is_at_work_and_says_so(
    qdrant: Any, connection: Connection, started: Callable[[], Migration], source: str, how: signal.Signals
) -> None:
    """Also when a container is stopped: the claim is given back, and the backfill can be gone on with."""
    m = started()
    commands.throttle(connection, source, limits={"paused": True})
    with dashboard(qdrant) as (url, running), httpx.Client(base_url=url, timeout=DEADLINE_S) as client:
        page = client.get(f"/migrations/{m.id}/backfill").text
        fields = {name: page.split(f'name="{name}" value="')[1].split('"')[0] for name in ("form_token", "migration")}
        fields |= {"phase": "copying", "read_percent": "0"}
        sent = client.post(f"/migrations/{m.id}/backfill", data=fields, headers={"Origin": url})
        assert sent.status_code == HTTPStatus.SEE_OTHER
        until = time.monotonic() + DEADLINE_S
        while not started().pace and time.monotonic() < until:
            time.sleep(0.05)
        assert started().claim
        running.send_signal(how)
        _, said = running.communicate(timeout=DEADLINE_S)
        assert running.returncode == 0
    assert f"Stopping the backfill of `{source}`" in said
    assert "has stopped and given its claim back; run `qferry backfill` again to go on" in said
    assert started().claim == ""
