"""
Interleavings that once broke a promise, or nearly did, played by hand on the flows that ship.

The simulator finds such traces by chance; here each is told step by step, and its test fails without what was done
about it.  A `Stage` is a world without chance: one server, several flows, and time that passes only while all of them
sleep.  The file is long because each trace is told in full and needs none of the others.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from qdrant_client import models
from qdrant_client.http.exceptions import UnexpectedResponse

from qferry.control import records
from qferry.errors import Conflict, LeaseLost, Refused, TargetWriteFailed, Unreachable
from qferry.flows import compare, lifecycle, routed, write
from qferry.flows.coordinator import LANDING_S, Coordinator, claim
from qferry.flows.effects import Call, Effect, Flow, Fresh, NewId, Now, Outcome, Request, Sleep, Today, Together
from qferry.flows.heartbeat import beat
from qferry.flows.verify import Verification, verify
from qferry.protocol.phases import Phase
from qferry.protocol.records import (
    CLAIM_S,
    CONTROL_COLLECTION,
    HOME,
    LEASE_MARGIN_S,
    LEASE_S,
    Migration,
    Pins,
    Strategy,
    WritePolicy,
)
from qferry.protocol.session import GRACE_S, Session

from .application import SOURCE, TARGET
from .calls import VECTORS
from .clients import _heartbeats
from .fake_collection import Json, Refusal
from .network import Network, error_of
from .operators import Goal, Operator, _claimed
from .world import World

# What a request takes on the stage, in seconds.
STEP_S = 0.001
HOUR_S = 3600.0
Meets = Callable[[Effect], bool]


class Play:
    """
    A flow under way, always about to carry out its `next` effect.

    Args:
        stage: Where it is played.
        flow: The flow.
        session: The client it belongs to, if it is a client's.
    """

    def __init__(self, stage: Stage, flow: Flow[Any], session: Session | None = None) -> None:
        self.stage = stage
        self.session = session
        self.next: Effect | None = None
        self.due = 0.0
        self.stopped = False
        self.steps = 0
        self._flow = flow
        self._ended = Outcome()
        self._answers: dict[int, Outcome] = {}  # of parts of `next` that were carried out, or failed, ahead of it
        self._go_on(Outcome())

    def _go_on(self, outcome: Outcome) -> None:
        try:
            self.next = self._flow.throw(outcome.error) if outcome.error is not None else self._flow.send(outcome.value)
        except StopIteration as stop:
            self.next, self._ended = None, Outcome(value=stop.value)
        except Exception as error:  # noqa: BLE001  `end` raises it
            self.next, self._ended = None, Outcome(error=error)
        self._answers = {}
        self.due = self.stage.now + (self.next.seconds if isinstance(self.next, Sleep) else STEP_S)

    @property
    def done(self) -> bool:
        """Whether the flow has ended."""
        return self.next is None

    def step(self) -> None:
        """Carry out the next effect."""
        self.steps += 1
        self._go_on(self._outcome())

    def _outcome(self) -> Outcome:
        match self.next:
            case Together(effects):
                return Outcome(value=[self._answer(n, part) for n, part in enumerate(effects)])
            case Request() | Call():
                return self._answer(0, self.next)
            case Fresh(renew):
                return self.stage.refreshed(self.session, renew=renew)
            case Now():
                return Outcome(value=self.stage.now)
            case NewId():
                return Outcome(value=self.stage.new_id())
            case Today():
                return Outcome(value="2026-01-01T00:00:00Z")
        return Outcome()

    def _answer(self, part: int, effect: Request | Call) -> Outcome:
        return self._answers[part] if part in self._answers else self.stage.sent(effect)

    def land(self, name: str) -> None:
        """Let what is for one collection arrive now; the flow hears of it with the rest."""
        for n, part in self._parts_to(name):
            self._answers[n] = self.stage.sent(part)
        self.stage.watch()

    def answer(self, name: str, error: Exception) -> None:
        """Let what is for one collection end in `error`; if it has not landed, it never does."""
        for n, _ in self._parts_to(name):
            self._answers[n] = Outcome(error=error)

    def _parts_to(self, name: str) -> list[tuple[int, Request | Call]]:
        effects = self.next.effects if isinstance(self.next, Together) else (self.next,)
        found = [(n, part) for n, part in enumerate(effects) if isinstance(part, Request | Call) and is_to(part, name)]
        assert found, f"nothing is about to be sent to {name}, but {self.next}"
        return found

    def until(self, meets: Meets) -> Effect:
        """Let everybody go on until this flow is about to carry out such an effect, and stop it there."""
        self.stopped = False
        self.stage.run(lambda: self.next is None or meets(self.next))
        assert self.next is not None, f"it has ended without coming to this: {self._ended}"
        self.stopped = True
        return self.next

    def end(self) -> Any:
        """Let everybody go on until this flow has ended; its result, or its error."""
        self.stopped = False
        self.stage.run(lambda: self.done)
        return self._ended.result()

    def kill(self) -> None:
        """End its process here and now."""
        self.stopped = True

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.kill()
        with pytest.raises(KeyboardInterrupt):
            self._flow.throw(KeyboardInterrupt())


class Client:
    """A process of the application: a session and its heartbeats; a read-only one looks only when it must."""

    def __init__(self, stage: Stage, name: str, *, observer: bool = False) -> None:
        self.stage = stage
        identity = str(uuid.uuid5(uuid.NAMESPACE_DNS, name))
        self.session = Session(identity, name, 1, "", Pins(), random=lambda: 0.0, observer=observer)
        for _ in ("looks", "acknowledges what it saw"):
            stage.at_once(beat(self.session))
        self.heart = stage.play(_heartbeats(self.session, 1.0), self.session)
        self.heart.stopped = observer

    def call(self, method: str, **arguments: Any) -> Play:
        """Begin a write."""
        return self.stage.play(write.write(self.session, method, SOURCE, arguments), self.session)

    def upsert(self, point_id: int, value: int) -> Play:
        """Begin to write a whole point."""
        point = models.PointStruct(id=point_id, payload={"v": value}, vector={name: [1.0] for name in VECTORS})
        return self.call("upsert", points=[point])

    def sees(self, point_id: int) -> Json:
        """The payload that a read of this moment gets; None if there is no such point."""
        found = self.stage.at_once(routed.read(self.session, "retrieve", SOURCE, {"ids": [point_id]}), self.session)
        return found[0]["payload"] if found else None


class Stage:
    """
    One server with a migration of three points, each with its id as `v`.

    Args:
        phase: Where the migration stands; in `switched` all reads are on the target.
    """

    def __init__(self, phase: Phase = Phase.SWITCHED) -> None:
        network = Network((HOME,), {}, page_points=100)
        self.qdrant = network.servers[HOME].qdrant
        vectors = {name: {"size": 1, "distance": "Dot"} for name in VECTORS}
        self.qdrant.request("PUT", f"/collections/{SOURCE}", {"vectors": vectors}, {})
        for point_id in (1, 2, 3):
            self.put(SOURCE, point_id, point_id)
        self._operator = Operator(
            World(1, network), [Goal("switch", 100)], {}, HOME, WritePolicy.BOTH, Strategy.STREAM, frozenset()
        )
        self._operator.prepare(phase.value)
        self.now = 0.0
        self.heartbeat_s = 0.0
        self.watch: Callable[[], None] = lambda: None  # called after everything that happens
        self.log: list[Request | Call] = []
        self._plays: list[Play] = []
        self._random = random.Random(1)

    @property
    def migration(self) -> Migration:
        """The record as it stands."""
        found = self._operator.migration()
        assert found is not None
        return found

    @property
    def doors(self) -> list[str]:
        """The aliases through which writers may bring points."""
        return [alias for alias in self.qdrant.aliases if alias.startswith(self.migration.mend_prefix)]

    @property
    def fences(self) -> list[str]:
        """The aliases through which coordinators write."""
        return [alias for alias in self.qdrant.aliases if alias.startswith(self.migration.fence_prefix)]

    def put(self, name: str, point_id: int, value: int) -> None:
        """Write a point to one collection behind everybody's back."""
        self.qdrant.collection(name).put(point_id, {"v": value}, {vector: [1.0] for vector in VECTORS})

    def payload(self, name: str, point_id: int) -> Json:
        """What one collection has; None if it has no such point."""
        return self.qdrant.collection(name).points.get(point_id, (None, None))[0]

    def leave_apart(self, point_id: int, *, source: int, target: int | None) -> None:
        """Two processes have written a point at once and left it different; it is in the journal, as it must be."""
        self.put(SOURCE, point_id, source)
        self.qdrant.collection(TARGET).remove(point_id)
        if target is not None:
            self.put(TARGET, point_id, target)
        self.qdrant.collection(self.migration.journal_collection).put(point_id, {"token": "another:1"}, {})

    def command(self, command: Callable[[Coordinator], Flow[Any]]) -> Play:
        """Begin a command of the operator's."""
        return self.play(_claimed(self.migration, command))

    def play(self, flow: Flow[Any], session: Session | None = None) -> Play:
        """Begin a flow."""
        found = Play(self, flow, session)
        self._plays.append(found)
        return found

    def at_once(self, flow: Flow[Any], session: Session | None = None) -> Any:
        """Carry out a flow with nobody in between and in no time."""
        found = Play(self, flow, session)
        while not found.done:
            found.step()
        return found._ended.result()

    def later(self, seconds: float, action: Callable[[], None]) -> None:
        """Let something happen."""

        def waiting() -> Flow[None]:
            yield Sleep(seconds)
            action()

        self.play(waiting())

    def pass_time(self, seconds: float) -> None:
        """Let everybody go on for a while."""
        end = self.now + seconds
        self.later(seconds, lambda: None)
        self.run(lambda: self.now >= end)

    def run(self, done: Callable[[], bool]) -> None:
        """Let everybody who is not stopped go on, in order of time, until `done`."""
        while not done():
            following = min((p for p in self._plays if not p.stopped and not p.done), key=lambda p: p.due)
            self.now = max(self.now, following.due)
            following.step()
            self.watch()

    def sent(self, effect: Request | Call) -> Outcome:
        """Carry out a request or call."""
        self.log.append(effect)
        try:
            if isinstance(effect, Call):
                return Outcome(value=self.qdrant.call(effect.method, effect.collection, effect.kwargs))
            return Outcome(value=self.qdrant.request(effect.method, effect.path, effect.body, effect.params))
        except Refusal as refusal:
            return Outcome(error=error_of(effect, refusal.status, refusal.text))

    def refreshed(self, session: Session | None, *, renew: bool) -> Outcome:
        """Carry out `Fresh`."""
        assert session is not None
        if renew or not session.valid(self.now):
            self.at_once(beat(session))
            self.now += self.heartbeat_s
        return Outcome()

    def new_id(self) -> str:
        """32 hexadecimal digits."""
        return f"{self._random.getrandbits(128):032x}"


