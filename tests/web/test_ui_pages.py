"""What the pages show, and what the operator's forms do, against a real server."""

import asyncio
import contextlib
import dataclasses
import html
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from qdrant_client import QdrantClient, models

from qferry import FerryClient, commands
from qferry.commands import Examination
from qferry.connection import Connection
from qferry.protocol.phases import Phase, Routing, Side
from qferry.protocol.records import CONTROL_COLLECTION, Migration, Strategy, Writer
from qferry.protocol.shadow import COMPARED_MIN, Totals
from qferry.server import QdrantServer
from qferry.web import app, pictures
from qferry.web.actions import ACTIONS
from qferry.web.views import POINTS_LISTED
from qferry.web.watching import Watching

NASTY = '<img src=x onerror="alert(1)">&"\'{{7*7}}'


def page_of(m: Migration) -> str:
    """The address of a migration's page."""
    return f"/migrations/{m.id}"


def copied(person: Any, started: Callable[[], Migration]) -> Migration:
    """A migration whose points are copied, by a form."""
    begun = started()
    person.done(f"{page_of(begun)}/backfill")
    now = started()
    assert now.phase is Phase.COPIED
    return now


def test_whole_way_by_the_forms(
    person: Any, plain: QdrantClient, started: Callable[[], Migration], source: str, target: str
) -> None:
    """From copying to cleanup each step is a form, the page says where it is, and the history tells of all."""
    m = copied(person, started)
    address = page_of(m)
    person.done(f"{address}/verify")
    assert "both sides are equal" in person.look(address)
    person.done(f"{address}/switch", percent="10")
    assert started().read_percent == 10
    assert "10 % of reads" in person.look(address)
    person.done(f"{address}/rollback")
    assert started().phase is Phase.COPIED
    person.done(f"{address}/switch", percent="100")
    person.done(f"{address}/finish", safety_days="0", typed_name=source)
    assert started().phase is Phase.FINISHED
    form = person.look(f"{address}/cleanup")
    assert f"Its name becomes an alias of <code>{target}</code>." in form
    person.done(f"{address}/cleanup", typed_name=source, keep_alias="on")
    aliases = [alias.alias_name for alias in plain.get_collection_aliases(target).aliases]
    assert sorted(aliases) == sorted([source, m.marker(Side.TARGET)])
    page = person.look(address)
    assert "Single naming standard enforced" in page
    assert 'class="chip cleaned"' in page
    assert "final snapshot" in person.look(f"{address}/history")
    listed = person.look("/")
    assert f'href="{address}"' in listed
    assert target in listed


def test_failed_verification_is_shown_and_repaired(
    person: Any, plain: QdrantClient, started: Callable[[], Migration], target: str
) -> None:
    """The check that failed and its ids; whoever looks from another process is told too; repair mends it."""
    m = copied(person, started)
    plain.upsert(target, [models.PointStruct(id=7, vector=[9, 9, 9, 1])], wait=True)
    person.done(f"{page_of(m)}/verify")
    page = person.look(page_of(m))
    assert "differences were found" in page
    assert "1 differ (7)" in page
    assert 'class="bad" aria-current="step"' in page
    assert "find out who writes past qferry" in page
    assert 'button primary" id="do-repair"' in page
    person.done(f"{page_of(m)}/repair", again="on")
    assert "because points differed although nothing was suspected" in person.look(page_of(m))
    assert "both sides are equal" in person.look(page_of(m))
    assert started().verified is not None


