"""How queues stand, from the HTTP API of RabbitMQ's management plugin: rates, and services that nobody serves."""

from __future__ import annotations

import http.client
from base64 import b64encode
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

import msgspec

from warren.connection.settings import Settings
from warren.operate.queues import Standing
from warren.protocol import topology

#: Seconds that it may take, and bytes of the largest answer.
PATIENCE = 5.0
MAX_ANSWER = 64 * 1024 * 1024


class ManagementError(Exception):
    """It cannot be asked; the text says what to do."""


class _NoRedirect(HTTPRedirectHandler):
    """A redirect would take the password along to somebody else."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def ask_management(address: str, settings: Settings) -> list[Standing]:
    """How the queues of all services of the vhost stand, also of those that nobody serves. It blocks.

    Args:
        address: ``http://host:15672`` or ``https://…``; with ``user:password@`` if it is another than at the broker.
        settings: of the broker: vhost and login.

    Raises:
        ManagementError: no answer, or none that makes sense.
        ValueError: the address is none.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{address!r} is not the address of a management plugin: say http://localhost:15672")
    where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
    user = unquote(parts.username) if parts.username is not None else settings.username
    password = unquote(parts.password or "") if parts.username is not None else settings.password
    if not isinstance(password, str):
        raise ValueError("a password that is made by a function is not known here: say http://user:password@host")
    body = _get(f"{where}/api/queues/{quote(settings.vhost, safe='')}", f"{user}:{password}", where)
    return _standings(_read(body, where))


def _get(url: str, login: str, where: str) -> bytes:
    headers = {"Authorization": f"Basic {b64encode(login.encode()).decode()}"}
    opener = build_opener(_NoRedirect, ProxyHandler({}))
    try:
        with opener.open(Request(url, headers=headers), timeout=PATIENCE) as answer:  # noqa: S310 - checked above
            body: bytes = answer.read(MAX_ANSWER + 1)
    except HTTPError as error:
        hint = ": give a user with the tag monitoring" if error.code in (401, 403) else ": is the plugin enabled there?"
        raise ManagementError(f"{where} answers {error.code} {error.reason}{hint}") from error
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "reason", error)  # what urllib has packed up
        raise ManagementError(f"{where} does not answer: {why}; is the plugin enabled there?") from error
    if len(body) > MAX_ANSWER:
        raise ManagementError(f"{where} has more than {MAX_ANSWER} bytes to say: ask about services over AMQP instead")
    return body


class _Rate(msgspec.Struct, frozen=True):
    rate: float = 0.0


class _Rates(msgspec.Struct, frozen=True):
    publish_details: _Rate = _Rate()
    deliver_get_details: _Rate = _Rate()


class _Queue(msgspec.Struct, frozen=True):
    """What the plugin says of a queue; of one that is down it says little."""

    name: str
    arguments: dict[str, Any] = {}
    messages_ready: int | None = None
    messages_unacknowledged: int | None = None
    consumers: int | None = None
    message_stats: _Rates = _Rates()


def _read(body: bytes, where: str) -> list[_Queue]:
    try:
        return msgspec.json.decode(body, type=list[_Queue])
    except (msgspec.DecodeError, RecursionError) as error:
        raise ManagementError(f"{where} is not a management plugin: check the address ({error})") from error


def _standings(queues: list[_Queue]) -> list[Standing]:
    """Services are known by where their queues' dead letters go."""
    by_name = {queue.name: queue for queue in queues}
    return [
        _standing(queue, by_name.get(topology.dead_queue(queue.name)))
        for queue in sorted(queues, key=lambda queue: queue.name)
        if queue.arguments.get("x-dead-letter-exchange") == topology.BOUNCE_EXCHANGE
    ]


def _standing(queue: _Queue, dead: _Queue | None) -> Standing:
    stats = queue.message_stats
    return Standing(
        queue.name,
        queue.messages_ready,
        queue.consumers,
        None if dead is None else dead.messages_ready,
        queue.messages_unacknowledged,
        stats.publish_details.rate,
        stats.deliver_get_details.rate,
        None if queue.messages_ready is not None else "its queue is down",
    )
