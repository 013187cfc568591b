"""Keys, tokens and passwords are nowhere: not in output, logs, scrapes, records, spans, errors or what objects show."""

import base64
import contextlib
import hashlib
import hmac
import json
import logging
import traceback
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import REGISTRY, generate_latest
from qdrant_client import QdrantClient, models

from qferry import AsyncFerryClient, FerryClient, FerryOptions, commands
from qferry.cli import main
from qferry.connection import Connection
from qferry.errors import FerryError, Misuse
from qferry.exporter import serving
from qferry.protocol.records import CONTROL_COLLECTION
from qferry.server import QdrantServer

KEY, WRONG, TARGET_KEY, PASSWORD = "hush-key-4711", "hush-wrong-4712", "hush-target-4713", "hush-password-4714"
SOURCE, TARGET = "kept", "kept-2"
# A warning of qdrant-client about keys without TLS, which is true of these tests.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection"),
    pytest.mark.usefixtures("nobody_unseen"),
]


def token(key: str) -> str:
    """Return a JWT for everything, as Qdrant takes it (HS256 by the server's key)."""

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    head = f"{part(json.dumps({'alg': 'HS256', 'typ': 'JWT'}).encode())}.{part(json.dumps({'access': 'm'}).encode())}"
    return f"{head}.{part(hmac.new(key.encode(), head.encode(), hashlib.sha256).digest())}"


JWT = token(KEY)
# A token's signature is as telling as the whole of it.
SECRETS = (KEY, WRONG, TARGET_KEY, PASSWORD, JWT, JWT.rsplit(".", 1)[1])


class TakesTokens(QdrantServer):
    """A server whose key also signs tokens."""

    def _environment(self) -> dict[str, str]:
        return super()._environment() | {"QDRANT__SERVICE__JWT_RBAC": "true"}


