"""What the broker refuses: AMQP reply codes with RabbitMQ's texts.

The code alone decides whether a channel or the whole connection is closed [1.1, reply codes].
"""

from __future__ import annotations

NAMES = {
    311: "CONTENT_TOO_LARGE",
    312: "NO_ROUTE",
    320: "CONNECTION_FORCED",
    403: "ACCESS_REFUSED",
    404: "NOT_FOUND",
    405: "RESOURCE_LOCKED",
    406: "PRECONDITION_FAILED",
    501: "FRAME_ERROR",
    502: "SYNTAX_ERROR",
    503: "COMMAND_INVALID",
    504: "CHANNEL_ERROR",
    505: "UNEXPECTED_FRAME",
    530: "NOT_ALLOWED",
    540: "NOT_IMPLEMENTED",
    541: "INTERNAL_ERROR",
}
_OF_THE_CHANNEL = frozenset({311, 403, 404, 405, 406})


class AmqpError(Exception):
    """A request that ends its channel, or its connection; `of_no_method` if the close names none as its cause."""

    def __init__(self, code: int, text: str, *, of_no_method: bool = False) -> None:
        super().__init__(code, text)
        self.code = code
        self.of_no_method = of_no_method
        name = NAMES.get(code, "ERROR")
        self.text = f"{name} - {text}" if text else name

    @property
    def closes_connection(self) -> bool:
        """Whether the connection must go, not just the channel."""
        return self.code not in _OF_THE_CHANNEL


def not_found(kind: str, name: str, vhost: str) -> AmqpError:
    """404 for a queue or exchange."""
    return AmqpError(404, f"no {kind} '{name}' in vhost '{vhost}'")


def precondition(text: str) -> AmqpError:
    """406, on the channel."""
    return AmqpError(406, text)


def reserved(kind: str, name: str) -> AmqpError:
    """403 for a name that is the broker's own."""
    return AmqpError(403, f"{kind} name '{name}' contains reserved prefix 'amq.*'")


def default_exchange() -> AmqpError:
    """403: the default exchange is nobody's to change."""
    return AmqpError(403, "operation not permitted on the default exchange")


def locked(queue: str, vhost: str) -> AmqpError:
    """405: another connection's exclusive queue."""
    return AmqpError(
        405,
        f"cannot obtain exclusive access to locked queue '{queue}' in vhost '{vhost}'. It could be originally declared"
        " on another connection or the exclusive property value does not match that of the original declaration.",
    )
