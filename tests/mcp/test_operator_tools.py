"""The tools against a real server, by real clients: what they say of themselves, ask, do, and leave alone."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest
from anyio import to_thread
from mcp import Client
from mcp_types import CallToolResult
from operating import MODES, POINTS, Opener, Person, agreeing

from qferry import commands
from qferry.cli import shapes
from qferry.cli.output import plain
from qferry.connection import Connection
from qferry.flows import coordinator
from qferry.mcp.shapes import MigrationAnswer, WriterAnswer
from qferry.protocol.phases import Phase
from qferry.protocol.records import CLAIM_S, Migration, Strategy

PAGE = (Path(__file__).parents[2] / "docs" / "mcp.md").read_text()
READING = ("survey", "plan", "status", "history", "doctor")
CHANGING: dict[str, dict[str, Any]] = {
    "start": {"target": "elsewhere"},
    "backfill": {},
    "verify": {},
    "repair": {},
    "switch": {"percent": 100},
    "rollback": {},
    "soak": {"seconds": 0},
    "throttle": {"paused": True},
    "abort": {},
    "finish": {},
    "cleanup": {"keep_alias": True},
}
DESTRUCTIVE = ("repair", "abort", "finish", "cleanup")
in_every_mode = pytest.mark.parametrize("mode", MODES)


def done(result: CallToolResult) -> Any:
    """The answer of a call that did what it should."""
    assert not result.is_error, result.content
    return result.structured_content


def refused(result: CallToolResult) -> str:
    """What a call that did nothing has said, in words and as data."""
    assert result.is_error
    assert result.structured_content is not None
    error = result.structured_content["error"]
    assert error.keys() == {"type", "message", "hint"}
    (content,) = result.content
    assert content.type == "text"
    assert content.text == f"{error['message']} {error['hint']}".rstrip()
    return content.text


def as_json(data: Any) -> Any:
    """What JSON makes of it."""
    return orjson.loads(orjson.dumps(data))


async def called(client: Client, tool: str, source: str, **arguments: Any) -> CallToolResult:
    """Call a tool for a source, with what else it needs."""
    return await client.call_tool(tool, {"source": source, **CHANGING.get(tool, {}), **arguments})


@in_every_mode
async def test_every_command_is_a_tool_that_says_what_it_does(tools: Opener, mode: str) -> None:
    """Each tool has a description, schemas, and hints that are true; none lets the model choose a server."""
    async with tools(mode=mode) as client:
        listed = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert listed.keys() == {*READING, *CHANGING}
    for name, tool in listed.items():
        hints = tool.annotations
        assert hints is not None
        assert hints.read_only_hint is (name in READING), name
        assert hints.destructive_hint is (None if name in READING else name in DESTRUCTIVE), name
        assert hints.open_world_hint is False
        assert tool.description
        assert tool.output_schema is not None
        assert tool.output_schema["type"] == "object"
        for argument, schema in tool.input_schema["properties"].items():
            assert not re.search("url|key|dask|address", argument), name
            assert schema.get("description") or argument.endswith(("_s", "seconds", "policy")), (name, argument)


@pytest.mark.parametrize("tool", [*READING, *CHANGING])
def test_tool_is_documented(tool: str) -> None:
    """The page names each tool in the row of its hints."""
    (row,) = re.findall(rf"^\|[^|]*`{tool}`[^|]*\|.*$", PAGE, re.MULTILINE)
    assert ("read-only" in row) == (tool in READING)
    assert ("destructive" in row) == (tool in DESTRUCTIVE)


async def test_reading_tools_answer_as_the_command_line_does(
    tools: Opener, connection: Connection, source: str, target: str, started: Callable[[], Migration]
) -> None:
    """What `--json` prints is what a tool answers, and a client that can ask nobody may look."""
    commands.backfill(connection, source)
    before = started()
    async with tools() as client:
        for name in READING:
            arguments = {} if name == "survey" else {"source": source}
            if name == "plan":
                arguments["target"] = "elsewhere"
            answer = done(await client.call_tool(name, arguments))
            if name == "status":
                (shown,) = commands.status(connection, source)
                assert answer == as_json({"migrations": [shapes.status_data(shown)]})
            elif name == "history":
                assert answer == as_json({"history": [plain(line) for line in commands.history(connection, source)]})
            elif name == "doctor":
                found = commands.doctor(connection, source)
                assert answer == as_json({"ok": found.healthy, **plain(found)})
            elif name == "plan":
                assert (answer["source"], answer["target"], answer["points"]) == (source, "elsewhere", POINTS)
            else:
                assert (source, target) in [(found["source"], found["target"]) for found in answer["proposals"]]
    assert started() == before


def test_answer_of_status_is_that_of_the_command_line() -> None:
    """No member of the one is missing in the other."""
    m = Migration("m", "a", "b", ("a", "b"), phase=Phase.COPIED)
    writer = shapes.writer_data(m, commands.Writer("w", "host", 1, "now", 1, {}, {}, {}))
    assert WriterAnswer.__annotations__.keys() == writer.keys()
    status = shapes.status_data(commands.Status(m, (), 0, None, None, None, ()))
    assert MigrationAnswer.__annotations__.keys() == status.keys()


@in_every_mode
async def test_whole_migration_by_tools_with_a_person_who_agrees(
    tools: Opener, source: str, target: str, mode: str
) -> None:
    """From start to cleanup each tool asks one question with both names, does it, and says where that leads."""
    person = agreeing(source)
    journey: tuple[tuple[str, dict[str, Any], str | None], ...] = (
        ("start", {"target": None, "strategy": "stream"}, None),
        ("throttle", {"paused": None, "max_points_per_s": 100_000}, None),
        ("backfill", {}, "copied"),
        ("verify", {}, None),
        ("switch", {"percent": 10}, "switched"),
        ("rollback", {}, "copied"),
        ("soak", {}, "copied"),
        ("switch", {"percent": 100}, "switched"),
        ("repair", {}, None),
        ("finish", {"safety_days": 0}, "finished"),
        ("cleanup", {}, "cleaned"),
    )
    async with tools(person, mode=mode) as client:
        for tool, arguments, phase in journey:
            answer = done(await called(client, tool, source, **arguments))
            assert phase is None or answer["phase"] == phase, tool
            assert answer.get("ok", True), tool
            assert source in person.asked[-1], tool
            assert target in person.asked[-1], tool
        (migration,) = done(await client.call_tool("status", {"source": source}))["migrations"]
    assert len(person.asked) == len(journey)
    assert (migration["phase"], migration["source_points"], migration["target_points"]) == ("cleaned", None, POINTS)


@pytest.mark.parametrize(
    ("mode", "answer"), [("legacy", "decline"), ("legacy", {"go_ahead": False}), ("auto", "cancel")]
)
async def test_nothing_is_done_without_consent(
    tools: Opener, source: str, started: Callable[[], Migration], mode: str, answer: Any
) -> None:
    """A form that is declined, put away, or answered with no changes nothing, whichever tool has asked."""
    before = started()
    person = Person(lambda question: {"name": ""} if "Type `" in question and isinstance(answer, dict) else answer)
    async with tools(person, mode=mode) as client:
        for tool in CHANGING:
            assert "nothing was changed" in refused(await called(client, tool, source)), tool
    assert len(person.asked) == len(CHANGING)
    assert started() == before


async def test_a_question_names_everything_that_will_change(
    tools: Opener, source: str, started: Callable[[], Migration]
) -> None:
    """Also the limits that a backfill sets: who agrees to a copy has not agreed to lift them."""
    before = started()
    person = Person(lambda _: "decline")
    async with tools(person) as client:
        refused(await client.call_tool("backfill", {"source": source, "max_points_per_s": 0, "quiet_hours": ""}))
        refused(await client.call_tool("backfill", {"source": source}))
    lifting, copying = person.asked
    assert "The limits of its pace change, and stay so: max_points_per_s: 0, quiet_hours: ''." in lifting
    assert "limits" not in copying
    assert started() == before


@pytest.mark.parametrize(("mode", "tool"), [("legacy", "finish"), ("auto", "cleanup")])
async def test_what_is_irrevocable_wants_the_name_typed(
    tools: Opener, source: str, target: str, started: Callable[[], Migration], mode: str, tool: str
) -> None:
    """Another name, though it be the target's, changes nothing; nor does the model's own `confirm` help."""
    before = started()
    person = Person(lambda _: {"name": target})
    async with tools(person, mode=mode) as client:
        said = refused(await called(client, tool, source, confirm=source))
    assert said.startswith(f"`{target}` is not the name of the source, `{source}`; nothing was changed.")
    assert started() == before


@in_every_mode
async def test_client_that_can_ask_nobody_changes_nothing(
    tools: Opener, source: str, started: Callable[[], Migration], mode: str
) -> None:
    """Every tool that changes something says so, and what would help; `throttle` may still look."""
    before = started()
    async with tools(mode=mode) as client:
        for tool in CHANGING:
            said = refused(await called(client, tool, source, confirm=source))
            assert "the client cannot ask a person" in said, tool
            assert "--allow-changes" in said, tool
        assert done(await client.call_tool("throttle", {"source": source}))["limits"]["paused"] is False
    assert started() == before


async def test_allow_changes_lets_a_client_that_can_ask_nobody_do_it(
    tools: Opener, source: str, started: Callable[[], Migration]
) -> None:
    """What can be taken back is done; what cannot wants the name as an argument."""
    async with tools(allow_changes=True) as client:
        for tool in ("backfill", "verify", "switch"):
            done(await called(client, tool, source))
        assert "The name of the source was not given" in refused(await called(client, "finish", source))
        assert "is not the name" in refused(await called(client, "finish", source, confirm="another"))
        assert started().phase is Phase.SWITCHED
        assert done(await called(client, "finish", source, confirm=source))["phase"] == "finished"
        assert "The safety period runs until" in refused(await called(client, "cleanup", source, confirm=source))


async def test_client_that_can_ask_does_so_also_with_allow_changes(
    tools: Opener, source: str, started: Callable[[], Migration]
) -> None:
    """The flag is for those who cannot."""
    person = Person(lambda _: "decline")
    async with tools(person, allow_changes=True) as client:
        refused(await called(client, "abort", source))
    assert len(person.asked) == 1
    assert started().phase is Phase.COPYING


@in_every_mode
async def test_consent_is_for_the_migration_that_was_asked_about(
    tools: Opener, connection: Connection, source: str, target: str, started: Callable[[], Migration], mode: str
) -> None:
    """If another was begun while the person was thinking, what they agreed to is not done to that one."""
    asked_about = started()

    def begin_anew() -> None:
        if started().id == asked_about.id:
            commands.abort(connection, source)
            commands.start(connection, source, target, strategy=Strategy.STREAM)

    class Thoughtful(Person):
        async def reply(self, context: Any, params: Any) -> Any:
            await to_thread.run_sync(begin_anew)
            return await super().reply(context, params)

    # Where a question is an answer to the call, it is asked once more: it is another question now.
    person = Thoughtful(lambda _: "decline" if len(person.asked) > 1 else {"go_ahead": True})
    async with tools(person, mode=mode) as client:
        assert "nothing was changed" in refused(await called(client, "abort", source))
    assert len({*person.asked}) == len(person.asked) == (1 if mode == "legacy" else 2)
    assert (started().phase, started().id == asked_about.id) == (Phase.COPYING, False)


@in_every_mode
async def test_cancelled_backfill_gives_its_claim_back_and_can_be_run_again(
    tools: Opener,
    connection: Connection,
    source: str,
    started: Callable[[], Migration],
    mode: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Meanwhile it tells its progress, ever higher, and other tools answer; the next one finds the migration free."""
    monkeypatch.setattr(coordinator, "LANDING_S", 0.0)  # nothing it had sent is under way
    commands.throttle(connection, source, limits={"paused": True})
    told: list[tuple[float, str | None]] = []
    at_work = anyio.Event()

    async def progress(seconds: float, _: float | None, message: str | None) -> None:
        told.append((seconds, message))
        if message and "paused" in message:
            at_work.set()

    async with tools(agreeing(source), mode=mode) as client:
        async with anyio.create_task_group() as group:
            group.start_soon(partial(client.call_tool, "backfill", {"source": source}, progress_callback=progress))
            await at_work.wait()
            (migration,) = done(await client.call_tool("status", {"source": source}))["migrations"]
            assert (migration["coordinator"], migration["phase"]) == (commands.me(), "copying")
            group.cancel_scope.cancel()
        with anyio.fail_after(CLAIM_S / 2):  # long before it would lapse by itself
            while await to_thread.run_sync(lambda: started().claim):
                pass
        commands.throttle(connection, source, limits={"paused": False})
        assert done(await called(client, "backfill", source))["phase"] == "copied"
    assert [seconds for seconds, _ in told] == sorted({seconds for seconds, _ in told})