def is_to(effect: Effect, name: str) -> bool:
    """Whether an effect is sent to a collection, or to an alias whose name begins like that if it ends in `_`."""
    if isinstance(effect, Together):
        return any(is_to(part, name) for part in effect.effects)
    if isinstance(effect, Call):
        return effect.collection == name
    rest = "" if name.endswith("_") else "/"
    return isinstance(effect, Request) and f"{effect.path}/".startswith(f"/collections/{name}{rest}")


def through(prefix: str) -> Meets:
    """Effects that write through one of the aliases that begin like this."""
    return lambda effect: is_to(effect, prefix)


def compares(effect: Effect) -> bool:
    """Whether an effect looks at both sides at once, as checks do."""
    parts = effect.effects if isinstance(effect, Together) else ()
    return [part.op for part in parts if isinstance(part, Request)] == ["retrieve", "retrieve"]


def changes_aliases(effect: Effect) -> bool:
    """Whether an effect puts up or drops a fence or a door."""
    return isinstance(effect, Request) and effect.op == "change_aliases"


def reads_configuration(effect: Effect) -> bool:
    """Whether an effect looks at a collection's configuration, as the gates do after the writers were heard."""
    return isinstance(effect, Request) and effect.op == "info"


def publishes(**changes: Json) -> Meets:
    """Effects that change a migration's record like this."""

    def meets(effect: Effect) -> bool:
        return (
            isinstance(effect, Request)
            and effect.op == "set_payload"
            and changes.items() <= effect.body["payload"].items()
        )

    return meets


