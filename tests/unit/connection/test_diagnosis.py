"""What Pika reports, in words for people."""

from pika.exceptions import StreamLostError

from warren.connection.diagnosis import describe


def test_an_end_without_a_word_is_told_in_plain_words() -> None:
    assert describe(StreamLostError("Transport indicated EOF")) == "the other side closed it without a reason"


def test_the_innermost_reason_is_told() -> None:
    error = StreamLostError("outside")
    error.__cause__ = ConnectionResetError("inside")

    assert describe(error) == "inside"
