"""Tests of the heartbeat: what it sends, in which order, and what it makes of the answers."""

from typing import Any

import pytest
from playing import MIGRATION, Play, session

from qferry.errors import FerryError, LeaseLost, Rejected, RemoteFailure, Unreachable
from qferry.flows.effects import Call, Request
from qferry.flows.heartbeat import FLUSH_POINTS, SOON_S, beat, flush, goodbye, pulse
from qferry.protocol.doubt import Doubt
from qferry.protocol.phases import Phase
from qferry.protocol.records import LEASE_S, Migration
from qferry.protocol.session import Session


class Server:
    """A control collection that holds migrations, and may fail at one operation."""

    def __init__(self, *migrations: Migration, fails: dict[str, Exception] | None = None) -> None:
        self.migrations = list(migrations)
        self.fails = fails or {}

    def __call__(self, effect: Request | Call) -> Any:
        """Answer a request."""
        assert isinstance(effect, Request)
        where = "journal" if "journal" in effect.path else "control"
        for key in (effect.op, f"{where} {effect.op}"):
            if key in self.fails:
                return self.fails[key]
        if effect.op == "scroll":
            return {
                "points": [{"id": m.id, "payload": m.to_payload()} for m in self.migrations],
                "next_page_offset": None,
            }
        return {"status": "completed", "version": "1.16.3"}


MISSING = Rejected("no", status=404)
SILENT = Unreachable("no")


def where(play: Play) -> list[str]:
    """Return what was sent: to the journal, to the control collection, or elsewhere."""
    return [f"{'journal' if 'journal' in e.path else 'control'} {e.op}" for e in play.sent if isinstance(e, Request)]


def test_first_beat_looks_then_registers_then_looks_again() -> None:
    """Either the coordinator sees this writer, or this writer's second look sees the coordinator's epoch."""
    play, found = Play(Server(MIGRATION)), session(None)
    play.run(beat(found))
    assert where(play) == ["control scroll", "control upsert", "control scroll"]
    assert found.registered
    assert found.route("a") is not None


def test_beat_where_nobody_has_migrated_only_looks() -> None:
    """Until the first start a client writes nothing to a server."""
    play, found = Play(Server(fails={"scroll": MISSING})), session(None)
    play.run(beat(found))
    assert where(play) == ["control scroll"]
    assert not found.registered
    assert found.valid(play.now)


def test_beat_flushes_before_it_reports_and_reports_before_it_reads() -> None:
    """An acknowledgement never precedes the flush it rests on."""
    play, found = Play(Server(MIGRATION)), session()
    found.registered = True
    found.journal(MIGRATION).begin([1])
    play.run(beat(found))
    assert where(play) == ["journal upsert", "control upsert", "control scroll"]
    assert found.acked == {MIGRATION.id: 1}


def test_beat_whose_flush_fails_acknowledges_nothing_and_forgets_nothing() -> None:
    """The coordinator waits, and the ids go out again."""
    play, found = Play(Server(MIGRATION, fails={"journal upsert": SILENT})), session()
    found.registered = True
    journal = found.journal(MIGRATION)
    journal.begin([1])
    journal.end([1])
    with pytest.raises(Unreachable):
        play.run(beat(found))
    assert found.acked == {}
    assert journal.debt == 1
    assert "control upsert" not in where(play)


def test_beat_whose_journal_is_gone_goes_on_without_an_acknowledgement() -> None:
    """The migration was aborted while this process could not look; the records say so."""
    play, found = Play(Server(MIGRATION, fails={"journal upsert": MISSING})), session()
    found.registered = True
    found.journal(MIGRATION).begin([1])
    play.run(beat(found))
    assert found.acked == {}


@pytest.mark.parametrize("operation", ["control upsert", "control scroll"])
def test_beat_that_fails_leaves_the_lease_as_it_was(operation: str) -> None:
    """Only a whole beat renews it."""
    play, found = Play(Server(MIGRATION, fails={operation: SILENT})), session()
    found.registered = True
    before = found.lease_until
    with pytest.raises(RemoteFailure):
        play.run(beat(found))
    assert found.lease_until == before


def test_lease_runs_from_the_beginning_of_the_beat() -> None:
    """However long the answers take."""
    found = session(None)
    server = Server(MIGRATION)
    play = Play()

    def slow(effect: Request | Call) -> Any:
        play.now += 2.0
        return server(effect)

    play.answer = slow
    play.run(beat(found))
    assert found.lease_until == 1.0 + LEASE_S


