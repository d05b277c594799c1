"""``warren schema`` and ``stubs``: what a service offers, for programs and for those who write them."""

from __future__ import annotations

import json

from warren.cli.asking import add_asking, add_service, key_of, need_answers, run_asking
from warren.cli.look import the_newest
from warren.cli.output import say
from warren.cli.parser import Parser
from warren.connection.settings import make_settings
from warren.control.asking import Asking
from warren.operate import asked, asyncapi, schemas, told
from warren.operate.stubs import module
from warren.printable import printable_json


def add_schema(parser: Parser) -> None:
    """The arguments of `schema`."""
    add_service(parser, optional=False)
    parser.flag("--asyncapi", dest="as_asyncapi", help="Write an AsyncAPI 3.1 document.")
    add_asking(
        parser, schema, "warren schema calc\nwarren schema calc --asyncapi > calc.json", not_done="nobody answers"
    )


def add_stubs(parser: Parser) -> None:
    """The arguments of `stubs`."""
    parser.add_argument("services", metavar="SERVICE", nargs="+", help="Which service; of several all in one module.")
    add_asking(
        parser,
        stubs,
        "warren stubs calc > calc_api.py\nwarren stubs calc --wait 2 | diff calc_api.py -\n"
        "warren stubs images store > apis.py",
        not_done="nobody answers",
        as_json=False,
    )


COMMANDS = {"schema": add_schema, "stubs": add_stubs}


def schema(service: str, as_asyncapi: bool, url: str, wait: float, as_json: bool) -> None:
    """Print JSON Schemas of arguments and results."""
    declared = _declared(service, url, wait, as_json)
    if as_asyncapi:
        settings = make_settings(url)
        host, port = settings.hosts[0]
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        written = asyncapi.document(declared, where, settings.vhost, tls=settings.ssl is not None)
    else:
        written = schemas.as_object(declared)
    say(printable_json(json.dumps(written, indent=None if as_json else 2, ensure_ascii=False)))


def stubs(services: list[str], url: str, wait: float) -> None:
    """Print a typed module with a stub for each method."""
    declared = [_declared(service, url, wait, False) for service in dict.fromkeys(services)]
    say(module(*declared), end="")


def _declared(service: str, url: str, wait: float, as_json: bool) -> told.ServiceInfo:
    async def work(asking: Asking) -> asked.Told[told.Info]:
        found = await asked.ask(asking, "info", key_of(service), told.Info, patience=wait)
        await need_answers(asking, found, service, wait)
        return found

    return the_newest(service, run_asking(url, as_json, work))
