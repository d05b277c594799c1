"""``warren dead``: the commands over a service's dead queue; what they do to it is in `warren.dead`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import typer

from warren.cli.letters import count_of, everything, print_page, print_table, summary
from warren.cli.terminal import INTERRUPTED, USAGE, Url, echo_json, fail, fail_call
from warren.connection.settings import DEFAULT_URL, make_settings
from warren.dead.queue import DeadQueue, DeadQueueError, Letter, NotThere, Unfit, open_dead_queue
from warren.dead.wanted import Wanted, parse_duration
from warren.errors import CallError
from warren.printable import printable
from warren.protocol import topology
from warren.protocol.request import check_name

NOT_DONE = 1

_EPILOG = """\
[bold]Exit codes[/bold]
  0    done
  1    not done, or not all of it: the message says what and why
  2    wrong usage
  3    no broker, or the connection was lost
  5    the broker refuses this user
  130  interrupted by Ctrl-C
"""

app = typer.Typer(
    help="Requests that could not be handled: look at them, try them again, or drop them.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def register(parent: typer.Typer) -> None:
    """Add the commands."""
    parent.add_typer(app, name="dead")


class Kind(StrEnum):
    """Whether somebody waited for a reply."""

    CALLS = "calls"
    CASTS = "casts"


Service = Annotated[str, typer.Argument(metavar="SERVICE", help="Whose dead queue.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="A message, as `list` names it.")]
MaybeId = Annotated[str | None, typer.Argument(metavar="ID", help="A message, as `list` names it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Reasons = Annotated[list[str] | None, typer.Option("--reason", metavar="R", help="Only of this reason; repeatable.")]
Methods = Annotated[list[str] | None, typer.Option("--method", metavar="M", help="Only of this method; repeatable.")]
Older = Annotated[str | None, typer.Option(metavar="TIME", help="Only what died before: 90s, 10min, 2h, 3d ago.")]
Newer = Annotated[str | None, typer.Option(metavar="TIME", help="Only what died since.")]
Only = Annotated[Kind | None, typer.Option(help="Only calls, or only casts.")]
T = TypeVar("T")


@app.command(epilog=_EPILOG)
def count(
    services: Annotated[list[str], typer.Argument(metavar="SERVICE...", help="Whose dead queues.")],
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Count what is in the dead queues of several services."""
    counts = {service: _run(url, service, _count, as_json=as_json) for service in services}
    if as_json:
        echo_json(counts)
    else:
        for service, number in counts.items():
            typer.echo(f"{service:<24} {'no dead queue' if number is None else number}")
    if None in counts.values():
        raise typer.Exit(NOT_DONE)


async def _count(queue: DeadQueue) -> int | None:
    try:
        return await queue.count()
    except NotThere:
        return None


@app.command("list", epilog=_EPILOG)
def list_(
    service: Service,
    url: Url = DEFAULT_URL,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Look at the oldest N at most.")] = 1000,
    reason: Reasons = None,
    method: Methods = None,
    older_than: Older = None,
    newer_than: Newer = None,
    only: Only = None,
    as_json: AsJson = False,
) -> None:
    """Show what is in the dead queue, oldest first."""
    wanted = _wanted(reason, method, older_than, newer_than, only)

    async def work(queue: DeadQueue) -> tuple[int, list[dict[str, Any]]]:
        return await queue.count(), [summary(letter) async for letter in _chosen(queue, wanted, limit)]

    number, letters = _run(url, service, work, as_json=as_json)
    if as_json:
        echo_json(letters)
    elif letters:
        print_table(letters)
    else:
        typer.echo(_nothing(service, number))
    if number > limit:
        typer.echo(f"the oldest {limit} of {number}; --limit shows more", err=True)


