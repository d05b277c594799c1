"""``warren dead``: the commands over a service's dead queue; what they do to it is in `warren.dead`.

Everything in a message is somebody's claim: it is printed escaped and bounded, and never evaluated.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import typer

from warren.cli.terminal import INTERRUPTED, USAGE, Url, fail, fail_call
from warren.connection.settings import DEFAULT_URL, make_settings
from warren.dead.queue import DeadQueue, DeadQueueError, Letter, Unfit, open_dead_queue
from warren.errors import CallError
from warren.printable import printable
from warren.protocol import wire

NOT_DONE = 1
#: Bytes of a body and levels of nested headers that `show` prints.
BODY_SHOWN, DEPTH_SHOWN = 4096, 8
#: Columns of a table that does not go to a terminal.
_WIDTH = 200

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


Service = Annotated[str, typer.Argument(metavar="SERVICE", help="Whose dead queue.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="A message, as `list` names it.")]
MaybeId = Annotated[str | None, typer.Argument(metavar="ID", help="A message, as `list` names it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
T = TypeVar("T")


@app.command("list", epilog=_EPILOG)
def list_(
    service: Service,
    url: Url = DEFAULT_URL,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="Show the oldest N at most.")] = 1000,
    as_json: AsJson = False,
) -> None:
    """Show what is in the dead queue, oldest first."""

    async def work(queue: DeadQueue) -> tuple[int, list[dict[str, Any]]]:
        return await queue.count(), [_summary(letter) async for letter in queue.letters(limit)]

    count, letters = _run(url, service, work, as_json=as_json)
    if as_json:
        typer.echo(json.dumps(letters))
    elif letters:
        _print_table(letters)
    else:
        typer.echo(f"{wire.dead_queue(service)} is empty")
    if count > len(letters) >= limit:
        typer.echo(f"the oldest {len(letters)} of {count}; --limit shows more", err=True)


@app.command(epilog=_EPILOG)
def show(service: Service, id: Id, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show one message: properties, headers and the beginning of the body, escaped."""

    async def work(queue: DeadQueue) -> dict[str, Any]:
        return _everything(await queue.find(id))

    everything = _run(url, service, work, bodies=True, as_json=as_json)
    if as_json:
        typer.echo(json.dumps(everything))
    else:
        _print_everything(everything)


@app.command(epilog=_EPILOG)
def retry(
    service: Service,
    id: MaybeId = None,
    url: Url = DEFAULT_URL,
    all_: Annotated[bool, typer.Option("--all", help="All that are there now, oldest first.")] = False,
) -> None:
    """Publish a request to its service once more, as a cast, and take it off the dead queue."""
    _one_or_all(id, all_)

    async def one(queue: DeadQueue) -> None:
        letter = await queue.find(id or "")
        await queue.retry(letter)
        _say_retried(letter)

    _run(url, service, _retry_all if all_ else one, bodies=True)


async def _retry_all(queue: DeadQueue) -> None:
    retried = unfit = 0
    try:
        async for letter in queue.letters():
            try:
                await queue.retry(letter)
            except Unfit as error:
                unfit += 1
                typer.echo(f"left where it is: {error}", err=True)
            else:
                retried += 1
                _say_retried(letter)
    finally:
        typer.echo(f"{_count(retried)} sent again")
    if unfit:
        raise DeadQueueError(f"{_count(unfit)} cannot be tried again")


def _say_retried(letter: Letter) -> None:
    note = "; it was a call, whose caller has been answered: it runs as a cast now" if letter.was_a_call else ""
    typer.echo(f"{letter.id} sent again{note}")


