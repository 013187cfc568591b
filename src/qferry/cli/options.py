"""
What the verbs have in common: the options to reach the servers, and the check of what was typed.

Only here is the environment read.  What is wrong with an option or a name is found before anything is sent.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Concatenate, ParamSpec
from urllib.parse import urlsplit

import orjson
import typer

from qferry.cli import log_lines, output
from qferry.cli.output import Answer, interrupted, usage
from qferry.cli.progress import Reporter, progress
from qferry.connection import Connection, keeps_secret
from qferry.errors import InvalidName
from qferry.flows.effects import Report
from qferry.naming import CollectionNaming, check_collection_name
from qferry.protocol.records import HOME, Strategy, WritePolicy
from qferry.protocol.throttle import QuietHours
from qferry.transfer.channel import GRPC_PORT

DEFAULT_URL = "http://localhost:6333"
DEFAULT_TIMEOUT_S = 60
_INSECURE = "Api key is used with an insecure connection"

P = ParamSpec("P")


def valid_name(name: str | None) -> str | None:
    """A collection's name as an argument."""
    if name is not None:
        try:
            check_collection_name(name)
        except InvalidName as error:
            raise usage(error.message, "Give the name of a collection.") from error
    return name


def finite(seconds: float | None) -> float | None:
    """A number that can be waited for."""
    if seconds is not None and not math.isfinite(seconds):
        raise usage(f"{seconds} is no number to count with.", "Give a finite number.")
    return seconds


def share_of(option: str) -> Callable[[str | None], str | None]:
    """What checks a share that is given as `5%` or `5`."""

    def share(text: str | None) -> str | None:
        if text is not None and percent(text) is None:
            raise usage(f"{option} {text!r} is no share.", "Give 0% to 100%, like 5%.")
        return text

    return share


