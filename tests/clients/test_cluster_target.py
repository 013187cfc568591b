"""A single node's collection moves to a cluster of three nodes, each point in two copies, while nodes come and go."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from qdrant_client import QdrantClient, models
from staging import DIMENSIONS, FAST, contents, point

from qferry import FerryClient, commands
from qferry.connection import Connection
from qferry.control import records, wire
from qferry.drivers.blocking import BlockingDriver
from qferry.errors import FerryError, Refused, RemoteFailure
from qferry.flows import cluster
from qferry.flows import coordinator as coordinator_flow
from qferry.flows.cluster import on_cluster
from qferry.flows.coordinator import Coordinator, claim
from qferry.flows.effects import Report
from qferry.server import QdrantCluster, QdrantServer

pytestmark = pytest.mark.slow
SOURCE, TARGET = "one-node", "three-nodes"
POINTS = 200
TWO_COPIES = {"shard_number": 3, "replication_factor": 2}
ALL_COPIES = {"consistency": "all"}


@dataclass(frozen=True)
class Stage:
    """A source of its own, on a node of its own, and the cluster it moves to."""

    connection: Connection
    plain: QdrantClient
    nodes: list[QdrantServer]

    def ask(self, node: QdrantServer, method: str, path: str, body: Any = None, **params: str) -> Any:
        """Return what a node answers to a request about the target."""
        answer = httpx.request(method, f"{node.url}/collections/{path}", json=body, params=params, timeout=60)
        answer.raise_for_status()
        return answer.json()["result"]

    def held(self) -> tuple[dict[Any, Any], int]:
        """Return the points on which all copies agree, and the number of points where a copy may have more."""
        body = {"limit": 10_000, "with_payload": True, "with_vector": True}
        page = self.ask(self.nodes[0], "POST", f"{TARGET}/points/scroll", body, **ALL_COPIES)
        most = self.ask(self.nodes[0], "POST", f"{TARGET}/points/count", {"exact": True}, consistency="majority")
        return {p["id"]: (p["payload"], p["vector"]) for p in page["points"]}, most["count"]

    def followers(self) -> list[QdrantServer]:
        """Return the nodes that neither lead the cluster, so that it elects nobody anew, nor serve the commands."""
        views = [httpx.get(f"{node.url}/cluster").json()["result"] for node in self.nodes[1:]]
        return [n for n, v in zip(self.nodes[1:], views, strict=True) if v["peer_id"] != v["raft_info"]["leader"]]

    def begin(self, overrides: dict[str, Any]) -> None:
        """Let every client write to both."""
        commands.start(self.connection, SOURCE, TARGET, overrides=overrides)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare commands most of the wait for late updates; tests/flows/test_cluster.py holds them to its length."""
    monkeypatch.setattr(cluster, "LANDING_S", 2.0)
    monkeypatch.setattr(coordinator_flow, "LANDING_S", 2.0)


@pytest.fixture(scope="module")
def cluster_of_three() -> Iterator[QdrantCluster]:
    """Give a cluster for this module, whose tests leave it whole."""
    with QdrantCluster.start(3) as found:
        yield found


@pytest.fixture
def stage(fresh_qdrant: QdrantServer, cluster_of_three: QdrantCluster) -> Iterator[Stage]:
    """Give a small source and an empty cluster."""
    plain = QdrantClient(url=fresh_qdrant.url, check_compatibility=False, timeout=30)
    plain.create_collection(SOURCE, models.VectorParams(size=DIMENSIONS, distance=models.Distance.DOT))
    plain.upsert(SOURCE, [point(i, group=i % 6) for i in range(POINTS)])
    nodes = cluster_of_three.nodes
    connection = Connection(
        url=fresh_qdrant.url,
        target_url=nodes[0].url,
        grpc_port=fresh_qdrant.grpc_port,
        target_grpc_port=nodes[0].grpc_port,
    )
    yield Stage(connection, plain, nodes)
    plain.close()
    httpx.delete(f"{nodes[0].url}/collections/{TARGET}", timeout=60)


def only(point_id: int) -> models.Filter:
    """Return a filter for one point, which another application may just have deleted."""
    return models.Filter(must=[models.HasIdCondition(has_id=[point_id])])


