"""What becomes of a request that has arrived: the order of the checks. Pure: time is passed in.

First whether a worker may have begun it before, for that decides more than anything that this worker's code says of
it: an older or newer version of the service may have run it. Then whether this worker takes work, then the request's
time, and only then its arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

from warren import checks
from warren.amqp.frames import Properties
from warren.protocol import evidence
from warren.protocol.codecs import CodecError
from warren.protocol.deadline import remaining_budget
from warren.protocol.evidence import Ending
from warren.protocol.request import VERSION, Request
from warren.protocol.signature import Arguments, Method
from warren.protocol.slip import MARK as STAGE_MARK
from warren.protocol.slip import Slip, SlipError, read_own_slip
from warren.protocol.stage import slip_text
from warren.protocol.uploading import kind_of, unmarked


class Offered(Protocol):
    """What admission has to know of a service."""

    @property
    def name(self) -> str: ...
    @property
    def max_message_size(self) -> int: ...
    @property
    def methods(self) -> Mapping[str, Method]: ...
    @property
    def default(self) -> Method | None: ...


#: Run it: this method, with these arguments, with these seconds left (None: no limit). A plain tuple, as it is made for
#: every request; the others are rare.
Run = tuple[Method, Arguments, float | None]


class Refuse(NamedTuple):
    """Answer it with this ending."""

    ending: Ending
    message: str


class SetAside(NamedTuple):
    """Set it aside, a call too, and then answer it with this ending."""

    ending: Ending
    message: str


class HandBack(NamedTuple):
    """Publish it again as this attempt, with these seconds left."""

    attempt: int
    left: float | None


class Hold(NamedTuple):
    """Keep it, a request of this method: the worker is draining and will hand it back, with these seconds left."""

    method: Method
    left: float | None


class Staged:
    """Run it, as the stage of a pipeline that has this slip. No tuple, as it may be made for every request."""

    __slots__ = ("run", "slip")

    def __init__(self, run: Run, slip: Slip) -> None:
        self.run = run
        self.slip = slip


_STAGE: Final = STAGE_MARK.encode()
#: Slips that one service keeps: some MB at most.
_MOST_SLIPS: Final = 256

Decision = Run | Refuse | SetAside | HandBack | Hold | Staged

_LOST: Final = (
    "the request was delivered before, and the worker, connection or broker that held it was lost; whether its handler"
    " ran is not known, and it is not run again: look whether its work is done"
)
_POISON: Final = (
    "the worker that held this request was lost, or its connection, {}; whether a handler had begun it is not known, as"
    " it may only have waited there: it is in the dead queue, where `warren dead` shows it, and tries it again"
)
_OTHER_KIND: Final = "the method {}, and was asked for as something else: call it from a program, with client.{}"
_RESTART: Final = "this worker has the methods that were declared when it began to serve; stop it and serve it again"
_NOT_FOR_ALL: Final = (
    "the method may not be asked of all instances at once: declare it with @service.method(broadcast=True)"
)
_DRAINING: Final = "this instance takes no requests now, as it drains: ask again when it serves"
_FULL: Final = "too many requests wait at this instance for their turn: add workers, or ask less often"
_LATE: Final = "the request's time was over before this attempt could begin: add workers, or allow more time"


class Admission:
    """The checks of one service's worker."""

    def __init__(self, service: Offered) -> None:
        self._service = service
        self._slips: dict[bytes, tuple[bytes | None, Slip]] = {}  # with the type of a request
        methods = service.methods
        self._methods: dict[bytes | None, Method | None] = {_wire_name(m, n).encode(): m for n, m in methods.items()}
        self._methods |= {m.full_name.encode(): m for m in methods.values() if m.broadcast}
        self._methods[None] = self._methods[b""] = service.default

    def decide(self, request: Request, wall: float, draining: bool) -> Decision:
        """What to do with a request, at `wall` seconds since 1970."""
        method = self._methods.get(request.properties.type)
        delivery, version = request.delivery, request.version
        if version != VERSION and version is not None:
            return self._wrong_version(request)
        if method is None:
            kind = request.properties.type
            if kind is not None and kind.endswith(_STAGE):
                return self._decide_stage(request, kind, wall, draining)
            return self._no_method(request)
        if delivery.redelivered and method.delivery != "at-least-once":
            return Refuse(evidence.WORKER_LOST, _LOST)
        if delivery.body is None:
            return self._too_large(request)
        left = remaining_budget(request.timeout_ms, request.deadline_ms, wall)
        if delivery.redelivered:
            return _next_attempt(request, method, left)
        if draining:
            return Hold(method, left)
        if left is not None and left <= 0:
            return too_late()
        try:
            return method, method.decode_arguments(request.content_type, delivery.body), left
        except CodecError as error:
            return Refuse(_ENDINGS.get(error.reason, evidence.DECODE), str(error))

    def _decide_stage(self, request: Request, marked: bytes, wall: float, draining: bool) -> Decision:
        """A stage of a pipeline is decided as a call of its method is."""
        p = request.properties
        try:
            slip = self._read_slip(p)
        except SlipError as error:
            return Refuse(evidence.DECODE, str(error))
        p.type = marked[: -len(STAGE_MARK)]
        try:
            decision = self.decide(request, wall, draining)
        finally:
            p.type = marked
        return Staged(decision, slip) if type(decision) is tuple else decision  # type: ignore[arg-type]  # see `Worker`

    def _read_slip(self, p: Properties) -> Slip:
        """As `read_own_slip`: the slips of one pipeline are alike, so those that were read are known by their bytes."""
        text = slip_text(p)
        if text is None:
            return read_own_slip(p, self._service.name)
        known = self._slips.get(text)
        if known is None or known[0] != p.type:
            slip = read_own_slip(p, self._service.name)
            if len(self._slips) >= _MOST_SLIPS:
                self._slips.clear()
            known = self._slips[text] = (p.type, slip)
        return known[1]

    def _wrong_version(self, request: Request) -> Refuse:
        message = (
            f"this worker speaks protocol version {VERSION}, the request has version {request.version}: give caller and"
            " worker the same version of Warren"
        )
        return Refuse(evidence.VERSION, message)

    def _no_method(self, request: Request) -> Refuse:
        name = None if request.method is None else unmarked(request.method)
        if name is not None and "." in name:
            return self._not_for_all(name)
        if name is not None and (method := self._service.methods.get(name)) is not None:
            if _wire_name(method, name).encode() not in self._methods:
                return Refuse(evidence.METHOD, f"service {self._service.name!r} got {name!r} too late: {_RESTART}")
            return _other_kind(method)
        wanted = "default method for bare requests" if name is None else f"method {name!r}"
        known = checks.known_names(name or "", sorted(self._service.methods))
        return Refuse(evidence.METHOD, f"service {self._service.name!r} has no {wanted}: {known}")

    def _not_for_all(self, full_name: str) -> Refuse:
        """A request to all instances, for what they are not asked for at once: a method's own name has no dot."""
        service, _, name = full_name.rpartition(".")
        if service == self._service.name and name in self._service.methods:
            return Refuse(evidence.BROADCAST, _NOT_FOR_ALL)
        known = checks.known_names(name, sorted(self._service.methods))
        wanted = name if service == self._service.name else full_name
        return Refuse(evidence.METHOD, f"service {self._service.name!r} has no method {wanted!r}: {known}")

    def _too_large(self, request: Request) -> Refuse:
        size, limit = request.delivery.body_size, self._service.max_message_size
        return Refuse(
            evidence.REQUEST_REFUSED,
            f"the request has {size} bytes, the service's max_message_size is {limit}: send less, or raise it",
        )


