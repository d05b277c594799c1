"""The channels of one connection, by their numbers. Pure."""

from __future__ import annotations

from warren.amqp import methods as amqp
from warren.amqp.frames import HEARTBEAT, METHOD
from warren.amqp.methods import Method, encode_method
from warren.broker.errors import AmqpError
from warren.broker.frames import describe_frame
from warren.broker.handler import ChannelHandler, Connection

_OPEN = amqp.Channel.Open.index
_CLOSE = amqp.Channel.Close.index
_CLOSE_OK = amqp.Channel.CloseOk.index


class Channels:
    """Opens, finds and closes channels; what is on them is their handlers'."""

    def __init__(self, connection: Connection) -> None:
        self.by_number: dict[int, ChannelHandler] = {}
        self._connection = connection
        self._to_confirm: list[ChannelHandler] = []

    def take(self, kind: int, number: int, payload: bytes) -> None:
        """One frame.

        Raises:
            AmqpError: what ends the channel or the connection.
            FrameError: content that does not add up.
        """
        handler = self.by_number.get(number)
        if kind == HEARTBEAT:
            raise AmqpError(505, describe_frame(kind, payload))
        index = payload[:4] if kind == METHOD else b""
        if handler is not None and not handler.closing:
            if index == _CLOSE:
                self._close(handler)
            elif index == _OPEN:
                raise AmqpError(504, "second 'channel.open' seen")
            else:
                handler.take(kind, payload)
        elif handler is not None:
            self._take_while_closing(number, index)
        elif index == _OPEN:
            self._open(number)
        elif index != _CLOSE_OK:
            raise AmqpError(504, "expected 'channel.open'")

    def _open(self, number: int) -> None:
        count, limit = len(self.by_number), self._connection.client.channel_max
        if count >= limit:
            text = f"number of channels opened ({count}) has reached the negotiated channel_max ({limit})"
            raise AmqpError(530, text, of_no_method=True)
        self.by_number[number] = ChannelHandler(number, self._connection, self._to_confirm.append)
        self._send(number, amqp.Channel.OpenOk())

    def _close(self, handler: ChannelHandler) -> None:
        handler.confirms.flush()
        handler.close()
        del self.by_number[handler.number]
        self._send(handler.number, amqp.Channel.CloseOk())

    def _take_while_closing(self, number: int, index: bytes) -> None:
        """Channel.Close has been sent: only its answer counts, or the client's own Close, crossing ours [1.5.2.5]."""
        if index == _CLOSE:
            self._send(number, amqp.Channel.CloseOk())
        elif index == _CLOSE_OK:
            del self.by_number[number]

    def fail(self, handler: ChannelHandler, error: AmqpError, class_id: int = 0, method_id: int = 0) -> None:
        """Send Channel.Close, and ignore the channel until the client has answered."""
        handler.confirms.flush()
        handler.close()
        self._send(handler.number, amqp.Channel.Close(error.code, shortened(error.text), class_id, method_id))

    def use_credit(self) -> None:
        """The client reads again: deliveries that have waited may go."""
        for handler in list(self.by_number.values()):
            handler.channel.credit.use()

    def flush_confirms(self) -> None:
        """The input at hand is used up: confirms leave, many in one."""
        if self._to_confirm:
            for handler in self._to_confirm:
                if not handler.closing:
                    handler.confirms.flush()
            self._to_confirm.clear()

    def end(self) -> None:
        """The connection is over: what was unacknowledged is put back, what was its own is deleted."""
        handlers, self.by_number = list(self.by_number.values()), {}
        for handler in handlers:
            if not handler.closing:
                handler.close()
        host = self._connection.client.host
        for queue in [queue for queue in host.queues.values() if queue.options.owner is self._connection]:
            host.remove_queue(queue)

    def _send(self, number: int, method: Method) -> None:
        self._connection.write(encode_method(number, method))


def shortened(text: str) -> bytes:
    """What fits into a short string."""
    return text.encode("utf-8", "replace")[:255]
