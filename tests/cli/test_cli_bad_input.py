"""Bad input gets one clear sentence and the right exit code, and changes nothing."""

from typing import Any

import pytest
from qdrant_client import QdrantClient

from qferry.server import QdrantServer

# Every verb that talks to a server, with arguments that are fine; `{}` stands for the source.
VERBS = {
    "plan": ("{}", "elsewhere"),
    "start": ("{}", "elsewhere"),
    "backfill": ("{}",),
    "verify": ("{}",),
    "switch": ("{}", "--percent", "50"),
    "rollback": ("{}",),
    "soak": ("{}", "--seconds", "0"),
    "abort": ("{}", "--yes"),
    "finish": ("{}", "--yes"),
    "cleanup": ("{}", "--confirm", "{}"),
    "status": ("{}",),
    "history": ("{}",),
    "doctor": ("{}",),
    "run": ("{}", "elsewhere"),
}
NOBODY_LISTENS = "http://127.0.0.1:1"
every_verb = pytest.mark.parametrize("verb", VERBS)


def typed(verb: str, source: str) -> list[str]:
    """The command line of a verb for a source."""
    return [verb, *(part.format(source) for part in VERBS[verb])]


def assert_one_sentence(outcome: Any, exit_code: int, *, says: str) -> None:
    """The error is one line on stderr, and nothing else is anywhere."""
    assert (outcome.exit_code, outcome.stdout) == (exit_code, ""), outcome
    assert says in outcome.stderr
    assert outcome.stderr.count("\n") == 1, outcome.stderr


@every_verb
def test_unreachable_server_is_one_sentence(verb: str, qferry: Any) -> None:
    """A server that does not answer ends every verb with exit code 1."""
    outcome = qferry(*typed(verb, "any"), "--url", NOBODY_LISTENS)
    assert_one_sentence(outcome, 1, says="Check that the server runs and that the URL is right.")


@every_verb
def test_error_is_one_json_object(verb: str, qferry: Any) -> None:
    """With --json the error is the object on stdout, and stderr is empty."""
    outcome = qferry(*typed(verb, "any"), "--url", NOBODY_LISTENS, "--json")
    assert (outcome.exit_code, outcome.stderr) == (1, "")
    assert outcome.json["error"].keys() == {"type", "message", "hint"}
    assert outcome.json["error"]["type"] == "Unreachable"


@every_verb
@pytest.mark.parametrize("name", ["", "a/b", "a" * 300, ".."])
def test_invalid_name_is_a_usage_error(verb: str, name: str, qferry: Any) -> None:
    """A name that no server accepts is refused before anything is sent, with exit code 2."""
    outcome = qferry(*typed(verb, name), "--url", NOBODY_LISTENS)
    assert_one_sentence(outcome, 2, says="The collection name")


@every_verb
def test_unknown_collection_or_migration_is_named(verb: str, qferry: Any, collection_name: str) -> None:
    """What is not there is named in the sentence."""
    outcome = qferry(*typed(verb, collection_name))
    assert_one_sentence(outcome, 1, says=f"`{collection_name}` on this server")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--url", "http://"),
        ("--url", "ftp://localhost"),
        ("--url", "http://localhost:99999"),
        ("--url", "http://localhost:port"),
        ("--url", "http://[::1"),
        ("--url", "http://a b"),
        ("--target-url", "http://localhost:0x"),
    ],
)
def test_malformed_url_is_a_usage_error(option: str, value: str, qferry: Any) -> None:
    """What cannot be a server's URL is refused by the name of its option."""
    assert_one_sentence(qferry("status", option, value), 2, says=f"{option} (")


@pytest.mark.parametrize("key", ["se cret", "secret\n", "sécret"])
@pytest.mark.parametrize("option", ["--api-key", "--target-api-key"])
def test_key_that_no_header_carries_is_refused_unseen(option: str, key: str, qferry: Any) -> None:
    """A key with a line break or an accent is a usage error that does not repeat it."""
    outcome = qferry("status", option, key)
    assert_one_sentence(outcome, 2, says=f"{option} (")
    assert "cret" not in outcome.stderr


