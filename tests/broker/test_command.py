"""``warren broker`` as a process."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pika
import pytest

from warren.broker import Broker

WARREN = (sys.executable, "-m", "warren")
PATIENCE = 30


@contextmanager
def broker_process(*options: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running ``warren broker`` and its URL."""
    command = [*WARREN, "broker", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | environment)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        found = re.search(r"INFO warren\.broker: ready on (\S+) \(a development broker: .*on disk, no cluster\)", line)
        assert found, line
        yield process, found[1]
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def warren(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*WARREN, *arguments], capture_output=True, text=True, timeout=PATIENCE)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_stop(number: int) -> None:
    with broker_process("--port", "0") as (process, url):
        connection = pika.BlockingConnection(pika.URLParameters(url))
        assert connection.channel().queue_declare("q").method.queue == "q"
        connection.close()
        process.send_signal(number)
        _, said = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
        assert "stopped" in said


def test_status_lists_what_is_there() -> None:
    with broker_process("--port", "0") as (_, url):
        connection = pika.BlockingConnection(pika.URLParameters(url))
        channel = connection.channel()
        channel.queue_declare("some-queue")
        channel.basic_consume("some-queue", lambda *_: None, consumer_tag="some-consumer")
        shown = warren("broker", "status", "--url", url).stdout
        as_json = json.loads(warren("broker", "status", "--url", url, "--json").stdout)
        connection.close()
    assert "development broker" in shown
    assert "some-queue" in shown
    assert "some-consumer" in shown
    assert [queue["name"] for queue in as_json["queues"]] == ["some-queue"]


def test_another_user_can_be_let_in() -> None:
    with broker_process("--port", "0", WARREN_BROKER_USER="ann:secret") as (_, url):
        assert "://ann:secret@" in url
        assert warren("broker", "status", "--url", url).returncode == 0
        refused = warren("broker", "status", "--url", url.replace("ann:secret", "ann:wrong"))
        assert (refused.returncode, "ACCESS_REFUSED" in refused.stderr) == (3, True)


def test_a_taken_port_is_named_with_what_to_do() -> None:
    with Broker() as broker:
        port = broker.port
        done = warren("broker", "--port", str(port))
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: it is in use" in done.stderr
    assert "--port 0" in done.stderr


def test_a_socket_that_cannot_be_made_is_named_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "no folder" / "amqp"
    done = warren("broker", "--socket", str(path))
    assert (done.returncode, f"cannot listen on {path}: " in done.stderr) == (1, True)
    assert "No such file or directory" in done.stderr


def test_status_of_nothing_is_said_so() -> None:
    with Broker() as broker:
        url = broker.url
    done = warren("broker", "status", "--url", url)
    assert done.returncode == 3
    where = url.rpartition("@")[2].partition("/")[0]
    assert f"no broker can be reached at {where}: Connection refused; start one: warren broker" in done.stderr


def test_a_user_without_a_password_is_wrong_usage() -> None:
    assert warren("broker", "--user", "ann").returncode == 2
