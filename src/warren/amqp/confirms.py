"""Publish numbers of one channel in confirm mode, and what was published under them. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Confirms(Generic[T]):
    """The publishes of one channel that the broker has neither confirmed nor refused yet.

    Publish numbers count up from 1 on their channel and mean nothing on another [RabbitMQ, Publisher Confirms], so each
    channel has a `Confirms` of its own, which ends with it. An item leaves once: settled, forgotten or lost.
    """

    __slots__ = ("_open",)

    def __init__(self) -> None:
        self._open: dict[int, T] = {}  # in ascending order of their numbers

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, tag: int) -> bool:
        return tag in self._open

    def sent(self, tag: int, item: T) -> None:
        """`item` was published under the number `tag`, which is higher than all before."""
        self._open[tag] = item

    def take(self, tag: int, multiple: bool) -> list[T]:
        """Take out what an ack or a nack is about, oldest first; numbers that are not known are ignored."""
        known = self._open
        if not multiple:
            return [known.pop(tag)] if tag in known else []
        tags = []
        for older in known:
            if older > tag:
                break
            tags.append(older)
        return [known.pop(older) for older in tags]

    def forget(self, tag: int) -> None:
        """Nobody wants to know any more what becomes of this publish; an unknown number is ignored."""
        self._open.pop(tag, None)

    def open(self) -> Iterator[T]:
        """What is unsettled, oldest first."""
        return iter(self._open.values())

    def lost(self) -> list[T]:
        """The channel is gone: take out all that it has left unsettled, oldest first."""
        items = list(self._open.values())
        self._open.clear()
        return items
