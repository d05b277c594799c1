"""The books of a soak: how each call ended and how often its handler ran, one held against the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tests.support.evidence import LATE

#: Seconds that each call may take.
TIMEOUT = 8.0
#: Longest time that a request waits for a worker that gets on with it, in seconds.
WAIT = 30.0

#: All that a call may end in besides its result.
REASONS = frozenset(
    {"CONNECTION_LOST", "NOT_CONNECTED", "NO_ROUTE", "CLIENT_TIMER", "QUEUE_TTL", "ON_ARRIVAL", "WORKER_LOST", "POISON"}
    | {"CHANNEL_CLOSED"}
)


class Entry(NamedTuple):
    """How one call or cast ended; `reason` is ``result`` where it did well, ``wrong`` if it got another's.

    `durable` tells where its client's replies come.
    """

    key: str
    service: str
    mode: str
    kind: str
    durable: bool
    resend: bool
    begun: float
    seconds: float
    reason: str
    execution: str

    def line(self) -> str:
        return "\t".join(str(value) for value in self)

    @classmethod
    def parse(cls, line: str) -> Entry:
        key, service, mode, kind, durable, resend, begun, seconds, reason, execution = line.split("\t")
        flags = durable == "True", resend == "True"
        return cls(key, service, mode, kind, *flags, float(begun), float(seconds), reason, execution)


class Deletion(NamedTuple):
    """A service's queue was deleted, with what was in it; the only fault that may lose what the broker confirmed."""

    service: str
    at: float

    def explains(self, lost: Entry) -> bool:
        return lost.service == self.service and self.at - WAIT < lost.begun < self.at


class Verdict(NamedTuple):
    """What is wrong with the books, and how many casts went with a deleted queue."""

    wrong: list[str]
    excused: int


def judge(
    entries: Iterable[Entry], begun: set[str], runs: Counter[str], dead: set[str], deletions: Iterable[Deletion] = ()
) -> Verdict:
    """What is wrong with the books; nothing when every call is accounted for exactly once.

    Args:
        entries: how each call ended.
        begun: the keys of all calls that were begun.
        runs: how often the handler ran for each key.
        dead: the keys of what was set aside.
        deletions: of the services' queues.
    """
    entries, deletions = list(entries), list(deletions)
    ended = Counter(entry.key for entry in entries)
    wrong = [f"{key}: ended {ended[key]} times" for key in begun | ended.keys() if ended[key] != 1]
    wrong += [f"{key}: ran, but nobody called it" for key in runs if key not in begun]
    for entry in entries:
        wrong += [f"{entry}: {what}, ran {runs[entry.key]} times" for what in _false_in(entry, runs[entry.key])]
    lost = [entry for entry in entries if _is_lost(entry, runs[entry.key], dead)]
    unexplained = [entry for entry in lost if not any(deletion.explains(entry) for deletion in deletions)]
    wrong += [f"{entry}: a confirmed cast is lost" for entry in unexplained]
    return Verdict(wrong, len(lost) - len(unexplained))


def _false_in(entry: Entry, ran: int) -> Iterator[str]:
    """What no fault excuses, a killed broker included."""
    if entry.reason == "result":
        if entry.kind == "call" and not ran:
            yield "a result, but no handler ran"
    elif entry.reason not in REASONS:
        yield "an ending that no fault of the schedule explains"
    if entry.execution in ("NOT_SENT", "NOT_EXECUTED") and ran:
        yield "evidence that it did not run"
    if entry.execution == "EXECUTED" and not ran:
        yield "evidence that it ran"
    if entry.mode != "at-least-once" and ran > 1:
        yield "ran more than once"
    if entry.seconds > TIMEOUT + LATE:
        yield "outlived its deadline"


def _is_lost(entry: Entry, ran: int, dead: set[str]) -> bool:
    """Whether a cast that the broker had confirmed is nowhere; at-most-once ones may go with their worker."""
    confirmed = entry.kind == "cast" and entry.reason == "result"
    return confirmed and not ran and entry.key not in dead and entry.mode != "at-most-once"
