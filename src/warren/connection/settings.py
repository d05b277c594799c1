"""How to reach the broker: an AMQP URL and its options, checked before anything is opened.

A leaf. Pika's own URL parser is not used: it evaluates parts of the query as Python and fails on a user without
password.
"""

from __future__ import annotations

import ssl as tls
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict, Unpack
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from warren import checks

#: Seconds between heartbeats. Pika gives up a silent broker after this + 5 s, RabbitMQ a silent peer after 3 times it.
DEFAULT_HEARTBEAT = 15
#: Seconds for one attempt at one host: TCP, TLS, AMQP handshake.
DEFAULT_CONNECT_TIMEOUT = 10.0
DEFAULT_URL = "amqp://localhost"
#: Bytes of the name of a client or server: it travels with each request, as an AMQP short string.
MAX_NAME = 255

#: The least `Settings.liveness_timeout`: below it a busy machine looks like a dead one.
MIN_LIVENESS_TIMEOUT = 1.0


@dataclass(frozen=True, slots=True)
class Secret:
    """A password that expires, as a token does: what a ``password=`` function may return instead of a str.

    Before that the function is asked again, and the broker gets the new one over the open connection.

    Example::

        async def password() -> Secret:
            token = await ask_the_identity_provider()
            return Secret(token["access_token"], expires_in=token["expires_in"])

    Attributes:
        value: the password or token; never shown.
        expires_in: seconds from now on; None: it does not expire.
    """

    value: str = field(repr=False)
    expires_in: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.value, str):
            raise TypeError(f"a Secret's value must be a str, not {type(self.value).__name__}")
        if self.expires_in is not None:
            checks.seconds("expires_in", self.expires_in, most=_CENTURY)


#: A password, or a function that is asked for it at each attempt to connect, and before it expires: a plain one in a
#: thread, an async one on the loop.
Password = str | Callable[[], str | Secret | Awaitable[str | Secret]]

_CENTURY = 100 * 365 * 86_400
_PORTS = {"amqp": 5672, "amqps": 5671}


