"""The benchmarks still run. What they find on a busy machine means nothing, so no figure is judged here."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from benchmarks import plan, report
from benchmarks.load import Samples, closed_loop, open_loop, percentile, summarise
from benchmarks.micro.cases import CASES

from rabbit import Node
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.timeout(1200)  # its fixture measures

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run(rabbit: Node, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A run with Warren, the tutorial and, where librabbitmq is there, the C program."""
    out = tmp_path_factory.mktemp("bench")
    choice = ["--smoke", "--only", "warren,c,tutorial", "--scenarios", "echo,workers,large,stream,stages,open,cross"]
    broker = ["--url", rabbit.url, "--broker-pid", str(rabbit.pid)]
    command = [sys.executable, "-m", "benchmarks", *choice, *broker, "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (file,) = out.glob("run-*.json")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def subjects(run: dict[str, Any], scenario: str) -> set[str]:
    return {m["subject"] for m in run["measurements"] if m["scenario"] == scenario}


def test_no_subject_fails(run: dict[str, Any]) -> None:
    assert run["failures"] == []


def test_warren_and_the_tutorial_are_measured(run: dict[str, Any]) -> None:
    warren = {name for name in plan.ECHOES if name.startswith("warren")} - run["missing"].keys()
    assert subjects(run, "echo") - {"c", "c-safe", "c-lean"} == warren | {"tutorial"}
    assert run["missing"].keys() <= {"c", "c-safe", "c-lean", "c-large", "c-to-warren", "warren-to-c", "warren-landed"}
    assert subjects(run, "workers") == {"warren", "warren-4", "warren-pure", "warren-pure-4"}
    assert {"warren-text", "warren-bytes", "warren-pure-text", "warren-pure-bytes"} <= subjects(run, "large")


@pytest.mark.skipif(not Path("/usr/include/amqp.h").exists(), reason="librabbitmq-dev is not installed")
@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_c_is_measured_and_speaks_warren(run: dict[str, Any]) -> None:
    assert {"c", "c-safe", "c-lean"} <= subjects(run, "echo")
    assert subjects(run, "cross") == {"c-to-warren", "warren-to-c"}
    assert subjects(run, "open") == {"c", "warren"}


def test_every_measurement_says_who_took_the_cpu(run: dict[str, Any]) -> None:
    for m in run["measurements"]:
        assert m["calls"] > 0
        assert min(m["client_us"], m["server_us"], m["broker_us"]) > 0
        assert 0 < m["p50_ms"] <= m["p90_ms"] <= m["p99_ms"] <= m["max_ms"]


def test_the_report_names_every_subject(run: dict[str, Any]) -> None:
    text = report.document(run)
    assert {s for s in subjects(run, "echo") if plan.SUBJECTS[s].title not in text} == set()


def test_the_report_tells_nothing_of_the_place(run: dict[str, Any]) -> None:
    text = json.dumps(run)
    assert str(ROOT) not in text
    assert str(Path.home()) + "/" not in text


@pytest.mark.parametrize("name", CASES)
def test_each_step_of_the_hot_path_runs(name: str) -> None:
    with CASES[name].ready() as step:
        step()
        step()  # a step leaves things as it found them


def test_a_step_leaves_no_event_loop_and_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    loops: list[asyncio.AbstractEventLoop] = []
    make = asyncio.new_event_loop

    def note() -> asyncio.AbstractEventLoop:
        loops.append(make())
        return loops[-1]

    monkeypatch.setattr(asyncio, "new_event_loop", note)
    before = set(threading.enumerate())
    for case in CASES.values():
        with case.ready() as step:
            step()
    assert len(loops) >= 2
    assert all(loop.is_closed() for loop in loops)
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)
        assert not thread.is_alive()


# --- the load -----------------------------------------------------------------------------------------------------


def test_percentiles_are_of_the_nearest_rank() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.99, 1.0)] == [50.0, 99.0, 100.0]
    assert percentile([7.0], 0.01) == 7.0


def test_a_call_that_ends_late_has_a_latency_and_no_part_in_the_rate() -> None:
    samples = Samples(begin=0.0, end=1.0)
    samples.add(0.0, 0.5)
    samples.add(0.5, 1.5)
    found = summarise(samples, cpu=0.25)
    assert (found["calls"], found["rate"], found["max_ms"]) == (2, 1.0, 1000.0)


async def test_a_closed_loop_keeps_so_many_calls_under_way() -> None:
    under_way, most = 0, 0

    async def call(_number: int) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1

    samples = await closed_loop(call, window=7, seconds=10.0, calls=50)
    assert (most, len(samples.latencies)) == (7, 50)


async def test_an_open_loop_does_not_wait_for_answers() -> None:
    """A call that is due while earlier ones hang begins all the same, and its latency counts from when it was due.

    All of them end when the last one begins, and the first was due 99 ms before that one, however late both were.
    """
    begun = 0
    all_begun = asyncio.Event()

    async def call(_number: int) -> None:
        nonlocal begun
        begun += 1
        if begun == 100:
            all_begun.set()
        await all_begun.wait()

    samples = await open_loop(call, rate=1000.0, seconds=0.1)
    assert len(samples.latencies) == 100
    assert max(samples.latencies) - min(samples.latencies) >= 0.098


# --- the plan and the report --------------------------------------------------------------------------------------


def test_a_choice_takes_the_variants_along() -> None:
    assert {"warren", "warren-def", "warren-submit"} <= set(plan.chosen(["warren"]))
    assert "aio-pika" not in plan.chosen(["warren", "c"])
    with pytest.raises(ValueError, match="no subject 'warre'"):
        plan.chosen(["warre"])


def test_every_subject_has_a_server() -> None:
    assert {subject.server for subject in plan.SUBJECTS.values()} == set(plan.SERVERS)


def test_ratios_are_formed_within_a_round() -> None:
    rates = {"warren": (10.0, 100.0, 30.0), "c": (20.0, 100.0, 40.0)}
    measurements = [
        {"scenario": "echo", "subject": subject, "window": 100, "round": number, "rate": rate}
        for subject, all_rates in rates.items()
        for number, rate in enumerate(all_rates)
    ]
    summary = report.Summary(measurements, {})
    assert summary.ratio(("echo", "warren", 100), ("echo", "c", 100), "rate") == 0.75


@pytest.mark.parametrize(("bar", "value", "met"), [("≥0.70", 0.7, True), ("≥0.70", 0.69, False), ("≤3", 3.1, False)])
def test_a_target_is_met_on_the_right_side_of_its_bar(bar: str, value: float, met: bool) -> None:
    assert report.Target("", bar, lambda _summary: None).met(value) is met


def test_tables_line_up() -> None:
    lines = report.table(("", "rate"), [["a", "1"], ["long name", "1,000"]]).splitlines()
    assert len({len(line) for line in lines}) == 1
