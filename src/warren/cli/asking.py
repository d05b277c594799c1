"""What commands that ask running processes have in common: options, connection, and what to say if nobody answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NoReturn, TypeVar, cast

import msgspec

from warren.cli.output import INTERRUPTED, USAGE, complain, fail
from warren.cli.parser import Parser, number
from warren.cli.terminal import add_url, fail_call
from warren.connection.settings import make_settings
from warren.control.asking import PATIENCE, Asking
from warren.errors import CallError
from warren.operate import silent
from warren.operate.asked import Told, ask, near, services_of
from warren.operate.silent import Silent
from warren.operate.told import Process
from warren.printable import printable
from warren.protocol.control import TO_ALL, to_service
from warren.protocol.request import check_name

NOT_DONE, FORBIDDEN = 1, 5

EXIT_CODES = """\
Exit codes:
  0    {done}
  1    {not_done}
  2    wrong usage
  3    no broker, or the connection was lost
  5    the broker or a server refuses
  7    the output cannot be written
  130  interrupted by Ctrl-C
"""

#: Why a worker may say nothing, and what to do.
MAY_BE_SILENT = "are busy, lost, or have control=None; ask again with --wait 2"

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)
Work = Callable[[Asking], Coroutine[Any, Any, T]]


def add_asking(
    parser: Parser,
    run: Callable[..., int | None],
    examples: str,
    *,
    done: str = "done",
    not_done: str = "nobody answers, or nothing was found",
    as_json: bool = True,
) -> None:
    """Add what all have: where, for how long, in which form, and the end of the help."""
    add_url(parser)
    add_wait(parser)
    if as_json:
        parser.flag("--json", dest="as_json", help="Print JSON.")
    lines = "\n".join(f"  {line}" for line in examples.strip().splitlines())
    parser.explain(f"Examples:\n{lines}\n\n{EXIT_CODES.format(done=done, not_done=not_done)}")
    parser.set_defaults(run=run)


def add_wait(parser: Parser) -> None:
    """Add for how long answers are waited for."""
    parser.add_argument(
        "--wait",
        metavar="SECONDS",
        type=number(float, 0.01, 600),
        default=PATIENCE,
        help="How long processes may take to answer (default: %(default)g).",
    )


def add_service(parser: Parser, *, optional: bool) -> None:
    """Add the service that is meant."""
    if optional:
        parser.add_argument("service", metavar="SERVICE", nargs="?", help="Which service (default: all).")
    else:
        parser.add_argument("service", metavar="SERVICE", help="Which service.")


def run_asking(url: str, as_json: bool, work: Work[T]) -> T:
    """Connect, and do what is to be done; whatever ends it otherwise ends the process."""
    logging.basicConfig(handlers=[logging.NullHandler()])  # what goes wrong is said once, by the error

    async def connected() -> T:
        async with Asking(make_settings(url, name="warren")) as asking:
            return await work(asking)

    try:
        return asyncio.run(connected())
    except CallError as error:
        fail_call(error, as_json, url)
    except ValueError as error:
        fail(str(error), USAGE)
    except KeyboardInterrupt:  # nothing to add: it is how what watches usually ends
        raise SystemExit(INTERRUPTED) from None


def key_of(service: str | None) -> str:
    """Who is meant.

    Raises:
        ValueError: it cannot be a service's name.
    """
    if service is None:
        return TO_ALL
    check_name(service)
    return to_service(service)


async def ask_all(asking: Asking, verb: str, service: str | None, kind: type[S], patience: float) -> Told[S]:
    """Ask all that are meant; says who did not answer, and ends the process where nobody serves what was named."""
    key = key_of(service)
    question = ask(asking, verb, key, kind, patience=patience)
    if verb == "ping":
        found = await question
        processes = cast("Mapping[str, Process]", found.said)
    else:
        found, processes = await asyncio.gather(question, silent.roll_call(asking, patience, key))
    await need_answers(asking, found, service, patience)
    services = services_of(processes) if service is None else [service]
    tell_silent(await silent.among(asking, services, processes, found.heard, patience), patience)
    return found


def tell_silent(found: Sequence[Silent], patience: float) -> None:
    """Complain of workers of which nothing is known but that they are there."""
    if found:
        heard = f"not all workers have answered within {patience:g} s ({silent.in_words(found)})"
        complain(printable(f"{heard}: the others {MAY_BE_SILENT}"))


async def need_answers(asking: Asking, told: Told[S], service: str | None, patience: float) -> None:
    """End the process where nobody has answered a question to a service."""
    if told.said:
        tell(told)
    elif told.refused or told.unreadable:
        fail("; ".join(told.complaints()), FORBIDDEN if told.forbidden else NOT_DONE)
    elif service is None:
        complain(nobody(patience))
    else:
        await unknown(asking, service, patience)


async def unknown(asking: Asking, service: str, patience: float) -> NoReturn:
    """End the process, as nobody serves this service."""
    there = await silent.among(asking, [service], {}, (), patience)
    if there:
        fail(
            f"nobody who serves {service!r} has answered within {patience:g} s, though the broker counts workers:"
            f" {there[0].workers}; they {MAY_BE_SILENT}",
            NOT_DONE,
        )
    meant = await near(asking, service, patience)
    hint = f" (did you mean {meant}?)" if meant is not None else ""
    fail(
        f"nobody who serves {service!r} has answered within {patience:g} s{hint}: `warren ls` shows who does; --wait"
        " waits for longer",
        NOT_DONE,
    )


def tell(told: Told[S]) -> None:
    """Complain of those that did not answer as asked."""
    for line in told.complaints():
        complain(printable(line))


def nobody(patience: float) -> str:
    """What one sees of an empty system."""
    return (
        f"no server has answered within {patience:g} s: start one with `warren serve module:service`, or wait for"
        " longer with --wait 2; servers with control=None are not seen"
    )
