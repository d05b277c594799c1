"""The dead queue of a service: look at what could not be handled, try it again, or let it go.

Messages are taken one by one and stay unacknowledged until they are dealt with. Whatever ends this process or its
connection, the broker puts those back where they were: a message leaves the queue only by `DeadQueue.drop`, or by
`DeadQueue.retry` once the broker has confirmed its copy. Not guaranteed:

* If the connection is lost after the copy was published and before the acknowledgement arrived, the request is both
  in the service's queue and still here; the error says so. Its ``message_id`` is the same.
* While messages are looked at, others do not see them. The order is kept, except for what others take or add meanwhile.
* A full dead queue drops its oldest messages when new ones arrive, at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from datetime import datetime
from functools import cached_property
from hashlib import blake2s
from typing import Any

from warren.amqp.frames import PROPERTY_NAMES, Delivery, FrameError, Properties, decode_properties
from warren.amqp.tables import decode_table
from warren.connection.channel import HotChannel, Returned
from warren.connection.dial import open_link
from warren.connection.errors import ACCESS_REFUSED, NOT_FOUND, ChannelClosed, ConnectFailed, LinkLost
from warren.connection.link import Link
from warren.connection.settings import Settings
from warren.errors import CallError
from warren.printable import printable, printable_bytes
from warren.protocol import topology
from warren.protocol.dead_message import Death, retry_properties
from warren.protocol.evidence import CONNECTION_LOST, SETUP_DENIED, conclude
from warren.protocol.request import Request
from warren.protocol.slip import Slip, slip_of

#: Seconds in which the broker has to confirm a request that is tried again.
CONFIRM_TIMEOUT = 30.0
#: Bytes of the largest body that is taken: what RabbitMQ itself allows at the most.
_ANY_SIZE = 512 * 1024 * 1024


class DeadQueueError(Exception):
    """Something that was asked of a dead queue cannot be done; the text says why, and what became of the message."""


class NotThere(DeadQueueError):
    """There is no such queue, or no message of that id in it."""


class Unfit(DeadQueueError):
    """This message cannot be tried again, now or later; others may."""


class InDoubt(DeadQueueError):
    """The request is still in the dead queue, and may be in the service's queue as well."""


class DeadMessage:
    """One message of a dead queue.

    Attributes:
        id: what it is called here: its ``message_id``, else its ``correlation_id``, else a fingerprint; the second
            of one name has ``~2`` behind it, and so on. Safe to print.
        size: of its body, in bytes.
        body: the body; None if it was not asked for.
        properties: None if they are not AMQP.
        headers: None if they cannot be read.
    """

    def __init__(self, delivery: Delivery, known: Counter[str]) -> None:
        self._delivery = delivery
        self.size = delivery.body_size
        self.body = delivery.body
        name = self._name()
        known[name] += 1
        self.id = name if known[name] == 1 else f"{name}~{known[name]}"

    @property
    def named_properties(self) -> dict[str, bytes | int]:
        """Its properties by name, without the headers; none if they cannot be read."""
        named = {name: getattr(self.properties, name, None) for name in PROPERTY_NAMES}
        return {name: value for name, value in named.items() if value is not None}

    @property
    def tag(self) -> int:
        return self._delivery.tag

    @cached_property
    def properties(self) -> Properties | None:
        try:
            return decode_properties(self._delivery.properties)
        except FrameError:
            return None

    @cached_property
    def headers(self) -> dict[str, Any] | None:
        table = self.properties.table if self.properties is not None else None
        try:
            return decode_table(table or b"")
        except FrameError:
            return None

    @cached_property
    def death(self) -> Death:
        """What its headers say about its end."""
        return Death.read(self.headers or {})

    @property
    def reason(self) -> str:
        """Why it is here: the worker's reason, or the broker's in lower case."""
        return printable(self.death.reason or "not known")

    @property
    def since(self) -> datetime | None:
        """When it was set aside, or the broker gave it up; None if that is not said."""
        return self.death.at

    @property
    def method(self) -> str | None:
        return _text(self.properties.type if self.properties is not None else None)

    @property
    def caller(self) -> str | None:
        """What its caller called itself."""
        return _text(self.properties.app_id if self.properties is not None else None)

    @property
    def was_a_call(self) -> bool:
        """Whether somebody waited for a reply."""
        return self.properties is not None and bool(self.properties.reply_to)

    @cached_property
    def stage(self) -> Slip | None:
        """Where its pipeline ended, and is resumed; None of what is no stage of one."""
        return None if self.properties is None else slip_of(self.properties)

    def request(self) -> Request:
        """It, as a request.

        Raises:
            Unfit: it cannot be read.
        """
        try:
            return Request(self._delivery)
        except FrameError as error:
            raise Unfit(f"{self.id} cannot be tried again, as it cannot be read: {error}") from error

    def _name(self) -> str:
        p = self.properties or Properties()
        fingerprint = blake2s(self._delivery.properties, digest_size=4).hexdigest()
        return _text(p.message_id) or _text(p.correlation_id) or f"unnamed-{fingerprint}"


