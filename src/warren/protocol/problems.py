"""How exceptions travel: what a reply says of one, and what the caller makes of that.

An exception is somebody else's object: its text, its attributes, even the name of its class may be code that fails.
`describe` is total: whatever it is given, it returns something that can be sent, and is bounded. A registered exception
travels as itself only if it survives the way. That is proven before it is sent: it is rebuilt from what would be sent,
and compared. Rebuilding runs no ``__init__`` that was written in Python: it would compute its arguments a second time.
"""

from __future__ import annotations

import math
import re
import traceback
from collections.abc import Callable, Iterable, Mapping
from types import MemberDescriptorType, WrapperDescriptorType
from typing import Any, TypeVar

import msgspec

from warren.errors import CallError, Code, Execution, Origin, RemoteError
from warren.protocol import codecs, evidence

T = TypeVar("T")

#: Bounds of what one error may bring along (characters, and bytes of JSON).
_TEXT = 10_000
_TRACEBACK = 50_000
_NAME = 200
_DETAILS = 64 * 1024
_NOTES = 20
_NODES = 10_000

_PRINTABLE = re.compile(r"[!-~]{1,100}\Z")
_SURROGATE = re.compile("[\ud800-\udfff]")
_NOT_OF_A_WORD = re.compile(r"[^A-Z0-9]+")
#: What every CallError has, and what the caller is told by other means than by `Problem.state`.
_EVIDENCE = frozenset(vars(CallError()))


class Problem(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=False):
    """The body of an error reply (RFC 9457, with members of our own).

    Attributes:
        title, detail, origin: see docs/wire.md.
        error: the exception's class name.
        details: its arguments, as far as JSON can carry them.
        state: its attributes, if it is a registered error that can be rebuilt; None for all others.
        notes: what was added to it with `add_note`.
        traceback: only where the service sends them.
    """

    title: str = ""
    detail: str = ""
    origin: str = Origin.SERVER.value
    error: str | None = None
    details: Any = None
    state: dict[str, Any] | None = None
    notes: list[str] = []
    traceback: str | None = None


def registry(errors: Iterable[type[Exception]]) -> dict[str, type[Exception]]:
    """The classes of errors that travel as themselves, by the name that they have on the wire.

    Raises:
        TypeError: something other than a list of exception classes.
        ValueError: two classes of one name, which the wire could not tell apart.
    """
    if isinstance(errors, type) or not isinstance(errors, Iterable):
        raise TypeError(f"errors={errors!r} is not a list of exception classes: say for example errors=[OutOfStock]")
    found: dict[str, type[Exception]] = {}
    for kind in errors:
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            raise TypeError(f"errors: {kind!r} is not an exception class: give classes, like errors=[OutOfStock]")
        other = found.setdefault(class_name(kind), kind)
        if other is not kind:
            raise ValueError(
                f"errors: {_where(other)} and {_where(kind)} have one name on the wire, {class_name(kind)}: rename one"
            )
    return found


def describe(
    error: BaseException,
    registered: Mapping[str, type[Exception]],
    *,
    tracebacks: bool = False,
    entered: bool = True,
    earlier: bool = False,
) -> tuple[CallError, Problem]:
    """What the caller is told of an exception that a handler or its middleware raised. Never raises.

    Args:
        error: any exception.
        registered: the errors that travel as themselves.
        tracebacks: whether to send its traceback.
        entered, earlier: as in `evidence.conclude`.

    Returns:
        The status and evidence, and the body; its `state` is None unless the caller gets the exception itself.
    """
    kind = type(error)
    name = class_name(kind)
    problem = Problem(
        error=name, details=_tried(lambda: _details(error), None), notes=_tried(lambda: _notes(error), [])
    )
    known = registered.get(name)
    if known is kind and problem.details is not None:
        problem.state = _tried(lambda: _surviving(error, known), None)
    if tracebacks:
        problem.traceback = _tried(lambda: _traceback(error), None)
    if issubclass(kind, CallError):
        plain = harmless(error)
        if problem.state is None:
            plain.message = _of_nested(error, plain.message)
        status = evidence.raised(plain, earlier=earlier, entered=entered)
        if problem.state is None and not isinstance(status, RemoteError):
            problem.error = problem.details = None
        return status, problem
    text = _text_of(error)
    message = f"{name}: {text}" if text else name
    return evidence.conclude(evidence.HANDLER_EXCEPTION, message, earlier=earlier, entered=entered), problem


