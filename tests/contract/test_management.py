"""How queues stand, from RabbitMQ's management plugin: rates, and services that nobody serves."""

import asyncio
import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from rabbit import Node
from tests.cli.running import Result, run_here
from tests.support.serving import serving
from warren import AsyncClient, Service
from warren.connection.settings import make_settings
from warren.operate.management import ManagementError, ask_management
from warren.operate.queues import Standing

PATIENCE = 60.0


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    with Node(name="warren-management", management=True) as node:
        yield node


def service(name: str) -> Service:
    made = Service(name)

    @made.method
    async def run() -> None:
        pass

    return made


async def queues(node: Node, *args: str) -> Result:
    command = ["queues", *args, "--management", node.management_url, "--url", node.url]
    return await asyncio.to_thread(run_here, command)


@pytest.mark.slow
async def test_the_plugin_tells_what_is_not_served_and_how_fast_it_goes(node: Node) -> None:
    async with serving(service("gone"), url=node.url):
        pass
    async with serving(service("here"), url=node.url), AsyncClient(node.url) as client:
        await client.cast("gone.run")
        end = time.monotonic() + PATIENCE
        while True:  # the plugin looks at queues every five seconds
            await client.cast("here.run")
            rows = {row["service"]: row for row in json.loads((await queues(node, "--json")).stdout)}
            if "gone" in rows and rows["gone"]["ready"] == 1 and rows["here"]["delivered"]:
                break
            assert time.monotonic() < end, rows
        assert rows["gone"]["consumers"] == 0
        assert rows["here"]["consumers"] == 1
        assert (rows["here"]["dead"], rows["gone"]["dead"]) == (0, 0)
        shown = await queues(node)
        assert "in/s" in shown.stdout
        assert "nobody takes it" in shown.stdout


@pytest.mark.slow
async def test_a_wrong_password_is_told(node: Node) -> None:
    url = node.management_url.replace("http://", "http://guest:wrong@")
    with pytest.raises(ManagementError, match=r"answers 401 .*: give a user with the tag monitoring"):
        await asyncio.to_thread(ask_management, url, make_settings(node.url))
    assert "wrong" not in (await queues(node, "--management", url)).stderr.replace("wrong usage", "")


# --- what is no management plugin -------------------------------------------------------------------------------------


@contextmanager
def answering(status: int, body: bytes, **headers: str) -> Iterator[tuple[str, list[str]]]:
    """A web server that answers so, and the headers that it was sent."""
    heard: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(f"{self.path} {self.headers.get('Authorization')}")
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", heard
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


SETTINGS = make_settings("amqp://ann:s3cret@localhost/my%2Fhost")


def test_the_password_goes_to_the_address_that_was_given_and_to_no_other() -> None:
    with answering(200, b"[]") as (other, heard_there):
        redirect = answering(302, b"", Location=f"{other}/x")
        with redirect as (url, heard), pytest.raises(ManagementError, match="answers 302"):
            ask_management(url, SETTINGS)
        assert heard == ["/api/queues/my%2Fhost Basic YW5uOnMzY3JldA=="]
        assert heard_there == []


def test_services_are_known_by_where_their_dead_letters_go() -> None:
    bounce = {"x-dead-letter-exchange": "warren.bounce"}
    queues = [
        {"name": "other", "arguments": {}, "messages_ready": 5},
        {"name": "mail", "arguments": bounce, "state": "down"},
        {"name": "calc.dead", "arguments": {}, "messages_ready": 2},
        {
            "name": "calc", "arguments": bounce, "messages_ready": 3, "messages_unacknowledged": 4, "consumers": 1,
            "message_stats": {"publish_details": {"rate": 1.5}, "deliver_get_details": {"rate": 2}},
        },
    ]  # fmt: skip
    with answering(200, json.dumps(queues).encode()) as (url, _heard):
        assert ask_management(url, SETTINGS) == [
            Standing("calc", 3, 1, 2, 4, 1.5, 2.0),
            Standing("mail", published=0.0, delivered=0.0, trouble="its queue is down"),
        ]


@pytest.mark.parametrize(
    "body", [b"<html>", b"{}", b'[{"name": 3}]', b"\xff", b'[{"name": "a", "arguments": {"a": ' + b"[" * 100_000]
)
def test_an_answer_of_something_else_is_told(body: bytes) -> None:
    with answering(200, body) as (url, _heard), pytest.raises(ManagementError, match="check the address"):
        ask_management(url, SETTINGS)


@pytest.mark.parametrize("address", ["localhost:15672", "file:///etc/passwd", "http://", "ftp://a", "http://[::1"])
def test_an_address_of_something_else_is_refused(address: str) -> None:
    with pytest.raises(ValueError):
        ask_management(address, SETTINGS)


def test_nobody_there_is_told() -> None:
    told = r"http://127\.0\.0\.1:1 does not answer: \[Errno \d+\] Connection refused; is the plugin enabled there"
    with pytest.raises(ManagementError, match=told):
        ask_management("http://127.0.0.1:1", SETTINGS)