def test_wrong_key_is_one_sentence_for_every_verb(qferry: Any) -> None:
    """A server that wants another key is told apart from one that is not there, and no key is printed."""
    with QdrantServer.start(api_key="right") as server:
        for verb in VERBS:
            outcome = qferry(*typed(verb, "any"), "--url", server.url, "--api-key", "wrong-key", "--json")
            assert outcome.exit_code == 1, verb
            assert "401" in outcome.json["error"]["message"], verb
            assert "Check the API key" in outcome.json["error"]["hint"], verb
            assert outcome.stderr.startswith("Note: the API key travels unencrypted"), verb
            assert "wrong-key" not in outcome.stdout + outcome.stderr, verb
        allowed = qferry("status", "--url", server.url, "--api-key", "right", "--json")
        assert allowed.json == {"ok": True, "migrations": []}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("switch", "a", "--percent", "101"), "--percent"),
        (("switch", "a", "--percent", "-1"), "--percent"),
        (("switch", "a", "--percent", "half"), "--percent"),
        (("switch", "a"), "--percent"),
        (("run", "a", "b", "--percent", "101"), "--percent"),
        (("start",), "SOURCE"),
        (("start", "a", "b", "c"), "unexpected"),
        (("start", "a", "b", "--policy", "none"), "--policy"),
        (("start", "a", "b", "--ack-timeout", "-1"), "--ack-timeout"),
        (("start", "a", "b", "--ack-timeout", "inf"), "inf is no number"),
        (("soak", "--seconds", "soon"), "--seconds"),
        (("finish", "--yes", "--safety-days", "-1"), "--safety-days"),
        (("finish", "--yes", "--safety-days", "1e9"), "--safety-days"),
        (("demo", "--points", "3"), "--points"),
        (("demo", "--url", "http://"), "--url"),
        (("doctor", "a", "b"), "unexpected"),
        (("mcp", "a"), "unexpected"),
        (("mcp", "--http"), "--http"),
        (("mcp", "--http", "0.0.0.0:1"), "--http"),
        (("status", "--no-such-option"), "--no-such-option"),
        (("stat",), "Did you mean"),
        (("status", "--timeout", "0"), "--timeout"),
        (("status", "--watch"), "--watch"),
    ],
)
def test_mistyped_command_is_a_usage_error(arguments: tuple[str, ...], says: str, qferry: Any) -> None:
    """What does not fit ends with exit code 2 and one sentence, or one JSON object."""
    assert_one_sentence(qferry(*arguments), 2, says=says)
    error = qferry(*arguments, "--json").json["error"]
    assert error["type"] == "Usage"
    assert says in error["message"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (("hnsw_config.m",), "not of the form"),
        (("=1",), "not of the form"),
        (("a..b=1",), "not of the form"),
        (("a=abc",), "is not JSON"),
        (("a=NaN",), "is not JSON"),
        (("a=1", "a=2"), "contradicts"),
        (("a=1", "a.b=2"), "contradicts"),
        (("a.b=2", "a=1"), "contradicts"),
    ],
)
@pytest.mark.parametrize("verb", ["plan", "start", "run"])
def test_bad_override_is_a_usage_error(verb: str, settings: tuple[str, ...], says: str, qferry: Any) -> None:
    """A --set that is no KEY.PATH=JSON, or contradicts another, is refused before anything is sent."""
    given = [part for setting in settings for part in ("--set", setting)]
    assert_one_sentence(qferry(verb, "a", "b", *given, "--url", NOBODY_LISTENS), 2, says=says)


def test_plan_that_cannot_be_is_refused(qferry: Any, qdrant: Any, source: str, client: QdrantClient) -> None:
    """Another vector size, or the source as its own target, is refused by every verb, and nothing is created."""
    before = client.get_collections()
    for verb in ("plan", "start", "run"):
        resized = qferry(verb, source, "--set", "vectors.size=8")
        assert_one_sentence(resized, 1, says="The override changes `size` of the vectors")
        itself = qferry(verb, source, source)
        assert_one_sentence(itself, 1, says="Source and target are the same collection")
        # Naming the same server twice does not make it two.
        itself = qferry(verb, source, source, "--target-url", f"{qdrant.url}/")
        assert_one_sentence(itself, 1, says="Source and target are the same collection")
    assert client.get_collections() == before


@pytest.mark.parametrize(
    ("variable", "value", "verb"),
    [
        ("COLLECTION_NAME_TEMPLATE", "no-name", "plan"),
        ("COLLECTION_LEGACY_LOOKUP", "maybe", "plan"),
        ("QFERRY_SAFETY_DAYS", "many", "finish"),
        ("QDRANT_URL", "http://", "status"),
    ],
)
def test_bad_variable_is_named(
    variable: str, value: str, verb: str, qferry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable that cannot be used is named, because nobody typed it on this line."""
    monkeypatch.setenv(variable, value)
    assert_one_sentence(qferry(verb), 2, says=variable)


def test_name_without_a_project_needs_a_target(qferry: Any, collection_name: str) -> None:
    """Where the new name cannot be told from the old one, it must be given."""
    assert_one_sentence(qferry("plan", collection_name), 1, says="Give the target's name as the second argument.")


def test_command_out_of_order_is_refused_and_changes_nothing(qferry: Any, source: str) -> None:
    """Before the copy only backfill and abort are possible; every other verb says what comes next."""
    qferry("start", source)
    before = qferry("status", source, "--json").json
    for verb in ("verify", "switch", "rollback", "finish", "cleanup", "soak"):
        outcome = qferry(*typed(verb, source))
        assert_one_sentence(outcome, 1, says="copying")
    assert qferry("status", source, "--json").json == before
    assert_one_sentence(qferry("start", source), 1, says="run `qferry backfill`")


def test_fault_of_qferry_is_still_one_json_object(qferry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error nobody foresaw is an object on stdout too, and keeps its traceback."""

    def break_down(*_: object, **__: object) -> None:
        raise LookupError("unforeseen")

    monkeypatch.setattr("qferry.commands.status", break_down)
    with pytest.raises(LookupError, match="unforeseen"):
        qferry("status", "--json")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(
            (option, value)
            for option in ("--shadow", "--max-errors")
            for value in ("200%", "x", "-1", "", "5%%", "nan")
        ),
        ("--max-read-ms", "-1"),
        ("--max-read-ms", "nan"),
        ("--max-read-ms", "x"),
    ],
)
def test_what_is_no_share_or_limit_of_the_target_is_a_usage_error(option: str, value: str, qferry: Any) -> None:
    """Before anything is sent."""
    outcome = qferry("switch", "any", "--percent", "0", option, value, "--url", NOBODY_LISTENS)
    assert_one_sentence(outcome, 2, says=option)