def _of_nested(error: BaseException, message: str) -> str:
    """The message of a call that a handler made, with its method: the caller knows only what it has called itself."""
    method = _attribute(error, "method")
    return sendable(f"{method}: {message}", _TEXT) if isinstance(method, str) and method else message


def harmless(error: BaseException) -> CallError:
    """A plain copy of a `CallError` whose every part is what it should be. Never raises."""
    return CallError(
        sendable(_attribute(error, "message"), _TEXT),
        code=_member(Code, _attribute(error, "code"), Code.UNKNOWN),
        reason=_word(_attribute(error, "reason")),
        execution=_member(Execution, _attribute(error, "execution"), Execution.UNKNOWN),
        origin=_member(Origin, _attribute(error, "origin"), Origin.SERVER),
    )


def encode(problem: Problem, error: CallError) -> bytes:
    """The body of an error reply. Never raises.

    Args:
        problem: as `describe` made it, or one with nothing in it.
        error: as `harmless` made it.
    """
    problem.title = f"{error.code.value}/{error.reason}"
    problem.detail, problem.origin = error.message, error.origin.value
    if problem.traceback is not None:
        problem.traceback = sendable(problem.traceback, _TRACEBACK)
    plain = Problem(problem.title, problem.detail, problem.origin)
    return _tried(lambda: codecs.encode(codecs.PROBLEM, problem), b"") or codecs.encode(codecs.PROBLEM, plain)


def rebuild(problem: Problem, status: CallError, registered: Mapping[str, type[Exception]]) -> Exception | None:
    """The registered exception that a reply tells of; None where there is none, or it cannot be rebuilt.

    Args:
        problem: the reply's body.
        status: what the reply's headers say; a `CallError` takes its evidence from there.
        registered: the errors that travel as themselves.
    """
    kind = registered.get(problem.error or "")
    if kind is None or problem.state is None or not isinstance(problem.details, list):
        return None
    try:
        error = _made(kind, problem.details, problem.state)
        if isinstance(error, CallError):
            error.__dict__ |= {name: vars(status)[name] for name in _EVIDENCE}
    except Exception:  # another version of the class: a RemoteError is still the truth
        return None
    for note in problem.notes:
        error.add_note(note)
    return error


def class_name(kind: type) -> str:
    """The name of a class, whatever its metaclass says."""
    return sendable(type.__dict__["__name__"].__get__(kind), _NAME)


def in_words(error: BaseException) -> str:
    """What an exception is and says, whatever its own code does when it is asked."""
    text = sendable(error)
    return f"{class_name(type(error))}: {text}" if text else class_name(type(error))


def sendable(value: object, limit: int = _TEXT) -> str:
    """A value's text without what UTF-8 cannot carry, like odd bytes of a file name, and cut to `limit` characters."""
    text = _tried(lambda: str.__getitem__(value if isinstance(value, str) else str(value), slice(limit + 1)), None)
    if text is None:
        return f"(a {class_name(type(value))} without a text)"
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= limit else text[: limit - 1] + "…"


# --- whether it survives ------------------------------------------------------------------------------------------


def _surviving(error: BaseException, kind: type[Exception]) -> dict[str, Any] | None:
    """The attributes to send with an exception; None if what would be rebuilt from them is not the same."""
    state = _attributes(error)
    if issubclass(kind, CallError):
        state = {name: value for name, value in state.items() if name not in _EVIDENCE}
    arguments = list(_arguments(error))
    if not _is_plain([state, arguments]) or len(codecs.encode(codecs.PROBLEM, [state, arguments])) > _DETAILS:
        return None
    twin = _made(kind, arguments, state)
    return state if issubclass(kind, CallError) or _are_twins(twin, error) else None


def _are_twins(twin: BaseException, error: BaseException) -> bool:
    same_text = str(twin) == str(error)
    return same_text and _arguments(twin) == _arguments(error) and _attributes(twin).keys() == _attributes(error).keys()


