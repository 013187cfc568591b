"""Tests of how a coordinator looks whether it may go on, and of pieces of work that keep a pace."""

from dataclasses import replace
from typing import Any

import pytest
from playing import MIGRATION, Play

from qferry.errors import Rejected
from qferry.flows.compare import Piece as ComparedPiece
from qferry.flows.compare import Progress, every_point
from qferry.flows.coordinator import Coordinator
from qferry.flows.copy import Piece
from qferry.flows.effects import Call, Request, Sleep
from qferry.flows.throttle import LOOK_S, Share, Throttle, memory_share, page_points
from qferry.protocol.comparison import Comparison
from qferry.protocol.ranges import Plan
from qferry.protocol.records import CLAIM_S, Pins, Writer
from qferry.protocol.throttle import INF, Pace

WRITER = Writer("w", "host", 1, "now", beat=1, seen={MIGRATION.id: 1}, acked={}, debts={}, pins=Pins(), p99_ms=90.0)
GREEN = {"status": "green", "optimizer_status": "ok"}


class Server:
    """Answers what a look asks for."""

    def __init__(self, **limits: Any) -> None:
        self.record = MIGRATION.with_changes({**limits, "claim": "me"})
        self.info: Any = GREEN
        self.telemetry: Any = {"memory": {"resident_bytes": 1024}, "app": {"system": {"ram_size": 10}}}
        self.writer = WRITER

    def __call__(self, effect: Request | Call) -> Any:
        """The answer to a request."""
        assert isinstance(effect, Request)
        match effect.op:
            case "set_payload":
                self.record = self.record.with_changes(effect.body["payload"])
            case "scroll" if "has_id" in str(effect.body):
                return {"points": [{"payload": self.record.to_payload()}], "next_page_offset": None}
            case "scroll" if "_qferry" in effect.path:
                return {"points": [{"payload": self.writer.to_payload()}], "next_page_offset": None}
            case "info":
                return self.info
            case "telemetry":
                return self.telemetry
        return {"points": [], "next_page_offset": None}


def begun(server: Server) -> tuple[Play, Coordinator, Throttle]:
    """Return a throttle that has looked once."""
    play, co = Play(server), Coordinator(server.record, "me", "me")
    throttle = Throttle(co)
    play.run(throttle.look(0))
    return play, co, throttle


def looked(play: Play, throttle: Throttle, done: int = 0, after_s: float = LOOK_S) -> Pace:
    """Return the pace of a look some time later."""
    play.now += after_s
    pace: Pace = play.run(throttle.look(done))
    return pace


def test_a_first_look_asks_nothing_and_the_next_comes_a_second_later() -> None:
    """A copy that is over at once is not held up."""
    play, _, throttle = begun(Server(max_points_per_s=7))
    assert play.sent == []
    assert looked(play, throttle, after_s=LOOK_S / 2) == Pace(7, "the limit that is set")
    assert play.sent == []
    looked(play, throttle)
    assert play.told == ["set_payload", "scroll", "info", "telemetry"]


def test_a_limit_set_by_somebody_else_is_seen_and_the_pace_recorded() -> None:
    """The coordinator leaves the limit alone, and says with its next beat what it makes of it."""
    server = Server()
    play, co, throttle = begun(server)
    server.record = server.record.with_changes({"paused": True})
    assert looked(play, throttle).stands_still
    assert co.migration.paused
    looked(play, throttle)
    assert server.record.pace.startswith("stands still: paused")
    server.record = server.record.with_changes({"paused": False})
    assert looked(play, throttle) == Pace()
    looked(play, throttle)
    assert (server.record.pace, server.record.paused) == ("", False)


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        ({"status": "red", "optimizer_status": "ok"}, "error"),
        ({"status": "yellow", "optimizer_status": {"error": "no room"}}, "error"),
        ({**GREEN, "update_queue": {"length": 500}}, "500 updates wait"),
        ({"status": "yellow"}, ""),
        (Rejected("No.", status=403), ""),
    ],
)
def test_the_target_s_state_counts_without_any_limit(info: Any, reason: str) -> None:
    """What cannot be known is no reason."""
    server = Server()
    server.info = info
    play, _, throttle = begun(server)
    pace = looked(play, throttle, 1000)
    assert reason in pace.reason
    assert bool(pace.reason) == bool(reason)


def test_a_server_that_is_full_is_given_more_only_slowly() -> None:
    """Its memory is asked for now and then only."""
    server = Server()
    server.telemetry = {"memory": {"resident_bytes": 95 * 1024}, "app": {"system": {"ram_size": 100}}}
    play, _, throttle = begun(server)
    assert all("95% of its machine's memory" in looked(play, throttle).reason for _ in range(3))
    assert play.told.count("telemetry") == 1
    server.telemetry = {"app": {}}
    assert "speeding up again" in looked(play, throttle, after_s=10.0).reason