def finish(co: Coordinator) -> Flow[None]:
    """`qferry finish`."""
    return lifecycle.finish(co, "2026-01-01T00:00:00Z")


def soak(co: Coordinator) -> Flow[int]:
    """`qferry soak`, one pass."""
    return lifecycle.soak(co, 0)


def switch(co: Coordinator) -> Flow[None]:
    """`qferry switch --percent 100`."""
    return lifecycle.switch(co, 100)


def repairing(co: Coordinator) -> Flow[Verification]:
    """`qferry verify --repair`."""
    return verify(co, mend=True)


def refused_by(name: str, upsert: Play) -> None:
    """Let an upsert reach one side, while the other refuses it; its caller is told so."""
    upsert.until(lambda effect: is_to(effect, name))
    upsert.answer(name, error_of(None, 403, "Forbidden: simulated"))
    with pytest.raises((TargetWriteFailed, UnexpectedResponse)):
        upsert.end()


def test_finish_fails_no_update_that_waits_for_a_point() -> None:
    """
    An upsert of point 9 has failed on the target, and an update of it waits until somebody brings it.

    If `finish` had closed the door meanwhile, the update would hold up the acknowledgement that `finish` waits for,
    and both would fail.  Tried before each step of `finish`, until it begins the cycle with the door closed: from
    then on the target decides whether there is a point 9.
    """
    for step in count():
        stage = Stage()
        a, b = Client(stage, "A"), Client(stage, "B")
        finishing = stage.command(finish)
        finishing.until(lambda _, play=finishing, steps=step: play.steps == steps)
        begins_last_cycle = not stage.doors and publishes()(finishing.next)
        refused_by(TARGET, b.upsert(9, 90))
        update = a.call("set_payload", payload={"w": 5}, points=[9])
        finishing.stopped = False
        update.end()
        assert a.sees(9) == {"v": 90, "w": 5}
        finishing.end()
        assert stage.migration.phase is Phase.FINISHED
        assert stage.payload(TARGET, 9) == {"v": 90, "w": 5}
        if begins_last_cycle:
            break


def test_finish_seals_only_with_readers_on_the_target() -> None:
    """
    `finish` repairs point 1 and holds the reads for it, and has to give them back before the point of no return.

    R has not heard of that point yet, S has, and the target decides for S whether there is a point 9: were R still on
    the source, it would miss what S has been told is written.
    """
    stage = Stage()
    r, s = Client(stage, "R"), Client(stage, "S")
    stage.leave_apart(1, source=10, target=77)
    finishing = stage.command(finish)
    finishing.until(publishes(reads_held=True))
    finishing.until(publishes(phase="finishing"))
    assert not stage.migration.reads_held
    refused_by(SOURCE, s.upsert(9, 90))
    r.heart.stopped = True
    finishing.step()
    stage.at_once(beat(s.session))
    s.call("set_payload", payload={"v": 91}, points=[9]).end()
    assert r.session.route(SOURCE).migration.phase is Phase.SWITCHED
    assert r.sees(9) == {"v": 91}


