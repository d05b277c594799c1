"""A broker that speaks wrong AMQP: every call ends in a typed error in time, and nothing is left behind."""

import asyncio
import random
import re
import struct
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pika import spec

from tests.support import pika_frames
from tests.support.evidence import LATE
from tests.support.rogue import START, Rogue
from warren import AsyncClient, CallError, Client, Execution, Server, Service

#: Seconds that each call may take; more where a busy machine does not get to the moment in that time.
TIMEOUT, MORE = 1.0, 10.0
#: Seconds that all around it may take on a busy machine.
PATIENCE = 60.0

#: The moments: the protocol header, the handshake, the set-up, and the call itself.
MOMENTS: dict[str, type | None] = {
    "hello": None,
    "login": spec.Connection.StartOk,
    "open": spec.Connection.Open,
    "channel": spec.Channel.Open,
    "exchange": spec.Exchange.Declare,
    "queue": spec.Queue.Declare,
    "consume": spec.Basic.Consume,
    "confirms": spec.Confirm.Select,
    "request": spec.Basic.Publish,
}


def frame(kind: int, payload: bytes, *, size: int | None = None, end: int = 0xCE) -> bytes:
    """A frame on the channel in question, right or wrong."""
    return bytes((kind,)) + b"$C" + struct.pack(">I", len(payload) if size is None else size) + payload + bytes((end,))


def method(which: object) -> bytes:
    return frame(1, pika_frames.method(0, which)[7:-1])


DELIVER = spec.Basic.Deliver("ctag", 1, False, "", "q")
#: What it says instead of the answer.
WORDS: dict[str, bytes] = {
    "nothing": b"",
    "noise": random.Random(9).randbytes(300),
    "zeroes": bytes(300),
    "another protocol": b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\n\r\n",
    "another version": b"AMQP\x00\x01\x00\x00",
    "half a frame": method(spec.Channel.OpenOk())[:9],
    "a frame of four gigabytes": frame(1, b"x" * 50, size=2**32 - 1),
    "a frame without its end": frame(1, pika_frames.method(0, spec.Channel.OpenOk())[7:-1], end=0),
    "an unknown type of frame": frame(9, b"x"),
    "an unknown method": frame(1, struct.pack(">HH", 999, 99)),
    "a method cut short": frame(1, struct.pack(">HH", 50, 11) + b"\xff"),
    "an empty method": frame(1, b""),
    "the handshake once more": method(spec.Connection.Tune(0, 131_072, 15)),
    "an answer to something else": method(spec.Exchange.UnbindOk()),
    "content without a method": frame(2, struct.pack(">HHQH", 60, 0, 1, 0)) + frame(3, b"x"),
    "a body without its header": method(DELIVER) + frame(3, b"x"),
    "a method inside of content": method(DELIVER) + method(DELIVER),
    "a body longer than announced": method(DELIVER) + frame(2, struct.pack(">HHQH", 60, 0, 1, 0)) + frame(3, b"xyz"),
    "a body that never ends": method(DELIVER) + frame(2, struct.pack(">HHQH", 60, 0, 2**63, 0)) + frame(3, b"x"),
    "properties cut short": method(DELIVER) + frame(2, struct.pack(">HHQH", 60, 0, 0, 0xFFFC)),
    "a confirm of nothing": method(spec.Basic.Ack(2**63, True)),
    "a refusal of nothing": method(spec.Basic.Nack(2**63, True)),
    "a close of the connection": pika_frames.method(0, spec.Connection.Close(541, "INTERNAL_ERROR", 0, 0)),
    "a close of the channel": method(spec.Channel.Close(541, "INTERNAL_ERROR", 0, 0)),
    "a tiny limit for frames": pika_frames.method(0, spec.Connection.Tune(0, 8, 15)),
    "a negative limit for frames": pika_frames.method(0, spec.Connection.Tune(0, 1, 15)),
    "one channel only": pika_frames.method(0, spec.Connection.Tune(1, 131_072, 15)),
}

#: How a call ended, and after how many seconds.
Ending = tuple[Exception, float]
MakeCall = Callable[[str, float], Awaitable[Ending]]


async def by_async(url: str, timeout: float) -> Ending:
    async with AsyncClient(url, timeout=timeout, connect_timeout=timeout) as client:
        began = time.monotonic()
        outcomes: Sequence[Any] = await asyncio.gather(client.call("any.thing"), return_exceptions=True)
        return outcomes[0], time.monotonic() - began


async def by_blocking(url: str, timeout: float, connect_timeout: float | None = None) -> Ending:
    def call() -> Ending:
        with Client(url, timeout=timeout, connect_timeout=connect_timeout or timeout) as client:
            began = time.monotonic()
            try:
                return AssertionError(f"a result: {client.call('any.thing')!r}"), 0.0
            except Exception as error:
                return error, time.monotonic() - began

    with ThreadPoolExecutor(1) as thread:
        return await asyncio.get_running_loop().run_in_executor(thread, call)


