"""RabbitMQ's tutorials one to six, as plain Pika programs in processes of their own, on the embedded broker."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from warren.broker import Broker

FOLDER = Path(__file__).parent / "tutorials"
PATIENCE = 30


def run(program: str, url: str, *arguments: str) -> str:
    """Run one of the programs to its end; what it printed."""
    command = [sys.executable, str(FOLDER / program), url, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return done.stdout


@contextmanager
def running(program: str, url: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """One of the programs, ready; killed in the end if it is still there."""
    command = [sys.executable, str(FOLDER / program), url, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def rest(process: subprocess.Popen[str]) -> list[str]:
    """What it prints until it ends by itself."""
    assert process.stdout is not None
    output = process.stdout.read()  # communicate() would forget what came together with "ready"
    assert process.wait(PATIENCE) == 0
    return output.splitlines()


def test_one_hello_world(broker: Broker) -> None:
    run("one.py", broker.url, "send", "before")
    with running("one.py", broker.url, "receive", "2") as receiver:
        run("one.py", broker.url, "send", "after")
        assert rest(receiver) == ["received before", "received after"]


def test_two_work_queues(broker: Broker) -> None:
    with running("two.py", broker.url, "work", "1") as one, running("two.py", broker.url, "work", "1") as two:
        for task in ("first", "second"):
            run("two.py", broker.url, "new_task", task)
        assert sorted(rest(one) + rest(two)) == ["done first", "done second"]


def test_three_publish_and_subscribe(broker: Broker) -> None:
    arguments = (broker.url, "fanout", "receive", "1", "")
    with running("logs.py", *arguments) as one, running("logs.py", *arguments) as two:
        run("logs.py", broker.url, "fanout", "emit", "", "to all")
        assert rest(one) == rest(two) == [" to all"]


def test_four_routing(broker: Broker) -> None:
    with running("logs.py", broker.url, "direct", "receive", "2", "warning", "error") as receiver:
        for severity in ("info", "warning", "error"):
            run("logs.py", broker.url, "direct", "emit", severity, "text")
        assert rest(receiver) == ["warning text", "error text"]


def test_five_topics(broker: Broker) -> None:
    with running("logs.py", broker.url, "topic", "receive", "3", "kern.*", "#.critical") as receiver:
        for key in ("kern.info", "cron.info", "kern.critical", "a.b.critical"):
            run("logs.py", broker.url, "topic", "emit", key, "text")
        assert rest(receiver) == ["kern.info text", "kern.critical text", "a.b.critical text"]


def test_six_rpc(broker: Broker) -> None:
    with running("six.py", broker.url, "serve", "2") as server:
        assert run("six.py", broker.url, "call", "10") == "55\n"
        assert run("six.py", broker.url, "call", "20") == "6765\n"
        assert rest(server) == []
