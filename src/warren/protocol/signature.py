"""A method of a service: a Python signature turned into decoders and encoders.

Both sides use it: the server to decode arguments and encode results, the caller (where it shares the code) to
encode arguments and decode results. Pure: no I/O, no state beyond what the signature says.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, Final, Literal, Never, NoReturn, cast, get_args, get_type_hints

import msgspec

from warren import checks
from warren.protocol import codecs, complaints
from warren.protocol.codecs import JSON, MSGPACK, Decode, ValidationError
from warren.protocol.spelling import returns_of, signature_of

DeliveryMode = Literal["report", "at-least-once", "at-most-once"]
Arguments = tuple[tuple[Any, ...], dict[str, Any]]

_ATTRIBUTE: Final = "__warren_method__"
_IDENTIFIER: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")
_LONGEST_NAME: Final = 200
#: What passes its check as it is, where it is of the declared type itself.
PLAIN: Final = frozenset({str, int, float, bool, bytes})
_KINDS: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True, eq=False)
class Method:
    """One callable method. Made by `Service.method`, found again by `method_of`.

    Attributes:
        function: what a worker runs.
        declared: what callers name; the same function, unless it needs more than its arguments.
        is_async: whether to call it on the event loop. What a function of the other kind returns may be awaitable all
            the same, as a decorator made it: see `is_awaitable`.
        delivery: what happens when a worker dies during the call (see docs/reference.md).
        max_attempts: how many workers may be lost while they hold an ``at-least-once`` request; then it is set aside.
        default: whether it answers bare requests, those without a method name.
        time_limit: seconds that one run of an ``async`` handler may take; None for no limit but the caller's.
        concurrency: how many runs of it there may be at a time in one worker; None for no limit but the service's.
        errors: exception classes that travel as themselves, by name.
        signature: for people: how it is called, ``place(item: str, qty: int = 1)``.
        returns: for people: the type of its result; empty where nothing is said of it.
        streams: whether it yields items; its result is then how many there were.
        item_hint: their type.
        takes, taken_hint: whether its caller sends it items, which are none of its arguments; and their type.
        broadcast: whether all instances may be asked at once.
        resumable: whether each run yields the same items, so that another goes on where one was lost.
    """

    service: str
    name: str
    function: Callable[..., Any]
    declared: Callable[..., Any]
    delivery: DeliveryMode
    max_attempts: int
    default: bool
    time_limit: float | None
    concurrency: int | None
    errors: dict[str, type[Exception]]
    is_async: bool
    positional: tuple[str, ...]
    keyword_only: tuple[str, ...]
    by_position_only: frozenset[str]
    needs_names: bool
    required: int
    required_names: frozenset[str]
    hints: dict[str, Any]
    result_hint: Any
    signature: str
    returns: str
    _by_position: type[msgspec.Struct]
    _by_name: type[msgspec.Struct]
    _decoders: dict[str, tuple[Decode, Decode]] = field(default_factory=dict)
    _result_decoders: dict[str, Decode] = field(default_factory=dict)
    streams: bool = False
    item_hint: Any = Any
    takes: bool = False
    taken_hint: Any = Any
    broadcast: bool = False
    resumable: bool = False

    @property
    def full_name(self) -> str:
        return f"{self.service}.{self.name}"

    def encode_arguments(self, content_type: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """The request's body: an array when all arguments are positional, else an object.

        Raises:
            TypeError: arguments that do not fit the signature: what a local call would raise.
            CodecError: an argument that the encoding cannot carry.
        """
        if kwargs:
            named = dict(zip(self.positional, args, strict=False)) | kwargs
            if len(named) != len(args) + len(kwargs) or not self._fits(named, kwargs):
                self._refuse(args, kwargs)
            return codecs.encode(content_type, named)
        if self.needs_names or not self.required <= len(args) <= len(self.positional):
            self._refuse(args, kwargs)
        return codecs.encode(content_type, args)

    def _fits(self, named: dict[str, Any], kwargs: dict[str, Any]) -> bool:
        known = named.keys() <= self.hints.keys() and self.required_names <= named.keys()
        return known and self.by_position_only.isdisjoint(kwargs)

    def _refuse(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> NoReturn:
        """Raise what a local call would raise, in its words where the function has a name, and how to call it."""
        try:
            if hasattr(self.function, "__name__"):
                inspect.getcallargs(self.function, *args, **kwargs)
            inspect.signature(self.function).bind(*args, **kwargs)
        except TypeError as error:
            called = "" if "() " in str(error) else f"{self.name}() "
            raise TypeError(f"{called}{error}{self._called}") from None
        raise TypeError(f"{self.name}() does not take these arguments{self._called}")

    @property
    def _called(self) -> str:
        """The end of what is said of arguments that do not fit."""
        return f"; the signature is {self.signature}"

    def decode_arguments(self, content_type: str, body: bytes) -> Arguments:
        """Decode and validate a request's body.

        Raises:
            CodecError: the body does not fit the encoding or the signature.
        """
        try:
            if content_type not in (JSON, MSGPACK):
                return self._decode_single(content_type, body)
            by_position, by_name = self._decoders_for(content_type)
            if body[:1] != b"[" and codecs.is_map(content_type, body):
                return self._named(by_name, body)
            if self.needs_names:
                raise ValidationError("it has keyword-only arguments without a default: send an object")
            try:
                return msgspec.structs.astuple(by_position(body)), {}
            except ValidationError:
                if codecs.is_scalar(content_type, body):  # a peer that knows nothing of arguments
                    return self._decode_single(content_type, body, strict=True)
                raise
        except ValidationError as error:
            raise ValidationError(f"{error}{self._called}{_misplaced(error)}") from error

    def _named(self, decode: Decode, body: bytes) -> Arguments:
        values = msgspec.structs.astuple(decode(body))
        count = len(self.positional)
        return values[:count], dict(zip(self.keyword_only, values[count:], strict=True))

    def encode_result(self, content_type: str, value: Any) -> bytes:
        """Validate a handler's result against its annotation and encode it.

        Raises:
            CodecError: the result is not what the method declares, or cannot be encoded.
        """
        hint = self.result_hint
        if hint is not Any and not (type(value) is hint and hint in PLAIN):
            value = codecs.convert(value, hint)
        return codecs.encode(content_type, value)

    def decode_result(self, content_type: str, body: bytes) -> Any:
        """Decode a reply's body into the annotated result type (`CodecError` where it does not fit)."""
        decode = self._result_decoders.get(content_type)
        if decode is None:
            decode = codecs.decoder(content_type, self.result_hint)
            self._result_decoders[content_type] = decode
        return decode(body)

    def _decoders_for(self, content_type: str) -> tuple[Decode, Decode]:
        pair = self._decoders.get(content_type)
        if pair is None:
            pair = (
                codecs.decoder(content_type, self._by_position, root=self.positional),
                codecs.decoder(content_type, self._by_name, root=self.positional),
            )
            self._decoders[content_type] = pair
        return pair

    def _decode_single(self, content_type: str, body: bytes, *, strict: bool = False) -> Arguments:
        """A body that is not a list of arguments is the one argument itself, as a bare peer sends it."""
        if self.required > 1 or self.needs_names:
            raise ValidationError(f"it takes named or several arguments: send them as {JSON}")
        if not body and not self.required:
            return (), {}
        if not self.positional:
            raise ValidationError("it takes no argument: send none")
        name = self.positional[0]
        return (codecs.decoder(content_type, self.hints[name], strict=strict, root=name)(body),), {}


