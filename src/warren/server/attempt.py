"""One delivery at a worker: what it is, how far it got, and what is still owed for it."""

from __future__ import annotations

import asyncio
import time

from warren.amqp.frames import Delivery
from warren.connection.channel import HotChannel
from warren.logs import About
from warren.protocol.deadline import Slice
from warren.protocol.evidence import Ending
from warren.protocol.request import Request
from warren.protocol.signature import Arguments, Method
from warren.protocol.slip import Slip
from warren.server.context import CurrentCall, is_preparing


class Attempt:
    """Owns one delivery, from its arrival to its one settlement.

    Each of these ends once, and separately, and this is where it says whether it has: its outcome (`ended`), its reply
    (`answered`), its delivery (`settled`), and its place (held as long as code of it runs, `busy`).

    Attributes:
        came: when, in seconds since 1970.
        service: whose it is.
        request: None until it has been read.
        method, arguments, deadline: unset until it is known to be run. `deadline` is its caller's, in seconds of
            `time.monotonic`; None for no limit.
        call, began, limit: unset until it begins, at `began` (`time.monotonic`). The call's own deadline may be earlier
            than the caller's, and `limit` is what ends it then.
        entered: whether its handler was begun: middleware may end a call before.
        ended: whether its outcome is decided; a later one is dropped.
        answered: whether its reply was sent, or had nobody to go to.
        settled: whether the broker was told what becomes of the delivery, or somebody has undertaken to tell it.
        acked: whether it was acknowledged before its handler, as ``at-most-once`` requests are, and, when they come,
            those that this very process was asked for (`Worker.delivered`).
        busy: tasks and threads that run code of it.
        task: the one in which it runs, if it does.
        reported: whether its task has, in its last line; see `Runner`.
        slice: when it is cut off, as whoever watches over its time has noted it: its `Worker` as long as it waits for a
            place, then its `Runner`.
        slip: of a stage of a pipeline; None of all other requests, and until it is run or answered.
        stopped_by: what the worker has cancelled it for, and the words for it.
    """

    __slots__ = (
        "acked",
        "answered",
        "arguments",
        "began",
        "busy",
        "call",
        "came",
        "channel",
        "deadline",
        "delivery",
        "ended",
        "entered",
        "limit",
        "method",
        "reported",
        "request",
        "service",
        "settled",
        "slice",
        "slip",
        "stopped_by",
        "task",
    )

    call: CurrentCall
    method: Method
    arguments: Arguments
    began: float
    deadline: float | None
    limit: Ending

    def __init__(self, channel: HotChannel, delivery: Delivery, came: float, service: str) -> None:
        self.came = came
        self.service = service
        self.channel = channel
        self.delivery = delivery
        self.request: Request | None = None
        self.entered = False
        self.ended = False
        self.answered = False
        self.settled = False
        self.acked = False
        self.busy = 0
        self.reported = False
        self.task: asyncio.Task[None] | None = None
        self.slice: Slice[Attempt] | None = None
        self.slip: Slip | None = None
        self.stopped_by: tuple[Ending, str] | None = None

    @property
    def reached(self) -> bool:
        """Whether its handler was begun, and not only what it depends on: what `entered` proves for its caller."""
        return self.entered and not is_preparing(self.call)

    @property
    def left(self) -> float | None:
        """Seconds until its caller's deadline; None for no limit."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    @property
    def earlier(self) -> bool:
        """Whether a worker may have begun this request before, or may begin it beside this attempt."""
        return self.delivery.redelivered or (self.request is not None and self.request.has_other_attempts)

    @property
    def number(self) -> int | None:
        """Which attempt a copy of it is that is handed back; None where it is not run itself, should it come back."""
        return self.request.attempt if self.request and self.method.delivery == "at-least-once" else None

    @property
    def goes_on(self) -> bool:
        """Whether another run may go on where this one is lost, or stopped with its worker."""
        return self.method.resumable and self.request is not None and self.request.attempt < self.method.max_attempts

    @property
    def is_cast(self) -> bool:
        """Whether nobody waits for a reply; one that fails is set aside, and that is logged in one line."""
        return self.request is not None and not self.request.properties.reply_to

    @property
    def wait(self) -> float | None:
        """Seconds from its caller's write to its beginning; None of a cast, which does not say when it was written."""
        if self.deadline is None or self.request is None:
            return None
        return self.began - self.deadline + (self.request.timeout_ms or 0) / 1000

    @property
    def name(self) -> About:
        """What it is called in the log: method and id, as far as they are known; safe to print."""
        request = self.request
        if request is None:
            return About("a request that cannot be read", {"service": self.service})
        fields = {
            "service": self.service,
            "method": request.method,
            "call_id": request.call_id,
            "root_id": request.root_id,
        }
        return About(request.name, fields)
