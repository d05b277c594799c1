"""The books of a soak: how calls ended, how often handlers ran, what was set aside; each held against the others."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.support.evidence import LATE
from tests.support.soaked import FAILING, MAX_ATTEMPTS, RAISED

#: Seconds that each call may take.
TIMEOUT = 8.0
#: Longest time that a request waits for a worker that gets on with it, in seconds.
WAIT = 30.0
#: Seconds after which a broken link has been noticed and what was on it delivered again.
NOTICED = 6.0

#: All that any call may end in besides its result.
REASONS = frozenset(
    {"CONNECTION_LOST", "NOT_CONNECTED", "NO_ROUTE", "CLIENT_TIMER", "QUEUE_TTL", "ON_ARRIVAL", "WORKER_LOST", "POISON"}
    | {"CHANNEL_CLOSED", "QUEUE_DOWN", "HAND_BACK", "HANDLER"}
)
#: What its handler's end leads to, by what it was told to do.
OUTCOMES = dict.fromkeys(RAISED, "HANDLER_EXCEPTION") | {
    "wrapped": "UNAVAILABLE",
    "surrogate": "?",
    "unencodable": "ENCODE_REPLY",
}
#: What the other version of the service may refuse, by method or by act.
REFUSALS = {"new": "METHOD", "changed": "VALIDATION", "large": "TOO_LARGE"}
#: What the broker gives as the reason when a worker has it set a request aside.
BY_BROKER = "rejected"
CANCELLED = "cancelled"


class Entry(NamedTuple):
    """How one call or cast ended.

    Attributes:
        method, mode: of the service, and its delivery mode.
        kind: ``call`` or ``cast``.
        act: what its handler was told to do.
        durable: where its client's replies come.
        cancelled: whether its caller was about to give it up.
        timeout, begun, seconds: how long it might take, and when it did for how long.
        reason: ``result`` where it did well, ``wrong`` if it got another's.
    """

    key: str
    service: str
    method: str
    mode: str
    kind: str
    act: str = "work"
    durable: bool = False
    resend: bool = False
    cancelled: bool = False
    timeout: float = TIMEOUT
    begun: float = 0.0
    seconds: float = 0.0
    reason: str = "result"
    execution: str = ""

    def line(self) -> str:
        return json.dumps(self)

    @classmethod
    def parse(cls, line: str) -> Entry:
        return cls(*json.loads(line))

    @property
    def outcome(self) -> str:
        """What its handler's end leads to."""
        return OUTCOMES.get(self.act, "result")

    @property
    def refusals(self) -> set[str | None]:
        """What a worker of the other version may end it in."""
        return {REFUSALS.get(self.method), REFUSALS.get(self.act)} - {None}


class Deletion(NamedTuple):
    """A service's queue was deleted, with what was in it; the only fault that may lose what the broker confirmed."""

    service: str
    at: float

    def explains(self, lost: Entry) -> bool:
        return lost.service == self.service and self.at - WAIT < lost.begun < self.at


class Break(NamedTuple):
    """From when to when links broke; `by` is the key of the request that killed a worker, if it was one."""

    begun: float
    ended: float
    by: str = ""

    def touches(self, entry: Entry, last: float) -> bool:
        """Whether it may have brought a request back that was begun then, and had its last run then."""
        return self.by != entry.key and self.begun < last + NOTICED and entry.begun < self.ended + NOTICED


class Run(NamedTuple):
    """A handler began."""

    key: str
    at: float

    @classmethod
    def parse(cls, line: str) -> Run:
        key, at = line.split("\t")
        return cls(key, float(at))


class SetAside(NamedTuple):
    """A request was set aside; None for what is not said with it."""

    cause: str | None
    at: float | None = None


class Verdict(NamedTuple):
    """What is wrong with the books, and how many casts went with a deleted queue."""

    wrong: list[str]
    excused: int


