"""
The commands that change a migration, as flows; see `protocol/phases.py` for the table they walk.

Each can be run again after its coordinator died at any point: it looks at the phase and goes on from there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from qferry.control import records, wire
from qferry.errors import FerryError, Refused, Rejected, RemoteFailure
from qferry.flows import configuration, restore
from qferry.flows.coordinator import Coordinator, carries_marker, require_both_sides
from qferry.flows.effects import Flow, Json, NewId, Now, Report, Sleep, Today
from qferry.flows.settle import CYCLES_MAX, cycle, drain_well, never_clean, show_target
from qferry.protocol.checklist import SEALED
from qferry.protocol.phases import ENDED, Event, Phase, Side, out_of_order
from qferry.protocol.records import (
    CONTROL_COLLECTION,
    HOME,
    LEASE_MARGIN_S,
    LEASE_S,
    Migration,
    Strategy,
    WritePolicy,
    Writer,
    dashed,
)
from qferry.protocol.shadow import COMPARED_MIN, total

ALL_READS = 100  # per cent


def open_migrations() -> Flow[list[Migration]]:
    """The migrations that are not over."""
    found = yield from records.migrations()
    return [m for m in found if m.phase not in ENDED]


def ensure_control_collection() -> Flow[None]:
    """
    Create the control collection if this is the first migration on the server, and wait until every client knows.

    A client that has just found none may go on like that for one lease.  The record that says the lease has passed
    is written afterwards, so a coordinator that dies in between makes the next one wait.
    """
    exists = (yield wire.exists(HOME, CONTROL_COLLECTION))["exists"]
    if not exists:
        yield from _create(records.create_small_collection(CONTROL_COLLECTION))
    settled = yield wire.retrieve(HOME, CONTROL_COLLECTION, [records.SETTLED_ID], vector=False)
    if not settled:
        yield Report("lease", text="first migration on this server: waiting until every client has noticed")
        yield Sleep(LEASE_S + LEASE_MARGIN_S)
        yield records.put(records.SETTLED_ID, {"kind": "settled"})


def _create(request: Any) -> Flow[bool]:
    """Create something; False if somebody else has just done so."""
    try:
        yield request
    except Rejected as error:
        if not error.exists:
            raise
        return False
    return True


def record(
    source: str,
    target: str,
    target_url: str,
    overrides: Mapping[str, Any],
    aliases: Sequence[str],
    policy: WritePolicy,
    strategy: Strategy = Strategy.STREAM,
) -> Flow[Migration]:
    """
    Write a new migration's record, phase `preparing`; nothing follows from it until it is claimed.

    Raises:
        Refused: Another migration has one of the names in hand.
    """
    past = yield from records.migrations()
    inherited = [n for m in past if m.phase is Phase.CLEANED and m.target == source for n in m.names]
    migration_id: str = yield NewId()
    at: str = yield Today()
    names = tuple(dict.fromkeys([source, target, *aliases, *inherited]))
    migration = Migration(
        id=dashed(migration_id),
        source=source,
        target=target,
        names=names,
        target_url=target_url,
        policy=policy,
        strategy=strategy,
        created_at=at,
        aliases=tuple(aliases),
        overrides=dict(overrides),
        generation=1 + max((m.generation for m in past), default=0),
    )
    yield records.put(migration.id, migration.to_payload())
    yield from alone(migration)
    return migration


def alone(migration: Migration) -> Flow[None]:
    """
    Make sure that no other migration has one of this one's names in hand; called while it is `preparing`.

    Two starts at once: each has written its record before it looks here.  A record that nobody has claimed yet never
    began (its start may have died, or its request landed late) and is removed; who loses it that way finds it gone
    when it claims.  At most one goes on; if none does, nothing was done and either may be run again.

    Raises:
        Refused: There is one; this one's record is removed.
    """
    for other in (yield from open_migrations()):
        if other.id == migration.id or not {*other.names} & {*migration.names}:
            continue
        if other.phase is Phase.PREPARING and not other.claim:
            yield records.forget_migration(other.id, "")
            continue
        yield records.forget_migration(migration.id, migration.claim)
        raise Refused(
            f"`{other.source}` → `{other.target}` is {other.phase.value} and has one of these names in hand.",
            hint="Complete or abort that migration first (`qferry status`).",
        )


def start(co: Coordinator) -> Flow[list[Writer]]:
    """
    Create target, journal and markers, let the clients take up dual writes, and wait until all of them have.

    Only then may a copy read its first page.  Before a snapshot they take up the journal alone, and dual writes when
    the target has been restored from it (flows/restore.py).
    """
    if co.migration.phase is Phase.PREPARING:
        yield from alone(co.migration)
        yield from co.move(Event.ANNOUNCE, "announced")
    if co.migration.phase is Phase.ANNOUNCED:
        # An application that looks for the new name first must not find it while it is still empty.
        yield from co.acknowledged(co.migration.epoch)
        yield from _prepare(co)
        if co.migration.strategy is Strategy.SNAPSHOT:
            yield from co.move(Event.CAPTURED, "the journal begins")
        else:
            yield from co.move(Event.CREATED, "dual writes begin")
    if co.migration.phase is Phase.CAPTURING:
        writers = yield from co.acknowledged(co.migration.epoch)
        yield from co.save({"expected_points": (yield wire.count(HOME, co.migration.source))["count"]})
        return writers
    return (yield from take_up_dual_writes(co))


def take_up_dual_writes(co: Coordinator) -> Flow[list[Writer]]:
    """Wait until every writer writes to both sides; a target that was restored from a snapshot is whole then."""
    if co.migration.phase is not Phase.STARTING:
        raise out_of_order(co.migration.phase, "qferry start")
    writers = yield from co.acknowledged(co.migration.epoch)
    m = co.migration
    # Writes acknowledged with wait=false before the clients changed over must have been applied before page one.
    yield wire.barrier(HOME, m.source)
    # An application may have added an index while the target was being created.
    infos = yield from _infos(m)
    yield from configuration.copy_indexes(m.target_url, m.target, *infos)
    expected = (yield wire.count(HOME, m.source))["count"]
    event = Event.COPY_DONE if m.strategy is Strategy.SNAPSHOT else Event.WRITERS_READY
    yield from co.move(event, "all writers write to both", {"expected_points": expected})
    return list(writers)


def _infos(m: Migration) -> Flow[tuple[Json, Json]]:
    source = yield wire.info(HOME, m.source)
    target = yield wire.info(m.target_url, m.target)
    return source, target


def _prepare(co: Coordinator) -> Flow[None]:
    m = co.migration
    source = yield wire.info(HOME, m.source)
    yield from _create(records.create_small_collection(m.journal_collection))
    made = configuration.unindexed(m.overrides) if m.strategy is Strategy.BULK else m.overrides
    created = yield from _create_target(co, configuration.to_create(source, made))
    ours = created or (yield from carries_marker(m, Side.TARGET))
    # Otherwise made by this start before it was interrupted, or by somebody else since the plan: taken if it is empty.
    if not ours and (yield wire.count(m.target_url, m.target))["count"]:
        yield from _withdraw(co)
        raise Refused(
            f"Somebody has made a collection `{m.target}` meanwhile, and it is not empty.",
            hint="Choose another name; nothing is left of this start.",
        )
    yield wire.change_aliases(m.target_url, create={m.marker(Side.TARGET): m.target})
    yield wire.change_aliases(HOME, create={m.marker(Side.SOURCE): m.source})
    target = yield wire.info(m.target_url, m.target)
    unlike = configuration.differences(source, target, made)
    if unlike:
        if created:
            yield wire.delete_collection(m.target_url, m.target)
        yield from _withdraw(co)
        raise Refused(
            f"The target has not the configuration that was asked for: {unlike[0]}.",
            hint="Check the settings given with --set; nothing is left of this start.",
        )
    yield from configuration.copy_indexes(m.target_url, m.target, source, target)


def _create_target(co: Coordinator, config: Json) -> Flow[bool]:
    m = co.migration
    if (yield wire.exists(m.target_url, m.target))["exists"]:
        return False
    try:
        return (yield from _create(wire.create_collection(m.target_url, m.target, config)))
    except Rejected as error:
        if not error.final:
            raise
        yield from _withdraw(co)
        raise Refused(
            f"The server refuses the target's configuration. {error.message}",
            hint="Check the settings given with --set; nothing is left of this start.",
        ) from error


def _withdraw(co: Coordinator) -> Flow[None]:
    """Take back a start that no client acts on yet."""
    yield from dismantle(co.migration)
    yield records.forget_migration(co.migration.id, co.token)


def require_evidence(co: Coordinator) -> Flow[None]:
    """
    The gates before readers see the target.

    A full check that counts, no suspicion, searches that find the same, no writer that is kept from the target, both
    collections still the ones that were checked, the same configuration.

    Raises:
        Refused: naming the first gate that is not passed.
    """
    m = co.migration
    if m.suspicions:
        raise Refused(
            f"The migration is suspect: {m.suspicions[0]}.",
            hint="Run `qferry verify --repair`; it checks every point and clears this.",
        )
    if m.verified is None:
        raise Refused("Nothing proves yet that the target equals the source.", hint="Run `qferry verify` first.")
    if not m.searches_proven:
        raise Refused(
            "Nothing proves yet that searches on the target find what they find on the source.",
            hint="Run `qferry verify`; it compares them once every point is equal, and says what is wrong.",
        )
    for writer in (yield from records.writers()):
        if writer.pins.dual_write is False:
            raise Refused(
                f"{writer.describe()} is kept from the target by ENABLE_DUAL_WRITE=false.",
                hint="Restart it without the variable.",
            )
    yield from require_both_sides(m)
    yield from require_known_aliases(m)
    yield from require_same_configuration(m)


def require_good_shadows(m: Migration, shadow_percent: float | None = None) -> Flow[None]:
    """
    Refuse while shadow reads are asked for and do not show yet that both sides answer alike.

    Those that a process has found are gone with it, so that too few of them say nothing, neither good nor bad.

    Args:
        m: The migration.
        shadow_percent: The share that will be repeated from now on, if it changes; 0: they are given up.
    """
    if not m.shadow_percent or shadow_percent == 0:
        return
    found = total([w.shadow[m.id] for w in (yield from records.writers()) if m.id in w.shadow], m.shadow_since)
    if found.repeated < COMPARED_MIN:
        raise Refused(
            f"Too few shadow reads have been compared yet: {found.repeated} of {COMPARED_MIN}.",
            hint="Wait until the processes that run now have read more, or go without with `--shadow 0`: "
            f"`qferry switch --percent {m.read_percent} --shadow 0`.",
        )
    worse = found.worse(m.canary_max_errors_percent)
    if worse:
        raise Refused(
            f"The two sides do not answer alike: {worse}.",
            hint="Look at `qferry status`; when the cause is mended, count anew with `qferry switch --percent 0 "
            f"--shadow {m.shadow_percent:g}%`, or go without with `--shadow 0`.",
        )


def require_known_aliases(m: Migration) -> Flow[None]:
    """Refuse while the source has an alias that clients do not know to be one of its names."""
    listed = yield wire.aliases(HOME)
    for alias in listed["aliases"]:
        name = alias["alias_name"]
        if alias["collection_name"] == m.source and name not in m.names and not name.startswith(CONTROL_COLLECTION):
            raise Refused(
                f"The alias `{name}` of `{m.source}` is newer than the migration: calls through it miss the target.",
                hint="Remove it, or abort and start again; then run `qferry verify --repair`.",
            )


def require_same_configuration(m: Migration) -> Flow[None]:
    """Refuse when somebody has reconfigured one of the two sides."""
    infos = yield from _infos(m)
    unlike = [*configuration.differences(*infos, m.overrides), *configuration.index_differences(*infos)]
    if unlike:
        raise Refused(
            f"The configurations have come apart since the check: {unlike[0]}.", hint="Run `qferry verify --repair`."
        )
    if m.parity is not None and m.parity.get("configuration") != configuration.fingerprint(*infos):
        raise Refused(
            "Both sides have been reconfigured alike since their searches were compared.", hint="Run `qferry verify`."
        )


def wait_until_green(co: Coordinator, timeout_s: float) -> Flow[None]:
    """Wait until the target has built its indexes and shows every point it has."""
    m = co.migration
    began: float = yield Now()
    while True:
        info = yield wire.info(m.target_url, m.target)
        queue = info.get("update_queue") or {}
        if info["status"] == "green" and not queue.get("length") and not queue.get("deferred_points"):
            return
        now: float = yield Now()
        if now - began > timeout_s:
            raise Refused(
                f"After {timeout_s:.0f} s the target is still {info['status']}: its indexes are not complete.",
                hint="Searches on it would be slow; wait for it, or raise --green-timeout.",
            )
        done, total = info.get("indexed_vectors_count") or 0, info.get("points_count") or 0
        yield Report("index", min(done, total), total, f"target is {info['status']}")
        yield from co.stay()
        yield Sleep(0.5)


def switch(
    co: Coordinator, percent: int, *, green_timeout_s: float = 3600.0, settings: Mapping[str, Any] | None = None
) -> Flow[None]:
    """
    Send `percent` of the reads to the target, also if readers had stepped back from it when this was asked for.

    Args:
        co: The coordinator.
        percent: The share, 0 to 100.
        green_timeout_s: How long to wait for the target's indexes, in seconds.
        settings: Fields of the record that are to change with it: what readers put up with, and `shadow_percent`.

    Raises:
        Refused: A gate is not passed, or readers have stepped back meanwhile; nothing changed.
    """
    m = co.migration
    if m.phase not in (Phase.COPIED, Phase.SWITCHED):
        raise out_of_order(m.phase, f"qferry switch --percent {percent}")
    if percent > (0 if m.stepped_back else m.read_percent):
        yield from require_good_shadows(m, (settings or {}).get("shadow_percent"))
    opening = m.phase is Phase.COPIED
    yield from co.fenced()
    yield from co.roll_call("switch asked for")
    yield from require_evidence(co)
    yield from wait_until_green(co, green_timeout_s)
    if opening and m.policy is not WritePolicy.BOTH:
        # From here on a write that the target misses would be missed by readers: everyone must require both sides
        # before anyone reads from the target.
        epoch = yield from co.publish({"policy": WritePolicy.BOTH.value}, "policy both")
        yield from co.acknowledged(epoch)
    if opening:
        yield from drain_well(co)
        done = yield from cycle(co, "journal cycle before the switch")
        if done.left:
            raise Refused(f"{done.left} points keep differing.", hint="Run `qferry verify`, then try again.")
        yield from require_evidence(co)  # hearing the writers may have raised a suspicion
    yield from co.open_mending()
    # Readers see the target only after one more clean cycle: a write under way may have met the last repairs.
    held = {"reads_held": opening or co.migration.reads_held}
    since = {"shadow_since": co.migration.epoch + 1} if "shadow_percent" in (settings or {}) else {}
    changes = {**(settings or {}), **since, **held, "read_percent": percent, "stepped_back": ""}
    what = f"reads {percent} % on the target"
    # What readers have met since this was asked for is not taken back unheard.
    epoch = yield from co.move(Event.READS_SWITCHED, what, changes, stepped_back=m.stepped_back, percent=percent)
    yield from co.acknowledged(epoch)
    yield from drain_well(co)  # a writer that was kept from the target until a moment ago
    if not (yield from show_target(co)):
        yield from require_evidence(co)
        raise never_clean("Reads stay on the source.")


def rollback(co: Coordinator) -> Flow[None]:
    """
    Send every read to the source again.

    The source has been truth all along, so this is only routing: done when new calls follow it.  Clients whose key may
    only read follow a lease later; until then `reads_held` keeps repairs waiting.
    """
    changes = {"read_percent": 0, "reads_held": True, "stepped_back": "", "shadow_percent": 0.0}
    epoch = yield from co.move(Event.ROLLED_BACK, "reads back on the source", changes)
    yield from co.acknowledged(epoch, seen=True)


def soak(co: Coordinator, seconds: float) -> Flow[int]:
    """Keep settling the journal, so that what concurrent writers leave apart comes together; returns repairs."""
    began: float = yield Now()
    repaired = 0
    yield from co.fenced()
    yield from co.keep_mending()
    while True:
        done = yield from drain_well(co)
        repaired += done.repaired
        if not (yield from show_target(co)):
            yield Report("held", text="reads stay on the source: the journal has no cycle without a difference yet")
        now: float = yield Now()
        yield Report("soak", int(now - began), int(seconds), f"{repaired:,} points repaired")
        if now - began >= seconds:
            return repaired
        yield from co.stay()
        yield Sleep(1.0)


def finish(co: Coordinator, cleanup_after: str) -> Flow[None]:
    """
    Let the application leave the source; no write pause.

    (a) every writer requires both sides, (b) all reads are on the target, (c) verified, not suspect, and one clean
    journal cycle; (d) repairs stop for good; (e) the target becomes truth, then the only one, each writer at its own
    pace.  (e) has two steps, so that while some writers already write to the target alone, no other writer resolves
    a filter, or judges a missing point, on the source (docs/adr/0004).

    Raises:
        Refused: A gate is not passed, or the cycles keep finding differences; nothing changed.
    """
    if co.migration.phase is Phase.SWITCHED:
        yield from _seal(co, cleanup_after)
    if co.migration.phase is Phase.FINISHING:
        yield from co.acknowledged(co.migration.epoch)
        yield from co.outlast_observers()
        at: str = yield Today()
        yield from co.move(Event.SOURCE_RETIRED, "writers leave the source", {"finished_at": at})
    if co.migration.phase is not Phase.FINISHED:
        raise out_of_order(co.migration.phase, "qferry finish")
    yield from co.acknowledged(co.migration.epoch)
    yield from _move_aliases(co)


def _seal(co: Coordinator, cleanup_after: str) -> Flow[None]:
    m = co.migration
    if m.read_percent != ALL_READS:
        raise Refused(
            f"Only {m.read_percent} % of the reads are on the target.", hint="Run `qferry switch --percent 100` first."
        )
    co.require_readers()
    yield from require_good_shadows(m)
    yield from co.fenced()
    yield from require_evidence(co)
    writers = yield from records.writers()
    for writer in writers:
        if writer.pins.new_reads is False:
            raise Refused(
                f"{writer.describe()} is kept on the source by ENABLE_NEW_READS=false.",
                hint="Restart it without the variable.",
            )
    yield from co.outlast_observers()  # who may have read from the source until a moment ago
    try:
        yield from _clean_cycle(co)
        yield from co.drop_fence()
        yield from require_both_sides(m)  # as late as can be: from here on the target is the truth
    except GeneratorExit:
        raise
    except BaseException:  # an interrupt, too: writers that lack a point on the target wait for the door to open
        with suppress(FerryError):  # what went wrong first is what the operator must hear of
            yield from co.keep_mending()
        raise
    concerned = [w for w in writers if m.id in w.seen]
    failed = sum(w.failed.get(m.id, 0) for w in concerned)
    changes = {"cleanup_after": cleanup_after}
    try:
        yield from co.move(Event.SEALED, SEALED, changes, stepped_back="", writers=len(concerned), failed=failed)
    except GeneratorExit:
        raise
    except BaseException:  # readers have stepped back meanwhile, or nobody knows whether it was sealed
        with suppress(FerryError):
            yield from co.leave_unsealed()
        raise


def _clean_cycle(co: Coordinator) -> Flow[None]:
    """
    Find a journal cycle without a difference, and without a repair or a mending writer that could make one.

    What is to be repaired is repaired before, with readers on the source if need be, and with the door open: a writer
    that waits for a point holds up the acknowledgement that a cycle begins with.

    Raises:
        Refused: There was none, or the evidence is gone.
    """
    for attempt in range(1, CYCLES_MAX + 1):
        yield Report("cycle", attempt, CYCLES_MAX, "looking for a journal cycle without a difference")
        yield from co.keep_mending()
        yield from drain_well(co)
        held = co.migration.reads_held
        shown = yield from show_target(co)
        yield from require_evidence(co)
        if not shown:
            break
        if held:
            yield from co.outlast_observers()
        # What a writer was bringing when this is closed has ended, and is journalled, when the cycle begins.
        yield from co.close_mending()
        done = yield from cycle(co, "journal cycle before finish", mend=False)
        yield from require_evidence(co)
        if not done.left:
            return
    raise never_clean("Reads and writes go on as they are.")


def _move_aliases(co: Coordinator) -> Flow[None]:
    """Point the source's aliases, on the same server, at the target; for readers without qferry."""
    m = co.migration
    if m.target_url != HOME:
        return
    listed = yield wire.aliases(HOME)
    mine = [a["alias_name"] for a in listed["aliases"] if a["collection_name"] == m.source]
    moved = [name for name in mine if not name.startswith(CONTROL_COLLECTION)]
    if moved:
        yield wire.change_aliases(HOME, drop=moved, create=dict.fromkeys(moved, m.target))
        yield from co.note("aliases moved", aliases=moved)


