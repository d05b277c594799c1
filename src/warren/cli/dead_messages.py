"""How the messages of a dead queue look: for people a table or a page, for programs JSON.

Everything in a message is somebody's claim: it is shown escaped and bounded.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from warren.cli.tables import age
from warren.dead.queue import DeadMessage
from warren.printable import aligned, printable, printable_bytes

#: Bytes of a body, levels of nested headers, and characters of a cause in a table that are shown.
BODY_SHOWN, DEPTH_SHOWN, CAUSE_SHOWN = 4096, 8, 60

_CAUSE = ("code", "execution", "origin", "type", "text", "instance")
_COLUMNS = ("id", "reason", "method", "age", "size", "caller", "cause")


def summary(entry: DeadMessage) -> dict[str, Any]:
    """What `list` says of a message."""
    death = entry.death
    return {
        "id": entry.id,
        "reason": entry.reason,
        "method": entry.method,
        "since": entry.since.isoformat() if entry.since is not None else None,
        "size": entry.size,
        "caller": entry.caller,
        "call": entry.was_a_call,
        "attempt": death.attempt,
        **{name: None if (word := getattr(death, name)) is None else printable(word) for name in _CAUSE},
    }


def everything(entry: DeadMessage) -> dict[str, Any]:
    """What `show` says of a message."""
    body = entry.body if entry.body is not None else b""
    return summary(entry) | {
        "properties": {name: _plain(value) for name, value in entry.named_properties.items()},
        "headers": "cannot be read" if entry.headers is None else _plain(entry.headers),
        "body": printable_bytes(body[:BODY_SHOWN]),
        "body_left_out": entry.size - len(body[:BODY_SHOWN]),
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
        return printable_bytes(value)
    if value is None or isinstance(value, bool | int):
        return value
    return printable(value.isoformat() if isinstance(value, datetime) else str(value))


def table(summaries: Iterable[Mapping[str, Any]]) -> list[str]:
    """One line for each message, below the names of the columns."""
    now = datetime.now(UTC)
    rows = [tuple(_cell(one, heading, now) for heading in _COLUMNS) for one in summaries]
    return aligned([_COLUMNS, *rows], right=[_COLUMNS.index("age"), _COLUMNS.index("size")])


def _cell(one: Mapping[str, Any], heading: str, now: datetime) -> str:
    if heading == "cause":
        text = one["text"] or one["type"] or "-"
        return text if len(text) <= CAUSE_SHOWN else text[: CAUSE_SHOWN - 1] + "…"
    if heading == "age":
        return "-" if one["since"] is None else age((now - datetime.fromisoformat(one["since"])).total_seconds())
    return "-" if one[heading] is None else str(one[heading])


def page(entry: Mapping[str, Any]) -> list[str]:
    """All there is to say about one message, in lines."""
    lines = [f"{name:<18}{entry[name] or 'not known'}" for name in ("id", "reason", "since")]
    lines += [f"{name:<18}{entry[name]}" for name in (*_CAUSE, "attempt") if entry[name] is not None]
    for title in ("properties", "headers"):
        lines += ["", title, *_section(entry[title])]
    lines += ["", f"body ({entry['size']} bytes)", f"  {entry['body']}"]
    return lines + ([f"  … {entry['body_left_out']} bytes more"] if entry["body_left_out"] else [])


def _section(values: Any) -> list[str]:
    pairs = values.items() if isinstance(values, Mapping) else [("", values)]
    return [
        f"  {name:<24}{value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in pairs
    ]


def count_of(number: int) -> str:
    """A number of messages in words."""
    return f"{number} message{'' if number == 1 else 's'}"