class Everything(logging.Handler):
    """Keeps all that anybody logs, with every attribute."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.text: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self.text.append(f"{record.name} {record.getMessage()} {vars(record)!r}")


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[QdrantServer, QdrantServer]]:
    """Give two servers with keys of their own, of which the first takes tokens."""
    with TakesTokens.start(api_key=KEY) as one, QdrantServer.start(api_key=TARGET_KEY) as other:
        yield one, other


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """Give all that is logged, by whomever, down to what is for debugging only."""
    handler, root = Everything(), logging.getLogger()
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler.text
    root.removeHandler(handler)
    root.setLevel(before)


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """Give what keeps spans; a provider may be there already."""
    found = InMemorySpanExporter()
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):
        provider = TracerProvider()
        trace.set_tracer_provider(provider)
    provider.add_span_processor(SimpleSpanProcessor(found))
    yield found
    found.shutdown()


def leaked(text: str) -> list[str]:
    """Return the secrets in a text."""
    return [secret for secret in SECRETS if secret in text]


def told(error: BaseException) -> str:
    """Return all that an error and its causes show, fields included."""
    shown = ["".join(traceback.format_exception(error))]
    link: BaseException | None = error
    while link is not None:
        shown += [repr(link), str(link), repr(getattr(link, "fields", "")), repr(vars(link))]
        link = link.__cause__ or link.__context__
    return "\n".join(shown)


def failing(act: Callable[[], Any]) -> str:
    """Return what the error that something must end in shows."""
    try:
        act()
    except Exception as error:  # noqa: BLE001  whatever it is, it must not tell
        return told(error)
    raise AssertionError("it did not fail")


def records(server: QdrantServer) -> str:
    """Return every record and journal entry there is, with the names of all collections and aliases."""
    with contextlib.closing(QdrantClient(url=server.url, api_key=KEY, check_compatibility=False)) as client:
        names = [c.name for c in client.get_collections().collections]
        found: list[Any] = [names, client.get_aliases()]
        found += [client.scroll(n, limit=10_000, with_payload=True) for n in names if n.startswith(CONTROL_COLLECTION)]
        return repr(found)


@pytest.mark.parametrize(("credential", "source"), [(KEY, "kept-by-key"), (JWT, "kept-by-token")], ids=["key", "jwt"])
def test_migration_between_two_servers_tells_no_secret(
    credential: str,
    source: str,
    servers: tuple[QdrantServer, QdrantServer],
    logged: list[str],
    spans: InMemorySpanExporter,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """From start to cleanup with every kind of output on, and with calls that fail on the way."""
    one, other = servers
    target = f"{source}-2"
    with contextlib.closing(QdrantClient(url=one.url, api_key=KEY, check_compatibility=False)) as plain:
        plain.create_collection(source, vectors_config=models.VectorParams(size=2, distance=models.Distance.DOT))
        plain.upsert(source, [models.PointStruct(id=i, vector=[i, 1]) for i in range(300)], wait=True)
    common = [
        "--url", one.url, "--grpc-port", str(one.grpc_port), "--api-key", credential,
        "--target-url", other.url, "--target-grpc-port", str(other.grpc_port), "--target-api-key", TARGET_KEY,
        "--log-format", "json",
    ]  # fmt: skip
    options = FerryOptions(target_api_key=TARGET_KEY, metrics=True, heartbeat_s=0.2)
    arguments: dict[str, Any] = {"url": one.url, "api_key": credential, "check_compatibility": False, "ferry": options}
    connection = Connection(
        url=one.url,
        api_key=credential,
        target_url=other.url,
        target_api_key=TARGET_KEY,
        grpc_port=one.grpc_port,
        target_grpc_port=other.grpc_port,
    )
    shown: list[str] = [repr(options), repr(connection)]
    client = FerryClient(**arguments)

    def use() -> None:
        client.upsert(source, [models.PointStruct(id=1, vector=[5, 5])])
        client.count(source)
        shown.append(failing(lambda: client.upsert(source, [models.PointStruct(id=1, vector=[1])])))

    async def use_async() -> None:
        asynchronous = AsyncFerryClient(**arguments)
        await asynchronous.upsert(source, [models.PointStruct(id=2, vector=[5, 5])])
        await asynchronous.count(source)
        shown.append(repr(asynchronous))
        await asynchronous.close()

    with serving(connection, "127.0.0.1", 0) as metrics, contextlib.closing(client):

        def scrape() -> None:
            with urllib.request.urlopen(f"http://127.0.0.1:{metrics.port}/metrics", timeout=30) as answer:
                shown.append(answer.read().decode())
            shown.append(generate_latest(REGISTRY).decode())

        def run(*verb: str, code: int = 0) -> None:
            assert main([*verb, *common]) == code, verb
            use()
            scrape()
            shown.append(records(one))

        use()
        run("plan", source, target)
        run("start", source, target, "--strategy", "snapshot")
        run("switch", source, "--percent", "5", code=1)
        run("backfill", source)
        run("verify", source, "--json")
        anyio.run(use_async)
        run("switch", source, "--percent", "100")
        run("doctor", source)
        run("status", source, "--json")
        run("finish", source, "--yes", "--safety-days", "0")
        run("history", source)
        shown.append(repr(client))
        shown.append(failing(lambda: commands.start(connection, source, target)))
        run("cleanup", source, "--confirm", source)
    said = capfd.readouterr()
    shown += [said.out, said.err, *logged]
    shown += [f"{span.to_json()}{span.events}{span.status.description}" for span in spans.get_finished_spans()]
    assert spans.get_finished_spans()
    assert any("history" in line for line in logged)
    assert [leak for text in shown for leak in leaked(text)] == []
    with contextlib.closing(QdrantClient(url=other.url, api_key=TARGET_KEY, check_compatibility=False)) as plain:
        plain.delete_collection(target)


def test_wrong_key_is_refused_without_being_told(
    servers: tuple[QdrantServer, QdrantServer], logged: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    """By every verb, by both clients, by the exporter, by REST and by gRPC."""
    one, _ = servers
    shown: list[str] = []
    where = ["--url", one.url, "--grpc-port", str(one.grpc_port), "--api-key", WRONG]
    for verb in (["plan"], ["start", SOURCE, TARGET], ["status"], ["doctor"], ["backfill"], ["rollback"], ["history"]):
        for extra in ([], ["--json"], ["--log-format", "json"]):
            assert main([*verb, *where, *extra]) == 1
    connection = Connection(url=one.url, api_key=WRONG, grpc_port=one.grpc_port)
    shown.append(failing(lambda: commands.status(connection)))
    shown.append(failing(lambda: connection.channel("").sees(SOURCE)))
    for grpc in (False, True):
        arguments: dict[str, Any] = {
            "url": one.url,
            "grpc_port": one.grpc_port,
            "prefer_grpc": grpc,
            "api_key": WRONG,
            "check_compatibility": False,
            "ferry": FerryOptions(target_api_key=TARGET_KEY),
        }
        with contextlib.closing(FerryClient(**arguments)) as client:
            shown.append(failing(lambda client=client: client.count(SOURCE)))  # type: ignore[misc]

        async def count(arguments: dict[str, Any] = arguments) -> None:
            client = AsyncFerryClient(**arguments)
            try:
                await client.count(SOURCE)
            finally:
                await client.close()

        shown.append(failing(lambda count=count: anyio.run(count)))  # type: ignore[misc]
    with serving(connection, "127.0.0.1", 0) as metrics:
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics.port}/metrics", timeout=30) as answer:
            shown.append(answer.read().decode())
        assert "qferry_up 0.0" in shown[-1]
    said = capfd.readouterr()
    assert [leak for text in (*shown, said.out, said.err, *logged) for leak in leaked(text)] == []


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{PASSWORD}@127.0.0.1:9",
        f"user:{PASSWORD}@127.0.0.1:9",
        f"http://127.0.0.1:9/?api-key={PASSWORD}",
        f"http://127.0.0.1:9/#{PASSWORD}",
        f"http://{PASSWORD}@[::1:9",
    ],
)
@pytest.mark.parametrize("option", ["--url", "--target-url"])
def test_url_with_a_secret_is_refused_without_being_told(
    url: str, option: str, capfd: pytest.CaptureFixture[str], logged: list[str]
) -> None:
    """It would be kept in records, and the server ignores it: exit code 2, and by the library's own check."""
    for extra in ([], ["--json"], ["--log-format", "json"]):
        assert main(["start", SOURCE, TARGET, option, url, *extra]) == 2
    said = capfd.readouterr()
    assert PASSWORD not in said.out + said.err + "".join(logged)
    given = {"url": url} if option == "--url" else {"url": "http://127.0.0.1:9", "target_url": url}
    with pytest.raises((Misuse, ValueError)) as raised:
        Connection(**given)  # type: ignore[arg-type]
    assert PASSWORD not in told(raised.value)


def test_url_with_a_password_is_not_told_by_a_client(logged: list[str]) -> None:
    """Upstream ignores it; nothing of it comes back in errors, log or records."""
    client = FerryClient(url=f"http://user:{PASSWORD}@127.0.0.1:9", api_key=KEY, check_compatibility=False)
    shown = failing(lambda: client.count(SOURCE))
    client.close()
    assert leaked(shown + repr(client) + "".join(logged)) == []


def test_these_tests_would_notice() -> None:
    """A secret in an error's cause, in its fields, or in a log record's attribute is found."""
    error = FerryError("no", field=KEY)
    assert leaked(told(error)) == [KEY]
    error = FerryError("no")
    error.__cause__ = ValueError(WRONG)
    assert leaked(told(error)) == [WRONG]
    handler = Everything()
    handler.emit(logging.makeLogRecord({"msg": "x", "extra_fact": JWT}))
    assert JWT in leaked("".join(handler.text))
