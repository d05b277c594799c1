"""What `warren bench` shows of a load: a bar while it runs, a table and a histogram, or JSON."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
from collections.abc import Iterator
from typing import Any

from warren.bench.histogram import Histogram
from warren.bench.load import Load, Plan, Record
from warren.printable import printable

PERCENTILES = (50, 90, 99, 99.9)


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
_MOST_LINES = 16


def draw(latencies: Histogram, width: int, blocks: str = _EIGHTHS) -> list[str]:
    """The histogram as lines of text.

    Args:
        latencies: what to draw.
        width: columns that a line may have.
        blocks: the last one fills a column, those before it parts of it, growing.
    """
    rows = latencies.rows(_MOST_LINES)
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
def progress(load: Load) -> Iterator[None]:
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
