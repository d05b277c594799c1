"""``warren dead``: what is shown, what is sent again or dropped, and that nothing is lost on the way."""

import asyncio
import json
import os
import pty
import struct
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pika
import pytest

from rabbit import Node
from tests.cli.conftest import Run
from tests.cli.running import PATIENCE, WARREN, environment
from tests.support.raw import depth, raw_channel, take
from tests.support.serving import serving
from tests.support.waiting import until
from warren import AsyncClient, CallError, Service, current_call
from warren.connection.settings import make_settings
from warren.dead.queue import DeadQueueError, InDoubt, open_dead_queue
from warren.protocol import topology

Done = subprocess.CompletedProcess[str]
Dead = Callable[..., Awaitable[Done]]


@pytest.fixture
def raw(url: str) -> Iterator[Any]:
    """A plain Pika channel."""
    with raw_channel(url) as channel:
        yield channel


@pytest.fixture
def dead(run: Run, service_name: str) -> Dead:
    """``warren dead COMMAND SERVICE …``."""

    async def dead(command: str, *args: str, **env: str) -> Done:
        return await asyncio.to_thread(run, "dead", command, service_name, *args, **env)

    return dead


@pytest.fixture
def put(raw: Any, service_name: str) -> Callable[..., None]:
    """Puts a message into the dead queue as anybody could."""
    queue = topology.dead_queue(service_name)
    raw.queue_declare(queue, durable=True, arguments=topology.DEAD_QUEUE_ARGUMENTS)

    def put(body: bytes = b"[]", **properties: Any) -> None:
        raw.basic_publish("", queue, body, pika.BasicProperties(**properties))

    return put


def make_service(name: str, runs: list[tuple[str, str | None]]) -> Service:
    """A service whose `note` says what ran, and fails on the argument ``fail``."""
    service = Service(name)

    @service.method
    async def note(text: str) -> None:
        runs.append((text, current_call().call_id))
        if text == "fail":
            raise RuntimeError("not today")

    return service


