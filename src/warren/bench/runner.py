"""`warren bench`: calls a service as fast as it goes, or at a fixed rate, and tells how long the calls take.

An edge, as `warren.cli`, which reads the options and prints errors. Here are, from pure to not: the histogram, the
load and its record, what is printed, the service that is called when none is named, and `run`, which joins them.

What is measured is what a program sees that uses `AsyncClient`: from before the arguments are encoded until after the
result is decoded.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import math
import os
import secrets
import selectors
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from warren import AsyncClient, Server, Service
from warren.client.options import DEFAULT_MAX_IN_FLIGHT, Encoding
from warren.connection.declare import remove_queues
from warren.connection.settings import make_settings
from warren.errors import CallError, InvalidArgument, MethodNotFound
from warren.printable import printable
from warren.processes.worker import take_lifeline, work

Handler = Literal["async", "thread"]

PERCENTILES = (50, 90, 99, 99.9)


# --- the histogram ----------------------------------------------------------------------------------------------------


class Histogram:
    """Durations in buckets that are 2 % wide: what is read from it is 1 % off at most, and the memory is bounded.

    Attributes:
        count: how many there are.
        total: their sum, exact.
        low, high: the shortest and the longest, exact.
    """

    _WIDTH = math.log(1.02)  # of a bucket, on a logarithmic scale
    _SHORTEST = 1e-9  # shorter ones, which no clock can tell apart, are taken as this: a logarithm wants more than 0

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.low = math.inf
        self.high = 0.0
        self._buckets: Counter[int] = Counter()

    def record(self, seconds: float) -> None:
        """Add one duration."""
        seconds = max(seconds, self._SHORTEST)
        self.count += 1
        self.total += seconds
        self.low = min(self.low, seconds)
        self.high = max(self.high, seconds)
        self._buckets[math.floor(math.log(seconds) / self._WIDTH)] += 1

    def percentile(self, percent: float) -> float:
        """The duration that so many percent do not exceed (nearest rank), at most 1 % off; nan of nothing."""
        rank = max(1, math.ceil(percent * self.count / 100))
        reached = 0
        for index in sorted(self._buckets):
            reached += self._buckets[index]
            if reached >= rank:
                middle = math.exp((index + 0.5) * self._WIDTH)
                return min(max(middle, self.low), self.high)
        return math.nan

    def rows(self, most: int | None = None) -> list[tuple[float, float, int]]:
        """From, to and number of durations, without a gap; of equal width each, and at most so many where given."""
        if not self.count:
            return []
        first, last = min(self._buckets), max(self._buckets)
        step = 1 if most is None else math.ceil((last - first + 1) / most)
        return [
            (
                math.exp(start * self._WIDTH),
                math.exp((start + step) * self._WIDTH),
                sum(self._buckets.get(index, 0) for index in range(start, start + step)),
            )
            for start in range(first, last + 1, step)
        ]


# --- the load ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Plan:
    """Which calls to make, and when. Times are in seconds.

    Attributes:
        in_flight: calls under way at any time: a closed loop. Not used with a rate.
        rate: calls begun per second, whether or not the ones before have ended: an open loop.
        duration: how long calls that count are begun; None for as long as it takes to make `calls`.
        calls: how many calls that count are made at most.
        warmup: how long calls are made before that.
    """

    in_flight: int = 100
    rate: float | None = None
    duration: float | None = 10.0
    calls: int | None = None
    warmup: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.in_flight <= DEFAULT_MAX_IN_FLIGHT:
            raise ValueError(f"--in-flight {self.in_flight}: from 1 to {DEFAULT_MAX_IN_FLIGHT}")
        if self.rate is not None and not 0 < self.rate <= 1e6:
            raise ValueError(f"--rate {self.rate:g}: calls per second, more than 0 and at most 1,000,000")
        if self.duration is not None and not 0 < self.duration < math.inf:
            raise ValueError(f"--duration {self.duration:g}: seconds, more than 0")
        if self.calls is not None and self.calls < 1:
            raise ValueError(f"--calls {self.calls}: at least 1")
        if self.duration is None and self.calls is None:
            raise ValueError("say when to end: --duration or --calls")
        if not 0 <= self.warmup < math.inf:
            raise ValueError(f"--warmup {self.warmup:g}: seconds, 0 or more")

    def __str__(self) -> str:
        how = f"{self.in_flight:,} in flight" if self.rate is None else f"{self.rate:,g} calls per second"
        bounds = [f"{self.duration:g} s"] if self.duration is not None else []
        bounds += [f"{self.calls:,} calls"] if self.calls is not None else []
        return f"{how}, {' or '.join(bounds)} after {self.warmup:g} s to warm up"


@dataclass(slots=True)
class Record:
    """What became of the calls that count, which are those begun after the warm-up.

    Attributes:
        latencies: of the calls that had a result.
        errors: of the others, by code and reason.
        begun: how many calls there were.
        seconds: until the last result, from the end of the warm-up.
        interrupted: whether it is less than was planned.
    """

    latencies: Histogram = field(default_factory=Histogram)
    errors: Counter[str] = field(default_factory=Counter)
    begun: int = 0
    seconds: float = 0.0
    interrupted: bool = False

    @property
    def rate(self) -> float:
        """Results per second."""
        return self.latencies.count / self.seconds if self.seconds else 0.0

    @property
    def unfinished(self) -> int:
        """Calls that were still under way: after an interruption only."""
        return self.begun - self.latencies.count - self.errors.total()


class Load:
    """Makes calls after a plan and records what becomes of them.

    The latency of a call in an open loop counts from the moment that it was due. Otherwise a service that stands
    still for a second would look good: the calls that it kept from being made would be missing (coordinated omission).

    Attributes:
        record: what became of the calls.
        in_flight: calls under way, warm-up included.
        ended: calls that have ended, warm-up included.
    """

    def __init__(self, plan: Plan, call: Callable[[], Awaitable[object]], clock: Callable[[], float]) -> None:
        self.record = Record()
        self.in_flight = 0
        self.ended = 0
        self._plan = plan
        self._call = call
        self._clock = clock
        self._zero = clock()
        self._end = math.inf if plan.duration is None else plan.warmup + plan.duration

    async def run(self) -> None:
        """Make all calls and wait until they have ended. Cancelling it ends those under way, uncounted."""
        self._zero = self._clock()
        try:
            async with asyncio.TaskGroup() as tasks:
                if self._plan.rate is not None:
                    await self._make_on_schedule(self._plan.rate, tasks)
                else:
                    for _ in range(self._plan.in_flight):
                        tasks.create_task(self._make_in_turn())
        except asyncio.CancelledError:
            self.record.interrupted = True
            raise

    def now(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._zero

    @property
    def phase(self) -> str:
        """What it does now, for people."""
        if self.now() < self._plan.warmup:
            return "warming up"
        return "measuring" if self._more(self.now()) else "last calls"

    @property
    def progress(self) -> float:
        """The part that is done, from 0 to 1."""
        parts = [self.now() / self._end]
        if self._plan.calls is not None:
            parts.append((self.record.latencies.count + self.record.errors.total()) / self._plan.calls)
        return min(max(parts), 1.0)

    async def _make_in_turn(self) -> None:
        """Closed loop: one call after the other."""
        while self._more(now := self.now()):
            self.record.begun += self._counts(now)
            await self._make(now)

    async def _make_on_schedule(self, rate: float, tasks: asyncio.TaskGroup) -> None:
        """Open loop: each call when it is due; if we are late, as soon as possible."""
        numbers = itertools.count()
        while self._more(due := (number := next(numbers)) / rate):
            wait = due - self.now()
            if wait > 0 or number % 100 == 0:  # even if we are late for ever, replies must be read in between
                await asyncio.sleep(max(wait, 0))
            self.record.begun += self._counts(due)
            tasks.create_task(self._make(due))

    def _more(self, due: float) -> bool:
        return due < self._end and self.record.begun != self._plan.calls

    def _counts(self, due: float) -> bool:
        return due >= self._plan.warmup

    async def _make(self, due: float) -> None:
        self.in_flight += 1
        try:
            await self._call()
        except CallError as error:
            if self._counts(due):
                self.record.errors[f"{error.code}/{error.reason}"] += 1
            await asyncio.sleep(0)  # it may have failed without waiting, and in a loop that would stop all else
        else:
            if self._counts(due):
                now = self.now()
                self.record.latencies.record(now - due)
                self.record.seconds = now - self._plan.warmup
        finally:
            self.in_flight -= 1
            self.ended += 1


# --- what is printed --------------------------------------------------------------------------------------------------


def as_dict(target: str, plan: Plan, record: Record) -> dict[str, Any]:
    """The result for programs."""
    return {
        "target": target,
        "loop": "closed" if plan.rate is None else "open",
        "in_flight": plan.in_flight if plan.rate is None else None,
        "rate_asked": plan.rate,
        "interrupted": record.interrupted,
        "calls": record.begun,
        "results": record.latencies.count,
        "unfinished": record.unfinished,
        "errors": dict(record.errors.most_common()),
        "seconds": record.seconds,
        "rate": record.rate,
        "latency_ms": _latencies(record.latencies),
        "histogram": [
            {"from_ms": low * 1e3, "to_ms": high * 1e3, "calls": count}
            for low, high, count in record.latencies.rows()
            if count
        ],
    }


def _latencies(latencies: Histogram) -> dict[str, float | None]:
    """Mean, percentiles and extremes in milliseconds; None where nothing was measured."""
    if not latencies.count:
        return dict.fromkeys(("min", "mean", *(f"p{p:g}" for p in PERCENTILES), "max"))
    seconds = {"min": latencies.low, "mean": latencies.total / latencies.count}
    seconds |= {f"p{p:g}": latencies.percentile(p) for p in PERCENTILES} | {"max": latencies.high}
    return {name: value * 1e3 for name, value in seconds.items()}


def show(target: str, plan: Plan, record: Record) -> None:
    """Print the result for people."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    console.print(f"[bold]{escape(printable(target))}[/bold]  {plan}", soft_wrap=True)
    console.print()
    console.print(f"  [green]{record.latencies.count:,}[/green] results, [bold]{record.rate:,.0f}[/bold] per second")
    for problem, count in record.errors.most_common():
        console.print(f"  [red]{count:,}[/red] errors {escape(printable(problem))}")  # a peer's words
    if record.interrupted:
        console.print(f"  interrupted, {record.unfinished:,} calls not waited for")
    if not record.latencies.count:
        return
    figures = {name: value for name, value in _latencies(record.latencies).items() if value is not None}
    table = Table(title="latency of the results, in ms", title_justify="left", title_style="")
    for name in figures:
        table.add_column(name, justify="right")
    table.add_row(*(_digits(value) for value in figures.values()))
    console.print()
    console.print(table)
    console.print()
    for line in draw(record.latencies, console.width, "#" if console.options.ascii_only else _EIGHTHS):
        console.print(line, markup=False, soft_wrap=True)


