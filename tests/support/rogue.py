"""A broker that speaks AMQP well until a certain moment, and then says something else."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Self

from pika import exceptions, frame, spec

from tests.support import pika_frames

#: What a broker answers, for all that Warren asks in order to make one call.
_ANSWERS: dict[type, Any] = {
    spec.Connection.StartOk: spec.Connection.Tune(0, 131_072, 15),
    spec.Connection.TuneOk: None,
    spec.Connection.Open: spec.Connection.OpenOk(),
    spec.Connection.Close: spec.Connection.CloseOk(),
    spec.Channel.Open: spec.Channel.OpenOk(),
    spec.Channel.Close: spec.Channel.CloseOk(),
    spec.Exchange.Declare: spec.Exchange.DeclareOk(),
    spec.Exchange.Bind: spec.Exchange.BindOk(),
    spec.Queue.Bind: spec.Queue.BindOk(),
    spec.Basic.Qos: spec.Basic.QosOk(),
    spec.Confirm.Select: spec.Confirm.SelectOk(),
}
_ABLE = {"publisher_confirms": True, "basic.nack": True, "consumer_cancel_notify": True}
START = spec.Connection.Start(0, 9, {"capabilities": _ABLE}, "PLAIN", "en_US")


class Rogue:
    """Listens on loopback; as ``async with``.

    Args:
        moment: the method that is answered with `words` instead of its answer; None: the protocol header.
        words: the bytes to say then; `$C` in them stands for the number of the channel in question.
        hang_up: close the connection behind them.
    """

    def __init__(self, moment: type | None, words: bytes, *, hang_up: bool = False) -> None:
        self._moment = moment
        self._words = words
        self._hang_up = hang_up
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.reached = asyncio.Event()  # the moment came

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_error: object) -> None:
        assert self._server is not None
        # A connection that asyncio has accepted in the turn in which its server is closed stays open for ever.
        for listener in self._server.sockets:
            asyncio.get_running_loop().remove_reader(listener.fileno())
        for _ in range(5):
            await asyncio.sleep(0)
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()
        while self._writers:
            await asyncio.sleep(0.01)

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"amqp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, exceptions.AMQPError):
                await reader.readexactly(8)
                self._answer(writer, None, 0)
                await self._converse(reader, writer)
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received = b""
        while data := await reader.read(65_536):
            received += data
            while True:
                used, got = frame.decode_frame(received)
                if got is None:
                    break
                received = received[used:]
                if isinstance(got, frame.Method):
                    self._answer(writer, got.method, got.channel_number)

    def _answer(self, writer: asyncio.StreamWriter, method: Any, channel: int) -> None:
        if method is self._moment or (self._moment is not None and isinstance(method, self._moment)):
            self.reached.set()
            writer.write(self._words.replace(b"$C", channel.to_bytes(2, "big")))
            if self._hang_up:
                writer.close()
        elif method is None:
            writer.write(pika_frames.method(0, START))
        elif isinstance(method, spec.Basic.Consume | spec.Basic.Cancel):
            kind = spec.Basic.ConsumeOk if isinstance(method, spec.Basic.Consume) else spec.Basic.CancelOk
            writer.write(pika_frames.method(channel, kind(method.consumer_tag)))
        elif isinstance(method, spec.Queue.Declare):
            writer.write(pika_frames.method(channel, spec.Queue.DeclareOk(method.queue or "amq.gen-rogue", 0, 0)))
        elif (answer := _ANSWERS.get(type(method))) is not None:
            writer.write(pika_frames.method(channel, answer))
