"""The steps of the hot path, each set up with what a call of ``calc.echo(12345)`` looks like.

A case is a function that sets up and returns the step, or yields it and then gives back what it took, as a fixture of
pytest does. `each` says how many messages one run of the step is for.
"""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import count
from typing import Any, cast

from benchmarks.micro.fakes import FRAME_MAX, ModelLink, delivery_frames
from warren import AsyncClient, Pipeline, Service
from warren.amqp import frames
from warren.amqp.acks import Acks
from warren.amqp.confirms import Confirms
from warren.amqp.frames import Delivery, decode_properties
from warren.amqp.splitter import Splitter
from warren.client.calls import Calls, PendingCall, unguessable
from warren.client.chain import ClientCall, ClientMiddleware
from warren.client.core import ClientCore
from warren.client.options import Options
from warren.client.target import Targets, encode_call, find_target, read_result
from warren.connection.channel import HotChannel
from warren.middleware import Proceed
from warren.protocol import codecs
from warren.protocol.content import MAX_MESSAGE_SIZE
from warren.protocol.reply import result_properties
from warren.protocol.request import Request, RequestTemplate
from warren.protocol.signature import Method
from warren.protocol.slip import Slip, Stage, lean_fields
from warren.server.worker import Worker

Step = Callable[[], object]

#: Messages in a batch: as many as one read of the socket may bring with 100 in flight.
BATCH = 100
_REPLY_TO = b"amq.gen-AbCdEfGhIjKlMnOpQrStUv"
_ID = b"0123456789abcdef01234567"
_BODY = b"[12345]"
_ROUTE = b"\x06warren\x04calc"

service = Service("calc")


@service.method
async def echo(n: int) -> int:
    return n


@service.method
def echo_in_thread(n: int) -> int:
    return n


@dataclass(frozen=True, slots=True)
class Case:
    """A step, and how many messages one run of it is for."""

    ready: Callable[[], AbstractContextManager[Step]]
    each: int


CASES: dict[str, Case] = {}


def case(each: int = 1) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    def register(set_up: Callable[[], Any]) -> Callable[[], Any]:
        held = inspect.isgeneratorfunction(set_up)
        CASES[set_up.__name__] = Case(contextmanager(set_up) if held else lambda: nullcontext(set_up()), each)
        return set_up

    return register


class _Nobody:
    """A waiter that drops the outcome."""

    def finish(self, outcome: object) -> None: ...


class _Sink:
    """A tap that drops everything."""

    def delivered(self, delivery: Delivery) -> None: ...
    def returned(self, delivery: Delivery) -> None: ...
    def confirmed(self, tag: int, multiple: bool) -> None: ...
    def refused(self, tag: int, multiple: bool) -> None: ...


class _Channel:
    """A channel on which replies and acks only count."""

    closed = None

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._acked = 0

    def publish(self, *_args: object) -> int:
        return 1

    def ack(self, _tag: int) -> None:
        self._acked += 1
        if not self._acked % self._expected:
            asyncio.get_running_loop().stop()


def _served(method: str, count: int) -> Iterator[Step]:
    """So many deliveries at once, from `Worker.delivered` to their acks."""
    channel = cast(HotChannel, _Channel(count))
    deliveries = [_delivery(tag, method) for tag in range(1, count + 1)]

    async def make() -> Worker:
        return Worker(service, count, "guest", "a process")

    def step() -> None:
        for delivery in deliveries:
            loop.call_soon(worker.delivered, channel, delivery)
        loop.run_forever()
        loop.call_soon(loop.stop)
        loop.run_forever()  # what follows the acks

    with closing(asyncio.new_event_loop()) as loop:
        worker: Any = loop.run_until_complete(make())
        with closing(worker):
            yield step


