"""What a key allows, asked by requests that change nothing and answered by how they fail."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from http import HTTPStatus
from typing import Any, Final

import orjson

from qferry.control import wire
from qferry.errors import Rejected, RemoteFailure
from qferry.flows.effects import Flow, Json, NewId, Request, Today
from qferry.planning import Plan
from qferry.preflight.report import NO, UNKNOWN, YES, Key, Right, Token
from qferry.protocol.records import CONTROL_COLLECTION, HOME, Strategy

_REFUSED: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
_ALLOWED: Final = (HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED)
_BAD_SIGNATURE: Final = "InvalidSignature"  # 1.14 to 1.19: `jwt_parser.rs`, by the `jsonwebtoken` library
_GLOBAL: Final = {"r": "to read everything", "m": "to manage everything"}
# What a migration takes besides copying and comparing, at the least: people look at it between its steps.
PEOPLE_S: Final = 3600.0
_ISO: Final = "%Y-%m-%dT%H:%M:%SZ"
_JWT_PARTS: Final = 3
_MANAGE: Final = "an API key or a JWT with access `m` may"


def key(side: str, secret: str | None) -> Key:
    """What a key says of itself."""
    return Key(side, bool(secret), token_of(secret) if secret else None)


def token_of(secret: str) -> Token | None:
    """The claims of a JWT; None for any other key.  The signature is the server's business."""
    claims = _claims(secret)
    if claims is None:
        return None
    expires = claims.get("exp")
    condition = claims.get("value_exists")
    return Token(
        expires_at=_moment(expires) if isinstance(expires, int | float) else None,
        access=_access(claims.get("access", "m")),
        condition=f"valid while `{condition['collection']}` has a certain point"
        if isinstance(condition, Mapping) and condition.get("collection")
        else "",
    )


def _claims(secret: str) -> Mapping[str, Any] | None:
    parts = secret.split(".")
    if len(parts) != _JWT_PARTS:
        return None
    try:
        header, claims = (orjson.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in parts[:2])
    except (binascii.Error, ValueError):
        return None
    return claims if isinstance(header, Mapping) and isinstance(claims, Mapping) else None


def _moment(seconds: float) -> str | None:
    """An instant as the records write it; None if no calendar has it: it will not come."""
    try:
        moment = datetime.fromtimestamp(seconds, timezone.utc)
    except (OverflowError, OSError, ValueError):
        return None
    return moment.strftime(_ISO)


def _access(access: Any) -> str:
    if isinstance(access, str):
        return _GLOBAL.get(access, f"unknown: {access}")
    if not isinstance(access, list):
        return "unknown"
    scopes = [f"`{one.get('collection')}` ({one.get('access')})" for one in access if isinstance(one, Mapping)]
    return f"only {', '.join(scopes)}" if scopes else "nothing"


def ends_before(token: Token, today: str, seconds: float) -> bool:
    """Whether a token ends within so many seconds of `today`."""
    if token.expires_at is None:
        return False
    return _parsed(token.expires_at) < _parsed(today) + timedelta(seconds=seconds)


def _parsed(moment: str) -> datetime:
    return datetime.strptime(moment, _ISO).replace(tzinfo=timezone.utc)


def explained(error: Rejected, keys: Mapping[str, Key]) -> Flow[Rejected]:
    """An error of a key that is not enough even to look, with what can be known about that key."""
    concerned = keys.get(str(error.fields.get("server", HOME)))
    token = concerned.token if concerned is not None else None
    if error.status not in _REFUSED or token is None:
        return error
    today: str = yield Today()
    if _BAD_SIGNATURE in error.message or error.status == HTTPStatus.UNAUTHORIZED:
        hint = "The key is a JWT that this server does not accept: it is signed with another key than the server's."
    elif ends_before(token, today, 0):
        hint = f"The key is a JWT that expired at {token.expires_at}: use a new one."
    else:
        hint = (
            f"The key is a JWT, and says of itself that it allows: {token.access}. A migration needs one with access "
            "`m`, or the API key itself."
        )
    return Rejected(error.message, hint=hint, **error.fields)


def rights(planned: Plan, other: str, told: Mapping[str, Json | RemoteFailure]) -> Flow[tuple[Right, ...]]:
    """
    What the keys allow of what a migration will need, on both servers.

    Args:
        planned: The migration.
        other: The target's server, if that is another one.
        told: What each server has answered when asked for its telemetry.
    """
    found = yield from _of_source(planned, alone=not other)
    found.append(_telemetry("source", told[HOME]))
    if other:
        found += yield from _of_target(planned, other)
        found.append(_telemetry("target", told[other]))
    return tuple(found)


