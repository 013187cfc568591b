"""History, newest first, a page at a time; and deciding on what was seen."""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from qdrant_client import QdrantClient, models

from qferry import commands
from qferry.commands import Seen
from qferry.connection import Connection
from qferry.control import records
from qferry.errors import Conflict, Refused
from qferry.protocol.records import CONTROL_COLLECTION, Migration


def write_events(client: QdrantClient, m: Migration, epochs: Sequence[int]) -> None:
    """Write a line of history at each of these epochs; the ids are in no order."""
    events = [
        {"kind": "event", "migration": m.id, "at": f"2026-01-01T00:{i // 60 % 60:02}:{i % 60:02}Z", "who": "h pid 1"}
        | {"epoch": epoch, "what": f"no. {i}", "details": {}}
        for i, epoch in enumerate(epochs)
    ]
    points = [models.PointStruct(id=str(uuid.uuid4()), vector={}, payload=event) for event in events]
    client.upsert(CONTROL_COLLECTION, points, wait=True)


def everything(connection: Connection, m: Migration, lines: int) -> list[str]:
    """All of a history, page by page."""
    page = commands.recent_history(connection, m.id, lines=lines)
    found = list(page.lines)
    while page.older is not None:
        page = commands.recent_history(connection, m.id, before=page.older, lines=lines)
        assert 0 < len(page.lines) <= lines
        found += page.lines
    return [line.what for line in found]


@pytest.mark.parametrize(
    "epochs",
    [
        pytest.param(range(100, 700), id="one an epoch"),
        pytest.param([100 + i // 9 for i in range(600)], id="nine an epoch"),
        pytest.param([500] * 600, id="all in one"),
        pytest.param([100, 101, 5000, 5000, 90_000], id="far between"),
    ],
)
def test_pages_hold_every_line_once_newest_first(
    connection: Connection,
    plain: QdrantClient,
    started: Callable[[], Migration],
    epochs: Sequence[int],
) -> None:
    """However the lines lie among the epochs; those of the start come last."""
    begun = started()
    plain.set_payload(CONTROL_COLLECTION, {"epoch": max(epochs)}, [begun.id], wait=True)
    write_events(plain, begun, epochs)
    of_the_start = len(commands.history(connection, begun.source)) - len(epochs)
    found = everything(connection, begun, 100)
    assert len(found) == len(epochs) + of_the_start
    assert found[: len(epochs)] == [f"no. {i}" for i in reversed(range(len(epochs)))]


def test_the_first_page_reads_few_lines_of_many(
    connection: Connection, plain: QdrantClient, started: Callable[[], Migration], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of a long history asks for a handful of requests' worth of lines."""
    begun = started()
    plain.set_payload(CONTROL_COLLECTION, {"epoch": 5000}, [begun.id], wait=True)
    write_events(plain, begun, range(1000, 5000))
    asked: list[tuple[Any, ...]] = []
    scroll = records.scroll_events

    def counted(*span: Any) -> Any:
        asked.append(span)
        return scroll(*span)

    monkeypatch.setattr(records, "scroll_events", counted)
    assert len(commands.recent_history(connection, begun.id, lines=20).lines) == 20
    assert len(asked) <= 3


def test_a_migration_is_found_by_its_id(connection: Connection, started: Callable[[], Migration]) -> None:
    """And one that does not exist is not."""
    begun = started()
    assert commands.status_of(connection, begun.id).migration == begun
    with pytest.raises(Conflict, match="record is gone"):
        commands.status_of(connection, str(uuid.uuid4()))


@pytest.mark.parametrize("command", ["abort", "rollback", "backfill", "verify", "finish", "throttle"])
def test_nothing_is_done_to_what_has_changed_since_it_was_seen(
    connection: Connection, started: Callable[[], Migration], command: str
) -> None:
    """Each command says what has changed, and has claimed nothing."""
    begun = started()
    seen = Seen.of(begun.with_changes({"phase": type(begun.phase).SWITCHED, "read_percent": 10}))
    more = {"limits": {"paused": True}} if command == "throttle" else {}
    with pytest.raises(Refused, match="Meanwhile the migration has gone from switched to copying; nothing was changed"):
        getattr(commands, command)(connection, begun.source, seen=seen, **more)
    assert started() == begun


def test_what_was_seen_and_is_still_so_is_acted_on(connection: Connection, started: Callable[[], Migration]) -> None:
    """A raised epoch alone is no change of what was decided on."""
    begun = started()
    seen = Seen.of(begun)
    seen.check(begun.with_changes({"epoch": begun.epoch + 5}))
    with pytest.raises(Refused, match="from 0 % to 10 %"):
        seen.check(begun.with_changes({"read_percent": 10}))
    with pytest.raises(Refused, match="is another one"):
        seen.check(begun.with_changes({"id": str(uuid.uuid4())}))
    with pytest.raises(
        Refused, match="Meanwhile readers have stepped back to the source: web-1: it fails; nothing was"
    ):
        seen.check(begun.with_changes({"stepped_back": "web-1: it fails"}))
    with pytest.raises(Refused, match="readers see the target again"):
        replace(seen, stepped_back="web-1: it fails").check(begun)
    replace(seen, stepped_back=None).check(begun.with_changes({"stepped_back": "web-1: it fails"}))
    assert commands.backfill(connection, begun.source, seen=seen).phase == "copied"
