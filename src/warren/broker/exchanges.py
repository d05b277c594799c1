"""Exchanges and their bindings: which queues a message goes to.

A destination is a queue or another exchange. Each type of exchange is a class with one idea of matching.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from warren.amqp.frames import FrameError
from warren.amqp.tables import decode_value
from warren.broker.message import Message
from warren.broker.tables import Value

Arguments = Mapping[str, Value]
BindingKey = tuple["Destination", str, bytes]  # to, routing key, the arguments as they were encoded

#: Routes that a topic exchange remembers; keys with a different id in each are not worth more memory.
_REMEMBERED = 1000


class Destination(Protocol):
    """What an exchange can be bound to."""

    name: str


@dataclass(frozen=True, slots=True)
class ExchangeOptions:
    """How an exchange was declared."""

    durable: bool = False
    auto_delete: bool = False
    internal: bool = False
    alternate: str | None = None


class Binding:
    """One binding of an exchange."""

    __slots__ = ("arguments", "key", "to")

    def __init__(self, to: Destination, key: str, arguments: Arguments) -> None:
        self.to = to
        self.key = key
        self.arguments = arguments


class Exchange:
    """An exchange; the subclasses say what matches."""

    type = ""

    def __init__(self, name: str, options: ExchangeOptions) -> None:
        self.name = name
        self.options = options
        self.bindings: dict[BindingKey, Binding] = {}
        self.destinations: dict[Destination, dict[BindingKey, None]] = {}  # and their bindings
        self.incoming: set[Exchange] = set()  # the exchanges that are bound to this one

    def bind(self, to: Destination, key: str, encoded: bytes, arguments: Arguments) -> None:
        """Add a binding; one that is there already changes nothing."""
        full_key = (to, key, encoded)
        if full_key not in self.bindings:
            binding = self.bindings[full_key] = Binding(to, key, arguments)
            self.destinations.setdefault(to, {})[full_key] = None
            self._added(binding)

    def has(self, to: Destination, key: str, encoded: bytes) -> bool:
        """Whether there is such a binding."""
        return (to, key, encoded) in self.bindings

    def unbind(self, to: Destination, key: str, encoded: bytes) -> bool:
        """Remove a binding; False if there was none."""
        full_key = (to, key, encoded)
        binding = self.bindings.pop(full_key, None)
        if binding is None:
            return False
        keys = self.destinations[to]
        del keys[full_key]
        if not keys:
            del self.destinations[to]
        self._removed(binding)
        return True

    def forget(self, to: Destination) -> bool:
        """Remove all bindings to a destination; False if there was none."""
        gone = list(self.destinations.get(to, ()))
        for key in gone:
            self.unbind(*key)
        return bool(gone)

    def match(self, message: Message) -> Collection[Destination]:
        """Where a message goes from here, each destination once."""
        raise NotImplementedError

    def _added(self, binding: Binding) -> None:
        """Enter a binding where `match` looks it up."""

    def _removed(self, binding: Binding) -> None:
        """Take it out there."""


class _ByKey:
    """Destinations by binding key. They may be there several times, with different arguments."""

    def __init__(self) -> None:
        self._found: dict[str, dict[Destination, int]] = {}

    def add(self, binding: Binding) -> None:
        found = self._found.setdefault(binding.key, {})
        found[binding.to] = found.get(binding.to, 0) + 1

    def remove(self, binding: Binding) -> None:
        found = self._found[binding.key]
        found[binding.to] -= 1
        if not found[binding.to]:
            del found[binding.to]
        if not found:
            del self._found[binding.key]

    def get(self, key: str) -> Collection[Destination]:
        return self._found.get(key, ())


class Direct(Exchange):
    """The routing key is the binding key."""

    type = "direct"

    def __init__(self, name: str, options: ExchangeOptions) -> None:
        super().__init__(name, options)
        self._by_key = _ByKey()

    def match(self, message: Message) -> Collection[Destination]:
        if len(message.keys) == 1:
            return self._by_key.get(message.key)
        return _distinct(to for key in message.keys for to in self._by_key.get(key))

    def _added(self, binding: Binding) -> None:
        self._by_key.add(binding)

    def _removed(self, binding: Binding) -> None:
        self._by_key.remove(binding)


class Fanout(Exchange):
    """Everything goes everywhere."""

    type = "fanout"

    def match(self, message: Message) -> Collection[Destination]:
        return self.destinations


class Topic(Exchange):
    """Binding keys are patterns of words: * is one word, # any number of them."""

    type = "topic"

    def __init__(self, name: str, options: ExchangeOptions) -> None:
        super().__init__(name, options)
        self._known: dict[str, list[Destination]] = {}
        self._plain = _ByKey()
        self._patterns: dict[Binding, list[str]] = {}

    def match(self, message: Message) -> Collection[Destination]:
        if len(message.keys) == 1:
            return self._match_key(message.key)
        return _distinct(to for key in message.keys for to in self._match_key(key))

    def _match_key(self, key: str) -> list[Destination]:
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            words = split_words(key)
            matching = (binding.to for binding, pattern in self._patterns.items() if topic_matches(pattern, words))
            found = self._known[key] = _distinct((*self._plain.get(key), *matching))
        return found

    def _added(self, binding: Binding) -> None:
        self._known.clear()
        if _is_plain(binding.key):
            self._plain.add(binding)
        else:
            self._patterns[binding] = split_words(binding.key)

    def _removed(self, binding: Binding) -> None:
        self._known.clear()
        if _is_plain(binding.key):
            self._plain.remove(binding)
        else:
            del self._patterns[binding]