async def listed(dead: Dead) -> list[dict[str, Any]]:
    done = await dead("list", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


# --- looking ------------------------------------------------------------------------------------------------------


async def test_list_shows_a_failed_cast_with_its_reason_method_size_and_caller(
    dead: Dead, url: str, service_name: str
) -> None:
    async with serving(make_service(service_name, []), url=url), AsyncClient(url, name="shop") as client:
        await client.cast(f"{service_name}.note", "fail")
        await until_async(lambda: listed(dead))
    [one] = await listed(dead)
    assert (one["reason"], one["method"], one["size"], one["caller"], one["call"]) == (
        "HANDLER_EXCEPTION",
        "note",
        8,
        "shop",
        False,
    )
    table = (await dead("list")).stdout
    assert all(word in table for word in (one["id"], "HANDLER_EXCEPTION", "note", "shop"))


async def reject_a_call(url: str, raw: Any, service_name: str, **options: Any) -> str:
    """A call of `note` that a consumer of the queue refuses without an answer; returns its id."""
    async with AsyncClient(url) as client:
        await client.connect()
        call = asyncio.create_task(client.options(**options).call(f"{service_name}.note", "late"))
        tag = (await until(lambda: raw.basic_get(service_name)[0])).delivery_tag
        raw.basic_reject(tag, requeue=False)
        with pytest.raises(CallError) as caught:
            await call
    await until(lambda: depth(raw, topology.dead_queue(service_name)) == 1)
    return str(caught.value.call_id)


async def test_list_shows_since_when_a_rejected_call_is_there(
    dead: Dead, url: str, raw: Any, service_name: str
) -> None:
    async with serving(make_service(service_name, []), url=url):
        pass
    await reject_a_call(url, raw, service_name)
    [one] = await listed(dead)
    assert (one["reason"], one["call"]) == ("rejected", True)
    assert one["since"].endswith("+00:00")
    assert " s " in (await dead("list")).stdout


async def test_looking_leaves_everything_there_in_its_order(
    dead: Dead, put: Callable[..., None], raw: Any, service_name: str
) -> None:
    for number in range(5):
        put(b"%d" % number, message_id=f"m{number}")
    await dead("list")
    await dead("show", "m3")
    assert [one["id"] for one in await listed(dead)] == ["m0", "m1", "m2", "m3", "m4"]
    bodies = [taken[1] for _ in range(5) if (taken := take(raw, topology.dead_queue(service_name)))]
    assert bodies == [b"0", b"1", b"2", b"3", b"4"]


async def test_messages_of_one_id_and_messages_without_one_can_be_told_apart(
    dead: Dead, put: Callable[..., None]
) -> None:
    put(message_id="m")
    put(message_id="m")
    put(correlation_id="c")
    put(app_id="x")
    names = [one["id"] for one in await listed(dead)]
    assert names[:3] == ["m", "m~2", "c"]
    assert names[3].startswith("unnamed-")
    assert (await dead("show", names[3])).returncode == 0


async def test_list_says_that_there_is_more_than_it_shows(dead: Dead, put: Callable[..., None]) -> None:
    for number in range(3):
        put(message_id=f"m{number}")
    done = await dead("list", "--limit", "2")
    assert "the oldest 2 of 3" in done.stderr
    assert "m2" not in done.stdout


async def test_an_empty_queue_is_said_to_be_empty(dead: Dead, put: Callable[..., None], service_name: str) -> None:
    assert (await dead("list")).stdout == f"{service_name}.dead is empty\n"
    assert await listed(dead) == []


async def test_show_prints_properties_headers_and_the_body(dead: Dead, put: Callable[..., None]) -> None:
    put(
        '["ä"]'.encode(),
        message_id="m",
        type="note",
        reply_to="r",
        headers={"rpc-dead-reason": "POISON", "tenant": "blue", "n": {"a": [1]}},
    )
    shown = json.loads((await dead("show", "m", "--json")).stdout)
    assert shown["properties"] == {"message_id": "m", "type": "note", "reply_to": "r"}
    assert shown["headers"] == {"rpc-dead-reason": "POISON", "tenant": "blue", "n": {"a": [1]}}
    assert (shown["body"], shown["body_left_out"]) == ('["ä"]', 0)
    text = (await dead("show", "m")).stdout
    assert all(word in text for word in ("POISON", "tenant", "blue", '["ä"]'))


async def test_nothing_in_a_message_reaches_the_terminal_as_a_control_character(
    served_terminal: Callable[..., bytes], put: Callable[..., None]
) -> None:
    evil = "\x1b]0;owned\x07[bold]x[/bold]\r\n\x9b31m"
    put(
        evil.encode() + b"\xff",
        message_id=evil,
        type=evil,
        app_id=evil,
        headers={evil: evil, "rpc-dead-reason": evil},
    )
    table = await asyncio.to_thread(served_terminal, "list")
    [one] = json.loads(await asyncio.to_thread(served_terminal, "list", "--json"))
    shown = await asyncio.to_thread(served_terminal, "show", one["id"])
    for output in (table, shown):
        assert b"owned" in output
        assert b"[bold]" in output
        assert b"\x1b]" not in output
        assert b"\x07" not in output
        assert "\x9b".encode() not in output


@pytest.fixture
def served_terminal(url: str, service_name: str) -> Callable[..., bytes]:
    """``warren dead`` as a terminal gets it."""

    def show(command: str, *args: str) -> bytes:
        ours, theirs = pty.openpty()
        env = environment(WARREN_URL=url, COLUMNS="300", TERM="dumb")
        command_line = [*WARREN, "dead", command, service_name, *args]
        process = subprocess.Popen(command_line, env=env, stdin=subprocess.DEVNULL, stdout=theirs)
        os.close(theirs)
        output = b""
        with open(ours, "rb", buffering=0) as terminal:
            try:
                while data := terminal.read(4096):
                    output += data
            except OSError:  # Linux: the other end is closed
                pass
        assert process.wait(PATIENCE) == 0
        return output

    return show


async def test_a_large_body_is_shown_in_part(dead: Dead, put: Callable[..., None]) -> None:
    put(b"x" * 100_000, message_id="m")
    done = await dead("show", "m")
    assert "95904 bytes more" in done.stdout
    assert len(done.stdout) < 6000


async def test_headers_beyond_python_are_shown_as_numbers(
    dead: Dead, put: Callable[..., None], raw: Any, service_name: str
) -> None:
    put_beyond_the_calendar(raw, topology.dead_queue(service_name))
    put(message_id="m")
    assert [one["id"] for one in await listed(dead)] == ["odd", "m"]
    assert str(2**60) in (await dead("show", "odd")).stdout


def put_beyond_the_calendar(raw: Any, queue: str) -> None:
    """A message with the id ``odd`` and a date beyond Python's calendar."""
    table = struct.pack(">B4scQ", 4, b"when", b"T", 2**60)
    properties = pika.BasicProperties()
    properties.encode = lambda: [struct.pack(">HI", 0x2080, len(table)), table, b"\x03odd"]
    raw.basic_publish("", queue, b"[]", properties)


# --- trying again -------------------------------------------------------------------------------------------------


async def test_a_retried_cast_runs_with_the_same_id_and_leaves_the_dead_queue(
    dead: Dead, url: str, raw: Any, service_name: str, put: Callable[..., None]
) -> None:
    runs: list[tuple[str, str | None]] = []
    put(b'["again"]', message_id="m1", type="note", content_type="application/json", headers={"rpc-v": 1})
    async with serving(make_service(service_name, runs), url=url):
        done = await dead("retry", "m1")
        assert (done.returncode, done.stdout) == (0, "m1 sent again\n")
        await until(lambda: runs)
    assert runs == [("again", "m1")]
    assert depth(raw, topology.dead_queue(service_name)) == 0


async def test_a_retried_call_runs_as_a_cast_and_that_is_said(
    dead: Dead, url: str, raw: Any, service_name: str
) -> None:
    runs: list[tuple[str, str | None]] = []
    async with serving(make_service(service_name, []), url=url):
        pass
    call_id = await reject_a_call(url, raw, service_name, headers={"tenant": "blue"})
    async with serving(make_service(service_name, runs), url=url):
        done = await dead("retry", call_id)
        assert "runs as a cast now" in done.stdout
        await until(lambda: runs)
    assert runs == [("late", call_id)]


async def test_a_retried_request_carries_nothing_of_its_past(
    dead: Dead, url: str, raw: Any, service_name: str, put: Callable[..., None]
) -> None:
    async with serving(make_service(service_name, []), url=url):
        pass
    past = {"x-death": [{"count": 1}], "x-first-death-reason": "expired", "rpc-dead-reason": "POISON"}
    attempt = {"rpc-attempt": 3, "rpc-timeout-ms": 5, "rpc-deadline": 7, "CC": ["reply"], "rpc-user": "admin"}
    put(
        b"[1]",
        message_id="m",
        correlation_id="c",
        type="note",
        app_id="shop",
        priority=3,
        reply_to="gone",
        headers={"rpc-v": 1, "tenant": "blue", **past, **attempt},
    )
    assert (await dead("retry", "m")).returncode == 0
    taken = take(raw, service_name)
    assert taken is not None
    properties, body = taken
    assert body == b"[1]"
    assert properties.headers == {"rpc-v": 1, "tenant": "blue"}
    assert (properties.reply_to, properties.expiration, properties.delivery_mode) == (None, None, 2)
    assert (properties.message_id, properties.correlation_id, properties.type) == ("m", "c", "note")
    assert (properties.app_id, properties.priority, properties.user_id) == ("shop", 3, "guest")


async def test_retry_all_sends_each_once_in_order_even_if_some_come_back(
    dead: Dead, url: str, raw: Any, service_name: str, put: Callable[..., None]
) -> None:
    runs: list[tuple[str, str | None]] = []
    for number, text in enumerate(("a", "fail", "b", "fail", "c")):
        put(f'["{text}"]'.encode(), message_id=f"m{number}", type="note", content_type="application/json")
    async with serving(make_service(service_name, runs), url=url, concurrency=1):
        done = await dead("retry", "--all", "--yes")
        assert done.returncode == 0, done.stderr
        assert "5 messages sent again" in done.stdout
        await until(lambda: depth(raw, topology.dead_queue(service_name)) == 2)
    assert [call_id for _text, call_id in runs] == ["m0", "m1", "m2", "m3", "m4"]
    assert [one["id"] for one in await listed(dead)] == ["m1", "m3"]


async def test_what_has_headers_beyond_python_is_retried_like_the_rest(
    dead: Dead, url: str, raw: Any, service_name: str, put: Callable[..., None]
) -> None:
    runs: list[tuple[str, str | None]] = []
    put_beyond_the_calendar(raw, topology.dead_queue(service_name))
    put(b'["good"]', message_id="m", type="note", content_type="application/json")
    async with serving(make_service(service_name, runs), url=url):
        done = await dead("retry", "--all", "--yes")
        await until(lambda: runs)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "2 messages sent again")


