"""``warren calls``, ``where`` and ``cancel``: calls that are under way, and where one is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from warren.cli.asking import (
    FORBIDDEN,
    NOT_DONE,
    add_asking,
    add_service,
    ask_all,
    key_of,
    run_asking,
    tell,
    tell_silent,
)
from warren.cli.dead_messages import summary
from warren.cli.output import complain, echo_json, fail
from warren.cli.parser import Parser
from warren.cli.tables import duration, show, table
from warren.connection.settings import make_settings
from warren.control.asking import Asking
from warren.operate import asked, silent, told, where
from warren.operate.silent import Silent
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

    found = run_asking(url, as_json, lambda asking: ask_all(asking, "calls", service, told.Calls, wait))
    if left_out := where.left_out(found):
        complain(f"{left_out:,} more, the youngest, are not listed; name a service to see less of the others")
    held = [one for one in where.held(found) if service in (None, one.call.service)]
    if as_json:
        echo_json([_held(one) for one in held])
    elif held:
        show(_calls_table(held))
    elif found.said:
        complain(
            "no call is running or waiting in a process that answers; `warren queues` shows what waits at the broker"
        )
    return 0 if found.said else NOT_DONE


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


def where_(call_id: str, service: list[str], url: str, wait: float, as_json: bool) -> int:
    """Find a call: in a worker's hands, or in a dead queue."""

    async def work(asking: Asking) -> where.Sought:
        for name in service:
            key_of(name)
        return await where.find(asking, make_settings(url, name="warren where"), call_id, service, wait)

    found = run_asking(url, as_json, work)
    if as_json:
        echo_json({"held": [_held(one) for one in found.held], "dead": [_dead(one) for one in found.dead],
                   "unseen": found.unseen})  # fmt: skip
    else:
        show([*map(_held_line, found.held), *map(_dead_line, found.dead)])
    if found.held or found.dead:
        return 0
    for line in _not_found(call_id, found):
        complain(printable(line))
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


def _not_found(call_id: str, found: where.Sought) -> list[str]:
    ended = f"{call_id} was not found: it has ended, or a service has it of which no process answers (see --service)"
    return [f"{ended}; or it is where nobody has looked:", *found.unseen] if found.unseen else [ended]


# --- cancel ----------------------------------------------------------------------------------------


def cancel(call_id: str, url: str, wait: float, as_json: bool) -> None:
    """Cancel a call, whoever has made it."""

    async def work(asking: Asking) -> tuple[asked.Told[told.Done], list[Silent]]:
        found = await asked.ask(asking, "cancel", TO_ALL, told.Done, patience=wait, body={"call_id": call_id})
        if any(one.cancelled > 0 for one in found.said.values()):
            return found, []
        processes = await silent.roll_call(asking, wait)
        return found, await silent.among(asking, asked.services_of(processes), processes, found.heard, wait)

    found, quiet = run_asking(url, as_json, work)
    cancelled = {key: one.cancelled for key, one in found.said.items() if one.cancelled > 0}
    if as_json:
        echo_json({"cancelled": sum(cancelled.values()), "instances": list(cancelled), "refused": found.complaints()})
    for instance in cancelled:
        if not as_json:
            show([f"{call_id} was cancelled at {instance}"])
    if not cancelled:
        tell(found)
        tell_silent(quiet, wait)
        fail(
            f"no process that has answered, and lets tools act, has {call_id}: `warren where` says more",
            FORBIDDEN if found.forbidden else NOT_DONE,
        )