def test_read_only_client_is_on_the_target_when_finish_seals() -> None:
    """The same for a client that is on no list: `finish` outlasts its lease after it has given the reads back."""
    stage = Stage()
    s, observer = Client(stage, "S"), Client(stage, "O", observer=True)
    stage.leave_apart(1, source=10, target=77)
    finishing = stage.command(finish)
    finishing.until(publishes(reads_held=False))
    stage.at_once(beat(observer.session))
    finishing.until(publishes(phase="finishing"))
    refused_by(SOURCE, s.upsert(9, 90))
    finishing.step()
    stage.at_once(beat(s.session))
    s.call("set_payload", payload={"v": 91}, points=[9]).end()
    assert observer.sees(9) == {"v": 91}


def test_reader_who_is_about_to_step_back_reads_the_target_until_the_record_says_so() -> None:
    """
    R has had enough of the target, and the seal comes in between its saying so and its hearing of it.

    Were R on the source at once, it would miss what S, which follows the seal, has been told is written; what R says
    changes nothing any more.
    """
    stage = Stage()
    r, s = Client(stage, "R"), Client(stage, "S")
    finishing = stage.command(finish)
    finishing.until(publishes(phase="finishing"))
    r.session.step_back(stage.migration, "R: it is slow")
    refused_by(SOURCE, s.upsert(9, 90))
    finishing.step()
    stage.at_once(beat(s.session))
    s.call("set_payload", payload={"v": 91}, points=[9]).end()
    assert r.session.route(SOURCE).migration.phase is Phase.SWITCHED
    assert r.sees(9) == {"v": 91}
    stage.at_once(beat(r.session))
    assert (stage.migration.phase, stage.migration.stepped_back) == (Phase.FINISHING, "")
    assert r.sees(9) == {"v": 91}
    finishing.end()


def test_read_that_the_source_answers_in_the_targets_place_does_not_miss_what_came_after_the_seal() -> None:
    """R's read fails on the target, and R has not heard of the seal; S follows it, and is told that 9 is written."""
    stage = Stage()
    r, s = Client(stage, "R"), Client(stage, "S")
    finishing = stage.command(finish)
    finishing.until(publishes(phase="finishing"))
    r.heart.stopped = True
    refused_by(SOURCE, s.upsert(9, 90))
    finishing.step()
    stage.at_once(beat(s.session))
    s.call("set_payload", payload={"v": 91}, points=[9]).end()
    finishing.stopped = True
    reading = stage.play(routed.read(r.session, "retrieve", SOURCE, {"ids": [9]}), r.session)
    reading.until(lambda effect: is_to(effect, TARGET))
    reading.answer(TARGET, Unreachable("no"))
    (found,) = reading.end()
    assert found["payload"] == {"v": 91}


def test_finish_does_not_seal_once_a_reader_has_stepped_back() -> None:
    """The other way round: R has said so just before the seal, which then changes nothing; the door is open again."""
    stage = Stage()
    r = Client(stage, "R")
    finishing = stage.command(finish)
    finishing.until(publishes(phase="finishing"))
    r.session.step_back(stage.migration, "R: it is slow")
    stage.at_once(beat(r.session))
    with pytest.raises(Refused, match="Readers have stepped back to the source: R: it is slow"):
        finishing.end()
    assert (stage.migration.phase, stage.migration.stepped_back) == (Phase.SWITCHED, "R: it is slow")
    assert r.session.route(SOURCE).read_percent == 0
    assert stage.doors == [stage.migration.mend]


@pytest.mark.parametrize("landed", [False, True])
def test_seal_without_an_answer_leaves_the_door_open_unless_it_was_carried_out(landed: bool) -> None:
    """Writers that lack a point on the target wait for it; and the seal cannot land any more once it is open."""
    stage = Stage()
    finishing = stage.command(finish)
    seal = finishing.until(publishes(phase="finishing"))

    def sent() -> Flow[None]:
        yield seal

    if landed:
        stage.at_once(sent())
    finishing.answer(CONTROL_COLLECTION, Unreachable("late"))
    with pytest.raises(Unreachable, match="late"):
        finishing.end()
    if landed:
        assert (stage.migration.phase, stage.doors) == (Phase.FINISHING, [])
        return
    assert (stage.migration.phase, stage.doors) == (Phase.SWITCHED, [stage.migration.mend])
    before = stage.migration
    stage.at_once(sent())
    assert stage.migration == before
    stage.command(finish).end()
    assert stage.migration.phase is Phase.FINISHED


@pytest.mark.parametrize("before", ["", "S: it fails"])
def test_switch_does_not_take_back_a_step_back_that_it_has_not_seen(before: str) -> None:
    """R steps back while the switch waits; one of before the switch was asked for is taken back, as it should be."""
    stage = Stage()
    r = Client(stage, "R")
    if before:
        r.session.step_back(stage.migration, before)
        stage.at_once(beat(r.session))
    switching = stage.command(switch)
    switching.until(publishes(stepped_back=""))
    if before:
        switching.end()
        assert stage.migration.stepped_back == ""
        return
    stage.at_once(beat(r.session))
    r.session.step_back(stage.migration, "R: it is slow")
    stage.at_once(beat(r.session))
    with pytest.raises(Refused, match="Readers have stepped back to the source: R: it is slow"):
        switching.end()
    assert (stage.migration.phase, stage.migration.stepped_back) == (Phase.SWITCHED, "R: it is slow")
    assert r.session.route(SOURCE).read_percent == 0
    stage.command(switch).end()
    assert stage.migration.stepped_back == ""