def _misplaced(error: ValidationError) -> str:
    """The call that was meant, if the argument that is not known is an option."""
    unknown = {name: "…" for name in checks.NO_ARGUMENTS if str(error) == complaints.unknown(name)}
    return checks.misplaced(unknown, "call(…)")


def encode_arguments(content_type: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """The body of a call by name: an array of positional or an object of named arguments, not both."""
    if args and kwargs:
        raise TypeError("a call by name takes positional or named arguments, not both: name all or none")
    return codecs.encode(content_type, kwargs or args)


@lru_cache(maxsize=64)
def untyped_decoder(content_type: str) -> Decode:
    """The decoder for results whose type is not known here: a call by name."""
    return codecs.decoder(content_type)


def method_of(function: Callable[..., Any], otherwise: str = "call it by name") -> Method:
    """The method that a function was declared as; also for what a decorator above the declaration made of it.

    Raises:
        TypeError: it was not declared with ``@service.method``; `otherwise` says what else can be done.
    """
    method = getattr(function, _ATTRIBUTE, None)
    if not isinstance(method, Method):
        raise TypeError(f"{function!r} is not a method of a service: decorate it with @service.method, or {otherwise}")
    return method


def is_awaitable(value: object) -> bool:
    """Whether a function that is not ``async def`` has returned what is still to be awaited, on the event loop.

    Cheap, as every result is asked: coroutines, futures, and whatever has ``__await__``.
    """
    return hasattr(type(value), "__await__")


def make_method(
    service: str,
    function: Callable[..., Any],
    *,
    name: Any,
    delivery: Any,
    max_attempts: Any,
    default: Any,
    time_limit: Any = None,
    concurrency: Any = None,
    broadcast: Any = False,
    errors: dict[str, type[Exception]],
    declared: Callable[..., Any] | None = None,
) -> Method:
    """Read a function's signature.

    Args:
        name, delivery, max_attempts, default, time_limit, concurrency, broadcast: as a user gave them. What is wrong is
            said here: if they had other types than Any, compiled code would refuse it before, in words of its own.
        declared: the function that it was made of, which callers name, if that is another one.

    Raises:
        TypeError: a signature that cannot be called remotely.
        ValueError: an option out of range, or a name that cannot be called.
    """
    name = name_of(service, function) if name is None else name
    checks.flag("default", default)
    checks.flag("broadcast", broadcast)
    time_limit = None if time_limit is None else checks.seconds("time_limit", time_limit)
    _check_options(name, delivery, max_attempts, concurrency)
    where = f"{service}.{name}"
    function = plain_function(where, function)
    parameters = _parameters(where, function)
    hints = hints_of(where, function)
    for parameter, hint in hints.items():
        _check_hint(where, parameter, hint)
    positional = tuple(p.name for p in parameters if p.kind in _KINDS)
    required = sum(p.default is p.empty for p in parameters if p.kind in _KINDS)
    needs_names = any(p.default is p.empty for p in parameters if p.kind not in _KINDS)
    if default and (required > 1 or not positional or needs_names):
        raise TypeError(
            f"{where}: the default method answers plain text, so it takes exactly one argument: declare one,"
            " or leave default out"
        )
    fields = [_field(where, p, hints) for p in parameters]
    count = len(positional)
    return Method(
        service=service,
        name=name,
        function=function,
        declared=function if declared is None else declared,
        delivery=delivery,
        max_attempts=max_attempts,
        default=default,
        time_limit=time_limit,
        concurrency=concurrency,
        errors=errors,
        is_async=is_async(function),
        positional=positional,
        keyword_only=tuple(p.name for p in parameters[count:]),
        by_position_only=frozenset(p.name for p in parameters if p.kind is p.POSITIONAL_ONLY),
        needs_names=needs_names,
        required=required,
        required_names=frozenset(p.name for p in parameters if p.default is p.empty),
        hints={p.name: hints.get(p.name, Any) for p in parameters},
        result_hint=hints.get("return", Any),
        signature=signature_of(name, parameters, hints),
        returns=returns_of(hints),
        _by_position=_struct(where, fields[:count], array_like=True),
        _by_name=_struct(where, fields, array_like=False),
        broadcast=broadcast,
    )


def mark(method: Method) -> None:
    """Note on its function that it is this method, for `method_of` to find.

    Raises:
        TypeError: the function takes no attributes.
        ValueError: it is a method already, so `method_of` could find only one of the two.
    """
    other = getattr(method.declared, _ATTRIBUTE, None)
    # A mark that `functools.wraps` has copied is that of another function.
    if isinstance(other, Method) and other.declared is method.declared:
        raise ValueError(
            f"{method.full_name}: this function is {other.full_name} already, and a call of it could mean either;"
            " declare a function of its own that calls it"
        )
    try:
        setattr(method.declared, _ATTRIBUTE, method)
    except (AttributeError, TypeError) as error:
        raise TypeError(
            f"{method.full_name}: {method.declared!r} cannot be marked; declare a plain function"
        ) from error


def plain_function(where: str, function: Any) -> Callable[..., Any]:
    """What is called when `function` is: the function in a static method.

    Raises:
        TypeError: it cannot be called as it stands, or belongs to an object.
    """
    if isinstance(function, staticmethod):
        return plain_function(where, function.__func__)
    if isinstance(function, classmethod) or inspect.ismethod(function):
        raise TypeError(
            f"{where}: {function!r} is bound to a class or an object, which a caller elsewhere does not have;"
            " declare a plain function that calls it"
        )
    if not callable(function):
        raise TypeError(f"{where}: {function!r} is not a function: declare one that calls it")
    if isinstance(function, type):
        raise TypeError(f"{where}: {function!r} is a class; declare a function that returns what it makes")
    return cast("Callable[..., Any]", function)


def is_async(function: Callable[..., Any]) -> bool:
    """Whether a call returns a coroutine at once: an ``async def``, a partial of one, an object whose call is one."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def name_of(service: str, function: Callable[..., Any]) -> str:
    if isinstance(function, str):
        raise TypeError(f"{service}: a method is named by keyword: say @service.method(name={function!r})")
    name = getattr(function, "__name__", None)
    if not isinstance(name, str):  # a partial, or an object that can be called
        raise TypeError(f"{service}: {function!r} has no name; say @service.method(name='…') or use a plain function")
    return name


def _check_hint(where: str, parameter: str, hint: Any) -> None:
    result = parameter == "return"
    if result and hint in (NoReturn, Never):
        return
    try:
        codecs.check_hint(hint, result=result)
    except TypeError as error:
        what = "the result" if result else f"argument {parameter!r}"
        raise TypeError(f"{where}: {what}: {error}") from error


def _check_options(name: object, delivery: object, max_attempts: object, concurrency: object) -> None:
    if not (isinstance(name, str) and _IDENTIFIER.match(name) and len(name) <= _LONGEST_NAME):
        raise ValueError(
            f"method name {name!r}: it must be made of letters, digits, '_' and '-', at most {_LONGEST_NAME}, and begin"
            " with a letter or '_'; a dot would end the service's name"
        )
    if delivery not in get_args(DeliveryMode):
        raise ValueError(f"delivery={delivery!r} is not one of {', '.join(get_args(DeliveryMode))}")
    checks.whole("max_attempts", max_attempts)
    if concurrency is not None:
        checks.whole("concurrency", concurrency)


def _parameters(where: str, function: Callable[..., Any]) -> list[inspect.Parameter]:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{where}: generators cannot be methods; return a list")
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError as error:  # of some functions that are written in C
        raise TypeError(f"{where}: {error}; declare a plain function") from error
    if parameters and is_of_a_class(function) and parameters[0].name in ("self", "cls"):
        raise TypeError(
            f"{where}: {parameters[0]} would be an argument to send; declare a plain function or a static method"
        )
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"{where}: {parameter} has no type to validate; take a list or a dict instead")
    return parameters


def is_of_a_class(function: Callable[..., Any]) -> bool:
    """Whether it was written in the body of a class."""
    scope = str(getattr(function, "__qualname__", "")).rpartition(".")[0]
    return bool(scope) and not scope.endswith("<locals>")


def hints_of(where: str, function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(_annotated(function), include_extras=True)
    except Exception as error:  # a hint in quotes is code, and may fail in any way
        raise TypeError(
            f"{where}: cannot resolve its type hints: {error}; import what they name where the module is run"
        ) from error


def _annotated(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function that has the annotations of what is called: `inspect.signature` looks there as well."""
    while isinstance(function, partial):
        function = function.func
    if not hasattr(function, "__annotations__"):
        function = type(function).__call__  # an object that can be called
    return cast("Callable[..., Any]", inspect.unwrap(function))


def _field(where: str, parameter: inspect.Parameter, hints: dict[str, Any]) -> tuple[Any, ...]:
    hint = hints.get(parameter.name, Any)
    default = parameter.default
    if default is parameter.empty:
        return parameter.name, hint
    # A factory, as msgspec refuses mutable defaults; it hands out the one object that a local call would use.
    return parameter.name, hint, msgspec.field(default_factory=lambda: default)


def _struct(where: str, fields: list[tuple[Any, ...]], *, array_like: bool) -> type[msgspec.Struct]:
    try:
        struct = msgspec.defstruct(
            "Arguments", fields, array_like=array_like, forbid_unknown_fields=True, kw_only=not array_like
        )
        msgspec.json.Decoder(struct)  # an unsupported hint shows here, at declaration, not at the first call
    except TypeError as error:
        raise TypeError(f"{where}: {error}") from error
    return struct
