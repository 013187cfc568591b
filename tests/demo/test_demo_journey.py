"""The coordinator's commands run as processes, and a refusal ends the demo with what the command said."""

import sys

import pytest

from qferry.demo.errors import DemoError
from qferry.demo.fleet import child_environment
from qferry.demo.journey import Coordinator


class ScriptedCoordinator(Coordinator):
    """Runs a line of Python where the command would run."""

    def __init__(self, script: str) -> None:
        """Take the script."""
        super().__init__("http://127.0.0.1:6333")
        self._script = script

    def _command(self, verb: str, *arguments: str) -> list[str]:
        return [sys.executable, "-c", self._script, verb, *arguments]


def test_command_carries_the_server_and_asks_for_json() -> None:
    """The commands are those a person types, with `--url` and `--json`."""
    command = Coordinator("http://127.0.0.1:6333")._command("switch", "a", "--percent", "10")
    assert command == [
        sys.executable, "-m", "qferry", "switch", "a", "--percent", "10",
        "--url", "http://127.0.0.1:6333", "--grpc-port", "0", "--json",
    ]  # fmt: skip


def test_answer_of_a_command_is_its_json() -> None:
    """What the command prints comes back as an object."""
    script = "import sys, json; print(json.dumps(sys.argv[1:]))"
    assert ScriptedCoordinator(script).run("plan", "a", "b") == ["plan", "a", "b"]


def test_refused_command_ends_the_demo_with_its_words() -> None:
    """Exit code 1 becomes an error with the command, its exit code and its error output."""
    refused = ScriptedCoordinator("import sys; sys.exit('not verified')")
    with pytest.raises(DemoError, match="`qferry switch a --percent 10` ended with exit code 1:\nnot verified"):
        refused.run("switch", "a", "--percent", "10")


def test_launched_command_can_be_killed() -> None:
    """A command that is still running is ended by its own pid."""
    running = ScriptedCoordinator("input()").launch("backfill", "a")
    running.kill()
    assert running.wait() != 0


def test_flags_of_the_shell_do_not_reach_the_demos_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the flags that the demo sets itself are in force, whatever the person's shell has set."""
    monkeypatch.setenv("ENABLE_DUAL_WRITE", "true")
    assert "ENABLE_DUAL_WRITE" not in child_environment()
    for name in ("QFERRY_TARGET_URL", "QDRANT_API_KEY", "COLLECTION_NAME_TEMPLATE"):
        monkeypatch.setenv(name, "http://somebody.else")
        assert name not in child_environment(), name
    flags = child_environment({"ENABLE_NEW_READS": "true"})
    assert (flags.get("ENABLE_DUAL_WRITE"), flags["ENABLE_NEW_READS"]) == (None, "true")
