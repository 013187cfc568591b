"""Snapshots on their way through this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest

from qferry.control import wire
from qferry.drivers.archives import carried
from qferry.errors import Rejected, Unreachable
from qferry.flows.effects import Carry

CARRY = Carry(wire.download_snapshot("", "a", "a-1.snapshot"), wire.upload_snapshot("http://there", "_fence", "5" * 64))
Answer = Callable[[httpx.Request], httpx.Response]


class Pieces(httpx.SyncByteStream):
    """An archive that arrives in pieces, and perhaps not whole."""

    def __init__(self, count: int, *, breaks_off: bool = False) -> None:
        self.count = count
        self.breaks_off = breaks_off
        self.sent = 0

    def __iter__(self) -> Iterator[bytes]:
        """Send them one by one."""
        for _ in range(self.count):
            self.sent += 1
            yield bytes(1000)
        if self.breaks_off:
            raise httpx.ReadError("connection reset")


class Server(httpx.BaseTransport):
    """A server that is none, and sees requests as they arrive."""

    def __init__(self, answer: Answer) -> None:
        self.handle_request = answer  # type: ignore[method-assign]


def clients(source: Answer, target: Answer) -> Callable[[str], httpx.Client]:
    """Return what makes clients of two servers that are none."""
    return lambda server: httpx.Client(base_url=server or "http://here", transport=Server(target if server else source))


def accepts(request: httpx.Request) -> httpx.Response:
    """Take whatever comes."""
    request.read()
    return httpx.Response(200, json={"result": True})


def test_an_archive_is_sent_on_while_it_arrives() -> None:
    """With its checksum, through the name that was asked for, and never whole in memory."""
    pieces, seen = Pieces(50), list[tuple[str, int]]()

    def target(request: httpx.Request) -> httpx.Response:
        size = 0
        for part in request.stream:  # type: ignore[union-attr]
            size += len(part)
            seen.append((str(request.url), pieces.sent))
        assert size > 50_000
        return httpx.Response(200, json={"result": True})

    assert carried(CARRY, clients(lambda _: httpx.Response(200, stream=pieces), target)) is True
    url, sent = seen[1]
    assert url == f"http://there/collections/_fence/snapshots/upload?wait=true&priority=snapshot&checksum={'5' * 64}"
    assert sent < 5
    assert pieces.sent == 50


def test_a_refusal_of_either_server_is_told() -> None:
    """Whichever it was."""
    fine: Answer = lambda _: httpx.Response(200, stream=Pieces(1))  # noqa: E731
    gone: Answer = lambda _: httpx.Response(404, text="no such snapshot")  # noqa: E731
    with pytest.raises(Rejected, match=r"404 to GET .*a-1.snapshot: no such snapshot"):
        carried(CARRY, clients(gone, accepts))
    with pytest.raises(Rejected, match=r"507 to POST .*upload: no room"):
        carried(CARRY, clients(fine, lambda _: httpx.Response(507, text="no room")))


def test_a_transfer_that_breaks_off_leaves_its_fate_open() -> None:
    """The target's server may have got it all, for all that this process knows."""
    broken: Answer = lambda _: httpx.Response(200, stream=Pieces(3, breaks_off=True))  # noqa: E731
    with pytest.raises(Unreachable, match="broke off: ReadError"):
        carried(CARRY, clients(broken, accepts))