_EIGHTHS = "▏▎▍▌▋▊▉█"


def draw(latencies: Histogram, width: int, blocks: str = _EIGHTHS, most: int = 16) -> list[str]:
    """The histogram as lines of text.

    Args:
        latencies: what to draw.
        width: columns that a line may have.
        blocks: the last one fills a column, those before it parts of it, growing.
        most: how many lines.
    """
    rows = latencies.rows(most)
    labels = [(f"{_digits(low * 1e3)} - {_digits(high * 1e3)} ms", f"{count:,}") for low, high, count in rows]
    left, right = (max((len(label[side]) for label in labels), default=0) for side in (0, 1))
    room = max(10, min(60, width - left - right - 6))
    top = max((count for *_, count in rows), default=0)
    return [
        f"  {label:>{left}}  {number:>{right}}  {_bar(count / top * room, blocks)}".rstrip()
        for (label, number), (*_, count) in zip(labels, rows, strict=True)
    ]


def _bar(length: float, blocks: str) -> str:
    """A bar of so many columns; what is more than nothing is seen."""
    parts = round(length * len(blocks)) or math.ceil(length)
    whole, part = divmod(parts, len(blocks))
    return blocks[-1] * whole + (blocks[part - 1] if part else "")


def _digits(value: float) -> str:
    """Three digits that mean something, and no exponent."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value < 1000 else f"{value:,.0f}"


@contextlib.contextmanager
def _progress(load: Load) -> Iterator[None]:
    """A bar on the terminal, should standard error be one, while the block runs."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description:>10}"), BarColumn(), TextColumn("{task.fields[state]}"))
    # Drawn on the event loop and seldom: each time takes about a millisecond in which no reply is read.
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True) as bar:
        watching = asyncio.create_task(_watch(load, bar))
        try:
            yield
        finally:
            watching.cancel()


