"""However much is asked, the calls that are served have the event loop in between."""

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec

from warren.control.answering import AT_A_TIME, Answering, PutOff
from warren.protocol.control import CANCEL, Question, question_properties, read_answer


class Channel:
    """A channel that notes what is done on it."""

    closed: Exception | None = None

    def __init__(self) -> None:
        self.acked: list[int] = []
        self.answers: list[Any] = []

    def ack(self, tag: int) -> None:
        self.acked.append(tag)

    def publish_unrouted(self, _exchange: bytes, _key: bytes, properties: bytes, body: bytes) -> None:
        self.answers.append(read_answer(properties, body))


class Sum(PutOff):
    value: int = 0


class Adding:
    """A process that knows two verbs: of `look` each is work of its own, and cancels are done together."""

    def __init__(self) -> None:
        self.looked = self.settled = self.most = 0
        self._put_off: list[Sum] = []
        self.answering = Answering("one", ["all"], {"look": self._look, CANCEL: self._cancel}, self._settle)
        self.channel: Any = Channel()

    def _look(self, _question: Question) -> dict[str, int]:
        self.looked += 1
        return {"looked": self.looked}

    def _cancel(self, question: Question) -> Sum:
        self._put_off.append(Sum())
        return self._put_off[-1]

    def _settle(self) -> None:
        if self._put_off:
            self.settled += 1
            self.most = max(self.most, len(self._put_off))
        for number, one in enumerate(self._put_off):
            one.value = number
        self._put_off.clear()

    def ask(self, verb: str, tag: int, **body: Any) -> None:
        properties = question_properties(Question(verb, {}, b"replies", b"%d" % tag), patience=1)
        delivery: Any = SimpleNamespace(properties=properties, body=msgspec.json.encode(body), tag=tag)
        self.answering.delivered(self.channel, delivery)

    async def turns_until(self, answers: int) -> int:
        """How often the loop comes round until there are so many answers."""
        turns = 0
        async with asyncio.timeout(60):
            while len(self.channel.answers) < answers:
                turns += 1
                await asyncio.sleep(0)
        return turns


async def test_a_question_on_an_idle_process_is_answered_at_once() -> None:
    adding = Adding()
    adding.ask("look", 1)
    assert [answer.body for answer in adding.channel.answers] == [{"looked": 1}]
    assert adding.channel.acked == [1]


async def test_questions_that_come_together_are_answered_in_turns_of_their_own() -> None:
    adding = Adding()
    for tag in range(1, AT_A_TIME + 1):
        adding.ask("look", tag)
    assert len(adding.channel.answers) == 1
    assert await adding.turns_until(AT_A_TIME) >= AT_A_TIME - 1
    assert [answer.id for answer in adding.channel.answers] == [b"%d" % tag for tag in range(1, AT_A_TIME + 1)]
    assert adding.channel.acked == list(range(1, AT_A_TIME + 1))


async def test_cancels_are_done_together_and_each_has_its_answer() -> None:
    adding = Adding()
    for tag in range(1, AT_A_TIME + 1):
        adding.ask(CANCEL, tag)
    await adding.turns_until(AT_A_TIME)
    assert (adding.settled, adding.most) == (2, AT_A_TIME - 1)
    assert [answer.body["value"] for answer in adding.channel.answers] == [0, *range(AT_A_TIME - 1)]


async def test_large_cancels_are_not_done_together() -> None:
    adding = Adding()
    for tag in range(1, 11):
        adding.ask(CANCEL, tag, calls="x" * 50_000)
    await adding.turns_until(10)
    assert (adding.settled, adding.most) == (6, 2)


async def test_what_a_verb_raises_is_its_own_answer_and_takes_no_turn_from_the_next() -> None:
    adding = Adding()
    adding.answering = Answering("one", ["all"], {"look": lambda _question: object()})
    for tag, verb in enumerate(("look", "dance", "look"), 1):
        adding.ask(verb, tag)
    await adding.turns_until(3)
    assert [answer.error.code.value for answer in adding.channel.answers] == ["INTERNAL", "UNIMPLEMENTED", "INTERNAL"]


async def test_what_was_asked_on_a_channel_that_is_gone_is_dropped() -> None:
    adding = Adding()
    for tag in (1, 2, 3):
        adding.ask("look", tag)
    gone, adding.channel = adding.channel, Channel()
    gone.closed = ConnectionError()
    adding.ask("look", 1)
    await adding.turns_until(1)
    assert (len(gone.answers), adding.looked) == (1, 2)
