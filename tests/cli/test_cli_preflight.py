"""What `qferry plan` finds out beforehand, held against real servers; and that it changes nothing there."""

import base64
import hashlib
import hmac
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest
from qdrant_client import QdrantClient, models

from qferry import FerryClient, FerryOptions, commands
from qferry.connection import Connection
from qferry.control import wire
from qferry.errors import Rejected, RemoteFailure, Unreachable
from qferry.flows.effects import Flow, Request
from qferry.preflight import gates, rights, sample
from qferry.preflight.gates import Line
from qferry.preflight.report import Estimate, Key, Limit, Machine, Server, Size
from qferry.protocol.records import CONTROL_COLLECTION
from qferry.server import QdrantServer

# The servers are on this machine.
pytestmark = pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection:UserWarning")
MANAGE, READ = "key-that-manages-0123456789", "key-that-reads-0123456789"
HELD = "held"
GIB = 1 << 30
NOTHING = "nothing-of-this-name"


def jwt(access: Any, **claims: Any) -> str:
    """Sign a token as the server's owner would."""

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    header, body = json.dumps({"alg": "HS256", "typ": "JWT"}), json.dumps({"access": access, **claims})
    signed = f"{part(header.encode())}.{part(body.encode())}"
    return f"{signed}.{part(hmac.new(MANAGE.encode(), signed.encode(), hashlib.sha256).digest())}"


def scoped(mode: str) -> str:
    """Give a token for one collection and the records."""
    return jwt([{"collection": name, "access": mode} for name in (HELD, CONTROL_COLLECTION)])


KEYS = {
    "API key": MANAGE,
    "read-only key": READ,
    "JWT m": jwt("m"),
    "JWT r": jwt("r"),
    "JWT rw": scoped("rw"),
    "JWT prw": scoped("prw"),
    "JWT r of a collection": scoped("r"),
    "JWT of nothing": jwt([]),
}


@pytest.fixture(scope="module")
def guarded() -> Iterator[QdrantServer]:
    """Give a server that asks for keys and takes tokens, with a collection, an alias, and one for the records."""
    settings = {"QDRANT__SERVICE__READ_ONLY_API_KEY": READ, "QDRANT__SERVICE__JWT_RBAC": "true"}
    with QdrantServer.start(api_key=MANAGE, settings=settings) as server:
        with closing(QdrantClient(url=server.url, api_key=MANAGE, check_compatibility=False)) as client:
            for name in (HELD, CONTROL_COLLECTION):
                client.create_collection(name, models.VectorParams(size=4, distance=models.Distance.COSINE))
                client.upsert(name, [models.PointStruct(id=i, vector=[i, 1, 2, 3], payload={}) for i in range(9)])
            alias = models.CreateAlias(alias_name="live", collection_name=HELD)
            client.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])
        yield server


def state(server: QdrantServer, key: str | None = MANAGE) -> tuple[Any, ...]:
    """Everything a server holds, and how many writes it has ever logged, but for those of this function."""
    with closing(QdrantClient(url=server.url, api_key=key, check_compatibility=False)) as client:
        names = sorted(c.name for c in client.get_collections().collections)
        aliases = sorted((a.alias_name, a.collection_name) for a in client.get_aliases().aliases)
        points = {name: client.scroll(name, limit=10_000, with_vectors=True)[0] for name in names}
        configured = {name: client.get_collection(name).config for name in names}
        snapshots = {name: client.list_snapshots(name) for name in names}
        logged = {}
        for name in names:
            # Each write has the next number of its log; this one deletes nothing.
            number = client.delete(name, models.PointIdsList(points=[424242])).operation_id
            assert number is not None
            logged[name] = number - _numbered[server.url, name]
            _numbered[server.url, name] += 1
    return names, aliases, points, configured, snapshots, logged


_numbered: Counter[tuple[str, str]] = Counter()


Plan = Callable[..., Any]


