"""Asking running servers: over the connection that a client has, or, as tools do, over one of its own."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from typing import Any, Self

import msgspec

from warren.amqp.frames import Delivery
from warren.connection.channel import HotChannel, Returned
from warren.connection.dial import open_link
from warren.connection.errors import ACCESS_REFUSED, ChannelClosed, ConnectFailed, LinkLost
from warren.connection.link import Link
from warren.connection.settings import Settings
from warren.errors import CallError
from warren.protocol import topology
from warren.protocol.control import Answer, Question, question_properties, read_answer
from warren.protocol.evidence import CONNECTION_LOST, SETUP_DENIED, conclude

#: Seconds in which processes have to answer: one whose event loop is blocked for longer is missed.
PATIENCE = 0.3
#: Bytes of the largest answer that is taken.
MAX_ANSWER = 16 * 1024 * 1024


class Questions:
    """Asks any number of questions over one link (Receiver of its channel)."""

    def __init__(self) -> None:
        self._link: Link | None = None
        self._channel: HotChannel
        self._queue = b""
        self._deaf = False
        self._asked: dict[bytes, asyncio.Queue[Answer | None]] = {}

    @property
    def link(self) -> Link:
        """The connection, which is open."""
        assert self._link is not None
        return self._link

    @property
    def is_open(self) -> bool:
        """Whether it may be asked with."""
        return self._link is not None and not self._deaf and self._channel.closed is None

    async def open(self, link: Link) -> None:
        """Prepare to ask.

        Raises:
            CallError: the broker refuses what is needed for asking, or the link is lost.
        """
        try:
            channel = await link.hot_channel()
            try:
                await self._open_on(channel, link)
            except BaseException:
                channel.drop()
                raise
        except (ChannelClosed, LinkLost) as error:
            raise conclude(SETUP_DENIED, f"the broker refuses what is needed to ask: {error}") from error

    async def _open_on(self, channel: HotChannel, link: Link) -> None:
        channel.attach(self, body_limit=MAX_ANSWER)
        channel.on_closed = lambda _reason: self._end_all()
        queue = await channel.declare_reply_queue(arguments=topology.REPLY_ARGUMENTS)
        await channel.consume(queue, no_ack=True)
        await _declare(link)
        self._channel, self._link, self._queue = channel, link, queue.encode()

    async def ask(
        self,
        verb: str,
        key: str,
        body: dict[str, Any] | None = None,
        *,
        patience: float = PATIENCE,
        first: bool = False,
    ) -> AsyncIterator[Answer]:
        """The answers to a question, as they come; of no process at all, if none is meant.

        Args:
            verb: what to do.
            key: who is meant: `TO_ALL`, `to_service` or `to_instance`.
            body: the verb's arguments.
            patience: seconds in which answers are taken.
            first: end with the first one.

        Raises:
            CallError: the connection is lost, or the broker does not let us ask.
        """
        id = secrets.token_hex(8).encode()
        answers = self._asked[id] = asyncio.Queue()
        properties = question_properties(Question(verb, {}, self._queue, id), patience=patience)
        exchange = topology.CONTROL_EXCHANGE.encode()
        self._channel.publish(exchange, key.encode(), properties, msgspec.json.encode(body or {}))
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    while (answer := await answers.get()) is not None:
                        yield answer
                        if first:
                            return
        finally:
            del self._asked[id]
        if self._deaf:
            raise conclude(CONNECTION_LOST, "the queue for answers was deleted at the broker: ask again")
        if (closed := self._channel.closed) is not None:
            refused = isinstance(closed, ChannelClosed) and closed.code == ACCESS_REFUSED
            raise conclude(SETUP_DENIED if refused else CONNECTION_LOST, f"the broker does not let us ask: {closed}")

    async def gather(
        self,
        verb: str,
        key: str,
        body: dict[str, Any] | None = None,
        *,
        patience: float = PATIENCE,
        first: bool = False,
    ) -> list[Answer]:
        """All answers to a question, in the order of the processes' ids; arguments and errors as for `ask`."""
        answers = [answer async for answer in self.ask(verb, key, body, patience=patience, first=first)]
        return sorted(answers, key=lambda answer: answer.instance)

    async def reaches(self, key: str, patience: float) -> bool:
        """Whether a question with this key comes to a control queue; also where the broker does not say."""
        id = secrets.token_hex(8).encode()
        answers = self._asked[id] = asyncio.Queue()
        properties = question_properties(Question("ping", {}, self._queue, id), patience=patience)
        self._channel.publish(topology.CONTROL_EXCHANGE.encode(), key.encode(), properties, b"{}")
        try:
            async with asyncio.timeout(patience):
                return await answers.get() is not None or not self.is_open
        except TimeoutError:
            return True
        finally:
            del self._asked[id]

    def _end_all(self) -> None:
        for answers in self._asked.values():
            answers.put_nowait(None)

    # --- from the channel (Receiver) ----------------------------------------------------------------------------

    def delivered(self, channel: HotChannel, delivery: Delivery) -> None:
        with contextlib.suppress(ValueError):  # not an answer
            answer = read_answer(delivery.properties, delivery.body)
            if answer.id in self._asked:
                self._asked[answer.id].put_nowait(answer)

    def returned(self, message: Returned) -> None:
        """Nobody is meant."""
        if message.correlation_id in self._asked:
            self._asked[message.correlation_id].put_nowait(None)

    def confirmed(self, tag: int, multiple: bool) -> None:
        """Questions are not confirmed."""

    def refused(self, tag: int, multiple: bool) -> None:
        """See `confirmed`."""

    def consumer_cancelled(self, channel: HotChannel) -> None:
        self._deaf = True
        self._end_all()


async def _declare(link: Link) -> None:
    """Without the exchange a question closes the channel; who may not declare it trusts that it is there."""
    channel = await link.channel()
    try:
        await channel.declare_exchange(topology.CONTROL_EXCHANGE, "direct")
    except ChannelClosed as error:
        if error.code != ACCESS_REFUSED:
            raise
    finally:
        channel.drop()


async def _open(settings: Settings) -> Link:
    failure: CallError | None = None
    for host, port in settings.hosts:
        try:
            return await open_link(settings, host, port)
        except ConnectFailed as error:
            failure = error.error
    assert failure is not None
    raise failure


class Asking(Questions):
    """Asks over a connection of its own.

    Example::

        async with Asking(settings) as asking:
            async for answer in asking.ask("ping", to_service("calc")):
                print(answer.instance, answer.body)
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            CallError: no broker can be reached, or it refuses what is needed for asking.
        """
        link = await _open(self._settings)
        try:
            await self.open(link)
        except BaseException:
            await link.close()
            raise
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.link.close()
