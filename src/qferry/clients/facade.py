"""
What the two clients share: which flow carries out which method, and how the methods are laid over upstream's.

The methods are made from the *installed* qdrant-client's signatures when the module is imported (docs/adr/0002), so
any supported version's arguments, docstrings and types are exactly upstream's.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import random
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from qdrant_client import models

from qferry.callers import current_caller
from qferry.clients.table import ROUTED, TABLE, Kind
from qferry.drivers.http import today
from qferry.errors import Misuse, NotAllowed
from qferry.flows import routed, write
from qferry.flows.effects import Call, Flow
from qferry.options import FerryOptions
from qferry.protocol.records import HOME
from qferry.protocol.session import Route, Session, View

_validation: ModuleType | None
try:
    _validation = importlib.import_module("qdrant_client.common.validation")
except ImportError:  # qdrant-client < 1.20
    _validation = None


def new_session(options: FerryOptions) -> Session:
    """A session for a client of this process."""
    return Session(
        writer_id=str(uuid.uuid4()),
        host=socket.gethostname(),
        pid=os.getpid(),
        since=today(),
        pins=options.pins,
        random=random.random,
        caller=current_caller,
        journal_before=options.journal_before,
    )


def target_arguments(own: Mapping[str, Any], options: FerryOptions, server: str) -> dict[str, Any]:
    """
    How to make the client for the target's server, from how the client itself was made.

    Raises:
        Misuse: By gRPC, it would reach the client's own server: two servers on one host cannot share a port.
    """
    if own.get("prefer_grpc") and options.target_grpc_port is None and _host(own) == urlsplit(server).hostname:
        raise Misuse(
            f"The target's server {server} is on the client's own host, so its gRPC port must be another one than the "
            f"client's own {own.get('grpc_port')}.",
            hint="Set QFERRY_TARGET_GRPC_PORT, or FerryOptions(target_grpc_port=...).",
        )
    given = {**own, "location": None, "host": None, "url": server}
    if options.target_api_key is not None:
        given["api_key"] = options.target_api_key
    if options.target_grpc_port is not None:
        given["grpc_port"] = options.target_grpc_port
    return given


def _host(own: Mapping[str, Any]) -> str | None:
    """The host that a client was made for."""
    where = own.get("url") or own.get("location") or own.get("host") or "localhost"
    return urlsplit(where if "//" in where else f"//{where}").hostname


def flow_for(kind: Kind, session: Session, method: str, collection: str, arguments: dict[str, Any]) -> Flow[Any]:
    """The flow that carries out a routed method."""
    match kind:
        case Kind.READ:
            return routed.read(session, method, collection, arguments)
        case Kind.WRITE:
            return write.write(session, method, collection, arguments)
        case Kind.CONFIGURE:
            return write.configure(session, method, collection, arguments)
        case Kind.ON_TRUTH:
            return routed.on_truth(session, method, collection, arguments)
        case Kind.GUARDED:
            return routed.guarded(session, method, collection, arguments)
        case _:
            raise NotAllowed(f"`{method}` cannot be carried out as one call.", method=method)


def points_of(method: str, arguments: Mapping[str, Any]) -> Iterable[models.PointStruct]:
    """The points of an `upload_points` or `upload_collection`."""
    points: Iterable[models.PointStruct] = arguments["points"] if method == "upload_points" else _zipped(arguments)
    return points


def _zipped(arguments: Mapping[str, Any]) -> Iterator[models.PointStruct]:
    """The points an `upload_collection` stands for; ids are made up where none are given, as upstream does."""
    vectors, payloads, ids = arguments["vectors"], arguments.get("payload"), arguments.get("ids")
    # Upstream (from 1.20) refuses ids and payloads that end before the vectors do.
    if _validation is not None and (size := _validation.vectors_length(vectors)) is not None:
        payloads = _validation.require_length(payloads, size, "payload")
        ids = _validation.require_length(ids, size, "ids")
    if isinstance(vectors, dict):
        names = list(vectors)
        vectors = (dict(zip(names, row, strict=True)) for row in zip(*vectors.values(), strict=True))
    payload_stream = iter(payloads) if payloads is not None else iter(())
    id_stream = iter(ids) if ids is not None else iter(lambda: str(uuid.uuid4()), None)
    for vector, point_id in zip(vectors, id_stream, strict=False):
        yield models.PointStruct(id=point_id, vector=_plain(vector), payload=next(payload_stream, None))


def _plain(vector: Any) -> Any:
    if isinstance(vector, dict):
        return {name: _plain(value) for name, value in vector.items()}
    return vector.tolist() if hasattr(vector, "tolist") else vector


def change_aliases(session: Session, method: str, operations: Iterable[Any], arguments: dict[str, Any]) -> Flow[Any]:
    """Alias operations, refused if they name a collection or alias of a live migration."""
    given = list(operations)
    names: list[str] = []
    for operation in given:
        for body in operation.model_dump().values():
            names += [value for value in (body or {}).values() if isinstance(value, str)]

    def attempt(view: View, _: Route | None) -> Flow[Any]:
        yield from routed.refuse_if_live(session, method, names)
        # What other methods have for a collection is a list of operations here.
        return (yield from routed.one_sided(view, Call(HOME, method, given, (), arguments)))  # type: ignore[arg-type]

    return (yield from routed.routed(session, "", attempt))


def refused(name: str, reason: str, hint: str) -> Callable[..., Any]:
    """A stand-in for a name that must not be used."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise NotAllowed(f"`{name}` is refused: {reason}", hint=hint, method=name)

    return refuse


