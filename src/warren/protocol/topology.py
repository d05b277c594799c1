"""What Warren declares at the broker: exchanges and queues, their names and arguments. docs/wire.md is its prose."""

from __future__ import annotations

import re
from typing import Any, Final

EXCHANGE = "warren"
BOUNCE_EXCHANGE = "warren.bounce"
CONTROL_EXCHANGE = "warren.control"
DEFAULT_EXCHANGE = ""
DIRECT_REPLY_TO = b"amq.rabbitmq.reply-to"
#: The header in which the broker says why it took a message off a queue.
DEATH_REASON = "x-first-death-reason"


_SERVICE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\Z")
_FOREIGN: Final = ("amq.", "warren.")


def check_service(name: str) -> None:
    """Refuse what cannot be a service's name: its queue would be another's, or no queue at all (`ValueError`)."""
    if not _SERVICE.match(name) or name.startswith(_FOREIGN) or name.endswith(".dead") or len(name) > 200:
        raise ValueError(
            f"service name {name!r}: it must be made of letters, digits, '_', '-' and '.', at most 200, begin with"
            f" a letter, a digit or '_', but not with {' or '.join(_FOREIGN)}, and not end in .dead"
        )


def service_queue(service: str) -> str:
    """The queue of a service: named after it, so that bare clients reach it through the default exchange."""
    return service


def dead_queue(service: str) -> str:
    """The queue that keeps what the service could not handle, and the exchange through which the broker adds to it."""
    return f"{service}.dead"


def reply_queue(token: str) -> str:
    """The durable reply queue of a client; an exclusive one is named by the broker."""
    return f"warren.reply.{token}"


def queue_arguments(*, quorum: bool, max_length: int | None) -> dict[str, Any]:
    """The arguments a service's queue is declared with: dead letters keep their keys, so the caller gets them."""
    arguments: dict[str, Any] = {"x-dead-letter-exchange": BOUNCE_EXCHANGE} | queue_type(quorum=quorum)
    if max_length is not None:
        # A publish that is refused was certainly not run; a message dropped from the head may have been.
        arguments |= {"x-max-length": max_length, "x-overflow": "reject-publish"}
    return arguments


def queue_type(*, quorum: bool = False) -> dict[str, Any]:
    """Said of every queue: what is left out is decided by the vhost, which may have another default than classic."""
    return {"x-queue-type": "quorum" if quorum else "classic"}


#: The dead queue is bounded, oldest first: it is for people to look at, and must not fill the broker's disk.
DEAD_QUEUE_ARGUMENTS = {"x-max-length": 10_000, "x-max-length-bytes": 256 * 1024 * 1024}


def dead_queue_arguments(*, quorum: bool) -> dict[str, Any]:
    """The arguments of a service's dead queue, which lives on as many nodes as the service's own."""
    return DEAD_QUEUE_ARGUMENTS | queue_type(quorum=quorum)


#: Why the broker takes requests off a service's queue that are kept, each the arguments of a binding. What expired is
#: not: its caller waits no longer and is told, and a flood of it would push out the rest [docs/adr/0013].
KEPT_DEATHS: tuple[dict[str, Any], ...] = tuple(
    {"x-match": "all-with-x", DEATH_REASON: reason} for reason in ("rejected", "delivery_limit", "maxlen")
)

#: An exclusive reply queue goes with its connection.
REPLY_ARGUMENTS = queue_type()
#: A durable reply queue goes when its client has been away for so long (milliseconds).
DURABLE_REPLY_ARGUMENTS = {"x-expires": 30 * 60 * 1000} | queue_type()

#: Of the queue for what callers send to one process: it takes what its consumer is to get at once, and is empty else.
ITEMS_ARGUMENTS = {"x-max-length-bytes": 512 * 1024 * 1024, "x-overflow": "reject-publish"} | queue_type()
