"""Pipelines when something goes: each ends once, in its result or an honest error that names a stage, and no stage of a
mode that does not allow it runs twice.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from rabbit import Node
from tests.support.proxy import Proxy
from tests.support.raw import depth, raw_channel
from tests.support.serving import Victim, lines, serving, victims
from tests.support.stages import BETWEEN, POINTS, RUNNING, Stages
from tests.support.waiting import until
from warren import AsyncClient, CallError, DeadlineExceeded, Execution, WorkerLost
from warren.protocol import topology

MODES = ("report", "at-least-once", "at-most-once")


@pytest.fixture
def raw(url: str) -> Iterator[Any]:
    """A plain Pika channel."""
    with raw_channel(url) as channel:
        yield channel


def dying(
    name: str, url: str, runs: Path, mode: str, stage: int, point: str, run: int = 1
) -> AbstractContextManager[list[Victim]]:
    """A worker of one stage that dies there."""
    options = {"RUNS": str(runs), "MODE": mode, "STAGE": str(stage), "POINT": point, "RUN": str(run)}
    return victims(1, name, url, module="tests.support.stages", **options)


async def dead(victim: Victim) -> None:
    await asyncio.to_thread(victim.process.wait, 60)


async def outcome(call: "asyncio.Task[str]") -> str | CallError:
    try:
        return await asyncio.wait_for(call, 100)
    except CallError as error:
        return error


@pytest.mark.scenario(
    160,
    "A worker dies at any point of any stage of a pipeline: report tells its caller which stage, at-least-once runs"
    " that stage again, at-most-once never does; none runs twice unasked, and what the error says of all is true.",
)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("stage", "point"), [*((s, p) for s in (1, 2) for p in POINTS), (3, RUNNING)])
async def test_the_death_of_a_worker_in_any_stage_ends_as_its_delivery_mode_promises(
    url: str, service_name: str, mode: str, stage: int, point: str, tmp_path: Path, raw: Any
) -> None:
    runs = tmp_path / "runs"
    whole = Stages(service_name, runs, mode)
    lost = mode == "at-most-once" and point != BETWEEN
    async with AsyncClient(url, timeout=3 if lost else 60) as client:
        with dying(service_name, url, runs, mode, stage, point) as (victim,):
            dies, *others = sorted(whole.services, key=lambda s: s.name != f"{service_name}-{stage}")
            async with serving(*others, url=url):
                call = asyncio.create_task(client.call(whole.whole, ""))
                await dead(victim)
                async with serving(dies, url=url):
                    end = await outcome(call)
                    if point == BETWEEN:  # what follows may run after its caller was told
                        times = 2 if mode == "at-least-once" else 1
                        await until(lambda: Counter(lines(runs))["3"] == times)
    ran = Counter(lines(runs))
    if mode == "at-least-once":
        assert end == "123"
        assert ran[str(stage)] == 2
        assert max(ran.values()) == 2
    else:
        assert ran == {str(n): 1 for n in range(1, 4 if point == BETWEEN else stage + 1)}
    if lost:
        assert isinstance(end, DeadlineExceeded)
        assert end.execution is Execution.UNKNOWN
    elif mode == "report" and not (point == BETWEEN and end == "123"):
        assert isinstance(end, WorkerLost)
        assert end.stage == (stage, f"{service_name}-{stage}.run", Execution.UNKNOWN, False)
        assert end.execution is (Execution.EXECUTED if stage > 1 else Execution.UNKNOWN)
    for number in (1, 2, 3):
        assert depth(raw, f"{service_name}-{number}") == 0


@pytest.mark.scenario(
    161,
    "A worker dies in a stage behind one that can be undone: nothing is undone, as the pipeline may be going on; the"
    " request is kept, and its caller told so.",
)
@pytest.mark.parametrize("point", [RUNNING, BETWEEN])
async def test_nothing_is_undone_of_what_may_be_going_on(
    url: str, service_name: str, point: str, tmp_path: Path, raw: Any
) -> None:
    runs = tmp_path / "runs"
    whole = Stages(service_name, runs, "report")
    async with AsyncClient(url, timeout=60) as client:
        with dying(service_name, url, runs, "report", 2, point) as (victim,):
            one, two, three = whole.services
            async with serving(one, three, url=url):
                call = asyncio.create_task(client.call(whole.undoing, ""))
                await dead(victim)
                async with serving(two, url=url):
                    end = await outcome(call)
                    await until(lambda: depth(raw, topology.dead_queue(two.name)) == 1)
                    if point == BETWEEN:
                        await until(lambda: "3" in lines(runs))
    if end != "123":
        assert isinstance(end, WorkerLost)
        assert "is not undone" in end.message
    assert [line for line in lines(runs) if line.startswith("undo")] == []


@pytest.mark.scenario(
    162,
    "The connection of the worker of a middle stage is cut at its request, its hand-over, the confirm or the ack: a"
    " result, or an honest error; never a second run unasked.",
)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("way", "frame"),
    [("down", "Basic.Deliver"), ("up", "Basic.Publish"), ("down", "Basic.Ack"), ("up", "Basic.Ack")],
)
async def test_a_cut_link_of_a_middle_stage_gives_a_result_or_an_honest_error(
    proxy: Proxy, url: str, service_name: str, mode: str, frame: str, way: Any, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    whole = Stages(service_name, runs, mode)
    one, two, three = whole.services
    async with (
        serving(one, three, url=url),
        serving(two, url=proxy.url),
        AsyncClient(url, timeout=4 if mode == "at-most-once" else 60) as client,
    ):
        proxy.cut_at(way, frame, nth=1)
        end = await outcome(asyncio.create_task(client.call(whole.whole, "")))
        if not isinstance(end, str):
            assert end.execution in (Execution.EXECUTED, Execution.UNKNOWN)
        ran = Counter(lines(runs))
    assert ran["1"] == 1
    if mode == "at-least-once":
        assert end == "123"
    else:
        assert max(ran.values()) == 1


@pytest.mark.scenario(
    165,
    "The worker of a lean pipeline's stage dies: its caller is told which stage, and what ran; no stage runs twice.",
)
@pytest.mark.parametrize("stage", [1, 2, 3])
async def test_the_death_of_a_worker_in_a_lean_stage_is_told_with_its_stage(
    url: str, service_name: str, stage: int, tmp_path: Path, raw: Any
) -> None:
    runs = tmp_path / "runs"
    whole = Stages(service_name, runs, "report")
    async with AsyncClient(url, timeout=60) as client:
        with dying(service_name, url, runs, "report", stage, RUNNING, run=2) as (victim,):
            dies, *others = sorted(whole.services, key=lambda s: s.name != f"{service_name}-{stage}")
            async with serving(*others, url=url):
                assert await client.call(whole.whole, "") == "123"
                call = asyncio.create_task(client.call(whole.whole, ""))
                await dead(victim)
                async with serving(dies, url=url):
                    end = await outcome(call)
    assert isinstance(end, WorkerLost)
    assert end.stage == (stage, f"{service_name}-{stage}.run", Execution.UNKNOWN, False)
    assert end.execution is (Execution.EXECUTED if stage > 1 else Execution.UNKNOWN)
    assert Counter(lines(runs)) == {str(n): 2 if n <= stage else 1 for n in (1, 2, 3)}
    for number in (1, 2, 3):
        assert depth(raw, f"{service_name}-{number}") == 0


@pytest.mark.scenario(
    166,
    "The connection of a lean stage's worker is cut at its request, its hand-over or the ack: a result, or an honest"
    " error; no stage runs twice.",
)
@pytest.mark.parametrize(("way", "frame"), [("down", "Basic.Deliver"), ("up", "Basic.Publish"), ("up", "Basic.Ack")])
async def test_a_cut_link_of_a_lean_stage_gives_a_result_or_an_honest_error(
    proxy: Proxy, url: str, service_name: str, frame: str, way: Any, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    whole = Stages(service_name, runs, "report")
    one, two, three = whole.services
    async with (
        serving(one, three, url=url),
        serving(two, url=proxy.url),
        AsyncClient(url, timeout=60) as client,
    ):
        assert await client.call(whole.whole, "") == "123"
        proxy.cut_at(way, frame, nth=1)
        end = await outcome(asyncio.create_task(client.call(whole.whole, "")))
        if not isinstance(end, str):
            assert isinstance(end, WorkerLost)
            assert end.stage == (2, f"{two.name}.run", Execution.UNKNOWN, False)
        ran = Counter(lines(runs))
    assert max(ran.values()) == 2  # of the two calls
    assert ran["1"] == 2


@pytest.mark.scenario(
    163,
    "The broker restarts while casts of a pipeline of at-least-once stages are on their way: each runs through all.",
)
async def test_casts_survive_a_restart_of_the_broker(breakable_rabbit: Node, service_name: str, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    whole = Stages(service_name, runs, "at-least-once")
    url = breakable_rabbit.url
    async with AsyncClient(url, timeout=100) as client:
        async with serving(*whole.services, url=url):
            pass
        for number in range(20):
            await client.cast(whole.whole, f"{number}-")
        async with serving(whole.services[0], url=url):
            await until(lambda: len(lines(runs)) >= 20)
        await asyncio.to_thread(breakable_rabbit.restart)
        async with serving(*whole.services, url=url):
            await until(lambda: Counter(lines(runs))["3"] >= 20)


@pytest.mark.scenario(
    164,
    "The queue of the next stage is deleted: its service declares it again, or the caller is told which stage it is.",
)
async def test_a_queue_that_is_deleted_is_named(url: str, service_name: str, tmp_path: Path, raw: Any) -> None:
    runs = tmp_path / "runs"
    whole = Stages(service_name, runs, "report")
    async with AsyncClient(url, timeout=60) as client:
        async with serving(*whole.services, url=url):
            assert await client.call(whole.whole, "") == "123"
        raw.queue_delete(f"{service_name}-2")
        async with serving(whole.services[0], url=url):
            with pytest.raises(CallError) as raised:
                await client.call(whole.whole, "")
    assert raised.value.reason == "NO_ROUTE"
    assert raised.value.stage == (2, f"{service_name}-2.run", Execution.NOT_EXECUTED, False)
