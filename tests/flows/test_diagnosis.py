"""Tests of the examination: what is found, what is called a problem, and that nothing is written or guessed."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from playing import Play

from qferry.errors import Rejected, Unreachable
from qferry.flows.configuration import fingerprint
from qferry.flows.diagnosis import Finding, examine
from qferry.flows.effects import Request
from qferry.protocol.phases import Phase, Side
from qferry.protocol.records import CLAIM_S, LEASE_MARGIN_S, LEASE_S, Migration, Pins, Writer

ELSEWHERE = "http://elsewhere:6333"
EVIDENCE = {"at": "2026-01-01T00:00:00Z", "points": 3}
READS = {"scroll", "count", "aliases", "exists", "info", "collections", "snapshots"}
INFO = {"config": {"params": {"vectors": {"size": 4, "distance": "Cosine"}}}, "payload_schema": {}}


def standing(beat: int) -> Callable[[], int]:
    """Give a counter that has stopped."""
    return lambda: beat


def moving() -> Callable[[], int]:
    """Give a counter of somebody who is alive."""
    beats = iter(range(10_000))
    return lambda: next(beats)


@dataclass
class Ward:
    """What a server with one migration answers."""

    m: Migration
    claim_beat: Callable[[], int] = int
    writers: list[tuple[Writer, Callable[[], int]]] = field(default_factory=list)
    debt: int | None = 0
    aliases: dict[str, str] = field(default_factory=dict)
    collections: list[str] = field(default_factory=list)
    snapshots: list[str] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    infos: dict[str, Any] = field(default_factory=dict)
    others: list[Migration] = field(default_factory=list)
    down: str = ""

    def __post_init__(self) -> None:
        for side in Side:
            self.aliases.setdefault(self.m.marker(side), self.m.collection(side))

    def answer(self, request: Any) -> Any:
        """Answer a request, which must be a question."""
        assert isinstance(request, Request)
        assert request.op in READS, request.op
        if self.down and request.server == self.down:
            return Unreachable("The target's server gave no answer.", hint="Check that it runs.")
        match request.op:
            case "scroll":
                return {"points": [{"payload": p} for p in self._records(request.body)], "next_page_offset": None}
            case "count":
                return Rejected("no such collection", status=404) if self.debt is None else {"count": self.debt}
            case "aliases":
                return {"aliases": [{"alias_name": a, "collection_name": c} for a, c in self.aliases.items()]}
            case "exists":
                return {"exists": request.path.split("/")[2] in self.collections}
            case "info":
                return self.infos.get(request.path.split("/")[2], INFO)
            case "collections":
                return {"collections": [{"name": name} for name in self.collections]}
        return [{"name": name} for name in self.snapshots]

    def _records(self, body: Any) -> list[dict[str, Any]]:
        (condition,) = body["filter"]["must"]
        if condition.get("key") == "source":
            return [other.to_payload() for other in self.others if other.source == condition["match"]["value"]]
        if "has_id" in condition or condition["match"]["value"] == "migration":
            return [replace(self.m, claim_beat=self.claim_beat()).to_payload()]
        if condition["match"]["value"] == "writer":
            return [replace(writer, beat=beat()).to_payload() for writer, beat in self.writers]
        return self.events


def migration(phase: Phase, **fields: Any) -> Migration:
    """Return a migration in a phase; if it is verified, its searches are compared too, unless told otherwise."""
    compared = {"passed": True, "configuration": fingerprint(INFO, INFO)}
    fields = {"parity": compared, **fields} if "verified" in fields else fields
    return Migration("m1-00000-rest", "old", "new", ("old", "new"), phase=phase, epoch=4).with_changes(fields)


def writer(m: Migration, **fields: Any) -> Writer:
    """Return a writer of that migration."""
    return replace(Writer("w", "web", 812, "09:00", 1, {m.id: 4}, {m.id: 4}, {}), **fields)


def found(ward: Ward) -> tuple[list[Finding], float]:
    """Examine, and return what was found and after how many seconds."""
    play = Play(ward.answer)
    findings: list[Finding] = play.run(examine([ward.m.id]))
    return findings, sum(play.slept)


def topics(ward: Ward) -> list[tuple[str, bool]]:
    """What kinds of things are found, and whether somebody has to act."""
    return [(finding.topic, finding.problem) for finding in found(ward)[0]]


@pytest.mark.parametrize("phase", [Phase.COPYING, Phase.COPIED, Phase.SWITCHED])
def test_nothing_is_found_where_nothing_is_wrong(phase: Phase) -> None:
    """A migration on its way, with an application that lives, is not waited for and not complained of."""
    m = migration(phase, verified=EVIDENCE, read_percent=10)
    findings, seconds = found(Ward(m, writers=[(writer(m), moving())]))
    assert findings == []
    assert seconds == 0


def test_coordinator_that_stands_still_for_its_claim_is_gone() -> None:
    """It is judged by its counter, and only after as long as a command that takes over waits."""
    findings, seconds = found(Ward(migration(Phase.COPYING, claim="t", claim_by="ops pid 5")))
    (finding,) = findings
    assert (finding.source, finding.target, finding.topic, finding.problem) == ("old", "new", "coordinator", True)
    assert finding.what == "ops pid 5 has not been heard of for 10 s: that command has died, or is stopped."
    assert "run `qferry backfill`" in finding.mend
    assert seconds > CLAIM_S


def test_what_a_command_at_work_may_be_changing_is_not_looked_at() -> None:
    """A missing journal may be one that is being removed; the note says that nobody looked."""
    ward = Ward(migration(Phase.COPYING, claim="t", claim_by="ops pid 5"), claim_beat=moving(), debt=None)
    ((finding,), seconds) = found(ward)
    assert (finding.topic, finding.problem) == ("coordinator", False)
    assert finding.what == "ops pid 5 is at work; what it may be changing was not looked at."
    assert seconds == 0


def test_what_was_found_while_a_command_began_is_taken_back() -> None:
    """The record is read again at the end; if it has changed, what was seen in between proves nothing."""
    ward = Ward(migration(Phase.COPYING), debt=None)
    asked = ward.answer

    def answer(request: Any) -> Any:
        if request.op == "count":
            ward.m = replace(ward.m, claim="t", claim_by="ops pid 5")
        return asked(request)

    findings = Play(answer).run(examine([ward.m.id]))
    assert [(finding.topic, finding.problem) for finding in findings] == [("coordinator", False)]


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.ANNOUNCED, Phase.STARTING, Phase.FINISHING, Phase.ABORTING])
def test_phase_that_only_a_command_passes_through_is_one_that_was_interrupted(phase: Phase) -> None:
    """A start that is just beginning is waited for, as long as for a claim."""
    findings, seconds = found(Ward(migration(phase)))
    assert [(finding.topic, finding.problem) for finding in findings] == [("phase", True)]
    assert "What next: " in findings[0].mend
    assert seconds > CLAIM_S


@pytest.mark.parametrize(
    ("phase", "mend"),
    [
        (Phase.COPYING, "the full check after the copy, `qferry verify old`"),
        (Phase.COPIED, "Run `qferry verify old --repair`"),
    ],
)
def test_writer_that_stands_still_for_its_lease_is_gone(phase: Phase, mend: str) -> None:
    """It may have taken something with it, which only a full check finds."""
    m = migration(phase, verified=EVIDENCE)
    findings, seconds = found(Ward(m, writers=[(writer(m), standing(7))]))
    (finding,) = findings
    assert (finding.topic, finding.problem) == ("writer", True)
    assert finding.what.startswith("web pid 812 (connected since 09:00) has not been heard of for 6 s.")
    assert mend in finding.mend
    assert LEASE_S + LEASE_MARGIN_S < seconds < CLAIM_S


def test_writer_of_another_migration_is_not_waited_for() -> None:
    """Only those that follow this one can have touched its points."""
    m = migration(Phase.COPIED, verified=EVIDENCE)
    assert found(Ward(m, writers=[(writer(m, seen={"other": 1}), standing(7))])) == ([], 0)


@pytest.mark.parametrize(
    ("phase", "fields", "pins", "expected"),
    [
        (Phase.COPYING, {}, Pins(dual_write=False), ("pin", False)),
        (Phase.COPIED, {}, Pins(dual_write=False), ("pin", True)),
        (Phase.SWITCHED, {"read_percent": 10}, Pins(dual_write=False), ("pin", True)),
        (Phase.SWITCHED, {"read_percent": 10}, Pins(new_reads=False), ("pin", False)),
        (Phase.SWITCHED, {"read_percent": 100}, Pins(new_reads=False), ("pin", True)),
        (Phase.COPIED, {}, Pins(dual_write=True, new_reads=True), None),
    ],
)
def test_pin_is_a_problem_once_it_is_in_the_way(
    phase: Phase, fields: dict[str, Any], pins: Pins, expected: tuple[str, bool] | None
) -> None:
    """A process kept from the target bars the switch, one kept on the source the finish; before, it is worth a note."""
    m = migration(phase, verified=EVIDENCE, **fields)
    ward = Ward(m, writers=[(writer(m, pins=pins), moving())])
    assert topics(ward) == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("m", "expected"),
    [
        (migration(Phase.COPIED), ("evidence", False)),
        (migration(Phase.SWITCHED), ("evidence", True)),
        (migration(Phase.COPYING, suspicions=("web pid 9 vanished",)), ("suspicion", False)),
        (migration(Phase.COPIED, suspicions=("web pid 9 vanished",)), ("suspicion", True)),
        (migration(Phase.SWITCHED, verified=EVIDENCE, reads_held=True, read_percent=10), ("reads", True)),
        (migration(Phase.COPYING, paused=True), ("pace", False)),
        (migration(Phase.FINISHED, cleanup_after="2025-12-31T00:00:00Z"), ("cleanup", False)),
    ],
)
def test_record_tells_what_is_missing(m: Migration, expected: tuple[str, bool]) -> None:
    """What the next step would lack is a problem; what the ordinary course brings is a note."""
    assert topics(Ward(m)) == [expected]


def test_writer_that_suspects_itself_is_heard() -> None:
    """The next command would make a suspicion of it."""
    m = migration(Phase.COPIED, verified=EVIDENCE)
    assert topics(Ward(m, writers=[(writer(m, suspects={m.id: 1}), moving())])) == [("writer", True)]


def test_debt_is_a_note_and_a_lost_journal_a_problem() -> None:
    """Every command settles the one; nothing replaces the other."""
    m = migration(Phase.COPIED, verified=EVIDENCE)
    (finding,), _ = found(Ward(m, debt=12))
    assert (finding.problem, finding.what) == (False, "12 written point(s) wait to be checked.")
    assert finding.mend == "Run `qferry soak old`."
    assert topics(Ward(m, debt=None)) == [("journal", True)]


@pytest.mark.parametrize(
    ("phase", "goes_on"),
    [(Phase.STARTING, "`qferry start`"), (Phase.CAPTURING, "`qferry backfill`"), (Phase.COPYING, "`qferry backfill`")],
)
def test_debt_is_settled_by_the_command_that_goes_on(phase: Phase, goes_on: str) -> None:
    """Before the copy is complete only one is possible."""
    (finding,) = [finding for finding in found(Ward(migration(phase), debt=12))[0] if finding.topic == "journal"]
    assert goes_on in finding.mend


@pytest.mark.parametrize(("there", "says"), [([], "is gone"), (["new"], "was deleted and made anew")])
def test_target_without_its_marker_is_not_the_one_that_was_made(there: list[str], says: str) -> None:
    """The server drops an alias with its collection, so one of the same name is told apart."""
    ward = Ward(migration(Phase.COPIED, verified=EVIDENCE), collections=there)
    del ward.aliases[ward.m.marker(Side.TARGET)]
    (finding,), _ = found(ward)
    assert (finding.topic, finding.problem) == ("collection", True)
    assert says in finding.what
    assert "`qferry abort old`" in finding.mend


@pytest.mark.parametrize(
    ("phase", "side", "there", "advice"),
    [
        (Phase.COPIED, Side.SOURCE, False, "Let nobody delete `new`, and do not abort"),
        (Phase.FINISHING, Side.TARGET, True, "Let nobody delete `old`"),
        (Phase.FINISHED, Side.SOURCE, False, "Run `qferry cleanup old` when it is time."),
        (Phase.FINISHED, Side.SOURCE, True, "do it by hand if you are sure"),
        (Phase.FINISHED, Side.TARGET, False, "Let nobody delete `old`, and do not clean up"),
        (Phase.FINISHED, Side.TARGET, True, "Let nobody delete `old`, and do not clean up"),
    ],
)
def test_advice_about_a_lost_side_never_costs_the_other(phase: Phase, side: Side, there: bool, advice: str) -> None:
    """Where the truth is gone the other side may be all there is."""
    m = migration(phase, verified=EVIDENCE, cleanup_after="2025-12-31T00:00:00Z")
    ward = Ward(m, collections=["old", "new"] if there else [])
    del ward.aliases[m.marker(side)]
    (finding,) = [finding for finding in found(ward)[0] if finding.topic in ("collection", "cleanup")]
    assert (finding.topic, finding.problem) == ("collection", True)
    assert advice in finding.mend


@pytest.mark.parametrize("phase", [Phase.COPIED, Phase.FINISHING, Phase.FINISHED])
def test_nothing_is_called_safe_when_both_sides_are_lost(phase: Phase) -> None:
    """Neither is the other's copy then; only people can tell what happened."""
    ward = Ward(migration(phase, verified=EVIDENCE))
    ward.aliases.clear()
    findings = [finding for finding in found(ward)[0] if finding.topic == "collection"]
    assert [finding.what for finding in findings] == ["`old`, the source, is gone.", "`new`, the target, is gone."]
    assert all(finding.mend.startswith("Neither side is what it was.") for finding in findings)


