"""The command: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from code_search_support import CountingEmbedder, Project, grpc_error, rest_error

from code_search import __main__ as cli


@pytest.fixture
def environment(server: Any, project_name: str, project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Give the project as the one that the environment names, and a model that takes no time."""
    for name, value in {
        "QDRANT_URL": server.url,
        "QDRANT_API_KEY": server.api_key or "",
        "QDRANT_GRPC_PORT": "",
        "PROJECT_NAME": project_name,
        "PROJECT_ROOT": str(project.root),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cli, "load_embedder", lambda _: CountingEmbedder())
    return project


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run one command; return its exit code and what it wrote to stdout and stderr."""
    code = cli.main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.usefixtures("environment")
def test_journey_can_be_read_by_people(capsys: pytest.CaptureFixture[str]) -> None:
    """Each command prints sentences to stdout and nothing to stderr."""
    code, out, err = run(capsys, "status")
    assert (code, out.endswith(" is not indexed.\n"), err) == (0, True, "")
    code, out, err = run(capsys, "index")
    assert (code, err) == (0, "")
    assert out.startswith("6 chunks of 4 files: 6 added, 0 updated, 0 deleted, 0 unchanged, in ")
    code, out, err = run(capsys, "search", "put item", "--limit", "1", "--path", "app", "--language", "python")
    assert (code, err) == (0, "")
    assert out.startswith("app/queue.py:2-3  Queue.put  (0.")
    assert "    def put(self, item):\n" in out
    code, out, err = run(capsys, "status")
    assert out.endswith(": 6 chunks of 4 files.\n")


def test_answers_are_json_on_demand(environment: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """One document on one line, with the fields of the results."""
    indexed = json.loads(run(capsys, "index", str(environment.root), "--json")[1])
    assert (indexed["files"], indexed["added"]) == (4, 6)
    (hit,) = json.loads(run(capsys, "search", "put item", "--limit", "1", "--json")[1])
    assert (hit["path"], hit["start_line"], hit["end_line"]) == ("app/queue.py", 2, 3)
    status = json.loads(run(capsys, "status", "--json")[1])
    assert (status["files"], status["incomplete"]) == (4, 0)


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("search", "put"), 1, "has no index"),
        (("search", ""), 1, "The query is empty"),
        (("search", "put", "--limit", "0"), 2, "--limit"),
        (("search", "put", "--language", "cobol"), 1, "'cobol'"),
        (("index", "/nowhere/at/all"), 1, "There is no folder '/nowhere/at/all'"),
        (("find",), 2, "No such command 'find'"),
    ],
)
def test_failure_is_one_sentence_on_stderr(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, message: str
) -> None:
    """With the exit code that says whose fault it is, and nothing on stdout."""
    got, out, err = run(capsys, *arguments)
    assert (got, out) == (code, "")
    assert message in err
    assert err.count("\n") == 1


def test_environment_is_asked_for(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is missing, and a server that is not there, are said to be that."""
    monkeypatch.delenv("PROJECT_NAME", raising=False)
    assert "PROJECT_NAME is not set" in run(capsys, "status")[2]
    monkeypatch.setenv("PROJECT_NAME", "p")
    monkeypatch.delenv("PROJECT_ROOT", raising=False)
    assert "set PROJECT_ROOT" in run(capsys, "index")[2]
    monkeypatch.setenv("QDRANT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(cli, "load_embedder", lambda _: CountingEmbedder())
    code, _, err = run(capsys, "status")
    assert code == 1
    assert "cannot be read" in err


def test_watch_tells_each_run_until_it_is_stopped(
    environment: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C is how it ends."""
    original = cli._told

    def told_then_stopped(report: Any) -> str:
        if report.added == 1:
            raise KeyboardInterrupt
        environment.write("new.py", "x = 1\n")
        return original(report)

    monkeypatch.setattr(cli, "_told", told_then_stopped)
    code, out, err = run(capsys, "watch")
    assert (code, err) == (130, "Stopped.\n")
    assert out.startswith("6 chunks of 4 files")


@pytest.mark.usefixtures("environment")
def test_folder_that_is_not_there_cannot_be_followed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """It is said in one sentence, as for `index`."""
    nowhere = tmp_path / "nowhere"
    code, _, err = run(capsys, "watch", str(nowhere))
    assert (code, err) == (1, f"There is no folder {str(nowhere)!r} to follow. Correct PROJECT_ROOT.\n")


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("by_grpc", [False, True])
def test_search_by_another_model_is_one_sentence(
    server: Any, by_grpc: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vectors of another length find nothing; the error says which model to set."""
    monkeypatch.setenv("QDRANT_GRPC_PORT", str(server.grpc_port) if by_grpc else "")
    assert run(capsys, "index")[0] == 0
    monkeypatch.setattr(cli, "load_embedder", lambda _: CountingEmbedder(dimensions=7))
    code, out, err = run(capsys, "search", "anything")
    assert (code, out) == (1, "")
    assert "indexed with another model: its vectors have not 7 dimensions" in err


@pytest.mark.usefixtures("environment")
def test_grpc_that_does_not_answer_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where REST answers and nobody listens for gRPC, it names the variable that says where it is."""
    monkeypatch.setenv("QDRANT_GRPC_PORT", "9")
    code, out, err = run(capsys, "status")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("Qdrant does not answer: ")
    assert err.endswith("Start it, or correct QDRANT_URL or QDRANT_GRPC_PORT.\n")


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    ("error", "status"),
    [(grpc_error("RESOURCE_EXHAUSTED"), "RESOURCE_EXHAUSTED"), (rest_error(HTTPStatus.INSUFFICIENT_STORAGE), "507")],
)
def test_refusal_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception, status: str
) -> None:
    """The same by REST and by gRPC."""

    async def refused(_: Any) -> None:
        raise error

    monkeypatch.setattr(cli.IndexerService, "status", refused)
    told = f"Qdrant refused this with status {status}. Look into its log.\n"
    assert run(capsys, "status") == (1, "", told)
