"""One line for each call, where somebody wants it: the logger ``warren.access``, at INFO, which is off by default."""

from __future__ import annotations

import logging

from warren.logs import get_logger
from warren.server.admission import Refuse
from warren.server.attempt import Attempt
from warren.server.replies import Reply

#: Ask it whether it is enabled for INFO before calling these.
log = get_logger("warren.access")
if log.level == logging.NOTSET:
    log.setLevel(logging.WARNING)  # else INFO for all would be INFO for this


def ended(attempt: Attempt, reply: Reply, work: float) -> None:
    """A handler has ended, after so many seconds."""
    failure = reply.failure
    ending = "OK" if failure is None else f"{failure.code.value}/{failure.reason}"
    _say(attempt, ending, attempt.wait, work)


def refused(attempt: Attempt, refusal: Refuse) -> None:
    """A request was refused before its handler."""
    _say(attempt, f"{refusal.ending.code.value}/{refusal.ending.reason}", None, None)


def _say(attempt: Attempt, ending: str, wait: float | None, work: float | None) -> None:
    caller = None if attempt.request is None else attempt.request.caller
    fields = {"caller": caller, "wait": wait, "work": work, "ending": ending}
    times = "refused" if work is None else f"waited {_shown(wait)}, worked {_shown(work)}"
    who = caller or "-"
    log.info("%s.%s from %s: %s, %s", attempt.service, attempt.name, who, times, ending, extra=fields)


def _shown(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f} ms"
