"""Answering: a server process's control queue, and the verbs that it knows.

Each process has one queue of its own, which goes with its connection. What cannot be had is left out: a server that
may not declare or bind it serves all the same.

Whoever may publish may ask as much as it likes. So the broker holds back all but `AT_A_TIME` questions, a turn handles
one, or a few that cost little, and the calls that are served have the loop in between.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from warren.amqp.frames import Delivery
from warren.connection.channel import HotChannel, Returned
from warren.connection.declare import declare_control_exchange
from warren.connection.errors import ACCESS_REFUSED, ChannelClosed
from warren.connection.link import Link
from warren.errors import CallError, Code, make_error
from warren.logs import get_logger
from warren.printable import printable
from warren.protocol import evidence, topology
from warren.protocol.control import (
    MAX_QUESTION,
    QUEUE_ARGUMENTS,
    Question,
    asked_service,
    read_question,
    write_answer,
    write_refusal,
)

log = get_logger("warren.server")

#: What a process says to a question; raises `CallError` to refuse it, `ValueError` where its arguments make no sense.
#: None is no answer.
Verb = Callable[[Question], Any]

#: Questions that the broker sends ahead; the others wait in the queue, which drops the oldest when it is full.
AT_A_TIME = 50
#: Bytes of questions that one turn takes, if they cost little; one question may have more.
_MOST_IN_A_TURN = 64 * 1024
#: After a turn the loop belongs to others for so many times as long as it took.
_SHARE = 3


#: Takes a request that this very process is asked for, on the channel that it came on.
Take = Callable[[str, HotChannel, Delivery], None]


class PutOff(msgspec.Struct):
    """An answer whose work is done together with that of others: what is in it is set at the end of the turn."""


class Answering:
    """The control queue of one process (Receiver of its channel).

    Attributes:
        on_broken: called when it is gone, and the link is not: streams wait for what comes through it.
    """

    def __init__(
        self,
        instance: str,
        keys: Sequence[str],
        verbs: Mapping[str, Verb],
        settle: Callable[[], None] = lambda: None,
        take: Take | None = None,
    ) -> None:
        """Prepare to answer.

        Args:
            instance: what the process is known as.
            keys: the routing keys by which it is meant.
            verbs: what it can do.
            settle: does what is `PutOff`.
            take: takes requests to methods.
        """
        self._instance = instance
        self._keys = keys
        self._verbs = verbs
        self._do_put_off = settle
        self._take = take
        self._inbox: deque[tuple[HotChannel, Delivery]] = deque()
        self._next_turn: asyncio.TimerHandle | None = None
        self._channel: HotChannel | None = None
        self._link: Link | None = None
        self.on_broken: Callable[[Link], None] = lambda _link: None
        self._queue = ""  # the last one that was declared on the link
        self._step = asyncio.Lock()
        self._forbidden = self._said = False

    @property
    def hears(self) -> bool:
        """Whether questions come."""
        channel = self._channel
        return channel is not None and channel.closed is None and channel.consumes

    @property
    def comes_back(self) -> bool:
        """Whether a queue that is not there is going to be: it may be deleted, and is not forbidden."""
        return self._link is not None and not self._forbidden

    async def open(self, link: Link) -> None:
        """Begin to answer on a new link; where the broker refuses that, it is logged once.

        Raises:
            LinkLost: the link is gone.
        """
        async with self._step:
            await self._open(link)

    async def _open(self, link: Link) -> None:
        if link is not self._link:
            self._queue = ""
        self._channel, self._link = None, link
        try:
            await declare_control_exchange(link)
            channel = await link.hot_channel()
            channel.attach(self, body_limit=MAX_QUESTION)
            channel.on_closed = lambda reason: self._on_closed(channel, reason)
            await self._consume(channel)
            self._channel = channel
        except ChannelClosed as error:
            self._say(error)

    async def look_after(self, link: Link) -> None:
        """Declare exchange, queue and bindings again: somebody may have deleted them. What is forbidden stays so.

        One after the other, so that two who do it at once do not make two queues.
        """
        async with self._step:
            channel = self._channel
            if channel is not None and channel.closed is None:
                await self._mend(link, channel)
            elif not self._forbidden:
                await self._open(link)

    async def _mend(self, link: Link, channel: HotChannel) -> None:
        try:
            await declare_control_exchange(link)
            if channel.consumes:
                await self._bind(channel)
            else:
                await self._consume(channel)
        except ChannelClosed as error:
            self._say(error)

    async def _consume(self, channel: HotChannel) -> None:
        if self._queue:  # it stays bound without its channel, and takes what nobody reads, until the link ends
            await channel.delete_queue(self._queue)
        self._queue = await channel.declare_reply_queue(arguments=QUEUE_ARGUMENTS)
        await self._bind(channel)
        await channel.qos(AT_A_TIME)
        await channel.consume(self._queue, no_ack=False)

    async def _bind(self, channel: HotChannel) -> None:
        for key in self._keys:
            await channel.bind(self._queue, topology.CONTROL_EXCHANGE, key)

    def _say(self, error: ChannelClosed) -> None:
        self._forbidden = error.code == ACCESS_REFUSED
        if not self._said:
            self._said = True
            log.info(
                "serving without a control queue, so that tools cannot see this process and calls cannot be cancelled:"
                " the broker refuses it: %s",
                error.text,
            )

    # --- from the channel (Receiver) ----------------------------------------------------------------------------

    def delivered(self, channel: HotChannel, delivery: Delivery) -> None:
        self._inbox.append((channel, delivery))
        if self._next_turn is None:
            self._turn()

    def _turn(self) -> None:
        began = time.monotonic()
        try:
            said = self._hear_some()
            self._do_put_off()
            for channel, question, answer in said:
                self._answer(channel, question, answer)
        finally:
            pause = _SHARE * (time.monotonic() - began)
            self._next_turn = asyncio.get_running_loop().call_later(pause, self._go_on)

    def _go_on(self) -> None:
        self._next_turn = None
        if self._inbox:
            self._turn()

    def _hear_some(self) -> list[tuple[HotChannel, Question | None, Any]]:
        """The next question; where its work is put off, those behind it, too, as long as theirs is."""
        said: list[tuple[HotChannel, Question | None, Any]] = []
        left = _MOST_IN_A_TURN
        while self._inbox and left > 0:
            channel, delivery = self._inbox.popleft()
            if channel.closed is not None:  # nobody would hear it; what is asked again comes on the new one
                continue
            channel.ack(delivery.tag)
            question, answer = self._hear(channel, delivery)
            said.append((channel, question, answer))
            if not isinstance(answer, PutOff):
                break
            left -= len(delivery.body or b"") + len(delivery.properties)
        return said

    def _hear(self, channel: HotChannel, delivery: Delivery) -> tuple[Question | None, Any]:
        """What is asked, as far as it can be read, and what is said to it: an exception is a refusal."""
        question: Question | None = None
        try:
            if self._take is not None and (service := asked_service(delivery.properties)):
                self._take(service, channel, delivery)
                return None, PutOff()
            question = read_question(delivery.properties, delivery.body)
            return question, _verb(self._verbs, question)(question)
        except (ValueError, CallError) as error:
            return question, error
        except Exception as error:
            log.exception("a control message could not be handled: %s", printable(repr(question)))
            return question, error

    def _answer(self, channel: HotChannel, question: Question | None, answer: Any) -> None:
        if question is None or not _may_answer(question):
            if isinstance(answer, Exception):
                log.debug("a control message is ignored: %s", printable(str(answer)))
        elif answer is not None:
            channel.publish_unrouted(b"", question.reply_to, *_written(self._instance, question, answer))

    def confirmed(self, tag: int, multiple: bool) -> None:
        """Answers are not confirmed: who has asked waits for as long as it likes."""

    def refused(self, tag: int, multiple: bool) -> None:
        """See `confirmed`."""

    def returned(self, message: Returned) -> None:
        """See `confirmed`."""

    def consumer_cancelled(self, channel: HotChannel) -> None:
        """Its queue was deleted: another is declared."""
        if channel is self._channel and self._link is not None:
            self.on_broken(self._link)

    def _on_closed(self, channel: HotChannel, reason: Exception) -> None:
        if not isinstance(reason, ChannelClosed) or channel is not self._channel:
            return  # the link is gone, or there was no queue on it
        if not self._forbidden and self._link is not None:
            self.on_broken(self._link)


def _verb(verbs: Mapping[str, Verb], question: Question) -> Verb:
    verb = verbs.get(question.verb)
    if verb is None:
        known = ", ".join(sorted(verbs))
        message = f"this process does not know {question.verb!r}; it knows: {known}"
        raise make_error(Code.UNIMPLEMENTED, evidence.METHOD.reason, message)
    return verb


def _written(instance: str, question: Question, answer: Any) -> tuple[bytes, bytes]:
    if not isinstance(answer, Exception):
        try:
            return write_answer(question, instance, answer)
        except Exception as error:
            log.exception("what is said to a control message cannot be written: %s", printable(repr(question)))
            answer = error
    return write_refusal(question, instance, _as_error(answer))


def _may_answer(question: Question) -> bool:
    """A forged direct reply-to address makes RabbitMQ 3.10 close the connection (541): none is answered."""
    return bool(question.reply_to) and not question.reply_to.startswith(topology.DIRECT_REPLY_TO)


def _as_error(error: Exception) -> CallError:
    if isinstance(error, CallError):
        return error
    if isinstance(error, ValueError):
        return make_error(Code.INVALID_ARGUMENT, evidence.VALIDATION.reason, str(error))
    return make_error(Code.INTERNAL, evidence.SERVER.reason, f"it failed with {type(error).__name__}")
