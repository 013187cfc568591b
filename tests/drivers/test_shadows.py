"""Tests of the threads and tasks that repeat reads, without a client."""

import asyncio
import threading
from contextvars import ContextVar, copy_context
from typing import Any

import pytest

from qferry.drivers.shadows import Shadows
from qferry.drivers.shadows_async import AsyncShadows
from qferry.flows.effects import Flow, Now
from qferry.protocol.seen import SEEN, Seen
from qferry.protocol.shadow import QUEUE, WORKERS

DEADLINE_S = 20
CALLER: ContextVar[str] = ContextVar("caller", default="nobody")


def flow() -> Flow[None]:
    """A shadow read."""
    yield Now()


def met() -> tuple[str, Seen | None]:
    """What a shadow read finds of whoever has called."""
    return CALLER.get(), SEEN.get()


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


def test_what_a_loop_has_left_is_no_obstacle_on_the_next_one() -> None:
    """A client may outlive its loop; a queue that was full when that ended must not stay so."""
    ran: list[str] = []
    loop = ""

    async def run(_: Any) -> None:
        if loop == "first":
            await asyncio.Event().wait()
        ran.append(loop)

    shadows = AsyncShadows(run)

    async def fill() -> None:
        for _ in range(WORKERS):
            while not shadows.full:
                shadows.put(flow())
            await asyncio.sleep(0)  # some of it is begun
        while not shadows.full:
            shadows.put(flow())

    async def go_on() -> None:
        assert not shadows.full
        shadows.put(flow())
        await asyncio.gather(*shadows._tasks)

    loop = "first"
    asyncio.run(fill())
    assert (ran, len(shadows._waiting)) == ([], QUEUE)
    loop = "second"
    asyncio.run(asyncio.wait_for(go_on(), DEADLINE_S))
    assert ran == ["second"]


async def test_queue_is_full_while_there_is_somebody_to_work_it_off() -> None:
    """What is too much is refused, and then taken again."""
    go = asyncio.Event()
    ran: list[Any] = []

    async def run(taken: Any) -> None:
        await go.wait()
        ran.append(taken)

    shadows = AsyncShadows(run)
    for _ in range(WORKERS):
        shadows.put(flow())
    await asyncio.sleep(0)
    for _ in range(QUEUE):
        assert not shadows.full
        shadows.put(flow())
    assert shadows.full
    go.set()
    await asyncio.wait_for(asyncio.gather(*shadows._tasks), DEADLINE_S)
    assert not shadows.full
    assert len(ran) == WORKERS + QUEUE


async def test_tasks_have_nothing_of_any_caller() -> None:
    """No span, no tenant, nothing to be watched: one task repeats the reads of many."""
    found: list[Any] = []

    async def run(_: Any) -> None:
        await asyncio.sleep(0)
        found.append(met())

    shadows = AsyncShadows(run)

    async def call(name: str) -> None:
        CALLER.set(name)
        SEEN.set(Seen())
        shadows.put(flow())

    await asyncio.gather(*map(call, ("ada", "ben", "cleo")))
    await asyncio.wait_for(asyncio.gather(*shadows._tasks), DEADLINE_S)
    assert found == [("nobody", None)] * 3


def test_threads_have_nothing_of_any_caller() -> None:
    """As the tasks."""
    found: list[Any] = []
    ran = threading.Event()

    def run(_: Any) -> None:
        found.append(met())
        ran.set()

    shadows = Shadows(run)

    def call() -> None:
        CALLER.set("ada")
        SEEN.set(Seen())
        shadows.put(flow())

    copy_context().run(call)
    assert ran.wait(DEADLINE_S)
    assert found == [("nobody", None)]
    shadows.close()
