"""Where the embedded broker deliberately differs from RabbitMQ: all of it, each with the reason.

Nothing else in this suite forgives a difference. The documentation of the embedded broker has the same list.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Difference:
    """What differs, why, and how to make the two records alike where it shows in one."""

    what: str
    why: str
    alike: Callable[[Any], Any] = lambda record: record


def _without_headers(pattern: str) -> Callable[[Any], Any]:
    """Drop the headers whose names match."""
    compiled = re.compile(pattern)

    def drop(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: drop(item) for name, item in value.items() if not compiled.fullmatch(str(name))}
        return [drop(item) for item in value] if isinstance(value, list) else value

    return drop


DIFFERENCES: tuple[Difference, ...] = (
    Difference(
        "A dead letter has x-last-death-reason, -queue and -exchange beside x-first-death-*.",
        "RabbitMQ has them from 3.13 on; this suite compares with an older one.",
        _without_headers("x-last-death-(reason|queue|exchange)"),
    ),
    Difference(
        "A message with an expiration that overtakes others by its priority expires in time.",
        "RabbitMQ looks at a new message's time only if it is the only one in the queue, or the first was dropped;"
        " classic queues deliver it long after its time.",
    ),
)


def forgive(record: Any) -> Any:
    """A record without what is known to differ."""
    for difference in DIFFERENCES:
        record = difference.alike(record)
    return record
