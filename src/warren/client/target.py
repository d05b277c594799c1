"""What is called, and how requests are written and replies read: what both clients have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final, Literal

from warren import checks
from warren.amqp.frames import Properties
from warren.client.options import CONTENT_TYPES, Options, check_names, resends
from warren.client.pipeline import Pipeline, pipeline_target, place
from warren.client.requests import Own, Reply, Target
from warren.errors import CallError
from warren.protocol import codecs, evidence, topology
from warren.protocol import signature as methods
from warren.protocol.codecs import CodecError, Decode
from warren.protocol.problems import rebuild
from warren.protocol.reply import read_reply, undecodable_reply
from warren.protocol.request import encode_headers, root_field
from warren.protocol.running import get_running
from warren.protocol.signature import Method, method_of
from warren.protocol.uploading import kind_of

_MOST_TARGETS: Final = 10_000


class Targets(dict[tuple[Any, ...], Target]):
    """The targets that a client or view knows already.

    Attributes:
        usual: of a view with headers, which may be made for one call: those without, which its own are made from. All
            views share them whose options have the same `shape`.
    """

    __slots__ = ("usual",)

    def __init__(self, usual: Targets | None = None) -> None:
        self.usual = usual


def find_target(
    known: Targets, options: Options, kind: Literal["call", "cast"], function: Callable[..., Any] | str
) -> Target:
    """The target of a declared function or of a name.

    Raises:
        TypeError: a function that is not a method.
        ValueError: a name that cannot be one.
    """
    running = get_running()
    caller = None if running is None or options.named else running.service
    key: tuple[Any, ...] = (function, kind) if caller is None else (function, kind, caller)
    try:
        target = known.get(key)
    except TypeError:  # a callable that cannot be a key: no method, in all likelihood
        target, known, key = None, Targets(), ()
    if target is None:
        target = _learn(known, key, options, kind, function, caller)
    return target if running is None or running.root_id is None else _rooted(target, running.root_id)


def _rooted(target: Target, root_id: str) -> Target:
    """The target of a call that is made while another one is served."""
    root = root_field(root_id)
    own = target.own or _NOTHING_OWN
    return target.having(target.headers, Own(own.headers + root, None, own.root + root, own.on_progress))


def _learn(
    known: Targets,
    key: tuple[Any, ...],
    options: Options,
    kind: Literal["call", "cast"],
    function: Callable[..., Any] | str,
    caller: str | None,
) -> Target:
    """A target that is asked for the first time."""
    usual = known if known.usual is None else known.usual
    target = usual.get(key)
    if target is None:
        target = _remember(usual, key, _make_target(options, kind, function, caller))
    own = options.own
    if own is None:
        return target
    return _remember(known, key, target.having(options.headers, own))


def _remember(known: Targets, key: tuple[Any, ...], target: Target) -> Target:
    if len(known) >= _MOST_TARGETS:
        known.clear()
    known[key] = target
    return target


def _make_target(
    options: Options, kind: Literal["call", "cast"], function: Callable[..., Any] | str, caller: str | None
) -> Target:
    method = None if isinstance(function, str) else method_of(function)
    if method is not None and (method.streams or method.takes):
        other = kind_of(method)
        raise TypeError(f"{method.full_name} {other.shown}: call it with client.{other.verb}")
    if isinstance(function, Pipeline):
        return pipeline_target(function, options, kind, caller)
    full_name = str(function) if method is None else method.full_name
    service, name = split_name(full_name)
    return Target(
        kind,
        name,
        topology.service_queue(service),
        full_name,
        CONTENT_TYPES[options.encoding],
        fail_fast=options.fail_fast and kind == "call",
        resend=resends(options, method),
        wait=options.wait,
        declared=method,
        caller=caller,
    )


def returning(target: Target, kwargs: dict[str, Any]) -> Target:
    """The target of a call by name that says what is returned: ``returns`` is not one of its arguments.

    Raises:
        TypeError: values of this type cannot travel.
    """
    if target.declared is not None or "returns" not in kwargs:
        return target
    hint = kwargs.pop("returns")
    typed_decoder(target.content_type, hint)
    return replace(target, returns=hint)


def with_own(target: Target, headers: dict[str, Any], message_id: bytes | None) -> Target:
    """The target of one request with headers or a ``message_id`` of its own.

    Raises:
        ValueError, TypeError: headers that cannot be sent.
    """
    usual, own = target.headers or {}, target.own or _NOTHING_OWN
    if headers == usual:
        return (
            target
            if message_id is None
            else target.having(usual, Own(own.headers, message_id, own.root, own.on_progress))
        )
    check_names(headers)
    if any(name not in headers or headers[name] != value for name, value in usual.items()):
        return target.having(headers, Own(encode_headers(headers) + own.root, message_id, own.root, own.on_progress))
    added = {name: value for name, value in headers.items() if name not in usual} if usual else headers
    written = own.headers + encode_headers(added, len(own.headers) - len(own.root))
    return target.having(headers, Own(written, message_id, own.root, own.on_progress))


_NOTHING_OWN = Own()


@lru_cache(maxsize=1024)
def typed_decoder(content_type: str, hint: Any) -> Decode:
    """The decoder for results of calls by name that say what is returned.

    Raises:
        TypeError: values of this type cannot travel, or it is no type.
    """
    try:
        codecs.check_hint(hint, result=True)
        return codecs.decoder(content_type, hint)
    except (TypeError, ValueError) as error:
        raise TypeError(f"returns={hint!r}: {error}; give a type of what is returned, such as list[int]") from error


def split_name(full_name: str) -> tuple[str, str]:
    """The service and the method of ``service.method``.

    Raises:
        ValueError: it is not of that form.
    """
    service, _, name = full_name.rpartition(".")
    if not service or not name:
        raise ValueError(f"{full_name!r} does not name a method: say 'service.method', for example 'calc.fib'")
    return service, name


def encode_call(target: Target, args: tuple[Any, ...], kwargs: dict[str, Any], verb: str = "") -> bytes:
    """The body of a call; `verb` is the client's method that was called, where it is not the target's kind.

    Raises:
        InvalidArgument: an argument that the encoding cannot carry.
        TypeError: arguments that do not fit the function: one is missing, unknown or given twice.
    """
    encode = methods.encode_arguments if target.declared is None else target.declared.encode_arguments
    try:
        return encode(target.content_type, args, kwargs)
    except TypeError as error:
        if hint := _misplaced(target, args, kwargs, verb or target.kind):
            raise TypeError(f"{error}{hint}") from None
        raise
    except CodecError as error:
        message = _blamed(target, args, kwargs) or f"the arguments cannot be sent: {error}"
        raise evidence.conclude(evidence.ENCODE, message, method=target.name, queue=target.queue) from error


def _blamed(target: Target, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Which of the arguments cannot be encoded, and why; nothing if each can be by itself."""
    names = () if target.declared is None else target.declared.positional
    by_position = [(names[at] if at < len(names) else at + 1, value) for at, value in enumerate(args)]
    for name, value in [*by_position, *kwargs.items()]:
        try:
            codecs.encode(target.content_type, [value])
        except CodecError as error:
            return f"argument {name!r} cannot be sent: {error}"
    return ""