async def test_refusal_of_a_command_is_a_result_with_its_sentence_and_hint(
    tools: Opener, source: str, started: Callable[[], Migration]
) -> None:
    """A command out of order says what comes next; what is not there is named."""
    before = started()
    async with tools(agreeing(source)) as client:
        said = refused(await called(client, "switch", source))
        assert said.endswith("What next: run `qferry backfill`.")
        assert "There is no migration of `nowhere`" in refused(await client.call_tool("status", {"source": "nowhere"}))
        assert "is not a legacy name" in refused(await client.call_tool("start", {"source": "nowhere"}))
    assert started() == before


@pytest.mark.parametrize(
    ("tool", "arguments", "says"),
    [
        ("status", {"source": "a/b"}, "contains '/'"),
        ("status", {"source": ""}, "The collection name"),
        ("start", {"source": "a", "target": ".."}, "The collection name"),
        ("start", {}, "Field required"),
        ("start", {"source": "a", "policy": "none"}, "'both'"),
        ("start", {"source": "a", "ack_timeout_s": -1}, "greater than or equal to 0"),
        ("start", {"source": "a", "overrides": "m=1"}, "valid dictionary"),
        ("switch", {"percent": 101}, "less than or equal to 100"),
        ("switch", {}, "Field required"),
        ("soak", {"seconds": "soon"}, "valid number"),
        ("finish", {"safety_days": 1e9}, "less than or equal to 36500"),
        ("throttle", {"quiet_hours": "at night"}, "no span of the day"),
        ("throttle", {"max_points_per_s": -1}, "greater than or equal to 0"),
    ],
)
async def test_argument_that_cannot_be_is_refused_before_anything_is_sent(
    tools: Opener, tool: str, arguments: dict[str, Any], says: str
) -> None:
    """The schema says what fits, and nobody is asked about what does not."""
    person = Person(lambda _: "decline")
    async with tools(person, to=Connection(url="http://127.0.0.1:1")) as client:
        result = await client.call_tool(tool, arguments)
    assert result.is_error
    assert says in result.content[0].text  # type: ignore[union-attr]  # it is text
    assert not person.asked


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
async def test_secrets_are_in_no_answer(tools: Opener) -> None:
    """A server that is not there is said to be so, and not by its key; a URL with a password is none."""
    to = Connection(
        url="http://127.0.0.1:1",
        api_key="hush-hush",
        target_url="http://127.0.0.1:2",
        target_api_key="hush-hush",
    )
    async with tools(to=to, allow_changes=True) as client:
        for tool in (*READING, *CHANGING):
            arguments = {"source": "project_x_code"} if tool != "survey" else {}
            result = await client.call_tool(tool, {**arguments, **CHANGING.get(tool, {})})
            assert "Check that the server runs" in refused(result), tool
            assert "hush" not in result.model_dump_json(), tool