@dataclass
class Books:
    """All that is known of a soak's calls when it is over.

    Attributes:
        entries: how each call ended.
        begun: the keys of all calls that were begun.
        runs: each time a handler began.
        dead: each time that a request was set aside, by its key.
        deletions: of the services' queues.
        breaks: of links, each of which may bring requests back.
    """

    entries: Sequence[Entry]
    begun: set[str]
    runs: Sequence[Run] = ()
    dead: Mapping[str, list[SetAside]] = field(default_factory=dict)
    deletions: Sequence[Deletion] = ()
    breaks: Sequence[Break] = ()

    def __post_init__(self) -> None:
        self._ran = Counter(run.key for run in self.runs)
        self._last = {run.key: run.at for run in sorted(self.runs, key=lambda run: run.at)}

    def judge(self) -> Verdict:
        """What is wrong with them; nothing when every call is accounted for exactly once."""
        ended = Counter(entry.key for entry in self.entries)
        wrong = [f"{key}: ended {ended[key]} times" for key in self.begun | ended.keys() if ended[key] != 1]
        wrong += [f"{key}: ran, but nobody called it" for key in self._ran if key not in self.begun]
        wrong += [f"{key}: is dead, but nobody called it" for key in self.dead if key not in self.begun]
        for entry in self.entries:
            found = [*self._false_ending(entry), *self._too_often(entry), *self._false_death(entry)]
            wrong += [self._told(entry, what) for what in found]
        lost = [entry for entry in self.entries if self._is_lost(entry)]
        unexplained = [entry for entry in lost if not any(deletion.explains(entry) for deletion in self.deletions)]
        wrong += [self._told(entry, "is neither done nor set aside") for entry in unexplained]
        return Verdict(wrong, len(lost) - len(unexplained))

    def _told(self, entry: Entry, what: str) -> str:
        return f"{entry}: {what}, ran {self._ran[entry.key]} times, dead {self.dead.get(entry.key, [])}"

    def _false_ending(self, entry: Entry) -> Iterator[str]:
        """What no fault excuses, a killed broker included."""
        ran = self._ran[entry.key]
        if not self._may_end_so(entry):
            yield "an ending that nothing explains"
        if entry.reason == "result" and entry.kind == "call" and not ran:
            yield "a result, but no handler ran"
        if entry.execution in ("NOT_SENT", "NOT_EXECUTED") and ran:
            yield "evidence that it did not run"
        if entry.execution == "EXECUTED" and not ran:
            yield "evidence that it ran"
        if entry.reason in OUTCOMES.values() and entry.execution != "EXECUTED":
            yield "its handler's end without the evidence that it ran"
        if entry.seconds > entry.timeout + LATE:
            yield "outlived its deadline"

    def _may_end_so(self, entry: Entry) -> bool:
        if entry.reason == "result":
            return entry.kind == "cast" or entry.outcome == "result"
        if entry.reason == CANCELLED:
            return entry.cancelled
        return entry.reason in REASONS or (entry.kind == "call" and entry.reason in {entry.outcome, *entry.refusals})

    def _too_often(self, entry: Entry) -> Iterator[str]:
        """What runs, or is set aside, more often than it may."""
        ran, dead, breaks = self._ran[entry.key], len(self.dead.get(entry.key, [])), self._breaks(entry)
        if entry.mode != "at-least-once" and ran > 1:
            yield "ran more than once"
        sent = 1 + breaks if entry.resend else 1
        if entry.mode == "at-least-once" and ran > sent * MAX_ATTEMPTS + breaks:
            yield f"ran more than {MAX_ATTEMPTS} times, with {breaks} breaks of links"
        times = [aside.at for aside in self.dead.get(entry.key, []) if aside.at is not None]
        breaks = self._breaks(entry, *times)  # setting aside may take its time, and a break meanwhile brings it back
        if dead > sent + breaks:
            yield f"was set aside more than once, with {breaks} breaks of links"

    def _breaks(self, entry: Entry, *later: float) -> int:
        """How many breaks of links may have brought it back before its last run, its end, or what came later."""
        last = max(self._last.get(entry.key, 0.0), entry.begun + entry.seconds, *later)
        return sum(broke.touches(entry, last) for broke in self.breaks)

    def _false_death(self, entry: Entry) -> Iterator[str]:
        """What was set aside without a cause, or with one that does not fit."""
        for cause, _at in self.dead.get(entry.key, []):
            if cause is None:
                yield "was set aside without a cause"
            elif cause not in REASONS and cause not in {entry.outcome, *entry.refusals, BY_BROKER}:
                yield f"was set aside as {cause}"
        if entry.reason == "POISON" and not self.dead.get(entry.key):
            yield "is poison, and not in the dead queue"

    def _is_lost(self, entry: Entry) -> bool:
        """Whether a cast that the broker had confirmed is nowhere; at-most-once ones may go with their worker."""
        confirmed = entry.kind == "cast" and entry.reason == "result" and entry.mode != "at-most-once"
        done = self._ran[entry.key] and entry.act not in FAILING
        return confirmed and not done and not self.dead.get(entry.key)


def parse_runs(lines: Iterable[str]) -> list[Run]:
    """The runs in a file of them."""
    return [Run.parse(line) for line in lines]
