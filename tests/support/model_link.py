"""A link, its channels and its supervisor without a socket, for tests that drive a client's real objects by hand."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from typing import Any

from warren.amqp.frames import Delivery, decode_properties, shortstr
from warren.amqp.tables import decode_table
from warren.connection.errors import ChannelClosed, LinkLost
from warren.connection.supervisor import State
from warren.errors import CallError, Code, Execution, make_error
from warren.protocol import topology
from warren.protocol.control import read_cancel, read_question


class Message:
    """A request as the broker has it.

    Attributes:
        channel, number: where it was published, and as which publish.
        settled: whether the broker has confirmed or refused it.
        routed: whether an answer to a later method has proven that the broker has taken it.
        ran: whether a handler has begun it.
        dead: whether no handler can begin it any more.
        bounces: whether it asked to come back from a queue that does not keep it.
    """

    def __init__(self, channel: ModelChannel, number: int, properties: bytes) -> None:
        self.channel = channel
        self.number = number
        p = decode_properties(properties)
        assert p.correlation_id is not None
        self.id = p.correlation_id
        self.first_id = p.message_id or self.id
        self.bounces = "CC" in decode_table(p.table or b"")
        self.settled = self.routed = self.ran = self.dead = False


class SeamFails(RuntimeError):
    """What a sabotaged seam raises."""


class Seams:
    """The functions at the seams; `fail` makes one of them raise the next time it is used."""

    def __init__(self) -> None:
        self._failing: dict[str, int] = {}

    def fail(self, name: str, after: int) -> None:
        self._failing[name] = after

    @property
    def failing(self) -> bool:
        """Whether any of them will fail, or is not known not to have."""
        return bool(self._failing)

    def heal(self) -> None:
        self._failing.clear()

    def use(self, name: str) -> None:
        left = self._failing.get(name)
        if left is None:
            return
        if left > 0:
            self._failing[name] = left - 1
            return
        del self._failing[name]
        raise SeamFails(f"{name} fails")


class ModelBroker:
    """What the broker has, and how its one queue answers: ``answers``, ``missing`` or ``silent``."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.queue = "answers"
        self.prompt = True  # whether it answers at once when a channel is asked for a proof
        self.control = "there"  # the exchange for control messages: or `denied`, or `slow` to be declared
        self.cancelled: list[tuple[str, str]] = []  # calls that workers were told are given up: ids and addresses
        self.seams = Seams()
        self.links: list[ModelLink] = []


class ModelChannel:
    """Stands for a `Channel` and a `HotChannel`."""

    def __init__(self, link: ModelLink) -> None:
        self.link = link
        self.broker = link.broker
        self.closed: Exception | None = None
        self.on_closed: Callable[[Exception], None] = lambda _reason: None
        self.receiver: Any = None
        self.confirming = False
        self.consumes = False
        self.published = 0
        self._asked: list[tuple[int, asyncio.Future[None]]] = []  # proofs, of so many publishes

    def attach(self, receiver: Any, *, body_limit: int) -> None:
        self.receiver = receiver

    def publish(self, exchange: bytes, routing_key: bytes, properties: bytes, body: bytes) -> int:
        self.broker.seams.use("publish")
        self.published += 1
        self.broker.messages.append(Message(self, self.published, properties))
        return self.published

    def publish_unrouted(self, exchange: bytes, routing_key: bytes, properties: bytes, body: bytes) -> None:
        """What workers are told of calls that are given up."""
        assert self.closed is None
        shortstr(routing_key)
        assert (exchange, routing_key) == (topology.CONTROL_EXCHANGE.encode(), b"service:q")
        if self.broker.control == "denied":
            asyncio.get_running_loop().call_soon(self.close_by_broker, 403)
            return
        cancel = read_cancel(read_question(properties, body).body)
        self.broker.cancelled += [(id, cancel.reply_to) for id in cancel.calls]

    def ack(self, tag: int) -> None:
        self.broker.seams.use("ack")

    async def declare_exchange(self, name: str, kind: str) -> None:
        if name == topology.CONTROL_EXCHANGE:
            await self.link.control_answers()

    async def declare_queue(self, name: str, *, arguments: Any = None) -> None: ...
    async def delete_queue(self, name: str) -> None: ...
    async def bind(self, queue: str, exchange: str, routing_key: str) -> None: ...
    async def qos(self, prefetch: int) -> None: ...

    async def settled(self) -> None:
        """The broker has taken what was sent before; it answers at once, or when it is told to."""
        self.broker.seams.use("settled")
        if self.closed is not None:
            raise self.closed
        answer = asyncio.get_running_loop().create_future()
        self._asked.append((self.published, answer))
        if self.broker.prompt:
            self.answer()
        await answer

    def answer(self) -> None:
        """The broker answers what it was asked for a proof of."""
        for published, answer in self._asked:
            for message in self.broker.messages:
                message.routed |= message.channel is self and message.number <= published
            if not answer.done():
                answer.set_result(None)
        self._asked.clear()

    async def confirm(self) -> None:
        self.broker.seams.use("confirm")
        self.confirming = True

    async def consume(self, queue: str, *, no_ack: bool, priority: int = 0) -> None:
        self.consumes = True

    async def declare_reply_queue(self, *, arguments: Any) -> str:
        return f"replies-{id(self)}"

    async def inspect_queue(self, name: str) -> tuple[int, int]:
        self.broker.seams.use("inspect")
        if name != topology.service_queue("q"):  # the client's own for replies, which is there
            return 0, 0
        if self.broker.queue == "silent":
            await asyncio.Event().wait()
        if self.broker.queue == "missing":
            raise ChannelClosed(404, "NOT_FOUND")
        return 1, 1

    async def close(self) -> None:
        if self.closed is None:
            self._close(LinkLost("closed by the client"))

    def close_by_broker(self, code: int) -> None:
        self._close(ChannelClosed(code, "because"))

    def _close(self, reason: Exception) -> None:
        self.closed = reason
        if self in self.link.channels:
            self.link.channels.remove(self)
        for _, answer in self._asked:
            if not answer.done():
                answer.set_exception(reason)
        self._asked.clear()
        self.on_closed(reason)

    def deliver(self, delivery: Delivery) -> None:
        with contextlib.suppress(SeamFails):  # the ack: the reply itself must not be lost with it
            self.receiver.delivered(self, delivery)


