"""Three stages whose every run is on record, and what no ending of their pipelines may contradict."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from tests.support.evidence import Ending
from warren import Execution, Pipeline, Service, current_call
from warren.connection.settings import make_settings
from warren.dead.queue import open_dead_queue
from warren.protocol import topology

NUMBERS = (1, 2, 3)


class Refused(Exception):
    """What the last stage raises about a text that begins with ``bad``."""


class Recorded:
    """Three services; each stage adds its number to a text.

    Attributes:
        runs: how often each stage has begun, by its number and its argument.
        undone: how often each one was undone, by its number and its result.
        ids: the call ids of a text that a pipeline was given.
        undo_ids: those of what undid a stage, by its number and that text.
        held: the stage that waits for `go`, if there is one.
    """

    def __init__(self, name: str, delivery: Any = "report", **options: Any) -> None:
        self.delivery = delivery
        self.runs: Counter[tuple[int, str]] = Counter()
        self.undone: Counter[tuple[int, str]] = Counter()
        self.ids: defaultdict[str, set[str | None]] = defaultdict(set)
        self.undo_ids: defaultdict[tuple[int, str], set[str | None]] = defaultdict(set)
        self.held, self.go, self.begun = 0, asyncio.Event(), asyncio.Event()
        self.services = tuple(Service(f"{name}-{n}", **options) for n in NUMBERS)
        one, two, three = (self._stage(n, service) for n, service in zip(NUMBERS, self.services, strict=True))
        self.whole = Pipeline(one).then(two).then(three)
        if delivery != "at-most-once":
            undo = [self._undo(n, service) for n, service in zip(NUMBERS, self.services, strict=True)]
            self.undoing = Pipeline(one, undo=undo[0]).then(two, undo=undo[1]).then(three)

    @property
    def queues(self) -> list[str]:
        return [service.name for service in self.services]

    @property
    def dead(self) -> list[str]:
        return [topology.dead_queue(name) for name in self.queues]

    def _stage(self, number: int, service: Service) -> Any:
        @service.method(name="run", delivery=self.delivery)
        async def run(text: str) -> str:
            self.runs[number, text] += 1
            self.ids[given(text)].add(current_call().call_id)
            if number == self.held:
                self.begun.set()
                await self.go.wait()
            if number == len(NUMBERS) and text.startswith("bad"):
                raise Refused(text)
            return f"{text}{number}"

        return run

    def _undo(self, number: int, service: Service) -> Any:
        @service.method(name="undo", delivery="at-least-once")
        async def undo(text: str) -> None:
            self.undone[number, text] += 1
            self.undo_ids[number, given(text)].add(current_call().call_id)

        return undo

    def ran(self, text: str) -> list[int]:
        """How often each stage ran for the pipeline that was given this text; none ran on anything else."""
        counts = [self.runs[number, argument(number, text)] for number in NUMBERS]
        assert sum(counts) == sum(n for (_, at), n in self.runs.items() if given(at) == text), self.runs
        return counts

    def were_undone(self, text: str) -> list[int]:
        """The same of what was undone."""
        counts = [self.undone[number, argument(number + 1, text)] for number in NUMBERS]
        assert sum(counts) == sum(n for (_, at), n in self.undone.items() if given(at) == text), self.undone
        return counts


def argument(number: int, text: str) -> str:
    """What a stage gets."""
    return text + "".join(map(str, range(1, number)))


def given(text: str) -> str:
    """What the pipeline got: texts that tests give end with no digit."""
    return text.rstrip("123")


@dataclass
class Dead:
    """A message of a dead queue.

    Attributes:
        stage: the number of the stage that it would be resumed at.
        undone: whether it can only be looked at.
    """

    service: str
    stage: int
    undone: bool
    text: str


async def dead_stages(url: str, recorded: Recorded, *, resume: bool = False) -> list[Dead]:
    """What is in the dead queues of the three services; those that can be resumed are, if asked for."""
    found = []
    for service in recorded.services:
        async with open_dead_queue(make_settings(url), service.name, bodies=True) as queue:
            async for entry in queue.messages():
                assert entry.stage is not None, entry.headers
                text = given((entry.body or b"").decode().strip('[]"'))
                found.append(Dead(service.name, entry.stage.at + 1, entry.stage.undone, text))
                if resume and not entry.stage.undone:
                    await queue.retry(entry)
    return found


def check_evidence(got: Ending, recorded: Recorded, text: str, when: str) -> str:
    """No ending of a pipeline contradicts what its stages have on record; returns what it was."""
    ran, undone = recorded.ran(text), recorded.were_undone(text)
    stage = None if got.error is None else got.error.stage
    said = f"{when}: {got}, {got.evidence}, {stage}; ran {ran}, undone {undone}"
    for before, after in itertools.pairwise(ran):
        assert before or not after, said
    assert recorded.delivery == "at-least-once" or max(ran) <= 1, said
    assert len(recorded.ids[text]) <= 1, said
    for n in NUMBERS:
        assert ran[n - 1] or not undone[n - 1], said
    if got.error is None:
        assert got.value in (None, argument(4, text)), said
        assert got.value is None or all(ran), said
        assert got.value is None or not any(undone), said
        return said
    if got.execution in (Execution.NOT_SENT, Execution.NOT_EXECUTED):
        assert not any(ran), said
    elif got.execution is Execution.EXECUTED:
        assert ran[0], said
    if stage is not None:
        _check_stage(stage, ran, undone, said)
    return said


def _check_stage(stage: Any, ran: list[int], undone: list[int], said: str) -> None:
    """What an error says of the stage that it ended in."""
    assert all(ran[: stage.number - 1]), said
    assert stage.name.endswith(f"-{stage.number}.run"), said
    if stage.execution is Execution.EXECUTED:
        assert ran[stage.number - 1], said
    elif stage.execution is not Execution.UNKNOWN:
        assert not any(ran[stage.number - 1 :]), said
    if stage.undone:
        assert all(undone[: stage.number - 1]), said
        assert not any(ran[stage.number :]), said
