"""What does not fit, and where, in Warren's words: msgspec's and Pydantic's complaints, with one spelling of paths.

A path begins with what the reader knows: the name of an argument, or ``result``. Fields follow as ``.price`` and items
as ``[2]``; ``[…]`` is a value of a map whose key is not told: ``order.items[2].price must be a float, not a str``.

All of msgspec's messages are in `_SENTENCES` (its `_core.c`, version 0.22); a later version may have others, which are
passed on as they are, without its markup. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

#: What a decoded value is called; or, as a tuple, the names of the positional arguments that it consists of.
Root = str | tuple[str, ...]

_LONGEST = 100  # characters of a name or a value that a stranger has sent
_MOST_PROBLEMS, _MOST_TOLD = 100, 5

_PATH = re.compile(r"(.*) - at (`(?:\$|key).*`)\Z", re.DOTALL)
_TOO_FEW = re.compile(r"Expected `array` of at least length \d+, got (\d+)\Z")
_FIRST = re.compile(r"\[(\d+)\]")
_PARTS = re.compile(r"`([^`]*)`")


class Misfit(ValueError):
    """What a type of the user's own has against a value: places within it, and what is wrong there."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        super().__init__(_joined("value", problems))
        self.problems = problems


def explain(error: Exception, root: Root) -> str:
    """What msgspec has refused, in one line.

    Args:
        error: a `msgspec.ValidationError`; others are told by their text.
        root: what the reader calls the value that was decoded.
    """
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return _malformed(text)
    own = error.__cause__
    if own is not None:  # raised by code of the user's: its words stay
        place = _named(_PATH.fullmatch(text[len(str(own)) :]), root)
        return _joined(place, own.problems if isinstance(own, Misfit) else [("", str(own))])
    if not isinstance(root, str) and (few := _TOO_FEW.match(text)) is not None:
        return missing(root[int(few[1])])
    # A stranger's text in it may look like a path.
    for found, words in ((_PATH.match(text), None), (None, text)):
        told = _sentence(_named(found, root), (found[1] if found else words) or "")
        if told is not None:
            return told
    found = _PATH.match(text)
    return f"{_named(found, root)} does not fit: {(found[1] if found else text).replace('`', '')}"


def missing(name: str) -> str:
    """The complaint about an argument that has no default."""
    return f"argument {shown(name)} is missing"


def unknown(name: str) -> str:
    """The complaint about an argument that there is not."""
    return f"there is no argument {shown(name)}"


def of_model(error: Exception) -> Misfit:
    """What a Pydantic model, or a validator of the user's, says of a value."""
    errors: Callable[[], Iterable[dict[str, Any]]] | None = getattr(error, "errors", None)
    if errors is None:
        return Misfit([("", repr(error))])
    count = getattr(error, "error_count", int)()
    if count > _MOST_PROBLEMS:  # Pydantic makes all of them, or none: up to 5 µs each
        return Misfit([("", f"{count} values do not fit {getattr(error, 'title', 'the model')}")])
    return Misfit([_of_pydantic(problem) for problem in errors()])


def _of_pydantic(problem: dict[str, Any]) -> tuple[str, str]:
    *place, last = problem["loc"] or ("",)
    kind, path = problem.get("type"), "".join(map(_step, problem["loc"]))
    if kind == "missing":
        return path, " is missing"
    if kind == "extra_forbidden":
        return "".join(map(_step, place)), f" has no field {shown(str(last))}"
    return path, problem["msg"]


def _step(part: object) -> str:
    return f"[{part}]" if isinstance(part, int) else f".{_cut(str(part))}"


def _joined(place: str, problems: list[tuple[str, str]]) -> str:
    """Complaints as sentences; one that begins with a space goes on with its place."""
    told = [f"{place}{path}{'' if words[:1] == ' ' else ': '}{words}" for path, words in problems[:_MOST_TOLD]]
    more = [f"and {len(problems) - _MOST_TOLD} more"] if len(problems) > _MOST_TOLD else []
    return "; ".join(told + more)


def shown(text: str) -> str:
    """A name or a text that somebody has sent, in quotes and not longer than it may be."""
    return repr(_cut(text))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


# --- places -------------------------------------------------------------------------------------------------------


def _named(found: re.Match[str] | None, root: Root) -> str:
    """The place that msgspec's path means: ``$[0].price`` or, for what is wrong with a key, ```key` in `$.stock```."""
    if found is None:
        return root if isinstance(root, str) else ""
    *keys, outer = (part.replace("[...]", "[…]") for part in _PARTS.findall(found[2]))
    place = _rooted(outer.removeprefix("$"), root)
    for key in reversed(keys):
        rest = key.removeprefix("key")
        place = f"{f'{rest} in ' if rest else ''}a key of {place or 'the arguments'}"
    return place


def _rooted(path: str, root: Root) -> str:
    if isinstance(root, str):
        return root + path
    if (first := _FIRST.match(path)) is None:
        return path.removeprefix(".")
    index = int(first[1])
    return (root[index] if index < len(root) else f"argument {index + 1}") + path[first.end() :]


