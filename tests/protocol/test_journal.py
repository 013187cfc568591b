"""Tests of rule (J) on the writer's side: which ids a journal still holds."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from qferry.protocol.doubt import Doubt
from qferry.protocol.journal import Flush, Journal


def flush(journal: Journal) -> tuple[object, ...]:
    """Flush with success; returns the ids that were made durable."""
    attempt = journal.start_flush()
    journal.flushed(attempt)
    return attempt.ids


def test_ended_write_is_forgotten_after_a_flush() -> None:
    """A flush that began after a write had ended covers it."""
    journal = Journal()
    journal.begin([1, 2])
    journal.end([1, 2])
    assert flush(journal) == (1, 2)
    assert journal.debt == 0
    assert flush(journal) == ()


def test_flush_that_fails_forgets_nothing() -> None:
    """Only a confirmed flush counts; the next attempt carries the same ids."""
    journal = Journal()
    journal.begin([1])
    journal.end([1])
    assert journal.start_flush().ids == journal.start_flush().ids == (1,)
    assert journal.debt == 1


def test_id_in_flight_is_flushed_and_survives() -> None:
    """A durable entry of a write under way may be settled before the write lands, so the id must go out again."""
    journal = Journal()
    journal.begin([1])
    assert flush(journal) == (1,)
    assert journal.debt == 1
    journal.end([1])
    assert flush(journal) == (1,)
    assert journal.debt == 0


def test_write_that_ends_during_a_flush_survives_it() -> None:
    """The flush began before the end, so its entry may be settled by a check that missed the write."""
    journal = Journal()
    journal.begin([1])
    attempt = journal.start_flush()
    journal.end([1])
    journal.flushed(attempt)
    assert journal.debt == 1
    assert flush(journal) == (1,)


def test_id_touched_again_during_a_flush_survives_it() -> None:
    """A newer write to an id that is just being flushed is not covered by that flush."""
    journal = Journal()
    journal.begin([1])
    journal.end([1])
    attempt = journal.start_flush()
    journal.begin([1])
    journal.end([1])
    journal.flushed(attempt)
    assert journal.start_flush().ids == (1,)


def test_id_stays_in_flight_until_the_last_of_its_writes_has_ended() -> None:
    """Two threads may write one point at once."""
    journal = Journal()
    journal.begin([1])
    journal.begin([1])
    journal.end([1])
    flush(journal)
    assert journal.debt == 1
    journal.end([1])
    flush(journal)
    assert journal.debt == 0


def test_id_named_twice_in_one_write_is_balanced() -> None:
    """A caller may repeat an id within one call."""
    journal = Journal()
    journal.begin([1, 1])
    journal.end([1, 1])
    flush(journal)
    assert journal.debt == 0


def test_end_without_a_beginning_is_an_error() -> None:
    """A bookkeeping mistake is loud."""
    with pytest.raises(KeyError):
        Journal().end([1])


def test_doubtful_id_stays_through_any_number_of_flushes() -> None:
    """A write that may still land would not be covered by a flush of now."""
    journal = Journal()
    journal.begin([1])
    journal.end([1], Doubt(["server"]))
    for now in (1.0, 1e6):
        journal.expire_doubts(now)
        assert flush(journal) == (1,)
    assert journal.debt == 1


def test_doubtful_id_is_flushed_once_more_after_its_doubt_is_over() -> None:
    """Answer, grace period, one more flush: only that one is known to follow whatever the request did."""
    journal, doubt = Journal(), Doubt(["server"])
    journal.begin([1])
    journal.end([1], doubt)
    flush(journal)
    doubt.answered("server", until=10.0)
    journal.expire_doubts(9.9)
    flush(journal)
    assert journal.debt == 1
    journal.expire_doubts(10.0)
    assert journal.debt == 1
    assert flush(journal) == (1,)
    assert journal.debt == 0


def test_doubt_that_ends_during_a_flush_is_not_covered_by_it() -> None:
    """The flush under way began while the request could still land."""
    journal, doubt = Journal(), Doubt(["server"])
    journal.begin([1])
    journal.end([1], doubt)
    attempt = journal.start_flush()
    doubt.answered("server", until=0.0)
    journal.expire_doubts(0.0)
    journal.flushed(attempt)
    assert journal.start_flush().ids == (1,)


def test_numeric_and_uuid_ids_are_kept_apart() -> None:
    """An integer and a string never stand for the same point."""
    journal = Journal()
    uuid = "550e8400-e29b-41d4-a716-446655440000"
    journal.begin([1, uuid])
    assert set(journal.start_flush().ids) == {1, uuid}


class JournalAgainstItsRule(RuleBasedStateMachine):
    """
    Any interleaving of writes, flushes and doubts, held against rule (J) stated the slow way.

    Time is the number of steps so far.  Of each write the model remembers when it ended (None: in flight) and the
    doubt that lies on it; an id is owed while one of its writes is in flight, in doubt, or ended after the beginning
    of the last confirmed flush.
    """

    ids = st.integers(min_value=0, max_value=3)

    def __init__(self) -> None:
        super().__init__()
        self.journal = Journal()
        self.step = 0
        self.writing: list[list[int]] = []
        self.doubts: list[tuple[Doubt, list[int]]] = []
        self.last_end: dict[int, int] = {}
        self.attempts: list[tuple[Flush, int]] = []

    def tick(self) -> int:
        """Let time pass."""
        self.step += 1
        return self.step

    @rule(touched=st.lists(ids, min_size=1, max_size=4))
    def begin(self, touched: list[int]) -> None:
        """A write is about to be sent."""
        self.journal.begin(touched)
        self.writing.append(touched)

    @precondition(lambda self: self.writing)
    @rule(data=st.data(), doubtful=st.booleans())
    def end(self, data: st.DataObject, doubtful: bool) -> None:
        """A write ends, with or without an answer."""
        touched = self.writing.pop(data.draw(st.integers(0, len(self.writing) - 1)))
        doubt = Doubt(["server"]) if doubtful else None
        self.journal.end(touched, doubt)
        self.last_end.update(dict.fromkeys(touched, self.tick()))
        if doubt is not None:
            self.doubts.append((doubt, touched))

    @rule()
    def start_flush(self) -> None:
        """A flush is sent."""
        self.attempts.append((self.journal.start_flush(), self.tick()))

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), confirmed=st.booleans())
    def flushed(self, data: st.DataObject, confirmed: bool) -> None:
        """Some flush is confirmed, or lost."""
        attempt, began = self.attempts.pop(data.draw(st.integers(0, len(self.attempts) - 1)))
        if confirmed:
            self.journal.flushed(attempt)
            for point_id in attempt.ids:
                if self.last_end.get(point_id, began) < began:
                    del self.last_end[point_id]

    @precondition(lambda self: self.doubts)
    @rule(data=st.data())
    def doubt_is_over(self, data: st.DataObject) -> None:
        """The server answers something newer and the grace period passes."""
        doubt, touched = self.doubts.pop(data.draw(st.integers(0, len(self.doubts) - 1)))
        doubt.answered("server", until=0.0)
        self.journal.expire_doubts(now=0.0)
        self.last_end.update(dict.fromkeys(touched, self.tick()))

    @invariant()
    def holds_exactly_what_is_owed(self) -> None:
        """The next flush carries every id that is owed, and no other."""
        in_flight = {i for touched in self.writing for i in touched}
        doubtful = {i for _, touched in self.doubts for i in touched}
        owed = in_flight | doubtful | self.last_end.keys()
        assert set(self.journal.start_flush().ids) == owed
        assert self.journal.debt == len(owed)


TestJournalAgainstItsRule = JournalAgainstItsRule.TestCase
