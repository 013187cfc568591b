"""What the tests of the clients share: collections, migrations, and one way to call four kinds of clients."""

from __future__ import annotations

import functools
import inspect
import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from anyio.from_thread import BlockingPortal
from qdrant_client import AsyncQdrantClient, QdrantClient, models

from qferry import AsyncFerryClient, FerryClient, FerryOptions, commands
from qferry.connection import Connection
from qferry.protocol.records import CONTROL_COLLECTION, Migration, Strategy

# A fifth of the default: commands wait for the next heartbeat of every client.
FAST = FerryOptions(heartbeat_s=0.2)
DIMENSIONS = 8

Contents = dict[Any, tuple[Any, Any]]


def vector(seed: object) -> list[float]:
    """Return a vector that depends on `seed` alone."""
    numbers = random.Random(str(seed))
    return [round(numbers.uniform(-1, 1), 3) for _ in range(DIMENSIONS)]


def point(point_id: Any, **payload: Any) -> models.PointStruct:
    """Return a point whose vector and payload depend on its id and `payload` alone."""
    return models.PointStruct(id=point_id, vector=vector((point_id, payload)), payload={"n": 0, **payload})


def named(name: str, *values: Any) -> models.Filter:
    """Return a filter for points whose payload field `name` is one of `values`."""
    return models.Filter(must=[models.FieldCondition(key=name, match=models.MatchAny(any=list(values)))])


def contents(plain: QdrantClient, collection: str, ids: Iterable[Any] | None = None) -> Contents:
    """Return everything in a collection, or in those of its points, as plain JSON: id -> (payload, vectors)."""
    body = {"with_payload": True, "with_vector": True}
    if ids is None:
        found = ask(plain, "POST", f"/collections/{collection}/points/scroll", {**body, "limit": 100_000})["points"]
    else:
        found = ask(plain, "POST", f"/collections/{collection}/points", {**body, "ids": list(ids)})
    return {record["id"]: (record["payload"], record["vector"]) for record in found}


def ask(plain: QdrantClient, method: str, path: str, body: Any = None) -> Any:
    """Send a request of the test's own, past everything that a client would make of it."""
    content = None if body is None else json.dumps(body)
    headers = {"Content-Type": "application/json"}
    return plain.http.client.request(type_=object, method=method, url=path, content=content, headers=headers)["result"]


@dataclass(frozen=True)
class Pairing:
    """One of the ways to use a client."""

    asynchronous: bool
    grpc: bool

    def __str__(self) -> str:
        return f"{'asyncio' if self.asynchronous else 'blocking'}-{'grpc' if self.grpc else 'rest'}"


PAIRINGS = [Pairing(asynchronous, grpc) for asynchronous in (False, True) for grpc in (False, True)]


class Caller:
    """A client, plain or qferry's, blocking or asyncio, that is called the same way: blocking, by method name."""

    def __init__(self, client: Any, portal: BlockingPortal | None) -> None:
        self.client = client
        self._portal = portal

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the client and wait for what comes of it."""
        bound = functools.partial(getattr(self.client, method), *args, **kwargs)
        return bound() if self._portal is None else self._portal.call(_on_the_loop, bound)


async def _on_the_loop(bound: Any) -> Any:
    result = bound()
    return await result if inspect.isawaitable(result) else result


@dataclass(frozen=True)
class Opener:
    """Makes clients of every kind for one server."""

    url: str
    grpc_port: int
    api_key: str | None
    portal: BlockingPortal

    def plain(self, pairing: Pairing) -> Caller:
        """Open one of qdrant-client's own."""
        kind = AsyncQdrantClient if pairing.asynchronous else QdrantClient
        return self._caller(pairing, kind)

    def ferry(self, pairing: Pairing, ferry: FerryOptions = FAST) -> Caller:
        """Open one of qferry's."""
        kind = AsyncFerryClient if pairing.asynchronous else FerryClient
        return self._caller(pairing, kind, ferry=ferry)

    def _caller(self, pairing: Pairing, kind: Any, **extra: Any) -> Caller:
        client = kind(
            url=self.url,
            grpc_port=self.grpc_port,
            api_key=self.api_key,
            prefer_grpc=pairing.grpc,
            check_compatibility=False,
            **extra,
        )
        return Caller(client, self.portal if pairing.asynchronous else None)


@dataclass(frozen=True)
class Migrating:
    """A collection on its way to another one."""

    connection: Connection
    plain: QdrantClient
    source: str
    target: str

    def start(self) -> Migrating:
        """Let every client write to both; nothing has been copied yet."""
        commands.start(self.connection, self.source, self.target, strategy=Strategy.STREAM)
        return self

    def backfill(self) -> Migrating:
        """Bring it to where both sides are equal."""
        self.start()
        commands.backfill(self.connection, self.source)
        return self

    def switch(self, percent: int = 100) -> Migrating:
        """Bring it to where reads go to the target."""
        self.backfill()
        assert commands.verify(self.connection, self.source).passed
        commands.switch(self.connection, self.source, percent=percent)
        return self

    def finish(self) -> Migrating:
        """Bring it to where only the target is used."""
        self.switch()
        commands.finish(self.connection, self.source)
        return self

    def abort(self) -> None:
        """Give it up."""
        commands.abort(self.connection, self.source)

    def verify(self, *, repair: bool = False) -> commands.Verification:
        """Compare both sides."""
        return commands.verify(self.connection, self.source, repair=repair)

    @property
    def status(self) -> commands.Status:
        """Where it stands."""
        return commands.status(self.connection, self.source)[0]

    @property
    def migration(self) -> Migration:
        """Its record."""
        return self.status.migration

    def sides(self, ids: Iterable[Any] | None = None) -> tuple[Contents, Contents]:
        """What is on the source and on the target."""
        wanted = None if ids is None else list(ids)
        return contents(self.plain, self.source, wanted), contents(self.plain, self.target, wanted)

    def sweep(self) -> None:
        """Remove whatever is left of it, and of the writers that took part; their clients must be closed."""
        for status in commands.status(self.connection):
            m = status.migration
            if self.source in m.names:
                for name in (m.source, m.target, m.journal_collection):
                    self.plain.delete_collection(name)
                self.plain.delete(CONTROL_COLLECTION, [m.id])
                # The next command would wait a lease for those that could not say goodbye.
                self.plain.delete(CONTROL_COLLECTION, named("kind", "writer"))

    def journal(self) -> set[Any]:
        """The ids in the durable journal."""
        return set(contents(self.plain, self.migration.journal_collection))


def is_ours(error: BaseException) -> bool:
    """Tell whether an error is one of qferry's."""
    return type(error).__module__.startswith("qferry.")


def outcome_of(act: Any) -> str:
    """
    Tell what came of a call, in words that are the same for the same outcome.

    The serial number of the operation is the collection's own business, and the server's prose may name things that
    differ; type and status may not.
    """
    try:
        result = act()
    except Exception as error:  # noqa: BLE001  whatever it is, the other client must raise it too
        if hasattr(error, "status_code"):
            return f"{type(error).__name__} {error.status_code}"
        if hasattr(error, "code"):
            return f"{type(error).__name__} {error.code().name}"
        return f"{type(error).__name__}: {error}" if is_ours(error) else type(error).__name__
    return _told(result)


def _told(result: Any) -> str:
    if isinstance(result, list):
        return f"[{', '.join(_told(one) for one in result)}]"
    if isinstance(result, models.UpdateResult):
        return f"UpdateResult {result.status.value}, {'numbered' if result.operation_id is not None else 'unnumbered'}"
    return repr(result)