def test_a_target_that_hangs_does_not_cost_the_claim() -> None:
    """All that a look asks for beside the record is given up long before a claim lapses."""
    play, _, throttle = begun(Server(max_latency_ms=40))
    play.sent.clear()
    looked(play, throttle)
    asked = [request for request in play.sent if isinstance(request, Request)]
    on_the_side = [r for r in asked if r.op in ("info", "telemetry") or r.path.endswith("/a/points/scroll")]
    assert len(on_the_side) == 3
    assert sum(r.timeout_s or CLAIM_S for r in on_the_side) < CLAIM_S


def test_a_comparison_does_not_mind_the_target_s_troubles() -> None:
    """It adds nothing to them."""
    server = Server()
    server.info = {"status": "red", "optimizer_status": "ok"}
    play, co = Play(server), Coordinator(server.record, "me", "me")
    throttle = Throttle(co, only_reads=True)
    play.run(throttle.look(0))
    assert looked(play, throttle) == Pace()
    assert "info" not in play.told


def test_memory_is_unknown_where_telemetry_does_not_tell() -> None:
    """A server may leave any of it out."""
    assert memory_share(None) is None
    assert memory_share({"memory": None, "app": {"system": {"ram_size": 1}}}) is None
    assert memory_share({"memory": {"resident_bytes": 1}}) is None


def test_an_application_s_latency_counts_while_it_reports() -> None:
    """A process that stands still says nothing about the present."""
    server = Server(max_latency_ms=40)
    play, _, throttle = begun(server)
    assert "the application's p99 is 90 ms" in looked(play, throttle, 1000).reason
    for beat in range(2, 5):
        server.writer = replace(WRITER, beat=beat)
        assert "p99 is 90 ms, the limit" in looked(play, throttle, 1000).reason
    paces = [looked(play, throttle, 1000) for _ in range(4)]
    assert paces[-1].reason.startswith("speeding up again")


def test_a_pace_is_shared_by_as_many_workers_as_it_needs() -> None:
    """Each has pieces of a second; pages are small, but no page is empty."""
    assert Share.of(Pace(), 4, 8000) == Share(4, INF, 8000)
    assert Share.of(Pace(100.0), 4, 8000) == Share(1, 100.0, 100)
    assert Share.of(Pace(12_000.0), 4, 8000) == Share(3, 4000.0, 4000)
    assert Share.of(Pace(90_000.0), 4, 8000) == Share(4, 22_500.0, 8000)
    assert Share.of(Pace(1.0), 4, 8000) == Share(1, 1.0, 1)
    assert [page_points(rate, 300) for rate in (1.0, 100.0, 1e6, INF)] == [1, 5, 300, 300]


@pytest.mark.parametrize("kind", ["copy", "comparison"])
def test_a_piece_of_work_keeps_its_pace(kind: str) -> None:
    """Sixty points at forty a second are begun in pages of two, and a second is all that it goes on for."""

    def answer(effect: Request | Call) -> Any:
        assert isinstance(effect, Request)
        if effect.op not in ("read_page", "read_digests"):
            return {"status": "completed"}
        start, limit = effect.body.get("offset", 0), effect.body["limit"]
        points = [{"id": i, "payload": {}, "vector": [1.0]} for i in range(start, min(60, start + limit))]
        return {"points": points, "next_page_offset": start + limit if start + limit < 60 else None}

    play = Play(answer)
    piece = (
        Piece("a", "", "fence", None, None, 1000, page_points=100, points_per_s=40.0)
        if kind == "copy"
        else ComparedPiece(MIGRATION, None, None, 1000, points_per_s=40.0)
    )
    done: Any = play.run(piece.flow())
    reads = [e.body["limit"] for e in play.sent if isinstance(e, Request) and e.op.startswith("read")]
    assert set(reads) == {2}
    assert 40 <= done.points <= 44
    assert play.now - 1.0 == pytest.approx(done.points / 40)
    assert not done.done


def test_nothing_begins_while_it_stands_still() -> None:
    """A comparison waits, and keeps its claim."""
    server = Server(paused=True)
    play = Play(server)
    co = Coordinator(server.record, "me", "me")
    flow = every_point(co, Progress(co, Comparison("", "", (), Plan.of([(None, None)]))))
    value: Any = None
    slept = 0
    while slept < 5:
        effect = flow.send(value)
        slept += isinstance(effect, Sleep)
        value = play._perform(effect)
    assert "read_digests" not in play.told
    assert server.record.claim_beat >= 3