def _delivery(tag: int, method: str) -> Delivery:
    template = RequestTemplate(method, content_type=codecs.JSON, reply_to=_REPLY_TO, bounce=True, durable=False)
    delivery = Delivery(tag, False, _ROUTE)
    delivery.properties = template.encode(_ID, _ID, 30_000, 1_700_000_000_000, b"30000")
    delivery.body, delivery.body_size = _BODY, len(_BODY)
    return delivery


def _method() -> Method:
    return service.methods["echo"]


def _template() -> RequestTemplate:
    return RequestTemplate(
        "echo", content_type=codecs.JSON, reply_to=_REPLY_TO, bounce=True, durable=False, app_id=None, user_id=None
    )


def _request_properties() -> bytes:
    return _template().encode(_ID, _ID, 30_000, 1_700_000_000_000, b"30000")


def _request() -> Request:
    delivery = Delivery(1, False, _ROUTE)
    delivery.properties, delivery.body, delivery.body_size = _request_properties(), _BODY, len(_BODY)
    return Request(delivery)


def _deliveries(properties: bytes, body: bytes) -> bytes:
    """A batch as the broker sends it."""
    return b"".join(delivery_frames(1, tag, _ROUTE, properties, body) for tag in range(1, BATCH + 1))


# --- client: out --------------------------------------------------------------------------------------------------


@case()
def prepare() -> Step:
    """`find_target` and `encode_call`: whom to call, and the arguments as JSON."""
    known = Targets()
    options = Options()
    return lambda: encode_call(find_target(known, options, "call", echo), (12345,), {})


@case()
def start_and_take() -> Step:
    """`Calls.start`, then `take` with the reply's correlation id; 100 others are under way."""
    calls, nobody, bare = _calls(), _Nobody(), Confirms[PendingCall]()
    for _ in range(100):
        calls.start(1e6, _Nobody(), None, awaits_reply=True)

    def step() -> object:
        call = calls.start(1e6, nobody, None, awaits_reply=True)
        calls.written(call, bare, 7)
        return calls.take(call.id)

    return step


@case()
def start_confirm_and_take() -> Step:
    """`Calls.start` and `written`, the confirm and the reply: the whole life of a call."""
    calls, nobody, confirms = _calls(), _Nobody(), Confirms[PendingCall]()

    def step() -> object:
        call = calls.start(1e6, nobody, None, awaits_reply=True)
        calls.written(call, confirms, 7)
        calls.confirmed(confirms.take(7, False))
        return calls.take(call.id)

    for _ in range(100):
        calls.start(1e6, _Nobody(), None, awaits_reply=True)
    return step


def _calls() -> Calls:
    return Calls(unguessable(os.urandom), 65_536, 1 << 26, lambda _when: None)


@case()
def encode_request_properties() -> Step:
    """`RequestTemplate.encode`."""
    encode = _template().encode
    return lambda: encode(_ID, _ID, 30_000, 1_700_000_000_000, b"30000")


@case()
def encode_frames() -> Step:
    """`content_frames`: header and body frame of a request."""
    properties = _request_properties()
    return lambda: frames.content_frames(1, properties, _BODY, FRAME_MAX)


@case()
def encode_publish_frame() -> Step:
    """`publish_frame`: once for each route, as it is kept."""
    return lambda: frames.publish_frame(1, b"warren", b"calc", mandatory=True)


# --- both: in -----------------------------------------------------------------------------------------------------


@case(each=BATCH)
def split_requests() -> Step:
    """`Splitter.feed` with a batch of requests."""
    return _splitting(_deliveries(_request_properties(), _BODY))


@case(each=BATCH)
def split_replies() -> Step:
    """`Splitter.feed` with a batch of replies."""
    return _splitting(_deliveries(result_properties(_request(), codecs.JSON), b"12345"))


def _splitting(batch: bytes) -> Step:
    splitter = Splitter(lambda _frame: None, FRAME_MAX)
    splitter.tap(1, _Sink(), body_limit=MAX_MESSAGE_SIZE)
    return lambda: splitter.feed(batch)