@app.command(epilog=_EPILOG)
def drop(
    service: Service,
    id: MaybeId = None,
    url: Url = DEFAULT_URL,
    all_: Annotated[bool, typer.Option("--all", help="As many as are there now, oldest first.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a message for good."""
    _one_or_all(id, all_)
    most = None
    if not yes:  # asked with the queue let go: others may need it while a person thinks
        question, most = _run(url, service, _question(id))
        if most == 0:
            typer.echo(f"{wire.dead_queue(service)} is empty")
            return
        typer.confirm(question, abort=True)

    async def work(queue: DeadQueue) -> int:
        if id is not None:
            queue.drop(await queue.find(id))
            return 1
        dropped = 0
        async for letter in queue.letters(most):
            queue.drop(letter)
            dropped += 1
        return dropped

    typer.echo(f"{_count(_run(url, service, work))} dropped")


def _question(id: str | None) -> Callable[[DeadQueue], Coroutine[Any, Any, tuple[str, int]]]:
    async def work(queue: DeadQueue) -> tuple[str, int]:
        if id is None:
            count = await queue.count()
            return f"Drop {_count(count)} for good?", count
        letter = await queue.find(id)
        return f"Drop {letter.id} ({letter.reason}, {letter.size} bytes) for good?", 1

    return work


# --- running ----------------------------------------------------------------------------------------------------------


def _one_or_all(id: str | None, all_: bool) -> None:
    if (id is None) is not all_:
        fail("say which: one ID, or --all", USAGE)


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
        wire.check_name(wire.dead_queue(service))
        return asyncio.run(connected())
    except CallError as error:
        fail_call(error, as_json)
    except ValueError as error:
        fail(str(error), USAGE)
    except DeadQueueError as error:
        fail(str(error), NOT_DONE)
    except KeyboardInterrupt:
        fail("interrupted; what was not dealt with is where it was", INTERRUPTED)


# --- output -----------------------------------------------------------------------------------------------------------


def _summary(letter: Letter) -> dict[str, Any]:
    return {
        "id": letter.id,
        "reason": letter.reason,
        "method": letter.method,
        "since": letter.since.isoformat() if letter.since is not None else None,
        "size": letter.size,
        "caller": letter.caller,
        "call": letter.was_a_call,
    }


def _everything(letter: Letter) -> dict[str, Any]:
    properties = vars(letter.properties) if letter.properties is not None else {}
    body = letter.body if letter.body is not None else b""
    return _summary(letter) | {
        "properties": {name: _plain(value) for name, value in properties.items() if name != "table"},
        "headers": "cannot be read" if letter.headers is None else _plain(letter.headers),
        "body": _escaped(body[:BODY_SHOWN]),
        "body_left_out": letter.size - len(body[:BODY_SHOWN]),
    }


def _plain(value: Any, depth: int = 0) -> Any:
    """A header's value as JSON has it, escaped, and no deeper than a person would read."""
    if depth > DEPTH_SHOWN:
        return "…"
    if isinstance(value, Mapping):
        return {printable(str(k)): _plain(v, depth + 1) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v, depth + 1) for v in value]
    if isinstance(value, bytes):
        return _escaped(value)
    if value is None or isinstance(value, bool | int):
        return value
    return printable(value.isoformat() if isinstance(value, datetime) else str(value))


def _escaped(data: bytes) -> str:
    """Bytes as text: what is not UTF-8 or not printable is written as an escape."""
    return printable(data.decode("utf-8", "backslashreplace"))


_COLUMNS = {"id": "id", "reason": "reason", "method": "method", "age": "since", "size": "size", "caller": "caller"}


def _print_table(letters: Iterable[Mapping[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for heading in _COLUMNS:
        table.add_column(heading, justify="right" if heading in ("age", "size") else "left", overflow="fold")
    now = datetime.now(UTC)
    for letter in letters:  # as Text: a string would be read for Rich's own markup
        table.add_row(*(Text(_cell(name, letter[name], now)) for name in _COLUMNS.values()))
    console = Console()
    if not console.is_terminal:
        console.width = _WIDTH
    console.print(table)


def _cell(name: str, value: Any, now: datetime) -> str:
    if value is None:
        return "-"
    return _age((now - datetime.fromisoformat(value)).total_seconds()) if name == "since" else str(value)


def _age(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds / size)} {unit}"
    return f"{max(0, int(seconds))} s"


def _print_everything(everything: Mapping[str, Any]) -> None:
    for name in ("id", "reason", "since"):
        typer.echo(f"{name:<18}{everything[name] or 'not known'}")
    for title in ("properties", "headers"):
        typer.echo(f"\n{title}")
        values = everything[title]
        pairs = values.items() if isinstance(values, Mapping) else [("", values)]
        for name, value in pairs:
            typer.echo(f"  {name:<24}{value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}")
    typer.echo(f"\nbody ({everything['size']} bytes)\n  {everything['body']}")
    if everything["body_left_out"]:
        typer.echo(f"  … {everything['body_left_out']} bytes more")


def _count(number: int) -> str:
    return f"{number} message{'' if number == 1 else 's'}"
