"""Arguments of calls as they are typed: JSON values by position or by name, and text that is not JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

import msgspec

from warren.cli.parser import Parser, number
from warren.client.options import DEFAULT_TIMEOUT, Encoding


def add_options_of_calls(parser: Parser) -> None:
    """Add what `call` and `bench` may say of a call."""
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=number(float),
        default=DEFAULT_TIMEOUT,
        help="How long a call may take, connecting included (default: %(default)g).",
    )
    parser.add_argument(
        "--encoding",
        choices=get_args(Encoding),
        default="json",
        help="How the arguments are written (default: %(default)s).",
    )


def parse_arguments(arguments: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    """The positional and the named arguments; ``name=value`` is a named one.

    Raises:
        ValueError: both kinds, or one twice.
    """
    positional = [_value(text) for text in arguments if not _is_named(text)]
    named = [text.partition("=") for text in arguments if _is_named(text)]
    kwargs = {name: _value(text) for name, _, text in named}
    if positional and named:
        raise ValueError(
            f"{' '.join(arguments)}: give the arguments either all by position or all by name;"
            " text that has an = in it goes into double quotes: '\"a=b\"'"
        )
    if len(kwargs) < len(named):
        raise ValueError(f"{' '.join(arguments)}: an argument is given twice: give it once")
    return positional, kwargs


def _is_named(text: str) -> bool:
    name, equals, _ = text.partition("=")
    return bool(equals) and name.isidentifier()


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except RecursionError:
        raise ValueError("an argument is nested too deeply to be read as JSON: send it from Python") from None
    except msgspec.DecodeError:
        return text