@dataclass
class Application:
    """
    A thread that writes all the time, and repeats what failed until it is done.

    Attributes:
        acknowledged: The last value of each of its own points that a write returned success for; None: deleted.
    """

    url: str
    number: int
    acknowledged: dict[int, int | None] = field(default_factory=dict)
    failures: list[FerryError] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Write to points of its own, and to some that both applications share."""
        client = FerryClient(url=self.url, ferry=FAST, check_compatibility=False, timeout=30)
        count = 0
        while not self.stop.is_set():
            count += 1
            mine, shared = 1000 * self.number + count % 41, 500 + count % 11
            self.acknowledged.pop(mine, None)
            if self._persistently(lambda p=mine, n=count: self._write(client, p, n)):
                self.acknowledged[mine] = None if count % 5 == 0 else count
            self._persistently(lambda p=shared, n=count: self._write(client, p, n))
        client.close()

    def _write(self, client: FerryClient, point_id: int, count: int) -> None:
        if count % 5 == 0:
            client.delete(SOURCE, [point_id])
        elif count % 5 == 1:
            client.upsert(SOURCE, [point(point_id, by=self.number, at=count)])
            client.set_payload(SOURCE, {"at": count}, points=only(point_id))
        else:
            client.upsert(SOURCE, [point(point_id, by=self.number, at=count)])

    def _persistently(self, write: Callable[[], None]) -> bool:
        while not self.stop.is_set():
            try:
                write()
            except FerryError as error:
                self.failures.append(error)
            else:
                return True
        return False


@pytest.fixture
def applications(stage: Stage) -> Iterator[list[Application]]:
    """Give two applications at work; they are stopped in the end."""
    found = [Application(stage.connection.url, number) for number in (1, 2)]
    threads = [threading.Thread(target=application.run) for application in found]
    for thread in threads:
        thread.start()
    yield found
    for application in found:
        application.stop.set()
    for thread in threads:
        thread.join()


def until_done(command: Callable[[], Any]) -> Any:
    """Run a command, again while it says that a node is away."""
    while True:
        try:
            return command()
        except RemoteFailure:
            continue


def test_nothing_is_wrong_after_a_node_was_killed_and_another_stopped(
    stage: Stage, applications: list[Application]
) -> None:
    """Two applications write throughout; in the end every copy holds what the source holds, and all acknowledged."""
    stage.begin(TWO_COPIES)
    _, killed, stopped = stage.nodes
    back = threading.Thread(target=killed.restart)
    go_on = threading.Timer(8.0, stopped.resume)

    # Once the fence stands: a change of an alias at the moment a node dies stalls the server for 30 s (docs/adr/0009).
    def kill(report: Report) -> None:
        if report.stage == "copy" and back.ident is None:
            killed.kill()
            back.start()

    def stop(report: Report) -> None:
        if report.stage == "acknowledge" and go_on.ident is None:
            stopped.pause()
            go_on.start()

    until_done(lambda: commands.backfill(stage.connection, SOURCE, report=kill))
    back.join()
    assert until_done(lambda: commands.verify(stage.connection, SOURCE, repair=True, report=stop)).passed
    go_on.join()
    until_done(lambda: commands.switch(stage.connection, SOURCE, percent=100))
    for application in applications:
        application.stop.set()
    until_done(lambda: commands.finish(stage.connection, SOURCE))
    source = contents(stage.plain, SOURCE)
    target, most = stage.held()
    assert target == source
    assert most == len(source)
    for application in applications:
        values = {i: source[i][0]["at"] if i in source else None for i in application.acknowledged}
        assert values == application.acknowledged
        assert len(values) >= 40


@pytest.fixture
def driver(stage: Stage) -> Iterator[BlockingDriver]:
    """Give a coordinator's hands."""
    with stage.connection.driver() as found:
        yield found


def coordinator(driver: BlockingDriver) -> Coordinator:
    """Become the coordinator of the migration, whoever was."""
    (migration,) = driver.run(records.migrations())
    found: Coordinator = driver.run(claim(migration, "a test", at_once=True))
    return found


def test_fence_waits_for_a_stopped_node_and_then_holds_on_every_node(
    stage: Stage, driver: BlockingDriver, request: pytest.FixtureRequest
) -> None:
    """
    A write that a stopped node has in its socket lands through a dropped alias; no new fence stands before it has.

    The trace: a coordinator's repair is in the socket of a node that is stopped; another takes over and drops its
    fence, which the other two nodes agree to; the node goes on and carries the repair out, because it is behind.
    """
    stage.begin(TWO_COPIES)
    overtaken = coordinator(driver)
    driver.run(on_cluster(overtaken, overtaken.fenced()))
    stopped = stage.followers()[0]
    request.addfinalizer(stopped.resume)
    stopped.pause()
    body = {"points": [{"id": 7777, "vector": [1.0] * DIMENSIONS}]}
    late = threading.Thread(
        target=stage.ask, args=(stopped, "PUT", f"{overtaken.fence}/points", body), kwargs={"wait": "true"}
    )
    late.start()
    waits = threading.Event()

    def heard(report: Report) -> None:
        if report.text == "for 1 nodes of the target's cluster":
            waits.set()

    with stage.connection.driver(heard) as hands:
        successor = coordinator(hands)
        taking_over = threading.Thread(target=hands.run, args=(on_cluster(successor, successor.fenced()),))
        taking_over.start()
        assert waits.wait(60)
        assert taking_over.is_alive()
        stopped.resume()
        taking_over.join()
    late.join()
    assert stage.ask(stopped, "POST", f"{TARGET}/points", {"ids": [7777]}, **ALL_COPIES)
    for node in stage.nodes:
        with pytest.raises(httpx.HTTPStatusError, match="404"):
            stage.ask(node, "PUT", f"{overtaken.fence}/points", body, wait="true")


