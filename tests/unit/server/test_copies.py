"""Putting requests elsewhere: an original is let go only when the broker has its copy."""

import asyncio
from typing import Any, cast

import pytest
from tests.support.fake_channel import FakeChannel

from warren.connection.channel import HotChannel
from warren.connection.errors import ChannelClosed
from warren.connection.explainer import Question, Standing
from warren.server.copies import Copies, Copy, Way


class Book:
    """What became of copies, by name."""

    def __init__(self) -> None:
        self.ends: dict[str, list[str]] = {}

    def copy(self, name: str, *, outlives_link: bool = False, ways: int = 1, again: bool = False) -> Copy:
        ends = self.ends[name] = []
        return Copy(
            ways=[Way(b"", b"way %d" % number, b"\x00\x00") for number in range(ways)],
            body=b"",
            id=name.encode(),
            patience=5.0,
            outlives_link=outlives_link,
            taken=lambda: ends.append("taken"),
            refused=lambda why: ends.append(f"refused: {why}"),
            doubtful=None if again else lambda why: ends.append("doubtful"),
        )


def attached(copies: Copies, channel: FakeChannel) -> FakeChannel:
    copies.attach(cast(HotChannel, channel))
    return channel


@pytest.fixture
def book() -> Book:
    return Book()


async def test_the_broker_may_still_answer_what_was_published_on_a_channel_that_was_replaced(book: Book) -> None:
    copies, closed = Copies(), list[object]()
    copies.on_retired = closed.append
    copies.nacked.ask = lambda _queue: {}  # which is not answered here
    old = attached(copies, FakeChannel())
    for name in ("first", "second"):
        copies.send(book.copy(name))
    old.receiver.refused(1, False)
    attached(copies, FakeChannel())
    assert book.ends["second"] == []
    assert closed == []
    old.receiver.confirmed(2, False)
    assert book.ends == {"first": [], "second": ["taken"]}
    assert closed == [old]
    copies.drop()


async def test_a_channel_that_was_replaced_twice_without_an_answer_is_given_up(book: Book) -> None:
    copies, closed = Copies(), list[object]()
    copies.on_retired = closed.append
    old = attached(copies, FakeChannel())
    copies.send(book.copy("first"))
    attached(copies, FakeChannel())
    newest = attached(copies, FakeChannel())
    assert book.ends == {"first": ["doubtful"]}
    assert closed[0] is old
    copies.send(book.copy("second"))
    old.receiver.confirmed(1, True)  # its numbers mean nothing on another one
    assert book.ends["second"] == []
    newest.receiver.confirmed(1, False)
    assert book.ends["second"] == ["taken"]


async def test_no_further_channel_is_asked_for_while_a_replaced_one_is_unanswered(book: Book) -> None:
    copies, asked = Copies(), list[int]()
    copies.on_broken = lambda: asked.append(1)
    old = attached(copies, FakeChannel())
    for name in ("first", "second", "third"):
        copies.send(book.copy(name))
    old.receiver.refused(1, False)
    attached(copies, FakeChannel())
    old.receiver.refused(2, False)
    assert asked == [1]
    copies.drop()


async def test_what_waits_for_the_next_link_is_on_its_way_still(book: Book) -> None:
    copies = Copies()
    attached(copies, FakeChannel())
    copies.send(book.copy("acknowledged before", outlives_link=True, again=True))
    copies.send(book.copy("the broker has it"))
    copies.link_lost()
    settled = asyncio.ensure_future(copies.settled())
    await asyncio.sleep(0)
    assert not settled.done()
    attached(copies, FakeChannel()).receiver.confirmed(1, False)
    await settled
    assert book.ends == {"acknowledged before": ["taken"], "the broker has it": []}