@pytest.fixture
def plan(qferry: Any, guarded: QdrantServer, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Give `qferry plan` with a key of one's choice on the guarded server: it must not print it, and change nothing."""
    monkeypatch.setenv("QDRANT_URL", guarded.url)
    monkeypatch.setenv("QDRANT_GRPC_PORT", str(guarded.grpc_port))

    def call(key: str, *arguments: str) -> Any:
        monkeypatch.setenv("QDRANT_API_KEY", key)
        before = state(guarded)
        found = qferry("plan", HELD, "held-2", *arguments)
        assert state(guarded) == before
        assert key not in found.stdout + found.stderr
        return found

    return call


def granted(found: Any) -> dict[str, str]:
    """What a plan says the key allows."""
    return {right["right"]: right["granted"] for right in found.json["preflight"]["rights"]}


@pytest.mark.parametrize("name", ["API key", "JWT m"])
def test_key_that_manages_has_every_right(plan: Plan, name: str) -> None:
    """Nothing is lacking, and nobody is warned."""
    found = plan(KEYS[name], "--json", "--strategy", "snapshot")
    assert set(granted(found).values()) == {"yes"}, granted(found)
    assert {"create and delete collections", "change aliases", "restore a snapshot", "telemetry"} <= granted(
        found
    ).keys()
    assert found.json["preflight"]["warnings"] == []
    (key,) = found.json["preflight"]["keys"]
    assert key["given"] is True
    assert (key["token"] or {}).get("access") == (None if name == "API key" else "to manage everything")
    text = plan(KEYS[name]).stdout
    assert "✓  source  create and delete collections" in text


@pytest.mark.parametrize("name", ["read-only key", "JWT r"])
def test_key_that_only_reads_is_told_what_it_lacks(plan: Plan, name: str) -> None:
    """The plan is made all the same, and says which command will fail for want of which right."""
    found = plan(KEYS[name], "--json")
    assert found.exit_code == 0
    assert granted(found) == {
        f"read `{HELD}`": "yes",
        "create and delete collections": "no",
        "change aliases": "no",
        "write `_qferry` and journal": "no",
        f"snapshots of `{HELD}`": "no",
        "telemetry": "yes",
    }
    (warning,) = found.json["preflight"]["warnings"]
    assert "may not: create and delete collections, change aliases" in warning
    assert "`qferry start` will be refused" in warning
    assert "✗  source  change aliases" in plan(KEYS[name]).stdout


@pytest.mark.parametrize("name", ["JWT rw", "JWT prw", "JWT r of a collection", "JWT of nothing"])
def test_token_for_single_collections_is_refused_in_plain_words(plan: Plan, name: str) -> None:
    """It may not even ask whether the server is a cluster; the message says what the token says of itself."""
    error = plan(KEYS[name], "--json").json["error"]
    assert error["type"] == "Rejected"
    assert "403" in error["message"]
    mode = {"JWT rw": "rw", "JWT prw": "prw", "JWT r of a collection": "r"}.get(name)
    says = f"only `{HELD}` ({mode}), `_qferry` ({mode})" if mode else "nothing"
    assert f"says of itself that it allows: {says}. A migration needs one with access `m`" in error["hint"]
    assert plan(KEYS[name]).exit_code == 1


def test_expired_token_is_called_expired(plan: Plan) -> None:
    """With the moment at which it did; the server allows half a minute."""
    refused = plan(jwt("m", exp=946684800))
    assert refused.exit_code == 1
    assert "The key is a JWT that expired at 2000-01-01T00:00:00Z: use a new one." in refused.stderr


def test_token_that_will_expire_too_soon_is_told_with_the_end(plan: Plan) -> None:
    """A migration takes longer than it lives; one that lives long enough is only shown."""
    soon, late = int(time.time()) + 900, int(time.time()) + 90_000
    (warning,) = plan(jwt("m", exp=soon), "--json").json["preflight"]["warnings"]
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(soon))
    assert f"The JWT for the source's server expires at {moment}." in warning
    found = plan(jwt("m", exp=late), "--json").json["preflight"]
    assert found["warnings"] == []
    assert found["keys"][0]["token"]["expires_at"] == time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(late))


def test_token_that_hangs_on_a_point_is_told(plan: Plan) -> None:
    """When the point goes, so does the key."""
    tied = {"collection": HELD, "matches": [{"key": "secret-field", "value": "secret-value"}]}
    refused = plan(jwt("m", value_exists=tied))
    assert refused.exit_code == 1  # no point has that value
    assert "secret-value" not in refused.stdout + refused.stderr
    token = rights.token_of(jwt("m", value_exists=tied))
    assert token is not None
    assert token.condition == f"valid while `{HELD}` has a certain point"
    told = list(rights.warnings((), {"": Key("source", True, token)}, "2026-01-01T00:00:00Z", 0))
    assert len(told) == 1
    assert "every command fails" in told[0]


