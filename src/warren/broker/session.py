"""One connection, without its socket: bytes in, bytes out, time passed in.

`receive` never raises, whatever the bytes are: what is wrong ends the channel or the connection, as AMQP has it, and
never the broker.
"""

from __future__ import annotations

from collections.abc import Callable

from warren.amqp import methods as amqp
from warren.amqp.frames import HEARTBEAT
from warren.amqp.methods import encode_method
from warren.broker.channels import Channels
from warren.broker.client import Client
from warren.broker.conversation import Conversation
from warren.broker.conversation import Phase as Phase
from warren.broker.errors import AmqpError
from warren.broker.faults import Countdown
from warren.broker.frames import FrameReader
from warren.broker.outbox import Outbox
from warren.broker.state import FRAME_MIN, State
from warren.broker.timers import Alarms


class Session:
    """A client's connection. The server calls `receive` and `lost`, and writes what `take_output` gives."""

    def __init__(
        self, state: State, *, loopback: bool, address: str = "", backlog: Callable[[], int] = lambda: 0
    ) -> None:
        """`backlog` tells how many bytes the socket has taken and not got rid of."""
        self.state = state
        self.loopback = loopback
        self.address = address
        self.dirty = False
        self.blocked = False  # the client has been told that publishing is blocked; nothing more is read
        self.frozen = False  # a fault: neither answers nor reads
        self.resets = False  # a fault: ends with a TCP reset
        self._countdown: Countdown | None = None  # a fault: ends after some more frames
        self.reader = FrameReader(FRAME_MIN)  # until TuneOk, as RabbitMQ has it
        self.alarms = Alarms(state.timers)
        self.out = Outbox(state, self.alarms, backlog, self._cut_off)
        self.client = Client(state)
        self.channels = Channels(self)
        self._talk = Conversation(state, self.client, self)

    # --- for the server -----------------------------------------------------------------------------------------------

    @property
    def phase(self) -> Phase:
        """How far the connection has come."""
        return self._talk.phase

    @property
    def ended_by(self) -> str:
        """Why the broker closed it; empty if it did not."""
        return self._talk.ended_by

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
        return held_up or (self.full and self.reader.unread >= self.state.settings.buffer_limit)

    @property
    def full(self) -> bool:
        """The client does not read what it is sent: what it asks for has to wait."""
        return self.out.full

    def receive(self, data: bytes) -> None:
        """Take bytes from the client."""
        if self.phase is Phase.ENDED:
            return
        self._talk.heard_at = self.state.timers.now
        self.reader.feed(data)
        self.proceed()

    def proceed(self) -> None:
        """Use the input that is there, unless the client is being held up."""
        if self.blocked or self.frozen:
            return
        try:
            if self.phase is Phase.HEADER:
                header = self.reader.take(8)
                if header is not None:
                    self._talk.greet(header)
            while not (self.blocked or self.full or self.phase in (Phase.ENDED, Phase.HEADER)):
                frame = self.reader.next()
                if frame is None:
                    break
                if self._countdown is None:
                    self._talk.take(*frame)
                else:
                    self._take_counted(*frame)
        except AmqpError as error:  # of a frame as such: where the next one begins is unknown, an answer too
            self.close(error)
            self.end(error.text)
        self.channels.flush_confirms()

    def take_output(self) -> bytes:
        """What is to be written now."""
        if self.frozen:
            return b""
        data = self.out.take()
        if self._countdown is not None and self._countdown.to_client:
            data = self._countdown.admit(data)
            if not self._countdown.frames:
                self._cut()
        if data:
            self.out.sent_at = self.state.timers.now
        return data

    def congest(self) -> None:
        """The socket takes no more: deliveries wait in their queues."""
        self.out.congest()

    def relieve(self) -> None:
        """The socket takes more again, or what waited has been taken."""
        self.out.relieve()
        if self.phase is Phase.RUNNING:
            self.channels.use_credit()
        self.proceed()

    def _cut_off(self) -> None:
        self.resets = True
        self.end("the client does not read")

    def freeze(self, frozen: bool) -> None:
        """Neither read nor send, or go on."""
        self.frozen = frozen
        if not frozen:
            self._talk.heard_at = self.state.timers.now
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
        self.channels.flush_confirms()
        answered = len(self.out)
        self._talk.take(kind, channel, payload)
        countdown = self._countdown
        if countdown is None or countdown.to_client or kind == HEARTBEAT or countdown.passes():
            return
        self.out.drop_after(answered)
        self._cut()

    def skip(self, seconds: float) -> None:
        """The clock is about to be set forward: for the client no time passes, it has not been silent."""
        self._talk.skip(seconds)
        self.out.skip(seconds)

    def lost(self) -> None:
        """The connection is gone: put back what was unacknowledged, delete what was the connection's own."""
        self.out.take()
        self._talk.lost()

    def close(self, error: AmqpError) -> None:
        """Send Connection.Close, and wait a moment for the answer."""
        self._talk.close(error)

    def end(self, reason: str) -> None:
        """Write what there is, and close the socket."""
        self._talk.end(reason)

    # --- for channels -------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send bytes with the next flush."""
        if self.phase is not Phase.ENDED:
            self.out.add(data)
            if not self.dirty:
                self.state.mark(self)

    def has_room(self) -> bool:
        """Whether the client reads what it is sent; one that is going away does not, or what it lets go comes back."""
        return self.phase is Phase.RUNNING and not self.frozen and not self.full

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
            if self.client.capabilities.get("connection.blocked"):
                self.write(encode_method(0, amqp.Connection.Blocked(self.state.alarm)))

    def unblock(self) -> None:
        """The alarm is over."""
        if self.blocked:
            self.blocked = False
            self._talk.heard_at = self.state.timers.now
            if self.client.capabilities.get("connection.blocked"):
                self.write(encode_method(0, amqp.Connection.Unblocked()))
            self.proceed()
