"""
A coordinator's flow on a target whose server is a cluster.

One server answers for itself; of several, each may be behind, stopped or gone.  `on_cluster` carries a flow out so
that what it takes for granted of one server holds for all of them: a read has asked every copy of every point, and a
change of an alias is in force on every node before the flow goes on.  While a node is away it waits, and then says so;
it concludes nothing from those that are left (docs/adr/0009).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from qferry.control import wire
from qferry.errors import FerryError, Rejected, RemoteFailure, Unreachable
from qferry.flows.coordinator import LANDING_S, PATIENCE_S, POLL_S, Coordinator
from qferry.flows.effects import Effect, Flow, NewId, Now, Outcome, Report, Request, Sleep, Together
from qferry.protocol.phases import Phase
from qferry.protocol.records import Migration

T = TypeVar("T")
# The target is asked at least this often, also while the flow sleeps.
TOUCH_S = 1.0
# A node that is silent for longer may have stopped, and may hold updates that it carries out when it goes on.  Below
# the 3 s after which one node gives up on another and sends again (1.16.3: `api/src/grpc/transport_channel_pool.rs`).
PAUSE_S = 2.5

_SETTLING = frozenset({Phase.COPIED, Phase.SWITCHED})
_READS = frozenset({"scroll", "retrieve", "count", "read_digests"})


def on_cluster(co: Coordinator, flow: Flow[T]) -> Flow[T]:
    """
    Carry out `flow` on a target that is a cluster; its result is the flow's.

    Raises:
        RemoteFailure: Not all nodes have answered in `PATIENCE_S`; nothing was concluded.
    """
    nodes = _Nodes(co)
    step: Callable[[], Effect] = partial(next, flow)
    while True:
        try:
            effect = step()
        except StopIteration as stop:
            result: T = stop.value
            return result
        try:
            answer = yield from nodes.carry_out(effect)
        except BaseException as error:  # noqa: BLE001  the flow decides; it is raised again if it does not
            step = partial(flow.throw, error)
        else:
            step = partial(flow.send, answer)


class _Nodes:
    """The nodes of a target's cluster, as they have been answering during one command."""

    def __init__(self, co: Coordinator) -> None:
        self._co = co
        self._answered_at = float("-inf")  # every copy has answered something that was sent then, or later
        self._steady_since = float("-inf")  # since when there has been no pause between such answers

    @property
    def _migration(self) -> Migration:
        return self._co.migration

    def carry_out(self, effect: Effect) -> Flow[Any]:
        """One effect of the flow, as a cluster needs it."""
        match effect:
            case Sleep(seconds):
                yield from self._sleep(seconds)
                return None
            case Together(effects) if any(self._is_read(one) for one in effects):
                return (yield from self._read(effects))
            case Request() if self._is_read(effect):
                (outcome,) = yield from self._read((effect,))
                return outcome.result()
            case Request() if self._changes_door(effect):
                answer = yield effect
                yield from self._in_force()
                return answer
            case _:
                return (yield effect)

    def _is_read(self, effect: Any) -> bool:
        return isinstance(effect, Request) and effect.op in _READS and effect.server == self._migration.target_url

    def _changes_door(self, effect: Request) -> bool:
        """
        Whether an alias is changed that others' writes may go through.

        A coordinator that drops its own fence in the end has had an answer to everything it sent through it.
        """
        m = self._migration
        if effect.op != "change_aliases" or effect.server != m.target_url:
            return False
        changes = [(kind, names["alias_name"]) for action in effect.body["actions"] for kind, names in action.items()]
        return any(
            name.startswith(m.mend_prefix) or (kind == "create_alias" and name.startswith(m.fence_prefix))
            for kind, name in changes
        )

    def _read(self, effects: tuple[Any, ...]) -> Flow[list[Outcome]]:
        """
        Effects with a read of the target among them: answered by every copy, and not before late updates have landed.

        An update that a node had received before it stopped may be carried out when it goes on, after others that
        were acknowledged meanwhile.  So a read is sent when all copies have been answering for `LANDING_S`.
        """
        yield from self._steady()
        outcomes = yield from self._patiently(effects)
        self._answered_at = yield Now()
        return outcomes

    def _steady(self) -> Flow[None]:
        """Wait until the copies have been answering for long enough without a pause."""
        while True:
            yield from self._keep_in_touch()
            now: float = yield Now()
            if now - self._steady_since >= LANDING_S:
                return
            yield Report("waiting", text="until nothing that a node may have held back is under way any more")
            yield from self._co.stay()
            yield Sleep(TOUCH_S)

    def _sleep(self, seconds: float) -> Flow[None]:
        """Sleep, and keep in touch."""
        left = seconds
        while left > 0:
            yield Sleep(min(left, TOUCH_S))
            left -= TOUCH_S
            if left > 0:
                yield from self._co.stay()
            if self._migration.phase in _SETTLING:
                yield from self._keep_in_touch()

    def _keep_in_touch(self) -> Flow[None]:
        """Ask every copy for a point, without its content, unless they have answered a moment ago."""
        sent: float = yield Now()
        if sent - self._answered_at < TOUCH_S:
            return
        m = self._migration
        yield from self._patiently((wire.scroll(m.target_url, m.target, limit=1, payload=False),))
        now: float = yield Now()
        if now - self._answered_at > PAUSE_S:
            self._steady_since = now
        self._answered_at = sent

    def _patiently(self, effects: tuple[Any, ...]) -> Flow[list[Outcome]]:
        """Repeat reads until no node is away; other errors are the flow's."""
        strict = tuple(_of_every_copy(one) if self._is_read(one) else one for one in effects)
        began: float = yield Now()
        while True:
            outcomes: list[Outcome] = yield Together(strict)
            reads = (o.error for one, o in zip(strict, outcomes, strict=True) if self._is_read(one))
            error = next((e for e in reads if e is not None and _away(e)), None)
            if error is None:
                return outcomes
            self._answered_at = float("-inf")
            now: float = yield Now()
            if now - began > PATIENCE_S:
                raise RemoteFailure(
                    f"Not every copy of the target's points answers, and one alone proves nothing: {_words(error)}",
                    hint="Bring all nodes of the target's cluster back, then run the command again; nothing was lost.",
                ) from error
            yield Report("waiting", text=f"not every copy of the target answers: {_words(error)}")
            yield from self._co.stay()
            yield Sleep(TOUCH_S)

    def _in_force(self) -> Flow[None]:
        """
        Wait until every node has carried out every change of an alias so far.

        The answer to such a change speaks for one node only.  A node that is behind goes on resolving the old alias,
        and nothing asks it about its aliases from outside.  But every node carries out the cluster's changes in the
        same order, and a new copy of a collection becomes active when the node it is on has made it: so a small
        collection with a copy on each node is created, and once all copies are active the alias is behind them.

        Source: Qdrant 1.16.3, `toc/create_collection.rs` (`on_peer_created`), `dispatcher.rs` (a failure to
        synchronize is logged, not answered); tests/clients/test_cluster_target.py shows it with a stopped node.
        """
        m = self._migration
        prefix = f"{m.prefix}probe_"
        listed = yield wire.collections(m.target_url)
        for left_over in [c["name"] for c in listed["collections"] if c["name"].startswith(prefix)]:
            yield wire.delete_collection(m.target_url, left_over)
        token: str = yield NewId()
        probe = prefix + token[:12]
        behind = yield from self._peers()
        config = {"vectors": {}, "shard_number": 1, "replication_factor": len(behind)}
        yield wire.create_collection(m.target_url, probe, {**config, "strict_mode_config": {"enabled": False}})
        began: float = yield Now()
        try:
            while behind:
                now: float = yield Now()
                if now - began > PATIENCE_S:
                    raise RemoteFailure(
                        f"{len(behind)} of the nodes of the target's cluster have not taken up a change of its "
                        f"aliases: peer {', '.join(sorted(behind))}. Until they do, writes of the past may land there.",
                        hint="Bring them back, or remove them from the cluster, then run the command again.",
                    )
                yield Report("waiting", text=f"for {len(behind)} nodes of the target's cluster")
                yield from self._co.stay()
                yield Sleep(POLL_S)
                # Asked again: a node that has joined meanwhile is not on the list of the collection's copies.
                behind = (yield from self._peers()) - (yield from self._active(probe))
        finally:
            yield wire.delete_collection(m.target_url, probe)

    def _peers(self) -> Flow[set[str]]:
        return set((yield wire.cluster(self._migration.target_url)).get("peers") or {})

    def _active(self, probe: str) -> Flow[set[str]]:
        found = yield wire.placement(self._migration.target_url, probe)
        local = [{"peer_id": found["peer_id"], **shard} for shard in found["local_shards"]]
        return {str(shard["peer_id"]) for shard in [*local, *found["remote_shards"]] if shard["state"] == "Active"}


def _of_every_copy(read: Request) -> Request:
    """The read, answered by all copies, unless it says itself what is to be made of their answers."""
    return replace(read, params={"consistency": "all", **read.params})


def _away(error: Exception) -> bool:
    """Whether a node did not do its part: no answer, or the server's own failure."""
    return isinstance(error, Unreachable) or (isinstance(error, Rejected) and not error.final)


def _words(error: Exception) -> str:
    return error.message if isinstance(error, FerryError) else str(error)
