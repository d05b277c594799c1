"""Arguments of calls as they are typed: JSON values by position or by name, and text that is not JSON."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import msgspec


class Encoding(StrEnum):
    """How arguments are written on the wire."""

    JSON = "json"
    MSGPACK = "msgpack"


def parse_arguments(arguments: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    """The positional and the named arguments; ``name=value`` is a named one.

    Raises:
        ValueError: both kinds, one twice, or an option that does not exist.
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
        raise ValueError(f"{' '.join(arguments)}: an argument is given twice")
    return positional, kwargs


def _is_named(text: str) -> bool:
    name, equals, _ = text.partition("=")
    return bool(equals) and name.isidentifier()


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except RecursionError:
        raise ValueError("an argument is nested too deeply to be read as JSON") from None
    except msgspec.DecodeError:
        refuse_option(text)
        return text


def refuse_option(text: str) -> None:
    """Say that there is no such option (`ValueError`); unknown ones come as arguments, as negative numbers do."""
    if text.startswith("--"):
        raise ValueError(f"there is no option {text.partition('=')[0]}; see --help")
