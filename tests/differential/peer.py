"""One broker, as a script of operations sees it: connections, channels, and a record of all that the broker said."""

from __future__ import annotations

import contextlib
import datetime
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from pika import spec

from tests.differential.wire import PATIENCE, Login, Seen, Wire, content_frames, method_frame

#: The answer that is awaited is called <method>Ok, but for this one.
_ANSWERS = {"Basic.Get": ("Basic.GetOk", "Basic.GetEmpty")}
_ENDS = ("Channel.Close", "Connection.Close", "End")
#: What comes by itself, in the record apart from the answers.
_DELIVERIES, _RETURNS, _CONFIRMS = "Basic.Deliver", "Basic.Return", ("Basic.Ack", "Basic.Nack")

Record = dict[str, Any]
Message = tuple[str, str, str, bool, dict[str, Any]]  # exchange, routing key, body, mandatory, properties


class Peer:
    """A broker for one script. Names in the script are used as they are: whoever runs it removes them (`clean`)."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connections: list[Connection] = []
        self.noted: list[object] = []
        self.queues: set[str] = set()
        self.exchanges: set[str] = set()
        self._observer: Observer | None = None

    def connect(self, **login: Any) -> Connection:
        """A new connection; what the broker says to it is on record."""
        connection = Connection(self)
        self.connections.append(connection)
        connection.shake_hands(Login(**login))
        return connection

    def channel(self) -> Channel:
        """A channel of a connection of its own."""
        return self.connect().channel()

    def note(self, *values: object) -> None:
        """Put something on record that the script has found out."""
        self.noted.append(values)

    def count(self, queue: str) -> tuple[int, int] | int:
        """Messages and consumers of a queue, or the error code; asked on a connection of its own, not recorded."""
        return self.observer().look(queue)

    def wait_for(self, queue: str, messages: int) -> None:
        """Wait until a queue has so many messages ready; not recorded."""
        observer = self.observer()
        until = time.monotonic() + PATIENCE
        while (found := observer.look(queue)) != messages and (not isinstance(found, tuple) or found[0] != messages):
            assert time.monotonic() < until, f"{queue} never had {messages} messages, but {found}"
            time.sleep(0.01)

    def wait_until_gone(self, queue: str, every: float = 0.01) -> None:
        """Wait until there is no such queue, looking `every` so many seconds; not recorded."""
        until = time.monotonic() + PATIENCE
        while self.observer().look(queue) != 404:
            assert time.monotonic() < until, f"{queue} is still there"
            time.sleep(every)

    def observer(self) -> Observer:
        """Who looks at queues without being recorded."""
        if self._observer is None:
            self._observer = Observer(self.port)
        return self._observer

    def clean(self) -> None:
        """Close what is open, and delete what was declared."""
        for connection in self.connections:
            connection.close()
        if self._observer is not None:
            self._observer.close()
        sweeper = Connection(self)
        try:
            sweeper.shake_hands(Login())
            self._sweep(sweeper.channel())
        finally:
            sweeper.close()

    def _sweep(self, channel: Channel) -> None:
        for queue in self.queues:
            assert channel.call(spec.Queue.Delete(queue=queue)).name == "Queue.DeleteOk"
        for exchange in self.exchanges:
            assert channel.call(spec.Exchange.Delete(exchange=exchange)).name == "Exchange.DeleteOk"

    def record(self) -> Record:
        """All that the broker said, so that two brokers can be compared."""
        names = Names()
        record: Record = {"noted": [names.plain(value) for value in self.noted]}
        for number, connection in enumerate(self.connections, 1):
            record |= {f"connection {number}": connection.record(names)}
        return record


class Connection:
    """A connection and its channels."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.wire = Wire(peer.port)
        self.seen: list[Seen] = []
        self.taken: set[int] = set()  # positions in `seen` of what the script has used
        self.channels: dict[int, Channel] = {}

    def shake_hands(self, login: Login) -> None:
        """Introduce oneself."""
        for seen in self.wire.connect(login):
            if seen.name not in ("Connection.Start", "Connection.Tune"):  # what brokers offer may differ
                self.seen.append(seen)

    def channel(self, number: int | None = None) -> Channel:
        """Open a channel."""
        channel = Channel(self, number or max(self.channels, default=0) + 1)
        self.channels[channel.number] = channel
        channel.call(spec.Channel.Open())
        return channel

    @property
    def open(self) -> bool:
        """Whether the broker has not closed it."""
        ends = ("Connection.Close", "Connection.CloseOk", "End")
        return not any(seen.name in ends for seen in self.seen)

    def call(self, method: Any) -> Seen:
        """A method of channel 0, and the answer."""
        return self.ask(0, method)

    def ask(self, channel: int, method: Any) -> Seen:
        """Send a method and wait for its answer, or for what ends the channel or connection."""
        start = len(self.seen)
        self.wire.send(channel, method)
        wanted = _ANSWERS.get(method.NAME, (f"{method.NAME}Ok",))

        def answers(seen: Seen) -> bool:
            mine = seen.channel == channel and seen.name in (*wanted, *_ENDS)
            return mine or (seen.channel == 0 and seen.name in _ENDS)

        return self.expect(answers, start)

    def expect(self, wanted: Callable[[Seen], bool], start: int = 0, seconds: float = PATIENCE) -> Seen:
        """Wait for something that the script has not used yet, and use it."""
        until = time.monotonic() + seconds
        position = start
        while True:
            for index in range(position, len(self.seen)):
                if index not in self.taken and wanted(self.seen[index]):
                    self.taken.add(index)
                    return self.seen[index]
            position = len(self.seen)
            left = until - time.monotonic()
            seen = self.wire.read(left) if left > 0 else None
            if seen is None:
                told = [s.name for i, s in enumerate(self.seen) if i not in self.taken]
                raise AssertionError(f"the broker did not send what was expected, only {told}")
            self.seen.append(seen)

    def drain(self) -> None:
        """Take what is there, without waiting."""
        while (seen := self.wire.read(0)) is not None:
            self.seen.append(seen)

    def end(self) -> Seen:
        """Wait until the broker has ended the connection; what it said about it."""
        self.expect(lambda seen: seen.name == "End")
        return next((seen for seen in self.seen if seen.name == "Connection.Close"), self.seen[-1])

    def close(self) -> None:
        """Close it as AMQP has it, if it is still open."""
        try:
            if self.open and self.seen:
                self.call(spec.Connection.Close(200, "bye", 0, 0))
        finally:
            self.wire.close()

    def record(self, names: Names) -> Record:
        """What the broker said, by channel."""
        self.drain()
        if self.seen and self.seen[-1].name == "Connection.Close":  # the end of the connection is on its way
            with contextlib.suppress(AssertionError):
                self.expect(lambda seen: seen.name == "End")
        if [seen.name for seen in self.seen[-2:]] == ["Connection.CloseOk", "End"]:
            self.seen.pop()  # who closes the socket first is free
        channels = sorted({seen.channel for seen in self.seen})
        return {f"channel {n}": _record([s for s in self.seen if s.channel == n], names) for n in channels}


