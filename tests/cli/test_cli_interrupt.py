"""Ctrl-C: exit code 130, one line, and a state from which the same command goes on."""

import os
import pty
import signal
import subprocess
import sys
from typing import Any

import pytest


def command(*arguments: str) -> list[str]:
    """The command as a process."""
    return [sys.executable, "-m", "qferry", *arguments]


def test_interrupted_command_gives_its_claim_back(qferry: Any, source: str) -> None:
    """A command stopped by Ctrl-C ends with 130 and one line, and the next one finds the migration free."""
    qferry("start", source)
    qferry("backfill", source)
    process = subprocess.Popen(  # noqa: S603  our own command
        command("soak", source, "--seconds", "100"), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("soaking: ")
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout) == (130, "")
    assert stderr.splitlines()[-1] == "Stopped. Run the same command again to go on."
    assert "Traceback" not in stderr
    assert qferry("status", source, "--json").json["migrations"][0]["coordinator"] is None
    assert qferry("soak", source, "--seconds", "0").exit_code == 0


def test_interrupt_is_one_json_object(qferry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --json Ctrl-C is an object like any other error."""

    def press(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("qferry.commands.status", press)
    outcome = qferry("status", "--json")
    assert outcome.exit_code == 130
    assert outcome.json["error"]["type"] == "Interrupted"


def read_until(terminal: int, text: str) -> None:
    """Read what appears on a terminal until `text` has."""
    seen = b""
    while text.encode() not in seen:
        seen += os.read(terminal, 65536)


def test_watching_ends_with_ctrl_c(qferry: Any, source: str) -> None:
    """On a terminal `status --watch` redraws what has changed until Ctrl-C, which is a good end."""
    qferry("start", source)
    controller, terminal = pty.openpty()
    process = subprocess.Popen(  # noqa: S603  our own command
        command("status", source, "--watch"),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        env={**os.environ, "COLUMNS": "160", "TERM": "xterm"},
    )
    os.close(terminal)
    try:
        read_until(controller, "copying 0 of 120")
        qferry("backfill", source)
        read_until(controller, "qferry verify")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(controller)
