"""``warren serve --http``: probes and metrics of all workers, and what systemd is told."""

import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from rabbit import Node
from tests.cli.conftest import Run, Start
from tests.cli.running import Running, eventually
from tests.cli.test_serve import hold, release
from tests.support.proxy import Proxy
from warren.broker import Broker

#: Seconds of silence after which a worker gives its broker up, and what a busy machine may take; without the limit it
#: would be its heartbeats that tell, after 20 s.
LIMIT, BUSY = 2, 10

read_plain: Any = parser.text_string_to_metric_families
read_openmetrics: Any = openmetrics_parser.text_string_to_metric_families


def fetch(base: str, path: str, accept: str = "*/*") -> tuple[int, str, str]:
    """Status, type and body."""
    request = urllib.request.Request(base + path, headers={"Accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def base_of(serve: Running) -> str:
    return serve.wait_for(r"metrics are at (http://\S+)/livez")[1]


def is_ready(base: str) -> bool:
    return fetch(base, "/readyz")[0] == 200


def value(base: str, name: str, **labels: str) -> float:
    families = read_plain(fetch(base, "/metrics")[2])
    return sum(
        float(sample.value)
        for family in families
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def test_the_workers_counts_are_added_up_and_outlast_them(start: Start, run: Run, service_name: str) -> None:
    serve = start("serve", "calc", "--workers", "2", "--http", "0")
    pids = [serve.wait_worker(number) for number in (1, 2)]
    base = base_of(serve)
    for _ in range(3):
        assert run("call", f"{service_name}.fib", "30").returncode == 0
    assert run("call", f"{service_name}.fail").returncode == 1

    def handled(code: str) -> float:
        return value(base, "warren_server_handled_total", service=service_name, code=code)

    assert (handled("OK"), handled("UNKNOWN")) == (3, 1)
    assert value(base, "warren_server_handling_seconds_count", method="fib") == 3
    assert value(base, "warren_server_workers_ready") == value(base, "warren_server_workers_wanted") == 2
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for number in (1, 2):
        serve.wait_worker(number, nth=2)
    eventually(lambda: value(base, "warren_server_workers") == 2, "both are there again")
    assert (handled("OK"), handled("UNKNOWN")) == (3, 1)


def test_metrics_are_openmetrics_for_who_asks_for_it(start: Start) -> None:
    serve = start("serve", "calc", "--http", "127.0.0.1:0")
    serve.wait_worker(1)
    status, content_type, text = fetch(base_of(serve), "/metrics", "application/openmetrics-text; version=1.0.0")
    assert (status, content_type) == (200, "application/openmetrics-text; version=1.0.0; charset=utf-8")
    assert "warren_server_workers_ready" in {family.name for family in read_openmetrics(text)}


def test_it_is_ready_while_all_workers_serve_and_not_before_or_while_it_drains(
    start: Start, folder: Path, service_name: str
) -> None:
    (folder / "slow.py").write_text(
        "import os, time\nfrom calc import service\nwhile not os.path.exists('go'):\n    time.sleep(0.01)\n"
    )
    serve = start("serve", "slow", "--http", "0", PYTHONPATH=f"{os.environ.get('PYTHONPATH', '')}:{_source()}")
    base = base_of(serve)
    assert fetch(base, "/livez")[0] == 200
    assert json.loads(fetch(base, "/readyz")[2]) == {
        "ready": False,
        "workers": {"worker-1": {"healthy": False, "state": "not serving"}},
    }
    (folder / "go").touch()
    serve.wait_worker(1)
    eventually(lambda: is_ready(base), "it is ready")
    call = hold(start, service_name, folder / "held")
    serve.signal(signal.SIGTERM)
    serve.wait_for("SIGTERM: finishing what is running")
    assert not is_ready(base)
    assert fetch(base, "/livez")[0] == 200
    release(folder / "held")
    assert call.wait() == 0
    assert serve.wait() == 0


def _source() -> str:
    return str(Path(__file__).resolve().parents[2] / "src")


def test_it_is_not_ready_without_a_connection(start: Start) -> None:
    serve = start("serve", "calc", "--http", "0", WARREN_URL="amqp://127.0.0.1:1")
    base = base_of(serve)
    serve.wait_for("127.0.0.1:1")
    assert not is_ready(base)


def test_it_is_ready_no_more_when_a_worker_loses_its_connection(start: Start) -> None:
    with Broker() as broker:
        serve = start("serve", "calc", "--http", "0", WARREN_URL=broker.url)
        serve.wait_worker(1)
        base = base_of(serve)
        assert is_ready(base)
    serve.wait_for("lost the connection")
    assert not is_ready(base)
    assert fetch(base, "/livez")[0] == 200


@pytest.mark.parametrize("ways", [("up", "down"), ("up",), ("down",)], ids="-".join)
def test_it_is_not_ready_within_the_liveness_limit_where_nothing_comes_through_and_ready_again_after(
    start: Start, run: Run, rabbit: Node, service_name: str, ways: tuple[str, ...]
) -> None:
    with Proxy(rabbit.port) as proxy:
        serve = start("serve", "calc", "--http", "0", WARREN_URL=f"{proxy.url}?liveness_timeout={LIMIT}")
        serve.wait_worker(1)
        base = base_of(serve)
        assert is_ready(base)
        connections = len(proxy.accepted)
        for way in ways:
            getattr(proxy, way).silent = True  # for new connections, too: they are taken, and nothing comes
        began = time.monotonic()
        eventually(lambda: not is_ready(base), "it is not ready")
        assert time.monotonic() - began < LIMIT + BUSY
        eventually(lambda: len(proxy.accepted) > connections, "it connects again")
        assert json.loads(fetch(base, "/readyz")[2])["workers"]["worker-1"]["checks"]["connection"] is False
        assert fetch(base, "/livez")[0] == 200
        proxy.heal()
        eventually(lambda: is_ready(base), "it is ready")
        assert run("call", f"{service_name}.fib", "30").returncode == 0


def test_a_worker_that_does_not_answer_is_not_ready(start: Start) -> None:
    serve = start("serve", "calc", "--http", "0")
    pid = serve.wait_worker(1)
    base = base_of(serve)
    assert is_ready(base)
    os.kill(pid, signal.SIGSTOP)
    try:
        assert json.loads(fetch(base, "/readyz")[2])["workers"]["worker-1"]["state"] == "does not answer"
        assert value(base, "warren_server_workers_wanted") == 1  # and the others are told all the same
    finally:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: is_ready(base), "it answers again")


def test_it_stays_ready_while_the_workers_are_replaced(start: Start) -> None:
    serve = start("serve", "calc", "--http", "0")
    serve.wait_worker(1)
    base = base_of(serve)
    serve.signal(signal.SIGHUP)
    while "all workers have been restarted" not in serve.output:
        assert is_ready(base)


@pytest.mark.parametrize("address", ["http", "localhost:", ":8080", "1:2:3", "127.0.0.1:70000", "::1"])
def test_an_address_that_is_none_is_refused(run: Run, address: str) -> None:
    done = run("serve", "calc", "--http", address)
    assert (done.returncode, "is not HOST:PORT" in done.stderr) == (2, True)


def test_an_address_that_is_taken_is_told(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run("serve", "calc", "--http", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert "Address already in use" in done.stderr or "address already in use" in done.stderr


def test_systemd_is_told(start: Start, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(60)
        serve = start("serve", "calc", NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="500000")
        said: list[bytes] = []
        while b"READY=1" not in said:
            said.append(systemd.recv(100))
        assert b"WATCHDOG=1" in said
        assert b"STOPPING=1" not in said
        serve.signal(signal.SIGTERM)
        while said[-1] != b"STOPPING=1":
            said.append(systemd.recv(100))
        assert serve.wait() == 0
    assert said.count(b"READY=1") == said.count(b"STOPPING=1") == 1
