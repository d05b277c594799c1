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

    `stored` tells whether the broker has the request on disk: casts, and calls of the client with durable replies.
    """

    key: str
    service: str
    mode: str
    kind: str
    stored: bool
    resend: bool
    begun: float
    seconds: float
    reason: str
    execution: str

    def line(self) -> str:
        return "\t".join(str(value) for value in self)

    @classmethod
    def parse(cls, line: str) -> Entry:
        key, service, mode, kind, stored, resend, begun, seconds, reason, execution = line.split("\t")
        flags = stored == "True", resend == "True"
        return cls(key, service, mode, kind, *flags, float(begun), float(seconds), reason, execution)


class Blows(NamedTuple):
    """What was done to the broker that it cannot make good, and when.

    Attributes:
        deletions: of a service's queue: what was in it is gone.
        kills: a classic queue forgets what it gave out, or was told to be done, in the last moments before (RabbitMQ
            writes that down with a delay, on 3.10 of up to 0.2 s). A stored request comes once more as if it were new.
    """

    deletions: list[tuple[str, float]]
    kills: list[float]

    def may_lose(self, cast: Entry) -> bool:
        return any(name == cast.service and at - WAIT < cast.begun < at for name, at in self.deletions)

    def may_repeat(self, entry: Entry) -> int:
        """How many times more than it may an entry may have run."""
        if not entry.stored or not entry.service.endswith("classic"):
            return 0
        return sum(entry.begun < at < entry.begun + entry.seconds + WAIT for at in self.kills)


class Verdict(NamedTuple):
    """What is wrong with the books, and how often something was excused that a blow explains."""

    wrong: list[str]
    excused: Counter[str]


def judge(entries: Iterable[Entry], begun: set[str], runs: Counter[str], dead: set[str], blows: Blows) -> Verdict:
    """What is wrong with the books; nothing when every call is accounted for exactly once.

    Args:
        entries: how each call ended.
        begun: the keys of all calls that were begun.
        runs: how often the handler ran for each key.
        dead: the keys of what was set aside.
        blows: what the broker cannot answer for.
    """
    entries = list(entries)
    ended = Counter(entry.key for entry in entries)
    wrong = [f"{key}: ended {ended[key]} times" for key in begun | ended.keys() if ended[key] != 1]
    wrong += [f"{key}: ran, but nobody called it" for key in runs if key not in begun]
    excused: Counter[str] = Counter()
    for entry in entries:
        ran = runs[entry.key]
        wrong += [f"{entry}: {what}, ran {ran} times" for what in _false_in(entry, ran)]
        if _lost(entry, ran, dead):
            if blows.may_lose(entry):
                excused["a cast went with a deleted queue"] += 1
            else:
                wrong.append(f"{entry}: a confirmed cast is lost")
        if entry.mode != "at-least-once" and ran > 1:
            if ran <= 1 + blows.may_repeat(entry):
                excused["a killed broker gave out a stored request once more"] += 1
            else:
                wrong.append(f"{entry}: ran more than once, {ran} times")
    return Verdict(wrong, excused)


def _false_in(entry: Entry, ran: int) -> Iterator[str]:
    """What no fault excuses."""
    if entry.reason == "result":
        if entry.kind == "call" and not ran:
            yield "a result, but no handler ran"
    elif entry.reason not in REASONS:
        yield "an ending that no fault of the schedule explains"
    if entry.execution in ("NOT_SENT", "NOT_EXECUTED") and ran:
        yield "evidence that it did not run"
    if entry.execution == "EXECUTED" and not ran:
        yield "evidence that it ran"
    if entry.seconds > TIMEOUT + LATE:
        yield "outlived its deadline"


def _lost(entry: Entry, ran: int, dead: set[str]) -> bool:
    """Whether a cast that the broker had confirmed is nowhere; at-most-once ones may go with their worker."""
    confirmed = entry.kind == "cast" and entry.reason == "result"
    return confirmed and not ran and entry.key not in dead and entry.mode != "at-most-once"