@pytest.mark.parametrize(
    ("phase", "created_at", "expected"),
    [
        (Phase.CLEANED, "2026-02-01T00:00:00Z", []),
        (Phase.ABORTED, "2026-02-01T00:00:00Z", [("collection", True)]),
        (Phase.CLEANED, "2025-12-01T00:00:00Z", [("collection", True)]),
    ],
)
def test_target_that_a_later_migration_has_moved_on_is_not_lost(
    phase: Phase, created_at: str, expected: list[tuple[str, bool]]
) -> None:
    """Its record, next to the target, says that its points are elsewhere; an earlier or an aborted one's does not."""
    on = Migration("m2", "new", "newer", ("new", "newer"), phase=phase, created_at=created_at)
    m = migration(Phase.FINISHED, created_at="2026-01-01T00:00:00Z", target_url=ELSEWHERE)
    ward = Ward(m, others=[on])
    del ward.aliases[m.marker(Side.TARGET)]
    assert topics(ward) == expected


def test_server_of_the_target_must_answer_before_anybody_is_told_to_clean_up() -> None:
    """The source may be all that is left."""
    m = migration(Phase.FINISHED, cleanup_after="2025-12-31T00:00:00Z", target_url=ELSEWHERE)
    assert topics(Ward(m, down=ELSEWHERE)) == [("server", True)]


