"""The reference page leaves nothing out, and every verb has what every verb should have."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from qferry.cli.app import app

REFERENCE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
VERBS = (
    "plan", "start", "backfill", "verify", "throttle", "switch", "rollback", "soak", "abort", "finish", "cleanup",
    "status", "history", "doctor", "run", "demo", "mcp", "metrics", "ui",
)  # fmt: skip
COMMON = {
    "--url",
    "--api-key",
    "--target-url",
    "--target-api-key",
    "--grpc-port",
    "--target-grpc-port",
    "--timeout",
    "--metrics-listen",
    "--log-format",
    "--json",
}


def options(verb: str) -> dict[str, str | None]:
    """The options of a verb and their variables."""
    return {p.opts[0]: p.envvar for p in COMMANDS[verb].params if p.opts[0].startswith("--")}


def section(heading: str) -> str:
    """One section of the page."""
    found = re.search(rf"^## {heading}$(.*?)(?=^## |\Z)", REFERENCE, re.MULTILINE | re.DOTALL)
    assert found is not None, f"there is no section `{heading}`"
    return found[1]


def test_verbs_are_those_of_the_design() -> None:
    """The command has exactly the verbs that users were promised."""
    assert tuple(COMMANDS) == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_and_variable_is_documented(verb: str) -> None:
    """Each option is in its verb's section, or in that of all verbs, with its variable beside it."""
    own, common = section(verb), section("Options of every verb")
    assert f"qferry {verb}" in own
    assert "```json" in own or "The answer is that of `backfill`" in own
    for option, variable in options(verb).items():
        text = common if option in COMMON and verb != "demo" else own
        assert f"`{option}" in text, option
        assert variable is None or f"`{variable}`" in text, variable


@pytest.mark.parametrize("verb", VERBS)
def test_no_option_is_documented_that_does_not_exist(verb: str) -> None:
    """An option in a verb's table is one that it has."""
    documented = set(re.findall(r"^\| `(--[a-z-]+)", section(verb), re.MULTILINE))
    assert documented <= options(verb).keys()


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "demo"])
def test_every_verb_has_the_common_options(verb: str) -> None:
    """Wherever a person is, --url, the keys and --json are the same."""
    assert options(verb).keys() >= COMMON


@pytest.mark.parametrize("verb", VERBS)
def test_help_says_what_a_verb_does(verb: str, qferry: Any) -> None:
    """Each verb has a help page on stdout, with exit code 0."""
    outcome = qferry(verb, "--help")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    assert "--json" in outcome.stdout


def test_without_a_verb_the_verbs_are_listed(qferry: Any) -> None:
    """Typing only the name shows what there is."""
    outcome = qferry()
    assert outcome.exit_code == 0
    for verb in VERBS:
        assert verb in outcome.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_secrets_of_the_environment_are_not_in_the_help(
    verb: str, qferry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that a variable holds is not shown as a default."""
    monkeypatch.setenv("QDRANT_API_KEY", "hush-hush")
    monkeypatch.setenv("QFERRY_TARGET_API_KEY", "hush-hush")
    assert "hush-hush" not in qferry(verb, "--help").stdout