async def _watch(load: Load, bar: Any) -> None:
    task = bar.add_task("", total=1.0, state="")
    ended, since = 0, load.now()
    while True:
        await asyncio.sleep(0.5)
        now = load.now()
        rate = (load.ended - ended) / (now - since)
        ended, since = load.ended, now
        state = f"{rate:,.0f} per second, {load.in_flight:,} in flight, {load.record.errors.total():,} errors"
        bar.update(task, completed=load.progress, description=load.phase, state=state)
        bar.refresh()


# --- a service to call ------------------------------------------------------------------------------------------------


class EchoFailed(Exception):
    """The process of our own echo service could not serve, and has said why."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"the echo service ended with exit code {exit_code}")
        self.exit_code = exit_code


async def serve_echo(name: str, handler: Handler, url: str, lifeline: int) -> None:
    """Be the process of the echo service, until told to stop or the parent is gone; leaves nothing at the broker."""
    server = Server(_echo(name, handler), url=url, drain_timeout=_DRAIN, name="warren bench: echo")
    try:
        await work(server, _DRAIN, take_lifeline(lifeline))
    finally:
        await remove_queues(make_settings(url, name="warren bench: removing its queues"), name)


_DRAIN = 1.0
_PATIENCE = 15.0  # more than a drain and the removal of the queues take


def _echo(name: str, handler: Handler) -> Service:
    service = Service(name, concurrency=100)

    def in_a_thread(text: str) -> str:
        return text

    async def on_the_loop(text: str) -> str:
        return text

    service.method(name="echo")(on_the_loop if handler == "async" else in_a_thread)
    return service


@contextlib.asynccontextmanager
async def _echo_process(handler: Handler, url: str) -> AsyncIterator[str]:
    """An echo service in a process of its own; yields what to call once it serves.

    Raises:
        EchoFailed: it does not.
    """
    name = f"warren-bench-{secrets.token_hex(6)}"
    ours, theirs = socket.socketpair()  # the lifeline, see `warren.processes.process`
    with ours:
        ours.setblocking(False)
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *(
                    sys.executable,
                    "-P",
                    "-m",
                    "warren",
                    "echo",
                    name,
                    f"--handler={handler}",
                    f"--lifeline={theirs.fileno()}",
                ),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=os.environ | {"WARREN_URL": url},  # it may hold a password, which a command line would show
                start_new_session=True,  # Ctrl-C is for the parent
            )
        try:
            if not await asyncio.get_running_loop().sock_recv(ours, 16):
                raise EchoFailed(await process.wait())
            yield f"{name}.echo"
        finally:
            await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _PATIENCE)
    except TimeoutError:
        process.kill()
        await process.wait()


# --- all of it --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Calls:
    """What is called, and how.

    Attributes:
        target: ``service.method``; None for an echo service of our own.
        args, kwargs: its arguments.
        timeout: seconds for each call.
        encoding: how the arguments are written.
        handler: which kind of handler our own service has.
    """

    target: str | None = None
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    timeout: float = 30.0
    encoding: Encoding = "json"
    handler: Handler = "async"


def check_local(url: str) -> None:
    """Refuse hosts that are not this machine, as far as that can be seen without asking anybody.

    Raises:
        ValueError: there is one, or the URL is wrong.
    """
    remote = [host for host, _port in make_settings(url).hosts if not _is_local(host)]
    if remote:
        raise ValueError(
            f"{', '.join(remote)} is not this machine: a load test can bring a broker down that others need;"
            " say --allow-remote if it is meant"
        )


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def run(url: str, calls: Calls, plan: Plan) -> tuple[str, Record]:
    """Make the calls of a plan; Ctrl-C ends it early.

    Returns:
        What was called, and what became of it.

    Raises:
        CallError: there is no connection to begin with, or the first call shows that the others would be in vain.
        EchoFailed: our own service cannot be served.
        ValueError: an option that makes no sense.
        KeyboardInterrupt: Ctrl-C before there was anything to tell.
    """
    with asyncio.Runner(loop_factory=_loop) as runner:
        return runner.run(_run(url, calls, plan))


def _loop() -> asyncio.AbstractEventLoop:
    """An event loop that wakes up in time: with epoll, asyncio rounds each wait up to the next millisecond."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