async def test_a_copy_that_cannot_be_written_holds_up_no_other(book: Book) -> None:
    copies, channel = Copies(), FakeChannel()
    unwritable = book.copy("too long")
    unwritable.ways = [Way(b"", b"k" * 256, b"\x00\x00")]
    copies.send(unwritable)
    copies.send(book.copy("good"))
    attached(copies, channel).receiver.confirmed(1, False)
    assert book.ends == {"too long": ["doubtful"], "good": ["taken"]}
    await copies.settled()


async def test_between_two_channels_there_is_as_much_room_as_on_the_last(book: Book) -> None:
    copies = Copies()
    channel = attached(copies, FakeChannel())
    before = copies.room
    cast(Any, channel).on_closed(ChannelClosed(404, "no exchange"))
    assert copies.room == before == channel.room


async def test_the_one_copy_that_a_channel_was_closed_over_takes_its_next_way(book: Book) -> None:
    copies = Copies()
    channel = attached(copies, FakeChannel())
    copies.send(book.copy("only", ways=2))
    cast(Any, channel).on_closed(ChannelClosed(404, "no exchange"))
    again = attached(copies, FakeChannel())
    assert [key for key, _ in again.published] == [b"way 1"]
    cast(Any, again).on_closed(ChannelClosed(404, "no queue"))
    assert book.ends == {"only": ["refused: 404 no queue"]}


async def test_what_must_not_be_there_twice_is_in_doubt_when_the_link_goes_and_else_waits_for_the_next(
    book: Book,
) -> None:
    copies = Copies()
    attached(copies, FakeChannel())
    copies.send(book.copy("published", outlives_link=True))
    copies.link_lost()
    assert book.ends["published"] == ["doubtful"]
    copies.send(book.copy("not published", outlives_link=True))
    copies.link_lost()
    attached(copies, FakeChannel()).receiver.confirmed(1, False)
    assert book.ends == {"published": ["doubtful"], "not published": ["taken"]}


@pytest.mark.parametrize(("there", "end"), [(False, "doubtful"), (True, "refused: the broker refuses it; so")])
async def test_a_refusal_proves_only_as_much_as_the_queue_answers(book: Book, there: bool, end: str) -> None:
    copies, question = Copies(), cast(Question[Copy], {})
    copies.nacked.ask = lambda _queue: question
    refused = book.copy("refused")
    refused.patience = 0.0
    channel = attached(copies, FakeChannel())
    copies.send(refused)
    channel.receiver.refused(1, False)
    assert book.ends == {"refused": []}
    assert len(copies) == 1, "it is on its way until the queue has answered"
    copies.nacked.answered(question, Standing(there, "; so"))
    if there:  # the one try that is left when its patience is over
        channel.receiver.refused(2, False)
        copies.nacked.answered({refused: None}, Standing(there, "; so"))
    assert book.ends == {"refused": [end]}
    assert len(copies) == 0


async def test_an_answer_about_a_copy_that_went_with_its_link_is_ignored(book: Book) -> None:
    copies, question = Copies(), cast(Question[Copy], {})
    copies.nacked.ask = lambda _queue: question
    channel = attached(copies, FakeChannel())
    copies.send(book.copy("the broker has it"))
    channel.receiver.refused(1, False)
    copies.link_lost()
    copies.nacked.answered(question, Standing(True, ""))
    assert book.ends == {"the broker has it": []}
    assert len(copies) == 0


async def test_a_question_about_a_refusal_takes_from_the_patience_and_adds_nothing_to_it(book: Book) -> None:
    """A worker that stops waits for the patience and one question: each more would cost a caller its answer."""
    copies, question = Copies(), Question[Copy]()
    copies.nacked.ask = lambda _queue: question
    channel = attached(copies, FakeChannel())
    copy = book.copy("slow")
    copy.patience = 0.01
    copies.send(copy)
    channel.receiver.refused(1, False)
    await asyncio.sleep(copy.patience)
    copies.nacked.answered(question, Standing(True, ""))
    assert len(copies) == 0
    assert book.ends["slow"] == ["refused: the broker refuses it"]
