"""``warren stats`` and ``top``: what services did and do, in numbers."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from warren.cli.asking import NOT_DONE, add_asking, add_service, ask_all, key_of, nobody, run_asking
from warren.cli.output import echo_json
from warren.cli.parser import Parser
from warren.cli.screen import Screen, add_interval, screen
from warren.cli.tables import duration, number, table
from warren.control.asking import Asking
from warren.operate import asked, told, totals

#: By what `top` can sort, and the key that does so.
_SORTS: Mapping[str, Callable[[Look, str, str, totals.Method], Any]] = {
    "rate": lambda look, _service, _method, stats: -(look.rate(stats.ended) or stats.ended),
    "failed": lambda _look, _service, _method, stats: -stats.failed.total(),
    "work": lambda _look, _service, _method, stats: -_p99(stats.work.percentile(99)),
    "wait": lambda _look, _service, _method, stats: -_p99(stats.wait.percentile(99)),
    "name": lambda _look, service, method, _stats: (service, method),
}
#: For requests of methods that there are not.
_UNKNOWN = "(unknown)"
_KEYS = {"r": "rate", "f": "failed", "w": "work", "a": "wait", "n": "name"}
_HINT = "sort by r: rate, f: failed, w: work, a: wait, n: name; q ends"


def _p99(value: float) -> float:
    return value if value == value else 0.0  # nan of nothing


def add_stats(parser: Parser) -> None:
    """The arguments of `stats`."""
    add_service(parser, optional=True)
    parser.flag("--watch", help="Go on, with what has come since the look before.")
    add_interval(parser)
    add_asking(parser, stats, "warren stats calc\nwarren stats calc --watch --interval 5\nwarren stats --json")


def add_top(parser: Parser) -> None:
    """The arguments of `top`."""
    add_service(parser, optional=True)
    parser.add_argument("--sort", choices=tuple(_SORTS), default="rate", help="By what (default: %(default)s).")
    add_interval(parser)
    add_asking(
        parser,
        top,
        "warren top\nwarren top calc --sort work\nwarren top --count 2 --interval 5 | tail -20",
        done="ended by q or --count",
    )


COMMANDS = {"stats": add_stats, "top": add_top}


@dataclass
class Look:
    """What was seen at one time.

    Attributes:
        services: what was done, since the look before if there was one.
        seconds: between the two; None for the first.
        processes: how many there are, by service.
    """

    services: dict[str, totals.Service]
    seconds: float | None
    processes: dict[str, told.Stats]

    def rate(self, count: int) -> float | None:
        """So many, per second."""
        return None if self.seconds is None else count / self.seconds

    def as_object(self) -> dict[str, Any]:
        """As JSON can carry it."""
        processes = {
            key: {"uptime": one.uptime, "cpu": one.process.cpu, "memory": one.process.memory, "lag": one.process.lag}
            for key, one in self.processes.items()
        }
        services = {name: service.as_object() for name, service in self.services.items()}
        return {"seconds": self.seconds, "services": services, "processes": processes}


async def _looks(asking: Asking, service: str | None, wait: float) -> AsyncIterator[Look]:
    """One look after the other, each when it is asked for."""
    before: dict[str, told.Stats] | None = None
    at = 0.0
    while True:
        if before is None:
            found = await ask_all(asking, "stats", service, told.Stats, wait)
        else:
            found = await asked.ask(asking, "stats", key_of(service), told.Stats, patience=wait)
        now = time.monotonic()
        added = totals.add_up(found.said, before)
        if service is not None:
            added = {name: one for name, one in added.items() if name == service}
        yield Look(added, None if before is None else now - at, found.said)
        before, at = {**(before or {}), **found.said}, now  # who misses one look is counted from its last answer on


# --- stats --------------------------------------------------------------------------------------------------------


def stats(
    service: str | None, watch: bool, interval: float, count: int | None, url: str, wait: float, as_json: bool
) -> int:
    """Show what services did, by method and caller: counts, failures, waits, durations."""

    async def work(asking: Asking) -> int:
        async with screen(terminal=None if watch and not as_json else False) as shown:
            left = count or (None if watch else 1)
            answered = 0
            async for look in _looks(asking, service, wait):
                answered = len(look.processes)
                _show(shown, look, as_json, wait)
                left = None if left is None else left - 1
                if left == 0 or await shown.pause(max(0.0, interval - wait)) == "q":
                    break
            return 0 if answered else NOT_DONE

    return run_asking(url, as_json, work)


def _show(shown: Screen, look: Look, as_json: bool, wait: float) -> None:
    if as_json:
        echo_json(look.as_object())
    elif look.processes:
        shown.draw(line for name, service in look.services.items() for line in _page(name, service, look))
    elif look.seconds is not None:
        shown.draw([nobody(wait)])


_METHODS = ("method", "ended", "failed", "refused", "wait p50", "wait p99", "work p50", "work p99")


def _page(name: str, service: totals.Service, look: Look) -> list[str]:
    count = f"{service.instances} process{'' if service.instances == 1 else 'es'}"
    rate = look.rate(service.all_methods().ended)
    lately = "" if service.rate is None else f"{service.rate:,.1f}/s (10s), "
    since = f"{lately}since they began" if rate is None else f"in {look.seconds:.1f} s: {rate:,.1f} per second"
    head = f"{name}: {count}, {service.running} running, {service.waiting} waiting, {since}"
    rows = [_method_row(method, stats) for method, stats in sorted(service.methods.items())]
    lines = [head, *(table(_METHODS, rows, right=_METHODS[1:]) if rows else ["no calls"])]
    return [*lines, *_failures(service), *_callers(service), ""]


def _method_row(name: str, stats: totals.Method) -> tuple[str, ...]:
    wait, work = totals.percentiles(stats.wait), totals.percentiles(stats.work)
    counts = (stats.ended, stats.failed.total(), stats.refused.total())
    times = (wait["p50"], wait["p99"], work["p50"], work["p99"])
    return (name or _UNKNOWN, *map(number, counts), *map(duration, times))


def _failures(service: totals.Service) -> list[str]:
    rows = [
        (name or _UNKNOWN, reason, number(count))
        for name, stats in sorted(service.methods.items())
        for reason, count in (stats.failed + stats.refused).most_common()
    ]
    return ["", *table(("method", "failed or refused", "times"), rows, right=("times",))] if rows else []


def _callers(service: totals.Service) -> list[str]:
    rows = [
        (caller or "(no name)", name, number(of.count), number(of.failed), duration(of.total / of.count))
        for name, stats in sorted(service.methods.items())
        for caller, of in sorted(stats.callers.items(), key=lambda pair: -pair[1].count)
        if of.count > 0
    ]
    headings = ("caller", "method", "calls", "failed", "mean")
    return ["", *table(headings, rows, right=headings[2:])] if rows else []


# --- top ----------------------------------------------------------------------------------------------------------

_TOP = ("service", "method", "per s", "ended", "failed", "wait p99", "work p50", "work p99")


def top(
    service: str | None, sort: str, interval: float, count: int | None, url: str, wait: float, as_json: bool
) -> int:
    """Watch which methods are busy, slow or failing."""

    async def work(asking: Asking) -> int:
        by, left = sort, count
        async with screen(terminal=False if as_json else None) as shown:
            async for look in _looks(asking, service, wait):
                key = _draw(shown, look, by, as_json)
                left = None if left is None else left - 1
                end = time.monotonic() + max(0.0, interval - wait)
                while left != 0 and (key := await shown.pause(max(0.0, end - time.monotonic()))) in _KEYS:
                    by = _KEYS[key]
                    _draw(shown, look, by, as_json)
                if left == 0 or key == "q":
                    break
        return 0

    return run_asking(url, as_json, work)


def _draw(shown: Screen, look: Look, by: str, as_json: bool) -> str:
    if as_json:
        echo_json(look.as_object())
    else:
        shown.draw(_frame(look, by))
    return ""


def _frame(look: Look, by: str) -> Iterable[str]:
    running = sum(service.running for service in look.services.values())
    waiting = sum(service.waiting for service in look.services.values())
    lag = max((one.process.lag or 0.0 for one in look.processes.values()), default=0.0)
    memory = sum(one.process.memory or 0 for one in look.processes.values()) / 2**20
    yield (
        f"services: {len(look.services)}, processes: {len(look.processes)}, running: {running}, waiting: {waiting},"
        f" memory: {memory:,.0f} MiB, lag: {duration(lag)}"
    )
    yield f"by {by}; {_HINT}"
    methods = [
        (name, method, stats) for name, service in look.services.items() for method, stats in service.methods.items()
    ]
    methods.sort(key=lambda row: _SORTS[by](look, *row))
    yield from table(_TOP, [_top_row(look, *row) for row in methods], right=_TOP[2:])


def _top_row(look: Look, service: str, name: str, stats: totals.Method) -> tuple[str, ...]:
    wait, work = totals.percentiles(stats.wait), totals.percentiles(stats.work)
    return (
        service,
        name or _UNKNOWN,
        number(look.rate(stats.ended), 1),
        number(stats.ended),
        number(stats.failed.total()),
        *map(duration, (wait["p99"], work["p50"], work["p99"])),
    )
