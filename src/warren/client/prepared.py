"""Calls with items, before they are begun: what is asked for, and how what comes of it is read."""

from __future__ import annotations

import types
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from functools import lru_cache
from typing import Any, NamedTuple

from warren.client.chain import ClientMiddleware
from warren.client.inlet import End, Message
from warren.client.options import CONTENT_TYPES, Options
from warren.client.outcomes import stream_broken
from warren.client.requests import Own, Target
from warren.client.target import encode_call, read_result, split_name, typed_decoder
from warren.errors import CallError
from warren.protocol import codecs, topology
from warren.protocol.codecs import CodecError, Decode
from warren.protocol.content import MAX_MESSAGE_SIZE, as_text
from warren.protocol.reply import undecodable_reply
from warren.protocol.request import root_field
from warren.protocol.running import get_running
from warren.protocol.signature import Method, method_of
from warren.protocol.streaming import DEFAULT_WINDOW, items_decoder, window_fields
from warren.protocol.uploading import UPLOAD, Kind, kind_of

_WINDOW = window_fields(DEFAULT_WINDOW)


def items_target(options: Options, kind: Kind, function: Callable[..., Any] | str) -> Target:
    """The target of a call of this kind.

    Raises:
        TypeError: a function that is not a method, or one of another kind.
        ValueError: a name that cannot be one, or an option that no call with items has.
    """
    _check(options, kind)
    method = None if isinstance(function, str) else method_of(function)
    if method is not None and kind_of(method) is not kind:
        raise TypeError(f"{method.full_name} {kind_of(method).shown}: call it with client.{kind_of(method).verb}")
    full_name = str(function) if method is None else method.full_name
    service, name = split_name(full_name)
    running = get_running()
    root = b"" if running is None or running.root_id is None else root_field(running.root_id)
    if kind is not UPLOAD:
        root += _WINDOW
    own = options.own or Own()
    return Target(
        "call",
        name + kind.mark,
        topology.service_queue(service),
        full_name,
        CONTENT_TYPES[options.encoding],
        fail_fast=options.fail_fast,
        wait=options.wait,
        headers=options.headers,
        declared=method,
        returns=int,
        own=Own(own.headers + root, None, own.root + root, own.on_progress),
        caller=None if running is None or options.named else running.service,
    )


def _check(options: Options, kind: Kind) -> None:
    """Refuse (`ValueError`) what would be ignored."""
    if options.resend:
        raise ValueError(
            f"resend=True: items are not sent again, and the call would begin anew: {kind.verb} with"
            f" options(resend=False), and begin another {kind.noun} where one is lost"
        )
    if options.expect is not None:
        raise ValueError(
            f"expect={options.expect}: one instance serves each {kind.noun}: leave expect to gather and broadcast"
        )


class Concluded(NamedTuple):
    """An end that a client's middleware has seen, and what it has made of it."""

    value: Any


class Prepared:
    """A call with items that is not begun, and how what comes of it is read.

    Attributes:
        kind: what goes between caller and handler.
        items, max_item: what is sent, of a call that sends some; and bytes of the largest.
        args, kwargs, context: of a call through `middleware`: the arguments, and the context that this runs in.
        call_id: its ``message_id``, once it has begun.
    """

    def __init__(
        self,
        options: Options,
        errors: dict[str, type[Exception]],
        kind: Kind,
        function: Callable[..., Any] | str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        items: Any = None,
        max_item: int = MAX_MESSAGE_SIZE,
        middleware: tuple[ClientMiddleware, ...] = (),
    ) -> None:
        """Write its request.

        Raises:
            CallError, TypeError, ValueError: it cannot be made; nothing was sent.
        """
        self.target = target = items_target(options, kind, function)
        self.items, self.max_item = items, max_item
        self.kind = kind
        hint = kwargs.pop("returns", Any) if target.declared is None else _given(target.declared, kind)
        typed_decoder(target.content_type, types.GenericAlias(list, (hint,)))
        self._item = hint
        if kind is UPLOAD:
            target.returns = hint
        self.options = options
        self.body = encode_call(target, args, kwargs, kind.verb)
        self._errors = errors
        self.middleware = middleware
        self.args, self.kwargs = (args, kwargs) if middleware else ((), {})
        self.context: Context | None = copy_context() if middleware else None
        self.call_id: str | None = None

    def read(self, outcome: Message | End) -> deque[Any] | None:
        """The items that have come; None at the end.

        Raises:
            Exception: what it has ended in instead.
        """
        if isinstance(outcome, Message):
            return self._read_items(outcome)
        if outcome.outcome is not None:
            self.conclude(outcome)
        return None

    def read_result(self, outcome: Message | End) -> Any:
        """The result of an upload.

        Raises:
            Exception: what it has ended in instead.
        """
        if isinstance(outcome, Message):
            raise self._broken("items came of a method that yields none")
        return self.conclude(outcome)

    def conclude(self, end: End) -> Any:
        """The result of an upload; of the others, how many items they had.

        Raises:
            Exception: what it has ended in instead.
        """
        if isinstance(end.outcome, Concluded):
            return end.outcome.value
        if isinstance(end.outcome, BaseException) and not isinstance(end.outcome, Exception):
            raise end.outcome
        result = read_result(end.outcome, self.target, self._errors)
        if self.kind is not UPLOAD and result != end.came:
            raise self._broken(f"{end.came} items came of a stream that has {result}")
        return result

    def _read_items(self, message: Message) -> deque[Any]:
        try:
            content_type = codecs.normalise(as_text(message.content_type))
            items = deque(_decoder(content_type, self._item)(message.body))
        except CodecError as error:
            raise self.locate(undecodable_reply(str(error))) from error
        if len(items) != message.number:
            raise self._broken(f"{len(items)} items came in a message that says {message.number}")
        for _ in range(message.before):
            items.popleft()
        return items

    def _broken(self, why: str) -> CallError:
        return self.locate(stream_broken(why))

    def locate(self, error: CallError) -> CallError:
        """Make an error say which call it is about."""
        return error.locate(method=self.target.name, queue=self.target.queue, call_id=self.call_id)


@lru_cache(maxsize=1024)
def _decoder(content_type: str, hint: Any) -> Decode:
    return items_decoder(content_type, hint, root="result")


def _given(method: Method, kind: Kind) -> Any:
    """What a caller gets of it: the type of one item, or of its result."""
    return method.result_hint if kind is UPLOAD else method.item_hint
