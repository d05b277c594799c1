"""What a fault test looks at: how each call ended and when, how often handlers ran, what is left behind."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

from rabbit import Node
from warren import AsyncClient, CallError, Execution, Service

#: Seconds by which a call may outlive its deadline. Warren promises 0.5; the rest is for machines that are busy with
#: other things while they test.
LATE = 2.0


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

    `echo` returns its argument. `hold` waits until `release` is set first; `repeat` is `echo` declared at-least-once.
    """

    def __init__(self, name: str, **options: Any) -> None:
        self.service = Service(name, **options)
        self.runs: Counter[str] = Counter()
        self.release = asyncio.Event()
        self.echo = f"{name}.echo"
        self.hold = f"{name}.hold"
        self.queue = name
        self.repeat = self._declare()

    def _declare(self) -> Any:
        async def echo(text: str) -> str:
            self.runs[text] += 1
            return text

        async def hold(text: str) -> str:
            self.runs[text] += 1
            await self.release.wait()
            return text

        async def repeat(text: str) -> str:
            self.runs[text] += 1
            return text

        self.service.method(echo)
        self.service.method(hold)
        return self.service.method(delivery="at-least-once")(repeat)

    def ran(self, text: str) -> int:
        """How often a handler ran with this argument."""
        return self.runs[text]


async def works_again(client: AsyncClient, echo: str, *, seconds: float = 20.0) -> None:
    """Call until one succeeds; then the next hundred must, and each result must belong to its call.

    Until both sides have noticed a fault and come back, calls may end in any typed error; nothing else is an error.
    """
    async with asyncio.timeout(seconds):
        while (await ending(client.options(timeout=5).call(echo, "again"), within=5)).error is not None:
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


def reply_queues(node: Node) -> int:
    """Queues that the broker has named."""
    return int(
        node.eval(
            'length([Q || Q <- rabbit_amqqueue:list(<<"/">>),'
            ' binary:match(element(4, amqqueue:get_name(Q)), <<"amq.gen">>) =/= nomatch])'
        )
    )


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
