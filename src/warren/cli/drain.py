"""``warren drain`` and ``resume``: single processes."""

from __future__ import annotations

import asyncio

from warren.cli.asking import FORBIDDEN, NOT_DONE, add_asking, key_of, run_asking
from warren.cli.output import complain, echo_json
from warren.cli.parser import Parser
from warren.cli.tables import show
from warren.control.asking import Asking
from warren.operate import asked, told
from warren.printable import printable
from warren.protocol.control import to_instance


def add_drain(parser: Parser) -> None:
    """The arguments of `drain`."""
    _add_instances(parser)
    add_asking(parser, drain, "warren drain 0123456789ab", not_done="one of them has not answered")


def add_resume(parser: Parser) -> None:
    """The arguments of `resume`."""
    _add_instances(parser)
    add_asking(parser, resume, "warren resume 0123456789ab", not_done="one of them has not answered")


def _add_instances(parser: Parser) -> None:
    parser.add_argument("instances", metavar="INSTANCE", nargs="+", help="Processes, as `ping` and `info` name them.")


COMMANDS = {"drain": add_drain, "resume": add_resume}


def drain(instances: list[str], url: str, wait: float, as_json: bool) -> int:
    """Let processes finish what they have, and take no more."""
    return _act("drain", instances, url, wait, as_json)


def resume(instances: list[str], url: str, wait: float, as_json: bool) -> int:
    """Let processes take requests again."""
    return _act("resume", instances, url, wait, as_json)


def _act(verb: str, instances: list[str], url: str, wait: float, as_json: bool) -> int:
    async def work(asking: Asking) -> dict[str, asked.Told[told.Done]]:
        for instance in instances:
            key_of(instance)
        answers = [asked.ask(asking, verb, to_instance(one), told.Done, patience=wait, first=True) for one in instances]
        return dict(zip(instances, await asyncio.gather(*answers), strict=True))

    found = run_asking(url, as_json, work)
    states = {instance: next((one.state for one in told.said.values()), None) for instance, told in found.items()}
    if as_json:
        echo_json(states)
    for instance, answer in found.items():
        if states[instance] is not None and not as_json:
            show([f"{instance}: {states[instance]}"])
        for line in answer.texts():
            complain(printable(f"{instance}: {line}"))
        if not answer.heard:
            complain(printable(f"{instance}: no such process has answered; `warren ping` shows who is there"))
    if None not in states.values():
        return 0
    return FORBIDDEN if any(answer.forbidden for answer in found.values()) else NOT_DONE
