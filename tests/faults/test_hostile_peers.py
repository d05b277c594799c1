"""Peers that mean harm: servers and clients stay up, answer the next call, and say what they refused."""

import asyncio
import base64
import logging
import random
import struct
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pika
import pytest

from tests.support.raw import depth, raw_channel, take
from tests.support.serving import serving
from tests.support.waiting import until
from warren import AsyncClient, CallError, Execution, Service, current_call
from warren.connection.settings import make_settings
from warren.dead.queue import open_dead_queue
from warren.protocol import topology

RANDOM_BODIES = 10_000


@pytest.fixture
def raw(url: str) -> Iterator[Any]:
    """A plain Pika channel."""
    with raw_channel(url) as channel:
        yield channel


@pytest.fixture
async def client(url: str) -> AsyncIterator[AsyncClient]:
    """A connected client."""
    async with AsyncClient(url) as client:
        await client.connect()
        yield client


class Echo:
    """A service that counts the runs of its handler and can be held up in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.runs = 0
        self.began = asyncio.Event()
        self.release = asyncio.Event()
        self.service = Service(name, concurrency=50)

        @self.service.method(default=True)
        async def echo(value: object) -> object:
            self.runs += 1
            return value

        @self.service.method
        async def hold() -> str:
            self.began.set()
            await self.release.wait()
            return "held"

    async def answers(self, client: AsyncClient) -> None:
        """It still works."""
        assert await client.call(f"{self.name}.echo", "still here") == "still here"


@pytest.fixture
async def echo(service_name: str) -> Echo:
    """The service, not running yet."""
    return Echo(service_name)


def send(raw: Any, echo: Echo, body: bytes = b"[1]", **properties: Any) -> None:
    """A request as anybody may write one."""
    raw.basic_publish("", echo.name, body, pika.BasicProperties(**properties))


def replies_of(raw: Any, queue: str, count: int) -> list[tuple[Any, bytes]]:
    """So many messages of a queue, once they are there."""
    return [taken for _ in range(count) if (taken := take(raw, queue)) is not None]


# --- bodies -------------------------------------------------------------------------------------------------------


@pytest.mark.scenario(
    35, "10,000 random bodies under known and unknown content types: each is answered, and the server serves on."
)
async def test_a_server_lives_through_ten_thousand_random_bodies_and_answers_each(
    client: AsyncClient, url: str, raw: Any, echo: Echo
) -> None:
    logging.getLogger("warren.server").setLevel(logging.CRITICAL)
    rng = random.Random(35)
    types = ["application/json", "application/msgpack", "text/plain", "application/octet-stream", "x/y", "ä", None]
    replies = raw.queue_declare("", exclusive=True).method.queue
    async with serving(echo.service, url=url):
        for number in range(RANDOM_BODIES):
            body = rng.randbytes(rng.randrange(80))
            send(raw, echo, body, content_type=rng.choice(types), reply_to=replies, correlation_id=str(number))
        await until(lambda: depth(raw, replies) == RANDOM_BODIES, seconds=60)
        await echo.answers(client)
    answered = {properties.correlation_id for properties, _body in replies_of(raw, replies, RANDOM_BODIES)}
    logging.getLogger("warren.server").setLevel(logging.NOTSET)
    assert len(answered) == RANDOM_BODIES


BOMBS = {
    "json arrays in arrays": ("application/json", b"[" * 1_000_000),
    "json objects in objects": ("application/json", b'{"a":' * 300_000),
    "a json number of a million digits": ("application/json", b"[" + b"9" * 1_000_000 + b"]"),
    "half a json string": ("application/json", b'["' + b"\\u0041" * 100_000),
    "a lone json surrogate": ("application/json", b'["\\ud800"]'),
    "msgpack arrays in arrays": ("application/msgpack", b"\x91" * 1_000_000),
    "a msgpack array of four billion": ("application/msgpack", b"\xdd\xff\xff\xff\xff"),
    "a msgpack map of four billion": ("application/msgpack", b"\xdf\xff\xff\xff\xff"),
    "a msgpack text of four gigabytes": ("application/msgpack", b"\x91\xdb\xff\xff\xff\xffx"),
    "msgpack arrays that promise much": ("application/msgpack", b"\xdd\x00\x10\x00\x00" * 2000),
    "a msgpack extension": ("application/msgpack", b"\x91\xc7\x0c\xff" + b"\xff" * 12),
    "text that is none": ("text/plain", b"\xff\xfe\x00"),
    "a content type nobody knows": ("application/x-python-pickle", b"cos\nsystem\n(S'true'\ntR."),
    "a content type that is no text": (b"\xff\xfe", b"x"),
    "nothing at all": ("application/json", b""),
}


@pytest.mark.scenario(
    120,
    "Bombs of nesting or size in JSON and msgpack, unknown encodings: refused with a reason, NOT_EXECUTED; served on.",
)
@pytest.mark.parametrize("bomb", BOMBS)
async def test_a_bomb_is_refused_before_the_handler_and_the_next_call_is_served(
    client: AsyncClient, url: str, raw: Any, echo: Echo, bomb: str
) -> None:
    content_type, body = BOMBS[bomb]
    replies = raw.queue_declare("", exclusive=True).method.queue
    async with serving(echo.service, url=url):
        send(raw, echo, body, content_type=content_type, reply_to=replies, type="echo", headers={"rpc-v": 1})
        await until(lambda: depth(raw, replies) == 1)
        [(properties, _body)] = replies_of(raw, replies, 1)
        assert properties.headers["rpc-reason"] in ("DECODE", "ENCODING", "VALIDATION")
        assert properties.headers["rpc-executed"] == "NOT_EXECUTED"
        assert echo.runs == 0
        await echo.answers(client)


async def test_a_body_over_the_limit_is_refused_and_not_kept(
    client: AsyncClient, url: str, raw: Any, service_name: str
) -> None:
    service = Service(service_name, max_message_size=1000)

    @service.method(default=True)
    async def echo(text: str) -> str:
        return text

    replies = raw.queue_declare("", exclusive=True).method.queue
    async with serving(service, url=url):
        raw.basic_publish("", service_name, bytes(5_000_000), pika.BasicProperties(reply_to=replies))
        await until(lambda: depth(raw, replies) == 1)
        [(properties, body)] = replies_of(raw, replies, 1)
        assert properties.headers["rpc-reason"] == "TOO_LARGE"
        assert b"5000000 bytes, the service's max_message_size is 1000" in body
        assert await client.call(f"{service_name}.echo", "small") == "small"


# --- headers ------------------------------------------------------------------------------------------------------


def entry(kind: bytes, value: bytes, name: bytes = b"h") -> bytes:
    """One entry of a header table [AMQP 0-9-1, 4.2.5.5]."""
    return bytes((len(name),)) + name + kind + value


def table_in(depth: int) -> bytes:
    """Tables in tables."""
    inner = b""
    for _ in range(depth):
        inner = entry(b"F", struct.pack(">I", len(inner)) + inner)
    return inner


LATE = "timestamp after the year 9999"
#: Every type of value that AMQP and RabbitMQ know, and what is odd about some of them. (NaN and infinity are not here:
#: RabbitMQ itself closes the connection of whoever sends them.)
TABLES = {
    "bool": entry(b"t", b"\x01"),
    "signed byte": entry(b"b", b"\xff"),
    "unsigned byte": entry(b"B", b"\xff"),
    "signed short": entry(b"s", b"\xff\xff"),
    "unsigned short": entry(b"u", b"\xff\xff"),
    "signed int": entry(b"I", b"\xff" * 4),
    "unsigned int": entry(b"i", b"\xff" * 4),
    "signed long": entry(b"l", b"\xff" * 8),
    "float": entry(b"f", struct.pack(">f", 1.5)),
    "double": entry(b"d", struct.pack(">d", 1.5)),
    "a large double": entry(b"d", struct.pack(">d", 1e300)),
    "decimal": entry(b"D", b"\x02" + struct.pack(">i", 150)),
    "decimal with 255 places": entry(b"D", b"\xff" + struct.pack(">i", -1)),
    "text": entry(b"S", b"\x00\x00\x00\x02\xc3\xa4"),
    "text that is not UTF-8": entry(b"S", b"\x00\x00\x00\x02\xff\xfe"),
    "bytes": entry(b"x", b"\x00\x00\x00\x01\xff"),
    "array": entry(b"A", b"\x00\x00\x00\x04" + b"t\x01" + b"VV"),
    "table": table_in(3),
    "tables in tables in tables": table_in(500),
    "timestamp": entry(b"T", struct.pack(">Q", 1_700_000_000)),
    LATE: entry(b"T", struct.pack(">Q", 2**60)),
    "nothing": entry(b"V", b""),
    "a name that is not UTF-8": entry(b"t", b"\x01", name=b"\xff\xfe"),
    "an empty name": entry(b"t", b"\x01", name=b""),
    "the same name twice": entry(b"t", b"\x01") * 2,
    "budget of another type": entry(b"S", b"\x00\x00\x00\x01x", name=b"rpc-timeout-ms"),
    "a version from the future": entry(b"l", b"\x7f" + b"\xff" * 7, name=b"rpc-v"),
    "an attempt below zero": entry(b"l", b"\xff" * 8, name=b"rpc-attempt"),
}


def raw_properties(table: bytes, **shortstrings: bytes) -> pika.BasicProperties:
    """Properties with a header table as it is, and short strings that need not be text."""
    bits = {"correlation_id": 0x400, "reply_to": 0x200, "message_id": 0x80, "type": 0x20}
    flags = 0x2000 + sum(bits[name] for name in shortstrings)
    values = [bytes((len(shortstrings[name]),)) + shortstrings[name] for name in bits if name in shortstrings]
    properties = pika.BasicProperties()
    properties.encode = lambda: [struct.pack(">HI", flags, len(table)), table, *values]
    return properties


@pytest.mark.scenario(
    121, "Headers of every AMQP type, nested, damaged or beyond Python's range: the request is answered."
)
@pytest.mark.parametrize("what", TABLES)
async def test_a_request_with_any_header_is_answered(
    client: AsyncClient, url: str, raw: Any, echo: Echo, what: str
) -> None:
    replies = raw.queue_declare("", exclusive=True).method.queue
    async with serving(echo.service, url=url):
        properties = raw_properties(TABLES[what], correlation_id=b"1", reply_to=replies.encode())
        raw.basic_publish("", echo.name, b"1", properties)
        await until(lambda: depth(raw, replies) == 1)
        [(answer, _body)] = replies_of(raw, replies, 1)
        assert answer.correlation_id == "1"
        await echo.answers(client)


@pytest.mark.scenario(121, "A refused cast with such headers is in the dead queue; no connection is lost.")
@pytest.mark.parametrize("what", TABLES)
async def test_a_refused_cast_with_any_header_is_set_aside(
    client: AsyncClient, url: str, raw: Any, echo: Echo, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(echo.service, url=url):
        raw.basic_publish("", echo.name, b"1", raw_properties(TABLES[what], type=b"no-such-method"))
        await until(lambda: depth(raw, topology.dead_queue(echo.name)) == 1)
        await echo.answers(client)
    assert "lost the connection" not in caplog.text


async def test_a_cast_with_a_moment_that_python_cannot_hold_is_in_the_dead_queue_with_its_headers(
    url: str, raw: Any, echo: Echo, client: AsyncClient
) -> None:
    async with serving(echo.service, url=url):
        raw.basic_publish("", echo.name, b"evidence", raw_properties(TABLES[LATE], type=b"no-such-method"))
        await until(lambda: depth(raw, topology.dead_queue(echo.name)) == 1)
        await echo.answers(client)
    async with open_dead_queue(make_settings(url), echo.name, bodies=True) as queue:  # plain Pika would not survive it
        [entry] = [entry async for entry in queue.messages()]
        assert entry.body == b"evidence"
        assert 2**60 in (entry.headers or {}).values()


@pytest.mark.parametrize("name", ["correlation_id", "message_id", "type", "reply_to"])
async def test_ids_names_and_addresses_that_are_no_text_do_no_harm(
    client: AsyncClient, url: str, raw: Any, echo: Echo, name: str
) -> None:
    replies = raw.queue_declare("", exclusive=True).method.queue
    async with serving(echo.service, url=url):
        strings = {"reply_to": replies.encode(), name: b"\xff\xfe\x00"}
        raw.basic_publish("", echo.name, b"1", raw_properties(b"", **strings))
        await until(lambda: depth(raw, echo.name) == 0)
        await until(lambda: depth(raw, replies) == (0 if name == "reply_to" else 1))
        await echo.answers(client)


# --- forged reply addresses ---------------------------------------------------------------------------------------


def forged(node: bytes = b"reply@99999999") -> str:
    """The direct reply-to address of a caller on a node that does not exist [RabbitMQ 3.10 to 4.3]."""
    pid = b"\x83Xv" + len(node).to_bytes(2, "big") + node + bytes(12)
    return f"amq.rabbitmq.reply-to.{base64.b64encode(pid).decode()}.lexC4lanvK4Y6Ln9EVvVuQ=="


FORGED = {
    "a node that is gone": forged(),
    "no node": "amq.rabbitmq.reply-to.AAAA.AAAA",
    "no base64": "amq.rabbitmq.reply-to.!!.!!",
    "no key": "amq.rabbitmq.reply-to.x",
}


@pytest.mark.scenario(
    122,
    "A forged direct reply-to address (541 on RabbitMQ 3.10): the reply is dropped; one reconnect at most.",
)
@pytest.mark.parametrize("address", FORGED)
async def test_a_forged_direct_reply_address_costs_a_worker_its_connection_once_at_most(
    client: AsyncClient, url: str, raw: Any, echo: Echo, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    """RabbitMQ 3.10 closes the connection of whoever replies there (541); the request must not come again."""
    caplog.set_level("WARNING")
    async with serving(echo.service, url=url), serving(echo.service, url=url):
        send(raw, echo, b"1", reply_to=FORGED[address], correlation_id="1")
        await until(lambda: echo.runs == 1)
        for _ in range(20):  # over whatever connections there are
            await asyncio.wait_for(echo.answers(client), 20)
        await until(lambda: depth(raw, echo.name) == 0)
    assert caplog.text.count("lost the connection") <= 1
    assert echo.runs == 21


async def test_a_forged_direct_reply_address_of_a_refused_request_costs_no_more(
    client: AsyncClient, url: str, raw: Any, echo: Echo, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    async with serving(echo.service, url=url), serving(echo.service, url=url):
        send(raw, echo, b"1", reply_to=forged(), type="no-such-method")
        for _ in range(20):
            await asyncio.wait_for(echo.answers(client), 20)
        await until(lambda: depth(raw, echo.name) == 0)
    assert caplog.text.count("lost the connection") <= 1


async def test_progress_is_not_told_to_a_forged_address_before_the_request_is_acknowledged(
    client: AsyncClient, url: str, raw: Any, service_name: str
) -> None:
    service, runs, go = Service(service_name), asyncio.Semaphore(0), asyncio.Event()

    @service.method(delivery="at-least-once")
    async def work() -> None:
        current_call().progress(1)
        runs.release()
        await go.wait()

    @service.method(delivery="at-least-once")
    async def quick() -> int:
        return 2

    async with serving(service, url=url):
        headers = {"rpc-progress": True, "rpc-v": 1}
        properties = pika.BasicProperties(type="work", reply_to=forged(), correlation_id="1", headers=headers)
        properties.content_type = "application/json"
        raw.basic_publish("", service_name, b"[]", properties)
        await asyncio.wait_for(runs.acquire(), 20)
        assert await asyncio.wait_for(client.call(quick), 20) == 2
        assert runs.locked()  # else it has come again, before the other
        go.set()


@pytest.mark.scenario(122, "What else ran on that connection ends as WORKER_LOST, UNKNOWN, or in its result.")
async def test_what_else_ran_when_a_forged_address_cost_the_connection_ends_in_a_typed_error(
    client: AsyncClient, url: str, raw: Any, echo: Echo
) -> None:
    async with serving(echo.service, url=url):
        held = asyncio.create_task(client.call(f"{echo.name}.hold"))
        await echo.began.wait()
        send(raw, echo, b"1", reply_to=forged())
        await until(lambda: echo.runs == 1)
        echo.began.clear()
        await echo.answers(client)
        echo.release.set()
        [outcome] = await asyncio.wait_for(asyncio.gather(held, return_exceptions=True), 20)
        if isinstance(outcome, CallError):
            assert (outcome.reason, outcome.execution) == ("WORKER_LOST", Execution.UNKNOWN)
        else:
            assert outcome == "held"  # RabbitMQ 4: the connection stays


# --- the reply queue ----------------------------------------------------------------------------------------------


@pytest.mark.scenario(26, "Foreign messages with headers of every type on the reply queue are counted and end no call.")
async def test_strangers_on_the_reply_queue_are_counted_and_end_no_call(
    client: AsyncClient, url: str, raw: Any, echo: Echo
) -> None:
    """Unknown, missing and unreadable correlation ids, and all kinds of headers."""
    async with serving(echo.service, url=url):
        call = asyncio.create_task(client.call(f"{echo.name}.hold"))
        await echo.began.wait()
        reply_to = await reply_queue_of(client, raw, echo)
        before = client.ignored_replies
        prefix = b"p"
        for table in TABLES.values():
            for correlation_id in (b"", b"\xff", prefix + b".1", b"x" * 255):
                raw.basic_publish("", reply_to, b"{}", raw_properties(table, correlation_id=correlation_id))
            raw.basic_publish("", reply_to, b"{}", raw_properties(table))
        await until(lambda: client.ignored_replies == before + 5 * len(TABLES))
        assert not call.done()
        echo.release.set()
        assert await call == "held"


async def reply_queue_of(client: AsyncClient, raw: Any, echo: Echo) -> str:
    """Where the client wants its replies, as anybody who may read a request can find out."""
    spy = f"{echo.name}-spy"
    raw.queue_declare(spy, exclusive=True)
    raw.queue_bind(spy, "warren", echo.name)
    await client.call(f"{echo.name}.echo", 1)
    await until(lambda: depth(raw, spy) == 1)
    taken = take(raw, spy)
    assert taken is not None
    return str(taken[0].reply_to)


@pytest.mark.scenario(27, "A reply with a header beyond Python's range is a result like others.")
async def test_a_reply_with_a_moment_that_python_cannot_hold_is_a_result_like_others(
    client: AsyncClient, raw: Any, service_name: str
) -> None:
    raw.queue_declare(service_name, exclusive=True)
    raw.queue_bind(service_name, "warren", service_name)
    calls = [asyncio.create_task(client.call(f"{service_name}.x")) for _ in range(2)]
    await until(lambda: depth(raw, service_name) == 2)
    first, second = (request for _ in calls if (request := take(raw, service_name)) is not None)
    evil = raw_properties(TABLES[LATE], correlation_id=first[0].correlation_id.encode())
    raw.basic_publish("", first[0].reply_to, b"{}", evil)
    good = pika.BasicProperties(correlation_id=second[0].correlation_id, content_type="application/json")
    raw.basic_publish("", second[0].reply_to, b"2", good)
    assert await asyncio.wait_for(calls[1], 20) == 2
    assert await asyncio.wait_for(calls[0], 20) == "{}"


# --- headers as large as a frame ----------------------------------------------------------------------------------


def large_table(size: int) -> bytes:
    """A table of so many bytes, in one entry."""
    return entry(b"S", struct.pack(">I", size - 7) + b"x" * (size - 7))


#: The most that fits into one header frame of 131,072 bytes with nothing beside it, and a little less.
LARGE = [131_072 - 8 - 14 - 4 - less for less in (0, 10, 30, 200)]


@pytest.mark.scenario(121, "Headers that fill a frame: the refused cast is in the dead queue; no connection is lost.")
@pytest.mark.parametrize("size", LARGE)
async def test_a_refused_cast_whose_headers_fill_a_frame_is_set_aside_and_does_no_harm(
    client: AsyncClient, url: str, raw: Any, echo: Echo, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(echo.service, url=url):
        raw.basic_publish("", echo.name, b'{"no": "value"}', raw_properties(large_table(size)))
        raw.basic_publish("", echo.name, b"\xff", raw_properties(large_table(size)))
        await until(lambda: depth(raw, topology.dead_queue(echo.name)) == 1)
        await echo.answers(client)
        await until(lambda: depth(raw, echo.name) == 0)
    assert "lost the connection" not in caplog.text


async def test_a_dead_letter_whose_headers_fill_more_than_a_frame_can_be_looked_at(
    url: str, raw: Any, echo: Echo
) -> None:
    async with serving(echo.service, url=url):
        pass
    properties = raw_properties(large_table(LARGE[2]))
    raw.basic_publish("", echo.name, b"1", properties)
    raw.basic_publish("", echo.name, b"2")
    method, _properties, _body = raw.basic_get(echo.name)
    raw.basic_reject(method.delivery_tag, requeue=False)
    await until(lambda: depth(raw, topology.dead_queue(echo.name)) == 1)
    async with open_dead_queue(make_settings(url), echo.name, bodies=True) as queue:
        [entry] = [entry async for entry in queue.messages()]
        assert (entry.reason, entry.body) == ("rejected", b"1")