def test_difference_in_the_last_cycle_opens_the_door_again() -> None:
    """The cycle with the door closed only looks; what it finds is repaired with the door open, and all begins anew."""
    stage = Stage()
    b = Client(stage, "B")
    finishing = stage.command(finish)
    finishing.until(lambda _: not stage.doors)
    refused_by(TARGET, b.upsert(2, 20))
    finishing.until(through(stage.migration.fence_prefix))
    assert stage.doors == [stage.migration.mend]
    assert stage.migration.reads_held
    finishing.end()
    assert stage.payload(TARGET, 2) == {"v": 20}


@pytest.mark.parametrize("other", ["upsert", "delete"])
def test_write_that_a_mending_writer_overtakes_is_not_undone(other: str) -> None:
    """
    A brings point 1 to the target: it has read the source, and not written yet.

    B's upsert, or delete, of the point reaches both sides and is acknowledged; then A's older state lands.  No command
    runs, so A has to see for itself that the sides differ.
    """
    stage = Stage()
    a, b, r = (Client(stage, name) for name in "ABR")
    stage.leave_apart(1, source=10, target=None)
    update = a.call("set_payload", payload={"w": 5}, points=[1])
    update.until(through(stage.migration.mend_prefix))
    if other == "upsert":
        b.upsert(1, 20).end()
    else:
        b.call("delete", points_selector=[1]).end()
    update.step()
    assert r.sees(1) == {"v": 10, "w": 5}
    update.end()
    assert (r.sees(1) or {}).get("v") == (20 if other == "upsert" else None)


@pytest.mark.parametrize("command", [verify, soak, switch, finish])
def test_next_command_opens_a_door_that_a_dead_finish_has_left_closed(
    command: Callable[[Coordinator], Flow[Any]],
) -> None:
    """While it is closed, an update of a point that only the source has fails; afterwards it does not."""
    stage = Stage()
    a = Client(stage, "A")
    dying = stage.command(finish)
    dying.until(lambda _: not stage.doors)
    dying.kill()
    stage.leave_apart(9, source=90, target=None)
    with pytest.raises(TargetWriteFailed):
        a.call("set_payload", payload={"w": 4}, points=[9]).end()
    following = stage.command(command)
    following.until(lambda _: stage.doors == [stage.migration.mend])
    a.call("set_payload", payload={"w": 5}, points=[9]).end()
    assert a.sees(9) == {"v": 90, "w": 5}


def test_finish_that_fails_leaves_the_door_open() -> None:
    """Also if it fails because a server does not answer; the operator hears of that error."""
    stage = Stage()
    finishing = stage.command(finish)
    finishing.until(lambda effect: not stage.doors and is_to(effect, stage.migration.journal_collection))
    lost = Unreachable("simulated: no answer")
    finishing.answer(stage.migration.journal_collection, lost)
    with pytest.raises(Unreachable) as failed:
        finishing.end()
    assert failed.value is lost
    assert stage.doors == [stage.migration.mend]


def test_update_whose_door_was_changed_under_it_succeeds_through_the_new_one() -> None:
    """`switch` gives the door another name between A's look at the routing and its attempt to bring the point."""
    stage = Stage()
    a = Client(stage, "A")
    before = stage.doors
    switching = stage.command(switch)
    switching.until(reads_configuration)  # it has heard all writers
    stage.leave_apart(1, source=10, target=None)
    update = a.call("set_payload", payload={"w": 5}, points=[1])
    update.until(through(stage.migration.mend_prefix))
    switching.until(lambda _: stage.doors == [stage.migration.mend] != before)
    update.end()
    assert a.sees(1) == {"v": 10, "w": 5}
    switching.end()


def test_failed_verification_leaves_the_reads_where_they_are_held() -> None:
    """
    A coordinator died while it held the reads, and a plain client has changed point 2 on the source.

    No journal knows of point 2, so a clean cycle means nothing: given back, the reads would find the older state.
    """
    stage = Stage()
    r = Client(stage, "R")
    stage.leave_apart(1, source=10, target=77)
    dying = stage.command(soak)
    dying.until(through(stage.migration.fence_prefix))
    dying.kill()
    stage.put(SOURCE, 2, 20)
    assert not stage.command(verify).end().passed
    stage.pass_time(LEASE_S)
    assert stage.migration.reads_held
    assert r.sees(2) == {"v": 20}
    assert stage.command(repairing).end().passed
    stage.pass_time(LEASE_S)
    assert not stage.migration.reads_held
    assert r.sees(2) == {"v": 20}


def test_write_between_its_two_sides_is_no_difference() -> None:
    """
    The journal names point 1 while its upsert has reached the target alone; a moment later the source has it too.

    It differs at the first look and not at the second: nothing is repaired, and no reads are held for it.
    """
    stage = Stage()
    w = Client(stage, "W")
    upsert = w.upsert(1, 10)
    upsert.until(lambda effect: is_to(effect, TARGET))
    upsert.land(TARGET)
    stage.at_once(beat(w.session))
    held: list[bool] = []
    stage.watch = lambda: held.append(stage.migration.reads_held)
    soaking = stage.command(soak)
    for _ in ("the check", "the repair's first look"):
        soaking.until(compares)
        soaking.step()
    upsert.end()
    assert soaking.end() == 0
    assert not any(held)
    assert not [effect for effect in stage.log if through(stage.migration.fence_prefix)(effect)]


