"""``warren concurrency`` and ``log-level``: what running processes are told to do otherwise, until they end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from warren.cli.asking import (
    FORBIDDEN,
    NOT_DONE,
    add_asking,
    key_of,
    need_answers,
    run_asking,
    tell_silent,
)
from warren.cli.output import USAGE, complain, echo_json, fail
from warren.cli.parser import Parser, number
from warren.cli.tables import show
from warren.control.asking import Asking
from warren.operate import asked, silent
from warren.operate.told import Loudness, Places
from warren.printable import printable
from warren.protocol.control import MAX_CONCURRENCY, to_instance

T = TypeVar("T", Places, Loudness)

LEVELS = ("debug", "info", "warning", "error", "critical", "notset")
_NOT_DONE = "a process that is meant has not answered, or cannot do it"


def add_concurrency(parser: Parser) -> None:
    """The arguments of `concurrency`."""
    parser.add_argument("service", metavar="SERVICE", help="Which service.")
    parser.add_argument(
        "places", metavar="N", type=number(int, 1, MAX_CONCURRENCY), help="So many calls at a time in each process."
    )
    _add_instances(parser, "all that serve it")
    examples = "warren concurrency calc 8\nwarren concurrency calc 8 --instance 0123456789ab"
    add_asking(parser, concurrency, examples, done="all that are meant serve so many at a time", not_done=_NOT_DONE)


def add_log_level(parser: Parser) -> None:
    """The arguments of `log-level`."""
    parser.add_argument("level", type=str.lower, choices=LEVELS, help="From where on it is logged.")
    parser.add_argument("--logger", metavar="NAME", default="warren", help="Whose (default: %(default)s).")
    parser.add_argument("--service", metavar="SERVICE", help="Processes that serve this one (default: all processes).")
    _add_instances(parser, "all")
    examples = "warren log-level debug --service calc\nwarren log-level info --logger shop.orders"
    add_asking(parser, log_level, examples, done="all that are meant log like that", not_done=_NOT_DONE)


def _add_instances(parser: Parser, default: str) -> None:
    parser.add_argument(
        "--instance",
        metavar="INSTANCE",
        dest="instances",
        action="append",
        default=[],
        help=f"This process alone, as `ping` names it; repeatable (default: {default}).",
    )


COMMANDS = {"concurrency": add_concurrency, "log-level": add_log_level}


def concurrency(service: str, places: int, instances: list[str], url: str, wait: float, as_json: bool) -> int:
    """Let processes serve so many calls of a service at a time, until they end."""

    async def work(asking: Asking) -> tuple[asked.Told[Places], bool]:
        body = {"service": service, "concurrency": places}
        return await _tell(asking, "concurrency", Places, body, service, instances, wait)

    found, all_ = run_asking(url, as_json, work)
    return _show(found, all_, as_json, lambda one: f"{service}: {one.concurrency} at a time, was {one.was}")


def log_level(
    level: str, logger: str, service: str | None, instances: list[str], url: str, wait: float, as_json: bool
) -> int:
    """Let a logger of processes say more or less, until they end."""
    if service is not None and instances:
        fail("--service and --instance each say which processes: give one of them", USAGE)

    async def work(asking: Asking) -> tuple[asked.Told[Loudness], bool]:
        body = {"level": level.upper(), "logger": logger}
        return await _tell(asking, "log-level", Loudness, body, service, instances, wait)

    found, all_ = run_asking(url, as_json, work)
    return _show(found, all_, as_json, lambda one: f"{one.logger} from {one.level} on, was {one.was}")


async def _tell(
    asking: Asking,
    verb: str,
    kind: type[T],
    body: Mapping[str, Any],
    service: str | None,
    instances: Sequence[str],
    wait: float,
) -> tuple[asked.Told[T], bool]:
    """What those say that are meant, and whether all of them have answered."""
    key = key_of(service)
    if not instances:
        found, processes = await asyncio.gather(
            asked.ask(asking, verb, key, kind, patience=wait, body=body), silent.roll_call(asking, wait, key)
        )
        await need_answers(asking, found, service, wait)
        services = asked.services_of(processes) if service is None else [service]
        quiet = await silent.among(asking, services, processes, found.heard, wait)
        tell_silent(quiet, wait)
        return found, bool(found.said) and not quiet
    for instance in instances:
        key_of(instance)
    each = [asked.ask(asking, verb, to_instance(one), kind, patience=wait, body=body, first=True) for one in instances]
    found = asked.joined(await asyncio.gather(*each))
    for line in found.complaints():
        complain(printable(line))
    missing = [instance for instance in instances if instance not in found.heard]
    for instance in missing:
        complain(printable(f"{instance}: no such process has answered; `warren ping` shows who is there"))
    return found, not missing


def _show(found: asked.Told[T], all_: bool, as_json: bool, line: Callable[[T], str]) -> int:
    if as_json:
        echo_json({key: msgspec.to_builtins(one) for key, one in found.said.items()})
    else:
        show(f"{key}: {line(one)}" for key, one in found.said.items())
    if found.forbidden:
        return FORBIDDEN
    return 0 if all_ and not found.refused and not found.unreadable else NOT_DONE
