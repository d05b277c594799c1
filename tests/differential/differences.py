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


def _texts(pattern: str, replacement: str) -> Callable[[Any], Any]:
    """Replace in every text of a record."""
    compiled = re.compile(pattern)

    def replace(value: Any) -> Any:
        if isinstance(value, str):
            return compiled.sub(replacement, value)
        if isinstance(value, dict):
            return {name: replace(item) for name, item in value.items()}
        if isinstance(value, list):
            return [replace(item) for item in value]
        return value

    return replace


DIFFERENCES: tuple[Difference, ...] = ()


def forgive(record: Any) -> Any:
    """A record without what is known to differ."""
    for difference in DIFFERENCES:
        record = difference.alike(record)
    return record
