"""Pipelines when something goes: each ends once, in its result or an honest error that names a stage, and no stage of a
mode that does not allow it runs twice.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rabbit import Node
from tests.support.proxy import Proxy
from tests.support.raw import depth, raw_channel
from tests.support.serving import Victim, lines, serving, victims
from tests.support.stages import BETWEEN, MODES, POINTS, REACHED, RUNNING, Mode, Stages, every
from tests.support.waiting import until
from warren import AsyncClient, CallError, DeadlineExceeded, Execution, Service, WorkerLost
from warren.protocol import topology

#: Seconds of a call whose end nobody but its timer can know: long enough to come to its point before.
SHORT = 5.0


@pytest.fixture
def raw(url: str) -> Iterator[Any]:
    """A plain Pika channel."""
    with raw_channel(url) as channel:
        yield channel


@dataclass
class Death:
    """A worker of one stage of pipelines stands at a point, for each of them, is killed, and another one takes over."""

    url: str
    all: list[Stages]
    stage: int
    victim: Victim
    folder: Path

    @asynccontextmanager
    async def others(self) -> AsyncIterator[None]:
        """The workers of the other stages run in this block."""
        others = [service for stages in self.all for service in stages.services if not self._is_its(service)]
        async with serving(*others, url=self.url):
            yield

    @asynccontextmanager
    async def happens(self) -> AsyncIterator[None]:
        """It dies when all stand there; the other one runs in this block."""
        await until(lambda: len(lines(self.folder / REACHED)) >= len(self.all))
        await asyncio.to_thread(self.victim.end)
        its = [service for stages in self.all for service in stages.services if self._is_its(service)]
        async with serving(*its, url=self.url):
            yield

    def _is_its(self, service: Service) -> bool:
        return service.name.endswith(f"-{self.stage}")


@contextmanager
def dying(
    name: str, url: str, folder: Path, stage: int, point: str, *, modes: tuple[Mode, ...] = MODES, run: int = 1
) -> Iterator[Death]:
    """The death of a worker of one stage there."""
    options = {"RUNS": str(folder), "STAGE": str(stage), "POINT": point, "RUN": str(run)}
    with victims(1, name, url, module="tests.support.stages", **options) as (victim,):
        yield Death(url, every(name, folder, modes), stage, victim, folder)


async def outcome(call: "asyncio.Task[str]") -> str | CallError:
    try:
        return await asyncio.wait_for(call, 100)
    except CallError as error:
        return error


@pytest.mark.scenario(
    160,
    "A worker dies at any point of any stage of a pipeline (classic and quorum): report tells its caller which stage,"
    " at-least-once runs that stage again, at-most-once never does; none runs twice unasked, and what the error says of"
    " all is true.",
)
@pytest.mark.parametrize(("stage", "point"), [*((s, p) for s in (1, 2) for p in POINTS), (3, RUNNING)])
async def test_the_death_of_a_worker_in_any_stage_ends_as_its_delivery_mode_promises(
    url: str, service_name: str, stage: int, point: str, tmp_path: Path, raw: Any
) -> None:
    with dying(service_name, url, tmp_path, stage, point) as death:
        async with death.others(), AsyncClient(url, timeout=60) as client:

            def begin(stages: Stages) -> "asyncio.Task[str]":
                seconds = SHORT if is_lost(stages, point) else 60.0
                return asyncio.create_task(client.options(timeout=seconds).call(stages.whole, ""))

            calls = [begin(stages) for stages in death.all]
            async with death.happens():
                ends = [await outcome(call) for call in calls]
                if point == BETWEEN:  # what follows may run after its caller was told
                    await until(lambda: all(s.ran["3"] == 1 + (s.mode == "at-least-once") for s in death.all))
    for stages, end in zip(death.all, ends, strict=True):
        check_death(stages, end, stage, point)
        for service in stages.services:
            assert depth(raw, service.name) == 0, stages.name


def is_lost(stages: Stages, point: str) -> bool:
    """Nobody has its request any more."""
    return stages.mode == "at-most-once" and point != BETWEEN


def check_death(stages: Stages, end: str | CallError, stage: int, point: str) -> None:
    ran, said = stages.ran, f"{stages.name}: {end!r}, {stages.ran}"
    if stages.mode == "at-least-once":
        assert end == "123", said
        assert ran[str(stage)] == 2, said
        assert max(ran.values()) == 2, said
    else:
        assert ran == {str(n): 1 for n in range(1, 4 if point == BETWEEN else stage + 1)}, said
    if is_lost(stages, point):
        assert isinstance(end, DeadlineExceeded), said
        assert end.execution is Execution.UNKNOWN, said
    elif stages.mode == "report" and not (point == BETWEEN and end == "123"):
        assert isinstance(end, WorkerLost), said
        assert end.stage == (stage, f"{stages.name}-{stage}.run", Execution.UNKNOWN, False), said
        assert end.execution is (Execution.EXECUTED if stage > 1 else Execution.UNKNOWN), said


@pytest.mark.scenario(
    161,
    "A worker dies in a stage behind one that can be undone (classic and quorum): nothing is undone, as the pipeline"
    " may be going on; the request is kept, and its caller told so.",
)
@pytest.mark.parametrize("point", [RUNNING, BETWEEN])
async def test_nothing_is_undone_of_what_may_be_going_on(
    url: str, service_name: str, point: str, tmp_path: Path, raw: Any
) -> None:
    with dying(service_name, url, tmp_path, 2, point, modes=("report",)) as death:
        async with death.others(), AsyncClient(url, timeout=60) as client:
            calls = [asyncio.create_task(client.call(stages.undoing, "")) for stages in death.all]
            async with death.happens():
                ends = [await outcome(call) for call in calls]
                for stages in death.all:
                    await until(lambda s=stages: depth(raw, topology.dead_queue(s.services[1].name)) == 1)  # type: ignore[misc]
                    if point == BETWEEN:
                        await until(lambda s=stages: s.ran["3"])  # type: ignore[misc]
    for stages, end in zip(death.all, ends, strict=True):
        if end != "123":
            assert isinstance(end, WorkerLost)
            assert "is not undone" in end.message
        assert [line for line in stages.ran if line.startswith("undo")] == []


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
    proxy: Proxy, url: str, service_name: str, mode: Mode, frame: str, way: Any, tmp_path: Path
) -> None:
    whole = Stages(service_name, tmp_path, mode)
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
        ran = whole.ran
    assert ran["1"] == 1
    if mode == "at-least-once":
        assert end == "123"
    else:
        assert max(ran.values()) == 1


@pytest.mark.scenario(
    165,
    "The worker of a lean pipeline's stage dies (classic and quorum): its caller is told which stage, and what ran; no"
    " stage runs twice.",
)
@pytest.mark.parametrize("stage", [1, 2, 3])
async def test_the_death_of_a_worker_in_a_lean_stage_is_told_with_its_stage(
    url: str, service_name: str, stage: int, tmp_path: Path, raw: Any
) -> None:
    with dying(service_name, url, tmp_path, stage, RUNNING, modes=("report",), run=2) as death:
        async with death.others(), AsyncClient(url, timeout=60) as client:
            for stages in death.all:
                assert await client.call(stages.whole, "") == "123"
            calls = [asyncio.create_task(client.call(stages.whole, "")) for stages in death.all]
            async with death.happens():
                ends = [await outcome(call) for call in calls]
    for stages, end in zip(death.all, ends, strict=True):
        assert isinstance(end, WorkerLost)
        assert end.stage == (stage, f"{stages.name}-{stage}.run", Execution.UNKNOWN, False)
        assert end.execution is (Execution.EXECUTED if stage > 1 else Execution.UNKNOWN)
        assert stages.ran == {str(n): 2 if n <= stage else 1 for n in (1, 2, 3)}
        for service in stages.services:
            assert depth(raw, service.name) == 0


@pytest.mark.scenario(
    166,
    "The connection of a lean stage's worker is cut at its request, its hand-over or the ack: a result, or an honest"
    " error; no stage runs twice.",
)
@pytest.mark.parametrize(("way", "frame"), [("down", "Basic.Deliver"), ("up", "Basic.Publish"), ("up", "Basic.Ack")])
async def test_a_cut_link_of_a_lean_stage_gives_a_result_or_an_honest_error(
    proxy: Proxy, url: str, service_name: str, frame: str, way: Any, tmp_path: Path
) -> None:
    whole = Stages(service_name, tmp_path, "report")
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
        ran = whole.ran
    assert max(ran.values()) == 2  # of the two calls
    assert ran["1"] == 2


@pytest.mark.scenario(
    163,
    "The broker restarts while casts of a pipeline of at-least-once stages are on their way: each runs through all.",
)
async def test_casts_survive_a_restart_of_the_broker(breakable_rabbit: Node, service_name: str, tmp_path: Path) -> None:
    whole = Stages(service_name, tmp_path, "at-least-once")
    url = breakable_rabbit.url
    async with AsyncClient(url, timeout=100) as client:
        async with serving(*whole.services, url=url):
            pass
        for number in range(20):
            await client.cast(whole.whole, f"{number}-")
        async with serving(whole.services[0], url=url):
            await until(lambda: whole.ran.total() >= 20)
        await asyncio.to_thread(breakable_rabbit.restart)
        async with serving(*whole.services, url=url):
            await until(lambda: whole.ran["3"] >= 20)


@pytest.mark.scenario(
    164,
    "The queue of the next stage is deleted: its service declares it again, or the caller is told which stage it is.",
)
async def test_a_queue_that_is_deleted_is_named(url: str, service_name: str, tmp_path: Path, raw: Any) -> None:
    whole = Stages(service_name, tmp_path, "report")
    async with AsyncClient(url, timeout=60) as client:
        async with serving(*whole.services, url=url):
            assert await client.call(whole.whole, "") == "123"
        raw.queue_delete(whole.services[1].name)
        async with serving(whole.services[0], url=url):
            with pytest.raises(CallError) as raised:
                await client.call(whole.whole, "")
    assert raised.value.reason == "NO_ROUTE"
    assert raised.value.stage == (2, f"{whole.name}-2.run", Execution.NOT_EXECUTED, False)