async def test_a_request_whose_service_has_no_queue_stays_dead(
    dead: Dead, url: str, raw: Any, service_name: str, put: Callable[..., None]
) -> None:
    async with serving(make_service(service_name, []), url=url):
        pass
    raw.queue_delete(service_name)
    put(message_id="m")
    put(message_id="n")
    done = await dead("retry", "--all", "--yes")
    assert done.returncode == 1
    assert "m was not taken" in done.stderr
    assert f"no queue for '{service_name}'" in done.stderr
    assert [one["id"] for one in await listed(dead)] == ["m", "n"]


async def test_a_request_that_a_full_queue_refuses_stays_dead(
    dead: Dead, url: str, raw: Any, service_name: str, put: Callable[..., None]
) -> None:
    raw.exchange_declare("warren", "direct", durable=True)
    raw.queue_declare(service_name, durable=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    raw.queue_bind(service_name, "warren", service_name)
    raw.basic_publish("", service_name, b"")
    await until(lambda: depth(raw, service_name) == 1)
    put(message_id="m")
    done = await dead("retry", "m")
    assert "the queue is full" in done.stderr
    assert (depth(raw, service_name), [one["id"] for one in await listed(dead)]) == (1, ["m"])


# --- dropping -----------------------------------------------------------------------------------------------------


async def test_drop_asks_first_and_takes_no_for_an_answer(
    dead: Dead, put: Callable[..., None], url: str, service_name: str
) -> None:
    put(message_id="m")

    def answer(text: str) -> Done:
        command = [*WARREN, "dead", "drop", service_name, "m"]
        env = environment(WARREN_URL=url)
        return subprocess.run(command, env=env, input=text, capture_output=True, text=True, timeout=PATIENCE)

    done = await asyncio.to_thread(answer, "n\n")
    assert done.returncode == 1
    assert "Drop m (not known, 2 bytes) for good?" in done.stdout
    assert len(await listed(dead)) == 1
    assert (await asyncio.to_thread(answer, "y\n")).stdout.endswith("1 message dropped\n")
    assert await listed(dead) == []


async def test_retry_all_asks_first_and_says_how_many(
    dead: Dead, put: Callable[..., None], url: str, raw: Any, service_name: str
) -> None:
    async with serving(make_service(service_name, []), url=url):
        pass
    for number in range(3):
        put(message_id=f"m{number}")

    def answer(text: str) -> Done:
        command = [*WARREN, "dead", "retry", service_name, "--all"]
        env = environment(WARREN_URL=url)
        return subprocess.run(command, env=env, input=text, capture_output=True, text=True, timeout=PATIENCE)

    for text, said in (("n\n", "nothing was done"), ("", "--yes does it unasked")):
        done = await asyncio.to_thread(answer, text)
        assert (done.returncode, depth(raw, service_name)) == (1, 0)
        assert f"3 messages of {service_name}.dead: send again?" in done.stdout
        assert said in done.stderr
    done = await asyncio.to_thread(answer, "y\n")
    assert done.stdout.endswith("3 messages sent again\n")
    assert depth(raw, service_name) == 3


async def test_only_those_that_are_chosen_are_listed_dropped_and_retried(
    dead: Dead, put: Callable[..., None], url: str, raw: Any, service_name: str
) -> None:
    async with serving(make_service(service_name, []), url=url):
        pass
    old, fresh = 1_500_000_000_000, int(time.time() * 1000)
    put(message_id="a", type="pay", headers={"rpc-dead-reason": "POISON", "rpc-dead-at": old})
    put(message_id="b", type="note", reply_to="r", headers={"rpc-dead-reason": "POISON", "rpc-dead-at": fresh})
    put(message_id="c", type="note", headers={"rpc-dead-reason": "VALIDATION", "rpc-dead-at": old})
    put(message_id="d")

    async def ids(*choice: str) -> list[str]:
        return [one["id"] for one in json.loads((await dead("list", "--json", *choice)).stdout)]

    assert await ids("--reason", "POISON") == ["a", "b"]
    assert await ids("--reason", "POISON", "--reason", "VALIDATION", "--method", "note") == ["b", "c"]
    assert await ids("--older-than", "1h") == ["a", "c"]
    assert await ids("--newer-than", "1h") == ["b"]
    assert await ids("--only", "calls") == ["b"]
    assert await ids("--only", "casts") == ["a", "c", "d"]
    assert (await dead("drop", "--all", "--yes", "--method", "pay")).stdout == "1 message dropped\n"
    assert (await dead("retry", "--all", "--yes", "--reason", "VALIDATION")).stdout.endswith("1 message sent again\n")
    assert await ids() == ["b", "d"]
    assert "nothing of that kind among 2 messages" in (await dead("drop", "--all", "--method", "other")).stdout


async def test_show_tells_what_a_failed_cast_ended_in(dead: Dead, url: str, service_name: str) -> None:
    async with serving(make_service(service_name, []), url=url), AsyncClient(url) as client:
        await client.cast(f"{service_name}.note", "fail")
        await until_async(lambda: listed(dead))
    [one] = await listed(dead)
    assert (one["type"], one["code"], one["execution"], one["attempt"]) == ("RuntimeError", "UNKNOWN", "EXECUTED", 1)
    page = (await dead("show", one["id"])).stdout
    assert all(word in page for word in ("RuntimeError: not today", "EXECUTED", one["instance"], one["since"]))
    assert "RuntimeError: not today" in (await dead("list")).stdout


async def test_several_services_are_counted(run: Run, put: Callable[..., None], service_name: str) -> None:
    put()
    done = await asyncio.to_thread(run, "dead", "count", service_name, "no-such-service")
    assert done.returncode == 1
    assert [line.split(maxsplit=1) for line in done.stdout.splitlines()] == [
        [service_name, "1"],
        ["no-such-service", "no dead queue"],
    ]
    done = await asyncio.to_thread(run, "dead", "count", "--json", service_name)
    assert (done.returncode, json.loads(done.stdout)) == (0, {service_name: 1})


async def test_without_somebody_to_ask_nothing_is_dropped(dead: Dead, put: Callable[..., None]) -> None:
    put(message_id="m")
    assert (await dead("drop", "--all")).returncode == 1
    assert len(await listed(dead)) == 1


async def test_one_message_is_dropped_and_the_others_stay_in_order(dead: Dead, put: Callable[..., None]) -> None:
    for number in range(3):
        put(message_id=f"m{number}")
    assert (await dead("drop", "m1", "--yes")).stdout == "1 message dropped\n"
    assert [one["id"] for one in await listed(dead)] == ["m0", "m2"]


async def test_all_are_dropped(dead: Dead, put: Callable[..., None], raw: Any, service_name: str) -> None:
    for number in range(300):
        put(message_id=f"m{number}")
    assert (await dead("drop", "--all", "--yes")).stdout == "300 messages dropped\n"
    assert depth(raw, topology.dead_queue(service_name)) == 0


# --- what goes wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["list", "retry", "drop", "show"])
async def test_a_service_that_never_ran_has_no_dead_queue(dead: Dead, service_name: str, command: str) -> None:
    which = {"list": [], "show": ["m"], "retry": ["--all", "--yes"], "drop": ["--all", "--yes"]}[command]
    done = await dead(command, *which)
    assert done.returncode == 1
    assert (
        done.stderr
        == (
            f"error: there is no queue '{service_name}.dead': no worker of '{service_name}' has ever run here; check"
            " the service's name, the broker and the vhost\n"
        )
        or command == "retry"
    )


async def test_an_id_that_is_not_there_is_an_error(dead: Dead, put: Callable[..., None], service_name: str) -> None:
    put(message_id="m")
    for command in ("show", "retry", "drop"):
        done = await dead(command, "other")
        assert (done.returncode, done.stderr) == (1, f"error: there is no message 'other' in '{service_name}.dead'\n")
    assert len(await listed(dead)) == 1


@pytest.mark.parametrize("arguments", [["retry"], ["drop"], ["retry", "m", "--all"], ["drop", "m", "--all"]])
async def test_one_or_all_has_to_be_said(dead: Dead, arguments: list[str]) -> None:
    done = await dead(*arguments)
    assert (done.returncode, done.stderr) == (2, "error: say which: one ID, or --all\n")


async def test_a_broker_that_does_not_run_is_an_error(dead: Dead) -> None:
    done = await dead("list", WARREN_URL="amqp://localhost:1")
    assert done.returncode == 3
    assert "connection refused: does RabbitMQ run there?" in done.stderr


# --- interrupted --------------------------------------------------------------------------------------------------


async def test_a_command_that_is_cut_off_puts_back_what_it_had_taken(
    put: Callable[..., None], raw: Any, url: str, service_name: str
) -> None:
    queue_name = topology.dead_queue(service_name)
    for number in range(4):
        put(b"%d" % number)

    async def look_and_fail() -> None:
        async with _opened(url, service_name) as queue:
            assert len([entry async for entry in queue.messages(3)]) == 3
            assert depth(raw, queue_name) == 1
            raise InterruptedError

    with pytest.raises(InterruptedError):
        await look_and_fail()
    await until(lambda: depth(raw, queue_name) == 4)
    assert [taken[1] for _ in range(4) if (taken := take(raw, queue_name))] == [b"0", b"1", b"2", b"3"]


async def test_a_retry_cut_off_before_the_confirm_says_that_it_is_in_doubt_and_loses_nothing(
    put: Callable[..., None], raw: Any, breakable_rabbit: Node, url: str, service_name: str
) -> None:
    async with serving(make_service(service_name, []), url=url):
        pass
    put(message_id="m")
    async with _opened(url, service_name) as queue:
        entry = await queue.find("m")
        breakable_rabbit.freeze()
        task = asyncio.create_task(queue.retry(entry))
        await asyncio.sleep(0)  # published, and nobody to confirm it
        task.cancel()
        with pytest.raises(InDoubt, match=r"may be in .* too, not confirmed: interrupted"):
            await task
        breakable_rabbit.thaw()
    await until(lambda: depth(raw, topology.dead_queue(service_name)) == 1)


async def test_a_message_that_was_retried_is_not_sent_a_second_time(
    put: Callable[..., None], raw: Any, url: str, service_name: str
) -> None:
    async with serving(make_service(service_name, []), url=url):
        pass
    put(message_id="m")
    async with _opened(url, service_name) as queue:
        await queue.retry(await queue.find("m"))
        with pytest.raises(DeadQueueError, match="there is no message"):
            await queue.find("m")
    assert (depth(raw, service_name), depth(raw, topology.dead_queue(service_name))) == (1, 0)


def _opened(url: str, service_name: str) -> Any:
    return open_dead_queue(make_settings(url), service_name, bodies=True)


async def until_async(condition: Callable[[], Awaitable[Any]]) -> None:
    """Poll a condition that waits itself."""
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.05)
