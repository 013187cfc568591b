"""The proxy: what each fault does to a connection through it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from .proxy import Proxy

LINK = "link"
TIMEOUT_S = 10.0


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    """Give one proxy process to all tests of the module."""
    with closing(Proxy()) as running:
        yield running


@pytest.fixture
def echo() -> Iterator[int]:
    """Give the port of a server that sends back what it receives, upper case."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer(connection: socket.socket) -> None:
            with connection:
                try:
                    while piece := connection.recv(1024):
                        connection.sendall(piece.upper())
                except ConnectionError:
                    return

        def accept() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def port(proxy: Proxy, echo: int) -> Iterator[int]:
    """Give the port of a link to that server."""
    yield proxy.open(LINK, "127.0.0.1", 0, echo)
    proxy.close_link(LINK)


def connected(port: int) -> socket.socket:
    """A connection through the link."""
    return socket.create_connection(("127.0.0.1", port), TIMEOUT_S)


def spoken(port: int) -> bytes:
    """What comes back for one letter on a connection of its own."""
    with connected(port) as client:
        client.sendall(b"b")
        return client.recv(1)


def test_data_passes_both_ways(port: int) -> None:
    """A link without a fault is a cable, also for what is sent just before the end."""
    with connected(port) as client:
        client.sendall(b"abc")
        client.shutdown(socket.SHUT_WR)
        received = b""
        while piece := client.recv(16):
            received += piece
    assert received == b"ABC"


def test_cut_resets_connections_and_lets_new_ones_through(proxy: Proxy, port: int) -> None:
    """After a cut the old connection is dead and a new one works."""
    with connected(port) as client:
        client.sendall(b"a")
        assert client.recv(1) == b"A"
        proxy.cut(LINK)
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert spoken(port) == b"B"


def test_refused_connections_are_reset_until_it_is_over(proxy: Proxy, port: int) -> None:
    """While a link refuses nobody gets through."""
    proxy.set(LINK, refuse=True)
    with pytest.raises(ConnectionError):
        spoken(port)
    proxy.set(LINK)
    assert spoken(port) == b"B"


def test_held_data_arrives_afterwards(proxy: Proxy, port: int) -> None:
    """What is sent while a link holds is passed on when it no longer does."""
    with connected(port) as client:
        proxy.set(LINK, hold=True)
        client.sendall(b"a")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(TIMEOUT_S)
        proxy.set(LINK)
        assert client.recv(1) == b"A"


def test_data_held_for_a_client_that_is_gone_still_arrives(proxy: Proxy) -> None:
    """A request may land after its sender was killed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(TIMEOUT_S)
        port = proxy.open("late", "127.0.0.1", 0, server.getsockname()[1])
        with connected(port) as client:
            upstream, _ = server.accept()
            proxy.set("late", hold=True)
            client.sendall(b"late")
        proxy.set("late")
        with upstream:
            upstream.settimeout(TIMEOUT_S)
            assert upstream.recv(16) == b"late"
    proxy.close_link("late")


def test_delay_keeps_the_order(proxy: Proxy, port: int) -> None:
    """Delayed data arrives whole and in order."""
    proxy.set(LINK, delay_s=0.01)
    with connected(port) as client:
        for letter in (b"a", b"b", b"c"):
            client.sendall(letter)
        received = b""
        while len(received) < 3:
            received += client.recv(16)
    assert received == b"ABC"


def test_unknown_link_is_an_error_that_names_it(proxy: Proxy) -> None:
    """A command for a link that is not there says so, and the proxy goes on."""
    with pytest.raises(RuntimeError, match="nowhere"):
        proxy.cut("nowhere")
