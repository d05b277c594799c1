"""``warren ls``, ``info``, ``ping`` and ``health``: what there is, and whether it is well."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import msgspec

from warren.cli.asking import (
    NOT_DONE,
    add_asking,
    add_service,
    ask_all,
    key_of,
    need_answers,
    nobody,
    run_asking,
    tell,
    tell_silent,
    unknown,
)
from warren.cli.output import complain, echo_json, fail
from warren.cli.parser import Parser, number
from warren.cli.tables import age, duration, show, table
from warren.cli.tables import number as shown
from warren.control.asking import Asking
from warren.operate import asked, queues, silent, told, totals
from warren.operate.queues import Standing
from warren.protocol.control import TO_ALL


def add_ls(parser: Parser) -> None:
    """The arguments of `ls`."""
    add_asking(
        parser, ls, "warren ls\nwarren ls --wait 2 --json", done="done, also if nobody has answered", not_done="-"
    )


def add_info(parser: Parser) -> None:
    """The arguments of `info`."""
    parser.add_argument("name", metavar="SERVICE[.METHOD]", help="A service, or one of its methods.")
    add_asking(parser, info, "warren info calc\nwarren info calc.fib\nwarren info calc --json")


def add_ping(parser: Parser) -> None:
    """The arguments of `ping`."""
    add_service(parser, optional=True)
    add_asking(parser, ping, "warren ping calc\nwarren ping --wait 2", not_done="nobody answers")


def add_health(parser: Parser) -> None:
    """The arguments of `health`."""
    add_service(parser, optional=True)
    parser.add_argument(
        "--at-least",
        metavar="N",
        type=number(int, 1),
        default=1,
        help="How many healthy processes there have to be (default: %(default)s).",
    )
    add_asking(
        parser,
        health,
        "warren health calc\nwarren health calc --at-least 3 --wait 2",
        done="all that answered are healthy, and there are enough",
        not_done="somebody is not, or there are too few",
    )


COMMANDS = {"ls": add_ls, "info": add_info, "ping": add_ping, "health": add_health}

# --- ls -----------------------------------------------------------------------------------------------------------

#: The rate is of calls that ended in the last ten seconds: see `Vitals`.
_LS = ("service", "up", "running", "calls", "/s (10s)", "failed", "wait p99", "work p99", "queue", "dead")


def ls(url: str, wait: float, as_json: bool) -> None:
    """List the services that run, with what they did and what waits for them."""

    async def work(asking: Asking) -> list[dict[str, Any]]:
        processes, stats = await asyncio.gather(
            silent.roll_call(asking, wait), asked.ask(asking, "stats", TO_ALL, told.Stats, patience=wait)
        )
        tell(stats)
        counted, services = totals.add_up(stats.said), asked.services_of(processes)
        standings = await queues.look(asking.link, services, max(wait, 1.0))
        tell_silent(silent.find(standings, processes, stats.heard), wait)
        return [_listed(services[one.service], counted.get(one.service, totals.Service()), one) for one in standings]

    rows = run_asking(url, as_json, work)
    if as_json:
        echo_json(rows)
    elif rows:
        show(table(_LS, map(_ls_row, rows), right=_LS[1:]))
    if not rows:
        complain(nobody(wait))


def _listed(instances: list[str], service: totals.Service, standing: Standing) -> dict[str, Any]:
    sum_ = service.all_methods()
    return {
        "service": standing.service,
        "instances": instances,
        "running": service.running,
        "waiting": service.waiting,
        "ended": sum_.ended,
        "rate": service.rate if service.instances else None,
        "failed": sum_.failed.total(),
        "refused": sum_.refused.total(),
        "wait": totals.percentiles(sum_.wait),
        "work": totals.percentiles(sum_.work),
        "ready": standing.ready,
        "consumers": standing.consumers,
        "dead": standing.dead,
    }


def _ls_row(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["service"],
        str(len(row["instances"])),
        shown(row["running"]),
        shown(row["ended"]),
        shown(row["rate"], 1),
        shown(row["failed"]),
        duration(row["wait"]["p99"]),
        duration(row["work"]["p99"]),
        shown(row["ready"]),
        shown(row["dead"]),
    )


# --- info ---------------------------------------------------------------------------------------------------------


def info(name: str, url: str, wait: float, as_json: bool) -> None:
    """Show what a service offers, or one of its methods in full."""

    async def work(asking: Asking) -> tuple[str, str | None, asked.Told[told.Info]]:
        key_of(name)
        service, method, found = await asked.info(asking, name, wait)
        if not found.said and not found.complaints():
            await unknown(asking, name, wait)
        await need_answers(asking, found, service, wait)
        return service, method, found

    service, method, found = run_asking(url, as_json, work)
    declared = the_newest(service, found)
    if method is not None:
        _info_method(the_method(declared, method), as_json)
    elif as_json:
        echo_json({"service": _plain(declared), "processes": {key: _process(one) for key, one in found.said.items()}})
    else:
        show(_info_lines(declared, found.said))


def the_newest(name: str, found: asked.Told[told.Info]) -> told.ServiceInfo:
    """A service as its newest process declares it; ends the process of ours where none does."""
    declared, others = asked.newest(name, found.said)
    if declared is None:
        fail(f"who answers for {name!r} does not say what it offers: ask again with --wait 2", NOT_DONE)
    if others:
        complain(f"this is what the newest process says; {others} of {len(found.said)} say something else")
    return declared


def the_method(service: told.ServiceInfo, name: str) -> told.MethodInfo:
    """A method by its name; ends the process if there is none."""
    found = next((method for method in service.methods if method.name == name), None)
    if found is None:
        known = ", ".join(method.name for method in service.methods) or "none"
        fail(f"{service.name!r} has no method {name!r}; use one of: {known}", NOT_DONE)
    return found


def _info_lines(service: told.ServiceInfo, processes: dict[str, told.Info]) -> list[str]:
    parts = [f"version {service.version}"] if service.version else []
    parts += [f"{service.queue} queue"]
    parts += [f"at most {service.max_length:,} waiting"] if service.max_length is not None else []
    lines = [f"{service.name}: {', '.join(parts)}"]
    lines += [service.description] if service.description else []
    for method in service.methods:
        lines += ["", f"  {method.signature or method.name}"]
        lines += [f"      {line}" for line in (method.doc or "").strip().splitlines()[:1]]
        lines += [f"      {said}"] if (said := _terms(method)) else []
    rows = [
        (key, one.host, str(one.pid), one.state, one.warren, one.control, age(time.time() - one.started))
        for key, one in processes.items()
    ]
    headings = ("instance", "host", "pid", "state", "warren", "control", "up")
    return [*lines, "", *table(headings, rows, right=("pid", "up"))]


def _terms(method: told.MethodInfo) -> str:
    parts = [method.delivery if method.delivery != "report" else ""]
    if method.delivery == "at-least-once" and method.max_attempts is not None:
        parts.append(f"{method.max_attempts} attempt{'' if method.max_attempts == 1 else 's'}")
    parts.append(f"{method.time_limit:g} s at most" if method.time_limit is not None else "")
    parts.append(f"{method.concurrency} at a time in a process" if method.concurrency is not None else "")
    parts.append("answers bare requests" if method.default else "")
    parts.append("may be asked of all instances" if method.broadcast else "")
    parts.append("resumable" if method.resumable else "")
    return ", ".join(part for part in parts if part)


def _info_method(method: told.MethodInfo, as_json: bool) -> None:
    if as_json:
        echo_json(_plain(method))
        return
    lines = [method.signature or method.name, *(f"  {line}" for line in (method.doc or "").strip().splitlines())]
    lines += [f"  {said}"] if (said := _terms(method)) else []
    result = "each item" if method.streams else "result"
    taken = [("each item that it takes", method.taken)] if method.takes else []
    for title, schema in (("arguments", method.arguments), *taken, (result, method.result)):
        lines += ["", title, *(f"  {line}" for line in json.dumps(schema, indent=2, ensure_ascii=False).splitlines())]
    show(lines)


def _process(info: told.Info) -> dict[str, Any]:
    return {name: value for name, value in _plain(info).items() if name != "services"}


def _plain(struct: Any) -> dict[str, Any]:
    made: dict[str, Any] = msgspec.to_builtins(struct)
    return made


# --- ping and health ----------------------------------------------------------------------------------------------


def ping(service: str | None, url: str, wait: float, as_json: bool) -> int:
    """Ask processes whether they answer, and how soon."""

    found = run_asking(url, as_json, lambda asking: ask_all(asking, "ping", service, told.Process, wait))
    if as_json:
        echo_json(
            [{"instance": key, "seconds": found.after[key], **_plain(process)} for key, process in found.said.items()]
        )
    elif found.said:
        rows = [
            (key, one.name, one.host, str(one.pid), one.state, duration(found.after[key]))
            for key, one in found.said.items()
        ]
        show(table(("instance", "name", "host", "pid", "state", "after"), rows, right=("pid", "after")))
    return 0 if found.said else NOT_DONE


def health(service: str | None, at_least: int, url: str, wait: float, as_json: bool) -> int:
    """Ask processes whether they are healthy; the exit code tells."""

    found = run_asking(url, as_json, lambda asking: ask_all(asking, "health", service, told.Health, wait))
    healthy = sum(one.healthy for one in found.said.values())
    if as_json:
        echo_json({"healthy": healthy, "processes": {key: _plain(one) for key, one in found.said.items()}})
    elif found.said:
        rows = [
            (key, "healthy" if one.healthy else "NOT healthy", one.state, _trouble(one))
            for key, one in found.said.items()
        ]
        show(table(("instance", "health", "state", "trouble"), rows))
    if healthy < at_least:
        complain(f"{healthy} healthy, and there have to be {at_least}: start more, or look into those that are not")
    return 0 if at_least <= healthy == len(found.said) and not found.refused and not found.unreadable else NOT_DONE


def _trouble(health: told.Health) -> str:
    idle = [name for name, consumes in health.checks.consuming.items() if not consumes]
    parts = [] if health.checks.connection else ["no connection"]
    return "; ".join([*parts, *([f"does not consume {', '.join(idle)}"] if idle else [])])
