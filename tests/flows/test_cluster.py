"""Tests of flows on a cluster that answers as it likes: what a read, and a change of a fence, must have waited for."""

from collections.abc import Callable
from typing import Any

import pytest
from playing import MIGRATION, Play

from qferry.control import wire
from qferry.errors import Rejected, RemoteFailure
from qferry.flows.cluster import PAUSE_S, TOUCH_S, on_cluster
from qferry.flows.coordinator import LANDING_S, PATIENCE_S, Coordinator
from qferry.flows.effects import Flow, Request, Sleep, Together
from qferry.flows.settle import check
from qferry.protocol.phases import Phase

SERVER = "http://cluster"
COPIED = MIGRATION.with_changes(
    {"target_url": SERVER, "claim": "token", "overrides": {"replication_factor": 2}, "phase": Phase.COPIED}
)
NOTHING = {"points": [], "next_page_offset": None}
AWAY = Rejected("The server answered 500: not enough active replicas.", status=500)
Answer = Callable[[Request], Any]


def played(answer: Answer) -> Play:
    """Return a driver whose cluster answers so, and whose source knows the migration and nothing else."""

    def at_home(effect: Any) -> Any:
        if isinstance(effect, Request) and effect.server == SERVER:
            return answer(effect)
        return {"points": [{"payload": COPIED.to_payload()}], "next_page_offset": None}

    return Play(at_home)


def on(play: Play, flow: Flow[Any]) -> Any:
    """Run a flow as the coordinator of the migration."""
    return play.run(on_cluster(Coordinator(COPIED, "token", "me"), flow))


def asking(*effects: Any) -> Flow[Any]:
    """Yield the effects in turn and return what the last one came to."""
    answer: Any = None
    for effect in effects:
        answer = yield effect
    return answer


def sent_to_cluster(play: Play) -> list[Request]:
    """Return the requests the cluster got."""
    return [e for e in play.sent if isinstance(e, Request) and e.server == SERVER]


READ = wire.retrieve(SERVER, "b", [1])


def test_read_asks_every_copy_after_they_have_answered_for_long_enough() -> None:
    """The first read waits for `LANDING_S` in which the copies answer every second; the next one does not wait."""
    play = played(lambda effect: [] if effect.op == "retrieve" else NOTHING)
    began = play.now
    on(play, asking(READ, READ))
    assert play.now - began == LANDING_S
    assert [e.op for e in sent_to_cluster(play)] == ["scroll"] * 11 + ["retrieve"] * 2
    assert {e.params["consistency"] for e in sent_to_cluster(play)} == {"all"}


def test_pause_of_a_node_begins_the_wait_anew() -> None:
    """An answer that took longer than `PAUSE_S` may come from a node that had stopped, until just before the next."""
    asked: list[str] = []

    def answer(effect: Request) -> Any:
        asked.append(effect.op)
        play.now += PAUSE_S if len(asked) == 8 else 0.0
        return NOTHING

    play = played(answer)
    on(play, asking(READ))
    assert asked.count("scroll") == 8 + 1 + int(LANDING_S / TOUCH_S)


def test_sleep_keeps_asking() -> None:
    """A node that stops while a flow sleeps is noticed."""
    play = played(lambda _: NOTHING)
    on(play, asking(Sleep(3.0)))
    assert [e.op for e in sent_to_cluster(play)] == ["scroll"] * 3


def test_node_that_is_away_is_waited_for_and_then_named() -> None:
    """A read is repeated until all copies answer; when they do not for too long nothing is concluded."""
    answers = [AWAY, AWAY]
    play = played(lambda _: answers.pop() if answers else NOTHING)
    assert on(play, asking(READ)) == NOTHING
    with pytest.raises(
        RemoteFailure, match=r"one alone proves nothing: .*replicas\. Bring all nodes .* back"
    ) as raised:
        on(played(lambda _: AWAY), asking(READ))
    assert raised.value.__cause__ is AWAY


def test_error_that_is_no_node_s_absence_is_the_flow_s() -> None:
    """What the server refuses it would refuse again."""
    refused = Rejected("No such collection.", status=404)
    play = played(lambda effect: refused if effect.op == "retrieve" else NOTHING)
    with pytest.raises(Rejected, match="No such collection"):
        on(play, asking(READ))
    (outcome,) = on(play, asking(Together((READ,))))
    assert outcome.error is refused


