"""Tests of the threads and tasks that repeat reads, without a client."""

import threading
from typing import Any

import pytest

from qferry.drivers.shadows import Shadows
from qferry.flows.effects import Flow, Now

DEADLINE_S = 20


def flow() -> Flow[None]:
    """A shadow read."""
    yield Now()


def no_thread(_: threading.Thread) -> None:
    """Begin none, as Python does when the system has no more."""
    raise RuntimeError("can't start new thread")


def test_threads_that_cannot_be_begun_are_begun_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is counted that there is not, and nothing waits for it."""
    ran = threading.Semaphore(0)
    shadows = Shadows(lambda _: ran.release())
    with monkeypatch.context() as without:
        without.setattr(threading.Thread, "start", no_thread)
        for _ in range(5):
            with pytest.raises(RuntimeError, match="new thread"):
                shadows.put(flow())
    shadows.put(flow())
    assert ran.acquire(timeout=DEADLINE_S)
    assert not ran.acquire(blocking=False)
    shadows.close()


def test_second_thread_that_cannot_be_begun_leaves_the_work_to_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets round to it."""
    go, busy, ran = threading.Event(), threading.Event(), threading.Semaphore(0)

    def run(_: Any) -> None:
        busy.set()
        go.wait(DEADLINE_S)
        ran.release()

    shadows = Shadows(run)
    shadows.put(flow())
    assert busy.wait(DEADLINE_S)
    with monkeypatch.context() as without:
        without.setattr(threading.Thread, "start", no_thread)
        shadows.put(flow())
    go.set()
    assert ran.acquire(timeout=DEADLINE_S)
    assert ran.acquire(timeout=DEADLINE_S)
    shadows.close()
