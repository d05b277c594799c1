"""Where messages of quorum queues go when they are put back: RabbitMQ 3.10 and the embedded broker differ.

The embedded broker puts them where they were. RabbitMQ 3.10 puts them before all others that it has not delivered yet,
or, if a client refused them and the queue has no delivery limit, behind all others. So what is made up must not put
messages back unless all these places are the same; `same_place` tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise

from warren.broker import Broker
from warren.broker.handler import ChannelHandler
from warren.broker.outstanding import Held
from warren.broker.queues import Entry, Queue

Chosen = Callable[[int], bool]  # which deliveries of a channel, by their tags


def same_place(broker: Broker, address: str, channel: int | None = None, chosen: Chosen | None = None) -> bool:
    """Whether these deliveries, or all of a channel or a connection, can be put back without a difference."""
    return broker._do(lambda: _same_place(broker, address, channel, chosen))


def is_held(broker: Broker, address: str, channel: int, tag: int) -> bool:
    """Whether a delivery is still to be acknowledged."""
    return broker._do(lambda: any(number == channel and tag == own for number, own, _ in _held(broker, address)))


def may_consume(broker: Broker, address: str, channel: int, tag: str) -> bool:
    """Whether Basic.Consume with this tag does not cost the connection."""

    def may() -> bool:
        handler = _handlers(broker, address).get(channel)
        return handler is None or (tag not in handler.channel.consumers and not handler.channel.credit.shared)

    return broker._do(may)


def _handlers(broker: Broker, address: str) -> dict[int, ChannelHandler]:
    """The open channels of a connection."""
    found = [session.channels.by_number for session in broker._sessions() if session.address == address]
    return found[0] if found else {}


def _held(broker: Broker, address: str) -> list[tuple[int, int, Held]]:
    """What a connection holds: channel, tag and delivery, in the order of the tags."""
    return [
        (number, tag, one)
        for number, handler in _handlers(broker, address).items()
        for tag, one in handler.channel.outstanding.held.items()
    ]


def _same_place(broker: Broker, address: str, channel: int | None, chosen: Chosen | None) -> bool:
    held: dict[Queue, list[Entry]] = {}
    holders: dict[Queue, set[object]] = {}  # each puts its deliveries back on its own; so does each Basic.Get
    for number, tag, one in _held(broker, address):
        queue = one.entry.queue
        if queue.arguments.quorum and channel in (None, number) and (chosen is None or chosen(tag)):
            held.setdefault(queue, []).append(one.entry)
            holders.setdefault(queue, set()).add(one.consumer or (number, tag))
    lost = chosen is None  # no client has refused anything
    if channel is None and _shares(broker, address, held):
        return False
    return all(
        len(holders[queue]) == 1 and _fits(queue, entries, front=lost or queue.arguments.delivery_limit is not None)
        for queue, entries in held.items()
    )


def _shares(broker: Broker, address: str, queues: Iterable[Queue]) -> bool:
    """Whether two channels of a connection have to do with such a queue: RabbitMQ may deliver to one that ends, too."""
    channels = [handler.channel for handler in _handlers(broker, address).values()]
    concerned = [
        {
            *(one.entry.queue for one in channel.outstanding.held.values()),
            *(one.queue for one in channel.consumers.values()),
        }
        for channel in channels
    ]
    return any(sum(queue in of_channel for of_channel in concerned) > 1 for queue in queues)


def _fits(queue: Queue, entries: list[Entry], *, front: bool) -> bool:
    """Whether messages that are put back, in this order, stand in order then."""
    ready = _waiting(queue)
    if ready and (not front or any(entry.redelivered for entry in ready)):
        return False
    return all(one.order < other.order for one, other in pairwise([*entries, *ready]))


def _waiting(queue: Queue) -> list[Entry]:
    """What no consumer has now; quorum queues know no priorities."""
    level = queue.waiting._levels[0]
    return sorted((*level.new, *(entry for _, entry in level.returned)), key=lambda one: one.order) if level else []
