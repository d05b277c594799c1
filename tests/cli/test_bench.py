"""``warren bench``: the histogram, the load, what is printed, and what is left behind."""

import asyncio
import itertools
import json
import math
import os
import pty
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rabbit import Node
from tests.cli.running import PATIENCE, SERVICE, WARREN, Result, Running, environment, eventually, run_here
from tests.support import nodes
from warren.bench.load import Load, Plan, Record
from warren.bench.runner import check_local
from warren.bench.shown import PERCENTILES, draw
from warren.errors import Unavailable
from warren.histogram import Histogram

NAME = f"svc-{os.getpid()}-bench"
Bench = Callable[..., Result]


# --- the histogram ------------------------------------------------------------------------------------------------

durations = st.floats(min_value=1e-9, max_value=1e6)


def histogram(seconds: list[float]) -> Histogram:
    made = Histogram()
    for one in seconds:
        made.record(one)
    return made


@given(st.lists(durations, min_size=1), st.sampled_from(PERCENTILES))
def test_a_percentile_is_at_most_one_percent_off(seconds: list[float], percent: float) -> None:
    exact = sorted(seconds)[math.ceil(percent * len(seconds) / 100) - 1]
    assert histogram(seconds).percentile(percent) == pytest.approx(exact, rel=0.01)


@given(st.lists(durations, min_size=1))
def test_extremes_count_and_sum_are_exact(seconds: list[float]) -> None:
    made = histogram(seconds)
    assert (made.low, made.high, made.count) == (min(seconds), max(seconds), len(seconds))
    assert made.total == pytest.approx(sum(seconds))


@given(st.lists(durations, min_size=1), st.integers(1, 20) | st.none())
def test_rows_hold_everything_and_have_no_gap(seconds: list[float], most: int | None) -> None:
    rows = histogram(seconds).rows(most)
    assert most is None or len(rows) <= most
    assert sum(count for *_, count in rows) == len(seconds)
    assert rows[0][0] <= min(seconds) * (1 + 1e-9)
    assert rows[-1][1] >= max(seconds) * (1 - 1e-9)
    assert all(one[1] == after[0] for one, after in itertools.pairwise(rows))


def test_nothing_has_no_percentile_and_no_rows() -> None:
    assert math.isnan(Histogram().percentile(50))
    assert Histogram().rows() == []
    assert draw(Histogram(), 80) == []


def test_what_a_clock_cannot_tell_from_nothing_is_taken() -> None:
    assert histogram([0.0]).percentile(50) == 1e-9


def test_the_memory_is_bounded_however_long_it_runs() -> None:
    made = histogram([1e-6 * 1.0005**n for n in range(50_000)])  # from a microsecond to a day
    assert len(made.buckets) < 1300


def test_the_drawing_shows_even_the_rarest_and_fits_the_width() -> None:
    lines = draw(histogram([0.001] * 100_000 + [1.0]), 60)
    assert max(len(line) for line in lines) <= 60
    assert lines[0].endswith("█")
    assert lines[-1].endswith(" 1  ▏")
    assert len(lines) <= 16


# --- the load -----------------------------------------------------------------------------------------------------


