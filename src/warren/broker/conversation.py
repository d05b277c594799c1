"""What is said on channel 0 of a connection: handshake, heartbeats and the end of it [2.2.4]. Pure.

Numbers in brackets are sections of the AMQP 0-9-1 specification.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Protocol

from warren.amqp import methods as amqp
from warren.amqp.frames import BODY, HEADER, HEARTBEAT, HEARTBEAT_FRAME, METHOD, FrameError
from warren.amqp.methods import Method, encode_method
from warren.amqp.tables import encode_table
from warren.broker.channels import Channels, shortened
from warren.broker.client import Client
from warren.broker.errors import AmqpError
from warren.broker.frames import ACCEPTED_HEADERS, PROTOCOL_HEADER, FrameReader, decode_method, describe_frame
from warren.broker.outbox import Outbox
from warren.broker.state import State
from warren.broker.timers import Alarms

_KINDS = frozenset({METHOD, HEADER, BODY, HEARTBEAT})
_PATIENCE = 5.0  # seconds that a client has to answer Connection.Close


class Phase(Enum):
    """How far a connection has come [2.2.4]."""

    HEADER = auto()
    START = auto()  # Connection.Start has been sent
    TUNE = auto()
    OPEN = auto()  # Connection.Open is awaited
    RUNNING = auto()
    CLOSING = auto()  # Connection.Close has been sent
    ENDED = auto()  # nothing more is read or written


class Line(Protocol):
    """The session, as its conversation sees it."""

    dirty: bool
    loopback: bool
    channels: Channels
    reader: FrameReader
    out: Outbox
    alarms: Alarms

    @property
    def stalled(self) -> bool:
        """Whether the client is not heard for now."""

    def write(self, data: bytes) -> None:
        """Send bytes, soon."""


class Conversation:
    """How far a connection has come, and what ends it.

    Attributes:
        ended_by: why the broker closed it.
        heard_at: when the client was last heard.
    """

    def __init__(self, state: State, client: Client, line: Line) -> None:
        self.phase = Phase.HEADER
        self.client = client
        self.ended_by = ""
        self.heard_at = state.timers.now
        self._connected_at = state.timers.now
        self._state = state
        self._line = line
        line.alarms.at(self._handshake_until(), self._check_handshake)

    # --- frames in ----------------------------------------------------------------------------------------------------

    def greet(self, header: bytes) -> None:
        """The client's first eight bytes."""
        if header not in ACCEPTED_HEADERS:  # [4.2.2]
            self._line.write(PROTOCOL_HEADER)
            self.end("wrong protocol header")
            return
        self.phase = Phase.START
        properties = encode_table(self._state.server_properties())
        self._send(amqp.Connection.Start(0, 9, properties, "PLAIN AMQPLAIN", "en_US"))

    def take(self, kind: int, channel: int, payload: bytes) -> None:
        """One frame."""
        try:
            if kind not in _KINDS or (kind == HEARTBEAT and payload):
                raise AmqpError(501, f"{describe_frame(kind, payload)}: unknown_frame")
            if channel:
                self._take_channel_frame(kind, channel, payload)
            elif kind == METHOD:
                self._take_connection_method(payload)
            elif kind != HEARTBEAT and self.phase is not Phase.CLOSING:
                raise AmqpError(505, describe_frame(kind, payload))
        except AmqpError as error:
            self._fail(error, channel, payload if kind == METHOD else b"")
        except FrameError as error:
            self._fail(AmqpError(502, str(error)), channel)

    def _take_channel_frame(self, kind: int, number: int, payload: bytes) -> None:
        if self.phase is Phase.CLOSING:
            return
        if self.phase is not Phase.RUNNING:
            raise AmqpError(503, f"frame on channel {number} before the connection is open")
        self._line.channels.take(kind, number, payload)

    def _take_connection_method(self, payload: bytes) -> None:
        method = decode_method(payload)
        expected = _METHODS[self.phase]
        handle = expected.get(method.kind)
        if handle is not None:
            handle(self, method)
        elif self.phase is not Phase.CLOSING:
            name = self.phase.name.lower()
            raise AmqpError(504, f"unexpected method in connection state {name}")

    # --- handshake ----------------------------------------------------------------------------------------------------

    def _start_ok(self, method: Method) -> None:
        if self.client.log_in(method, loopback=self._line.loopback):
            self.phase = Phase.TUNE
            self._send(self.client.offer())
        else:
            self._refuse_login(method.mechanism)

    def _refuse_login(self, mechanism: str) -> None:
        text = (
            f"Login was refused using authentication mechanism {mechanism}."
            " For details see the broker logfile."
        )  # fmt: skip
        error = AmqpError(403, text)
        if self.client.capabilities.get("authentication_failure_close"):
            self._fail(error)
        else:
            self.end(error.text)

    def _tune_ok(self, method: Method) -> None:
        self.client.agree(method)
        self._line.reader.frame_max = self.client.frame_max
        self.phase = Phase.OPEN
        if self.client.heartbeat:
            self.heard_at = self._line.out.sent_at = self._state.timers.now
            self._watch()

    def _open(self, method: Method) -> None:
        self.client.enter(method.virtual_host)
        self.phase = Phase.RUNNING
        self._send(amqp.Connection.OpenOk())

    def _update_secret(self, method: Method) -> None:
        self._send(amqp.Connection.UpdateSecretOk())

    def _handshake_until(self) -> float:
        return self._connected_at + self._state.settings.handshake_timeout

    def _check_handshake(self) -> None:
        if self.phase not in (Phase.HEADER, Phase.START, Phase.TUNE, Phase.OPEN):
            return
        if self._handshake_until() <= self._state.timers.now:
            self.end("handshake timeout")
        else:
            self._line.alarms.at(self._handshake_until(), self._check_handshake)

    # --- the end ------------------------------------------------------------------------------------------------------

    def _close(self, method: Method) -> None:
        self.phase = Phase.CLOSING
        self._line.channels.end()
        self._send(amqp.Connection.CloseOk())
        self.end("")

    def _close_ok(self, method: Method) -> None:
        self.end(self.ended_by)

    def _fail(self, error: AmqpError, channel: int = 0, payload: bytes = b"") -> None:
        """Close the channel, or the connection, with the error's code."""
        handler = self._line.channels.by_number.get(channel)
        class_id, method_id = 0, 0
        if error.of_no_method:
            pass
        elif handler is not None and handler.publishing:
            class_id, method_id = 60, 40  # whatever the frame: what failed is the publish
        elif len(payload) >= 4:
            class_id, method_id = int.from_bytes(payload[:2]), int.from_bytes(payload[2:4])
        if handler is None or error.closes_connection:
            self.close(error, class_id, method_id)
        else:
            self._line.channels.fail(handler, error, class_id, method_id)

    def close(self, error: AmqpError, class_id: int = 0, method_id: int = 0) -> None:
        """Send Connection.Close, and wait a moment for the answer."""
        if self.phase in (Phase.CLOSING, Phase.ENDED):
            self.end(self.ended_by)
            return
        self.phase = Phase.CLOSING
        self._line.channels.end()
        self.ended_by = error.text
        self._send(amqp.Connection.Close(error.code, shortened(error.text), class_id, method_id))
        self._line.alarms.at(self._state.timers.now + _PATIENCE, self._end_if_closing)

    def _end_if_closing(self) -> None:
        if self.phase is Phase.CLOSING:
            self.end(self.ended_by)

    def end(self, reason: str) -> None:
        """Write what there is, and close the socket."""
        self.ended_by = reason
        self.phase = Phase.ENDED
        self._line.alarms.end()
        self._line.channels.end()
        self._state.mark(self._line)

    def lost(self) -> None:
        """The socket is gone."""
        self.phase = Phase.ENDED
        self._line.alarms.end()
        self._line.channels.end()

    # --- heartbeats ---------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Send heartbeats at half the agreed interval, and drop a client that is silent for two of them [4.2.7]."""
        now, interval = self._state.timers.now, self.client.heartbeat
        if now - self.heard_at >= 2 * interval and not self._line.stalled:
            self.end(f"no heartbeat for {2 * interval} s")
            return
        if now - self._line.out.sent_at >= interval / 2 and not self._line.out:
            self._line.write(HEARTBEAT_FRAME)
        self._line.alarms.at(now + interval / 2, self._watch)

    def skip(self, seconds: float) -> None:
        """The clock is about to be set forward: for the client no time passes, it has not been silent."""
        self._connected_at += seconds
        self.heard_at += seconds

    def _send(self, method: Method) -> None:
        self._line.write(encode_method(0, method))


_Handlers = Mapping[amqp.Kind, Callable[[Conversation, Method], None]]
_CLOSE: _Handlers = {amqp.Connection.Close: Conversation._close}
#: The methods of channel 0, by phase.
_METHODS: dict[Phase, _Handlers] = {
    Phase.START: {amqp.Connection.StartOk: Conversation._start_ok, **_CLOSE},
    Phase.TUNE: {amqp.Connection.TuneOk: Conversation._tune_ok, **_CLOSE},
    Phase.OPEN: {amqp.Connection.Open: Conversation._open, **_CLOSE},
    Phase.RUNNING: {amqp.Connection.UpdateSecret: Conversation._update_secret, **_CLOSE},
    Phase.CLOSING: {amqp.Connection.CloseOk: Conversation._close_ok, **_CLOSE},
}
