"""Two brokers that are told the same, step by step, and compared after each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pika import spec

from tests.differential.both import describe
from tests.differential.differences import forgive
from tests.differential.peer import Channel, Connection, Names, Peer, confirms
from tests.differential.wire import Seen

#: Seconds in which the two must come to agree; RabbitMQ's queues are processes of their own.
PATIENCE = 3.0
_SHORTER = 0.5  # once they have failed to: Hypothesis then looks for a shorter sequence, which takes many tries
_LOOKING = 9  # the channel on which queues are looked at

Operation = Callable[[Channel], object]


class Disagreement(AssertionError):
    """The two brokers have told different things."""


class Where(NamedTuple):
    """A channel of a connection; whatever of it has been closed is opened again."""

    connection: int
    channel: int


@dataclass
class _History:
    """One incarnation of a channel."""

    tags: dict[int, Seen] = field(default_factory=dict)  # what came with which delivery tag
    confirms: list[Seen] = field(default_factory=list)


def _confirms(history: _History, seen: list[Seen]) -> tuple[set[int], set[int]]:
    """All confirms of a channel, of its last incarnation."""
    opened = [index for index, one in enumerate(seen) if one.name == "Channel.OpenOk"]
    return confirms(iter(seen[opened[-1] :] if opened else [*history.confirms, *seen]))


class Side:
    """One of the two brokers."""

    def __init__(self, port: int) -> None:
        self.peer = Peer(port)
        self._names = Names()
        self._connections: list[Connection] = []
        self._read: dict[Connection, int] = {}  # how much of what it has seen is agreed upon
        self.histories: dict[Where, _History] = {}

    def channel(self, where: Where) -> Channel:
        """The channel, opened if necessary."""
        while len(self._connections) <= where.connection:
            self._connections.append(self.peer.connect())
        connection = self._connections[where.connection]
        if not connection.open:
            connection = self._connections[where.connection] = self.peer.connect()
        channel = connection.channels.get(where.channel) or connection.channel(where.channel)
        if not channel.open:
            channel.reopen()
        return channel

    def perform(self, where: Where, operation: Operation) -> None:
        """Have it done, and wait until the channel has done it."""
        channel = self.channel(where)
        operation(channel)
        if channel.open:
            channel.sync()

    def look(self) -> dict[str, object]:
        """All that is new since `agree`."""
        news: dict[str, object] = {"queues": self._look_at_queues()}
        for number, connection in enumerate(self._connections):
            connection.drain()
            for channel, seen in self._news(connection).items():
                if channel != _LOOKING:
                    news[f"{number}/{channel}"] = self._summary(Where(number, channel), seen)
        return news

    def _news(self, connection: Connection) -> dict[int, list[Seen]]:
        by_channel: dict[int, list[Seen]] = {}
        for seen in connection.seen[self._read.get(connection, 0) :]:
            by_channel.setdefault(seen.channel, []).append(seen)
        return by_channel

    def _summary(self, where: Where, seen: list[Seen]) -> dict[str, object]:
        """What a channel was told; only orders that are fixed are kept."""
        history = self.histories.setdefault(where, _History())
        closed = any(one.name == "Channel.Close" for one in seen)
        deliveries: dict[str, list[object]] = {}
        for one in seen:
            if one.name == "Basic.Deliver":
                deliveries.setdefault(one.fields["consumer_tag"], []).append(self._plain(one))
        told = ("Basic.Deliver", "Basic.Return", "Basic.Ack", "Basic.Nack")
        return {
            "answers": [self._plain(one) for one in seen if one.name not in told],
            "deliveries": deliveries,
            "returns": [self._plain(one) for one in seen if one.name == "Basic.Return"],
            # what is confirmed before an error in the same packet may be told or not
            "confirms": None if closed else _confirms(history, seen),
        }

    def _plain(self, seen: Seen) -> object:
        record = self._names.seen(seen)
        record.pop("delivery_tag", None)  # with several queues, the order of deliveries is free
        return record

    def agree(self) -> None:
        """The news is agreed upon."""
        for number, connection in enumerate(self._connections):
            for seen in connection.seen[self._read.get(connection, 0) :]:
                self._remember(Where(number, seen.channel), seen)
            self._read[connection] = len(connection.seen)

    def _remember(self, where: Where, seen: Seen) -> None:
        if seen.name == "Channel.OpenOk":
            self.histories[where] = _History()
        history = self.histories.setdefault(where, _History())
        if seen.name in ("Basic.Deliver", "Basic.GetOk"):
            history.tags[seen.tag] = seen
        elif seen.name in ("Basic.Ack", "Basic.Nack"):
            history.confirms.append(seen)

    def _look_at_queues(self) -> dict[str, object]:
        return {queue: self._look_at(queue) for queue in sorted(self.peer.queues)}

    def _look_at(self, queue: str) -> object:
        """Its messages and consumers, or the code of the error."""
        for number, connection in enumerate(self._connections):
            if connection.open:  # one that has been closed stays as it is until that is agreed upon
                seen = self.channel(Where(number, _LOOKING)).queue(queue, passive=True)
                if not seen.code:
                    return seen.fields["message_count"], seen.fields["consumer_count"]
                if seen.code != 405:  # else it may be the other connection's
                    return seen.code
        return self.peer.count(queue)

    def address(self, number: int) -> str | None:
        """Where a connection comes from; None if there is none."""
        known = number < len(self._connections) and self._connections[number].open
        return self._connections[number].wire.address if known else None

    # --- deliveries -----------------------------------------------------------------------------------------------

    def delivered(self, where: Where) -> list[str]:
        """Names for what has been delivered on this channel: the same name is the same delivery on both sides."""
        history = self.histories.get(where, _History())
        count: dict[str, int] = {}
        names = []
        for tag in sorted(history.tags):
            seen = history.tags[tag]
            name = f"{seen.fields.get('consumer_tag')} {seen.fields['exchange']!r} {seen.text}"
            count[name] = count.get(name, 0) + 1
            names.append(f"{name} {count[name]}")
        return names

    def find(self, where: Where, name: str) -> Seen:
        """A delivery by its name."""
        history = self.histories[where]
        return history.tags[sorted(history.tags)[self.delivered(where).index(name)]]


class Twins:
    """Both sides."""

    patience = PATIENCE

    def __init__(self, rabbit: int, embedded: int, alike: Callable[[Any], Any] = lambda record: record) -> None:
        """`alike` takes more out of the records than is forgiven everywhere."""
        self.sides = (Side(rabbit), Side(embedded))
        self._alike = alike

    def perform(self, where: Where, operation: Operation) -> None:
        """Have both do the same, and compare."""
        for side in self.sides:
            side.perform(where, operation)
        self.settle()

    def settle(self) -> None:
        """Wait until both have told the same."""
        until = time.monotonic() + self.patience
        while True:
            expected, actual = (self._alike(forgive(side.look())) for side in self.sides)
            if expected == actual:
                break
            if time.monotonic() > until:
                Twins.patience = _SHORTER
                raise Disagreement(describe(expected, actual))
            time.sleep(0.005)
        for side in self.sides:
            side.agree()

    def choose(self, where: Where, number: int) -> tuple[str | None, bool]:
        """The name of one of the deliveries of a channel, and whether those before it are the same on both sides."""
        one, other = (side.delivered(where) for side in self.sides)
        if not one:
            return None, True
        name = one[-1 - number % len(one)]
        upto = one.index(name) + 1
        return name, one[:upto] == other[:upto]

    def settle_delivery(self, where: Where, name: str | None, answer: Callable[[Channel, Seen | None], Any]) -> None:
        """Have both do something with the same delivery; tags may differ."""
        for side in self.sides:
            channel = side.channel(where)  # may have to be opened: then the delivery is history
            seen = side.find(where, name) if name is not None else None
            answer(channel, seen)
            if channel.open:
                channel.sync()
        self.settle()

    def close_connection(self, number: int) -> None:
        """Close a connection in good order; the next operation opens another."""
        for side in self.sides:
            channel = side.channel(Where(number, 1))
            channel.connection.call(spec.Connection.Close(200, "bye", 0, 0))
            channel.connection.wire.close()
            channel.connection.drain()
        self.settle()

    def clean(self) -> None:
        """Remove everything from both."""
        for side in self.sides:
            side.peer.clean()