@app.command(epilog=_EPILOG)
def show(service: Service, id: Id, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show one message: what it ended in, properties, headers and the beginning of the body, escaped."""

    async def work(queue: DeadQueue) -> dict[str, Any]:
        return everything(await queue.find(id))

    page = _run(url, service, work, bodies=True, as_json=as_json)
    if as_json:
        echo_json(page)
    else:
        print_page(page)


@app.command(epilog=_EPILOG)
def retry(
    service: Service,
    id: MaybeId = None,
    url: Url = DEFAULT_URL,
    all_: Annotated[bool, typer.Option("--all", help="All that are there now and chosen, oldest first.")] = False,
    reason: Reasons = None,
    method: Methods = None,
    older_than: Older = None,
    newer_than: Newer = None,
    only: Only = None,
    yes: Yes = False,
) -> None:
    """Publish a request to its service once more, as a cast, and take it off the dead queue."""
    wanted = _wanted(reason, method, older_than, newer_than, only)
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
        letter = await queue.find(id)
        await queue.retry(letter)
        _say_retried(letter)

    return work


async def _retry_all(queue: DeadQueue, letters: AsyncIterator[Letter]) -> None:
    retried = unfit = 0
    try:
        async for letter in letters:
            try:
                await queue.retry(letter)
            except Unfit as error:
                unfit += 1
                typer.echo(f"left where it is: {printable(str(error))}", err=True)
            else:
                retried += 1
                _say_retried(letter)
    finally:
        typer.echo(f"{count_of(retried)} sent again")
    if unfit:
        raise DeadQueueError(f"{count_of(unfit)} cannot be tried again")


def _say_retried(letter: Letter) -> None:
    note = "; it was a call, whose caller has been answered: it runs as a cast now" if letter.was_a_call else ""
    typer.echo(f"{letter.id} sent again{note}")


@app.command(epilog=_EPILOG)
def drop(
    service: Service,
    id: MaybeId = None,
    url: Url = DEFAULT_URL,
    all_: Annotated[bool, typer.Option("--all", help="As many as are there now and chosen, oldest first.")] = False,
    reason: Reasons = None,
    method: Methods = None,
    older_than: Older = None,
    newer_than: Newer = None,
    only: Only = None,
    yes: Yes = False,
) -> None:
    """Remove a message for good."""
    wanted = _wanted(reason, method, older_than, newer_than, only)
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
        async for letter in _chosen(queue, wanted, most):
            queue.drop(letter)
            dropped += 1
        return dropped

    typer.echo(f"{count_of(_run(url, service, work))} dropped")


def _question(id: str) -> Callable[[DeadQueue], Coroutine[Any, Any, str]]:
    async def work(queue: DeadQueue) -> str:
        letter = await queue.find(id)
        return f"Drop {letter.id} ({letter.reason}, {letter.size} bytes) for good?"

    return work


# --- choosing and asking ----------------------------------------------------------------------------------------------


def _wanted(
    reasons: list[str] | None, methods: list[str] | None, older: str | None, newer: str | None, only: Kind | None
) -> Wanted:
    try:
        return Wanted(
            tuple(reasons or ()),
            tuple(methods or ()),
            None if older is None else parse_duration(older),
            None if newer is None else parse_duration(newer),
            None if only is None else only is Kind.CALLS,
        )
    except ValueError as error:
        fail(str(error), USAGE)


def _one_or_all(id: str | None, all_: bool, wanted: Wanted) -> None:
    if (id is None) is not all_:
        fail("say which: one ID, or --all", USAGE)
    if id is not None and not wanted.everything:
        fail("one ID is chosen already: reasons, methods, times and kinds go with --all", USAGE)


async def _chosen(queue: DeadQueue, wanted: Wanted, most: int | None) -> AsyncIterator[Letter]:
    """Those that are wanted among the oldest `most`."""
    now = datetime.now(UTC)
    async for letter in queue.letters(most):
        if wanted.takes(letter, now):
            yield letter


def _ask_for_all(url: str, service: str, wanted: Wanted, what: str) -> int:
    """Ask about all that are wanted, with the queue let go meanwhile: others may need it while a person thinks.

    Returns how many messages were there: what comes later was not asked about.
    """

    async def work(queue: DeadQueue) -> tuple[int, int]:
        there = await queue.count()
        if wanted.everything:
            return there, there
        return there, len([letter async for letter in _chosen(queue, wanted, there)])

    there, meant = _run(url, service, work)
    if not meant:
        typer.echo(_nothing(service, there))
        raise typer.Exit
    _ask(f"{count_of(meant)} of {printable(topology.dead_queue(service))}: {what}?")
    return there


def _ask(question: str) -> None:
    try:
        if typer.confirm(question):
            return
    except typer.Abort:
        fail("nobody answered, so nothing was done; --yes does it unasked", NOT_DONE)
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