@pytest.mark.parametrize(
    ("key", "status", "words"),
    [
        ("wrong-key", 401, "Invalid API key or JWT"),
        ("a.b.c", 401, "Invalid API key or JWT"),
        (jwt("m")[:-5] + "AAAAA", 403, "InvalidSignature"),
    ],
)
def test_wrong_key_is_refused(plan: Plan, key: str, status: int, words: str) -> None:
    """As before, with exit code 1 and one sentence."""
    refused = plan(key)
    assert refused.exit_code == 1
    note, told = refused.stderr.splitlines()
    assert "travels unencrypted" in note
    assert told.startswith(f"The server answered {status} to GET /cluster: {words}. ")
    assert ("signed with another key than the server's" in told) == (status == 403)
    assert refused.stdout == ""


def test_unguarded_server_needs_no_key(qferry: Any, source: str) -> None:
    """No key was given, and everything is allowed."""
    found = qferry("plan", source, "--json")
    assert found.json["preflight"]["keys"] == [{"side": "source", "given": False, "token": None}]
    assert set(granted(found).values()) == {"yes"}


def asked(server: QdrantServer, key: str, question: Any) -> str:
    """Ask with a key."""

    def flow() -> Flow[str]:
        return (yield from rights._may(question))

    connection = Connection(url=server.url, api_key=key)
    with connection.driver() as driver:
        return driver.run(flow())


@pytest.mark.parametrize("name", KEYS)
def test_question_is_answered_as_the_real_request_would_be(guarded: QdrantServer, name: str) -> None:
    """What a key is told it may, it may; what it is told it may not, is forbidden; asking changes nothing."""
    key = KEYS[name]

    def may(method: str, path: str, body: Any = None) -> str:
        answer = httpx.request(method, f"{guarded.url}{path}", headers={"api-key": key}, json=body, timeout=60)
        assert answer.status_code in (200, 403), answer.text
        return "yes" if answer.status_code == 200 else "no"

    before = state(guarded)
    manages = asked(guarded, key, wire.ask_to_manage("", NOTHING))
    writes = asked(guarded, key, wire.ask_to_write("", CONTROL_COLLECTION, NOTHING))
    takes = asked(guarded, key, wire.ask_for_snapshots("", HELD, NOTHING))
    assert state(guarded) == before

    alias = {"create_alias": {"alias_name": "another", "collection_name": HELD}}
    assert may("PUT", f"/collections/{NOTHING}", {}) == manages
    assert may("POST", "/collections/aliases", {"actions": [alias]}) == manages
    assert may("POST", "/collections/aliases", {"actions": [{"delete_alias": {"alias_name": "another"}}]}) == manages
    assert may("DELETE", f"/collections/{NOTHING}") == manages
    as_it_is = {"points": [{"id": 0, "vector": [0, 1, 2, 3], "payload": {}}]}
    throwaway = f"/collections/{CONTROL_COLLECTION}/points?wait=true"
    assert takes == ("yes" if name in ("API key", "JWT m", "JWT rw") else "no")
    assert writes == ("yes" if name in ("API key", "JWT m", "JWT rw", "JWT prw") else "no")
    if writes == "no":  # a write that is allowed would be in the log
        assert may("PUT", throwaway, as_it_is) == "no"
    if takes == "no":
        assert may("POST", f"/collections/{HELD}/snapshots") == "no"


@pytest.mark.parametrize(
    ("answer", "granted"),
    [
        (Rejected("", status=400), "yes"),
        (Rejected("", status=404), "yes"),
        (Rejected("", status=405), "yes"),  # a single node of 1.19, asked for what a cluster can
        (Rejected("", status=401), "no"),
        (Rejected("", status=403), "no"),
        (Rejected("", status=429), "unknown"),
        (Rejected("", status=500), "unknown"),
        (Unreachable(""), "unknown"),
    ],
)
def test_answer_that_decides_nothing_is_no_right(answer: RemoteFailure, granted: str) -> None:
    """Only a failure for want of what was named says that the key would have been enough."""
    asking = rights._may(wire.ask_to_manage("", NOTHING))
    next(asking)
    with pytest.raises(StopIteration) as end:
        asking.throw(answer)
    assert end.value.value == granted