def abort(co: Coordinator) -> Flow[None]:
    """
    Return to the source alone and remove what this migration has made. Possible at any time before finish.

    Raises:
        Refused: Somebody has deleted the source, or made it anew, and the target has points; nothing is deleted.
    """
    yield from _spare_the_last_copy(co.migration)
    if co.migration.phase is Phase.SWITCHED:
        yield from rollback(co)
    if co.migration.phase is Phase.COPIED:
        yield from co.outlast_observers()
    if co.migration.phase is not Phase.ABORTING:
        yield from co.move(Event.ABANDONED, "abort: writes on the source alone", {"read_percent": 0})
    yield from co.acknowledged(co.migration.epoch)
    try:
        yield from _remove(co)
    except RemoteFailure as error:
        m = co.migration
        left = f"Every application is back on `{m.source}` alone, but not all that the migration made is removed yet"
        again = f"Once that is mended, run `qferry abort {m.source}` again: it goes on with the rest."
        raise type(error)(f"{left}: {error.message}", hint=again, **error.fields) from error


def _remove(co: Coordinator) -> Flow[None]:
    """Remove what the migration has made; the application does not need it any more."""
    m = co.migration
    yield from co.still_mine()
    if m.strategy is Strategy.SNAPSHOT:
        yield from restore.dismantle(co)
    yield from _spare_the_last_copy(m)
    if (yield from carries_marker(m, Side.TARGET)):
        yield wire.delete_collection(m.target_url, m.target)
    yield from dismantle(m)
    if m.plan:
        yield records.forget(m.plan)
    yield from co.move(Event.DISMANTLED, "aborted")


