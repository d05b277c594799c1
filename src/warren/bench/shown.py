"""What `warren bench` shows of a load: a bar while it runs, a table and a histogram, or JSON."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
from collections.abc import Iterator
from shutil import get_terminal_size
from typing import Any

from warren.bench.load import Load, Plan, Record
from warren.histogram import Histogram
from warren.printable import aligned, printable

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


def lines(target: str, plan: Plan, record: Record) -> list[str]:
    """The result for people."""
    found = record.latencies
    text = [f"{printable(target)}  {plan}", "", f"  {found.count:,} results, {record.rate:,.0f} per second"]
    text += [f"  {count:,} errors {printable(problem)}" for problem, count in record.errors.most_common()]
    if record.interrupted:
        text.append(f"  interrupted, {record.unfinished:,} calls not waited for")
    if found.count:
        text += ["", *_table(found), "", *draw(found, get_terminal_size().columns, _blocks())]
    return text


def _table(latencies: Histogram) -> list[str]:
    figures = {name: _digits(value) for name, value in _latencies(latencies).items() if value is not None}
    rows = aligned([tuple(figures), tuple(figures.values())], right=range(len(figures)))
    return ["  latency of the results, in ms", *(f"  {row}" for row in rows)]


def _blocks() -> str:
    """What bars are drawn with: what standard output can show."""
    try:
        _EIGHTHS.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return "#"
    return _EIGHTHS


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
    # Drawn on the event loop and seldom: meanwhile no reply is read.
    watching = asyncio.create_task(_watch(load))
    try:
        yield
    finally:
        watching.cancel()
        _draw_over("")


async def _watch(load: Load) -> None:
    ended, since = 0, load.now()
    while True:
        await asyncio.sleep(0.5)
        now = load.now()
        rate = (load.ended - ended) / (now - since)
        ended, since = load.ended, now
        bar = _bar(min(load.progress, 1.0) * _BAR, "#").ljust(_BAR)
        state = f"{rate:,.0f} per second, {load.in_flight:,} in flight, {load.record.errors.total():,} errors"
        _draw_over(f"{load.phase:>10} [{bar}] {state}")


_BAR = 30


def _draw_over(line: str) -> None:
    """Write a line of the terminal again."""
    width = get_terminal_size().columns - 1
    sys.stderr.write(f"\r{line[:width]:<{width}}\r")
    sys.stderr.flush()
