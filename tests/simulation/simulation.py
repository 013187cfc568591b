"""One run: build the world of a scenario, let it happen, and judge it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from unittest.mock import patch

from qferry.control import records
from qferry.flows import compare, coordinator, copy, heartbeat, lifecycle, missing, restore, settle, verify, write
from qferry.protocol import session
from qferry.protocol.phases import Phase
from qferry.protocol.records import CONTROL_COLLECTION

from .application import SOURCE, TARGET, Application
from .calls import VECTORS
from .checker import Judgement, Seal, Violation
from .fake_qdrant import FakeQdrant
from .network import DEFERRED_S, GRACE_S, LATE_S, Network
from .operators import Operator
from .possible_states import State, as_state
from .scenario import CALM_AT_S, Scenario
from .world import World

END_S = 400.0
# Shorter than what ships, so that a run spends its time on what happens and not on waiting.
LEASE_S = 2.5
CLAIM_S = 4.0
_CONFIG = {"vectors": {name: {"size": 1, "distance": "Dot"} for name in VECTORS}}

# What ships, and what a small world has in its place.
_SMALL = (
    (settle, "CHECK_POINTS", 2),
    (verify, "PAGE_POINTS", 2),
    (compare, "PAGE_POINTS", 2),
    (compare, "RANGE_POINTS", 2),
    (compare, "PIECE_POINTS", 3),
    (compare, "OWN_PIECE_POINTS", 3),
    (compare, "SAVE_S", 0.0),
    (copy, "RANGE_POINTS", 2),
    (copy, "PIECE_POINTS", 3),
    (copy, "OWN_PIECE_POINTS", 3),
    (write, "RESOLVE_POINTS", 2),
    (heartbeat, "FLUSH_POINTS", 2),
    (session, "LEASE_S", LEASE_S),
    (coordinator, "LEASE_S", LEASE_S),
    (lifecycle, "LEASE_S", LEASE_S),
    (missing, "MISSING_PATIENCE_S", LEASE_S),
    (write, "LACKING_PATIENCE_S", 6 * LEASE_S),
    (coordinator, "LANDING_S", GRACE_S),
    (coordinator, "CLAIM_S", CLAIM_S),
    (coordinator, "POLL_S", 0.4),
    (restore, "POLL_S", 0.4),
    (verify, "GRACE_S", GRACE_S),
)


@dataclass
class Result:
    """How a run came out."""

    scenario: Scenario
    violations: list[Violation]
    world: World
    operator: Operator
    calls: int
    gave_up: int


@contextmanager
def small_world() -> Iterator[None]:
    """Make every page so small that a few points have several, which can then interleave, and every wait short."""
    with ExitStack() as patched:
        for module, name, value in _SMALL:
            patched.enter_context(patch.object(module, name, value))
        yield


def simulate(scenario: Scenario) -> Result:
    """Run a scenario to its end and judge it."""
    network = Network(tuple(dict.fromkeys(("", scenario.target_url))), scenario.faults)
    if not scenario.fetches:
        network.fetching.clear()
    world = World(scenario.seed, network)
    world.accidental = bool(scenario.coordinator_accidents)
    home = network.servers[""].qdrant
    initial = _fill(home, scenario)
    operator = Operator(
        world,
        scenario.goals,
        scenario.coordinator_accidents,
        scenario.target_url,
        scenario.policy,
        scenario.strategy,
        scenario.doubled,
    )
    with small_world():
        operator.prepare(scenario.begins)
    application = Application(
        world,
        operator.phase,
        DEFERRED_S + sum(incident.seconds for incident in scenario.incidents),
        both_names=scenario.gives_up_at is None and all(goal.what != "abort" for goal in scenario.goals),
    )
    history = _RecordHistory(network, operator, application)
    network.record_changed = history.look
    for client in scenario.clients:
        application.start(client)
    for incident in scenario.incidents:
        happen = network.crash if incident.what == "crash" else network.stop
        world.after(incident.at, lambda i=incident, do=happen: do(i.server, i.seconds))
    if scenario.gives_up_at is not None:
        world.after(scenario.gives_up_at, operator.give_up)
    world.after(CALM_AT_S, lambda: setattr(network, "calm", True))
    world.after(world.random.uniform(0, 3), operator.look)

    with small_world():
        ended = world.run_until(lambda: not application.open and operator.done, END_S)
        world.end(within=LATE_S + 5)
    judgement = Judgement(initial, application.calls)
    if not ended:
        why = f"goals left {operator.goals}, running {[*operator.running, *sorted(application.open)]}: "
        why += "; ".join(operator.problems[-2:]) or "no reason given"
        violations = [Violation("every command comes to its end", None, world.now, why)]
    else:
        violations = judgement.violations(*_surviving(network, operator), history.seal)
        violations += [
            Violation("nothing of an attempt stays beside the target", None, world.now, name)
            for server in network.servers.values()
            for name in server.qdrant.collections
            if "_fence_" in name
        ]
    return Result(scenario, violations, world, operator, len(application.calls), judgement.gave_up)


def _fill(home: FakeQdrant, scenario: Scenario) -> dict[int, State]:
    home.request("PUT", f"/collections/{SOURCE}", _CONFIG, {})
    initial = {i: ({"v": i, "g": i % 2}, {name: [float(i)] for name in VECTORS}) for i in scenario.present}
    for point_id, (payload, vectors) in initial.items():
        home.collection(SOURCE).put(point_id, payload, vectors)
    if scenario.settled:
        home.request("PUT", f"/collections/{CONTROL_COLLECTION}", {"vectors": {}}, {})
        home.collection(CONTROL_COLLECTION).put(records.SETTLED_ID, {"kind": "settled"}, {})
    return {point_id: as_state(*content) for point_id, content in initial.items()}


def _surviving(network: Network, operator: Operator) -> tuple[dict[int, State], str]:
    migration = operator.migration()
    over = migration is not None and migration.phase in (Phase.FINISHED, Phase.CLEANED)
    server, name = (operator.target_url, TARGET) if over else ("", SOURCE)
    return _content(network, server, name), name


def _content(network: Network, server: str, name: str) -> dict[int, State]:
    points = network.servers[server].qdrant.collection(name).points
    return {int(point_id): as_state(*content) for point_id, content in points.items()}


class _RecordHistory:
    """Watches the migration's record: wakes the calls that wait for a phase, and looks at both sides at the finish."""

    def __init__(self, network: Network, operator: Operator, application: Application) -> None:
        self.seal: Seal | None = None
        self._network = network
        self._operator = operator
        self._application = application
        self._epoch = 0
        self._epoch_began = 0.0

    def look(self) -> None:
        """See what has changed."""
        self._application.look_at_phase()
        migration = self._operator.migration()
        if migration is None or migration.epoch == self._epoch:
            return
        if migration.phase is Phase.FINISHING:
            source = _content(self._network, "", SOURCE)
            target = _content(self._network, migration.target_url, TARGET)
            self.seal = Seal(self._network.world.now, self._epoch_began, source, target)
        self._epoch, self._epoch_began = migration.epoch, self._network.world.now