def test_fence_is_in_force_when_every_node_has_made_its_copy() -> None:
    """Remains of an earlier attempt go; a node that is behind, or has joined meanwhile, is waited for."""
    rounds = iter((["1"], ["1", "2"], ["1", "2", "3"]))
    prefix = "_qferry_m1-00000_probe_"

    def answer(effect: Request) -> Any:
        match effect.op:
            case "collections":
                return {"collections": [{"name": "b"}, {"name": f"{prefix}old"}]}
            case "cluster":
                return {"peers": {"1": {}, "2": {}, "3": {}}}
            case "placement":
                remote = [{"shard_id": 0, "peer_id": int(peer), "state": "Active"} for peer in next(rounds)[1:]]
                local = {"shard_id": 0, "state": "Active"}
                return {"peer_id": 1, "local_shards": [local], "remote_shards": remote}
        return None

    play = played(answer)
    on(play, asking(wire.change_aliases(SERVER, create={COPIED.fence("x"): "b"})))
    told = [e for e in sent_to_cluster(play) if e.op in ("change_aliases", "delete_collection", "create_collection")]
    assert [e.op for e in told] == ["change_aliases", "delete_collection", "create_collection", "delete_collection"]
    assert told[1].path.endswith(f"{prefix}old")
    assert told[2].path == told[3].path
    assert told[2].body["replication_factor"] == 3
    assert len(list(rounds)) == 0


@pytest.mark.parametrize(
    ("drop", "create", "waits"),
    [
        ([COPIED.fence("x")], {}, False),
        ([f"{COPIED.mend_prefix}1"], {}, True),
        ([], {f"{COPIED.mend_prefix}1": "b"}, True),
        ([], {"_qferry_m1-00000_target": "b"}, False),
    ],
)
def test_only_doors_of_others_are_waited_for(drop: list[str], create: dict[str, str], waits: bool) -> None:
    """A coordinator's own fence, dropped in the end, and markers need no node's word."""
    play = played(lambda effect: {"collections": [], "peers": {}} if effect.method == "GET" else None)
    on(play, asking(wire.change_aliases(SERVER, drop=drop, create=create)))
    assert (len(play.sent) > 1) == waits


def test_node_that_does_not_take_up_a_fence_is_named() -> None:
    """After `PATIENCE_S` the message says which, and what it means; the probe is gone."""

    def answer(effect: Request) -> Any:
        if effect.op == "placement":
            return {"peer_id": 1, "local_shards": [{"shard_id": 0, "state": "Active"}], "remote_shards": []}
        return {"collections": [], "peers": {"1": {}, "2": {}}} if effect.method == "GET" else None

    play = played(answer)
    with pytest.raises(RemoteFailure, match=r"1 of the nodes .*: peer 2\. Until they do, writes of the past may land"):
        on(play, asking(wire.change_aliases(SERVER, create={COPIED.fence("x"): "b"})))
    assert play.now > PATIENCE_S
    assert sent_to_cluster(play)[-1].op == "delete_collection"


def test_error_of_an_effect_reaches_the_flow() -> None:
    """A flow may catch what its effect came to, also through the wrapper."""

    def flow() -> Flow[str]:
        try:
            yield wire.upsert(SERVER, "f", [])
        except Rejected as error:
            return error.message
        return "nothing was raised"

    assert on(played(lambda _: AWAY), flow()) == AWAY.message


def test_absent_points_are_counted_on_every_copy() -> None:
    """Ids that neither side shows differ if a single copy has one of them; without copies nothing more is asked."""
    for kept, differing in ((1, {1: None, 2: None}), (0, {})):
        answers = {"retrieve": [], "count": {"count": kept}}
        play = Play(lambda effect, a=answers: a[effect.op])
        assert play.run(check(COPIED, [1, 2])) == differing
        assert play.sent[-1].params == {"consistency": "majority"}
    play = Play(lambda _: [])
    assert play.run(check(MIGRATION, [1, 2])) == {}
    assert play.told == ["retrieve", "retrieve"]
