"""Several workers and clients that measure at the same time, and what a call costs each kind of process."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import astuple, dataclass

from benchmarks.procs import Peer, cpu_seconds

#: Starts a peer that is to ``serve`` or to ``call``.
Start = Callable[[str], AbstractContextManager[Peer]]


@dataclass(frozen=True, slots=True)
class Cost:
    """Calls per second, and the CPU of a call in microseconds: of all clients, all workers, the broker."""

    rate: float
    client_us: float
    server_us: float
    broker_us: float

    @property
    def all_us(self) -> float:
        return self.client_us + self.server_us + self.broker_us


def measured(start: Start, broker: int, *, workers: int = 1, clients: int = 1, note: Callable[[], None]) -> Cost:
    """Let all clients call at once, and add up; `note` is called right before and right after.

    Raises:
        PeerFailed: one of them did not do its part.
    """
    with ExitStack() as stack:

        def ready(verb: str) -> Peer:
            process = stack.enter_context(start(verb))
            process.ready()
            return process

        pids = [ready("serve").pid for _ in range(workers)]
        callers = [ready("call") for _ in range(clients)]
        note()
        before = cpu_seconds(pids), cpu_seconds([broker])
        for caller in callers:
            caller.begin()
        answers = [caller.answer() for caller in callers]
        after = cpu_seconds(pids), cpu_seconds([broker])
        note()
    each = 1e6 / sum(answer["calls"] for answer in answers)
    return Cost(
        sum(answer["rate"] for answer in answers),
        sum(answer["cpu_s"] for answer in answers) * each,
        (after[0] - before[0]) * each,
        (after[1] - before[1]) * each,
    )


def median(costs: Sequence[Cost]) -> Cost:
    """The median of each figure."""
    return Cost(*(statistics.median(values) for values in zip(*map(astuple, costs), strict=True)))
