"""The exchanges and bindings of a virtual host, by name. Pure."""

from __future__ import annotations

from warren.amqp.tables import decode_value, encode_value, join_table
from warren.broker import errors
from warren.broker.arguments import Raw, check_name_arguments, check_same_argument, check_same_flag, show_value
from warren.broker.errors import AmqpError, precondition
from warren.broker.exchanges import MATCH_MODES, TYPES, Destination, Direct, Exchange, ExchangeOptions, Headers
from warren.broker.tables import type_name

#: What every virtual host has from the beginning [RabbitMQ: 3.1.3 and its own amq.rabbitmq.trace].
_PREDECLARED = (
    ("amq.direct", "direct"),
    ("amq.fanout", "fanout"),
    ("amq.topic", "topic"),
    ("amq.headers", "headers"),
    ("amq.match", "headers"),
)
_ALTERNATE = "alternate-exchange"


class Bindings:
    """Which exchange leads where.

    Attributes:
        by_name: the exchanges, ours included.
    """

    def __init__(self, vhost: str) -> None:
        self._vhost = vhost
        self.by_name: dict[str, Exchange] = {"": Direct("", ExchangeOptions(durable=True))}
        for exchange, kind in _PREDECLARED:
            self.by_name[exchange] = TYPES[kind](exchange, ExchangeOptions(durable=True))
        trace = ExchangeOptions(durable=True, internal=True)
        self.by_name["amq.rabbitmq.trace"] = TYPES["topic"]("amq.rabbitmq.trace", trace)

    def get(self, name: str) -> Exchange:
        """An exchange by name.

        Raises:
            AmqpError: 404.
        """
        found = self.by_name.get(name)
        if found is None:
            raise errors.not_found("exchange", name, self._vhost)
        return found

    def declare(
        self, name: str, kind: str, arguments: Raw, *, durable: bool, auto_delete: bool, internal: bool
    ) -> None:
        """Make an exchange, or compare it with the one that is there.

        Raises:
            AmqpError: 403 for reserved names, 406 if it differs, 503 for an unknown type.
        """
        if name == "":
            raise errors.default_exchange()
        if kind not in TYPES:
            raise AmqpError(503, f"unknown exchange type '{kind}'")
        check_name_arguments((_ALTERNATE,), arguments, f"exchange '{name}' in vhost '{self._vhost}'")
        alternate = decode_value(arguments[_ALTERNATE]) if _ALTERNATE in arguments else None
        options = ExchangeOptions(durable, auto_delete, internal, alternate if isinstance(alternate, str) else None)
        existing = self.by_name.get(name)
        if existing is not None:
            self._check_same(existing, kind, options, arguments)
        elif name.startswith("amq."):
            raise errors.reserved("exchange", name)
        else:
            self.by_name[name] = TYPES[kind](name, options)

    def _check_same(self, existing: Exchange, kind: str, options: ExchangeOptions, arguments: Raw) -> None:
        described = f"exchange '{existing.name}' in vhost '{self._vhost}'"
        check_same_flag("type", kind, existing.type, described)
        check_same_flag("durable", options.durable, existing.options.durable, described)
        check_same_flag("auto_delete", options.auto_delete, existing.options.auto_delete, described)
        check_same_flag("internal", options.internal, existing.options.internal, described)
        alternates = (arguments.get(_ALTERNATE), _encoded(existing.options.alternate))
        check_same_argument(_ALTERNATE, *alternates, described)

    def delete(self, name: str, *, if_unused: bool) -> None:
        """Remove an exchange; one that is not there is ignored.

        Raises:
            AmqpError: 403 for the broker's own, 406 if it is in use.
        """
        if name == "":
            raise errors.default_exchange()
        if name.startswith("amq."):
            raise AmqpError(403, f"deletion of system exchange '{name}' in vhost '{self._vhost}' not allowed")
        exchange = self.by_name.get(name)
        if exchange is None:
            return
        if if_unused and exchange.bindings:
            raise precondition(f"exchange '{name}' in vhost '{self._vhost}' in use")
        self._remove(exchange)

    def _remove(self, exchange: Exchange) -> None:
        del self.by_name[exchange.name]
        for binding in exchange.bindings.values():
            if isinstance(binding.to, Exchange):
                binding.to.incoming.discard(exchange)
        for source in list(exchange.incoming):
            self._forget(source, exchange)

    # --- bindings -----------------------------------------------------------------------------------------------------

    def bind(self, source: str, to: Destination, key: str, arguments: Raw) -> None:
        """Bind a queue or an exchange to an exchange.

        Raises:
            AmqpError: 403 for the default exchange, 404.
        """
        if to.name == "":
            raise errors.default_exchange()
        exchange = self.check_source(source)
        if isinstance(exchange, Headers):
            check_match(arguments)
        values = {name: decode_value(raw) for name, raw in arguments.items()}
        exchange.bind(to, key, _as_bytes(arguments), values)
        if isinstance(to, Exchange):
            to.incoming.add(exchange)

    def unbind(self, source: str, to: Destination, key: str, arguments: Raw) -> None:
        """Remove a binding; one that is not there is ignored.

        Raises:
            AmqpError: 403 for the default exchange.
        """
        if to.name == "" or source == "":
            raise errors.default_exchange()
        exchange = self.by_name.get(source)
        if exchange is not None and exchange.unbind(to, key, _as_bytes(arguments)):
            if isinstance(to, Exchange) and to not in exchange.destinations:
                to.incoming.discard(exchange)
            self._end_if_unused(exchange)

    def check_source(self, name: str) -> Exchange:
        """An exchange that something is to be bound to.

        Raises:
            AmqpError: 403 for the default exchange, 404.
        """
        if name == "":
            raise errors.default_exchange()
        return self.get(name)

    def is_bound(self, source: str, to: Destination, key: str, arguments: Raw) -> bool:
        """Whether there is such a binding."""
        exchange = self.by_name.get(source)
        return exchange is not None and exchange.has(to, key, _as_bytes(arguments))

    def forget(self, queue: Destination) -> None:
        """A queue is gone, and its bindings with it."""
        for exchange in list(self.by_name.values()):
            if exchange.bindings:
                self._forget(exchange, queue)

    def _forget(self, source: Exchange, to: Destination) -> None:
        if source.forget(to):
            self._end_if_unused(source)

    def _end_if_unused(self, exchange: Exchange) -> None:
        if exchange.options.auto_delete and not exchange.bindings and exchange.name in self.by_name:
            self._remove(exchange)


def _encoded(text: str | None) -> bytes | None:
    return None if text is None else encode_value(text)


def _as_bytes(arguments: Raw) -> bytes:
    return join_table({name.encode(): arguments[name] for name in sorted(arguments)})


def check_match(arguments: Raw) -> None:
    """The x-match of a binding to a headers exchange.

    Raises:
        AmqpError: 406.
    """
    raw = arguments.get("x-match")
    if raw is None:
        return
    value = decode_value(raw)
    if type_name(raw) != "longstr":
        raise precondition(f"Invalid x-match field type {type_name(raw)} (value {show_value(raw)}); expected longstr")
    if value not in MATCH_MODES:
        expected = "all, any, all-with-x, or any-with-x"
        raise precondition(f'Invalid x-match field value <<"{value}">>; expected {expected}')
