"""Which deliveries to acknowledge, in how few frames. Pure."""

from __future__ import annotations


class Acks:
    """The unacknowledged deliveries of one channel, and those that are done with.

    Delivery tags count up from 1 on their channel (AMQP 0-9-1, 1.8.3.13). When everything up to a tag is done, one
    ack with ``multiple`` covers it; a delivery that overtook a slower one is acked by itself, so that a slow call
    does not hold the channel's prefetch window. ``multiple`` is only ever used with a tag that is still
    unacknowledged, as RabbitMQ closes the channel (406) otherwise.
    """

    __slots__ = ("_done", "_open")

    def __init__(self) -> None:
        self._open: dict[int, None] = {}  # in delivery order
        self._done: set[int] = set()

    def __len__(self) -> int:
        """Deliveries that the broker holds to be unacknowledged."""
        return len(self._open)

    def open(self, tag: int) -> None:
        """A delivery arrived that will have to be acknowledged."""
        self._open[tag] = None

    def done(self, tag: int) -> bool:
        """A delivery is done with; False when it is unknown, of an earlier channel or acknowledged already."""
        if tag not in self._open or tag in self._done:
            return False
        self._done.add(tag)
        return True

    def forget(self, tag: int) -> None:
        """A delivery is settled otherwise; one that is not known is ignored."""
        self._open.pop(tag, None)
        self._done.discard(tag)

    def collect(self) -> list[tuple[int, bool]]:
        """The acks to send now, as (tag, multiple); afterwards they count as sent."""
        done = self._done
        if not done:
            return []
        prefix = []
        for tag in self._open:
            if tag not in done:
                break
            prefix.append(tag)
        done.difference_update(prefix)
        for tag in (*prefix, *done):
            del self._open[tag]
        acks = [(prefix[-1], len(prefix) > 1)] if prefix else []
        acks += [(tag, False) for tag in sorted(done)]
        done.clear()
        return acks