def _spare_the_last_copy(m: Migration) -> Flow[None]:
    """Refuse to give up a target that has points while its source is not the one this migration began with."""
    if (yield from carries_marker(m, Side.SOURCE)):  # the way back does not wait for the target's server
        return
    if not (yield from carries_marker(m, Side.TARGET)):
        return  # it is left alone
    try:
        points = f"{(yield wire.count(m.target_url, m.target))['count']:,}"
    except Rejected:  # a snapshot's recovery that went wrong may have left no shard to ask
        points = "an unknown number of"
    if points != "0":
        raise Refused(
            f"`{m.source}`, the source, was deleted since the start, so `{m.target}`, the target, with {points} points "
            "may hold all that is left; it was not deleted.",
            hint=f"Find out who has done that.  To end the migration and keep `{m.target}`, remove its alias "
            f"`{m.marker(Side.TARGET)}`; if it may go, delete it by hand.  Then run `qferry abort` again.",
        )


def dismantle(m: Migration, sides: Collection[Side] = tuple(Side)) -> Flow[None]:
    """Remove the journal, what was compared, and the markers that are left on these sides."""
    if m.comparison:
        yield records.forget(m.comparison)
    yield from _delete_collection(HOME, m.journal_collection)
    for side in sides:
        listed = yield wire.aliases(m.server(side))
        if m.marker(side) in [a["alias_name"] for a in listed["aliases"]]:
            yield wire.change_aliases(m.server(side), drop=[m.marker(side)])


def _delete_collection(server: str, name: str) -> Flow[None]:
    try:
        yield wire.delete_collection(server, name)
    except Rejected as error:
        if not error.missing:
            raise


def one_of(found: Sequence[Migration], source: str | None) -> Migration:
    """
    The migration a command means: the one of that source (or target, or alias), or the only one that is not over.

    Raises:
        Refused: There is none, or more than one.
    """
    if source is not None:
        matching = [m for m in found if source in m.names]
        if not matching:
            raise Refused(f"There is no migration of `{source}` on this server.", hint="`qferry status` lists them.")
        # One that only prepares may be the trace of a start that was run again.
        return max(matching, key=lambda m: (m.phase not in ENDED, m.phase is not Phase.PREPARING, m.generation))
    live = [m for m in found if m.phase not in ENDED]
    begun = [m for m in live if m.phase is not Phase.PREPARING]
    live = begun or live
    if not live:
        raise Refused("No migration is under way on this server.", hint="`qferry plan` shows what could be migrated.")
    if len(live) != 1:
        names = ", ".join(f"`{m.source}`" for m in live)
        raise Refused(
            f"{len(live)} migrations are under way ({names}), so the command needs the source's name.",
            hint="Give it as the first argument.",
        )
    return live[0]
