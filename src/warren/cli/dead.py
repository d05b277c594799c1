"""``warren dead``: the commands over a service's dead queue; what they do to it is in `warren.dead`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, TypeVar

from warren.cli.asking import add_wait, nobody, run_asking
from warren.cli.dead_messages import count_of, everything, page, summary, table
from warren.cli.output import INTERRUPTED, USAGE, complain, echo_json, fail, say
from warren.cli.parser import Parser, number
from warren.cli.tables import number as figure
from warren.cli.tables import show as show_lines
from warren.cli.tables import table as table_of
from warren.cli.terminal import add_url, fail_call
from warren.connection.settings import make_settings
from warren.control.asking import Asking
from warren.dead.queue import DeadMessage, DeadQueue, DeadQueueError, NotThere, Unfit, open_dead_queue
from warren.dead.wanted import Wanted, parse_duration
from warren.errors import CallError
from warren.operate import asked
from warren.operate.queues import Standing, look
from warren.printable import printable
from warren.protocol import topology
from warren.protocol.request import check_name

NOT_DONE = 1

_EPILOG = """\
Exit codes:
  0    done
  1    not done, or not all of it: the message says what and why
  2    wrong usage
  3    no broker, or the connection was lost
  5    the broker refuses this user
  7    the output cannot be written
  130  interrupted by Ctrl-C