class Channel:
    """A channel, with a method for each method. All that has an answer waits for it, and returns it."""

    def __init__(self, connection: Connection, number: int) -> None:
        self.connection = connection
        self.number = number

    @property
    def open(self) -> bool:
        """Whether the broker has not closed it, or its connection."""
        ends = [s for s in self.connection.seen if s.channel == self.number]
        closes = [s.name for s in ends if s.name in ("Channel.Close", "Channel.OpenOk")]
        return self.connection.open and closes[-1:] != ["Channel.Close"]

    def call(self, method: Any) -> Seen:
        """Send a method and wait for its answer."""
        return self.connection.ask(self.number, method)

    def send(self, *methods: Any) -> None:
        """Send methods that have no answer."""
        self.connection.wire.send(self.number, *methods)

    def sync(self) -> Seen:
        """Wait until the broker has come so far: errors and returns of what was sent before are there."""
        return self.call(spec.Channel.Flow(True))

    def end(self) -> Seen:
        """Wait until the broker has closed the channel, or the connection."""
        return self.connection.expect(
            lambda seen: seen.name in _ENDS and seen.channel in (0, self.number) and seen.name != "End"
        )

    def reopen(self) -> None:
        """Open a channel again that the broker has closed."""
        self.call(spec.Channel.Open())

    def close(self) -> Seen:
        """Close it."""
        return self.call(spec.Channel.Close(200, "bye", 0, 0))

    # --- declaring ------------------------------------------------------------------------------------------------

    def queue(self, name: str = "", arguments: Any = None, **options: bool) -> Seen:
        """Queue.Declare."""
        if name and not name.startswith("amq."):
            self.connection.peer.queues.add(name)
        return self.call(spec.Queue.Declare(queue=name, arguments=arguments, **options))

    def exchange(self, name: str, kind: str = "direct", arguments: Any = None, **options: bool) -> Seen:
        """Exchange.Declare."""
        if name and not name.startswith("amq."):
            self.connection.peer.exchanges.add(name)
        return self.call(spec.Exchange.Declare(exchange=name, type=kind, arguments=arguments, **options))

    def bind(self, queue: str, exchange: str, key: str = "", arguments: Any = None) -> Seen:
        """Queue.Bind."""
        return self.call(spec.Queue.Bind(queue=queue, exchange=exchange, routing_key=key, arguments=arguments))

    def unbind(self, queue: str, exchange: str, key: str = "", arguments: Any = None) -> Seen:
        """Queue.Unbind."""
        return self.call(spec.Queue.Unbind(queue=queue, exchange=exchange, routing_key=key, arguments=arguments))

    def bind_exchange(self, to: str, source: str, key: str = "", arguments: Any = None) -> Seen:
        """Exchange.Bind."""
        method = spec.Exchange.Bind(destination=to, source=source, routing_key=key, arguments=arguments)
        return self.call(method)

    def unbind_exchange(self, to: str, source: str, key: str = "", arguments: Any = None) -> Seen:
        """Exchange.Unbind."""
        method = spec.Exchange.Unbind(destination=to, source=source, routing_key=key, arguments=arguments)
        return self.call(method)

    def delete(self, queue: str, **options: bool) -> Seen:
        """Queue.Delete."""
        return self.call(spec.Queue.Delete(queue=queue, **options))

    def delete_exchange(self, name: str, **options: bool) -> Seen:
        """Exchange.Delete."""
        return self.call(spec.Exchange.Delete(exchange=name, **options))

    def purge(self, queue: str) -> Seen:
        """Queue.Purge."""
        return self.call(spec.Queue.Purge(queue=queue))

    # --- publishing -----------------------------------------------------------------------------------------------

    def publish(
        self, key: str, body: str | bytes = "", exchange: str = "", *, mandatory: bool = False, **properties: Any
    ) -> None:
        """Basic.Publish; properties by Pika's names."""
        method = spec.Basic.Publish(exchange=exchange, routing_key=key, mandatory=mandatory)
        data = body.encode() if isinstance(body, str) else body
        self.connection.wire.publish(self.number, method, spec.BasicProperties(**properties), data)

    def publish_many(self, messages: list[Message]) -> None:
        """Several Basic.Publish in one packet."""
        wire = self.connection.wire
        frames = []
        for exchange, key, body, mandatory, properties in messages:
            method = spec.Basic.Publish(exchange=exchange, routing_key=key, mandatory=mandatory)
            content = content_frames(self.number, spec.BasicProperties(**properties), body.encode(), wire.frame_max)
            frames += [method_frame(self.number, method), content]
        wire.send_bytes(b"".join(frames))

    def confirms(self) -> Seen:
        """Confirm.Select."""
        return self.call(spec.Confirm.Select())

    def confirmed(self, count: int) -> None:
        """Wait until the first so many publishes are confirmed, one way or the other."""
        while not set(range(1, count + 1)) <= set().union(*self._confirms()):
            self.connection.expect(lambda seen: seen.channel == self.number and seen.name in _CONFIRMS)

    def _confirms(self) -> tuple[set[int], set[int]]:
        return confirms(seen for seen in self.connection.seen if seen.channel == self.number)

    # --- consuming ------------------------------------------------------------------------------------------------

    def consume(self, queue: str, tag: str = "", arguments: Any = None, **options: bool) -> Seen:
        """Basic.Consume."""
        return self.call(spec.Basic.Consume(queue=queue, consumer_tag=tag, arguments=arguments, **options))

    def cancel(self, tag: str) -> Seen:
        """Basic.Cancel."""
        return self.call(spec.Basic.Cancel(consumer_tag=tag))

    def get(self, queue: str, *, no_ack: bool = False) -> Seen:
        """Basic.Get."""
        return self.call(spec.Basic.Get(queue=queue, no_ack=no_ack))

    def take(self, queue: str, count: int | None = None) -> list[Seen]:
        """Get messages without acknowledgement: so many, or until none is left."""
        found: list[Seen] = []
        while len(found) != count and (seen := self.get(queue, no_ack=True)).name == "Basic.GetOk":
            found.append(seen)
        return found

    def delivery(self) -> Seen:
        """The next delivery."""
        return self.deliveries(1)[0]

    def deliveries(self, count: int) -> list[Seen]:
        """The next so many deliveries."""
        return [
            self.connection.expect(lambda s: s.channel == self.number and s.name == _DELIVERIES) for _ in range(count)
        ]

    def returned(self) -> Seen:
        """The next message that comes back."""
        return self.connection.expect(lambda seen: seen.channel == self.number and seen.name == _RETURNS)

    def cancelled(self) -> Seen:
        """The broker cancels a consumer."""
        return self.connection.expect(lambda seen: seen.channel == self.number and seen.name == "Basic.Cancel")

    def qos(self, count: int, *, shared: bool = False) -> Seen:
        """Basic.Qos; shared: the limit of all consumers of the channel together."""
        return self.call(spec.Basic.Qos(prefetch_count=count, global_qos=shared))

    # --- acknowledging --------------------------------------------------------------------------------------------

    def ack(self, tag: int, *, multiple: bool = False) -> None:
        """Basic.Ack."""
        self.send(spec.Basic.Ack(tag, multiple))

    def nack(self, tag: int, *, multiple: bool = False, requeue: bool = True) -> None:
        """Basic.Nack."""
        self.send(spec.Basic.Nack(tag, multiple, requeue))

    def reject(self, tag: int, *, requeue: bool = True) -> None:
        """Basic.Reject."""
        self.send(spec.Basic.Reject(tag, requeue))

    def recover(self, *, requeue: bool = True) -> Seen:
        """Basic.Recover."""
        return self.call(spec.Basic.Recover(requeue))