def _is_plain(key: str) -> bool:
    return "*" not in key and "#" not in key


def split_words(key: str) -> list[str]:
    """The words of a key; the empty one has none."""
    return key.split(".") if key else []


def topic_matches(pattern: list[str], words: list[str]) -> bool:
    """Whether a binding key matches a routing key, both as their words."""
    reached = {0}  # how much of the pattern can be used up by the words so far
    for word in words:
        reached = _skip_hashes(pattern, reached)
        fitting = [i for i in reached if i < len(pattern) and pattern[i] in ("#", "*", word)]
        reached = {i if pattern[i] == "#" else i + 1 for i in fitting}
    return len(pattern) in _skip_hashes(pattern, reached)


def _skip_hashes(pattern: list[str], reached: set[int]) -> set[int]:
    """A # may stand for no word at all."""
    result = set(reached)
    for i in range(min(reached, default=len(pattern)), len(pattern)):
        if i in result and pattern[i] == "#":
            result.add(i + 1)
    return result


MATCH_MODES = ("all", "any", "all-with-x", "any-with-x")


class Headers(Exchange):
    """The binding's arguments are compared with the message's headers; x-match says whether all of them, or any."""

    type = "headers"

    def match(self, message: Message) -> Collection[Destination]:
        try:
            headers = {key.decode("utf-8", "replace"): decode_value(raw) for key, raw in message.headers().items()}
        except FrameError:  # a value that Python cannot represent
            headers = {}
        return _distinct(b.to for b in self.bindings.values() if headers_match(b.arguments, headers))


def headers_match(wanted: Arguments, headers: Mapping[str, Value]) -> bool:
    """Whether a headers exchange takes a message; x- headers count only with all-with-x and any-with-x."""
    mode = wanted.get("x-match", "all")
    with_x = mode in ("all-with-x", "any-with-x")
    names = [name for name in wanted if name != "x-match" and (with_x or not name.startswith("x-"))]
    combine: Callable[[Iterable[bool]], bool] = any if mode in ("any", "any-with-x") else all
    return combine(_header_matches(wanted[name], name, headers) for name in names)


def _header_matches(wanted: Value, name: str, headers: Mapping[str, Value]) -> bool:
    if name not in headers:
        return False
    value = headers[name]
    # A value of no type asks for the header alone; True is not 1 in AMQP.
    return wanted is None or (wanted == value and isinstance(wanted, bool) == isinstance(value, bool))


def _distinct(destinations: Iterable[Destination]) -> list[Destination]:
    return list(dict.fromkeys(destinations))


TYPES: dict[str, type[Direct | Fanout | Topic | Headers]] = {
    kind.type: kind for kind in (Direct, Fanout, Topic, Headers)
}
