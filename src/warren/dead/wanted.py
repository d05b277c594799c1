"""Which messages of a dead queue are meant: by reason, method, age, and whether somebody waited for a reply. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from warren.dead.queue import DeadMessage
from warren.protocol.uploading import unmarked

_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(rf"([0-9]{{1,10}}(?:\.[0-9]{{1,9}})?)\s*({'|'.join(_UNITS)})")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A choice; what is not given, or empty, chooses all.

    Attributes:
        reasons: any of these.
        methods: any of these; a request of no method has the name ``-``.
        older_than, newer_than: when it died; a message that does not say when is neither.
        calls: True for calls only, False for casts only.
    """

    reasons: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    older_than: timedelta | None = None
    newer_than: timedelta | None = None
    calls: bool | None = None

    @property
    def everything(self) -> bool:
        """Whether it leaves nothing out."""
        return self == Wanted()

    def takes(self, entry: DeadMessage, now: datetime) -> bool:
        """Whether a message is meant."""
        return (
            (not self.reasons or entry.reason in self.reasons)
            and (not self.methods or not _names(entry).isdisjoint(self.methods))
            and (self.calls is None or entry.was_a_call is self.calls)
            and self._of_age(entry.since, now)
        )

    def _of_age(self, since: datetime | None, now: datetime) -> bool:
        if self.older_than is None and self.newer_than is None:
            return True
        if since is None:
            return False
        age = now - since
        return (self.older_than is None or age > self.older_than) and (self.newer_than is None or age < self.newer_than)


def _names(entry: DeadMessage) -> set[str]:
    """What a message's method may be called: as it stands there, and without the mark of a pipeline or of items."""
    method = entry.method or "-"
    return {method, unmarked(method)}


def parse_duration(text: str) -> timedelta:
    """A time like ``90s``, ``10min``, ``1.5h`` or ``2d``.

    Raises:
        ValueError: it is not of that form.
    """
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a length of time: say 90s, 10min, 2h or 3d")
    try:
        return timedelta(seconds=float(found[1]) * _UNITS[found[2]])
    except OverflowError:
        raise ValueError(f"{text!r} is longer than any message is kept: say less") from None