def _made(kind: type[Exception], arguments: list[Any], state: Mapping[str, Any]) -> Exception:
    """An exception of these parts, without running a constructor that was written in Python."""
    error: Exception = kind.__new__(kind, *arguments)
    if type(error) is not kind:
        raise TypeError(f"{kind!r} makes objects of another class")
    initialise = next(i for c in kind.__mro__ if isinstance(i := vars(c).get("__init__"), WrapperDescriptorType))
    initialise(error, *arguments)  # it fills the fields of errors that are written in C, like errno
    for name, value in state.items():
        if not name.startswith("__"):
            object.__setattr__(error, name, value)  # frozen dataclasses have one of their own
    return error


def _attributes(error: BaseException) -> dict[str, Any]:
    """What an exception has, in its dictionary, in slots, and in the fields of one that is written in C."""
    found = {}
    for kind in type(error).__mro__:
        for name, member in vars(kind).items():
            if isinstance(member, MemberDescriptorType) and _is_set(member, error, kind):
                found[name] = member.__get__(error)
    return {name: value for name, value in (found | _own_dict(error)).items() if not str(name).startswith("__")}


_FROM_A_CLASS_STATEMENT = 1 << 9  # Py_TPFLAGS_HEAPTYPE


def _is_set(member: Any, error: BaseException, kind: type) -> bool:
    try:
        value = member.__get__(error)
    except AttributeError:
        return False
    return value is not None or bool(kind.__flags__ & _FROM_A_CLASS_STATEMENT)


def _is_plain(value: Any) -> bool:
    """Whether JSON gives back exactly this value; it runs nobody's code to find out."""
    found, nodes = [value], 1
    while found:
        one = found.pop()
        if type(one) is list:
            parts = one
        elif type(one) is dict:
            parts = [*one, *one.values()]
        elif _is_plain_scalar(one):
            continue
        else:
            return False
        nodes += len(parts)
        if nodes > _NODES or (type(one) is dict and not all(type(key) is str for key in one)):
            return False
        found += parts
    return True


def _is_plain_scalar(value: Any) -> bool:
    if type(value) is str:
        return not _SURROGATE.search(value)
    if type(value) is int:
        return -(2**63) <= value < 2**64
    return value is None or type(value) is bool or (type(value) is float and math.isfinite(value))


# --- parts of somebody else's object ------------------------------------------------------------------------------


def _tried(part: Callable[[], T], otherwise: T) -> T:
    """What `part` returns; an exception's own code may raise anything, and none of it may cost the caller its reply."""
    try:
        return part()
    except BaseException:
        return otherwise


def _attribute(error: BaseException, name: str) -> Any:
    return _tried(lambda: getattr(error, name), None)


def _own_dict(error: BaseException) -> dict[str, Any]:
    found: dict[str, Any] = BaseException.__dict__["__dict__"].__get__(error)
    return found


def _arguments(error: BaseException) -> tuple[Any, ...]:
    found: tuple[Any, ...] = BaseException.__dict__["args"].__get__(error)
    return found


def _text_of(error: BaseException) -> str:
    text = _tried(lambda: str(error), None)
    return (
        f"(its text is not available: its {class_name(type(error))}.__str__ fails)" if text is None else sendable(text)
    )


def _details(error: BaseException) -> list[Any] | None:
    """An exception's arguments as JSON gives them back; None where it cannot, or where they are large."""
    body = codecs.encode(codecs.PROBLEM, list(_arguments(error)))
    if len(body) > _DETAILS:
        return None
    details: list[Any] = msgspec.json.decode(body)
    return details


def _notes(error: BaseException) -> list[str]:
    notes = _own_dict(error).get("__notes__", [])
    return [sendable(note, 1000) for note in list.__getitem__(notes, slice(_NOTES)) if isinstance(note, str)]


def _traceback(error: BaseException) -> str:
    """Its end, where it is too long: that is where the error is."""
    return sendable("".join(traceback.format_exception(error))[-_TRACEBACK:], _TRACEBACK)


def _member(kind: type[T], value: object, default: T) -> T:
    return _tried(lambda: kind(value), default)  # type: ignore[call-arg]


def _word(reason: object) -> str:
    """A reason that fits into a header: as it is, if it is printable and short."""
    text = sendable(reason, 100)
    return text if _PRINTABLE.match(text) else _NOT_OF_A_WORD.sub("_", text.upper()).strip("_") or "UNKNOWN"


def _where(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
