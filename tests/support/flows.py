"""Streams, uploads and conversations that write down what happens to them at both ends, and what has to be true of it.

Handlers note each of their runs, which their items name, so that a caller knows whose items it has got; a caller notes
what it has got, what it has given, and how it ended. `check` holds one against the other.

``python -m tests.support.flows NAME QUEUE URL`` serves both of `QUEUES`, whatever QUEUE says: a worker whose handlers
wait for ever at the point that their key names. What they do it writes down in the file RUNS: it may be killed.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import secrets
import sys
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tests.support.doomed import note
from tests.support.serving import lines
from tests.support.waiting import LATE, in_thread
from warren import AsyncClient, CallError, Client, Execution, Server, Service, current_call

Delivery = Literal["report", "at-least-once", "at-most-once"]
#: A mode of its own here: at-least-once, and all runs yield the same.
RESUMABLE = "resumable"

#: What a call with items may be, by the modes that it can be delivered in.
KINDS = ("stream", "upload", "conversation")
MODES: tuple[Delivery, ...] = ("report", "at-least-once", "at-most-once")
ALLOWED = [
    *((kind, mode) for kind in KINDS for mode in MODES if kind == "stream" or mode != "at-least-once"),
    ("stream", RESUMABLE),
]
#: Where a handler can be told to wait.
BEGINNING, MIDDLE, END = "before the first item", "in the middle", "after the last item"
POINTS = (BEGINNING, MIDDLE, END)
#: Where handlers run.
ON_LOOP, IN_THREAD = "async", "def"
HANDLERS = (ON_LOOP, IN_THREAD)
#: The kinds of the queues of services.
QUEUES: tuple[Literal["classic", "quorum"], ...] = ("classic", "quorum")


@dataclass
class Run:
    """One run of a handler.

    Attributes:
        number: which one it is: chosen at random, as another process may run the same.
        yielded: how many items it has yielded, or begun to.
        taken: what it has taken.
        whole: it has come to its end, and no error was in its way.
        closed: its ``finally`` is over.
        waits: it has come to its gate.
    """

    number: int
    yielded: int = 0
    taken: list[int] = field(default_factory=list)
    whole: bool = False
    closed: bool = False
    waits: bool = False


class Gate:
    """A point at which the handlers of one key wait, each time that they come there."""

    def __init__(self, point: str) -> None:
        self.point = point
        self._on_loop, self._in_threads = asyncio.Event(), threading.Event()

    def open(self) -> None:
        """Nobody waits any more."""
        self._on_loop.set()
        self._in_threads.set()

    async def wait(self) -> None:
        await self._on_loop.wait()

    def wait_in_thread(self) -> None:
        """The same for one that cannot be cancelled: it goes on when nobody waits for its result any more, too."""
        forget = current_call().on_cancelled(self._in_threads.set)
        self._in_threads.wait()
        forget()


class Flows:
    """A service with a stream, an upload and a conversation for each delivery mode that they may have, and each sort of
    handler.
    """

    def __init__(self, name: str, **options: Any) -> None:
        self.service = Service(name, **options)
        self.name = name
        self.runs: defaultdict[str, list[Run]] = defaultdict(list)
        self.gates: dict[str, Gate] = {}
        self.methods: dict[tuple[str, str, str], Any] = {}
        made: dict[tuple[str, str], Callable[..., Any]] = {
            ("stream", ON_LOOP): self._stream,
            ("upload", ON_LOOP): self._upload,
            ("conversation", ON_LOOP): self._conversation,
            ("stream", IN_THREAD): self._stream_in_thread,
            ("upload", IN_THREAD): self._upload_in_thread,
            ("conversation", IN_THREAD): self._conversation_in_thread,
        }
        for (kind, mode), handler in itertools.product(ALLOWED, HANDLERS):
            how: dict[str, Any] = {"delivery": mode}
            if mode == RESUMABLE:
                how = {"delivery": "at-least-once", "resumable": True}
            method = self.service.method(name=f"{kind}-{mode}-{handler}", **how)
            self.methods[kind, mode, handler] = method(made[kind, handler](mode))

    def gate_of(self, key: str) -> Gate | None:
        """Where those of this key have to wait."""
        return self.gates.get(key)

    def changed(self, key: str, run: Run) -> None:
        """It has done something."""

    def _stream(self, mode: str) -> Any:
        async def stream(key: str, count: int) -> AsyncIterator[list[int]]:
            with self._run(key) as run:
                await self._at(key, BEGINNING)
                for number in range(count):
                    run.yielded += 1
                    self.changed(key, run)
                    yield [0 if mode == RESUMABLE else run.number, number]
                    await self._between(key, number, count)
                run.whole = True

        return stream

    def _upload(self, _mode: str) -> Any:
        async def upload(items: AsyncIterator[int], key: str, count: int) -> int:
            with self._run(key) as run:
                await self._at(key, BEGINNING)
                async for item in items:
                    run.taken.append(item)
                    self.changed(key, run)
                    await self._between(key, len(run.taken) - 1, count)
                run.whole = True
                return len(run.taken)

        return upload

    def _conversation(self, _mode: str) -> Any:
        async def conversation(items: AsyncIterator[int], key: str, count: int) -> AsyncIterator[list[int]]:
            with self._run(key) as run:
                await self._at(key, BEGINNING)
                async for item in items:
                    run.taken.append(item)
                    self.changed(key, run)
                    run.yielded += 1
                    yield [run.number, item]
                    await self._between(key, len(run.taken) - 1, count)
                run.whole = True

        return conversation

    def _stream_in_thread(self, mode: str) -> Any:
        def stream(key: str, count: int) -> Iterator[list[int]]:
            with self._run(key) as run:
                self._at_in_thread(key, BEGINNING)
                for number in range(count):
                    run.yielded += 1
                    self.changed(key, run)
                    yield [0 if mode == RESUMABLE else run.number, number]
                    self._at_in_thread(key, behind(number, count))
                run.whole = True

        return stream

    def _upload_in_thread(self, _mode: str) -> Any:
        def upload(items: Iterator[int], key: str, count: int) -> int:
            with self._run(key) as run:
                self._at_in_thread(key, BEGINNING)
                for item in items:
                    run.taken.append(item)
                    self.changed(key, run)
                    self._at_in_thread(key, behind(item, count))
                run.whole = True
                return len(run.taken)

        return upload

    def _conversation_in_thread(self, _mode: str) -> Any:
        def conversation(items: Iterator[int], key: str, count: int) -> Iterator[list[int]]:
            with self._run(key) as run:
                self._at_in_thread(key, BEGINNING)
                for item in items:
                    run.taken.append(item)
                    self.changed(key, run)
                    run.yielded += 1
                    yield [run.number, item]
                    self._at_in_thread(key, behind(item, count))
                run.whole = True

        return conversation

    @contextmanager
    def _run(self, key: str) -> Any:
        run = Run(secrets.randbelow(2**50))
        self.runs[key].append(run)
        self.changed(key, run)
        try:
            yield run
        finally:
            run.closed = True

    async def _between(self, key: str, number: int, count: int) -> None:
        await asyncio.sleep(0)  # so that each item travels alone
        await self._at(key, behind(number, count))

    async def _at(self, key: str, point: str | None) -> None:
        if gate := self._reached(key, point):
            await gate.wait()

    def _at_in_thread(self, key: str, point: str | None) -> None:
        if gate := self._reached(key, point):
            gate.wait_in_thread()

    def _reached(self, key: str, point: str | None) -> Gate | None:
        """The gate at this point, if there is one: that its run waits there is noted."""
        gate = self.gate_of(key)
        if gate is None or gate.point != point:
            return None
        self.runs[key][-1].waits = True
        self.changed(key, self.runs[key][-1])
        return gate


def behind(number: int, count: int) -> str | None:
    """The point behind an item."""
    if number + 1 == count:
        return END
    return MIDDLE if number == count // 2 else None


class Flow:
    """One call with items, at its caller.

    Attributes:
        items: what has come.
        value, error: what it ended in.
        given: how many items were taken of those to send; closed: whether what they came from is closed.
    """

    def __init__(self, flows: Flows, kind: str, mode: str, key: str, count: int, handler: str = ON_LOOP) -> None:
        self.key, self.count, self.handler = key, count, handler
        self.items: list[list[int]] = []
        self.value: Any = None
        self.error: CallError | None = None
        self.given = 0
        self.closed = kind == "stream"
        self._flows, self.kind, self.mode = flows, kind, mode
        self._leave: Callable[[], None] = lambda: None
        flows.runs[key] = []  # here, not in the first thread that looks

    async def _source(self) -> AsyncIterator[int]:
        try:
            while self.given < self.count:
                self.given += 1
                yield self.given - 1
                await asyncio.sleep(0)
        finally:
            self.closed = True

    def _plain_source(self) -> Iterator[int]:
        try:
            while self.given < self.count:
                self.given += 1
                yield self.given - 1
        finally:
            self.closed = True

    def begin(self, client: AsyncClient | Client) -> Any:
        """The call: an iterator, or, of an upload, what is to be awaited; in a thread what it has ended in."""
        method = self._flows.methods[self.kind, self.mode, self.handler]
        args = self.key, self.count
        if self.kind == "stream":
            return client.stream(method, *args)
        source = self._source() if isinstance(client, AsyncClient) else self._plain_source()
        return getattr(client, "upload" if self.kind == "upload" else "converse")(method, source, *args)

    async def take(self, call: Any, pause: float = 0.0) -> None:
        """Take all that comes, with a pause after each item."""
        try:
            if self.kind == "upload":
                self.value = await call
            else:
                async with call:  # a task that is cancelled in here keeps what it has left the loop with
                    async for item in call:
                        self.items.append(item)
                        await asyncio.sleep(pause)
        except CallError as error:
            self.error = error

    def take_in_thread(self, client: Client, pause: float = 0.0) -> None:
        """Make it, and take all that comes."""
        try:
            if self.kind == "upload":
                self.value = self.begin(client)
            else:
                with self.begin(client) as call:
                    self._leave = call.close
                    for item in call:
                        self.items.append(item)
                        time.sleep(pause)
        except CallError as error:
            self.error = error

    def leave(self) -> None:
        """What a thread takes is closed, from another one; of an upload it is taken to its end."""
        self._leave()

    async def run(self, client: AsyncClient | Client, *, within: float, pause: float = 0.0) -> Flow:
        """Do all of it, with this timeout; returns itself. It fails if the call outlives that."""
        begun, client = time.monotonic(), client.options(timeout=within)
        try:
            async with asyncio.timeout(within + LATE):
                if isinstance(client, AsyncClient):
                    await self.take(self.begin(client), pause)
                else:
                    await in_thread(partial(self.take_in_thread, client, pause))
        except TimeoutError:
            raise AssertionError(f"{self}: outlived its {within} s, after {time.monotonic() - begun:.1f} s") from None
        return self

    @property
    def is_over(self) -> bool:
        """Whether what it takes its items from is closed, if they were begun, and each handler that ran for it."""
        return (self.closed or not self.given) and all(run.closed for run in self._flows.runs[self.key])

    def __str__(self) -> str:
        how = "well" if self.error is None else f"in {self.error.reason} / {self.error.execution}, {self.error}"
        runs = self._flows.runs[self.key]
        what, came = f"{self.kind} {self.mode} {self.handler} {self.key}", self.items or self.value
        return f"{what}: {came}, {self.given} given, {how}; {runs}"

    @property
    def waits(self) -> bool:
        """Whether its handler has come to its gate."""
        return any(run.waits for run in self._flows.runs[self.key])

    # --- what has to be true --------------------------------------------------------------------------------------

    def check(self) -> None:
        """What came, what ran, and what is said of it do not contradict each other."""
        runs = self._flows.runs[self.key]
        assert len(runs) <= 1 or self.mode in ("at-least-once", RESUMABLE), f"ran twice: {self}"
        for run in runs:
            assert run.taken == [*range(len(run.taken))], f"what was taken has gaps: {self}"
            assert not run.whole or self.kind == "stream" or len(run.taken) == self.count, f"a silent short end: {self}"
        self._check_items(runs)
        if self.error is None:
            self._check_whole(runs)
        else:
            self._check_evidence(self.error, runs)

    def _check_items(self, runs: list[Run]) -> None:
        """They are the first ones of one run, or of all that yield the same."""
        if self.items:
            number = self.items[0][0]
            assert self.items == [[number, at] for at in range(len(self.items))], f"gaps, or of two runs: {self}"
            assert len(self.items) <= max(run.yielded for run in self._whose(runs)), f"more than it has yielded: {self}"

    def _whose(self, runs: list[Run]) -> list[Run]:
        """Those that its items may be of."""
        if self.kind == "upload" or self.mode == RESUMABLE:
            return runs
        return [run for run in runs if run.number == self.items[0][0]]

    def _check_whole(self, runs: list[Run]) -> None:
        came = self.value if self.kind == "upload" else len(self.items)
        assert came == self.count, f"it is short, and says that it is whole: {self}"
        whole = [run.whole for run in self._whose(runs)]
        assert any(whole), f"its run has not come to its end: {self}"
        assert len(whole) == 1 or self.mode == RESUMABLE, f"of more than one run: {self}"

    def _check_evidence(self, error: CallError, runs: list[Run]) -> None:
        if error.execution is Execution.EXECUTED:
            assert runs, f"nothing ran: {self}"
        else:
            assert not self.items, f"items have come: {self}"
            assert error.execution is Execution.UNKNOWN or not runs, f"it ran: {self}"


# --- a worker that may be killed --------------------------------------------------------------------------------------


class Doomed(Flows):
    """One whose handlers wait for ever, at the point that stands in their key between slashes."""

    def __init__(self, name: str, log: Path, **options: Any) -> None:
        super().__init__(name, **options)
        self._log = log

    def gate_of(self, key: str) -> Gate | None:
        return Gate(key.split("/")[1]) if "/" in key else None

    def changed(self, key: str, run: Run) -> None:
        note(self._log, json.dumps([key, asdict(run)]))


def read_runs(log: Path) -> dict[str, list[Run]]:
    """What a worker that is dead has written down, of each key."""
    last = {(key, run["number"]): Run(**run) for key, run in map(json.loads, lines(log))}
    found: defaultdict[str, list[Run]] = defaultdict(list)
    for (key, _), run in last.items():
        run.closed = True  # nothing of it is left
        found[key].append(run)
    return found


async def main() -> None:
    name, _, url = sys.argv[1:]
    doomed = [Doomed(f"{name}-{queue}", Path(os.environ["RUNS"]), queue=queue, concurrency=500) for queue in QUEUES]
    server = Server(*(flows.service for flows in doomed), url=url)
    task = asyncio.create_task(server.serve())
    await server.ready()
    print("ready", flush=True)
    await task


if __name__ == "__main__":
    asyncio.run(main())