def percent(text: str | None) -> float | None:
    """The number in `5%`; None if it is no share, or there is none."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%?", (text or "").strip(), re.ASCII)
    return float(found[1]) if found and float(found[1]) <= 100 else None  # noqa: PLR2004  a whole in per cent


def dask_address(address: str | None) -> str | None:
    """The address of a Dask scheduler; None if the variable is empty."""
    if not address:
        return None
    try:
        parts = urlsplit(address)
        fits = parts.scheme in ("tcp", "tls") and bool(parts.hostname) and bool(parts.port) and not parts.path
    except ValueError:
        fits = False
    if not fits or re.search(r"[\s\x00-\x1f@]", address):
        raise usage(
            "--dask (QFERRY_DASK) is not the address of a Dask scheduler.", "It should look like tcp://host:8786."
        )
    return address


def hours_of_the_day(text: str | None) -> str | None:
    """A span of the day, or nothing: at any time."""
    if text:
        try:
            QuietHours.parse(text)
        except ValueError as error:
            raise usage(
                f"--quiet-hours (QFERRY_QUIET_HOURS): {error}.", "It should look like 22:00-06:00, in UTC."
            ) from error
    return text


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables, for errors too.")]
Source = Annotated[
    str | None,
    typer.Argument(
        metavar="SOURCE",
        callback=valid_name,
        show_default=False,
        help="The migration of this collection; may be left out while only one is under way.",
    ),
]
NewSource = Annotated[
    str, typer.Argument(metavar="SOURCE", callback=valid_name, help="The collection to move, or an alias of it.")
]
NewTarget = Annotated[
    str | None,
    typer.Argument(
        metavar="TARGET",
        callback=valid_name,
        show_default=False,
        help="Its new name; by default the canonical name of the project SOURCE belongs to.",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY.PATH=JSON",
        help="A setting of the target that is to differ from the source's, like hnsw_config.m=32. Repeatable.",
    ),
]
Policy = Annotated[
    WritePolicy,
    typer.Option(
        "--policy",
        envvar="QFERRY_WRITE_POLICY",
        help="When a write counts as done: on both sides, or on the source at first.",
    ),
]


class Way(str, Enum):
    """How history gets to the target, as typed."""

    AUTO = "auto"
    SNAPSHOT = "snapshot"
    STREAM = "stream"
    BULK = "bulk"

    @property
    def strategy(self) -> Strategy | None:
        """The strategy that was asked for, if one was."""
        return None if self is Way.AUTO else Strategy(self.value)


HowToCopy = Annotated[
    Way,
    typer.Option(
        "--strategy",
        envvar="QFERRY_STRATEGY",
        help="Restore a snapshot; or stream page by page; or in bulk: index the target only when everything is there. "
        "auto: a snapshot wherever that is possible, else stream.",
    ),
]
AckTimeout = Annotated[
    float,
    typer.Option(
        "--ack-timeout",
        envvar="QFERRY_ACK_TIMEOUT",
        min=0,
        callback=finite,
        metavar="SECONDS",
        help="How long every running application may take to follow.",
    ),
]
Percent = Annotated[
    int, typer.Option("--percent", min=0, max=100, metavar="0..100", help="The share of reads the target serves.")
]
Shadow = Annotated[
    str | None,
    typer.Option(
        "--shadow",
        callback=share_of("--shadow"),
        metavar="0..100%",
        show_default=False,
        help="Repeat this share of the reads on the other side, in the background, and compare; 0: none.",
    ),
]
MaxErrors = Annotated[
    str | None,
    typer.Option(
        "--max-errors",
        callback=share_of("--max-errors"),
        metavar="0..100%",
        show_default=False,
        help="Let readers go back to the source when more of their reads on the target fail; at first 5%.",
    ),
]
MaxReadMs = Annotated[
    float | None,
    typer.Option(
        "--max-read-ms",
        min=0,
        callback=finite,
        metavar="MS",
        show_default=False,
        help="The same when reads on the target take longer (p95); 0, as at first: however long.",
    ),
]
GreenTimeout = Annotated[
    float,
    typer.Option(
        "--green-timeout",
        envvar="QFERRY_GREEN_TIMEOUT",
        min=0,
        callback=finite,
        metavar="SECONDS",
        help="How long to wait for the target's indexes.",
    ),
]
# Points to search with, at most.
QUERIES_MAX = 10_000
Queries = Annotated[
    int,
    typer.Option(
        "--queries",
        envvar="QFERRY_QUERIES",
        min=0,
        max=QUERIES_MAX,
        metavar="N",
        help="How many points to search with, for each vector; 0: compare no searches, and `switch` is refused then.",
    ),
]
Again = Annotated[
    bool,
    typer.Option(
        "--again",
        help="Of the points, compare only those that differed the last time, where that is sound; otherwise all.",
    ),
]
Export = Annotated[
    str | None,
    typer.Option(
        "--export",
        metavar="FILE",
        show_default=False,
        help="Write every point that differs, and in what, to this file, a JSON object a line; -: to stdout.",
    ),
]
Dask = Annotated[
    str | None,
    typer.Option(
        "--dask",
        envvar="QFERRY_DASK",
        callback=dask_address,
        metavar="ADDRESS",
        show_default=False,
        help="Let the workers of this Dask cluster do it; its scheduler's address, like tcp://host:8786.",
    ),
]
_MAX_POINTS_PER_S: Any = {
    "min": 0,
    "show_default": False,
    "metavar": "N",
    "help": "Points copied or compared in a second; 0: no limit.",
}
_MAX_LATENCY_MS: Any = {
    "min": 0,
    "callback": finite,
    "show_default": False,
    "metavar": "MS",
    "help": "Back off while the application's slowest calls (p99) take longer; 0: no limit.",
}
_QUIET_HOURS: Any = {
    "callback": hours_of_the_day,
    "show_default": False,
    "metavar": "HH:MM-HH:MM",
    "help": "Stand still outside these hours of the day, in UTC; '': at any time.",
}
# A command takes them from the environment too; `throttle` changes only what is typed.
MaxPointsPerS = Annotated[
    int | None, typer.Option("--max-points-per-s", envvar="QFERRY_MAX_POINTS_PER_S", **_MAX_POINTS_PER_S)
]
MaxLatencyMs = Annotated[
    float | None, typer.Option("--max-latency-ms", envvar="QFERRY_MAX_LATENCY_MS", **_MAX_LATENCY_MS)
]
QuietHoursOption = Annotated[str | None, typer.Option("--quiet-hours", envvar="QFERRY_QUIET_HOURS", **_QUIET_HOURS)]
NewMaxPointsPerS = Annotated[int | None, typer.Option("--max-points-per-s", **_MAX_POINTS_PER_S)]
NewMaxLatencyMs = Annotated[float | None, typer.Option("--max-latency-ms", **_MAX_LATENCY_MS)]
NewQuietHours = Annotated[str | None, typer.Option("--quiet-hours", **_QUIET_HOURS)]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


class LogFormat(str, Enum):
    """How messages look."""

    PLAIN = "plain"
    JSON = "json"


@dataclass(frozen=True)
class Context:
    """What every verb is given: the servers, and how the person wants to be told."""

    connection: Connection
    as_json: bool
    metrics_listen: tuple[str, int] | None = None

    @property
    def naming(self) -> CollectionNaming:
        """The naming rules the environment sets."""
        try:
            return CollectionNaming.from_environ(os.environ)
        except InvalidName as error:
            raise usage(error.message, error.hint) from error

    @contextlib.contextmanager
    def progress(self) -> Iterator[Reporter]:
        """Where a command may report to while it runs."""
        from qferry.cli.metrics import served  # noqa: PLC0415  it is a verb, and those are made in here

        with contextlib.ExitStack() as stack:
            listeners = [stack.enter_context(progress(output.stderr(), quiet=self.as_json))]
            if self.metrics_listen is not None:
                listeners.append(stack.enter_context(served(self.connection, self.metrics_listen)))

            def report(told: Report) -> None:
                for listener in listeners:
                    listener(told)

            yield report


def _context(
    url: Annotated[str, typer.Option("--url", envvar="QDRANT_URL", help="The source's server.")] = DEFAULT_URL,
    api_key: Annotated[
        str | None,
        typer.Option(
            "--api-key", envvar="QDRANT_API_KEY", show_default=False, help="Its key; it must have the right to manage."
        ),
    ] = None,
    target_url: Annotated[
        str | None,
        typer.Option(
            "--target-url",
            envvar="QFERRY_TARGET_URL",
            show_default=False,
            help="The target's server, if that is another one; from `start` on the migration remembers it.",
        ),
    ] = None,
    target_api_key: Annotated[
        str | None,
        typer.Option(
            "--target-api-key",
            envvar="QFERRY_TARGET_API_KEY",
            show_default=False,
            help="Its key; by default the source's.",
        ),
    ] = None,
    grpc_port: Annotated[
        int,
        typer.Option(
            "--grpc-port",
            envvar="QDRANT_GRPC_PORT",
            min=0,
            max=65535,
            metavar="PORT",
            help="Where the server listens for gRPC, by which points are copied and compared; 0: by REST, slower.",
        ),
    ] = GRPC_PORT,
    target_grpc_port: Annotated[
        int,
        typer.Option(
            "--target-grpc-port",
            envvar="QFERRY_TARGET_GRPC_PORT",
            min=0,
            max=65535,
            metavar="PORT",
            help="The same of the target's server, if that is another one.",
        ),
    ] = GRPC_PORT,
    timeout: Annotated[
        int,
        typer.Option("--timeout", envvar="QFERRY_TIMEOUT", min=1, metavar="SECONDS", help="Deadline of one request."),
    ] = DEFAULT_TIMEOUT_S,
    metrics_listen: Annotated[
        str | None,
        typer.Option(
            "--metrics-listen",
            metavar="HOST:PORT",
            show_default=False,
            help="Answer Prometheus's scrapes there while the command works; no variable sets it.",
        ),
    ] = None,
    log_format: Annotated[
        LogFormat,
        typer.Option(
            "--log-format",
            envvar="QFERRY_LOG_FORMAT",
            help="Messages on stderr: for people, or a JSON object a line.",
        ),
    ] = LogFormat.PLAIN,
    as_json: AsJson = False,
) -> Context:
    """The options of every verb; `verb` adds them to its parameters."""
    from qferry.cli.metrics import listen_address  # noqa: PLC0415  it is a verb, and those are made in here

    if log_format is LogFormat.JSON:
        log_lines.begin()
    _check_server(url, "--url (QDRANT_URL)")
    if target_url:
        _check_server(target_url, "--target-url (QFERRY_TARGET_URL)")
    _check_key(api_key, "--api-key (QDRANT_API_KEY)")
    _check_key(target_api_key, "--target-api-key (QFERRY_TARGET_API_KEY)")
    elsewhere = target_url and target_url.rstrip("/") != url.rstrip("/")
    connection = Connection(
        url=url,
        api_key=api_key or None,
        target_url=target_url if target_url and elsewhere else HOME,
        target_api_key=target_api_key or None,
        timeout_s=timeout,
        grpc_port=grpc_port,
        target_grpc_port=target_grpc_port,
    )
    return Context(connection, as_json, listen_address(metrics_listen))


def verb(function: Callable[Concatenate[Context, P], Answer | None]) -> Callable[..., int]:
    """
    Make a verb of a function: give it the common options, write its answer, return the exit code.

    Args:
        function: Takes a `Context` and the verb's own parameters; returns None if stdout was not its own to answer on.
    """
    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    common = list(inspect.signature(_context, eval_str=True).parameters.values())

    call: Callable[..., Answer | None] = function  # its parameters are known to typer, not to the type checker

    def run(**given: Any) -> Answer | None:
        context = _context(**{parameter.name: given.pop(parameter.name) for parameter in common})
        return call(context, **given)

    return _command(function, [*own, *common], run)


def verb_without_server(function: Callable[P, Answer]) -> Callable[..., int]:
    """Make a verb of a function that needs none of the common options but `as_json`, which it must take itself."""
    return _command(function, list(inspect.signature(function, eval_str=True).parameters.values()), function)


def _command(
    function: Callable[..., Answer | None],
    parameters: Sequence[inspect.Parameter],
    run: Callable[..., Answer | None],
) -> Callable[..., int]:
    """`run` with the name and the help of `function`, and with these parameters, which typer makes options of."""

    @functools.wraps(function)
    def command(**given: Any) -> int:
        with _notes():
            try:
                answer = run(**given)
            except KeyboardInterrupt:
                raise interrupted() from None
        return output.DONE if answer is None else output.write_answer(answer, as_json=given["as_json"])

    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # functions may have one
        [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    )
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


@contextlib.contextmanager
def _notes() -> Iterator[None]:
    """Show qdrant-client's warning about keys without TLS as a sentence, not as a warning with a line of code."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", message=_INSECURE)
        try:
            yield
        finally:
            if caught:
                output.write_note("Note: the API key travels unencrypted, because the URL does not begin with https.")


