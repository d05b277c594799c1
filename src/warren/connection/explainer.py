"""Asking the broker how a queue stands, for errors that say why, and for what a refusal (nack) proves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Generic, NamedTuple, TypeVar

from warren.connection.errors import ACCESS_REFUSED, NOT_FOUND, ChannelClosed
from warren.connection.link import Link

#: Seconds that an error may take longer to find out how the call's queue stands.
LIMIT = 0.25


class Standing(NamedTuple):
    """What the broker says of a queue.

    Attributes:
        there: whether the queue itself answered.
        text: the rest of a sentence about it, or nothing.
    """

    there: bool
    text: str


NOT_KNOWN = Standing(False, "")
_SILENT = Standing(False, "; the broker does not say how its queue stands")

#: Instead of an answer, by the code that the channel was closed with. RabbitMQ tells it only to users who have a right
#: on the queue: 4.2.6 and 4.3.0 want `configure`, newer ones any of the three, older ones none.
_CLOSED = {
    NOT_FOUND: "; queue {!r} does not exist",
    ACCESS_REFUSED: "; this user may not see how its queue stands: give it the right to write to {!r}",
}

#: Who asks, and what its owner wants to remember of that.
T = TypeVar("T")
Question = dict[T, Any]
Spawn = Callable[[Coroutine[Any, Any, Any]], "asyncio.Task[Any]"]


class Explainer(Generic[T]):
    """One question for each queue at a time; who asks meanwhile gets the next answer, as the present one is older.

    Who waits for an answer may leave the question before. Each question is answered within `limit` seconds, whatever
    the broker does.
    """

    def __init__(
        self,
        link: Callable[[], Link | None],
        answer: Callable[[Question[T], Standing], None],
        spawn: Spawn,
        limit: float | None = None,
    ) -> None:
        """`answer` is called once with each question, and what was found out; `limit`: `LIMIT` unless given."""
        self._limit = limit
        self._link = link
        self._answer = answer
        self._spawn = spawn
        self._next: dict[str, tuple[float, Question[T]]] = {}  # to be asked, until when
        self._open: dict[str, Question[T]] = {}  # under way
        self._silent: dict[str, asyncio.Task[Any]] = {}  # the broker has not answered these yet

    def question(self, queue: str) -> Question[T]:
        """The next question about a queue; what is put into it in this turn will be answered."""
        known = self._next.get(queue)
        if known is None:
            known = self._next[queue] = (time.monotonic() + (self._limit or LIMIT), {})
            if queue not in self._open:
                self._begin(queue)
        return known[1]

    def _begin(self, queue: str) -> None:
        self._open[queue] = {}
        task = self._spawn(self._ask_all(queue))
        task.add_done_callback(lambda _task: self._over(queue))

    async def _ask_all(self, queue: str) -> None:
        while queue in self._next:
            until, question = self._next.pop(queue)
            self._open[queue] = question
            self._answer(question, await self._ask(queue, until))
            self._open[queue] = {}

    async def _ask(self, queue: str, until: float) -> Standing:
        if queue in self._silent:  # what was asked before is not answered yet: more questions do not help
            return _SILENT
        inspection = self._silent[queue] = self._spawn(self._inspect(queue))
        inspection.add_done_callback(lambda _task: self._silent.pop(queue, None))
        await asyncio.wait([inspection], timeout=max(0.0, until - time.monotonic()))
        if not inspection.done():
            return _SILENT
        answer: Standing = inspection.result()
        return answer

    def _over(self, queue: str) -> None:
        """However the asking ended, whoever waits for it is answered."""
        _until, later = self._next.pop(queue, (0.0, {}))
        for question in (self._open.pop(queue, {}), later):
            if question:
                self._answer(question, NOT_KNOWN)

    async def _inspect(self, queue: str) -> Standing:
        link = self._link()
        if link is None:
            return Standing(False, "; the connection is down")
        if link.blocked is not None:
            return Standing(False, f"; the broker takes no publishes: {link.blocked}")
        try:
            channel = await link.channel()
            messages, consumers = await channel.inspect_queue(queue)
            await channel.close()
        except ChannelClosed as error:
            return Standing(False, _CLOSED.get(error.code, "").format(queue))
        except Exception:  # the link is lost, or whatever it may be: an ending matters more than its explanation
            return NOT_KNOWN
        state = f"; queue {queue!r} has {_count(messages, 'message')} waiting and {_count(consumers, 'consumer')}"
        return Standing(True, state if consumers else f"{state}: is a worker running?")


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
