"""Results as people see them."""

import io
from dataclasses import replace

import pytest
from rich.console import Console, RenderableType

from qferry.cli import render, shapes
from qferry.commands import HistoryLine, Status, Survey
from qferry.flows.differences import Difference
from qferry.flows.verify import SEARCHES, Check, Verification
from qferry.protocol.comparison import Comparison
from qferry.protocol.phases import Phase
from qferry.protocol.ranges import Plan
from qferry.protocol.records import Migration, Pins, Writer
from qferry.protocol.shadow import Totals

EVIDENCE = {"at": "2026-01-05T10:00:00Z", "points": 3}


def migration(phase: Phase, **fields: object) -> Migration:
    """A migration of a collection whose name looks like markup."""
    fields = {"parity": {"passed": True}, **fields} if "verified" in fields else fields
    return Migration(id="m", source="[red]", target="new", names=("[red]", "new"), phase=phase).with_changes(fields)


def printed(picture: RenderableType) -> str:
    """What a picture looks like in a file."""
    screen = Console(file=io.StringIO(), width=200)
    screen.print(picture)
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue()


@pytest.mark.parametrize(
    ("found", "line", "following"),
    [
        (migration(Phase.PREPARING), "● preparing → dual", "qferry start '[red]' new"),
        (migration(Phase.STARTING), "✓ prepared → ● starting → copied", "qferry start '[red]' new"),
        (
            migration(Phase.COPYING, copied_points=5, expected_points=1000),
            "● dual, copying 5 of 1,000",
            "qferry backfill",
        ),
        (migration(Phase.COPIED), "✓ dual → ● copied → verified", "qferry verify '[red]'`"),
        (migration(Phase.COPIED, verified=EVIDENCE), "✓ copied → ● verified → switched", "qferry switch"),
        (migration(Phase.COPIED, suspicions=("a writer vanished",)), "● copied", "--repair"),
        (migration(Phase.SWITCHED, read_percent=10, verified=EVIDENCE), "● switched 10 %", "--percent 100"),
        (migration(Phase.SWITCHED, read_percent=100, verified=EVIDENCE), "● switched 100 %", "qferry finish"),
        (migration(Phase.SWITCHED, read_percent=50, reads_held=True), "● switched 50 %, reads held", "--percent 50"),
        (migration(Phase.SWITCHED, read_percent=0, verified=EVIDENCE), "● switched 0 %", "--percent 10"),
        (
            migration(Phase.SWITCHED, read_percent=50, stepped_back="web pid 7: slow"),
            "● switched 50 %, stepped back",
            "by themselves",
        ),
        (migration(Phase.FINISHING), "✓ switched → ● finishing → cleaned", "past the point of no return"),
        (migration(Phase.FINISHED, cleanup_after="2026-02-04"), "● finished → cleaned", "not before 2026-02-04"),
        (migration(Phase.CLEANED), "✓ finished → ● cleaned", "it is complete"),
        (migration(Phase.ABORTING), "● aborting", "qferry abort"),
        (migration(Phase.ABORTED), "● aborted", "is as it was"),
    ],
)
def test_status_shows_the_phase_and_the_next_step(found: Migration, line: str, following: str) -> None:
    """For every phase the present one is marked and the next command is named."""
    assert line in printed(render.phases(found))
    assert following in shapes.next_step(found)


@pytest.mark.parametrize("phase", [Phase.COPIED, Phase.SWITCHED])
def test_repair_comes_next_where_a_comparison_has_ended_with_differences(phase: Phase) -> None:
    """Not while it is under way, and not if a later check has passed."""
    ended = Comparison("then", "", (), Plan(()), ((7, ("payload",)),), 1, "later")
    found = migration(phase)
    assert "`qferry verify '[red]' --repair`" in shapes.next_step(found, ended)
    assert "--repair" not in shapes.next_step(found, replace(ended, ended_at=""))
    assert "--repair" not in shapes.next_step(found, replace(ended, differing=(), total=0))
    assert "--repair" not in shapes.next_step(migration(phase, verified=EVIDENCE), ended)


