"""What a fault test looks at: how each call ended and when, how often handlers ran, what is left behind."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rabbit import Node
from tests.support.waiting import LATE as LATE
from tests.support.waiting import PATIENCE
from warren import AsyncClient, CallError, Execution, Service, current_call

Handler = Callable[[str], Coroutine[Any, Any, str]]


@dataclass(frozen=True)
class Ending:
    """How a call ended: with a value or an error, after so many seconds."""

    seconds: float
    value: Any = None
    error: CallError | None = None

    @property
    def reason(self) -> str | None:
        """The error's reason; None for a result."""
        return self.error.reason if self.error else None

    @property
    def execution(self) -> Execution | None:
        """The error's evidence; None for a result."""
        return self.error.execution if self.error else None

    @property
    def evidence(self) -> tuple[str | None, Execution | None]:
        """Reason and execution, to compare both at once."""
        return self.reason, self.execution

    def __str__(self) -> str:
        return str(self.error) if self.error else repr(self.value)


async def ending(call: Awaitable[Any], *, within: float) -> Ending:
    """Await a call whose deadline is `within` seconds from now, and fail if it outlives that."""
    begun = time.monotonic()
    value, error = None, None
    try:
        value = await asyncio.wait_for(call, within + LATE)
    except CallError as caught:
        error = caught
    except TimeoutError:
        raise AssertionError(f"a call outlived its deadline of {within} s by more than {LATE} s") from None
    return Ending(time.monotonic() - begun, value, error)


async def endings(*calls: Awaitable[Any], within: float) -> list[Ending]:
    """`ending` for several calls at a time, in their order."""
    return list(await asyncio.gather(*(ending(call, within=within) for call in calls)))


class Counting:
    """A service that counts how often its handlers ran, by their argument.

    `echo` and `repeat` return their argument, `hold` and `keep` do so once `release` is set. `repeat` and `keep` are
    at-least-once methods.

    Attributes:
        runs: how often a handler began, by its argument.
        ids: the message ids of those requests, by the argument.
    """

    def __init__(self, name: str, **options: Any) -> None:
        self.service = Service(name, **options)
        self.queue = name
        self.runs: Counter[str] = Counter()
        self.ids: defaultdict[str, set[str | None]] = defaultdict(set)
        self.release = asyncio.Event()
        self.echo, self.hold = f"{name}.echo", f"{name}.hold"
        self.repeat, self.keep = self._declare()

    def _declare(self) -> tuple[Handler, Handler]:
        async def echo(text: str) -> str:
            self.count(text)
            return text

        async def hold(text: str) -> str:
            self.count(text)
            await self.release.wait()
            return text

        self.service.method(echo)
        self.service.method(hold)
        repeat = self.service.method(name="repeat", delivery="at-least-once")(_copy(echo))
        keep = self.service.method(name="keep", delivery="at-least-once")(_copy(hold))
        return repeat, keep

    def count(self, text: str) -> None:
        """A handler began."""
        self.runs[text] += 1
        self.ids[text].add(current_call().call_id)


def _copy(handler: Handler) -> Handler:
    """Another function that does the same, as one function cannot be two methods."""

    async def same(text: str) -> str:
        return await handler(text)

    return same


async def works_again(client: AsyncClient, echo: str, *, seconds: float = PATIENCE) -> None:
    """Call until one succeeds; then the next hundred must, and each result must belong to its call.

    Until both sides have noticed a fault and come back, calls may end in any typed error; nothing else is an error.
    """
    give_up = time.monotonic() + seconds
    while (probe := await ending(client.options(timeout=2).call(echo, "again"), within=2)).error is not None:
        assert time.monotonic() < give_up, f"it does not work again after {seconds} s: {probe}"
        await asyncio.sleep(0.05)
    texts = [f"after {number}" for number in range(100)]
    calm = client.options(timeout=20)
    assert await asyncio.gather(*(calm.call(echo, text) for text in texts)) == texts


# --- what the broker holds ----------------------------------------------------------------------------------------


def messages(node: Node, queue: str) -> int:
    """Messages in a queue, waiting or with a worker; -1 when there is no such queue."""
    found = node.eval(
        f'case rabbit_amqqueue:lookup(rabbit_misc:r(<<"/">>, queue, <<"{queue}">>)) of'
        " {ok, Q} -> [{messages, N}] = rabbit_amqqueue:info(Q, [messages]), N; _ -> -1 end"
    )
    return int(found)


def queued_bytes(node: Node) -> int:
    """Bytes of all messages that the broker has in its queues."""
    return int(
        node.eval(
            'lists:sum([N || Q <- rabbit_amqqueue:list(<<"/">>), amqqueue:get_type(Q) =:= rabbit_classic_queue,'
            " [{message_bytes, N}] <- [rabbit_amqqueue:info(Q, [message_bytes])]])"
        )
    )


def broker_memory(node: Node) -> int:
    """Bytes that the broker has in use."""
    return int(node.eval("erlang:memory(total)"))


#: Of a queue `Q` of Erlang's: it is no control queue; of those that the broker names only these are bounded.
NO_CONTROL_QUEUE = 'not lists:keymember(<<"x-max-length">>, 1, amqqueue:get_arguments(Q))'


def reply_queues(node: Node) -> int:
    """Reply queues of clients: those that the broker has named, and durable ones."""
    return int(
        node.eval(
            'length([Q || Q <- rabbit_amqqueue:list(<<"/">>), binary:match(element(4, amqqueue:get_name(Q)),'
            f' [<<"amq.gen">>, <<"warren.reply">>]) =/= nomatch, {NO_CONTROL_QUEUE}])'
        )
    )


@contextmanager
def out_of_memory(node: Node) -> Iterator[None]:
    """The node believes that it is short of memory, and all its connections have been told when the block begins."""
    node.eval("rabbit_alarm:set_alarm({{resource_limit, memory, node()}, []}), rabbit_alarm:get_alarms()")  # in turn
    try:
        yield
    finally:
        node.eval("rabbit_alarm:clear_alarm({resource_limit, memory, node()})")


# --- what is left in this process ---------------------------------------------------------------------------------


def threads() -> set[str]:
    """Threads that Warren has started."""
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("warren-")}


def sockets() -> int:
    """Sockets that this process has open."""
    return sum(1 for fd in os.listdir("/proc/self/fd") if _target(fd).startswith("socket:"))


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:  # it was the one that listed them
        return ""
