"""``warren calls``, ``where`` and ``cancel``: calls that are under way, and where one is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from warren.cli.asking import (
    FORBIDDEN,
    NOT_DONE,
    add_asking,
    add_service,
    key_of,
    need_answers,
    run_asking,
)
from warren.cli.dead_messages import summary
from warren.cli.output import complain, echo_json, fail
from warren.cli.parser import Parser
from warren.cli.tables import duration, show, table
from warren.connection.settings import make_settings
from warren.control.asking import Asking
from warren.operate import asked, queues, told, where
from warren.operate.where import Dead, Held
from warren.printable import printable
from warren.protocol.control import TO_ALL


def add_calls(parser: Parser) -> None:
    """The arguments of `calls`."""
    add_service(parser, optional=True)
    add_asking(parser, calls, "warren calls calc\nwarren calls --json", not_done="nobody answers")


def add_where(parser: Parser) -> None:
    """The arguments of `where`."""
    parser.add_argument("call_id", metavar="CALL_ID", help="As errors and logs name it.")
    parser.add_argument(
        "--service",
        metavar="SERVICE",
        action="append",
        default=[],
        help="Look into the dead queue of this service, too, though nobody serves it now; repeatable.",
    )
    add_asking(
        parser,
        where_,
        "warren where 6f1c9a…\nwarren where 6f1c9a… --service mail",
        done="here it is",
        not_done="it was not found",
    )


def add_cancel(parser: Parser) -> None:
    """The arguments of `cancel`."""
    parser.add_argument("call_id", metavar="CALL_ID", help="As `calls` and errors name it.")
    add_asking(
        parser,
        cancel,
        "warren cancel 6f1c9a…",
        done="it was cancelled: an async handler ends, and its caller is told CANCELLED",
        not_done="nobody who lets tools act has it",
    )


COMMANDS = {"calls": add_calls, "where": add_where, "cancel": add_cancel}

# --- calls --------------------------------------------------------------------------------------------------------


def calls(service: str | None, url: str, wait: float, as_json: bool) -> int:
    """List the calls that run or wait in processes, oldest first."""

    async def work(asking: Asking) -> tuple[list[Held], bool]:
        found, said = await where.held(asking, key_of(service), wait)
        await need_answers(asking, said, service, wait)
        if left_out := sum(one.left_out for one in said.said.values()):
            complain(f"{left_out:,} more, the youngest, are not listed; name a service to see less of the others")
        return [one for one in found if service in (None, one.call.service)], bool(said.said)

    found, answered = run_asking(url, as_json, work)
    if as_json:
        echo_json([_held(one) for one in found])
    elif found:
        show(_calls_table(found))
    elif answered:
        complain("no call is running or waiting in a process; `warren queues` shows what waits at the broker")
    return 0 if answered else NOT_DONE


def _held(one: Held) -> dict[str, Any]:
    return {"instance": one.instance, **msgspec.to_builtins(one.call)}


def _calls_table(found: Sequence[Held]) -> list[str]:
    headings = ("call id", "method", "instance", "caller", "state", "age", "left")
    rows = [
        (
            call.call_id or "-",
            f"{call.service}.{call.method or '(default)'}",
            instance,
            call.caller or "-",
            call.state if call.kind == "call" else f"{call.state} {call.kind}",
            duration(call.age),
            duration(call.left),
        )
        for instance, call in found
    ]
    return table(headings, rows, right=("age", "left"))


# --- where --------------------------------------------------------------------------------------------------------


class _Found(NamedTuple):
    """What was found out about a call."""

    held: list[Held]
    dead: list[Dead]
    closed: list[str]
    left_out: int
    queued: int


def where_(call_id: str, service: list[str], url: str, wait: float, as_json: bool) -> int:
    """Find a call: in a worker's hands, or in a dead queue."""

    async def work(asking: Asking) -> _Found:
        for name in service:
            key_of(name)
        (held, said), services = await asyncio.gather(
            where.running(asking, call_id, wait), asked.services(asking, wait)
        )
        for line in said.complaints():
            complain(printable(line))
        standings = await queues.look(asking.link, dict.fromkeys([*services, *service]), max(wait, 1.0))
        full = [one.service for one in standings if one.dead]
        dead, closed = await where.dead(make_settings(url, name="warren where"), full, call_id)
        left_out = sum(one.left_out for one in said.said.values())
        return _Found(held, dead, closed, left_out, sum(one.ready or 0 for one in standings))

    found = run_asking(url, as_json, work)
    if as_json:
        echo_json({"held": [_held(one) for one in found.held], "dead": [_dead(one) for one in found.dead]})
    else:
        show([*map(_held_line, found.held), *map(_dead_line, found.dead)])
    for name in found.closed:
        complain(printable(f"the broker does not let this user read the dead queue of {name}: ask somebody who may"))
    if found.held or found.dead:
        return 0
    complain(_not_found(call_id, found))
    return NOT_DONE


def _dead(one: Dead) -> dict[str, Any]:
    return {"service": one.service, **summary(one.message)}


def _held_line(one: Held) -> str:
    call = one.call
    left = "no deadline" if call.left is None else f"{duration(call.left)} left"
    attempt = f", attempt {call.attempt}" if call.attempt > 1 else ""
    what = "it runs" if call.state == "running" else f"it is {call.state}"
    method = f"{call.service}.{call.method or '(default)'}"
    return (
        f"{what} at {one.instance}: {method} for {call.caller or 'a caller without a name'},"
        f" since {duration(call.age)}, {left}{attempt}"
    )


def _dead_line(one: Dead) -> str:
    death = one.message.death
    why = f": {death.text or death.type}" if death.text or death.type else ""
    since = f" since {one.message.since:%Y-%m-%d %H:%M:%S} UTC" if one.message.since is not None else ""
    return (
        f"it is in the dead queue of {one.service}{since}, {one.message.reason}{why};"
        f" see: warren dead show {one.service} {one.message.id}"
    )


def _not_found(call_id: str, found: _Found) -> str:
    waiting = f", or it is one of {found.left_out:,} that busy processes did not list" if found.left_out else ""
    if found.queued:
        waiting += f", or it is one of the {found.queued:,} that wait in queues, into which nobody can look"
    return printable(
        f"{call_id} is in no process that answers and in no dead queue of theirs: it has ended{waiting}; name services"
        " that are not served now with --service, and look into the logs of the caller"
    )


# --- cancel ----------------------------------------------------------------------------------------


def cancel(call_id: str, url: str, wait: float, as_json: bool) -> None:
    """Cancel a call, whoever has made it."""

    async def work(asking: Asking) -> asked.Told[told.Done]:
        return await asked.ask(asking, "cancel", TO_ALL, told.Done, patience=wait, body={"call_id": call_id})

    found = run_asking(url, as_json, work)
    cancelled = {key: one.cancelled for key, one in found.said.items() if one.cancelled > 0}
    if as_json:
        echo_json({"cancelled": sum(cancelled.values()), "instances": list(cancelled), "refused": found.complaints()})
    for instance in cancelled:
        if not as_json:
            show([f"{call_id} was cancelled at {instance}"])
    if not cancelled:
        more = [f"; {line}" for line in found.complaints()]
        fail(
            f"nobody who lets tools act has {call_id}: `warren where` finds it{''.join(more)}",
            FORBIDDEN if found.forbidden else NOT_DONE,
        )
