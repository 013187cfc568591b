"""Tests of requests nobody knows the fate of."""

from qferry.protocol.doubt import Doubt


def test_doubt_is_not_over_before_every_server_has_answered() -> None:
    """However much time passes, a server that has said nothing since may still carry the request out."""
    doubt = Doubt(["a", "b"])
    doubt.answered("a", until=1.0)
    assert doubt.unanswered == {"b"}
    assert not doubt.over(1e12)


def test_doubt_is_over_a_grace_period_after_the_last_answer() -> None:
    """The latest of the servers' grace periods decides."""
    doubt = Doubt(["a", "b"])
    doubt.answered("a", until=20.0)
    doubt.answered("b", until=11.0)
    assert not doubt.over(19.9)
    assert doubt.over(20.0)


def test_answer_of_an_uninvolved_server_does_not_end_a_doubt() -> None:
    """Only the servers the request was sent to can speak for it."""
    doubt = Doubt(["a"])
    doubt.answered("b", until=0.0)
    assert not doubt.over(100.0)
