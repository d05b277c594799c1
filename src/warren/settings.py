"""How to reach the broker: an AMQP URL and its options, checked before anything is opened.

A leaf. Pika's own URL parser is not used: it evaluates parts of the query as Python and fails on a user without
password.
"""

from __future__ import annotations

import ssl as tls
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

#: Seconds between heartbeats. Pika gives up a silent broker after this + 5 s, RabbitMQ a silent peer after 3 times it.
DEFAULT_HEARTBEAT = 15
#: Seconds for one attempt at one host: TCP, TLS, AMQP handshake.
DEFAULT_CONNECT_TIMEOUT = 10.0
DEFAULT_URL = "amqp://localhost"

_PORTS = {"amqp": 5672, "amqps": 5671}


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the broker is and how to log in. The password is never shown."""

    hosts: tuple[tuple[str, int], ...] = (("localhost", 5672),)
    vhost: str = "/"
    username: str = "guest"
    password: str = "guest"  # noqa: S105 - RabbitMQ's own default account, which it accepts from loopback only
    ssl: tls.SSLContext | None = None
    heartbeat: int = DEFAULT_HEARTBEAT
    connect_timeout: float = DEFAULT_CONNECT_TIMEOUT
    name: str | None = None

    def __repr__(self) -> str:
        scheme = "amqps" if self.ssl else "amqp"
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts)
        return f"{scheme}://{self.username}@{hosts}/{self.vhost.removeprefix('/')}"


def make_settings(
    url: str | Sequence[str] | None = None,
    *,
    username: str | None = None,
    password: str | None = None,
    vhost: str | None = None,
    ssl: tls.SSLContext | None = None,
    heartbeat: int | None = None,
    connect_timeout: float | None = None,
    name: str | None = None,
) -> Settings:
    """Settings from an AMQP URL, several hosts (comma-separated, or several URLs), and overriding keywords.

    Raises:
        ValueError: what is wrong, and what a right URL looks like.
    """
    urls = [url] if isinstance(url, str) else list(url or (DEFAULT_URL,))
    if not urls:
        raise ValueError("no URL given: say for example amqp://localhost")
    parsed = [_parse(one, ssl) for one in urls]
    settings = replace(parsed[0], hosts=tuple(host for one in parsed for host in one.hosts))
    given: dict[str, Any] = {
        "username": username,
        "password": password,
        "vhost": vhost,
        "heartbeat": heartbeat,
        "connect_timeout": connect_timeout,
        "name": name,
    }
    settings = replace(settings, **{key: value for key, value in given.items() if value is not None})
    if not 0 <= settings.heartbeat <= 65535:
        raise ValueError(f"heartbeat={settings.heartbeat}: seconds from 0 (off) to 65535")
    if settings.name is not None and len(settings.name.encode()) > 255:
        raise ValueError("name: at most 255 bytes, as it travels with each request")
    if settings.connect_timeout <= 0:
        raise ValueError(f"connect_timeout={settings.connect_timeout}: seconds, more than 0")
    return settings


def _parse(url: str, context: tls.SSLContext | None) -> Settings:
    parts = urlsplit(url)
    if parts.scheme not in _PORTS:
        raise ValueError(f"{_hide(url)!r} is not an AMQP URL: say amqp://user:password@host:5672/vhost, or amqps://…")
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    if parts.scheme == "amqps" and context is None:
        context = tls.create_default_context()
    base = Settings()
    return Settings(
        hosts=_hosts(hosts, _PORTS["amqps" if context else "amqp"], url),
        # "amqp://host" and "amqp://host/" are the default vhost; "%2F" in the path is a slash.
        vhost=unquote(parts.path[1:]) or "/",
        username=unquote(username) or base.username,
        password=unquote(password) if username else base.password,
        ssl=context,
        **_query(parts.query, url),
    )


def _hosts(netloc: str, default_port: int, url: str) -> tuple[tuple[str, int], ...]:
    hosts = []
    for part in netloc.split(",") if netloc else ["localhost"]:
        try:
            split = urlsplit(f"//{part}")
            hosts.append((split.hostname or "localhost", split.port or default_port))
        except ValueError as error:
            raise ValueError(f"{_hide(url)!r}: {error}") from error
    return tuple(hosts)


def _query(query: str, url: str) -> dict[str, Any]:
    kinds: dict[str, Callable[[str], Any]] = {"heartbeat": int, "connect_timeout": float, "name": str}
    options: dict[str, Any] = {}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in kinds:
            raise ValueError(f"{_hide(url)!r}: unknown option {key!r}; known are {', '.join(kinds)}")
        try:
            options[key] = kinds[key](value)
        except ValueError:
            raise ValueError(f"{_hide(url)!r}: {key}={value!r} is not a number") from None
    return options


def _hide(url: str) -> str:
    """The URL without its password, for messages."""
    head, at, tail = url.rpartition("@")
    scheme, slashes, credentials = head.partition("://")
    return f"{scheme}{slashes}{credentials.partition(':')[0]}@{tail}" if at else url
