"""``warren queues``: what waits at the broker, who takes it, and what died."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from warren.cli.asking import NOT_DONE, add_asking, key_of, nobody, run_asking
from warren.cli.output import complain, echo_json, fail
from warren.cli.parser import Parser
from warren.cli.screen import add_interval, screen
from warren.cli.tables import number, table
from warren.connection.settings import make_settings
from warren.control.asking import Asking
from warren.operate import asked, queues
from warren.operate.management import ManagementError, ask_management
from warren.operate.queues import Standing


def add_queues(parser: Parser) -> None:
    """The arguments of `queues`."""
    parser.add_argument(
        "services", metavar="SERVICE", nargs="*", default=[], help="Services to look at even if nobody serves them."
    )
    parser.add_argument(
        "--management",
        metavar="URL",
        help="Ask RabbitMQ's management plugin, too: http://host:15672, with user:password@ if it is another than the"
        " broker's. It knows rates, and services that nobody serves.",
    )
    parser.flag("--watch", help="Go on, and say how fast queues grow or shrink.")
    add_interval(parser)
    add_asking(
        parser,
        queues_,
        "warren queues\nwarren queues mail --watch\nwarren queues --management http://localhost:15672",
        not_done="one of the named services has no queue; the plugin does not answer",
    )


COMMANDS = {"queues": add_queues}


def queues_(
    services: list[str],
    management: str | None,
    watch: bool,
    interval: float,
    count: int | None,
    url: str,
    wait: float,
    as_json: bool,
) -> int:
    """Show what waits in the queues of all services, who takes it, and what died."""

    async def work(asking: Asking) -> int:
        before, at = dict[str, Standing](), 0.0
        left = count or (None if watch else 1)
        async with screen(terminal=None if watch and not as_json else False) as shown:
            while True:
                found, now = await _look(asking, services, management, url, wait), time.monotonic()
                if as_json:
                    echo_json([one.as_object() for one in found])
                elif found:
                    shown.draw(_table(found, before, now - at))
                at, before = now, {one.service: one for one in found}
                left = None if left is None else left - 1
                if left == 0 or await shown.pause(interval) == "q":
                    break
        if not found:
            complain(nobody(wait))
        return NOT_DONE if any(one.ready is None for one in found if one.service in services) else 0

    return run_asking(url, as_json, work)


async def _look(asking: Asking, services: list[str], management: str | None, url: str, wait: float) -> list[Standing]:
    for service in services:
        key_of(service)
    told = asyncio.create_task(_managed(management, url))
    try:
        names = sorted({*services, *await asked.services(asking, wait)})
        standings = {one.service: one for one in await queues.look(asking.link, names, max(wait, 1.0))}
        return [one for _, one in sorted((standings | await told).items())]
    except ManagementError as error:
        fail(str(error), NOT_DONE)
    finally:
        told.cancel()


async def _managed(management: str | None, url: str) -> dict[str, Standing]:
    if management is None:
        return {}
    found = await asyncio.to_thread(ask_management, management, make_settings(url))
    return {one.service: one for one in found}


def _table(found: list[Standing], before: dict[str, Standing], seconds: float) -> list[str]:
    headings = ["service", "ready", "consumers", "dead"]
    more: list[tuple[str, Any]] = []
    if any(one.unacked is not None for one in found):
        more += [("unacked", lambda one: number(one.unacked))]
        more += [("in/s", lambda one: number(one.published, 1)), ("out/s", lambda one: number(one.delivered, 1))]
    if before:
        more += [("growth/s", lambda one: _growth(one, before.get(one.service), seconds))]
    rows = [
        (
            one.service,
            *map(number, (one.ready, one.consumers, one.dead)),
            *(cell(one) for _, cell in more),
            one.trouble or _warning(one),
        )
        for one in found
    ]
    named = [*headings, *(heading for heading, _ in more)]
    return table([*named, ""], rows, right=named[1:])


def _warning(one: Standing) -> str:
    return "nobody takes it" if one.ready and not one.consumers else ""


def _growth(now: Standing, before: Standing | None, seconds: float) -> str:
    if before is None or now.ready is None or before.ready is None:
        return "-"
    return f"{(now.ready - before.ready) / seconds:+,.1f}"