def test_alias_that_still_points_at_the_source_after_finish_is_a_problem() -> None:
    """Who reads through it without qferry sees a source that gets no writes; `finish`, run again, moves it."""
    aliases = {"readers": "old", "theirs": "new", "_qferry_other": "old"}
    (finding,), _ = found(Ward(migration(Phase.FINISHED), aliases=aliases))
    assert (finding.topic, finding.problem) == ("alias", True)
    assert finding.what == "The alias `readers` still points at `old`, which gets no writes any more."
    assert "Run `qferry finish old` again" in finding.mend


def test_alias_of_the_source_cannot_follow_to_another_server() -> None:
    """So nothing is said that no command could mend."""
    assert topics(Ward(migration(Phase.FINISHED, target_url=ELSEWHERE), aliases={"readers": "old"})) == []


def test_door_for_missing_points_that_was_left_closed_is_a_problem() -> None:
    """An interrupted finish has closed it; writes of points that the target lacks are refused until it is open."""
    m = migration(Phase.SWITCHED, verified=EVIDENCE, read_percent=100)
    m = replace(m, mend=f"{m.mend_prefix}abc")
    (finding,), _ = found(Ward(m))
    assert (finding.topic, finding.problem) == ("writes", True)
    assert finding.mend == "Run `qferry soak old --seconds 0`."
    assert topics(Ward(m, aliases={m.mend: "new"})) == []