async def _run(url: str, calls: Calls, plan: Plan) -> tuple[str, Record]:
    patience = min(calls.timeout, make_settings(url).connect_timeout)
    client = AsyncClient(
        url, timeout=calls.timeout, encoding=calls.encoding, connect_timeout=patience, name="warren bench"
    )
    async with client, contextlib.AsyncExitStack() as stack:
        await client.connect()
        args, target = calls.args, calls.target
        if target is None:
            args, target = ["hello"], await stack.enter_async_context(_echo_process(calls.handler, url))

        def call() -> Awaitable[object]:
            return client.call(target, *args, **calls.kwargs)

        await _try(call)
        load = Load(plan, call, asyncio.get_running_loop().time)
        await _attend(load)
    return target, load.record


async def _try(call: Callable[[], Awaitable[object]]) -> None:
    """One call ahead of the others, to find out whether there is anything to measure."""
    try:
        await call()
    except (MethodNotFound, InvalidArgument):
        raise
    except CallError as error:
        if error.reason == "NO_ROUTE":  # there is no such service: a typing error, like the other two
            raise


async def _attend(load: Load) -> None:
    """Run a load to its end, or until Ctrl-C."""
    loop = asyncio.get_running_loop()
    running = asyncio.create_task(load.run())
    loop.add_signal_handler(signal.SIGINT, running.cancel)
    try:
        with _progress(load):
            await asyncio.wait([running])
    finally:
        loop.remove_signal_handler(signal.SIGINT)
    if not running.cancelled():
        running.result()