# --- words --------------------------------------------------------------------------------------------------------

_TYPES = {
    "bool": "a bool",
    "int": "an int",
    "float": "a float",
    "str": "a str",
    "bytes": "bytes",
    "datetime": "a datetime",
    "date": "a date",
    "time": "a time",
    "duration": "a duration",
    "uuid": "a UUID",
    "decimal": "a decimal",
    "ext": "a msgpack extension",
    "object": "an object",
    "array": "an array",
    "null": "null",
    "None": "null",
}
_AT = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}


def _types(names: str) -> str:
    *others, last = (_TYPES.get(name, name) for name in names.split(" | "))
    return f"{', '.join(others)} or {last}" if others else last


def _wrong_type(place: str, m: re.Match[str]) -> str:
    got = f", not {_types(m[2])}" if m[2] else ""
    return f"{place or 'the arguments'} must be {_types(m[1])}{got}"


def _wrong_length(place: str, m: re.Match[str]) -> str:
    return f"{place} must have a length of {_AT[m[1]]} {m[2]}"


def _wrong_number(place: str, m: re.Match[str]) -> str:
    """Of an array that is a tuple, or all the arguments by position."""
    bound, number, most, got = m.groups()
    if not place:
        return "too many arguments"
    wanted = f"{number} to {most}" if most else f"{bound or ''}{number}"
    items = "item" if wanted.endswith(" 1") or wanted == "1" else "items"
    return f"{place} must have {wanted} {items}{f', not {got}' if got else ''}"


def _missing(place: str, m: re.Match[str]) -> str:
    return f"{place}.{_cut(m[1])} is missing" if place else missing(m[1])


def _unknown(place: str, m: re.Match[str]) -> str:
    return f"{place} has no field {shown(m[1])}" if place else unknown(m[1])


def _says(words: str) -> Callable[[str, re.Match[str]], str]:
    """A sentence that goes on with what the message tells, cut."""
    return lambda place, m: f"{place or 'the arguments'} {words.format(*map(_cut, m.groups()))}"


_KINDS: list[tuple[str, Callable[[str, re.Match[str]], str]]] = [
    (r"Expected `([^`]*)`(?:, got `([^`]*)`)?", _wrong_type),
    (r"Expected `[^`]*` of length (>=|<=) (\d+)", _wrong_length),
    (r"Expected `[^`]*` (>=|<=|>|<) (.*)", lambda place, m: f"{place} must be {_AT[m[1]]} {m[2]}"),
    (r"Expected `[^`]*` that's a multiple of (.*)", _says("must be a multiple of {}")),
    (r"Expected `str` matching regex (.*)", _says("must match the pattern {}")),
    (r"Expected `[^`]*` with a timezone component", _says("must have a time zone")),
    (r"Expected `[^`]*` with no timezone component", _says("must not have a time zone")),
    (r"Expected `array` of (at least |at most )?length (\d+)(?: to (\d+))?(?:, got (\d+))?", _wrong_number),
    (r"Object missing required field `(.*)`", _missing),
    (r"Object contains unknown field `(.*)`", _unknown),
    (r"Invalid (?:enum )?value (.*)", _says("must be one of its choices, not {}")),
    (r"(?:Integer value|Number) out of range", _says("is a number out of range")),
    (r"(Timestamp|Duration) is out of range ?", _says("is out of range")),
    (r"Invalid RFC3339 encoded (datetime|date|time)", _says("is not a {} as RFC 3339 writes it")),
    (r"Invalid epoch timestamp", _says("is not a number of seconds since 1970")),
    (r"Invalid ISO8601 duration", _says("is not a duration as ISO 8601 writes it")),
    (r"Invalid UUID(?: bytes)?", _says("is not a UUID")),
    (r"Invalid decimal string", _says("is not a decimal number")),
    (r"Invalid base64 encoded string", _says("is not base64: JSON carries bytes so")),
    (r"Invalid MessagePack timestamp.*", _says("is not a timestamp of msgpack")),
]
_SENTENCES = [(re.compile(kind, re.DOTALL), sentence) for kind, sentence in _KINDS]


def _sentence(place: str, text: str) -> str | None:
    """What one of msgspec's messages says of a place; None if it is none of those known."""
    for kind, sentence in _SENTENCES:
        if (found := kind.fullmatch(text)) is not None:
            return sentence(place, found)
    return None


_MALFORMED = {
    "Input data was truncated": "the body ends too early",
    "JSON is malformed": "the body is not JSON",
    "MessagePack data is malformed": "the body is not msgpack",
    "Invalid UTF-8 encoded string": "a text is not UTF-8",  # before msgspec 0.23 it was a UnicodeDecodeError
}


def _malformed(text: str) -> str:
    head, colon, rest = text.partition(":")
    return f"{_MALFORMED[head]}{colon}{rest}" if head in _MALFORMED else text