def test_fence_is_refused_in_words_while_a_node_is_gone(
    stage: Stage, driver: BlockingDriver, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """With a node that does not come back nothing is written, and the message says what to do."""
    stage.begin(TWO_COPIES)
    monkeypatch.setattr(cluster, "PATIENCE_S", 3.0)
    found = coordinator(driver)
    gone = stage.followers()[0]
    gone.kill()
    request.addfinalizer(gone.restart)
    with pytest.raises(RemoteFailure, match=r"1 of the nodes .* Bring them back, or remove them from the cluster"):
        driver.run(on_cluster(found, found.fenced()))
    with pytest.raises(RemoteFailure, match=r"one alone proves nothing: .* answered 500"):
        driver.run(on_cluster(found, one(wire.count(found.migration.target_url, TARGET))))


def one(asked: Any) -> Any:
    """Return a flow that makes one request."""
    return (yield asked)


def test_point_that_one_copy_alone_has_kept_is_found_and_removed(stage: Stage, applications: list[Application]) -> None:
    """A deleted point that a single copy still has is missed by consistent reads, and repaired all the same."""
    for application in applications:
        application.stop.set()
    stage.begin(TWO_COPIES)
    commands.backfill(stage.connection, SOURCE)
    node = stage.nodes[0]
    shard = next(s["shard_id"] for s in stage.ask(node, "GET", f"{TARGET}/cluster")["local_shards"])
    path = f"{TARGET}/shards/{shard}/snapshots"
    before = stage.held()
    snapshot = stage.ask(node, "POST", path, wait="true")
    client = FerryClient(url=stage.connection.url, ferry=FAST, check_compatibility=False, timeout=30)
    client.delete(SOURCE, list(before[0]))
    location = f"{node.url}/collections/{path}/{snapshot['name']}"
    stage.ask(node, "PUT", f"{path}/recover", {"location": location, "priority": "no_sync"}, wait="true")
    kept, most = stage.held()
    assert (len(kept), most > 0) == (0, True)
    found = commands.verify(stage.connection, SOURCE)
    assert found.passed
    assert stage.held() == ({}, 0)
    client.close()


def test_copies_must_be_counted_and_can_be_told_apart(stage: Stage) -> None:
    """Neither the source's own number nor three copies will do, and nothing was begun."""
    for overrides in ({}, {"replication_factor": 3}):
        with pytest.raises(Refused, match="a cluster of 3 nodes, and each point can have one copy there or two"):
            commands.plan(stage.connection, SOURCE, TARGET, overrides)
    assert commands.plan(stage.connection, SOURCE, TARGET, TWO_COPIES).shards == 3
    assert commands.status(stage.connection) == ()


def test_cluster_is_looked_at_without_an_entry_in_its_log(stage: Stage) -> None:
    """Its nodes' versions are told, and the questions about the key are answered by the node that is asked, alone."""

    def committed() -> int:
        commits = [httpx.get(f"{node.url}/cluster").json()["result"]["raft_info"]["commit"] for node in stage.nodes]
        return max(int(commit) for commit in commits)

    before = committed()
    found = commands.plan(stage.connection, SOURCE, TARGET, TWO_COPIES).preflight
    assert committed() == before
    there = found.servers[1]
    assert (there.side, len(there.peers)) == ("target", 3)
    assert {peer.version for peer in there.peers} == {there.version}
    assert "none was asked itself" in there.note
    assert {right.granted for right in found.rights} == {"yes"}
    assert found.estimate.room_bytes == 2 * ((found.size.vector_bytes or 0) + (found.size.payload_bytes or 0)) > 0
    assert ("the target's server", "accepted") in [(gate.gate, gate.decision) for gate in found.gates]


def test_source_on_a_cluster_is_refused(stage: Stage) -> None:
    """The message says why."""
    with pytest.raises(Refused, match="no read is sure to show every record that was acknowledged"):
        commands.plan(Connection(url=stage.nodes[0].url), SOURCE, TARGET)


def test_number_of_copies_means_nothing_on_a_single_node(stage: Stage) -> None:
    """A target that is no cluster is not taken for one."""
    with pytest.raises(Refused, match="replication_factor means nothing there"):
        commands.plan(Connection(url=stage.connection.url, target_url=stage.connection.url), SOURCE, TARGET, TWO_COPIES)