def test_control_collection_that_vanished_under_a_migration_loses_the_lease() -> None:
    """Nobody knows where writes belong, so none are sent."""
    finished = MIGRATION.with_changes({"phase": Phase.FINISHED})
    play, found = Play(Server(fails={"scroll": MISSING})), session(finished)
    with pytest.raises(LeaseLost, match="has vanished") as lost:
        play.run(beat(found))
    assert lost.value.hint


def test_key_that_may_only_read_makes_an_observer() -> None:
    """It is no writer, and reports nothing from then on; its leases alone govern its reads."""
    play, found = Play(Server(MIGRATION, fails={"upsert": Rejected("no", status=403)})), session(None)
    play.run(beat(found))
    assert found.observer
    assert not found.registered
    play.sent.clear()
    play.run(beat(found))
    assert where(play) == ["control scroll"]
    assert found.valid(play.now)


def test_beat_asks_servers_that_owe_an_answer_and_the_doubt_ends_a_grace_period_later() -> None:
    """A request that went missing is over when its server has answered something newer, and some time has passed."""
    play, found = Play(Server(MIGRATION)), session()
    found.registered = True
    journal, doubt = found.journal(MIGRATION), Doubt([""])
    journal.begin([1])
    journal.end([1], doubt)
    found.view.doubts.append(doubt)
    play.run(beat(found))
    assert play.told[-1] == "version"
    assert not doubt.unanswered
    play.now += found.grace_s - 0.1
    play.run(beat(found))
    assert journal.debt == 1
    play.now += 0.2
    play.run(beat(found))
    assert journal.debt == 0


def test_server_that_stays_silent_keeps_the_doubt() -> None:
    """Nothing is known before it speaks."""
    play, found = Play(Server(MIGRATION, fails={"version": SILENT})), session()
    found.registered = True
    doubt = Doubt([""])
    found.view.doubts.append(doubt)
    play.run(beat(found))
    assert doubt.unanswered == {""}


def test_flush_goes_out_in_requests_of_bounded_size_each_with_a_token_of_its_own() -> None:
    """A request that lands late must not look like one that came after it."""
    play, found = Play(Server()), session()
    journal = found.journal(MIGRATION)
    journal.begin(range(2 * FLUSH_POINTS + 1))
    journal.end(range(2 * FLUSH_POINTS + 1))
    play.run(flush(found, MIGRATION, journal))
    bodies = [e.body["points"] for e in play.sent if isinstance(e, Request)]
    assert [len(points) for points in bodies] == [FLUSH_POINTS, FLUSH_POINTS, 1]
    tokens = [{p["payload"]["token"] for p in points} for points in bodies]
    assert [len(t) for t in tokens] == [1, 1, 1]
    assert len(set.union(*tokens)) == 3
    assert journal.debt == 0


def test_flush_that_fails_in_the_middle_forgets_nothing() -> None:
    """All or nothing."""
    found = session()
    play = Play(lambda _: None if len(play.sent) == 1 else SILENT)
    journal = found.journal(MIGRATION)
    journal.begin(range(FLUSH_POINTS + 1))
    journal.end(range(FLUSH_POINTS + 1))
    with pytest.raises(Unreachable):
        play.run(flush(found, MIGRATION, journal))
    assert journal.debt == FLUSH_POINTS + 1


def test_goodbye_flushes_and_then_removes_the_record() -> None:
    """In this order: the ids are durable before the writer is off the list."""
    play, found = Play(Server(MIGRATION)), session()
    found.registered = True
    journal = found.journal(MIGRATION)
    journal.begin([1])
    journal.end([1])
    play.run(goodbye(found))
    assert where(play) == ["journal upsert", "control delete"]
    assert not found.registered


def test_goodbye_of_a_client_that_was_never_registered_sends_nothing() -> None:
    """There is nothing to remove."""
    play = Play()
    play.run(goodbye(session(None)))
    assert play.sent == []


def test_goodbye_with_a_write_under_way_is_refused_and_leaves_the_record() -> None:
    """The coordinator will find a writer that vanished, which is what it is."""
    play, found = Play(Server(MIGRATION)), session()
    found.registered = True
    found.journal(MIGRATION).begin([1])
    with pytest.raises(FerryError) as refused:
        play.run(goodbye(found))
    assert refused.value.hint
    assert "control delete" not in where(play)
    assert found.registered


def test_pulse_of_an_idle_client_where_nobody_migrates_is_silent() -> None:
    """A client that does nothing costs nothing."""
    renewed: list[bool] = []
    play, found = Play(fresh=lambda: renewed.append(True)), session(None)
    assert play.run(pulse(found, 1.0)) == 1.0
    assert renewed == []


