"""`qferry ui` as a process, and a real Chromium that looks at it."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = os.environ.get("QFERRY_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
DEADLINE_S = 60


def environment(qdrant: Any, **more: str) -> dict[str, str]:
    """The variables of a process that reaches a server, and nothing else that the shell has set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("QFERRY_", "COLLECTION_"))}
    key = {"QDRANT_API_KEY": qdrant.api_key} if getattr(qdrant, "api_key", None) else {}
    return {**kept, "QDRANT_URL": qdrant.url, "QDRANT_GRPC_PORT": str(qdrant.grpc_port), **key, **more}


@contextlib.contextmanager
def dashboard(qdrant: Any, *arguments: str, **variables: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The dashboard of a server, as a process: its address, and the process, killed in the end if it has not ended."""
    with subprocess.Popen(  # noqa: S603  our own command
        [sys.executable, "-m", "qferry", "ui", "--port", "0", *arguments],
        env=environment(qdrant, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            assert running.stderr is not None
            said = ""
            while (announced := re.search(r"The dashboard is at (http://\S+)/ ", said)) is None:
                line = running.stderr.readline()
                assert line, f"it has ended: {said}"
                said += line
            yield announced[1], running
        finally:
            running.kill()


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium."""
    assert CHROMIUM, "These tests need a browser: install Debian's with `apt-get install chromium`."
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def listening(page: Page) -> list[str]:
    """What the browser's console will say of a page: errors and warnings, also those of scripts and of the policy."""
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    return said