class ConnectionOptions(TypedDict, total=False):
    """How to reach the broker, besides the URL: what `Client`, `AsyncClient` and `Server` take alike, by name.

    None, as leaving it out, stands for what the URL says, and where that says nothing for the default.

    Attributes:
        name: what this process calls itself in the broker's list of connections; of a client also in
            ``current_call().caller``, so at most 255 bytes. Default: that of a server names its services.
        username, password, vhost: a password may be a function that returns it, plain or async, asked for each attempt
            to connect: for passwords that change; it may return a `Secret`, which says when to ask again. Default:
            ``guest``, ``guest``, ``/``.
        ssl: a context for TLS; makes the connection encrypted also where the URL says ``amqp``.
        heartbeat: seconds between heartbeats, 0 for none. Default: 15.
        liveness_timeout: seconds after which a silent broker or network is given up, at least 1: half of it passes
            between two probes that the broker has to answer. Default: twice the heartbeat.
        connect_timeout: seconds for one attempt to reach one host. Default: 10.
    """

    name: str | None
    username: str | None
    password: Password | None
    vhost: str | None
    ssl: tls.SSLContext | None
    heartbeat: int | None
    liveness_timeout: float | None
    connect_timeout: float | None


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the broker is and how to log in. The password is never shown."""

    hosts: tuple[tuple[str, int], ...] = (("localhost", 5672),)
    vhost: str = "/"
    username: str = "guest"
    password: Password = "guest"  # noqa: S105 - RabbitMQ's own default account, which it accepts from loopback only
    ssl: tls.SSLContext | None = None
    heartbeat: int = DEFAULT_HEARTBEAT
    liveness_timeout: float | None = None
    connect_timeout: float = DEFAULT_CONNECT_TIMEOUT
    name: str | None = None

    @property
    def silence(self) -> float | None:
        """Seconds of silence after which the broker is given up; None for never."""
        if self.liveness_timeout is not None:
            return self.liveness_timeout
        return max(2.0 * self.heartbeat, MIN_LIVENESS_TIMEOUT) if self.heartbeat else None

    def __repr__(self) -> str:
        scheme = "amqps" if self.ssl else "amqp"
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts)
        return f"{scheme}://{self.username}@{hosts}/{self.vhost.removeprefix('/')}"


def make_settings(url: str | Sequence[str] | None = None, **options: Unpack[ConnectionOptions]) -> Settings:
    """Settings from an AMQP URL, several hosts (comma-separated, or several URLs), and overriding options.

    Raises:
        ValueError: what is wrong, and what a right URL looks like.
        TypeError: `url` is neither text nor a list of texts, or an option of the wrong type.
    """
    urls = _urls(url)
    first, *others = [_parse(one, encrypted=options.get("ssl") is not None) for one in urls]
    for other in others:
        if replace(other, hosts=first.hosts, ssl=first.ssl) != first or (other.ssl is None) != (first.ssl is None):
            raise ValueError(
                "several URLs may differ only in their hosts, not in login, vhost, options or TLS: write the rest alike"
            )
    hosts = tuple(host for one in (first, *others) for host in one.hosts)
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    settings = replace(first, hosts=hosts, **given)
    _check(settings)
    return settings


def _check(settings: Settings) -> None:
    if not (isinstance(settings.password, str) or callable(settings.password)):
        raise ValueError(f"password must be a str, or {_FUNCTION}")
    if not isinstance(settings.ssl, tls.SSLContext | None):
        raise TypeError(f"ssl={settings.ssl!r} is not an ssl.SSLContext: say for example ssl.create_default_context()")
    for option in ("username", "vhost"):
        checks.text(option, getattr(settings, option))
    checks.whole("heartbeat", settings.heartbeat, least=0, most=65_535)
    liveness = settings.liveness_timeout
    if liveness is not None:
        checks.seconds("liveness_timeout", liveness)
    if liveness is not None and not MIN_LIVENESS_TIMEOUT <= liveness <= 86_400:
        raise ValueError(f"liveness_timeout={liveness} must be from {MIN_LIVENESS_TIMEOUT:g} to 86,400 seconds")
    checks.seconds("connect_timeout", settings.connect_timeout)
    if settings.name is not None:
        checks.text("name", settings.name)
        if len(settings.name.encode()) > MAX_NAME:
            length = len(settings.name.encode())
            raise ValueError(f"name has {length} bytes; at most {MAX_NAME} are allowed: it travels with each request")


_FUNCTION = "a function without arguments (plain or async) that returns one, or a Secret where it expires"


def _urls(url: object) -> list[str]:
    if url is None:
        return [DEFAULT_URL]
    urls = list(url) if isinstance(url, Iterable) and not isinstance(url, str | bytes | Mapping) else [url]
    if not urls:
        raise ValueError("no URL given: say for example amqp://localhost")
    found = [one for one in urls if isinstance(one, str)]
    if len(found) < len(urls):  # not shown, as it may hold a password
        raise TypeError(
            f"url must be a str or a list of them, not {type(url).__name__}; say for example amqp://localhost"
        )
    return found


def _parse(url: str, encrypted: bool) -> Settings:
    parts = _split(url)
    if not parts.scheme:  # not shown, as it may hold a password
        raise ValueError(f"this is not an AMQP URL, it has no scheme; {_UNREADABLE}")
    if parts.scheme not in _PORTS:
        raise ValueError(f"{parts.scheme!r} is not an AMQP URL's scheme; {_UNREADABLE}")
    credentials, _, hosts = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    secure = parts.scheme == "amqps"
    base = Settings()
    return Settings(
        hosts=_hosts(hosts, _PORTS["amqps" if secure or encrypted else "amqp"]),
        vhost=_vhost(parts.path),
        username=unquote(username) or base.username,
        password=unquote(password) if username else base.password,
        ssl=tls.create_default_context() if secure and not encrypted else None,
        **_query(parts),
    )


def _split(url: str) -> SplitResult:
    """Split a URL; where its parts are not certain, the error must not show them, as one may be the password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(f"the URL cannot be read; {_UNREADABLE}") from None
    if "@" in parts.path + parts.query + parts.fragment or parts.netloc.count("@") > 1:
        raise ValueError(f"the URL cannot be read; {_UNREADABLE}")
    return parts


_UNREADABLE = (
    "say amqp://user:password@host:5672/vhost, with what is special in the user name,"
    " password or vhost percent-encoded (@ is %40, / is %2F), or amqps:// for TLS"
)


def _hosts(netloc: str, default_port: int) -> tuple[tuple[str, int], ...]:
    hosts = []
    for part in netloc.split(",") if netloc else ["localhost"]:
        try:
            split = urlsplit(f"//{part}")
            port = default_port if split.port is None else split.port
        except ValueError:
            port = 0
        if not port:  # not shown, as it may be a password whose host is missing
            raise ValueError(f"a port must be a number from 1 to 65535; {_UNREADABLE}")
        hosts.append((split.hostname or "localhost", port))
    return tuple(hosts)


def _vhost(path: str) -> str:
    """The vhost of a URL's path: one segment, in which a slash is written %2F (RabbitMQ, URI specification).

    None is the default vhost; so is ``//``, which is common for it, and can mean nothing else.
    """
    name = path[1:]
    if "/" in name and name != "/":  # not shown, as it may be part of a password
        raise ValueError("a slash in a vhost's name must be written %2F: the vhost a/b is amqp://localhost/a%2Fb")
    return unquote(name) or "/"


def _query(parts: SplitResult) -> dict[str, Any]:
    kinds: dict[str, Callable[[str], Any]] = {
        "heartbeat": int,
        "liveness_timeout": float,
        "connect_timeout": float,
        "name": str,
    }
    options: dict[str, Any] = {}
    for key, value in parse_qsl(parts.query, keep_blank_values=True):
        if key not in kinds:
            raise ValueError(f"the URL has an unknown option {key!r}: {checks.known_names(key, kinds)}")
        try:
            options[key] = kinds[key](value)
        except ValueError:
            raise ValueError(f"the URL's {key}={value!r} is not a number") from None
    return options