def test_allowed_write_and_snapshot_succeed(fresh_qdrant: QdrantServer) -> None:
    """The other half: where the question is answered with yes, the request itself goes through."""
    with closing(QdrantClient(url=fresh_qdrant.url, check_compatibility=False)) as client:
        client.create_collection(HELD, models.VectorParams(size=4, distance=models.Distance.COSINE))
        assert asked(fresh_qdrant, "", wire.ask_for_snapshots("", HELD, NOTHING)) == "yes"
        before = state(fresh_qdrant, None)
        assert asked(fresh_qdrant, "", wire.ask_to_write("", HELD, NOTHING)) == "yes"
        assert state(fresh_qdrant, None) == before
        client.delete(HELD, models.PointIdsList(points=[7]))
        assert state(fresh_qdrant, None) != before  # a write that changes no point is seen all the same
        client.upsert(HELD, [models.PointStruct(id=1, vector=[1, 2, 3, 4])])
        assert client.create_snapshot(HELD) is not None


def test_server_that_does_not_answer_is_named(qferry: Any, source: str, fresh_qdrant: QdrantServer) -> None:
    """Whichever of the two it is; nothing is left behind on the other."""
    fresh_qdrant.kill()
    down = qferry("plan", source, "--url", fresh_qdrant.url)
    assert (down.exit_code, down.stdout) == (1, "")
    assert down.stderr.startswith("The server gave no answer to GET /")
    down = qferry("plan", source, "--target-url", fresh_qdrant.url, "--json")
    assert down.exit_code == 1
    assert down.json["error"]["message"].startswith("The target's server gave no answer to GET /")


def test_both_servers_are_looked_at(qferry: Any, source: str, client: QdrantClient, guarded: QdrantServer) -> None:
    """Rights, ports and machine of the target's server are its own, and its aliases stay behind."""
    alias = models.CreateAlias(alias_name=f"{source}-live", collection_name=source)
    client.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])
    before = state(guarded)
    there = ("--target-url", guarded.url, "--target-grpc-port", str(guarded.grpc_port))
    found = qferry("plan", source, *there, "--target-api-key", READ, "--json").json["preflight"]
    assert state(guarded) == before
    assert [server["side"] for server in found["servers"]] == ["source", "target"]
    lacking = [(right["side"], right["right"]) for right in found["rights"] if right["granted"] != "yes"]
    assert {side for side, _ in lacking} == {"target"}
    assert ("target", "create and delete collections") in lacking
    assert found["aliases"][0]["name"] == f"{source}-live"
    assert f"stays with `{source}`" in found["aliases"][0]["at_finish"]
    assert [key["given"] for key in found["keys"]] == [False, True]
    by_grpc = {gate["gate"]: gate["decision"] for gate in found["gates"] if "gRPC" in gate["gate"]}
    assert by_grpc == {"pages by gRPC, source": "gRPC", "pages by gRPC, target": "gRPC"}
    by_rest = qferry("plan", source, *there[:2], "--target-grpc-port", "0", "--target-api-key", MANAGE, "--json")
    assert by_rest.json["preflight"]["sample"]["way"] == "REST"
    assert all(
        gate["decision"].startswith("REST") for gate in by_rest.json["preflight"]["gates"] if "gRPC" in gate["gate"]
    )


def test_gates_say_what_they_decide_and_why(qferry: Any, source: str, client: QdrantClient) -> None:
    """In the text and in the JSON; a port where nothing listens is told."""
    found = qferry("plan", source, "--strategy", "auto", "--json").json
    version = client.info().version
    decided = {gate["gate"]: (gate["decision"], gate["because"]) for gate in found["preflight"]["gates"]}
    assert decided["snapshot or stream"] == (found["strategy"], found["because"])
    assert decided["version of the servers"] == ("accepted", f"{version}; 1.14 or newer is needed")
    assert decided["pages by gRPC, source"][0] == "gRPC"
    text = qferry("plan", source).stdout
    assert "What each gate decides" in text
    assert "answer `wait_timeout`" in text
    alone = qferry("plan", source, "--grpc-port", "1", "--json").json["preflight"]
    (gate,) = [gate for gate in alone["gates"] if "gRPC" in gate["gate"]]
    assert (gate["decision"], gate["because"]) == (
        "REST, several times slower",
        "no server that has the source answers at port 1",
    )
    assert alone["sample"]["way"] == "REST"