@case()
def decode_request_properties() -> Step:
    """`decode_properties` of a request."""
    properties = _request_properties()
    return lambda: decode_properties(properties)


@case()
def decode_reply_properties() -> Step:
    """`decode_properties` of a reply."""
    properties = result_properties(_request(), codecs.JSON)
    return lambda: decode_properties(properties)


# --- server -------------------------------------------------------------------------------------------------------


@case()
def read_request() -> Step:
    """`Request`: properties and the header table's two numbers."""
    delivery = _request().delivery
    return lambda: Request(delivery)


@case()
def decode_arguments() -> Step:
    """`Method.decode_arguments`: JSON, validated from the hints."""
    decode = _method().decode_arguments
    return lambda: decode(codecs.JSON, _BODY)


@case()
def encode_result() -> Step:
    """`Method.encode_result`: checked against the hint, to JSON."""
    encode = _method().encode_result
    return lambda: encode(codecs.JSON, 12345)


@case()
def encode_reply_properties() -> Step:
    """`result_properties`."""
    request = _request()
    return lambda: result_properties(request, codecs.JSON)


@case(each=BATCH)
def acknowledge() -> Step:
    """`Acks`: a batch is opened, done with in order, and collected into one ack."""
    acks = Acks()
    tags = range(1, BATCH + 1)

    def step() -> object:
        for tag in tags:
            acks.open(tag)
        for tag in tags:
            acks.done(tag)
        return acks.collect()

    return step


@case(each=BATCH)
def acknowledge_out_of_order() -> Step:
    """`Acks`: the same, done with in reverse, with a slow first call that stays open."""
    acks = Acks()
    acks.open(0)
    tags = range(1, BATCH + 1)

    def step() -> object:
        for tag in tags:
            acks.open(tag)
        for tag in reversed(tags):
            acks.done(tag)
        return acks.collect()

    return step


# --- client: in ---------------------------------------------------------------------------------------------------


@case()
def read_reply() -> Step:
    """`read_result`: from a reply's properties and body to the value."""
    target = find_target(Targets(), Options(), "call", echo)
    errors: dict[str, type[Exception]] = {}
    outcome = decode_properties(result_properties(_request(), codecs.JSON)), b"12345"
    return lambda: read_result(outcome, target, errors)


# --- worker -------------------------------------------------------------------------------------------------------


@case(each=BATCH)
def serve_async() -> Iterator[Step]:
    """A worker, from delivery to reply and ack: an ``async def``, 100 at a time."""
    yield from _served("echo", BATCH)


@case(each=10)
def serve_in_thread() -> Iterator[Step]:
    """The same for a ``def``, ten at a time."""
    yield from _served("echo_in_thread", 10)


# --- from end to end ----------------------------------------------------------------------------------------------


async def _nothing(_call: Any, proceed: Proceed) -> Any:
    """Middleware that does nothing."""
    return await proceed()


@case(each=BATCH)
def call_async() -> Iterator[Step]:
    """A client, from `AsyncClient.call` to the bytes that are sent, and from those that come to its result."""
    yield from _calling(lambda client: client.call(echo, 12345))


@case(each=BATCH)
def call_pipeline() -> Iterator[Step]:
    """The same of a pipeline, to its last result."""
    stages = Pipeline(echo).then(echo_in_thread)
    yield from _calling(lambda client: client.call(stages, 12345))


@case(each=BATCH)
def call_in_chain() -> Iterator[Step]:
    """The same through one middleware that does nothing."""
    yield from _calling(lambda client: client.call(echo, 12345), _nothing)


@case(each=BATCH)
def call_with_headers() -> Iterator[Step]:
    """The same with a header that is another one for each call, so each through a view of its own."""
    numbers = count()
    yield from _calling(lambda client: client.options(headers={"n": f"{next(numbers):055}"}).call(echo, 12345))