def _unclassified(name: str) -> Callable[..., Any]:
    return refused(
        name,
        "this version of qferry does not know it, and it may write behind the migration's back.",
        "Upgrade qferry, or call it on a plain QdrantClient if it does not touch a migrating collection.",
    )


def _raw(name: str, upstream: property) -> property:
    def get(self: Any) -> Any:
        if not self.ferry_options.allow_raw:
            refused(
                name,
                "calls on the raw handle are seen by no migration.",
                "Use the client's methods, or FerryOptions(allow_raw=True) if you know that nothing migrates.",
            )()
        return upstream.fget(self)  # type: ignore[misc]  # upstream's properties all have a getter

    return property(get, doc=upstream.__doc__)


def lay_over(cls: type[Any], upstream: type[Any], wrap: Callable[[str, Kind, Callable[..., Any]], Any]) -> None:
    """
    Give `cls` a method for every public name of `upstream` that must not simply pass through.

    Args:
        cls: The qferry client class; names it defines itself are left alone.
        upstream: The class of the installed qdrant-client it derives from.
        wrap: Makes the method for a routed or guarded name out of upstream's.
    """
    for name in dir(upstream):
        if name.startswith("_") or name in vars(cls):
            continue
        kind = TABLE.get(name)
        original = inspect.getattr_static(upstream, name)
        if kind is None:
            setattr(cls, name, _unclassified(name))
        elif kind is Kind.RAW:
            setattr(cls, name, _raw(name, original))
        elif kind is Kind.REFUSED:
            reason = "it would copy collections behind the migration's back."
            setattr(cls, name, refused(name, reason, "Use the `qferry` command."))
        elif kind in ROUTED or kind is Kind.ALIASES:
            setattr(cls, name, functools.wraps(original)(wrap(name, kind, original)))


def parameter_names(method: Callable[..., Any]) -> tuple[str, ...]:
    """The names of a method's arguments after `self` and the collection, in order."""
    names = [p.name for p in inspect.signature(method).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    return tuple(names[2:])


def by_name(names: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """A call's arguments by name; the mistakes Python itself would report are reported like Python does."""
    if len(args) > len(names):
        raise TypeError(f"takes at most {len(names) + 2} positional arguments but {len(args) + 2} were given")
    given = dict(zip(names, args, strict=False))
    twice = given.keys() & kwargs.keys()
    if twice:
        raise TypeError(f"got multiple values for argument {twice.pop()!r}")
    unknown = sorted(kwargs.keys() - set(names))
    if unknown:
        raise AssertionError(f"Unknown arguments: {unknown}")  # as upstream does
    return {**given, **kwargs}
