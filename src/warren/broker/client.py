"""Who a client is, and what it agrees with the broker upon in the handshake [2.2.4]. Pure."""

from __future__ import annotations

import hmac

from warren.amqp import methods as amqp
from warren.amqp.methods import Method
from warren.amqp.tables import decode_table, decode_value, split_table
from warren.broker.errors import AmqpError
from warren.broker.model import VirtualHost
from warren.broker.state import FRAME_MIN, State
from warren.broker.tables import Value


class Client:
    """What is known of a client; before the handshake, what is offered to it.

    Attributes:
        heartbeat: the agreed interval in seconds; 0 for none.
    """

    def __init__(self, state: State) -> None:
        self.user = ""
        self.host: VirtualHost = next(iter(state.hosts.values()))
        self.properties: dict[str, Value] = {}
        self.capabilities: dict[str, Value] = {}
        self.frame_max = state.settings.frame_max
        self.channel_max = state.settings.channel_max
        self.heartbeat = 0
        self._state = state

    @property
    def name(self) -> str:
        """What the client calls itself."""
        return str(self.properties.get("connection_name") or self.properties.get("product") or "")

    def log_in(self, method: Method, *, loopback: bool) -> bool:
        """Connection.StartOk; False if the client is not let in.

        Raises:
            AmqpError: 503 for an unknown mechanism, 501 for a response that does not add up.
        """
        self.properties = decode_table(method.client_properties)
        capabilities = self.properties.get("capabilities")
        self.capabilities = capabilities if isinstance(capabilities, dict) else {}
        user, password = _credentials(method.mechanism, method.response)
        known = self._state.settings.users.get(user)
        if known is None or not hmac.compare_digest(known.encode(), password.encode("utf-8", "surrogateescape")):
            return False
        if user == "guest" and not loopback:  # everybody knows its password
            return False
        self.user = user
        return True

    def offer(self) -> Method:
        """Connection.Tune."""
        settings = self._state.settings
        return amqp.Connection.Tune(settings.channel_max, settings.frame_max, settings.heartbeat)

    def agree(self, method: Method) -> None:
        """Connection.TuneOk.

        Raises:
            AmqpError: 530 for what was not offered.
        """
        settings = self._state.settings
        _check_negotiated("channel_max", method.channel_max, 1, settings.channel_max)
        _check_negotiated("frame_max", method.frame_max, FRAME_MIN, settings.frame_max)
        self.channel_max, self.frame_max, self.heartbeat = method.channel_max, method.frame_max, method.heartbeat

    def enter(self, vhost: str) -> None:
        """Connection.Open.

        Raises:
            AmqpError: 530 if there is no such virtual host.
        """
        host = self._state.hosts.get(vhost)
        if host is None:
            raise AmqpError(530, f"vhost {vhost} not found")
        self.host = host


def _credentials(mechanism: str, response: str) -> tuple[str, str]:
    """User and password.

    Raises:
        AmqpError: 503 for an unknown mechanism, 501 for a response that does not add up.
    """
    raw = response.encode("utf-8", "surrogateescape")
    if mechanism == "PLAIN":
        parts = raw.split(b"\0")
        if len(parts) != 3:
            raise AmqpError(501, "invalid response to PLAIN")
        user, password = parts[1:]
    elif mechanism == "AMQPLAIN":  # a table without its length
        user, password = _amqplain(raw)
    else:
        raise AmqpError(503, f"unknown authentication mechanism '{mechanism}'")
    return user.decode("utf-8", "surrogateescape"), password.decode("utf-8", "surrogateescape")


def _amqplain(raw: bytes) -> tuple[bytes, bytes]:
    entries = split_table(raw)
    values = [decode_value(entries[name]) if name in entries else None for name in (b"LOGIN", b"PASSWORD")]
    user, password = (v.encode() if isinstance(v, str) else v for v in values)
    if not isinstance(user, bytes) or not isinstance(password, bytes):
        raise AmqpError(501, "AMQPLAIN auth info is missing LOGIN or PASSWORD field")
    return user, password


def _check_negotiated(name: str, value: int, low: int, high: int) -> None:
    if value and value < low:
        raise AmqpError(530, f"negotiated {name} = {value} is lower than the minimum allowed value ({low})")
    if value == 0 or value > high:
        raise AmqpError(530, f"negotiated {name} = {value} is higher than the maximum allowed value ({high})")