def test_interrupted_repair_makes_the_next_command_wait() -> None:
    """
    Ctrl-C ends a command while the server carries out its repair, which takes another nine seconds to land.

    The fence stays, and says so to the next command.  Did that one settle point 1 at once, the older state would land
    afterwards, and no journal would name the point any more.
    """
    stage = Stage(Phase.COPIED)
    w = Client(stage, "W")
    stage.leave_apart(1, source=10, target=77)
    coordinator = stage.at_once(claim(stage.migration, "operator"))
    interrupted = stage.play(soak(coordinator))
    interrupted.until(through(stage.migration.fence_prefix))
    interrupted.interrupt()
    stage.at_once(coordinator.release())
    assert stage.migration.claim == ""
    w.upsert(1, 20).end()
    stage.later(LANDING_S - 1.0, lambda: stage.put(TARGET, 1, 10))
    stage.pass_time(2.0)
    began = stage.now
    stage.command(soak).end()
    assert stage.now - began >= LANDING_S
    stage.pass_time(LANDING_S)
    assert stage.payload(TARGET, 1) == stage.payload(SOURCE, 1) == {"v": 20}
    assert stage.fences == []


def test_first_repair_after_a_rollback_waits_for_read_only_clients() -> None:
    """
    O is on no list of writers and goes on reading the target until its lease is over.

    A repair has read the source; W's upsert reaches both sides and is acknowledged; the repair's older state lands.
    """
    stage = Stage()
    w, observer = Client(stage, "W"), Client(stage, "O", observer=True)
    stage.command(lifecycle.rollback).end()
    assert observer.session.route(SOURCE).read_percent == 100
    stage.leave_apart(1, source=10, target=77)
    soaking = stage.command(soak)
    soaking.until(through(stage.migration.fence_prefix))
    w.upsert(1, 20).end()
    soaking.step()
    assert stage.payload(TARGET, 1) == {"v": 10}
    assert observer.sees(1) == {"v": 20}


def test_dual_write_that_outlives_every_lease_is_not_repeated_for_ever() -> None:
    """Each heartbeat takes longer than a lease; each repeat would add to the load that makes it take so long."""
    stage = Stage()
    a = Client(stage, "A")
    a.heart.kill()
    stage.heartbeat_s = LEASE_S + 0.5
    stage.pass_time(LEASE_S)
    with pytest.raises(LeaseLost):
        a.call("set_payload", payload={"w": 5}, points=[1]).end()
    assert len([effect for effect in stage.log if isinstance(effect, Call)]) == 2 * (1 + routed.REPEATS_MAX)


@pytest.mark.parametrize("command", [soak, repairing])
def test_write_that_meets_a_repair_between_its_two_sides_is_seen_from_its_acknowledgement_on(
    command: Callable[[Coordinator], Flow[Any]],
) -> None:
    """
    A repair of point 1 has read the source; W's upsert has reached the target alone.

    The repair lands there, both sides look equal and the entry is settled; then the upsert reaches the source and is
    acknowledged.  Readers must not see the target before a cycle has found, and mended, that; nor after it, if its own
    repair has met the next upsert in the same way.
    """
    stage = Stage()
    w, r = Client(stage, "W"), Client(stage, "R")
    stage.leave_apart(1, source=10, target=77)
    repairer = stage.command(command)
    for value in (20, 30, 40, 50):
        repairer.until(through(stage.migration.fence_prefix))
        upsert = w.upsert(1, value)
        upsert.until(lambda effect: is_to(effect, SOURCE))
        upsert.land(TARGET)
        repairer.until(compares)
        repairer.step()
        assert stage.payload(SOURCE, 1) == stage.payload(TARGET, 1) == {"v": value - 10}
        stage.watch = lambda: None
        upsert.end()
        _always_seen(stage, r, 1, value)
    repairer.end()
    stage.pass_time(LEASE_S)
    assert not stage.migration.reads_held
    assert r.session.route(SOURCE).read_percent == 100
    assert stage.payload(TARGET, 1) == {"v": 50}


def test_repair_waits_for_a_write_that_began_before_the_reads_were_held() -> None:
    """Its answer may come when its client still reads the target: the repair may not come in between."""
    stage = Stage()
    w, r = Client(stage, "W"), Client(stage, "R")
    stage.leave_apart(1, source=10, target=77)
    upsert = w.upsert(1, 20)
    upsert.until(lambda effect: is_to(effect, SOURCE))
    upsert.land(TARGET)
    soaking = stage.command(soak)
    stage.pass_time(LEASE_S + LEASE_MARGIN_S + 1.0)
    assert stage.payload(TARGET, 1) == {"v": 20}
    upsert.end()
    _always_seen(stage, r, 1, 20)
    soaking.end()
    stage.pass_time(LEASE_S)
    assert not stage.migration.reads_held


def test_reads_stay_on_the_source_when_a_repairer_dies_until_the_next_switch() -> None:
    """A coordinator is killed after its repair has undone, on the target, an upsert that is acknowledged then."""
    stage = Stage()
    w, r = Client(stage, "W"), Client(stage, "R")
    stage.leave_apart(1, source=10, target=77)
    dying = stage.command(soak)
    dying.until(through(stage.migration.fence_prefix))
    upsert = w.upsert(1, 20)
    upsert.until(lambda effect: is_to(effect, SOURCE))
    upsert.land(TARGET)
    dying.step()
    dying.kill()
    upsert.end()
    _always_seen(stage, r, 1, 20)
    stage.pass_time(60.0)
    assert stage.migration.reads_held
    assert stage.payload(TARGET, 1) == {"v": 10}
    stage.command(switch).end()
    stage.pass_time(LEASE_S)
    assert not stage.migration.reads_held
    assert r.session.route(SOURCE).read_percent == 100
    assert stage.payload(TARGET, 1) == {"v": 20}