class Clock:
    """Stands still until it is told to move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_calls_of_the_warm_up_are_made_and_not_counted() -> None:
    clock = Clock()
    made = 0

    async def call() -> None:
        nonlocal made
        made += 1
        clock.now += 0.125

    load = Load(Plan(in_flight=1, warmup=1.0, duration=1.0), call, clock)
    await load.run()
    assert (made, load.record.begun, load.record.latencies.count) == (16, 8, 8)
    assert load.record.seconds == 1.0
    assert load.record.rate == 8.0


async def test_a_closed_loop_keeps_its_number_of_calls_in_flight() -> None:
    seen = set()

    async def call() -> None:
        await asyncio.sleep(0)
        seen.add(load.in_flight)

    load = Load(Plan(in_flight=7, duration=None, calls=100, warmup=0), call, Clock())
    await load.run()
    assert max(seen) == 7
    assert load.record.begun == load.record.latencies.count == 100


async def test_an_open_loop_counts_from_when_a_call_was_due() -> None:
    clock = Clock()

    async def call() -> None:
        if clock.now == 0:
            clock.now = 1.0  # all stands still for a second, in which nine more calls were due

    load = Load(Plan(rate=10, duration=1.0, warmup=0), call, clock)
    await load.run()
    assert load.record.latencies.count == 10
    assert load.record.latencies.total == pytest.approx(1.0 + 0.9 + 0.8 + 0.7 + 0.6 + 0.5 + 0.4 + 0.3 + 0.2 + 0.1)


async def test_an_open_loop_does_not_wait_for_answers() -> None:
    answer = asyncio.Event()

    async def call() -> None:
        if load.in_flight == 20:
            answer.set()
        await answer.wait()

    load = Load(Plan(rate=1000, duration=None, calls=20, warmup=0), call, asyncio.get_running_loop().time)
    await load.run()
    assert load.record.latencies.count == 20


async def test_calls_that_fail_at_once_let_other_tasks_run() -> None:
    async def call() -> None:
        raise Unavailable("no", reason="NO_ROUTE")

    load = Load(Plan(in_flight=1, duration=3600), call, Clock())
    running = asyncio.create_task(load.run())
    for _ in range(10):
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_what_is_cancelled_is_not_counted_but_told() -> None:
    load = Load(Plan(in_flight=5, duration=3600, warmup=0), asyncio.Event().wait, Clock())
    running = asyncio.create_task(load.run())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert load.record.interrupted
    assert (load.record.begun, load.record.unfinished, load.in_flight) == (5, 5, 0)


def test_the_bar_goes_by_what_ends_first() -> None:
    clock = Clock()
    load = Load(Plan(duration=10, calls=100, warmup=0), asyncio.Event().wait, clock)
    clock.now = 2.0
    assert (load.phase, load.progress) == ("measuring", 0.2)
    load.record.errors["UNAVAILABLE/NO_ROUTE"] = 50
    assert load.progress == 0.5
    clock.now = 11.0
    assert (load.phase, load.progress) == ("last calls", 1.0)


def test_a_record_of_nothing_has_a_rate_of_nothing() -> None:
    assert Record().rate == 0


# --- where it may go ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "[::1]", "localhost,127.0.0.1:5673"])
def test_this_machine_may_be_loaded(host: str) -> None:
    check_local(f"amqp://guest:guest@{host}/")


@pytest.mark.parametrize("host", ["rabbit", "10.0.0.1", "localhost.example.org", "localhost,rabbit"])
def test_another_machine_is_refused_without_showing_the_password(host: str) -> None:
    done = run_here(["bench", "--url", f"amqp://user:secret@{host}/"])
    assert done.exit_code == 2
    assert "--allow-remote" in done.stderr
    assert "secret" not in done.stderr


def test_another_machine_is_loaded_if_it_is_meant() -> None:
    done = run_here(["bench", "--url", "amqp://nosuch.invalid", "--allow-remote", "--timeout", "5"])
    assert done.exit_code == 3
    assert "cannot connect to nosuch.invalid" in done.stderr


# --- on a running service -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, url: str) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("served")
    (folder / "calc.py").write_text(SERVICE.format(name=NAME))
    serve = Running("serve", "calc:service", cwd=folder, env=environment(WARREN_URL=url))
    try:
        serve.wait_worker(1)
        yield
    finally:
        serve.close()


@pytest.fixture
def bench(served: None, url: str) -> Bench:
    """``warren bench METHOD …`` on the service, in this process and without a warm-up."""

    def bench(method: str, *args: str, url: str = url) -> Result:
        command = ["bench", f"{NAME}.{method}", *args, "--warmup", "0"]
        return run_here(command, WARREN_URL=url)

    return bench


def test_a_closed_loop_makes_as_many_calls_as_asked_for(bench: Bench) -> None:
    done = bench("fib", "30", "--calls", "200", "--in-flight", "10", "--json")
    told = json.loads(done.stdout)
    assert (done.exit_code, done.stderr) == (0, "")
    latencies, rows = told.pop("latency_ms"), told.pop("histogram")
    assert told.pop("seconds") > 0
    assert told.pop("rate") > 0
    assert told == {
        "target": f"{NAME}.fib",
        "loop": "closed",
        "in_flight": 10,
        "rate_asked": None,
        "interrupted": False,
        "calls": 200,
        "results": 200,
        "unfinished": 0,
        "errors": {},
    }
    assert list(latencies) == ["min", "mean", "p50", "p90", "p99", "p99.9", "max"]
    assert 0 < latencies["min"] <= latencies["p50"] <= latencies["p99.9"] <= latencies["max"]
    assert set(rows[0]) == {"from_ms", "to_ms", "calls"}
    assert sum(row["calls"] for row in rows) == 200


def test_an_open_loop_makes_the_calls_of_its_schedule(bench: Bench) -> None:
    told = json.loads(bench("fib", "30", "--rate", "200", "--duration", "0.5", "--json").stdout)
    assert (told["loop"], told["rate_asked"], told["in_flight"]) == ("open", 200, None)
    assert (told["calls"], told["results"]) == (100, 100)


def test_calls_that_fail_are_counted_and_end_nothing(bench: Bench) -> None:
    done = bench("fail", "--calls", "50", "--json")
    told = json.loads(done.stdout)
    assert done.exit_code == 0
    assert (told["calls"], told["results"], told["errors"]) == (50, 0, {"UNKNOWN/HANDLER_EXCEPTION": 50})
    assert set(told["latency_ms"].values()) == {None}
    assert told["histogram"] == []


def test_failed_calls_are_told_to_people_too(bench: Bench) -> None:
    assert "50 errors UNKNOWN/HANDLER_EXCEPTION" in bench("fail", "--calls", "50").stdout


def test_people_get_percentiles_and_a_histogram_and_off_a_terminal_no_bar(served: None, url: str) -> None:
    command = [*WARREN, "bench", f"{NAME}.greet", "name=Ann", "--duration", "0.7", "--warmup", "0"]
    done = subprocess.run(
        command, env=environment(WARREN_URL=url, COLUMNS="80"), capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{NAME}.greet  100 in flight, 0.7 s after 0 s to warm up" in done.stdout
    assert "results, " in done.stdout
    assert "p99.9" in done.stdout
    assert "█" in done.stdout
    assert "\x1b" not in done.stdout
    assert max(len(line) for line in done.stdout.splitlines()) <= 80


def test_a_terminal_gets_a_bar(served: None, url: str) -> None:
    ours, theirs = pty.openpty()
    command = [*WARREN, "bench", f"{NAME}.fib", "30", "--duration", "1.2", "--warmup", "0", "--json"]
    env = environment(WARREN_URL=url, TERM="xterm", COLUMNS="120")
    with subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        with open(ours, "rb", buffering=0) as terminal:
            try:
                while data := terminal.read(4096):
                    shown += data
            except OSError:  # how Linux ends a terminal that nobody writes to any more
                pass
        told = json.loads(process.communicate(timeout=PATIENCE)[0])
    assert b"measuring" in shown
    assert b"per second, 100 in flight, 0 errors" in shown
    assert told["results"] > 0


def test_ctrl_c_ends_it_early_and_prints_what_there_is(served: None, url: str, tmp_path: Path) -> None:
    note = tmp_path / "note"
    args = [str(note), "hello", "--in-flight", "1", "--duration", "1000", "--warmup", "0"]
    bench = Running("bench", f"{NAME}.write", *args, cwd=tmp_path, env=environment(WARREN_URL=url))
    try:
        for _ in range(3):  # the first call goes ahead, the others are those of the loop
            eventually(note.exists, "a call")
            note.unlink()
        bench.signal(signal.SIGINT)
        assert bench.wait() == 130
    finally:
        bench.close()
    assert "p99.9" in bench.output
    assert "interrupted, " in bench.output


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["nothing"], 2, "UNIMPLEMENTED/METHOD"),
        (["fib", "91"], 2, "n must be at most 90"),
        (["fib", "30", "--url", "amqp://127.0.0.1:1"], 3, "connection refused"),
    ],
)
def test_what_cannot_work_ends_with_the_exit_code_of_call(bench: Bench, args: list[str], code: int, words: str) -> None:
    done = bench(*args)
    assert (done.exit_code, done.stdout) == (code, "")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_service_that_does_not_exist_exits_3(url: str) -> None:
    done = run_here(["bench", "nosuch.fib", "--json", "--url", url])
    assert done.exit_code == 3
    assert json.loads(done.stdout)["error"]["reason"] == "NO_ROUTE"


def test_a_wrong_password_exits_5(bench: Bench, url: str) -> None:
    done = bench("fib", "30", url=url.replace("guest:guest", "guest:wrong"))
    assert done.exit_code == 5
    assert "refuses user 'guest'" in done.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["fib", "30"], "say 'service.method'"),
        (["calc.fib", "30", "--jsn"], "there is no option --jsn"),
        (["--rate", "10", "--in-flight", "10"], "--rate and --in-flight exclude each other"),
        (["calc.fib", "--handler", "thread"], "SERVICE.METHOD and --handler exclude each other"),
        (["--rate", "0"], "--rate 0: must be more than 0"),
        (["--in-flight", "0"], "--in-flight 0: must be from 1 to 65536"),
        (["--duration", "0"], "--duration 0: must be more than 0 seconds"),
        (["--calls", "0"], "--calls 0: must be at least 1"),
        (["--warmup", "-1"], "--warmup -1: must be 0 or more seconds"),
        (["--timeout", "0"], "timeout=0.0 must be more than 0"),
        (["--url", "http://x"], "is not an AMQP URL"),
    ],
)
def test_wrong_usage_exits_2(args: list[str], words: str, url: str) -> None:
    done = run_here(["bench", *args], WARREN_URL=url)
    assert done.exit_code == 2
    assert words in done.stderr


# --- a service of its own -----------------------------------------------------------------------------------------


def left_behind(rabbit: Node) -> bool:
    return any("warren-bench-" in name for name in nodes.queue_names(rabbit))


@pytest.mark.parametrize("handler", ["async", "thread"])
def test_without_a_service_it_has_its_own_and_leaves_no_queue(rabbit: Node, handler: str) -> None:
    command = ["bench", "--handler", handler, "--calls", "100", "--warmup", "0", "--json"]
    done = run_here(command, WARREN_URL=rabbit.url)
    told = json.loads(done.stdout)
    assert told["target"].startswith("warren-bench-")
    assert told["results"] == 100
    assert not left_behind(rabbit)


def test_its_service_cleans_up_even_if_the_bench_is_killed(rabbit: Node, tmp_path: Path) -> None:
    bench = Running("bench", "--duration", "1000", cwd=tmp_path, env=environment(WARREN_URL=rabbit.url))
    try:
        eventually(lambda: left_behind(rabbit), "its service serves")
        bench.signal(signal.SIGKILL)
        eventually(lambda: not left_behind(rabbit), "its queues are gone")
    finally:
        bench.close()


def test_its_service_ends_it_if_it_cannot_serve(rabbit: Node) -> None:
    nodes.add_user(rabbit, "caller", "secret", (r"^(amq\.gen.*|warren|warren\.bounce)$", ".*", ".*"))
    try:
        url = rabbit.url.replace("guest:guest", "caller:secret")
        done = subprocess.run(
            [*WARREN, "bench"], env=environment(WARREN_URL=url), capture_output=True, text=True, timeout=PATIENCE
        )
    finally:
        nodes.delete_user(rabbit, "caller")
    assert done.returncode == 6
    assert "error: the echo service: " in done.stderr
    assert "secret" not in done.stderr