def test_pulse_of_a_client_at_work_beats() -> None:
    """One heartbeat per interval."""
    renewed: list[bool] = []
    play, found = Play(fresh=lambda: renewed.append(True)), session(None)
    found.calls += 1
    assert play.run(pulse(found, 1.0)) == 1.0
    assert renewed == [True]


def test_pulse_hurries_while_an_epoch_is_not_acknowledged() -> None:
    """A coordinator is waiting for it."""
    play, found = Play(), session()
    found.registered = True
    assert play.run(pulse(found, 1.0)) == SOON_S
    found.acknowledge(found.view)
    assert play.run(pulse(found, 1.0)) == 1.0


def test_registered_client_beats_however_idle_it_is() -> None:
    """Its acknowledgements are waited for."""
    renewed: list[bool] = []
    play, found = Play(fresh=lambda: renewed.append(True)), session()
    found.registered = True
    found.calls_at_last_beat = found.calls
    play.run(pulse(found, 1.0))
    assert renewed == [True]


def test_goodbye_lets_no_new_call_begin() -> None:
    """A call that began after the last flush would be in nobody's books."""
    play, found = Play(Server(MIGRATION)), session()
    found.registered = True
    play.run(goodbye(found))
    assert not found.valid(play.now)


def test_a_heartbeat_reports_how_long_calls_took_since_the_last_one() -> None:
    """And then begins anew."""
    play, found = Play(Server(MIGRATION)), session()
    found.registered = True
    found.time(found.view, 0.04)
    play.run(beat(found))
    play.run(beat(found))
    reports = [
        e.body["points"][0]["payload"]["p99_ms"]
        for e in play.sent
        if isinstance(e, Request) and e.op == "upsert" and e.body["points"][0]["payload"].get("kind") == "writer"
    ]
    assert reports == [40.0, None]


SWITCHED = MIGRATION.with_changes({"phase": Phase.SWITCHED, "read_percent": 100})


class Records(Server):
    """A control collection that carries out step backs as a server does: filter and write in one step."""

    def __call__(self, effect: Request | Call) -> Any:
        """Answer a request."""
        if isinstance(effect, Request) and effect.op == "set_payload" and effect.op not in self.fails:
            must = {c["key"]: c["match"]["value"] for c in effect.body["filter"]["must"] if "key" in c}
            for n, m in enumerate(self.migrations):
                if (m.phase.value, m.epoch, m.stepped_back) == (must["phase"], must["epoch"], ""):
                    self.migrations[n] = m.with_changes(effect.body["payload"])
        return super().__call__(effect)


def unhappy(record: Migration = SWITCHED) -> Session:
    """Return a registered session that has met errors on the target."""
    found = session(record)
    found.registered = True
    route = found.route("a")
    assert route is not None
    for _ in range(2):
        found.watch(route).fail(0.5, began=0.4)
    return found


def events(play: Play) -> list[Any]:
    """Return the lines of history that were written."""
    bodies = [e.body["points"][0]["payload"] for e in play.sent if isinstance(e, Request) and e.op == "upsert"]
    return [body for body in bodies if body.get("kind") == "event"]


def test_beat_records_that_readers_step_back_and_writes_a_line_of_history() -> None:
    """Once: the next beat has nothing more to tell."""
    server = Records(SWITCHED)
    play, found = Play(server), unhappy()
    play.run(beat(found))
    reason = server.migrations[0].stepped_back
    assert reason.startswith("host pid 1: 2 of its 2 reads")
    assert [(e["what"], e["details"], e["epoch"], e["who"]) for e in events(play)] == [
        ("reads stepped back to the source", {"reason": reason}, 1, "host pid 1")
    ]
    assert where(play) == ["control upsert", "control set_payload", "control scroll", "control upsert"]
    assert found.steps == {}
    route = found.route("a")
    assert route is not None
    assert route.read_percent == 0
    play.run(beat(found))
    assert len(events(play)) == 1


def test_beat_leaves_the_word_to_the_first_who_steps_back() -> None:
    """Its reason is in the record, and its line in the history."""
    server = Records(SWITCHED.with_changes({"stepped_back": "web-2 pid 7: slow"}))
    play, found = Play(server), unhappy()
    play.run(beat(found))
    assert server.migrations[0].stepped_back == "web-2 pid 7: slow"
    assert (events(play), found.steps) == ([], {})