@pytest.mark.scenario(
    123,
    "A broker that says one of 27 wrong things at one of 9 moments of a connection: a typed error in time.",
)
@pytest.mark.parametrize("make_call", [by_async, by_blocking])
@pytest.mark.parametrize("hang_up", [False, True], ids=["and waits", "and hangs up"])
@pytest.mark.parametrize("moment", MOMENTS)
async def test_whatever_a_broker_says_a_call_ends_in_a_typed_error_in_time(
    moment: str, hang_up: bool, make_call: MakeCall, capfd: pytest.CaptureFixture[str]
) -> None:
    endings = await asyncio.gather(*(hear(MOMENTS[moment], words, hang_up, make_call) for words in WORDS.values()))
    expected = {Execution.NOT_SENT}
    if moment in ("login", "request"):  # at the login some words are a good answer
        expected |= {Execution.UNKNOWN, Execution.NOT_EXECUTED}  # a broker's word, even a liar's, is believed
    for what, (error, seconds) in zip(WORDS, endings, strict=True):
        assert isinstance(error, CallError), f"{what}: {error!r}"
        assert error.message, what
        assert error.execution in expected, f"{what}: {error!r}"
        assert seconds < LATE, f"{what}: {error!r}"
    assert "Traceback" not in capfd.readouterr().err


async def hear(moment: type | None, words: bytes, hang_up: bool, make_call: MakeCall) -> Ending:
    """Make a call that gets to the moment; how it ended, and how many seconds after its deadline."""
    async with asyncio.timeout(PATIENCE):
        for timeout in (TIMEOUT, MORE):
            async with Rogue(moment, words, hang_up=hang_up) as rogue:
                error, seconds = await make_call(rogue.url, timeout)
                if rogue.reached.is_set():
                    return error, seconds - timeout
    raise AssertionError(f"the moment never came: {error!r}")


class ClosesBehind(Rogue):
    """Gives its answer to one method on one channel, and closes the channel with the same breath."""

    def __init__(self, moment: type, channel: int) -> None:
        super().__init__(None, b"")
        self._behind = moment, channel

    def _answer(self, writer: asyncio.StreamWriter, method: Any, channel: int) -> None:
        if method is None:
            writer.write(pika_frames.method(0, START))
            return
        super()._answer(writer, method, channel)
        if isinstance(method, self._behind[0]) and channel == self._behind[1]:
            writer.write(pika_frames.method(channel, spec.Channel.Close(541, "INTERNAL_ERROR", 0, 0)))
            self.reached.set()


@pytest.mark.parametrize(
    ("moment", "channel"), [(spec.Channel.Open, 2), (spec.Confirm.Select, 2), (spec.Channel.Open, 3)]
)
async def test_nothing_is_written_to_a_channel_that_was_closed_right_behind_its_opening(
    moment: type, channel: int
) -> None:
    async with (
        ClosesBehind(moment, channel) as rogue,
        AsyncClient(rogue.url, timeout=TIMEOUT, connect_timeout=TIMEOUT) as client,
    ):
        calls = client.call("any.thing"), client.call_bare("any", b"")
        errors = await asyncio.gather(*calls, return_exceptions=True)
    assert rogue.reached.is_set()  # those are the channels that calls are published on, with confirms and without
    assert [getattr(error, "execution", error) for error in errors] == [Execution.NOT_SENT] * 2


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("another protocol", "a frame of [0-9]+ bytes exceeds the limit"),
        ("a frame of four gigabytes", "4294967295 bytes exceeds the limit"),
        ("a frame without its end", "does not end with its end mark"),
        ("a body longer than announced", "Received too many bytes"),
        ("a close of the connection", "541.*INTERNAL_ERROR"),
    ],
)
async def test_the_error_says_what_was_wrong(what: str, said: str) -> None:
    async with Rogue(spec.Channel.Open, WORDS[what]) as rogue:
        error, _seconds = await by_async(rogue.url, 2 * TIMEOUT)
        assert isinstance(error, CallError)
        assert re.search(said, error.message), error.message


async def test_a_client_that_is_closed_while_it_gives_a_silent_broker_up_leaves_no_socket() -> None:
    frame_without_end = struct.pack(">BHL", 1, 1, 100_000)
    async with Rogue(spec.Queue.Declare, frame_without_end) as rogue:
        # The set-up is given up after a second, and the broker then has three more to say good-bye.
        error, _seconds = await by_blocking(rogue.url, 2.0, connect_timeout=1.0)
        assert isinstance(error, CallError)
        assert rogue.reached.is_set()


@pytest.mark.scenario(123, "A server that hears such things stops when it is told to.")
async def test_a_server_hears_it_goes_on_trying_and_stops_when_told() -> None:
    await asyncio.gather(*(_serve_and_stop(words) for words in WORDS.values()))


async def _serve_and_stop(words: bytes) -> None:
    service = Service("any")

    @service.method
    async def thing() -> None: ...

    async with asyncio.timeout(PATIENCE), Rogue(spec.Basic.Consume, words) as rogue:
        server = Server(service, url=rogue.url, connect_timeout=TIMEOUT, drain_timeout=0.1)
        serving = asyncio.create_task(server.serve())
        await rogue.reached.wait()
        server.stop()
        await serving