def _misplaced(target: Target, args: tuple[Any, ...], kwargs: dict[str, Any], verb: str) -> str:
    """The call that was meant, if an option was written among the arguments; else nothing."""
    known = {} if target.declared is None else target.declared.hints
    unknown = {name: _shown(value) for name, value in kwargs.items() if name not in known}
    options = set(checks.CALL_OPTIONS) & unknown.keys()
    rest = [f"{name}={_shown(value)}" for name, value in kwargs.items() if name not in options]
    name = repr(target.name) if target.declared is None else target.declared.name
    return checks.misplaced(unknown, f"{verb}({', '.join([name, *map(_shown, args), *rest])})")


def _shown(value: object) -> str:
    """A small value as it is written in Python; others may be long, or nobody's business."""
    return repr(value) if isinstance(value, (bool, int, float)) else "…"


def bare_target(options: Options, queue: Any) -> Target:
    """The queue of a tutorial-six server.

    Raises:
        TypeError, ValueError: something that cannot be the name of a queue.
    """
    if not isinstance(queue, str):
        raise TypeError(f"{queue!r} is not the name of a queue: say for example call_bare('rpc_queue', b'30')")
    resend = resends(options, None)
    return Target("bare", "", queue, queue, codecs.TEXT, options.fail_fast, resend, options.wait)


def encode_bare(body: object) -> bytes:
    """A bare body goes as it is.

    Raises:
        TypeError: it is neither bytes nor text.
    """
    if not isinstance(body, (bytes, str, bytearray, memoryview)):
        raise TypeError(f"a bare body must be bytes or str, not {type(body).__name__}: encode it first")
    return body.encode() if isinstance(body, str) else bytes(body)


#: In place of an outcome that has been raised. Not `del`: mypyc makes code of it that crashes.
_NOTHING: Final[Reply] = (Properties(), b"")


def read_result(outcome: Reply | Exception, target: Target, errors: dict[str, type[Exception]]) -> Any:
    """The result that a call ended in, or raise what it ended in instead."""
    if isinstance(outcome, Exception):
        try:
            raise outcome
        finally:
            outcome = _NOTHING  # else it keeps this frame, and the frame keeps it: a cycle, and with it the client
    p, body = outcome
    method = target.declared
    try:
        content_type = read_reply(p, body, lambda what, status: rebuild(what, status, _known(method, errors)))
        if method is not None:
            return method.decode_result(content_type, body)
        if target.returns is not Any:
            return typed_decoder(content_type, target.returns)(body)
        return methods.untyped_decoder(content_type)(body)
    except CodecError as damage:  # another name each: mypyc gives a name one type
        raise _locate(undecodable_reply(str(damage)), target, p) from damage
    except CallError as error:
        raise _locate(error, target, p) from error.__cause__
    except Exception as own:
        own.add_note(f"raised by the handler of {target.name}")
        raise


def read_bare(outcome: Reply | Exception, target: Target) -> bytes:
    """The body that a bare call ended in."""
    if isinstance(outcome, Exception):
        try:
            raise outcome
        finally:
            outcome = _NOTHING  # else it keeps this frame, and the frame keeps it: a cycle, and with it the client
    p, body = outcome
    try:
        read_reply(p, body, lambda _problem, _status: None)
    except CallError as error:
        raise _locate(error, target, p) from error.__cause__
    return body


def read_confirm(outcome: Exception | None) -> None:
    """Raise what a cast ended in, unless the broker confirmed it."""
    if outcome is not None:
        try:
            raise outcome
        finally:
            outcome = None


def _locate(error: CallError, target: Target, p: Any) -> CallError:
    call_id = (p.correlation_id or b"").decode("utf-8", "replace")
    if target.stages:
        place(error, target)
    return error.locate(method=target.name, queue=target.queue, call_id=call_id or None)


def _known(method: Method | None, errors: dict[str, type[Exception]]) -> dict[str, type[Exception]]:
    """The errors that travel as themselves: the client's, and those of the service whose function was called."""
    return errors if method is None else method.errors | errors