def _check_server(url: str, option: str) -> None:
    """Refuse what is no URL of a Qdrant server, or says more than where it is."""
    check_url(url, option)
    if keeps_secret(url):
        raise usage(
            f"{option} has a user, a password or a query in it, which would be ignored, and kept in the migration's "
            "records.",
            "Give the key by its own option or variable.",
        )


def check_url(url: str, option: str) -> None:
    """
    Refuse what is no URL of a server.

    The message does not repeat it: there may be a password in it.
    """
    try:
        parts = urlsplit(url if "://" in url else f"//{url}")
        fits = parts.scheme in ("", "http", "https") and (parts.port is None or parts.port > 0)
        fits = fits and bool(parts.hostname) and bool((parts.hostname or "").encode("idna"))
    except ValueError:
        fits = False
    if not fits or re.search(r"[\s\x00-\x1f]", url):
        raise usage(f"{option} is not the URL of a server.", "It should look like http://host:6333.")


def _check_key(key: str | None, option: str) -> None:
    if key is not None and not re.fullmatch(r"[\x21-\x7e]*", key):
        raise usage(
            f"{option} contains a character that no key has, such as a space, a line break or a letter with an accent.",
            "Check how the variable is set.",
        )


def limits(
    max_points_per_s: int | None, max_latency_ms: float | None, quiet_hours: str | None, *, paused: bool | None = None
) -> dict[str, Any]:
    """Those limits that were given; the others stay as they are."""
    given = {
        "max_points_per_s": max_points_per_s,
        "max_latency_ms": max_latency_ms,
        "quiet_hours": quiet_hours,
        "paused": paused,
    }
    return {name: value for name, value in given.items() if value is not None}


def overrides(settings: Sequence[str] | None) -> Mapping[str, Any]:
    """The deep dict that `--set KEY.PATH=JSON` stands for, given any number of times."""
    result: dict[str, Any] = {}
    for setting in settings or ():
        path, equals, text = setting.partition("=")
        keys = path.split(".")
        if not equals or not all(keys):
            raise usage(f"--set {setting!r} is not of the form KEY.PATH=JSON.", "An example: --set hnsw_config.m=32")
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise usage(
                f"--set {path}: {text!r} is not JSON ({error}).",
                "Text needs double quotes inside single ones: '\"...\"'.",
            ) from error
        place: Any = result
        for key in keys[:-1]:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                break
        if not isinstance(place, dict) or keys[-1] in place:
            raise usage(f"--set {path} contradicts another --set.", "Set every value once.")
        place[keys[-1]] = value
    return result