def test_status_shows_both_sides_writers_and_suspicions() -> None:
    """Points, status, read shares, writers with pins, debt, the coordinator and suspicions are all in the picture."""
    writers = tuple(
        Writer(f"w{pid}", "web", pid, "09:00", 1, {"m": 4}, {"m": acked}, {"m": 17}, suspects, pins)
        for pid, acked, suspects, pins in (
            (1, 4, (), Pins()),
            (2, 3, (), Pins(new_reads=False)),
            (3, 4, ("m",), Pins()),
        )
    )
    fields = {"read_percent": 10, "epoch": 4, "suspicions": ("web pid 9 vanished",), "claim_by": "ops pid 5"}
    found = Status(
        migration(Phase.SWITCHED, target_url="http://other:6333", **fields), writers, 12, 1000, None, None, ()
    )
    text = printed(render.statuses([found, found]))
    for part in (
        "[red] → new   epoch 4",
        "1,000",
        "absent",
        "new at http://other:6333",
        "90 %  truth",
        "acknowledged",
        "behind, at 3",
        "ENABLE_NEW_READS=false",
        "stopped in the middle of a write",
        "12 points to check",
        "not verified",
        "ops pid 5",
        "Suspect: web pid 9 vanished",
    ):
        assert part in text


def test_status_shows_shadow_reads_and_readers_who_stepped_back() -> None:
    """What was found, in one line; and why nobody reads the target."""
    m = migration(Phase.SWITCHED, read_percent=50, shadow_percent=5.0, shadow_since=3, stepped_back="web pid 7: slow")
    none = printed(render.status(Status(m, (), 0, 1, 1, "green", (), Totals(3))))
    assert "5 % of the reads; none was compared yet" in none
    assert "Readers stepped back to the source: web pid 7: slow" in none
    assert "100 %  truth" in none
    found = Totals(3, 1000, 990.5, 20, 0.25, 2.0, 3.0, 4, 5)
    text = " ".join(printed(render.status(Status(m, (), 0, 1, 1, "green", (), found))).split())
    for part in (
        "5 % of the reads: 1,000 compared",
        "overlap 0.991 in the mean",
        "20 not alike",
        "scores differ by 0.25 at most",
        "the target takes 1.50 times as long",
        "4 failed",
        "5 dropped",
    ):
        assert part in text


def test_nothing_to_show_is_said() -> None:
    """A server without migrations, history or legacy names gets a sentence, not an empty table."""
    assert "No migration" in printed(render.statuses([]))
    assert "Nothing is recorded" in printed(render.history([]))
    assert "None of the server's 5 collections" in printed(render.survey(Survey((), 5)))


def test_twenty_differing_ids_are_shown_and_the_rest_counted() -> None:
    """A long list of differences is cut for people, and says so."""
    failed = Check("every point", passed=False, detail="23 differ")
    differences = tuple(Difference(i, ("payload field n", "vector"), {}, {}) for i in range(100, 122))
    found = Verification((failed,), 99, tuple(range(100, 123)), 0, 1.0, differences)
    text = printed(render.verification(found, "old"))
    assert "\n  100: payload field n, vector\n  101: " in text
    assert "\n  119: payload field n, vector\n  and 3 more (--export lists all)\n" in text
    assert "120" not in text


@pytest.mark.parametrize(
    ("check", "following"),
    [("payload indexes", "qferry verify old --repair"), ("configuration", "qferry abort old, then start again")],
)
def test_failed_check_leads_to_the_command_that_helps(check: str, following: str) -> None:
    """A missing index is repaired like a missing point; a configuration can only be started with anew."""
    failed = Check(check, passed=False, detail="unlike")
    text = printed(render.verification(Verification((failed,), 100, (), 0, 1.0), "old"))
    assert f"✗  {check}" in text
    assert following in text


@pytest.mark.parametrize(
    ("source", "following"),
    [
        ("old", "Next: qferry finish old, or qferry rollback old"),
        ("my {} notes", "Next: qferry finish 'my {} notes', or qferry rollback 'my {} notes'"),
        ("", "Next: qferry finish, or qferry rollback"),
    ],
)
def test_next_command_can_be_typed_as_it_is_shown(source: str, following: str) -> None:
    """A name is quoted; one that was not given is left out there too."""
    assert str(render.then("finish {0}, or qferry rollback {0}", source)) == following


def test_searches_that_fail_alone_do_not_lead_to_a_repair() -> None:
    """There is nothing to repair: the points are equal."""
    failed = Check(SEARCHES, passed=False, detail="not proven: the target is yellow")
    text = printed(render.verification(Verification((failed,), 100, (), 0, 1.0), "old"))
    assert "Next: qferry verify old --again, once that is mended" in text


def test_history_shows_what_there_is_to_say() -> None:
    """Details are listed by name; empty ones are left out."""
    text = printed(render.history([HistoryLine("t", 3, "ops", "copied", {"points": 5, "snapshot": None})]))
    assert "points: 5" in text
    assert "snapshot" not in text
