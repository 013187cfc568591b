"""How a run that begins in the middle gets there: the operator's commands, undisturbed and at once."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from qferry.errors import FerryError
from qferry.flows.effects import (
    Await,
    Begin,
    Call,
    Carry,
    Flow,
    NewId,
    Now,
    Outcome,
    Request,
    Room,
    Sleep,
    Today,
    Together,
)

from .fake_collection import Refusal
from .fake_qdrant import at_once
from .network import Network, error_of


def carried_out(flow: Flow[Any], network: Network, seed: str) -> Any:
    """Run a flow with nobody else in the world; its waits take no time."""
    chance = random.Random(seed)
    clock = 0.0
    pieces: list[Outcome] = []
    value: Any = None
    error: Exception | None = None
    while True:
        try:
            effect = flow.throw(error) if error is not None else flow.send(value)
        except StopIteration as stop:
            return stop.value
        value, error = None, None
        match effect:
            case Request() | Call():
                value, error = _carried_out(effect, network)
            case Carry(download, upload):
                archive, error = _carried_out(download, network)
                if error is None:
                    value, error = _carried_out(replace(upload, body=archive), network)
            case Together(effects):
                value = [Outcome(*_carried_out(one, network)) for one in effects]
            case Room(here):
                value = here
            case Begin(work):
                try:
                    pieces.append(Outcome(carried_out(work.flow(), network, f"{seed} {len(pieces)}")))
                except FerryError as failed:
                    pieces.append(Outcome(error=failed))
                value = len(pieces) - 1
            case Await(numbers, _):
                value = [(n, pieces[n]) for n in numbers]
            case Now():
                value = clock
            case Sleep(seconds):
                clock += seconds
            case NewId():
                value = f"{chance.getrandbits(128):032x}"
            case Today():
                value = datetime(2026, 1, 1, tzinfo=timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _carried_out(effect: Request | Call, network: Network) -> tuple[Any, Exception | None]:
    qdrant = network.servers[effect.server].qdrant
    try:
        if isinstance(effect, Call):
            return qdrant.call(effect.method, effect.collection, effect.kwargs), None
        return at_once(qdrant.request(effect.method, effect.path, effect.body, effect.params)), None
    except Refusal as refusal:
        return None, error_of(effect, refusal.status, refusal.text)