def test_gates_of_the_switch_are_asked() -> None:
    """An alias newer than the migration, and configurations that have come apart, in the switch's own words."""
    m = migration(Phase.SWITCHED, verified=EVIDENCE, read_percent=10)
    apart = {**INFO, "payload_schema": {"path": {"data_type": "keyword"}}}
    findings, _ = found(Ward(m, aliases={"newer": "old"}, infos={"new": apart}))
    assert [(finding.topic, finding.problem) for finding in findings] == [("evidence", True)] * 2
    assert "The alias `newer` of `old` is newer than the migration" in findings[0].what
    assert "The configurations have come apart" in findings[1].what


def test_server_of_the_target_that_is_down_is_a_finding() -> None:
    """The rest is examined all the same; the source's own server must answer."""
    m = migration(Phase.COPIED, verified=EVIDENCE, target_url=ELSEWHERE)
    (debt, server), _ = found(Ward(m, debt=3, down=ELSEWHERE))
    assert (debt.topic, server.topic, server.problem) == ("journal", "server", True)
    assert (server.what, server.mend) == ("The target's server gave no answer.", "Check that it runs.")
    with pytest.raises(Unreachable):
        Play(lambda _: Unreachable("no answer")).run(examine([m.id]))


@pytest.mark.parametrize("phase", [Phase.ABORTED, Phase.CLEANED])
def test_server_of_a_migration_that_is_over_may_be_gone(phase: Phase) -> None:
    """Nobody has to bring it back for that, so it is only said that it was not looked at."""
    m = migration(phase, target_url=ELSEWHERE)
    ward = Ward(m, down=ELSEWHERE)
    ward.aliases.clear()
    assert topics(ward) == [("server", False)]