"""

T = TypeVar("T")


def add_dead(parser: Parser) -> None:
    """The arguments of `dead` alone: an overview."""
    _finish(parser, overview)
    add_wait(parser)
    parser.flag("--json", dest="as_json", help="Print JSON.")
    parser.usage = "%(prog)s [COMMAND ...] [OPTIONS]"


def add_count(parser: Parser) -> None:
    """The arguments of `dead count`."""
    parser.add_argument(
        "services", metavar="SERVICE", nargs="*", default=[], help="Whose dead queues (default: all that are served)."
    )
    _finish(parser, count)
    add_wait(parser)
    parser.flag("--json", dest="as_json", help="Print JSON.")


def add_list(parser: Parser) -> None:
    """The arguments of `dead list`."""
    _add_service(parser)
    parser.add_argument(
        "--limit", metavar="N", type=number(int, 1), default=1000, help="Look at the oldest N at most (default: 1000)."
    )
    _add_choice(parser)
    _finish(parser, list_)
    parser.flag("--json", dest="as_json", help="Print JSON.")


def add_show(parser: Parser) -> None:
    """The arguments of `dead show`."""
    _add_service(parser)
    parser.add_argument("id", metavar="ID", help="A message, as `list` names it.")
    _finish(parser, show)
    parser.flag("--json", dest="as_json", help="Print JSON.")


def add_retry(parser: Parser) -> None:
    """The arguments of `dead retry`."""
    _add_one_or_all(parser)
    _finish(parser, retry)


def add_drop(parser: Parser) -> None:
    """The arguments of `dead drop`."""
    _add_one_or_all(parser)
    _finish(parser, drop)


def _add_one_or_all(parser: Parser) -> None:
    _add_service(parser)
    parser.add_argument("id", metavar="ID", nargs="?", help="A message, as `list` names it.")
    parser.flag("--all", dest="all_", help="All that are there now and chosen, oldest first.")
    _add_choice(parser)
    parser.flag("--yes", "-y", help="Do not ask.")


def _add_service(parser: Parser) -> None:
    parser.add_argument("service", metavar="SERVICE", help="Whose dead queue.")


def _add_choice(parser: Parser) -> None:
    parser.add_argument("--reason", metavar="R", action="append", default=[], help="Only of this reason; repeatable.")
    parser.add_argument("--method", metavar="M", action="append", default=[], help="Only of this method; repeatable.")
    parser.add_argument("--older-than", metavar="TIME", help="Only what died before: 90s, 10min, 2h, 3d ago.")
    parser.add_argument("--newer-than", metavar="TIME", help="Only what died since.")
    parser.add_argument("--only", choices=("calls", "casts"), help="Only calls, or only casts.")


def _finish(parser: Parser, run: Callable[..., int | None]) -> None:
    add_url(parser)
    parser.explain(_EPILOG)
    parser.set_defaults(run=run)


COMMANDS = {
    "dead": add_dead,
    "dead count": add_count,
    "dead list": add_list,
    "dead show": add_show,
    "dead retry": add_retry,
    "dead drop": add_drop,
}


def count(services: list[str], url: str, wait: float, as_json: bool) -> int:
    """Count what is in the dead queues of services."""
    if not services:
        return overview(url, wait, as_json)
    counts = {service: _run(url, service, _count, as_json=as_json) for service in services}
    if as_json:
        echo_json(counts)
    else:
        for service, number in counts.items():
            say(f"{service:<24} {'no dead queue' if number is None else number}")
    return NOT_DONE if None in counts.values() else 0


def overview(url: str, wait: float, as_json: bool) -> int:
    """Count what is in the dead queues of all services that are served."""

    async def work(asking: Asking) -> list[Standing]:
        return await look(asking.link, await asked.services(asking, wait), max(wait, 1.0))

    found = run_asking(url, as_json, work)
    if as_json:
        echo_json({one.service: one.dead for one in found})
    elif found:
        show_lines(table_of(("service", "dead"), [(one.service, figure(one.dead)) for one in found], right=("dead",)))
    if not found:
        complain(nobody(wait))
    elif any(one.dead for one in found) and not as_json:
        complain("`warren dead list SERVICE` shows what they are")
    return 0


async def _count(queue: DeadQueue) -> int | None:
    try:
        return await queue.count()
    except NotThere:
        return None


def list_(service: str, url: str, limit: int, as_json: bool, **choice: Any) -> None:
    """Show what is in the dead queue, oldest first."""
    wanted = _wanted(**choice)

    async def work(queue: DeadQueue) -> tuple[int, list[dict[str, Any]]]:
        return await queue.count(), [summary(entry) async for entry in _chosen(queue, wanted, limit)]

    number, entries = _run(url, service, work, as_json=as_json)
    if as_json:
        echo_json(entries)
    elif entries:
        say("\n".join(table(entries)))
    else:
        say(_nothing(service, number))
    if number > limit:
        complain(f"the oldest {limit} of {number}; --limit shows more")


def show(service: str, id: str, url: str, as_json: bool) -> None:
    """Show one message: what it ended in, properties, headers and the beginning of the body, escaped."""

    async def work(queue: DeadQueue) -> dict[str, Any]:
        return everything(await queue.find(id))

    entry = _run(url, service, work, bodies=True, as_json=as_json)
    if as_json:
        echo_json(entry)
    else:
        say("\n".join(page(entry)))


def retry(service: str, id: str | None, url: str, all_: bool, yes: bool, **choice: Any) -> None:
    """Publish a request to its service once more, as a cast, and take it off the dead queue."""
    wanted = _wanted(**choice)
    _one_or_all(id, all_, wanted)
    if id is not None:
        _run(url, service, _retry_one(id), bodies=True)
        return
    most = None if yes else _ask_for_all(url, service, wanted, "send again")

    async def work(queue: DeadQueue) -> None:
        await _retry_all(queue, _chosen(queue, wanted, most))

    _run(url, service, work, bodies=True)


def _retry_one(id: str) -> Callable[[DeadQueue], Coroutine[Any, Any, None]]:
    async def work(queue: DeadQueue) -> None:
        entry = await queue.find(id)
        await queue.retry(entry)
        _say_retried(entry)

    return work


async def _retry_all(queue: DeadQueue, entries: AsyncIterator[DeadMessage]) -> None:
    retried = unfit = 0
    try:
        async for entry in entries:
            try:
                await queue.retry(entry)
            except Unfit as error:
                unfit += 1
                complain(f"left where it is: {printable(str(error))}")
            else:
                retried += 1
                _say_retried(entry)
    finally:
        say(f"{count_of(retried)} sent again")
    if unfit:
        raise DeadQueueError(f"{count_of(unfit)} cannot be tried again")


def _say_retried(entry: DeadMessage) -> None:
    note = "; it was a call, whose caller has been answered: it runs as a cast now" if entry.was_a_call else ""
    to = "" if entry.stage is None else f" to {printable(entry.stage.here.to)}, {entry.stage.name}"
    say(f"{entry.id} sent again{to}{note}")


def drop(service: str, id: str | None, url: str, all_: bool, yes: bool, **choice: Any) -> None:
    """Remove a message for good."""
    wanted = _wanted(**choice)
    _one_or_all(id, all_, wanted)
    most = None
    if not yes and id is not None:
        _ask(_run(url, service, _question(id)))
    elif not yes:
        most = _ask_for_all(url, service, wanted, "drop for good")

    async def work(queue: DeadQueue) -> int:
        if id is not None:
            queue.drop(await queue.find(id))
            return 1
        dropped = 0
        async for entry in _chosen(queue, wanted, most):
            queue.drop(entry)
            dropped += 1
        return dropped

    say(f"{count_of(_run(url, service, work))} dropped")


def _question(id: str) -> Callable[[DeadQueue], Coroutine[Any, Any, str]]:
    async def work(queue: DeadQueue) -> str:
        entry = await queue.find(id)
        return f"Drop {entry.id} ({entry.reason}, {entry.size} bytes) for good?"

    return work


# --- choosing and asking ----------------------------------------------------------------------------------------------


def _wanted(
    reason: list[str], method: list[str], older_than: str | None, newer_than: str | None, only: str | None
) -> Wanted:
    try:
        return Wanted(
            tuple(reason),
            tuple(method),
            None if older_than is None else parse_duration(older_than),
            None if newer_than is None else parse_duration(newer_than),
            None if only is None else only == "calls",
        )
    except ValueError as error:
        fail(str(error), USAGE)


def _one_or_all(id: str | None, all_: bool, wanted: Wanted) -> None:
    if (id is None) is not all_:
        fail("say which: one ID, or --all", USAGE)
    if id is not None and not wanted.everything:
        fail("one ID is chosen already: reasons, methods, times and kinds go with --all", USAGE)


async def _chosen(queue: DeadQueue, wanted: Wanted, most: int | None) -> AsyncIterator[DeadMessage]:
    """Those that are wanted among the oldest `most`."""
    now = datetime.now(UTC)
    async for entry in queue.messages(most):
        if wanted.takes(entry, now):
            yield entry


def _ask_for_all(url: str, service: str, wanted: Wanted, what: str) -> int:
    """Ask about all that are wanted, with the queue let go meanwhile: others may need it while a person thinks.

    Returns how many messages were there: what comes later was not asked about.
    """

    async def work(queue: DeadQueue) -> tuple[int, int]:
        there = await queue.count()
        if wanted.everything:
            return there, there
        return there, len([entry async for entry in _chosen(queue, wanted, there)])

    there, meant = _run(url, service, work)
    if not meant:
        say(_nothing(service, there))
        raise SystemExit(0)
    _ask(f"{count_of(meant)} of {printable(topology.dead_queue(service))}: {what}?")
    return there


def _ask(question: str) -> None:
    try:
        answer = input(f"{question} [y/N]: ")
    except (EOFError, KeyboardInterrupt):
        say("")
        fail("nobody answered, so nothing was done; --yes does it unasked", NOT_DONE)
    if answer.strip().lower() not in ("y", "yes"):
        fail("nothing was done", NOT_DONE)


def _nothing(service: str, there: int) -> str:
    queue = printable(topology.dead_queue(service))
    return f"nothing of that kind among {count_of(there)} in {queue}" if there else f"{queue} is empty"


# --- running ----------------------------------------------------------------------------------------------------------


def _run(
    url: str,
    service: str,
    work: Callable[[DeadQueue], Coroutine[Any, Any, T]],
    *,
    bodies: bool = False,
    as_json: bool = False,
) -> T:
    """Run something on a service's dead queue; whatever ends it otherwise ends the process."""
    logging.basicConfig(handlers=[logging.NullHandler()])  # what goes wrong is said once, by the error

    async def connected() -> T:
        settings = make_settings(url, name="warren dead")
        async with open_dead_queue(settings, service, bodies=bodies) as queue:
            return await work(queue)

    try:
        check_name(topology.dead_queue(service))
        return asyncio.run(connected())
    except CallError as error:
        fail_call(error, as_json, url)
    except ValueError as error:
        fail(str(error), USAGE)
    except DeadQueueError as error:
        fail(printable(str(error)), NOT_DONE)
    except KeyboardInterrupt:
        fail("interrupted; what was not dealt with is where it was", INTERRUPTED)