@pytest.mark.parametrize(
    ("version", "late", "waits"),
    [
        ("1.16.3", "does not come", "green"),
        ("1.17.1", "does not come", "green and an empty queue"),
        ("1.18.0", "counts as no answer", "green, an empty queue and no deferred points"),
    ],
)
def test_gates_of_later_servers(version: str, late: str, waits: str) -> None:
    """They go by the target's version."""
    planned = _planned()
    servers = (Server("source", "1.16.3", (), ""), Server("target", version, (), ""))
    found = gates.gates(planned, servers, {"source": Line(6334, answers=True)}, fetched=True)
    decided = {gate.gate: gate.decision for gate in found}
    assert decided["answer `wait_timeout`"] == late
    assert decided["switch waits for"] == waits
    assert decided["versions of the proof for snapshots"] == ("within" if version == "1.16.3" else "outside")


def test_limits_that_forbid_are_told_all_at_once(qferry: Any, source: str, client: QdrantClient) -> None:
    """And so is one that the server itself would only have told by refusing to count."""
    strict = {"enabled": True, "max_query_limit": 10, "condition_max_size": 5, "search_allow_exact": False}
    client.update_collection(source, strict_mode_config=models.StrictModeConfig(**strict))
    refused = qferry("plan", source, "--json")
    assert refused.exit_code == 1
    error = refused.json["error"]
    assert error["type"] == "Refused"
    for told in (
        f"The strict mode of `{source}` sets max_query_limit to 10, and a migration needs 2000",
        "it sets condition_max_size to 5, and a migration needs 1000",
        "it sets search_allow_exact to false, and a migration counts exactly.",
    ):
        assert told in error["message"]
    assert error["hint"] == "Lift these limits while the migration lasts."


def test_limits_that_would_hit_later_are_warned_of(qferry: Any, source: str, client: QdrantClient) -> None:
    """Rates, and what the target would not take; those that are wide enough are passed over."""
    strict = {"enabled": True, "read_rate_limit": 10_000, "write_rate_limit": 500, "max_points_count": 1_000_000}
    client.update_collection(source, strict_mode_config=models.StrictModeConfig(**strict))
    found = qferry("plan", source, "--json", "--set", "strict_mode_config.upsert_max_batchsize=7").json["preflight"]
    assert {(limit["side"], limit["name"], limit["value"]) for limit in found["limits"]} == {
        ("source", "read_rate_limit", 10_000),
        ("target", "read_rate_limit", 10_000),
        ("target", "write_rate_limit", 500),
        ("target", "upsert_max_batchsize", 7),
    }
    assert "! The target's limit write_rate_limit is 500" in qferry("plan", source).stdout
    over = "strict_mode_config.max_points_count=100"
    (limit,) = [
        limit
        for limit in qferry("plan", source, "--json", "--set", over).json["preflight"]["limits"]
        if limit["name"] == "max_points_count"
    ]
    assert "the source has about 120 points" in limit["effect"]