def test_claim_is_given_back_when_the_fence_cannot_be_dropped() -> None:
    """The target's server is away; the next command finds the claim free, and waits for the fence alone."""
    stage = Stage(Phase.COPIED)
    soaking = stage.command(soak)
    soaking.until(lambda effect: bool(stage.fences) and changes_aliases(effect))
    soaking.answer("aliases", Unreachable("simulated: no answer"))
    soaking.end()
    assert stage.migration.claim == ""
    assert len(stage.fences) == 1
    began = stage.now
    stage.command(soak).end()
    assert LANDING_S <= stage.now - began < LANDING_S + CLAIM_S
    assert stage.fences == []


@pytest.mark.parametrize("ends", ["verify", "finish"])
def test_writer_that_was_stopped_while_it_brought_a_point_finds_its_door_gone(ends: str) -> None:
    """
    A has read point 1 on the source, to bring it to the target, and is stopped for an hour.

    Meanwhile it is given up, the point is repaired, and perhaps the migration finished; B writes the point anew.  A's
    older state must be refused, and its update carried out on the routing of now.
    """
    stage = Stage()
    a, b = Client(stage, "A"), Client(stage, "B")
    stage.leave_apart(1, source=10, target=None)
    update = a.call("set_payload", payload={"w": 5}, points=[1])
    update.until(through(stage.migration.mend_prefix))
    a.heart.stopped = True
    stage.pass_time(LEASE_S)
    assert stage.command(repairing).end().passed
    if ends == "finish":
        stage.command(finish).end()
    b.upsert(1, 20).end()
    b.heart.stopped = True  # it has nothing to say for an hour
    stage.pass_time(HOUR_S)
    update.step()
    assert stage.payload(TARGET, 1) == {"v": 20}
    a.heart.stopped = False
    update.end()
    assert b.sees(1) == {"v": 20, "w": 5}


def test_lost_answer_to_a_mending_writer_fails_its_caller_and_leaves_the_point_in_doubt() -> None:
    """It may yet land: the id stays in the writer's journal until the server has answered something newer for long."""
    stage = Stage()
    a = Client(stage, "A")
    stage.leave_apart(1, source=10, target=None)
    a.heart.stopped = True
    update = a.call("set_payload", payload={"w": 5}, points=[1])
    lost = Unreachable("simulated: no answer")
    update.until(through(stage.migration.mend_prefix))
    update.answer(stage.migration.mend, lost)
    with pytest.raises(TargetWriteFailed) as failed:
        update.end()
    assert failed.value.__cause__ is lost
    assert failed.value.point_ids == [1]
    journal = a.session.journal(stage.migration)
    for _ in ("flushes it", "flushes it again"):
        stage.at_once(beat(a.session))
        assert journal.debt == 1
    a.heart.stopped = False
    stage.pass_time(GRACE_S - 1.0)
    assert journal.debt == 1
    stage.pass_time(3.0)
    assert journal.debt == 0


def _always_seen(stage: Stage, reader: Client, point_id: int, value: int) -> None:
    """From now on, whenever anything has happened, a read finds that value."""

    def look() -> None:
        assert reader.sees(point_id)["v"] == value, f"a reader sees an older state at {stage.now:.3f}"

    look()
    stage.watch = look


@pytest.mark.parametrize("command", [verify, soak, switch, finish])
def test_next_command_opens_a_door_that_a_dead_switch_has_only_named(
    command: Callable[[Coordinator], Flow[Any]],
) -> None:
    """A coordinator dies while it changes the door; tried before each step between its gates and its own success."""
    for steps in count():
        stage = Stage()
        a = Client(stage, "A")
        dying = stage.command(switch)
        dying.until(reads_configuration)
        for _ in range(steps):
            dying.step()
        dying.kill()
        following = stage.command(command)
        following.until(lambda effect, found=stage: is_to(effect, found.migration.journal_collection))
        stage.leave_apart(9, source=90, target=None)
        a.call("set_payload", payload={"w": 5}, points=[9]).end()
        assert a.sees(9) == {"v": 90, "w": 5}
        following.end()
        if publishes(phase="switched")(dying.next):
            break


