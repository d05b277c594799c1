"""Where calls go, and how their requests are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from warren.amqp.frames import Properties
from warren.client.calls import PendingCall
from warren.protocol.progress import Progress
from warren.protocol.request import BOUNCE_LIMIT, RequestTemplate, bare_properties, check_name
from warren.protocol.signature import Method
from warren.protocol.topology import EXCHANGE

#: What a call ends in, if it does not end in an error.
Reply = tuple[Properties, bytes]

_EXCHANGE: Final = EXCHANGE.encode()
# What a request asks for, as bits: that it comes back where its queue does not keep it, and for the worker's word that
# its queue keeps everything.
_BOUNCE: Final = 1
_WORD: Final = 2


class Own(NamedTuple):
    """What one request has that others to the same target have not.

    Attributes:
        headers: encoded header fields, without a table around them.
        message_id: that of the call's first attempt, if this is not the first.
        root: those of the header fields that are not the application's.
        on_progress: who wants to hear of its progress.
    """

    headers: bytes = b""
    message_id: bytes | None = None
    root: bytes = b""
    on_progress: Callable[[Progress], object] | None = None


class Stages(NamedTuple):
    """The stages of a pipeline.

    Attributes:
        names: what they are called.
        queues: where its requests may be, each once.
        slip: the header field that carries them.
        lean_slip: the same where all the queues are known to take everything; empty where that must not matter.
    """

    names: tuple[str, ...]
    queues: tuple[str, ...]
    slip: bytes
    lean_slip: bytes


@dataclass(eq=False)
class Target:
    """Where calls of one method go and how they are written: all that they have in common, worked out once.

    Attributes:
        kind: what a request to it is.
        name: what it is called in errors.
        declared: the method, where its code is shared.
        returns: the type of the result, of a call by name that says it.
        caller: whose handler makes them, of a client that has no name of its own.
        fail_fast, headers, resend, wait: see `AsyncClient.options`.
        own: what belongs to one request, or to those of one view: `headers` are in there, as they are written.
        trusting: whether its calls may do without confirm and bounce where the queue takes everything.
        stages: of a pipeline, which is sent to the first.
        templates: of its requests, by what they ask for; shared by all that differ in what is their own.
    """

    kind: Literal["call", "cast", "bare"]
    method: str
    queue: str
    name: str
    content_type: str
    fail_fast: bool = False
    resend: bool = False
    wait: bool = False
    headers: Mapping[str, Any] | None = None
    declared: Method | None = None
    returns: Any = Any
    own: Own | None = None
    caller: str | None = None
    templates: dict[int, RequestTemplate] = field(default_factory=dict)
    routing_key: bytes = b""
    exchange: bytes = b""
    trusting: bool = False
    stages: Stages | None = None

    def __post_init__(self) -> None:
        if not self.routing_key:  # else it was made from one that was checked
            check_name(self.queue)
            check_name(self.method)
            self.routing_key = self.queue.encode()
        self.exchange = b"" if self.kind == "bare" else _EXCHANGE
        self.trusting = self.kind == "call" and not self.resend
        if self.stages is not None and (self.fail_fast or not self.stages.lean_slip):
            self.trusting = False

    def having(self, headers: Mapping[str, Any] | None, own: Own) -> Target:
        """The same for requests that have something of their own; all that was prepared is shared."""
        having = Target(
            self.kind, self.method, self.queue, self.name, self.content_type, self.fail_fast, self.resend, self.wait,
            headers, self.declared, self.returns, own, self.caller, self.templates, self.routing_key,
            stages=self.stages,
        )  # fmt: skip
        having.exchange, having.trusting = self.exchange, self.trusting
        return having


def queues(target: Target) -> list[str]:
    """Where its requests may be: of a pipeline, in the queue of any stage."""
    return [target.queue] if target.stages is None else list(target.stages.queues)


class Requests:
    """How one client's requests are written.

    Attributes:
        reply_to: where replies shall go; another object for each link, as templates are made for one.
    """

    def __init__(self, *, app_id: str | None, user_id: str | None, durable: bool) -> None:
        self._app_id = app_id
        self._user_id = user_id
        self._durable = durable
        self.reply_to = b""

    def properties(self, call: PendingCall, size: int, left: float, wall: float, lean: bool) -> bytes:
        """The property bytes of a call's present attempt: a body of `size` bytes, `left` seconds, sent at `wall`.

        `lean`: its queue is known to take everything.
        """
        target: Target = call.target
        left_ms = max(0, int(left * 1000))
        expiration = b"0" if target.fail_fast else b"%d" % left_ms
        if target.kind == "bare":
            return bare_properties(call.id, self.reply_to, expiration)
        # A fail-fast call asks for its bounce whatever its size: without it, it would end at its timeout only.
        asked = _BOUNCE if target.fail_fast or (size <= BOUNCE_LIMIT and not lean) else 0
        if target.trusting and not lean:
            asked |= _WORD
            call.asked = call.deadline - left
        template = target.templates.get(asked)
        if template is None or template.made_for is not self.reply_to:
            template = self._make_template(target, asked)
        own = target.own
        if own is not None:
            first = own.message_id or call.first_id
            return template.encode_own(call.id, first, left_ms, int(wall * 1000) + left_ms, expiration, own.headers)
        if target.kind == "cast":
            return template.encode_cast(call.id, call.first_id)
        return template.encode(call.id, call.first_id, left_ms, int(wall * 1000) + left_ms, expiration)

    def _make_template(self, target: Target, asked: int) -> RequestTemplate:
        is_call = target.kind == "call"
        template = target.templates[asked] = RequestTemplate(
            target.method,
            content_type=target.content_type,
            reply_to=self.reply_to if is_call else None,
            bounce=is_call and bool(asked & _BOUNCE),
            durable=not is_call or self._durable,
            asks=bool(asked & _WORD) and not self._durable,
            slip=_slip(target, asked),
            app_id=self._app_id or target.caller,
            user_id=self._user_id,
        )
        template.made_for = self.reply_to
        return template


def _slip(target: Target, asked: int) -> bytes:
    """The header field with the stages, where there are some: who could ask for a word and does not has it."""
    if target.stages is None:
        return b""
    return target.stages.slip if asked or not target.trusting else target.stages.lean_slip