def _of_source(planned: Plan, *, alone: bool) -> Flow[list[Right]]:
    nothing = f"{CONTROL_COLLECTION}_nothing_{yield NewId()}"
    manages = yield from _may(wire.ask_to_manage(HOME, nothing))
    exists = yield from _exists(CONTROL_COLLECTION)
    # Whoever manages may write everywhere, and nobody else could make the journal's collection.
    writes = YES if manages == YES else NO
    because = _MANAGE if manages == YES else "there is no such collection yet, and only who manages may make it"
    if manages != YES and exists:
        writes = yield from _may(wire.ask_to_write(HOME, CONTROL_COLLECTION, nothing))
        because = _asked(writes)
    found = [
        Right("source", f"read `{planned.source}`", YES, "it was read just now", "copying and comparing"),
        Right(
            "source",
            "create and delete collections",
            manages,
            _asked(manages),
            "the journal, and cleanup" if not alone else "the target, the journal, and cleanup",
        ),
        Right(
            "source", "change aliases", manages, _asked(manages), "markers, and moving the source's aliases at finish"
        ),
        Right("source", f"write `{CONTROL_COLLECTION}` and journal", writes, because, "every command"),
    ]
    is_snapshot = planned.strategy == Strategy.SNAPSHOT.value
    takes = yield from _may(wire.ask_for_snapshots(HOME, planned.source, nothing))
    need = "the copy, and the last one before cleanup" if is_snapshot else "the last one before cleanup"
    found.append(Right("source", f"snapshots of `{planned.source}`", takes, _asked(takes), need))
    if is_snapshot and alone:
        found.append(Right("source", "restore a snapshot", manages, _asked(manages), "the copy"))
    return found


def _of_target(planned: Plan, other: str) -> Flow[list[Right]]:
    nothing = f"{CONTROL_COLLECTION}_nothing_{yield NewId()}"
    manages = yield from _may(wire.ask_to_manage(other, nothing))
    found = [
        Right("target", "create and delete collections", manages, _asked(manages), "the target"),
        Right("target", "change aliases", manages, _asked(manages), "the fence through which every copy is written"),
        Right(
            "target", f"write `{planned.target}`", manages, _MANAGE if manages == YES else _asked(manages), "the copy"
        ),
    ]
    if planned.strategy == Strategy.SNAPSHOT.value:
        found.append(Right("target", "restore a snapshot", manages, _asked(manages), "the copy"))
    return found


def _telemetry(side: str, told: Json | RemoteFailure) -> Right:
    """Whether a server tells of its memory: to a key for single collections it tells nothing of itself."""
    need = "backing off while memory is short, and knowing whether a snapshot is still being restored"
    if isinstance(told, RemoteFailure):
        forbidden = isinstance(told, Rejected) and told.status in _REFUSED
        return Right(side, "telemetry", NO if forbidden else UNKNOWN, told.message, need)
    if told.get("memory"):
        return Right(side, "telemetry", YES, "it was read just now", need)
    return Right(side, "telemetry", UNKNOWN, "the server answers, but tells nothing of its memory", need)


def _exists(collection: str) -> Flow[bool]:
    try:
        return bool((yield wire.exists(HOME, collection))["exists"])
    except Rejected as error:
        if error.status in _REFUSED:
            return True  # to a key for other collections it is hidden; the question itself will be refused
        raise


def _may(question: Request) -> Flow[str]:
    """The answer to a request that fails in any case: because it is forbidden, or for want of what it names."""
    try:
        yield question
    except Rejected as error:
        return NO if error.status in _REFUSED else YES if error.status in _ALLOWED else UNKNOWN
    except RemoteFailure:
        return UNKNOWN
    return YES


def _asked(granted: str) -> str:
    return {
        YES: "a request that could change nothing was not forbidden",
        NO: "a request that could change nothing was forbidden (403)",
    }.get(granted, "the server gave no clear answer")


def warnings(found: tuple[Right, ...], keys: Mapping[str, Key], today: str, seconds: float) -> Iterator[str]:
    """What somebody must do about the keys before the migration."""
    for side in dict.fromkeys(right.side for right in found):
        lacking = [right.right for right in found if right.side == side and right.granted == NO]
        if lacking:
            yield (
                f"The key for the {side}'s server may not: {', '.join(lacking)}. `qferry start` will be refused; use a "
                "key with the right to manage."
            )
    for one in keys.values():
        if one.token is None:
            continue
        if ends_before(one.token, today, seconds + PEOPLE_S):
            yield (
                f"The JWT for the {one.side}'s server expires at {one.token.expires_at}. Copy and check take "
                f"{seconds:,.0f} s at the least, and somebody decides between the steps: use one that lives longer."
            )
        if one.token.condition:
            yield f"The JWT for the {one.side}'s server is {one.token.condition}; when that goes, every command fails."