class ModelLink:
    """Stands for a `Link`."""

    peer = "model"

    def __init__(self, broker: ModelBroker, on_close: Callable[[], None]) -> None:
        self.broker = broker
        self.channels: list[ModelChannel] = []
        self.blocked: str | None = None
        self.may_not_declare_control = False
        self.gone = False
        self.slow: asyncio.Future[None] | None = None
        self._on_close = on_close
        self._on_writable: Callable[[], None] = lambda: None
        broker.links.append(self)

    @property
    def writable(self) -> bool:
        return self.blocked is None

    def on_writable(self, callback: Callable[[], None]) -> None:
        self._on_writable = callback

    def block(self, reason: str | None) -> None:
        self.blocked = reason
        if reason is None:
            self._on_writable()

    async def channel(self) -> ModelChannel:
        return await self.hot_channel()

    async def hot_channel(self) -> ModelChannel:
        self.broker.seams.use("channel")
        if self.gone:
            raise LinkLost("gone")
        channel = ModelChannel(self)
        self.channels.append(channel)
        return channel

    async def control_answers(self) -> None:
        if self.broker.control == "slow":
            self.slow = asyncio.get_running_loop().create_future()
            await self.slow
        elif self.broker.control == "denied":
            raise ChannelClosed(403, "ACCESS_REFUSED")

    async def close(self, patience: float = 3.0) -> None:
        if not self.gone:
            self._on_close()

    def break_off(self) -> None:
        self.gone = True
        if self.slow is not None and not self.slow.done():
            self.slow.set_exception(LinkLost("gone"))
        for channel in list(self.channels):
            channel._close(LinkLost("gone"))


def lost() -> CallError:
    """What the supervisor says of a lost link."""
    return make_error(Code.UNAVAILABLE, "NOT_CONNECTED", "lost", execution=Execution.NOT_SENT)


class ModelSupervisor:
    """Stands for a `Supervisor`: the test connects and breaks off, in turns of its own."""

    def __init__(self, broker: ModelBroker, *, setup: Any, lost: Any, failed: Any) -> None:
        self.broker = broker
        self.state = State.CLOSED
        self.failure: CallError | None = None
        self.link: ModelLink | None = None
        self._setup, self._lost, self.failed = setup, lost, failed

    def start(self) -> None:
        self.state = State.CONNECTING

    async def connect(self) -> None:
        """Set a link up, as far as that goes."""
        link = ModelLink(self.broker, self._on_close)
        try:
            await self._setup(link)
        except (SeamFails, LinkLost, ChannelClosed):
            link.break_off()
            return
        self.link, self.state, self.failure = link, State.OPEN, None

    def _on_close(self) -> None:
        if self.link is not None:
            self.lose(lost())

    def lose(self, reason: CallError) -> None:
        assert self.link is not None
        link, self.link = self.link, None
        self.state, self.failure = State.WAITING, reason
        link.break_off()
        self._lost(reason)

    async def close(self, patience: float) -> None:
        if self.link is not None:
            link, self.link = self.link, None
            link.break_off()
        self.state = State.CLOSED


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0
        super().__init__()
        self.errors: list[Any] = []
        self.set_exception_handler(lambda _loop, context: self.errors.append(context))

    def time(self) -> float:
        return self.now

    def settle(self) -> None:
        """Run until nothing is left to do at this time."""
        for _ in itertools.repeat(None, 12):
            self.call_soon(self.stop)
            self.run_forever()


class VirtualClock:
    """In place of the module `time`."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def monotonic(self) -> float:
        return self._loop.now

    def time(self) -> float:
        return 1.7e9 + self._loop.now