def _wire_name(method: Method, name: str) -> str:
    """What a request calls it: who asks for items, or sends some, says so, and nobody else gets or takes any."""
    return name + kind_of(method).mark


def _other_kind(method: Method) -> Refuse:
    kind = kind_of(method)
    return Refuse(evidence.STREAM, _OTHER_KIND.format(kind.shown, kind.verb))


def too_late() -> Refuse:
    """There is no time left to begin."""
    return Refuse(evidence.ON_ARRIVAL, _LATE)


def draining() -> Refuse:
    """Nobody else may begin it in this process's stead."""
    return Refuse(evidence.DRAINING, _DRAINING)


def full() -> Refuse:
    """Too many wait here already."""
    return Refuse(evidence.INSTANCE_FULL, _FULL)


def for_one(decision: object) -> Refuse:
    """What becomes of a request that no other process may get: it is not handed back, and not repeated."""
    if isinstance(decision, Hold):
        return draining()
    return decision if isinstance(decision, Refuse) else Refuse(evidence.WORKER_LOST, _LOST)


def _next_attempt(request: Request, method: Method, left: float | None) -> Decision:
    """A worker may have begun this ``at-least-once`` request and died.

    Or it had only waited there, for a place: nobody can know who was killed, and a request that kills those who read it
    must not go on for ever, so both count. (A worker that has lost its link only knows what it had not begun; but on a
    classic queue nothing says whether others held it since.)
    """
    attempt = request.attempt + 1
    if attempt > method.max_attempts:
        times = "once" if request.attempt == 1 else f"{request.attempt} times"
        return SetAside(evidence.POISON, _POISON.format(times))
    # Classic queues count no deliveries, so the count travels in the request.
    return HandBack(attempt, left)


_ENDINGS: Final = {"ENCODING": evidence.ENCODING, "DECODE": evidence.DECODE, "VALIDATION": evidence.VALIDATION}