@pytest.mark.parametrize("phase", [Phase.ABORTED, Phase.CLEANED])
def test_what_a_migration_that_is_over_has_left_is_named(phase: Phase) -> None:
    """No command looks for it again, so somebody has to; what is another migration's is not touched upon."""
    m = migration(phase)
    ward = Ward(
        m,
        collections=["old", "new", "_qferry", m.journal_collection, m.fence("abc"), "_qferry_journal_other000"],
        aliases={"theirs": "new", "_qferry_other000_source": "new", m.fence("def"): "new"},
    )
    findings, seconds = found(ward)
    assert {finding.topic for finding in findings} == {"leftover"}
    assert all(finding.problem for finding in findings)
    named = [finding.what.split("`")[1] for finding in findings]
    # After a cleanup the target's marker proves which collection has the points.
    markers = [m.marker(side) for side in Side if (phase, side) != (Phase.CLEANED, Side.TARGET)]
    assert named == [m.journal_collection, m.fence("abc"), m.fence("def"), *markers]
    assert findings[0].mend == "Nobody uses it. Run `qferry cleanup old --reclaim --yes`."
    assert seconds == 0


def test_snapshots_of_an_interrupted_backfill_are_named_while_they_are_there() -> None:
    """One by the record, and one that may be a backup by the history."""
    m = migration(Phase.CAPTURING, archive={"name": "old-1.snapshot", "checksum": "x"})
    event = {"migration": m.id, "what": "a snapshot may have been left", "details": {"snapshots": ["old-2.snapshot"]}}
    findings, _ = found(Ward(m, events=[event], snapshots=["old-1.snapshot", "old-2.snapshot", "backup.snapshot"]))
    assert [(finding.topic, finding.problem) for finding in findings] == [("leftover", False)] * 2
    assert "old-1.snapshot" in findings[0].what
    assert "`DELETE /collections/old/snapshots/old-2.snapshot`" in findings[1].mend
    assert topics(Ward(m, events=[event], snapshots=["backup.snapshot"])) == []


def test_names_are_quoted_as_a_shell_wants_them() -> None:
    """A command can be copied from the page."""
    m = replace(migration(Phase.COPIED), source="my notes")
    (finding,), _ = found(Ward(m))
    assert finding.mend == "Run `qferry verify 'my notes'`."


@pytest.mark.parametrize("parity", [None, {"passed": False}])
def test_searches_that_nobody_has_compared_are_missing_evidence(parity: dict[str, Any] | None) -> None:
    """Also where every point is equal; the switch, and the finish, would be refused."""
    compared = parity and {**parity, "configuration": fingerprint(INFO, INFO)}
    ((finding,), _) = found(Ward(migration(Phase.COPIED, verified=EVIDENCE, parity=compared)))
    assert finding.topic == "evidence"
    assert "searches on the target" in finding.what
    assert "qferry verify old" in finding.mend