class DeadQueue:
    """A service's dead queue, over one channel; the receiver of that channel. Made by `open_dead_queue`."""

    def __init__(self, link: Link, channel: HotChannel, service: str, *, user: str, bodies: bool) -> None:
        self._link = link
        self._channel = channel
        self._service = service
        self._queue = topology.dead_queue(service)
        self._user = user
        self._taken: asyncio.Future[Delivery | None] | None = None
        self._settled: asyncio.Future[str | None] | None = None
        self._returned: str | None = None
        channel.attach(self, body_limit=_ANY_SIZE if bodies else 0)
        channel.on_empty(lambda: self._take(None))
        channel.on_closed = self._on_closed

    async def count(self) -> int:
        """How many messages are there, those left out that others look at.

        Raises:
            NotThere: there is no such queue.
        """
        channel = await self._link.channel()
        try:
            messages, _consumers = await channel.inspect_queue(self._queue)
        except ChannelClosed as error:
            raise self._explained(error) from error
        return messages

    async def messages(self, most: int | None = None) -> AsyncIterator[DeadMessage]:
        """The messages that are there now, at most `most`, oldest first; what arrives meanwhile is left out.

        Raises:
            NotThere: there is no such queue.
        """
        count = await self.count()
        known: Counter[str] = Counter()
        for _ in range(count if most is None else min(count, most)):
            delivery = await self._get()
            if delivery is None:
                return
            yield DeadMessage(delivery, known)

    async def find(self, name: str) -> DeadMessage:
        """The message with this id.

        Raises:
            NotThere: there is none.
        """
        async for entry in self.messages():
            if entry.id == name:
                return entry
        raise NotThere(f"there is no message {name!r} in {self._queue!r}")

    async def retry(self, entry: DeadMessage) -> None:
        """Publish a request again, as a cast with the same ``message_id``, and take it off this queue.

        A stage of a pipeline is resumed, in the service that it is of, with what the stages before it have returned.

        Raises:
            Unfit, DeadQueueError: it was not, and stays here.
            InDoubt: it stays here, and may have been published.
        """
        request, body = entry.request(), entry.body
        if entry.stage is not None and entry.stage.undone:
            raise Unfit(f"{entry.id} cannot be resumed: what its pipeline had done was undone; send the pipeline again")
        if body is None:
            raise Unfit(f"{entry.id} cannot be tried again: its body of {entry.size} bytes is too large")
        try:
            properties = retry_properties(request, user=self._user)
        except (FrameError, ValueError) as error:
            raise Unfit(f"{entry.id} cannot be tried again: {error}") from error
        if len(properties) > self._channel.room:
            raise Unfit(f"{entry.id} cannot be tried again: its headers are larger than a frame")
        to = self._service if entry.stage is None else entry.stage.here.queue
        refusal = await self._publish(entry, to, properties, body)
        if refusal is not None:
            raise DeadQueueError(f"{entry.id} was not taken and stays in {self._queue!r}: {refusal}")
        self.drop(entry)

    def drop(self, entry: DeadMessage) -> None:
        """Take a message off this queue for good."""
        self._channel.ack(entry.tag)
        self._link.stream.flush()  # now: an acknowledgement behind the channel's close would be lost

    async def _get(self) -> Delivery | None:
        self._raise_if_closed()
        self._taken = asyncio.get_running_loop().create_future()
        self._channel.get(self._queue)
        return await self._taken

    async def _publish(self, entry: DeadMessage, to: str, properties: bytes, body: bytes) -> str | None:
        """Publish to a service; returns why the broker did not take it."""
        self._raise_if_closed()
        self._settled, self._returned = asyncio.get_running_loop().create_future(), None
        self._channel.publish(topology.EXCHANGE.encode(), to.encode(), properties, body)
        try:
            async with asyncio.timeout(CONFIRM_TIMEOUT):
                return await self._settled
        except (TimeoutError, asyncio.CancelledError, LinkLost) as error:
            why = str(error) or ("no answer in time" if isinstance(error, TimeoutError) else "interrupted")
            message = f"{entry.id} stays in {self._queue!r} and may be in {to!r} too, not confirmed: {why}"
            raise InDoubt(message) from error

    def _raise_if_closed(self) -> None:
        if self._channel.closed is not None:
            raise self._explained(self._channel.closed)

    def _explained(self, error: Exception) -> Exception:
        if not isinstance(error, ChannelClosed):
            return error
        if error.code == NOT_FOUND:
            return NotThere(
                f"there is no queue {self._queue!r}: no worker of {self._service!r} has ever run here; check the"
                " service's name, the broker and the vhost"
            )
        if error.code == ACCESS_REFUSED:
            return conclude(SETUP_DENIED, error.text)
        return DeadQueueError(f"the broker closed the channel: {error}")

    # --- from the channel (Receiver) ----------------------------------------------------------------------------

    def delivered(self, channel: HotChannel, delivery: Delivery) -> None:
        self._take(delivery)

    def confirmed(self, tag: int, multiple: bool) -> None:
        self._settle(self._returned)

    def refused(self, tag: int, multiple: bool) -> None:
        self._settle("the queue is full")

    def returned(self, message: Returned) -> None:
        self._returned = f"there is no queue for {message.route[1].decode()!r} ({message.why})"  # its confirm follows

    def consumer_cancelled(self, channel: HotChannel) -> None:
        """Nothing is consumed on this channel."""

    def _take(self, delivery: Delivery | None) -> None:
        if self._taken is not None and not self._taken.done():
            self._taken.set_result(delivery)

    def _settle(self, outcome: str | None) -> None:
        if self._settled is not None and not self._settled.done():
            self._settled.set_result(outcome)

    def _on_closed(self, reason: Exception) -> None:
        for waiting in (self._taken, self._settled):
            if waiting is not None and not waiting.done():
                waiting.set_exception(self._explained(reason))