def test_coordinator_that_was_overtaken_opens_no_door() -> None:
    """
    A is stopped while it changes the door; B's `finish` closes it and has its clean cycle; then A goes on.

    Through a door that stood open then, W would bring point 9 as it has read it, after X has written it anew beyond
    the point of no return; W is killed before it looks again, nobody repairs any more, and X's acknowledged write is
    gone.  Tried with A stopped before each step between its gates and its own success.
    """
    for steps in count():
        stage = Stage()
        w, x, c = (Client(stage, name) for name in "WXC")
        overtaken = stage.command(switch)
        overtaken.until(reads_configuration)
        for _ in range(steps):
            overtaken.step()
        last = publishes(phase="switched")(overtaken.next)
        finishing = stage.command(finish)
        finishing.until(lambda _, found=stage: not found.doors)
        finishing.until(changes_aliases)  # the cycle was clean: it drops its fence
        with pytest.raises(Conflict):
            overtaken.end()
        refused_by(TARGET, c.upsert(9, 90))
        update = w.call("set_payload", payload={"w": 5}, points=[9])
        update.until(through(stage.migration.mend_prefix))
        finishing.until(lambda _, found=stage: found.migration.phase is Phase.FINISHING)
        stage.at_once(beat(x.session))
        x.upsert(9, 200).end()
        update.step()
        update.kill()
        w.heart.kill()
        finishing.end()
        assert stage.payload(TARGET, 9) == {"v": 200}
        if last:
            break


def records_progress(points: int) -> Meets:
    """Effects that record that so many points have been compared."""

    def meets(effect: Effect) -> bool:
        if not (isinstance(effect, Request) and effect.op == "upsert" and is_to(effect, CONTROL_COLLECTION)):
            return False
        payload = effect.body["points"][0]["payload"]
        return payload["kind"] == "comparison" and sum(copied for _, _, copied, _ in payload["ranges"]) == points

    return meets


@pytest.fixture
def point_by_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare one point after the other, and record each."""
    monkeypatch.setattr(compare, "PAGE_POINTS", 1)
    monkeypatch.setattr(compare, "OWN_PIECE_POINTS", 1)
    monkeypatch.setattr(compare, "SAVE_S", 0.0)


@pytest.mark.usefixtures("point_by_point")
@pytest.mark.parametrize("lost", [True, False])
def test_point_lost_behind_an_interrupted_comparison_is_found(lost: bool) -> None:
    """
    C1 has compared point 1 and dies.  W writes it on the source alone; if it dies then, nobody remembers.

    C2 goes on with point 2.  If W lives, the point is in its journal; if not, W is suspected, and only a comparison of
    everything that begins after that may clear it.
    """
    stage = Stage(Phase.COPIED)
    w = Client(stage, "W")
    dying = stage.command(verify)
    dying.until(records_progress(1))
    dying.step()
    dying.kill()
    upsert = w.upsert(1, 10)
    upsert.until(lambda effect: is_to(effect, SOURCE))
    upsert.land(SOURCE)
    if lost:
        upsert.kill()
        w.heart.kill()
    else:
        upsert.stopped = False
    found = stage.command(verify).end()
    detail = {check.name: check.detail for check in found.checks}["every point"]
    assert found.differing == ((1,) if lost else ())
    assert found.passed is not lost
    assert ("because a suspicion has been raised since" if lost else "by more than one command") in detail
    if lost:
        assert stage.migration.verified is None
        assert stage.migration.suspicions
        again = stage.command(lambda co: verify(co, mend=True, again=True)).end()
        assert again.passed
        assert again.repaired == 1
        assert stage.migration.suspicions == ()
    assert stage.payload(TARGET, 1) == {"v": 10}


@pytest.mark.usefixtures("point_by_point")
def test_progress_of_a_coordinator_that_was_overtaken_is_nobody_s() -> None:
    """
    C1 is stopped when it is about to record that it has compared point 1.  C2 takes over, and compares everything.

    C1's record arrives then; what is known of the comparison is what C2 has found.
    """
    stage = Stage(Phase.COPIED)
    Client(stage, "W")
    overtaken = stage.command(verify)
    overtaken.until(records_progress(1))
    stage.put(TARGET, 3, 33)
    assert stage.command(verify).end().differing == (3,)
    named = stage.migration.comparison
    overtaken.stopped = False
    with pytest.raises(Conflict):
        overtaken.end()
    assert stage.migration.comparison == named
    assert stage.at_once(records.read_comparison(stage.migration)).ids == [3]


@pytest.mark.usefixtures("point_by_point")
def test_request_that_lands_behind_a_wait_for_another_is_no_part_of_what_was_waited_for() -> None:
    """
    V has vanished.  C1 waits until nothing of V can land, then hears of W, and compares; W's request lands behind that.

    So the comparison rests on V's suspicion alone, and with W's C2 begins anew.
    """
    stage = Stage(Phase.COPIED)
    v, w = Client(stage, "V"), Client(stage, "W")
    v.heart.kill()
    dying = stage.command(verify)
    dying.until(lambda effect: isinstance(effect, Sleep) and effect.seconds == GRACE_S)
    upsert = w.upsert(1, 10)
    upsert.until(lambda effect: is_to(effect, SOURCE))
    w.heart.kill()
    dying.until(lambda effect: not isinstance(effect, Sleep))
    stage.at_once(_buried(stage, w))
    dying.until(records_progress(1))
    dying.step()
    dying.kill()
    upsert.land(SOURCE)
    record = stage.at_once(records.read_comparison(stage.migration))
    assert (len(record.suspicions), len(stage.migration.suspicions)) == (1, 2)
    assert stage.command(verify).end().differing == (1,)


def _buried(stage: Stage, client: Client) -> Flow[None]:
    """What a coordinator does that hears in the middle of a command of a writer that has vanished."""
    m = stage.migration
    yield records.change_migration(m.id, m.claim, {"suspicions": [*m.suspicions, f"{client.session.host} vanished"]})
    yield records.forget(client.session.writer_id)
