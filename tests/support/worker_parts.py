"""What the worker machine needs beside the broker: requests with a book of each, threads, and functions that fail."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from typing import Any, cast

from tests.support.odd_errors import ODD, Bare
from warren.protocol.running import get_running
from warren.server.threads import JobFailed
from warren.server.worker import Worker

#: What may have happened to a request elsewhere.
BEFORE = ("redelivered", "attempt", "last attempt", "died")


@dataclass(frozen=True)
class Wish:
    """What a request shall be like, and what shall become of it."""

    method: str
    kind: str  # call or cast
    timeout: float | None
    now: str  # what its handler does
    around: str  # what its middleware does
    around_again: str  # the same at a later attempt
    on_cancel: str
    odd: str  # the name of an exception
    flaw: str
    before: str  # what may have happened to it elsewhere
    cut: str


class Asked:
    """A request, and what the book says of it."""

    def __init__(self, number: int, wish: Wish) -> None:
        self.number, self.wish, self.method = number, wish, wish.method
        self.call = wish.kind != "cast"
        self.on_cancel = wish.on_cancel
        self.odd = ODD[wish.odd]
        if wish.around in ("leave", "leave begun", "give up") and issubclass(self.odd, SystemExit | KeyboardInterrupt):
            self.odd = Bare  # raised in a task that its middleware made it ends the loop: nobody can prevent that
        told = ("redelivered", "last attempt") if wish.flaw == "bad table" else BEFORE
        self.elsewhere = wish.before in told  # another worker may have begun it
        self.begun = False
        self.entries = 0
        self.ran = 0  # handlers that returned
        self.cut_short = False  # middleware answered instead of its handler
        self.deliveries = 0
        self.put_back = 0  # copies of it that were published into its queue
        self.doubled = 0  # how often it came back though a copy of it was in the queue
        self.given_up = False  # a worker has heard that nobody waits for it
        self.remembered = (0, 0.0)  # in which life, and until when, as one that has not come yet
        self.hushed = 0  # in which life it was here, and given up: nobody is to be answered
        self.told: list[str] = []  # what was written to its caller
        self.heard: list[str] = []  # what of that the broker has got

    def __repr__(self) -> str:
        w = self.wish
        return f"{w.kind} {self.number} of {w.method} ({w.now}, {w.around}, told {self.told})"


class ModelThreads:
    """Threads of which each job runs at once, when the machine says so."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Context, Callable[[], Any], Callable[[Any], None]]] = []
        self.none_left = False

    def run(self, context: Context, job: Callable[[], Any], on_done: Callable[[Any], None]) -> None:
        if self.none_left:
            raise RuntimeError("can't start new thread")
        self.jobs.append((context, job, on_done))

    def work(self, index: int) -> None:
        context, job, on_done = self.jobs.pop(index % len(self.jobs))
        try:
            result = context.run(job)
        except BaseException as error:
            result = JobFailed(error)
        on_done(result)

    def serving(self) -> list[int]:
        """The numbers of the requests whose handlers were given to threads."""
        calls = [cast(Any, context.run(get_running)) for context, _, _ in self.jobs]
        return [int(call.call_id) for call in calls if call is not None]

    def close(self) -> None:
        pass


class Sabotage:
    """One function fails, once, at its n-th call."""

    def __init__(self) -> None:
        self.armed = False
        self.done = False

    def arm(self, owner: Any, name: str, count: int, kind: type[BaseException]) -> None:
        original = getattr(owner, name)
        calls = 0
        self.armed = True

        def failing(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == count:
                self.done = True
                raise kind
            return original(*args, **kwargs)

        setattr(owner, name, failing)


#: Whose functions fail: what takes a request from one owner or state to another.
SEAMS = {
    "admission": ("decide",),
    "replies": ("result", "ended", "raised", "_error"),
    "settler": ("take_off", "reply", "_send", "release", "set_aside", "_answer", "not_set_aside", "hand_back"),
    "ending": ("_end_held", "_let_go", "set_aside_cast"),
    "copies": ("_refused", "_in_doubt"),
    "releases": ("prove",),
    "places": ("take",),
    "runner": ("start", "_spawn", "_run_in_thread", "_in_thread", "_job"),
    "worker": ("_admit", "_start", "_decline"),
    "endings": ("finish", "_end_raised", "reply_to", "_log_failure", "refuse", "set_aside", "withdraw"),
    "channel": ("ack", "publish", "publish_unrouted", "flush", "settled"),
    "outlet": ("publish",),
}


def owner_of(seam: str, worker: Worker, channel: object, outlet: object) -> Any:
    """Whose functions these are."""
    w = cast(Any, worker)
    settler = w._settler
    return {
        "admission": w._admission,
        "replies": w._endings._replies,
        "endings": w._endings,
        "settler": settler,
        "ending": settler,
        "copies": settler.copies,
        "releases": settler.releases,
        "places": w._places,
        "runner": w._runner,
        "worker": w,
        "channel": channel,
        "outlet": outlet,
    }[seam]
