"""The call log survives a kill and gives back what was written."""

from contextlib import closing
from pathlib import Path

from qferry.demo.call_log import Action, Call, CallLog, Effect, Outcome, read_calls
from qferry.demo.fingerprint import payload_fingerprint

EFFECTS = (
    Effect(Action.UPSERT, 0, vector="v", payload=payload_fingerprint({"a": 1, "text": "x" * 99})),
    Effect(Action.DELETE, group=0),
    Effect(Action.DELETE_KEYS, 3, keys=("a", "b")),
)


def test_calls_come_back_as_they_were_written(tmp_path: Path) -> None:
    """Effects, outcomes and messages survive the file, point and group zero included."""
    log = tmp_path / "app1.jsonl"
    with closing(CallLog(log)) as writer:
        writer.end(writer.begin("upsert", EFFECTS), Outcome.OK)
        writer.end(writer.begin("count"), Outcome.UNKNOWN, "it took too long")
    write, read = read_calls(log)
    assert (write.process, write.number, write.method, write.effects) == ("app1", 1, "upsert", EFFECTS)
    assert write.end_ns is not None
    assert write.start_ns <= write.end_ns <= read.start_ns
    assert (write.outcome, write.is_write, write.failed) == (Outcome.OK, True, False)
    assert (read.outcome, read.is_write, read.failed) == (Outcome.UNKNOWN, False, True)
    assert read.message == "it took too long"


def test_call_without_an_end_has_no_outcome(tmp_path: Path) -> None:
    """A process killed during a call leaves the call open."""
    log = tmp_path / "app1.jsonl"
    with closing(CallLog(log)) as writer:
        writer.begin("upsert", EFFECTS)
    (open_call,) = read_calls(log)
    assert isinstance(open_call, Call)
    assert (open_call.end_ns, open_call.outcome, open_call.failed) == (None, None, False)


def test_torn_last_line_is_ignored(tmp_path: Path) -> None:
    """Half a line at the end is a call that never left the process, or an end nobody was told."""
    log = tmp_path / "app1.jsonl"
    with closing(CallLog(log)) as writer:
        writer.end(writer.begin("upsert", EFFECTS), Outcome.OK)
    with log.open("ab") as file:
        file.write(b'{"n":2,"method":"del')
    assert [call.number for call in read_calls(log)] == [1]
