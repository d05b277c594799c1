"""What all connections of one broker share: its settings, virtual hosts, users, time and faults.

Pure: whoever owns the sockets passes time in with `advance`, and asks `take_dirty` which connections to write to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from warren.broker.faults import Faults
from warren.broker.frames import PublishReader
from warren.broker.message import Message
from warren.broker.model import VirtualHost
from warren.broker.tables import Value
from warren.broker.timers import Timers

FRAME_MIN = 4096  # every peer takes so much [4.2.3 frame-min-size]
CAPABILITIES = (
    "publisher_confirms",
    "exchange_exchange_bindings",
    "basic.nack",
    "consumer_cancel_notify",
    "connection.blocked",
    "consumer_priorities",
    "authentication_failure_close",
    "per_consumer_qos",
    "direct_reply_to",
)


@dataclass(frozen=True, slots=True)
class Settings:
    """How a broker presents itself and what it allows. Sizes are bytes, times seconds."""

    users: Mapping[str, str] = field(default_factory=lambda: {"guest": "guest"})
    vhosts: tuple[str, ...] = ("/",)
    product: str = "Warren development broker"
    version: str = "0"
    heartbeat: int = 60
    frame_max: int = 131072
    channel_max: int = 2047
    max_message_size: int = 128 * 1024 * 1024
    handshake_timeout: float = 10.0
    buffer_limit: int = 1024 * 1024  # what is kept for a client that does not read
    send_timeout: float = 30.0  # after which such a client is cut off, as by RabbitMQ [ranch_tcp's send_timeout]


class Dirty(Protocol):
    """A session that may have something to send."""

    dirty: bool


class State:
    """One broker, without its sockets."""

    def __init__(self, settings: Settings, make_name: Callable[[], str], now: float, epoch: float) -> None:
        """`now` is the clock that all times are told by; `epoch` what to add for the seconds since 1970."""
        self.settings = settings
        self.timers = Timers(now)
        self.faults = Faults()
        self.publishes = PublishReader()  # what it remembers is the same for all
        self.make_name = make_name
        self.hosts = {name: VirtualHost(name, self.timers, make_name, epoch) for name in settings.vhosts}
        self.alarm: str | None = None  # why publishers are blocked
        self.services: dict[str, Callable[[VirtualHost, Message], None]] = {}  # by reserved queue name
        self._dirty: list[Dirty] = []
        self.on_dirty: Callable[[], None] = lambda: None

    def advance(self, now: float) -> None:
        """Make it `now`: messages expire, heartbeats are sent, silent clients are dropped."""
        self.timers.run(now)

    def mark(self, session: Dirty) -> None:
        """A session has something to send, or is to be closed."""
        if not session.dirty:
            session.dirty = True
            self._dirty.append(session)
            if len(self._dirty) == 1:
                self.on_dirty()

    def take_dirty(self) -> list[Dirty]:
        """Those marked since the last time."""
        taken, self._dirty = self._dirty, []
        for session in taken:
            session.dirty = False
        return taken

    def server_properties(self) -> dict[str, Value]:
        """What Connection.Start says of the broker."""
        settings = self.settings
        return {
            "product": settings.product,
            "version": settings.version,
            "platform": "Python",
            "information": "A development broker: all in memory, one process",
            "capabilities": dict.fromkeys(CAPABILITIES, True),
        }