@case(each=BATCH)
def call_through_view() -> Iterator[Step]:
    """The same through a view with a header, which is made once."""
    views: list[AsyncClient] = []

    def call(client: AsyncClient) -> Coroutine[Any, Any, Any]:
        if not views:
            views.append(client.options(headers={"n": f"{0:055}"}))
        return views[0].call(echo, 12345)

    yield from _calling(call)


@case(each=BATCH)
def call_in_chain_with_headers() -> Iterator[Step]:
    """The same through middleware that adds a header, another one for each call, as tracing does."""
    numbers = count()

    async def add(call: ClientCall, proceed: Proceed) -> Any:
        call.headers["n"] = f"{next(numbers):055}"
        return await proceed()

    yield from _calling(lambda client: client.call(echo, 12345), add)


def _calling(call: Callable[[AsyncClient], Coroutine[Any, Any, Any]], *middleware: ClientMiddleware) -> Iterator[Step]:
    """So many calls at once."""
    with closing(asyncio.new_event_loop()) as loop:
        client, core, link = loop.run_until_complete(_connected_client(middleware))
        table = core._calls._calls
        reply = delivery_frames(1, 1, _ROUTE, result_properties(_request(), codecs.JSON), b"12345")
        before, after = reply.split(_ID)
        between = after + before
        confirmed = 0

        async def batch() -> None:
            nonlocal confirmed
            calls = [loop.create_task(call(client)) for _ in range(BATCH)]
            await asyncio.sleep(0)
            confirmed += BATCH
            link.receive(frames.ack_frame(2, confirmed, multiple=True) + before + between.join(table) + after)
            await calls[-1]

        yield lambda: loop.run_until_complete(batch())
        loop.run_until_complete(client.close())


async def _connected_client(middleware: Sequence[ClientMiddleware]) -> tuple[AsyncClient, ClientCore, ModelLink]:
    client = AsyncClient("amqp://nobody", middleware=middleware)
    link = ModelLink(_REPLY_TO.decode())
    shared = client._shared
    core = shared._core = ClientCore(shared._settings, shared._limits)
    shared._process = os.getpid()
    await core._set_up(link.as_link())
    return client, core, link


@case(each=BATCH)
def answer_async() -> Iterator[Step]:
    """A worker, from the bytes that come to those that are sent: an ``async def``, 100 at a time."""
    yield from _answering(service)


@case(each=BATCH)
def answer_in_chain() -> Iterator[Step]:
    """The same through one middleware that does nothing."""
    inside = Service("calc", middleware=[_nothing])

    @inside.method(name="echo")
    async def echo_inside(n: int) -> int:
        return n

    yield from _answering(inside)


@case(each=BATCH)
def hand_over() -> Iterator[Step]:
    """The same of a lean pipeline's stage, whose result is the next one's request."""
    slip = lean_fields(Slip((Stage("calc.echo"), Stage("other.echo"))))
    template = RequestTemplate(
        "echo>", content_type=codecs.JSON, reply_to=_REPLY_TO, bounce=False, durable=False, slip=slip
    )
    yield from _answering(service, template.encode(_ID, _ID, 30_000, 1_700_000_000_000, b"30000"))


def _answering(of: Service, properties: bytes | None = None) -> Iterator[Step]:
    def step() -> None:
        loop.call_soon(link.receive, requests)
        for _turn in ("read", "handlers", "acks"):
            loop.call_soon(loop.stop)
            loop.run_forever()

    requests = _deliveries(properties or _request_properties(), _BODY)
    with closing(asyncio.new_event_loop()) as loop:
        worker, link = loop.run_until_complete(_connected_worker(of))
        with closing(worker):
            yield step


async def _connected_worker(of: Service) -> tuple[Worker, ModelLink]:
    link = ModelLink("")
    worker = Worker(of, BATCH, "guest", "a process")
    channel = await link.hot_channel()
    channel.attach(worker, body_limit=MAX_MESSAGE_SIZE)
    return worker, link
