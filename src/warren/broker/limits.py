"""How much may wait in a queue. Pure."""

from __future__ import annotations

from warren.broker.arguments import QueueArguments

#: The part of its limits down to which a quorum queue that has refused messages goes on doing so.
_SOFT_LIMIT = 0.8


class Limits:
    """The limits of one queue.

    Attributes:
        given: there are any.
        drops: what is too much is dropped at the head; else what comes is refused.
    """

    def __init__(self, arguments: QueueArguments) -> None:
        self.given = arguments.max_length is not None or arguments.max_bytes is not None
        self.drops = self.given and arguments.overflow == "drop-head"
        self._arguments = arguments
        self._refusing = False  # a quorum queue that was too full, until it is less so

    def refuses(self, count: int, size: int, more: int) -> bool:
        """Whether a message of `more` bytes is refused where `count` messages of `size` bytes wait."""
        if not self.given or self.drops:
            return False
        if not self._arguments.quorum:
            return not self.fit(count + 1, size + more)
        # Soft: what goes over the limit is taken, and then nothing until a fifth of it is free again [RabbitMQ 3.10.8,
        # rabbit_fifo:evaluate_limit].
        self._refusing = not self.fit(count, size, part=_SOFT_LIMIT if self._refusing else 1.0)
        return self._refusing

    def fit(self, count: int, size: int, *, part: float = 1.0) -> bool:
        """Whether so many messages of so many bytes stay within a part of the limits."""
        length, limit = self._arguments.max_length, self._arguments.max_bytes
        return (length is None or count <= int(length * part)) and (limit is None or size <= int(limit * part))