class Observer:
    """Looks at queues, on a connection that nobody compares."""

    def __init__(self, port: int) -> None:
        self._wire = Wire(port)
        self._wire.connect(Login())
        self._open = False

    def look(self, queue: str) -> tuple[int, int] | int:
        """Messages and consumers of a queue, or the error code."""
        if not self._open:
            self._ask(spec.Channel.Open())
            self._open = True
        seen = self._ask(spec.Queue.Declare(queue=queue, passive=True))
        self._open = not seen.code
        return seen.code or (int(seen.fields["message_count"]), int(seen.fields["consumer_count"]))

    def _ask(self, method: Any) -> Seen:
        self._wire.send(1, method)
        seen = self._wire.read(PATIENCE)
        assert seen is not None, f"no answer to {method.NAME}"
        return seen

    def close(self) -> None:
        """Close the connection."""
        self._wire.send(0, spec.Connection.Close(200, "bye", 0, 0))
        self._wire.read(PATIENCE)
        self._wire.close()


# --- the record -------------------------------------------------------------------------------------------------------


class Names:
    """Names that brokers make up, told apart by number: amq.gen-1, amq.ctag-2, ..."""

    _PREFIXES = ("amq.gen-", "amq.ctag-", "amq.rabbitmq.reply-to.")

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def plain(self, value: Any) -> Any:
        """A value that can be compared: types and made-up names by what they are, times without their value."""
        if isinstance(value, Seen):
            return self.seen(value)
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, datetime.datetime):
            return "<time>"
        if isinstance(value, dict):
            return {name: self.plain(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.plain(item) for item in value]
        return value if value is None or isinstance(value, bool) else (type(value).__name__, value)

    def _text(self, value: str) -> str:
        for prefix in self._PREFIXES:
            start = value.find(prefix)
            if start >= 0 and len(value) > start + len(prefix):
                end = next((i for i in range(start, len(value)) if value[i] in "' "), len(value))
                name = value[start:end]
                self._known.setdefault(name, f"{prefix}{len(self._known) + 1}")
                return value[:start] + self._known[name] + value[end:]
        return value

    def seen(self, seen: Seen) -> Record:
        """A method, its fields, and its content."""
        record: Record = {"method": seen.name, **self.plain(seen.fields)}
        if seen.body is not None:
            record["body"] = _short(seen.body)
            record["properties"] = self.plain(seen.properties)
        return record


def _short(body: bytes) -> str:
    return repr(body) if len(body) <= 100 else f"{len(body)} bytes, CRC {zlib.crc32(body)}"


def confirms(seen: Iterator[Seen]) -> tuple[set[int], set[int]]:
    """The publishes that the broker has taken and refused, however many it confirmed at a time."""
    taken: set[int] = set()
    refused: set[int] = set()
    for one in seen:
        if one.name in _CONFIRMS:
            kind = taken if one.name == "Basic.Ack" else refused
            tags = range(1, one.tag + 1) if one.fields["multiple"] else (one.tag,)
            kind.update(set(tags) - taken - refused)
    return taken, refused


def _record(seen: list[Seen], names: Names) -> Record:
    """What is in a fixed order, each apart: answers, deliveries by consumer, returns, confirms."""
    by_consumer: dict[str, list[Record]] = {}
    for one in seen:
        if one.name == _DELIVERIES:
            by_consumer.setdefault(one.fields["consumer_tag"], []).append(names.seen(one))
    apart = (_DELIVERIES, _RETURNS, *_CONFIRMS, "Heartbeat")
    taken, refused = confirms(iter(seen))
    return {
        "answers": [names.seen(one) for one in seen if one.name not in apart],
        "deliveries": {names.plain(tag): items for tag, items in by_consumer.items()},
        "returns": [names.seen(one) for one in seen if one.name == _RETURNS],
        "confirmed": sorted(taken),
        "refused": sorted(refused),
    }