def test_verdict_that_counts_no_more_is_not_shown(
    person: Any,
    connection: Connection,
    plain: QdrantClient,
    started: Callable[[], Migration],
    source: str,
    target: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a page's verification has found gives way to what another process has proven since; and news grow old."""
    m = copied(person, started)
    plain.delete(target, models.PointIdsList(points=[3]), wait=True)
    person.done(f"{page_of(m)}/verify")
    assert '<li class="bad"><span class="mark"' in person.look(page_of(m))
    assert commands.verify(connection, source, repair=True).passed
    page = person.look(page_of(m))
    assert '<li class="bad"><span class="mark"' not in page
    assert "points equal bit by bit" in page
    assert "differences were found" in page
    monkeypatch.setattr("qferry.web.works.NEWS_S", 0.0)
    assert "differences were found" not in person.look(page_of(m))


def test_failed_verification_of_another_process_is_shown(
    person: Any, connection: Connection, plain: QdrantClient, started: Callable[[], Migration], source: str, target: str
) -> None:
    """By what the history says of it."""
    m = copied(person, started)
    plain.delete(target, models.PointIdsList(points=[3]), wait=True)
    assert not commands.verify(connection, source).passed
    page = person.look(page_of(m))
    assert "has found differences" in page
    assert "1 differ (3)" in page
    assert "<td><code>3</code></td><td>missing on the target</td>" in page
    assert "The two sides differ" in person.look("/")
    plain.delete(target, models.PointIdsList(points=[*range(60)]), wait=True)
    assert not commands.verify(connection, source).passed
    page = person.look(page_of(m))
    assert page.count("missing on the target") == POINTS_LISTED
    assert "and 10 more" in page


def test_throttle_and_pause_by_a_form(person: Any, started: Callable[[], Migration]) -> None:
    """Limits are set as typed, and what is no limit is refused with what is wrong with it."""
    m = started()
    person.done(f"{page_of(m)}/throttle", max_points_per_s="500", quiet_hours="22:00-06:00", paused="on")
    now = started()
    assert (now.max_points_per_s, now.quiet_hours, now.paused) == (500, "22:00-06:00", True)
    assert "Paused." in person.look(page_of(m))
    answer = person.send(f"{page_of(m)}/throttle", quiet_hours="whenever")
    assert answer.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert "Quiet hours" in answer.text
    assert "Nothing was changed" in answer.text
    assert started().quiet_hours == "22:00-06:00"


def test_what_is_no_share_is_refused(person: Any, started: Callable[[], Migration]) -> None:
    """Nothing is switched."""
    m = copied(person, started)
    for percent in ("101", "-1", "ten", "", "1.5", "\N{ARABIC-INDIC DIGIT FIVE}"):
        answer = person.send(f"{page_of(m)}/switch", percent=percent)
        assert answer.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
        assert "must be a whole number from 0 to 100" in html.unescape(answer.text)
    assert started() == m


def test_backfill_can_be_slowed_down_and_stopped_while_it_runs(person: Any, started: Callable[[], Migration]) -> None:
    """One command at a time; a form that stops it; and it goes on where it was."""
    m = started()
    address = page_of(m)
    person.done(f"{address}/throttle", paused="on")
    assert person.send(f"{address}/backfill").status_code == HTTPStatus.SEE_OTHER
    assert "is at work, since" in person.look(address)
    other = person.post(f"{address}/backfill", person.form(f"{address}/throttle"))
    assert other.status_code == HTTPStatus.CONFLICT
    assert "at work on this migration; nothing was changed" in other.text
    assert person.post(f"{address}/stop", person.form(f"{address}/backfill")).status_code == HTTPStatus.SEE_OTHER
    work = person.dashboard.works.latest(m.id)
    assert work.over.wait(30)
    assert "was stopped" in person.look(address)
    assert started().claim == ""
    person.done(f"{address}/throttle")
    assert not started().paused
    person.done(f"{address}/backfill")
    assert started().phase is Phase.COPIED


def test_rollback_and_abort_need_not_wait_for_a_command_at_work(
    person: Any, plain: QdrantClient, started: Callable[[], Migration], source: str, target: str
) -> None:
    """The way back stops what is at work."""
    m = started()
    person.done(f"{page_of(m)}/throttle", paused="on")
    person.send(f"{page_of(m)}/backfill")
    backfill = person.dashboard.works.latest(m.id)
    person.done(f"{page_of(m)}/abort", typed_name=source)
    assert backfill.over.is_set()
    assert not plain.collection_exists(target)
    assert 'class="chip aborted"' in person.look(page_of(m))


@pytest.mark.parametrize("verb", [verb for verb, action in ACTIONS.items() if action.typed])
def test_name_that_does_not_match_changes_nothing(
    person: Any, connection: Connection, started: Callable[[], Migration], source: str, target: str, verb: str
) -> None:
    """What cannot be taken back wants exactly the source's name."""
    begun = started()
    if verb != "abort":
        commands.backfill(connection, source)
        commands.verify(connection, source)
        commands.switch(connection, source, percent=100)
    if verb == "cleanup":
        commands.finish(connection, source, safety_days=0)
    before = started()
    for name in ("", "project", target, f"{source} "):
        answer = person.send(f"{page_of(begun)}/{verb}", typed_name=name)
        assert answer.status_code == HTTPStatus.CONFLICT
        assert "is not the name of the source" in answer.text
        assert "This cannot be taken back" in answer.text
    assert started() == before
    assert person.dashboard.works.latest(begun.id) is None


def test_phase_that_changed_under_the_page_is_refused(
    person: Any, connection: Connection, started: Callable[[], Migration], source: str
) -> None:
    """A form filled in for one state does nothing in another; the answer says what has changed."""
    m = copied(person, started)
    address = page_of(m)
    old = person.form(f"{address}/switch")
    commands.verify(connection, source)
    commands.switch(connection, source, percent=50)
    before = started()
    answer = person.post(f"{address}/switch", {**old, "percent": "10"})
    assert answer.status_code == HTTPStatus.CONFLICT
    assert "Meanwhile the migration has gone from copied to switched; nothing was changed" in answer.text
    assert started() == before
    current = person.form(f"{address}/switch")
    commands.switch(connection, source, percent=80)
    answer = person.post(f"{address}/switch", {**current, "percent": "10"})
    assert "has gone from 50 % to 80 %" in answer.text
    assert started().read_percent == 80
    assert person.post(f"{address}/rollback", old).status_code == HTTPStatus.CONFLICT


def test_switch_that_was_filled_in_before_readers_stepped_back_is_refused(
    person: Any, connection: Connection, plain: QdrantClient, started: Callable[[], Migration], source: str
) -> None:
    """It would erase what nobody has seen; the way back does not wait for that."""
    m = copied(person, started)
    commands.verify(connection, source)
    commands.switch(connection, source, percent=50)
    old, back = person.form(f"{page_of(m)}/switch"), person.form(f"{page_of(m)}/rollback")
    plain.set_payload(CONTROL_COLLECTION, {"stepped_back": "web-1: it fails"}, [m.id], wait=True)
    answer = person.post(f"{page_of(m)}/switch", {**old, "percent": "60"})
    assert answer.status_code == HTTPStatus.CONFLICT
    assert "readers have stepped back to the source: web-1: it fails; nothing was changed" in answer.text
    assert (started().stepped_back, started().read_percent) == ("web-1: it fails", 50)
    assert person.post(f"{page_of(m)}/rollback", back).status_code == HTTPStatus.SEE_OTHER


def test_form_of_another_migration_of_that_name_is_refused(
    person: Any, connection: Connection, started: Callable[[], Migration], source: str, target: str
) -> None:
    """A migration that was aborted and begun anew is another one."""
    first = started()
    old = person.form(f"{page_of(first)}/abort")
    commands.abort(connection, source)
    commands.start(connection, source, target)
    second = started()
    answer = person.post(f"{page_of(second)}/abort", {**old, "typed_name": source})
    assert "is another one" in answer.text
    assert person.post(f"{page_of(first)}/abort", {**old, "typed_name": source}).status_code == HTTPStatus.CONFLICT
    assert started() == second


def test_stale_evidence_refuses_the_switch_with_its_reason(
    person: Any, connection: Connection, plain: QdrantClient, started: Callable[[], Migration], source: str
) -> None:
    """Evidence that was taken away after the form was opened: the gates' words are the answer, nothing changes."""
    m = copied(person, started)
    commands.verify(connection, source)
    form = person.form(f"{page_of(m)}/switch")
    suspicion = {"verified": None, "suspicions": ["a writer vanished [x no. 1]"]}
    plain.set_payload(CONTROL_COLLECTION, suspicion, [m.id], wait=True)
    answer = person.post(f"{page_of(m)}/switch", {**form, "percent": "10"})
    assert answer.status_code == HTTPStatus.CONFLICT
    assert "verify" in answer.text
    assert 'role="alert"' in answer.text
    assert (started().phase, started().read_percent) == (Phase.COPIED, 0)


def test_action_that_does_not_fit_has_no_form(person: Any, started: Callable[[], Migration], source: str) -> None:
    """Its page says why, and sending one all the same does nothing."""
    m = started()
    for verb in ("switch", "rollback", "finish", "cleanup", "verify", "repair"):
        answer = person.client.get(f"{page_of(m)}/{verb}")
        assert answer.status_code == HTTPStatus.CONFLICT
        assert "form_token" not in answer.text
        sent = person.post(f"{page_of(m)}/{verb}", {**person.form(f"{page_of(m)}/abort"), "typed_name": source})
        assert sent.status_code == HTTPStatus.CONFLICT
    assert started() == m


@pytest.mark.parametrize(
    "path", ["/migrations/nonsense", f"/migrations/{uuid.UUID(int=1)}", f"/migrations/{uuid.UUID(int=1)}/abort", "/x"]
)
def test_unknown_pages_are_not_found(person: Any, path: str) -> None:
    """In a sentence."""
    answer = person.client.get(path)
    assert answer.status_code == HTTPStatus.NOT_FOUND
    assert "There is no such" in answer.text


def test_unknown_action_is_not_found(person: Any, started: Callable[[], Migration]) -> None:
    """Also one that is a command, but not the dashboard's."""
    assert person.client.get(f"{page_of(started())}/start").status_code == HTTPStatus.NOT_FOUND
    for before in ("x", "1", "1-x", "-1-2"):
        answer = person.client.get(f"{page_of(started())}/history?before={before}")
        assert answer.status_code == HTTPStatus.NOT_FOUND


def test_names_with_html_in_them_stay_text(person: Any, plain: QdrantClient, started: Callable[[], Migration]) -> None:
    """On every page and in what is sent live, wherever they come from: records, writers, history."""
    begun = started()
    names = {"target": NASTY, "pace": NASTY, "claim_by": NASTY, "suspicions": [NASTY], "created_at": NASTY}
    names |= {"stepped_back": NASTY}
    writer = Writer(str(uuid.uuid4()), NASTY, 1, NASTY, 1, {begun.id: 1}, {begun.id: 1}, {begun.id: 0})
    event = {"kind": "event", "migration": begun.id, "at": NASTY, "who": NASTY, "epoch": begun.epoch, "what": NASTY}
    restored = {name: begun.to_payload()[name] for name in names}
    extra = [
        models.PointStruct(id=writer.id, vector={}, payload=writer.to_payload()),
        models.PointStruct(id=str(uuid.uuid4()), vector={}, payload={**event, "details": {NASTY: NASTY}}),
    ]
    plain.upsert(CONTROL_COLLECTION, extra, wait=True)
    plain.set_payload(CONTROL_COLLECTION, names, [begun.id], wait=True)
    try:
        for path in ("/", page_of(begun), f"{page_of(begun)}/history", f"{page_of(begun)}/abort"):
            page = person.look(path)
            assert "<img" not in page, path
            assert html.escape(NASTY).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in page, path
        look = person.client.portal.call(person.dashboard.watching.look, begun.id)
        for name, part in person.dashboard._parts(begun.id, look).items():
            assert "<img" not in part, name
    finally:
        plain.set_payload(CONTROL_COLLECTION, restored, [begun.id], wait=True)
        plain.delete(CONTROL_COLLECTION, models.PointIdsList(points=[point.id for point in extra]), wait=True)


def test_writers_are_summed_up_and_those_behind_come_first(
    person: Any, plain: QdrantClient, started: Callable[[], Migration]
) -> None:
    """Two hundred of them in one line, and in a list that is folded away."""
    m = started()
    writers = [
        Writer(
            str(uuid.uuid4()), f"host-{n:03}", n, m.created_at, 1, {m.id: 9}, {m.id: 0 if n == 150 else 9}, {m.id: n}
        )
        for n in range(200)
    ]
    points = [models.PointStruct(id=w.id, vector={}, payload=w.to_payload()) for w in writers]
    plain.upsert(CONTROL_COLLECTION, points, wait=True)
    try:
        page = person.look(page_of(m))
    finally:
        plain.delete(CONTROL_COLLECTION, models.PointIdsList(points=[w.id for w in writers]), wait=True)
    assert "<strong>200</strong> writers" in page
    assert f"<strong>1</strong> behind epoch {m.epoch}" in page
    assert "19,900 points not flushed" in page
    assert '<details id="writers-all" >' in page
    assert page.index("host-150") < page.index("host-199") < page.index("host-000")


def test_real_writer_is_shown(person: Any, qdrant: Any, source: str, started: Callable[[], Migration]) -> None:
    """An application that has just connected, with its acknowledgement."""
    client = FerryClient(url=qdrant.url, api_key=qdrant.api_key, check_compatibility=False)
    try:
        client.upsert(source, [models.PointStruct(id=1, vector=[1, 2, 3, 4])], wait=True)
        page = person.look(page_of(started()))
        assert "<strong>1</strong> writer" in page
    finally:
        client.close()


def test_doctor_says_what_is_wrong_and_what_mends_it(
    person: Any, plain: QdrantClient, started: Callable[[], Migration], target: str
) -> None:
    """Its findings, as on the command line."""
    m = started()
    assert "Nothing is wrong" in person.look(f"{page_of(m)}/doctor")
    m = copied(person, started)
    plain.delete_collection(target)
    person.dashboard._examined.clear()
    page = person.look(f"{page_of(m)}/doctor")
    assert 'class="bad"' in page
    assert target in page


def test_doctor_answers_though_it_has_listened_for_long(
    person: Any, started: Callable[[], Migration], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it finds is news from the end of its look on, which takes ten seconds when a command has died."""
    now, heard, looks = [100.0], threading.Event(), []

    def listens(_: Connection, migration_id: str) -> Examination:
        looks.append(migration_id)
        assert heard.wait(60)
        return Examination(1, ())

    monkeypatch.setattr(app, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(app, "ANSWER_S", 0.01)
    monkeypatch.setattr(commands, "examination_of", listens)
    m = started()
    assert "Listening" in person.look(f"{page_of(m)}/doctor")
    now[0] += app._FINDINGS_S + 1
    heard.set()
    while "Listening" in person.look(f"{page_of(m)}/doctor"):
        assert looks == [m.id]
    assert "Nothing is wrong" in person.look(f"{page_of(m)}/doctor")
    assert looks == [m.id]
    now[0] += app._FINDINGS_S + 1
    person.look(f"{page_of(m)}/doctor")
    assert looks == [m.id, m.id]


@contextlib.contextmanager
def reading(client: FerryClient, source: str) -> Iterator[None]:
    """Searches, one after the other, meanwhile."""
    over = threading.Event()

    def read() -> None:
        while not over.wait(0.01):
            client.query_points(source, query=[1.0, 1.0, 2.0, 3.0], limit=5)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def until(holds: Callable[[], bool]) -> None:
    """Wait for something to come about."""
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, "it has not come about"
        time.sleep(0.05)


def test_what_is_proven_and_what_reads_meet_is_shown(
    person: Any, qdrant: Any, connection: Connection, started: Callable[[], Migration], source: str
) -> None:
    """Searches against their gates, shadow reads, the checklist; and readers who go back by themselves, with why."""
    m = copied(person, started)
    address = page_of(m)
    assert "Searches" not in person.look(address)
    assert "Shadow reads" not in person.look(address)
    person.done(f"{address}/verify", queries="7")
    page = person.look(address)
    assert "as good as they must be" in page
    assert "Vectors: 7 searches" in page
    assert page.count('<line class="gate"') == 4
    assert "0.850" not in page  # gates are said as gates are, with two places
    assert '<td class="n">0.85</td>' in page
    assert "5 of 12 proven" in page
    assert "no process is connected that could tell" in page
    client = FerryClient(url=qdrant.url, api_key=qdrant.api_key, check_compatibility=False)
    with contextlib.closing(client), reading(client, source):
        typed = {"percent": "50", "shadow_percent": "100", "max_errors_percent": "2", "max_read_ms": "60000"}
        person.done(f"{address}/switch", **typed)
        assert "Shadow reads" in person.look(address)
        until(lambda: shadows(connection, source).compared >= COMPARED_MIN)
        page = person.look(address)
        assert '<td class="n value">1.000</td><td class="n">at least 0.85</td>' in page
        assert '<td class="n value">0.0 %</td><td class="n">at most 2 %</td>' in page
        assert "own reads overlap by 1.000" in page
        assert "The gates count from" not in page
        # What is left empty stays as it is, and what was compared counts on.
        since = started().shadow_since
        person.done(f"{address}/switch", percent="60", max_read_ms="0.001")
        now = started()
        assert (now.read_percent, now.shadow_percent, now.shadow_since) == (60, 100, since)
        assert (now.canary_max_errors_percent, now.canary_max_ms) == (2, 0.001)
        until(lambda: started().stepped_back)
    page = person.look(address)
    assert f"went back to the source by themselves.</strong> {html.escape(started().stepped_back)}." in page
    assert f'<a href="{address}/switch">switch again</a>' in page
    assert 'class="bad" aria-current="step"' in page
    assert 'aria-label="Command"' not in page  # the news of the switch is none any more
    assert 'name="percent" type="number" value="60"' in person.look(f"{address}/switch")
    assert page.index('aria-label="100 per cent of the reads"') < page.index('aria-label="0 per cent of the reads"')
    assert '<li class="bad"><span class="mark" aria-hidden="true">✗</span><span><strong>All reads switched' in page
    assert "readers stepped back" in person.look("/")


def shadows(connection: Connection, source: str) -> Totals:
    """What shadow reads have found."""
    (status,) = commands.status(connection, source)
    return status.shadow or Totals()


def test_no_searches_no_switch(person: Any, started: Callable[[], Migration]) -> None:
    """A verification without them leaves the switch refused; what is no number of points is refused itself."""
    m = copied(person, started)
    assert person.send(f"{page_of(m)}/verify", queries="-1").status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    person.done(f"{page_of(m)}/verify", queries="0")
    page = person.look(page_of(m))
    assert '<p class="warn-text">Not proven.</p>' in page
    assert "but searches" in page
    assert 'button primary" id="do-verify"' in page
    answer = person.send(f"{page_of(m)}/switch", percent="10")
    assert answer.status_code == HTTPStatus.CONFLICT
    for field in ("shadow_percent", "max_errors_percent", "max_read_ms"):
        answer = person.send(f"{page_of(m)}/switch", percent="10", **{field: "nan"})
        assert answer.status_code == HTTPStatus.UNPROCESSABLE_ENTITY
    assert started().phase is Phase.COPIED


RECALLS = {"mean": 0.9, "median": 1.0, "p5": 0.5, "min": 0.4}


def test_searches_that_miss_a_gate_are_marked() -> None:
    """Those that count against the target, and those that the source misses as well."""
    group = {"vector": "code", "filtered": True, "searches": 9, "differing": 2}
    recall = {"target": RECALLS, "source": {**RECALLS, "p5": 0.9}, "source_again": RECALLS}
    dense = {**group, "recall": recall, "short": ["p5"], "excused": ["min"]}
    found, sparse = pictures.searched({"vectors": [dense, group]})
    assert [(row.name, row.state) for row in found.recall] == [
        ("mean", "good"),
        ("median", "good"),
        ("P5", "bad"),
        ("min", "warn"),
    ]
    assert (found.recall[2].target, found.recall[2].source, found.recall[2].gate) == (0.5, 0.9, 0.6)
    assert (sparse.vector, sparse.filtered, sparse.searches, sparse.differing, sparse.recall) == (
        "code",
        True,
        9,
        2,
        (),
    )


@pytest.mark.parametrize(
    ("found", "states"),
    [
        (Totals(), []),
        (Totals(compared=100, overlap=99, source_s=1, target_s=2), ["good", "good", "good"]),
        (Totals(compared=100, overlap=80, errors=50), ["bad", "bad"]),
        (Totals(compared=2, overlap=1, errors=2), ["warn", "warn"]),  # too few to count
        (Totals(errors=30), ["bad"]),
    ],
)
def test_shadow_reads_are_held_against_their_gates(found: Totals, states: list[str]) -> None:
    """Whose bars are never longer than what they are in."""
    rows = pictures.shadowed(Migration(id="m", source="old", target="new", names=("old", "new")), found)
    assert [row.state for row in rows] == states
    assert all(0 <= length <= 1 for row in rows for length in (row.target, row.source or 0, row.gate or 0))


def test_server_that_is_gone_is_a_sentence(dashboard: Any) -> None:
    """Not a fault of the dashboard: 503, with what it means; it works again when the server does."""
    with QdrantServer.start() as server:
        there = Connection(url=server.url, grpc_port=server.grpc_port)
        with dashboard(to=there) as person:
            assert "No migration is recorded" in person.look("/")
            server.kill()
            answer = person.client.get("/")
            assert answer.status_code == HTTPStatus.SERVICE_UNAVAILABLE
            assert 'role="alert"' in answer.text
            assert "Traceback" not in answer.text
            server.restart()
            assert "No migration is recorded" in person.look("/")


async def test_one_looks_for_all_and_nobody_for_none(connection: Connection, started: Callable[[], Migration]) -> None:
    """Two who watch are shown the same looks; when the last has gone, nobody looks any more."""
    m = started()
    watching = Watching(connection)
    first, second = watching.watch(m.id), watching.watch(m.id)
    looks = await asyncio.gather(anext(first), anext(second))
    assert watching.watched == 1
    assert looks[0] is looks[1]
    assert looks[0].statuses[0].migration.id == m.id
    await first.aclose()
    assert watching.watched == 1
    await second.aclose()
    assert watching.watched == 0
    assert watching.samples(m.id)


async def test_end_lets_those_who_watch_go(connection: Connection) -> None:
    """Without waiting for the next look."""
    watching = Watching(connection)
    looks = watching.watch("")
    assert (await anext(looks)).error is None
    watching.end()
    with pytest.raises(StopAsyncIteration):
        await anext(looks)
    assert watching.watched == 0


def test_live_parts_are_those_of_the_page(person: Any, started: Callable[[], Migration]) -> None:
    """What is sent live is what the page shows, under the names that it has there."""
    m = started()
    page = person.look(page_of(m))
    look = person.client.portal.call(person.dashboard.watching.look, m.id)
    parts = person.dashboard._parts(m.id, look)
    for name, part in parts.items():
        assert f'data-part="{name}"' in page
        assert orjson.loads(orjson.dumps({name: part})) == {name: part}
    assert parts["writers"] in page
    assert parts["lines"] in page


def test_read_only_serves_no_action(dashboard: Any, started: Callable[[], Migration], source: str) -> None:
    """Neither a form nor what it would be sent to."""
    m = started()
    with dashboard(read_only=True) as person:
        page = person.look(page_of(m))
        assert "This dashboard only shows." in page
        assert "/abort" not in page
        for verb in (*ACTIONS, "stop"):
            assert person.client.get(f"{page_of(m)}/{verb}").status_code == HTTPStatus.NOT_FOUND
            answer = person.post(f"{page_of(m)}/{verb}", {"typed_name": source})
            assert answer.status_code == HTTPStatus.NOT_FOUND
    assert started() == m


def test_page_that_cannot_be_made_is_a_sentence(
    person: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And what ended it is logged."""

    def faulty(_: Any) -> Any:
        raise RuntimeError("boom")

    monkeypatch.setattr("qferry.web.views.listed", faulty)
    answer = person.client.get("/")
    assert answer.status_code == HTTPStatus.INTERNAL_SERVER_ERROR
    assert "A fault of qferry: RuntimeError." in answer.text
    assert "boom" not in answer.text
    assert "boom" in caplog.text


def test_command_that_ends_by_a_fault_says_so(person: Any, started: Callable[[], Migration]) -> None:
    """A page must not wait for ever for a command that is no more."""
    m = started()
    over = threading.Event()

    def faulty(_: Any) -> None:
        over.set()
        raise RuntimeError("boom")

    person.dashboard.works.begin(m.id, "backfill", m.source, faulty).over.wait(10)
    assert over.is_set()
    page = person.look(page_of(m))
    assert "A fault of qferry ended it (RuntimeError: boom)" in page


def test_way_back_is_open_while_the_targets_server_is_dead(
    dashboard: Any, connection: Connection, source: str, target: str, fresh_qdrant: QdrantServer
) -> None:
    """What its server alone knows is missing on the pages, and nothing else: neither other migrations nor actions."""
    both = dataclasses.replace(connection, target_url=fresh_qdrant.url, target_grpc_port=fresh_qdrant.grpc_port)
    commands.start(both, source, target, strategy=Strategy.STREAM)
    m = commands.find(both, source)
    fresh_qdrant.kill()
    try:
        with dashboard(to=both) as person:
            assert source in person.look("/")
            page = f"/migrations/{m.id}"
            shown = person.look(page)
            assert "not known" in shown
            assert "gave no answer to" in shown
            for path in ("/history", "/abort", "/throttle"):
                assert source in person.look(page + path)
            answer = person.send(f"{page}/abort", typed_name=source)
            assert answer.status_code in (HTTPStatus.SEE_OTHER, HTTPStatus.SERVICE_UNAVAILABLE)
            work = person.dashboard.works.latest(m.id)
            assert work.over.wait(30)
            assert "Every application is back on" in str(work.error)
        assert commands.find(both, source).routing is Routing.SOURCE_ONLY
    finally:
        fresh_qdrant.restart()
        commands.abort(both, source)


def test_a_look_is_made_into_a_page_once_for_all(person: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many watch; and of nothing that is not there."""
    made: list[str] = []
    dashboard = person.dashboard
    parts = dashboard._parts
    monkeypatch.setattr(dashboard, "_parts", lambda topic, look: made.append(topic) or parts(topic, look))

    async def watch() -> None:
        session = dashboard._sessions.new()
        watchers = [dashboard._events("", session) for _ in range(5)]
        for events in watchers:
            await anext(events)  # how soon to come again
        assert len({await one for one in asyncio.as_completed([anext(events) for events in watchers])}) == 1
        assert made == [""]
        assert dashboard.watching.viewers == 5
        for events in watchers:
            await events.aclose()

    person.client.portal.call(watch)
    assert person.client.get(f"/live?of={uuid.uuid4()}").status_code == HTTPStatus.NOT_FOUND
    monkeypatch.setattr(app, "STREAMS_MAX", 0)
    assert person.client.get("/live?of=").status_code == HTTPStatus.SERVICE_UNAVAILABLE
