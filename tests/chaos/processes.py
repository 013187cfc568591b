"""Starts processes that the kernel kills with this one, however this one ends."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]

# The child asks the kernel to be killed with its parent, also while it is stopped, then becomes the command; see
# qferry/server.py.
_LAUNCHER = """
import ctypes, os, signal, sys
parent, *command = sys.argv[1:]
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
if os.getppid() == int(parent):
    os.execv(command[0], command)
"""
# What the person's shell has set must not reach the processes.
_FOREIGN = ("ENABLE_", "QDRANT_", "QFERRY_", "COLLECTION_")


@functools.cache
def _spawner() -> ThreadPoolExecutor:
    """The signal comes when the *thread* that forked ends, so that thread lives to the end."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="chaos-spawner")


def spawn(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """
    Start a command in the repository, in a session of its own: Ctrl-C is for the test, which then stops it.

    Args:
        command: The program, with its full path, and its arguments.
        **options: As for `subprocess.Popen`.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    if binary := os.environ.get("QFERRY_QDRANT_BIN"):
        environment["QFERRY_QDRANT_BIN"] = binary

    def popen() -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603 - our own arguments, no shell
            [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command],
            **{"cwd": REPOSITORY, "env": environment, "start_new_session": True, **options},
        )

    return _spawner().submit(popen).result()
