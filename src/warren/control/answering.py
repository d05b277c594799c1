"""Answering: a server process's control queue, and the verbs that it knows.

Each process has one queue of its own, which goes with its connection. What cannot be had is left out: a server that
may not declare or bind it serves all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

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
    read_question,
    write_answer,
    write_refusal,
)

log = get_logger("warren.server")

#: What a process says to a question; raises `CallError` to refuse it, `ValueError` where its arguments make no sense.
#: None is no answer.
Verb = Callable[[Question], Any]


class Answering:
    """The control queue of one process (Receiver of its channel)."""

    def __init__(self, instance: str, keys: Sequence[str], verbs: Mapping[str, Verb]) -> None:
        """`keys` are the routing keys by which it is meant, and `verbs` what it can do."""
        self._instance = instance
        self._keys = keys
        self._verbs = verbs
        self._channel: HotChannel | None = None
        self._queue = ""
        self._forbidden = self._said = False

    async def open(self, link: Link) -> None:
        """Begin to answer on a new link; where the broker refuses that, it is logged once.

        Raises:
            LinkLost: the link is gone.
        """
        self._channel = None
        try:
            await declare_control_exchange(link)
            channel = await link.hot_channel()
            channel.attach(self, body_limit=MAX_QUESTION)
            await self._consume(channel)
            self._channel = channel
        except ChannelClosed as error:
            self._say(error)

    async def look_after(self, link: Link) -> None:
        """Declare exchange, queue and bindings again: somebody may have deleted them. What is forbidden stays so."""
        channel = self._channel
        if channel is None or channel.closed is not None:
            if not self._forbidden:
                await self.open(link)
            return
        try:
            await declare_control_exchange(link)
            if channel.consumes:
                await self._bind(channel)
            else:
                await self._consume(channel)
        except ChannelClosed as error:
            self._say(error)

    async def _consume(self, channel: HotChannel) -> None:
        self._queue = await channel.declare_reply_queue(arguments=QUEUE_ARGUMENTS)
        await self._bind(channel)
        await channel.consume(self._queue, no_ack=True)

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
        question: Question | None = None
        try:
            question = read_question(delivery.properties, delivery.body)
            self._answer(channel, question, self._verb(question)(question))
        except (ValueError, CallError) as error:
            self._refuse(channel, question, error)
        except Exception as error:
            log.exception("a control message could not be handled: %s", printable(repr(question)))
            self._refuse(channel, question, error)

    def _verb(self, question: Question) -> Verb:
        verb = self._verbs.get(question.verb)
        if verb is None:
            known = ", ".join(sorted(self._verbs))
            message = f"this process does not know {question.verb!r}; it knows: {known}"
            raise make_error(Code.UNIMPLEMENTED, evidence.METHOD.reason, message)
        return verb

    def _answer(self, channel: HotChannel, question: Question, body: Any) -> None:
        if body is not None and _may_answer(question):
            channel.publish_unrouted(b"", question.reply_to, *write_answer(question, self._instance, body))

    def _refuse(self, channel: HotChannel, question: Question | None, error: Exception) -> None:
        if question is None or not _may_answer(question):
            log.debug("a control message is ignored: %s", printable(str(error)))
            return
        if isinstance(error, ValueError):
            error = make_error(Code.INVALID_ARGUMENT, evidence.VALIDATION.reason, str(error))
        elif not isinstance(error, CallError):
            error = make_error(Code.INTERNAL, evidence.SERVER.reason, f"it failed with {type(error).__name__}")
        channel.publish_unrouted(b"", question.reply_to, *write_refusal(question, self._instance, error))

    def confirmed(self, tag: int, multiple: bool) -> None:
        """Answers are not confirmed: who has asked waits for as long as it likes."""

    def refused(self, tag: int, multiple: bool) -> None:
        """See `confirmed`."""

    def returned(self, message: Returned) -> None:
        """See `confirmed`."""

    def consumer_cancelled(self, channel: HotChannel) -> None:
        """Its queue was deleted: `look_after` declares another."""


def _may_answer(question: Question) -> bool:
    """A forged direct reply-to address makes RabbitMQ 3.10 close the connection (541): none is answered."""
    return bool(question.reply_to) and not question.reply_to.startswith(topology.DIRECT_REPLY_TO)