@pytest.mark.parametrize(
    "meanwhile",
    [{"phase": Phase.COPIED, "epoch": 2}, {"phase": Phase.FINISHING, "epoch": 2}, {"epoch": 2}],
    ids=["rolled back", "sealed", "another epoch"],
)
def test_step_back_that_a_coordinator_has_overtaken_changes_nothing(meanwhile: dict[str, Any]) -> None:
    """Filter and write are one step; what it says is of another epoch."""
    server = Records(SWITCHED.with_changes(meanwhile))
    play, found = Play(server), unhappy()
    play.run(beat(found))
    assert server.migrations[0].stepped_back == ""
    assert (events(play), found.steps) == ([], {})
    play.run(beat(found))
    # If it was a roll call only, and the target is no better, the client says so again.
    assert bool(server.migrations[0].stepped_back) is (server.migrations[0].phase is Phase.SWITCHED)


def test_step_back_that_is_not_recorded_has_no_effect_and_is_tried_again() -> None:
    """The heart beats on, and reads stay where everybody expects them."""
    server = Records(SWITCHED, fails={"set_payload": Rejected("no", status=503)})
    play, found = Play(server), unhappy()
    play.run(beat(found))
    route = found.route("a")
    assert route is not None
    assert (route.read_percent, list(found.steps)) == (100, [SWITCHED.id])
    server.fails.clear()
    play.run(beat(found))
    route = found.route("a")
    assert route is not None
    assert (route.read_percent, found.steps) == (0, {})


def test_step_back_that_times_out_costs_no_lease() -> None:
    """It may have been carried out, or may be yet; the line of history has its words either way."""
    server = Records(SWITCHED, fails={"set_payload": SILENT})
    play, found = Play(server), unhappy()
    found.lease_until = 2.0
    play.run(beat(found))
    assert found.lease_until == play.now + LEASE_S
    reason = found.steps[SWITCHED.id].reason
    server.migrations[0] = SWITCHED.with_changes({"stepped_back": reason})
    play.now += 0.5
    route = found.route("a")
    assert route is not None
    found.watch(route).fail(play.now, began=play.now)  # so that it would say it in other words now
    play.run(beat(found))
    assert [e["details"]["reason"] for e in events(play)] == [reason]


@pytest.mark.parametrize("error", [SILENT, Rejected("busy", status=503)], ids=["silent", "rejected"])
def test_line_of_history_that_fails_is_told_later(error: Exception) -> None:
    """The beat has done what it is for by then."""
    server = Records(SWITCHED)
    play, found = Play(), unhappy()

    def answer(effect: Request | Call) -> Any:
        told = isinstance(effect, Request) and effect.op == "upsert" and '"event"' in str(effect.body).replace("'", '"')
        return error if told and len(events(play)) == 1 else server(effect)

    play.answer = answer
    play.run(beat(found))
    assert found.valid(play.now)
    assert len(events(play)) == 1
    for _ in range(2):
        play.run(beat(found))
    assert len(events(play)) == 2
    assert found.steps == {}


def test_client_that_may_only_read_steps_back_when_others_do() -> None:
    """It writes nothing, and so may not go first."""
    server = Records(SWITCHED)
    play, found = Play(server), unhappy()
    found.registered, found.observer = False, True
    for stepped_back, percent in (("", 100), ("web-2 pid 7: slow", 0)):
        server.migrations[0] = SWITCHED.with_changes({"stepped_back": stepped_back})
        play.run(beat(found))
        route = found.route("a")
        assert route is not None
        assert route.read_percent == percent
    assert where(play) == ["control scroll", "control scroll"]


def test_server_that_keeps_the_heartbeat_waiting_does_not_excuse_a_target() -> None:
    """It is not the process that has stood still: a write was lost, and the target is asked about it in vain."""
    server, found = Records(SWITCHED), session(SWITCHED)
    found.registered = True

    def answer(effect: Request | Call) -> Any:
        if isinstance(effect, Request) and effect.op == "version":
            play.now += 10.0
            return SILENT
        return server(effect)

    play = Play(answer)
    found.view.doubts.append(Doubt([""]))
    assert found.enter_quiet(play.now, "a", write=False) is not None
    play.run(beat(found))
    play.now += 1.0
    found.lease_until = 1000.0
    play.run(beat(found))
    assert "without an answer" in server.migrations[0].stepped_back


def test_pulse_tells_how_far_heartbeats_are_apart() -> None:
    """Whoever is late has stood still."""
    found = session()
    Play().run(pulse(found, 2.5))
    assert found.heartbeat_s == 2.5
