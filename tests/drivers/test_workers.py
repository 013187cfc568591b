"""Tests of pieces of work: who carries them out, and what becomes of them when he is lost."""

import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from qferry.drivers.blocking import BlockingDriver
from qferry.drivers.workers import Workers
from qferry.errors import Refused, Unreachable
from qferry.flows.effects import Await, Begin, Flow, Outcome, Sleep

PATIENCE_S = 30.0


@dataclass(frozen=True)
class Answering:
    """A piece of work that returns what it is given, or raises it."""

    value: Any

    def flow(self) -> Flow[Any]:
        """Carry it out."""
        yield Sleep(0.0)
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


def carried_out(work: Any) -> Any:
    """Carry out a piece in a process of its own, which dies if it is to."""
    if work.value == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return work.value


def driver() -> BlockingDriver:
    """Return a driver that reaches no server."""

    def nobody(_: str) -> Any:
        raise AssertionError("no server is asked")

    return BlockingDriver(nobody)


def both(*values: Any) -> Flow[dict[int, Outcome]]:
    """Begin a piece for each value, and await them all."""
    numbers: list[int] = []
    for value in values:
        numbers += [(yield Begin(Answering(value)))]
    found: dict[int, Outcome] = {}
    while len(found) < len(numbers):
        left = tuple(number for number in numbers if number not in found)
        found.update((yield Await(left, PATIENCE_S)))
    return {n: found[number] for n, number in enumerate(numbers)}


def test_pieces_are_carried_out_beside_the_flow() -> None:
    """Each outcome is told once, with the piece's value or its error."""
    runner = driver()
    error = Refused("No.")
    found = runner.run(both("a", error, "b"))
    runner.close()
    assert (found[0].value, found[2].value) == ("a", "b")
    assert found[1].error is error


def test_waiting_ends_after_a_while() -> None:
    """The coordinator has a claim to keep."""
    release = threading.Event()
    workers = Workers.threads(lambda _: release.wait(PATIENCE_S))
    number = workers.begin(Answering(1))
    assert workers.ended([number], 0.01) == []
    release.set()
    assert [n for n, _ in workers.ended([number], PATIENCE_S)] == [number]
    workers.close()


def test_a_lost_worker_leaves_its_piece_in_doubt() -> None:
    """What it had sent may still be carried out, as if a server had not answered."""
    workers = Workers(lambda: ProcessPoolExecutor(1), carried_out)
    number = workers.begin(Answering("die"))
    ((_, outcome),) = workers.ended([number], PATIENCE_S)
    assert isinstance(outcome.error, Unreachable)
    assert "A worker was lost" in outcome.error.message
    workers.close()


def test_a_piece_stops_at_its_next_step_when_nobody_waits_for_it() -> None:
    """A command that has ended writes nothing more."""
    begun, release, ended = threading.Event(), threading.Event(), threading.Event()
    steps = []

    def run(flow: Flow[Any]) -> None:
        try:
            for step in flow:
                steps.append(step)
                begun.set()
                release.wait(PATIENCE_S)
        except Unreachable:
            ended.set()

    workers = Workers.threads(run)
    workers.begin(Many())
    assert begun.wait(PATIENCE_S)
    workers.close()
    release.set()
    assert ended.wait(PATIENCE_S)
    assert len(steps) == 1


@dataclass(frozen=True)
class Many:
    """A piece of work that has many steps."""

    def flow(self) -> Flow[None]:
        """Carry it out."""
        for _ in range(10):
            yield Sleep(0.0)


def test_an_error_of_the_flow_is_given_back_to_it() -> None:
    """The wrapper that lets a piece be stopped passes everything on."""
    caught: list[Exception] = []

    @dataclass(frozen=True)
    class Catching:
        def flow(self) -> Flow[str]:
            try:
                yield Sleep(-1.0)
            except ValueError as error:
                caught.append(error)
            return "went on"

    runner = driver()

    def flow() -> Flow[Any]:
        number = yield Begin(Catching())
        ((_, outcome),) = yield Await((number,), PATIENCE_S)
        return outcome.result()

    assert runner.run(flow()) == "went on"
    assert len(caught) == 1
    runner.close()


@pytest.mark.parametrize("count", [0, 3])
def test_closing_waits_for_nothing(count: int) -> None:
    """Also if pieces are under way, or none has ever begun."""
    release = threading.Event()
    workers = Workers.threads(lambda _: release.wait(PATIENCE_S))
    for _ in range(count):
        workers.begin(Answering(1))
    workers.close()
    release.set()