@contextlib.asynccontextmanager
async def open_dead_queue(settings: Settings, service: str, *, bodies: bool) -> AsyncIterator[DeadQueue]:
    """Connect to the broker; at the end what was looked at and not dealt with is put back.

    Args:
        settings: where the broker is.
        service: whose dead queue.
        bodies: fetch the messages' bodies, too.

    Raises:
        CallError: there is no connection, or it was lost.
    """
    link = await _connect(settings)
    try:
        channel = await link.hot_channel()
        await channel.confirm()
        yield DeadQueue(link, channel, service, user=settings.username, bodies=bodies)
        async with asyncio.timeout(CONFIRM_TIMEOUT):
            await channel.close()  # answered after the acknowledgements before it were taken
        if link.closed.done():
            raise link.closed.result()
    except (LinkLost, TimeoutError) as error:
        message = (
            f"the connection to {link.peer} was lost: {str(error) or 'no answer'}; look how far it came, and call again"
        )
        raise conclude(CONNECTION_LOST, message) from error
    finally:
        await link.close()


async def _connect(settings: Settings) -> Link:
    failure: CallError | None = None
    for host, port in settings.hosts:
        try:
            return await open_link(settings, host, port)
        except ConnectFailed as failed:
            failure = failed.error
    assert failure is not None
    raise failure


def _text(value: bytes | None) -> str | None:
    return None if value is None else printable_bytes(value)
