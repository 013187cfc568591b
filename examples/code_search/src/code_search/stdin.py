"""Stdin that a signal ends, for a server that ends when stdin does."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_STDIN = 0
_AT_ONCE = 65_536
_KILLED = 128  # what a shell adds to the signal's number


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """
    Let SIGTERM and Ctrl-C end stdin, as the host does that closes it; for the rest of this process.

    A server that reads stdin does so in a thread that nothing wakes but stdin, and a process does not end before that
    thread.  So what comes is handed on through a pipe, by a thread that nobody waits for, and a signal ends the pipe.

    Raises:
        SystemExit: After the block, if a signal has come; with 128 and its number.
    """
    if sys.platform == "win32":  # has no SIGTERM to catch
        yield
        return
    host = os.dup(_STDIN)
    server, pipe = os.pipe()
    os.dup2(server, _STDIN)
    os.close(server)
    came: list[int] = []

    def end_pipe() -> None:
        # Not closed: the number might be another file's when the thread writes to it.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, pipe)
        os.close(nowhere)

    def end(number: int, _: object) -> None:
        came.append(number)
        end_pipe()

    def hand_on() -> None:
        while data := os.read(host, _AT_ONCE):
            while data:
                data = data[os.write(pipe, data) :]
        end_pipe()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    threading.Thread(target=hand_on, name="stdin", daemon=True).start()
    yield
    if came:
        raise SystemExit(_KILLED + came[0])
