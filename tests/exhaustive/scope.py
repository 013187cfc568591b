"""A scope: where a migration stands, what two writers call, what a coordinator does meanwhile, what may go wrong."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import inf
from typing import Any
from unittest.mock import patch

from tests.simulation.fake_qdrant import FakeQdrant
from tests.simulation.possible_states import Step, as_state

from qferry.control import records
from qferry.flows import configuration, lifecycle, missing, settle, write
from qferry.protocol.phases import Phase, Side
from qferry.protocol.records import CONTROL_COLLECTION, Migration, Pins
from qferry.protocol.session import Session

from .commands import HOLDER, Command, check
from .explorer import Explorer, Found, Setting
from .judge import CHECK, Verdict
from .machines import Machine
from .processes import BEAT, SOURCE, TARGET, TODAY, Operator, P, Read, Writer
from .servers import Servers, change_aliases

_ID = "00000000-0000-4000-8000-000000000001"
_WRITERS = ("w1", "w2")
_WRITER_IDS = {name: f"{n}0000000-0000-4000-8000-000000000000" for n, name in enumerate(_WRITERS, 1)}
_EPOCH = 7
_CONFIG = {"vectors": {"size": 1, "distance": "Dot"}}
AGAIN = "again"


@dataclass(frozen=True)
class Scope:
    """
    One scope.

    Args:
        about: What it is about, in a line.
        phase: Where the migration stands at the beginning; every writer has acknowledged that.
        calls: What each writer calls, in order.
        command: What the coordinator does, which holds the claim.
        second: What another one does meanwhile.
        again: What the next one does when the first has died or failed.
        source: The source's points, each with its value.
        target: The target's.
        journal: The durable entries, each with its token.
        beats: Heartbeats of each writer that may begin at any moment.
        news: Further ones that may begin when there is something to learn or to acknowledge.
        beating: Whether a heartbeat of each writer is under way at the beginning.
        careful: Whether a heartbeat may come between a call's look at the clock and what follows.
        still: Whether the command leaves the migration's record alone.
        mending: Whether, if readers see the target, writers may bring points that it lacks.
        faults: One of these may happen, once.
        refusals: How commands may end other than well, by name: a part of the error.
    """

    about: str
    phase: Phase
    calls: tuple[tuple[Step | Read, ...], ...]
    command: Command | None = None
    second: Command | None = None
    again: Command | None = None
    source: Mapping[int, int] = field(default_factory=lambda: {P: 1})
    target: Mapping[int, int] = field(default_factory=lambda: {P: 1})
    journal: Mapping[int, str] = field(default_factory=dict)
    beats: int = 0
    news: int = 0
    beating: bool = False
    careful: bool = False
    still: bool = False
    mending: bool = True
    faults: frozenset[str] = frozenset()
    refusals: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def short_waits() -> Iterator[None]:
    """A few long waits instead of many short ones, and one journal cycle before a command gives up."""
    with (
        patch.object(missing, "MISSING_RETRY_S", 0.6),
        patch.object(missing, "MISSING_PATIENCE_S", 1.5),
        patch.object(write, "LACKING_PATIENCE_S", 1.5),
        patch.object(lifecycle, "CYCLES_MAX", 1),
        patch.object(settle, "CYCLES_MAX", 1),
    ):
        yield


def explored(scope: Scope, seed: int | None = None, limit: float = inf) -> tuple[Explorer, Found]:
    """Explore a scope completely, or up to the first violation or `limit` states, in the order the seed decides."""
    with short_waits():
        explorer = Explorer(setting(scope), None if seed is None else random.Random(seed))
        gc.disable()  # millions of small tuples, none of them in a circle
        try:
            return explorer, explorer.explore(limit)
        finally:
            gc.enable()


def setting(scope: Scope) -> Setting:
    """The scope, ready to be explored."""
    switched = scope.phase is Phase.SWITCHED
    migration = Migration(
        id=_ID,
        source=SOURCE,
        target=TARGET,
        names=(SOURCE, TARGET),
        phase=scope.phase,
        epoch=_EPOCH,
        read_percent=100 if switched else 0,
        claim=HOLDER,
        mend=f"{CONTROL_COLLECTION}_{_ID[:8]}_mend_1" if switched and scope.mending else "",
        verified={"at": TODAY, "epoch": _EPOCH} if switched else None,
        canary_max_errors_percent=100,  # nobody steps back; the simulation sees to that (fingerprint.py)
        parity=_parity() if switched else None,
    )
    names = _WRITERS[: len(scope.calls)]
    collections = (CONTROL_COLLECTION, migration.journal_collection, SOURCE, TARGET)
    servers = Servers(collections, keeps_beats=bool(scope.faults))
    content = servers.take(_server(scope, migration, names))
    commands = {HOLDER: scope.command, "second": scope.second, AGAIN: scope.again}
    given = {name: command for name, command in commands.items() if command is not None}
    initial = {i: as_state(*_held(v)) for i, v in scope.source.items()}
    calls = dict(zip(names, scope.calls, strict=True))
    return Setting(
        servers,
        content,
        [Machine(_writer(scope, name, migration), servers) for name in names],
        [_operator(name, command, migration, servers) for name, command in given.items()],
        _operator(CHECK, check, migration, servers),
        Verdict(initial, calls, scope.refusals),
        tuple(_WRITER_IDS[name] for name in names),
        (*names, *given, CHECK),
        later=frozenset(n for n, name in enumerate(given) if name == AGAIN),
        faults=scope.faults,
        lonely=scope.second is None and scope.again is None,
        still=scope.still,
    )


def _parity() -> dict[str, Any]:
    """The evidence that searches were compared, on the two collections as they are configured."""
    server = FakeQdrant()
    server.request("PUT", f"/collections/{SOURCE}", _CONFIG, {})
    info = server.request("GET", f"/collections/{SOURCE}", None, {})
    return {"passed": True, "configuration": configuration.fingerprint(info, info)}


def _writer(scope: Scope, name: str, migration: Migration) -> Callable[[], Writer]:
    def made() -> Writer:
        writer = Writer(
            name,
            _session(name, migration),
            scope.calls[_WRITERS.index(name)],
            beats=scope.beats + scope.beating,
            news=scope.news,
            careful=scope.careful,
            counted=bool(scope.faults),
        )
        if scope.beating:
            writer.start(BEAT)
        return writer

    return made


def _operator(name: str, command: Command, migration: Migration, servers: Servers) -> Machine:
    return Machine(lambda: Operator(name, lambda: command(migration)), servers)


def _session(name: str, migration: Migration) -> Session:
    session = Session(_WRITER_IDS[name], name, 1, "", Pins(), random=lambda: 0.5)
    session.adopt([migration], sent_at=0.0, now=0.0)
    session.registered = True
    session.acked = session.view.epochs
    return session


def _held(value: int) -> tuple[dict[str, int], dict[str, list[float]]]:
    return {"v": value}, {"": [float(value)]}


def _server(scope: Scope, m: Migration, writers: tuple[str, ...]) -> FakeQdrant:
    server = FakeQdrant()
    for name, held in ((SOURCE, scope.source), (TARGET, scope.target)):
        points = [{"id": i, "payload": _held(v)[0], "vector": [float(v)]} for i, v in held.items()]
        server.request("PUT", f"/collections/{name}", _CONFIG, {})
        server.request("PUT", f"/collections/{name}/points", {"points": points}, {"wait": "true"})
    entries = [{"id": i, "vector": {}, "payload": {"token": token}} for i, token in scope.journal.items()]
    for name in (CONTROL_COLLECTION, m.journal_collection):
        server.request("PUT", f"/collections/{name}", {"vectors": {}}, {})
    server.request("PUT", f"/collections/{m.journal_collection}/points", {"points": entries}, {"wait": "true"})
    known = [records.put(m.id, m.to_payload())]
    known += [records.put_writer(_session(name, m).record(0.0)) for name in writers]
    for request in known:
        server.request(request.method, request.path, request.body, request.params)
    aliases = {m.marker(Side.SOURCE): SOURCE, m.marker(Side.TARGET): TARGET, m.fence(HOLDER): TARGET}
    change_aliases(server, {**aliases, m.mend: TARGET} if m.mend else aliases)
    return server
