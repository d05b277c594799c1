"""One connection, without its socket: bytes in, bytes out, time passed in.

`receive` never raises, whatever the bytes are: what is wrong ends the channel or the connection, as AMQP has it, and
never the broker. Numbers in brackets are sections of the AMQP 0-9-1 specification.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from enum import Enum, auto

from warren.amqp import methods as amqp
from warren.amqp.frames import BODY, HEADER, HEARTBEAT, HEARTBEAT_FRAME, METHOD, FrameError
from warren.amqp.methods import Method, encode_method
from warren.amqp.tables import decode_table, decode_value, encode_table, split_table
from warren.broker.channel import Service
from warren.broker.errors import AmqpError
from warren.broker.faults import Countdown
from warren.broker.frames import (
    ACCEPTED_HEADERS,
    PROTOCOL_HEADER,
    FrameReader,
    decode_method,
    describe_frame,
    split_frames,
)
from warren.broker.methods import ChannelHandler
from warren.broker.model import VirtualHost
from warren.broker.state import FRAME_MIN, State
from warren.broker.tables import Value
from warren.broker.timers import Timer

_CHANNEL_OPEN = amqp.Channel.Open.index
_CHANNEL_CLOSE = amqp.Channel.Close.index
_CHANNEL_CLOSE_OK = amqp.Channel.CloseOk.index
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


class Session:
    """A client's connection. The server calls `receive` and `lost`, and writes what `take_output` gives."""

    def __init__(
        self, state: State, *, loopback: bool, address: str = "", backlog: Callable[[], int] = lambda: 0
    ) -> None:
        """`backlog` tells how many bytes the socket has taken and not got rid of."""
        self.state = state
        self.loopback = loopback
        self.address = address
        self.phase = Phase.HEADER
        self.dirty = False
        self.user = ""
        self.host: VirtualHost = next(iter(state.hosts.values()))
        self.frame_max = state.settings.frame_max
        self.capabilities: dict[str, Value] = {}
        self.client_properties: dict[str, Value] = {}
        self.channels: dict[int, ChannelHandler] = {}
        self.channel_max = state.settings.channel_max
        self.heartbeat = 0
        self.ended_by = ""  # why the broker closed it
        self.connected_at = state.timers.now
        self.blocked = False  # the client has been told that publishing is blocked; nothing more is read
        self.frozen = False  # a fault: neither answers nor reads
        self.resets = False  # a fault: ends with a TCP reset
        self._countdown: Countdown | None = None  # a fault: ends after some more frames
        self._reader = FrameReader(FRAME_MIN)  # until TuneOk, as RabbitMQ has it
        self._out: list[bytes] = []
        self._pending = 0  # bytes that wait to be taken
        self._congested = False  # the socket takes no more
        self._backlog = backlog
        self._stuck_at, self._stuck = 0.0, 0  # since when it takes no more, and how many bytes waited then
        self._to_confirm: list[ChannelHandler] = []
        self._received_at = self._sent_at = state.timers.now
        self._timers: dict[Callable[[], None], Timer] = {}  # by what they call
        self._call_at(self._handshake_until(), self._check_handshake)

    @property
    def name(self) -> str:
        """What the client calls itself."""
        properties = self.client_properties
        return str(properties.get("connection_name") or properties.get("product") or "")

    # --- for the server -----------------------------------------------------------------------------------------------

    @property
    def ended(self) -> bool:
        """Nothing more will come: send what there is, and close."""
        return self.phase is Phase.ENDED

    @property
    def stalled(self) -> bool:
        """Do not read on for now.

        From a client that does not read, something is read all the same: heartbeats would not be noticed otherwise.
        """
        held_up = self.blocked or self.frozen
        return held_up or (self.full and self._reader.unread >= self.state.settings.buffer_limit)

    @property
    def full(self) -> bool:
        """The client does not read what it is sent: what it asks for has to wait."""
        return self._congested or self._pending >= self.state.settings.buffer_limit

    def receive(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self.phase is Phase.ENDED:
            return
        self._received_at = self.state.timers.now
        self._reader.feed(data)
        self.proceed()

    def proceed(self) -> None:
        """Use the input that is there, unless the client is being held up."""
        if self.blocked or self.frozen:
            return
        try:
            if self.phase is Phase.HEADER:
                self._take_protocol_header()
            while not (self.blocked or self.full or self.phase in (Phase.ENDED, Phase.HEADER)):
                frame = self._reader.next()
                if frame is None:
                    break
                if self._countdown is None:
                    self._take_frame(*frame)
                else:
                    self._take_counted(*frame)
        except AmqpError as error:  # of a frame as such: where the next one begins is unknown, an answer too
            self.close(error)
            self.end(error.text)
        self._flush_confirms()

    def take_output(self) -> bytes:
        """What is to be written now."""
        if self.frozen:
            return b""
        data = b"".join(self._out)
        self._out.clear()
        self._pending = 0
        if self._countdown is not None and self._countdown.to_client:
            data = self._count_output(self._countdown, data)
        if data:
            self._sent_at = self.state.timers.now
        return data

    def congest(self) -> None:
        """The socket takes no more: deliveries wait in their queues."""
        self._congested = True
        self._watch_output()

    def relieve(self) -> None:
        """The socket takes more again, or what waited has been taken."""
        self._congested = False
        if (watch := self._timers.pop(self._check_output, None)) is not None:
            watch.cancel()
        if self.phase is Phase.RUNNING:
            for handler in list(self.channels.values()):
                handler.channel.use_credit()
        self.proceed()

    def _watch_output(self) -> None:
        self._stuck_at, self._stuck = self.state.timers.now, self._backlog()
        self._call_at(self._stuck_at + self.state.settings.send_timeout, self._check_output)

    def _check_output(self) -> None:
        """Cut off a client that reads nothing: for RabbitMQ heartbeats do not make up for it."""
        due = self._stuck_at + self.state.settings.send_timeout
        if due > self.state.timers.now:
            self._call_at(due, self._check_output)
        elif self._backlog() < self._stuck:
            self._watch_output()
        else:
            self.resets = True
            self.end("the client does not read")

    def freeze(self, frozen: bool) -> None:
        """Neither read nor send, or go on."""
        self.frozen = frozen
        if not frozen:
            self._received_at = self.state.timers.now
            self.state.mark(self)
            self.relieve()

    def cut_after(self, countdown: Countdown) -> None:
        """End without a word when these frames have passed; none: now."""
        self._countdown = countdown
        if countdown.frames <= 0:
            self._cut()

    def _cut(self) -> None:
        if self._countdown is not None:
            self.resets, self._countdown = self._countdown.reset, None
            self.end("cut on purpose")

    def _take_counted(self, kind: int, channel: int, payload: bytes) -> None:
        """Take a frame that may be the last; what came before it is answered, the last is not."""
        self._flush_confirms()
        answered = len(self._out)
        self._take_frame(kind, channel, payload)
        countdown = self._countdown
        if countdown is None or countdown.to_client or kind == HEARTBEAT or countdown.passes():
            return
        del self._out[answered:]
        self._cut()

    def _count_output(self, countdown: Countdown, data: bytes) -> bytes:
        """What of the output is still sent."""
        sent = 0
        for frame in split_frames(data):
            sent += len(frame)
            if frame[0] != HEARTBEAT and not countdown.passes():
                self._cut()
                break
        return data[:sent]

    def skip(self, seconds: float) -> None:
        """The clock is about to be set forward: for the client no time passes, it has not been silent."""
        self.connected_at += seconds
        self._received_at += seconds
        self._sent_at += seconds
        self._stuck_at += seconds

    def lost(self) -> None:
        """The connection is gone: put back what was unacknowledged, delete what was the connection's own."""
        self.phase = Phase.ENDED
        self._out.clear()
        self._end_timers()
        self._end_channels()

    # --- for channels -------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send bytes with the next flush."""
        if self.phase is not Phase.ENDED:
            self._out.append(data)
            self._pending += len(data)
            if not self.dirty:
                self.state.mark(self)

    def has_room(self) -> bool:
        """Whether the client reads what it is sent; one that is going away does not, or what it lets go comes back."""
        return self.phase is Phase.RUNNING and not self.frozen and not self.full

    def confirm_later(self, channel: ChannelHandler) -> None:
        """Confirms leave when the input at hand is used up: many in one."""
        self._to_confirm.append(channel)

    def _flush_confirms(self) -> None:
        if self._to_confirm:
            for channel in self._to_confirm:
                if not channel.closing:
                    channel.flush_confirms()
            self._to_confirm.clear()

    def service(self, name: str) -> Service | None:
        """What answers messages to a reserved queue name; only clients on this machine may ask."""
        return self.state.services.get(name) if self.loopback else None

    def publish_received(self) -> None:
        """Under an alarm a client that publishes is told so, and not heard until it is over.

        RabbitMQ does this at the header of the content: a message with a body is held, as its body is not read, and
        one without is taken [3.10.8, rabbit_reader:post_process_frame].
        """
        if self.state.alarm is not None:
            self.block()

    def block(self) -> None:
        """Tell the client of the alarm, and hear nothing more from it."""
        if self.phase is Phase.RUNNING and not self.blocked:
            self.blocked = True
            if self.capabilities.get("connection.blocked"):
                self._send(0, amqp.Connection.Blocked(self.state.alarm))

    def unblock(self) -> None:
        """The alarm is over."""
        if self.blocked:
            self.blocked = False
            self._received_at = self.state.timers.now
            if self.capabilities.get("connection.blocked"):
                self._send(0, amqp.Connection.Unblocked())
            self.proceed()

    # --- frames in ----------------------------------------------------------------------------------------------------

    def _take_protocol_header(self) -> None:
        header = self._reader.take(8)
        if header is None:
            return
        if header not in ACCEPTED_HEADERS:  # [4.2.2]
            self.write(PROTOCOL_HEADER)
            self.end("wrong protocol header")
            return
        self.phase = Phase.START
        self._send(
            0, amqp.Connection.Start(0, 9, encode_table(self.state.server_properties()), "PLAIN AMQPLAIN", "en_US")
        )

    def _take_frame(self, kind: int, channel: int, payload: bytes) -> None:
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
        handler = self.channels.get(number)
        if kind == HEARTBEAT:
            raise AmqpError(505, describe_frame(kind, payload))
        index = payload[:4] if kind == METHOD else b""
        if handler is not None and not handler.closing:
            if index == _CHANNEL_CLOSE:
                self._close_channel(handler)
            elif index == _CHANNEL_OPEN:
                raise AmqpError(504, "second 'channel.open' seen")
            else:
                handler.take(kind, payload)
        elif handler is not None:
            self._take_while_closing(number, index)
        elif index == _CHANNEL_OPEN:
            self._open_channel(number)
        elif index != _CHANNEL_CLOSE_OK:
            raise AmqpError(504, "expected 'channel.open'")

    def _open_channel(self, number: int) -> None:
        if len(self.channels) >= self.channel_max:
            count, limit = len(self.channels), self.channel_max
            text = f"number of channels opened ({count}) has reached the negotiated channel_max ({limit})"
            raise AmqpError(530, text, of_no_method=True)
        self.channels[number] = ChannelHandler(number, self)
        self._send(number, amqp.Channel.OpenOk())

    def _close_channel(self, handler: ChannelHandler) -> None:
        handler.flush_confirms()
        handler.close()
        del self.channels[handler.number]
        self._send(handler.number, amqp.Channel.CloseOk())

    def _take_while_closing(self, number: int, index: bytes) -> None:
        """Channel.Close has been sent: only its answer counts, or the client's own Close, crossing ours [1.5.2.5]."""
        if index == _CHANNEL_CLOSE:
            self._send(number, amqp.Channel.CloseOk())
        elif index == _CHANNEL_CLOSE_OK:
            del self.channels[number]

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
        properties = decode_table(method.client_properties)
        self.client_properties = properties
        capabilities = properties.get("capabilities")
        self.capabilities = capabilities if isinstance(capabilities, dict) else {}
        user, password = _credentials(method.mechanism, method.response)
        if not self._is_welcome(user, password):
            self._refuse_login(method.mechanism)
            return
        self.user = user
        self.phase = Phase.TUNE
        settings = self.state.settings
        self._send(0, amqp.Connection.Tune(settings.channel_max, settings.frame_max, settings.heartbeat))

    def _is_welcome(self, user: str, password: str) -> bool:
        known = self.state.settings.users.get(user)
        if known is None or not hmac.compare_digest(known.encode(), password.encode("utf-8", "surrogateescape")):
            return False
        return self.loopback or user != "guest"  # everybody knows its password

    def _refuse_login(self, mechanism: str) -> None:
        text = (
            f"Login was refused using authentication mechanism {mechanism}."
            " For details see the broker logfile."
        )  # fmt: skip
        error = AmqpError(403, text)
        if self.capabilities.get("authentication_failure_close"):
            self._fail(error)
        else:
            self.end(error.text)

    def _tune_ok(self, method: Method) -> None:
        settings = self.state.settings
        _check_negotiated("channel_max", method.channel_max, 1, settings.channel_max)
        _check_negotiated("frame_max", method.frame_max, FRAME_MIN, settings.frame_max)
        self.channel_max = method.channel_max
        self.frame_max = self._reader.frame_max = method.frame_max
        self.heartbeat = method.heartbeat
        self.phase = Phase.OPEN
        if self.heartbeat:
            self._received_at = self._sent_at = self.state.timers.now
            self._watch()

    def _open(self, method: Method) -> None:
        host = self.state.hosts.get(method.virtual_host)
        if host is None:
            raise AmqpError(530, f"vhost {method.virtual_host} not found")
        self.host = host
        self.phase = Phase.RUNNING
        self._send(0, amqp.Connection.OpenOk())

    def _update_secret(self, method: Method) -> None:
        self._send(0, amqp.Connection.UpdateSecretOk())

    def _handshake_until(self) -> float:
        return self.connected_at + self.state.settings.handshake_timeout

    def _check_handshake(self) -> None:
        if self.phase not in (Phase.HEADER, Phase.START, Phase.TUNE, Phase.OPEN):
            return
        if self._handshake_until() <= self.state.timers.now:
            self.end("handshake timeout")
        else:
            self._call_at(self._handshake_until(), self._check_handshake)

    # --- the end ------------------------------------------------------------------------------------------------------

    def _close(self, method: Method) -> None:
        self.phase = Phase.CLOSING
        self._end_channels()
        self._send(0, amqp.Connection.CloseOk())
        self.end("")

    def _close_ok(self, method: Method) -> None:
        self.end(self.ended_by)

    def _fail(self, error: AmqpError, channel: int = 0, payload: bytes = b"") -> None:
        """Close the channel, or the connection, with the error's code."""
        handler = self.channels.get(channel)
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
            self.close_channel(handler, error, class_id, method_id)

    def close_channel(self, handler: ChannelHandler, error: AmqpError, class_id: int = 0, method_id: int = 0) -> None:
        """Send Channel.Close, and ignore the channel until the client has answered."""
        handler.flush_confirms()
        handler.close()
        self._send(handler.number, amqp.Channel.Close(error.code, _short(error.text), class_id, method_id))

    def close(self, error: AmqpError, class_id: int = 0, method_id: int = 0) -> None:
        """Send Connection.Close, and wait a moment for the answer."""
        if self.phase in (Phase.CLOSING, Phase.ENDED):
            self.end(self.ended_by)
            return
        self.phase = Phase.CLOSING
        self._end_channels()
        self.ended_by = error.text
        self._send(0, amqp.Connection.Close(error.code, _short(error.text), class_id, method_id))
        self._call_at(self.state.timers.now + _PATIENCE, self._end_if_closing)

    def _end_if_closing(self) -> None:
        if self.phase is Phase.CLOSING:
            self.end(self.ended_by)

    def end(self, reason: str) -> None:
        """Write what there is, and close the socket."""
        self.ended_by = reason
        self.phase = Phase.ENDED
        self._end_timers()
        self._end_channels()
        self.state.mark(self)

    def _call_at(self, when: float, callback: Callable[[], None]) -> None:
        """Call back unless the connection has ended by then."""
        self._timers[callback] = self.state.timers.at(when, callback)

    def _end_timers(self) -> None:
        """Let nothing keep a connection that has ended."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _end_channels(self) -> None:
        handlers, self.channels = list(self.channels.values()), {}
        for handler in handlers:
            if not handler.closing:
                handler.close()
        own = [queue for queue in self.host.queues.values() if queue.options.owner is self]
        for queue in own:
            self.host.remove_queue(queue)

    # --- heartbeats ---------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Send heartbeats at half the agreed interval, and drop a client that is silent for two of them [4.2.7]."""
        now, interval = self.state.timers.now, self.heartbeat
        if now - self._received_at >= 2 * interval and not self.stalled:
            self.end(f"no heartbeat for {2 * interval} s")
            return
        if now - self._sent_at >= interval / 2 and not self._out:
            self.write(HEARTBEAT_FRAME)
        self._call_at(now + interval / 2, self._watch)

    def _send(self, channel: int, method: Method) -> None:
        self.write(encode_method(channel, method))


_Handlers = Mapping[amqp.Kind, Callable[[Session, Method], None]]
_CLOSE: _Handlers = {amqp.Connection.Close: Session._close}
#: The methods of channel 0, by phase.
_METHODS: dict[Phase, _Handlers] = {
    Phase.START: {amqp.Connection.StartOk: Session._start_ok, **_CLOSE},
    Phase.TUNE: {amqp.Connection.TuneOk: Session._tune_ok, **_CLOSE},
    Phase.OPEN: {amqp.Connection.Open: Session._open, **_CLOSE},
    Phase.RUNNING: {amqp.Connection.UpdateSecret: Session._update_secret, **_CLOSE},
    Phase.CLOSING: {amqp.Connection.CloseOk: Session._close_ok, **_CLOSE},
}


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


def _short(text: str) -> bytes:
    """What fits into a short string."""
    return text.encode("utf-8", "replace")[:255]