def test_server_that_takes_no_more_collections_is_told(qferry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records, journal and target are three; the limit is the server's, and it says so in its telemetry."""
    with QdrantServer.start(settings={"QDRANT__STORAGE__MAX_COLLECTIONS": "3"}) as server:
        monkeypatch.setenv("QDRANT_URL", server.url)
        with closing(QdrantClient(url=server.url, check_compatibility=False)) as client:
            client.create_collection(HELD, {})
        (limit,) = qferry("plan", HELD, "held-2", "--json").json["preflight"]["limits"]
        assert limit == {
            "side": "source",
            "name": "max_collections",
            "value": 3,
            "effect": "there are 1, and `qferry start` makes 3 more",
        }
        assert [*gates.room_for_collections("target", {"collections": {"number_of_collections": 9}}, 3)] == []
        assert [*gates.room_for_collections("target", Unreachable("down"), 3)] == []
        told = {"collections": {"number_of_collections": 2, "max_collections": 3}}
        assert [*gates.room_for_collections("target", told, 1)] == []


def test_token_for_the_target_s_server_is_explained_too(qferry: Any, source: str, guarded: QdrantServer) -> None:
    """It is that key's fault, not the other's."""
    old = jwt("m", exp=946684800)
    refused = qferry("plan", source, "--target-url", guarded.url, "--target-api-key", old)
    assert refused.exit_code == 1
    assert "The target's server answered 403 to GET /cluster: ExpiredSignature." in refused.stderr
    assert "expired at 2000-01-01T00:00:00Z" in refused.stderr
    assert old not in refused.stderr


def test_nodes_whose_version_nobody_tells_are_told() -> None:
    """Nothing is made up for them."""
    looking = gates.server("target", "http://there:1")
    answers = {
        "version": {"title": "qdrant", "version": "1.16.3"},
        "cluster": {"status": "enabled", "peers": {"1": {"uri": "http://a:1"}, "2": {"uri": "http://b:1"}}},
        "telemetry": {"cluster": {"peer_metadata": {"1": {"version": "1.16.2"}}}},
    }

    def answered() -> Server:
        """Carry the flow out with these answers."""
        question = next(looking)
        while True:
            assert isinstance(question, Request)
            try:
                question = looking.send(answers[question.op])
            except StopIteration as end:
                result: Server = end.value
                return result

    found = answered()
    assert [(peer.uri, peer.version) for peer in found.peers] == [("http://a:1", "1.16.2"), ("http://b:1", "")]
    assert found.note.startswith("The version of 1 of 2 nodes is not known to the node that was asked.")


def test_rate_that_is_used_up_ends_no_plan_in_a_traceback(qferry: Any, source: str, client: QdrantClient) -> None:
    """A server that lets nothing be read any more is told, in one sentence or as a plan without a size."""
    config = models.StrictModeConfig(enabled=True, read_rate_limit=1)
    client.update_collection(source, strict_mode_config=config)
    found = qferry("plan", source)
    assert "Traceback" not in found.stderr
    assert found.exit_code in (0, 1)
    assert ("could not be read" in found.stdout) if found.exit_code == 0 else ("limit" in found.stderr)


def test_size_and_sample_are_those_of_the_points(qferry: Any, client: QdrantClient, collection_name: str) -> None:
    """Named, sparse and multivectors are counted, and the estimate is exact where all points are alike."""
    client.create_collection(
        collection_name,
        {
            "a": models.VectorParams(size=8, distance=models.Distance.DOT),
            "half": models.VectorParams(size=8, distance=models.Distance.DOT, datatype=models.Datatype.FLOAT16),
            "many": models.VectorParams(
                size=2,
                distance=models.Distance.DOT,
                multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
            ),
        },
        sparse_vectors_config={"s": models.SparseVectorParams()},
        replication_factor=2,  # which a single node does not heed
    )
    vector: dict[str, Any] = {
        "a": [1.0] * 8,
        "half": [0.5] * 8,
        "many": [[1.0, 2.0], [3.0, 4.0]],
        "s": models.SparseVector(indices=[1, 2, 3], values=[1.0, 2.0, 3.0]),
    }
    total = 2_500
    points = [models.PointStruct(id=i, vector=vector, payload={"k": "v"}) for i in range(total)]
    client.upsert(collection_name, points, wait=True)
    found = qferry("plan", collection_name, f"{collection_name}-2", "--json").json["preflight"]
    assert found["size"] == {
        "points": total,
        "vectors": 4 * total,
        "vector_bytes": (8 * 4 + 8 * 2 + 4 * 4 + 3 * 8) * total,
        "payload_bytes": len('{"k":"v"}') * total,
    }
    read = found["sample"]
    assert read["way"] == "gRPC"
    assert 0 < read["points"] <= sample.SAMPLE_POINTS
    assert read["points_per_s"] > 0
    assert found["estimate"]["room_bytes"] == found["size"]["vector_bytes"] + found["size"]["payload_bytes"]
    assert found["estimate"]["copy_s"] == found["estimate"]["verify_s"]
    assert found["estimate"]["copy_s"] == pytest.approx(total / read["points_per_s"])
    assert "building vector and payload indexes" in found["estimate"]["leaves_out"]
    assert found["machine"]["memory_bytes"] > found["machine"]["memory_used_bytes"] > 0
    assert "how much of its disk is free" in found["machine"]["note"]
    by_snapshot = qferry("plan", collection_name, f"{collection_name}-2", "--strategy", "snapshot", "--json")
    assert by_snapshot.json["preflight"]["estimate"]["copy_s"] is None
    assert by_snapshot.json["preflight"]["estimate"]["room_bytes"] == 3 * found["estimate"]["room_bytes"]
    client.delete_collection(collection_name)


def test_empty_collection_takes_no_time(qferry: Any, client: QdrantClient, collection_name: str) -> None:
    """There is nothing to be sampled, and that is no error."""
    client.create_collection(collection_name, {})
    found = qferry("plan", collection_name, f"{collection_name}-2", "--json").json["preflight"]
    assert found["size"] == {"points": 0, "vectors": 0, "vector_bytes": 0, "payload_bytes": 0}
    assert (found["sample"], found["estimate"]["copy_s"]) == (None, 0)
    assert "there are no points" in qferry("plan", collection_name, f"{collection_name}-2").stdout
    client.delete_collection(collection_name)


@pytest.mark.parametrize("name", ["[red]ü 日本語", "a%2Fb#c&d", "-rf; $(x)", "..x.."])
def test_odd_names_are_names(qferry: Any, client: QdrantClient, collection_name: str, name: str) -> None:
    """They are quoted in URLs and shown as they are, in every part of the report."""
    odd = f"{name}{collection_name}"
    assert httpx.put(
        f"{client.http.client.host}{wire.collection_path(odd)}", json={"vectors": {"size": 2, "distance": "Dot"}}
    ).is_success
    try:
        found = qferry("plan", "--json", "--", odd, f"{odd}2")
        assert found.exit_code == 0, found
        assert found.json["source"] == odd
        assert granted(found)[f"snapshots of `{odd}`"] == "yes"
        assert f"read `{odd}`" in qferry("plan", "--", odd, f"{odd}2").stdout
    finally:
        httpx.delete(f"{client.http.client.host}{wire.collection_path(odd)}")


def test_aliases_are_told_with_what_becomes_of_them(
    qferry: Any, source: str, target: str, client: QdrantClient
) -> None:
    """On the same server they follow at finish."""
    alias = models.CreateAlias(alias_name=f"{source}-live", collection_name=source)
    client.update_collection_aliases([models.CreateAliasOperation(create_alias=alias)])
    found = qferry("plan", f"{source}-live", target, "--json").json["preflight"]
    assert found["aliases"] == [{"name": f"{source}-live", "at_finish": f"is moved to `{target}`"}]


def test_nobody_is_known_before_the_first_start(
    qferry: Any, fresh_qdrant: QdrantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And after it, the applications are known that use qferry, with what pins them; asking creates no records."""
    monkeypatch.setenv("QDRANT_URL", fresh_qdrant.url)
    monkeypatch.setenv("QDRANT_GRPC_PORT", str(fresh_qdrant.grpc_port))
    with closing(QdrantClient(url=fresh_qdrant.url, check_compatibility=False)) as client:
        client.create_collection(HELD, models.VectorParams(size=2, distance=models.Distance.DOT))
        client.create_collection("other", {})
    before = state(fresh_qdrant, None)
    found = qferry("plan", HELD, "held-2", "--json").json["preflight"]["connected"]
    assert (found["known"], found["writers"]) == (False, [])
    assert "Nobody can be known before the first `qferry start`" in found["note"]
    assert "write without qferry" in found["note"]
    assert state(fresh_qdrant, None) == before
    pinned = FerryOptions(dual_write=False, heartbeat_s=0.1)
    application = FerryClient(url=fresh_qdrant.url, ferry=pinned, check_compatibility=False)
    application.upsert(HELD, [models.PointStruct(id=1, vector=[1, 2])])
    commands.start(Connection(url=fresh_qdrant.url, grpc_port=fresh_qdrant.grpc_port), "other", "another")
    application.upsert(HELD, [models.PointStruct(id=2, vector=[1, 2])])
    found = qferry("plan", HELD, "held-2", "--json").json["preflight"]
    (writer,) = found["connected"]["writers"]
    assert writer["pins"] == "ENABLE_DUAL_WRITE=false"
    assert found["connected"]["known"] is True
    assert any("is pinned by ENABLE_DUAL_WRITE=false" in warning for warning in found["warnings"])
    assert f"{writer['host']}" in qferry("plan", HELD, "held-2").stdout
    application.close()


@pytest.mark.parametrize(
    ("vectors", "warned"),
    [
        (models.VectorParams(size=4, distance=models.Distance.COSINE, datatype=models.Datatype.FLOAT16), 1),
        (models.VectorParams(size=128, distance=models.Distance.COSINE, datatype=models.Datatype.FLOAT16), 0),
        (models.VectorParams(size=4, distance=models.Distance.EUCLID, datatype=models.Datatype.FLOAT16), 0),
        (models.VectorParams(size=4, distance=models.Distance.COSINE), 0),
    ],
)
def test_vectors_that_may_never_verify_are_warned_of(
    qferry: Any, client: QdrantClient, collection_name: str, vectors: models.VectorParams, warned: int
) -> None:
    """float16 under cosine in few dimensions, and nothing else."""
    for config in (vectors, {"named": vectors}):
        client.create_collection(collection_name, config)
        warnings = qferry("plan", collection_name, f"{collection_name}-2", "--json").json["preflight"]["warnings"]
        assert [("float16" in warning) for warning in warnings] == [True] * warned
        client.delete_collection(collection_name)


def _planned() -> Any:
    return commands.planning.Plan(
        source="a",
        target="b",
        points=1000,
        server_version="1.16.3",
        shards=1,
        indexes=(),
        aliases=(),
        asked_for="a",
        target_exists=False,
        strategy="stream",
        because="asked for",
        in_place=None,
        steps=(),
    )


def short(machine: Machine, *, in_memory: bool = True, beside: bool = False) -> list[str]:
    """What a machine is short of for 4 GiB of vectors and 1 GiB of payload."""
    found = Size(1000, 1000, 4 * GIB, GIB)
    least = Estimate(5 * GIB, 1.0, 1.0, "")
    return list(sample.short_of_room(machine, least, found, in_memory=in_memory, beside=beside))


def test_short_room_is_warned_of() -> None:
    """Disk that cannot be enough, and memory that may not; a disk that holds one side may not hold both."""
    assert short(Machine(16 * GIB, GIB, 100 * GIB, "")) == []
    (disk,) = short(Machine(16 * GIB, GIB, 4 * GIB, ""))
    assert "The disk of the target's server is too small: the target needs 5.0 GiB at the least" in disk
    assert short(Machine(16 * GIB, GIB, 9 * GIB, "")) == []
    (disk,) = short(Machine(16 * GIB, GIB, 9 * GIB, ""), beside=True)
    assert "source and target need 10.0 GiB" in disk
    (memory,) = short(Machine(4 * GIB, GIB, 100 * GIB, ""))
    assert "they take 4.0 GiB, and of 4.0 GiB its server leaves 3.0 GiB at the most" in memory
    assert short(Machine(4 * GIB, GIB, 100 * GIB, ""), in_memory=False) == []
    assert short(Machine(None, None, None, "")) == []


def test_machine_that_does_not_tell_is_said_not_to() -> None:
    """Whether the whole telemetry is forbidden, or a part of it is missing."""
    forbidden = sample.machine(Rejected("The server answered 403.", status=403))
    assert forbidden.note.startswith(
        "The server's telemetry could not be read: The server answered 403. No server tells"
    )
    assert (forbidden.memory_bytes, forbidden.disk_bytes) == (None, None)
    partly = sample.machine({"app": {"system": {"ram_size": 1024}}})
    assert (partly.memory_bytes, partly.memory_used_bytes, partly.disk_bytes) == (1 << 20, None, None)
    assert partly.note.startswith("The server does not tell: memory in use, disk.")


@pytest.mark.parametrize("key", ["", "a.b", "a.b.c", "eyJ.eyJ.x", "e30.W10.x", "....", "MQ.MQ.MQ"])
def test_key_that_is_no_token_is_a_key(key: str) -> None:
    """Whatever it looks like."""
    assert rights.token_of(key) is None


@pytest.mark.parametrize(
    ("claims", "expires_at"), [({"exp": 0}, "1970-01-01T00:00:00Z"), ({"exp": 1e300}, None), ({"exp": "soon"}, None)]
)
def test_token_with_odd_claims_is_read_as_far_as_it_can_be(claims: dict[str, Any], expires_at: str | None) -> None:
    """No claim that somebody has signed ends a plan."""
    token = rights.token_of(jwt("m", **claims))
    assert token is not None
    assert token.expires_at == expires_at
    for access in (None, 7, {"a": 1}, ["x"]):
        odd = rights.token_of(jwt(access))
        assert odd is not None
        assert odd.access in ("unknown", "nothing")


def test_limit_is_a_value_of_its_own() -> None:
    """A flag keeps its kind on the way to JSON."""
    info = {"config": {"params": {"vectors": {}}, "strict_mode_config": {"enabled": False}}}
    over = {"strict_mode_config": {"enabled": True, "search_allow_exact": False, "max_resident_memory_percent": 80}}
    found = list(gates.limits(_planned(), info, over, Size(0, 0, 0, 0)))
    assert [limit.value for limit in found] == [False, 80]
    assert all(isinstance(limit, Limit) for limit in found)
