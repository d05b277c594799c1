"""What the manager tells of all its workers over HTTP: whether they live and are ready, and their metrics."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

import msgspec

from warren.processes.crew import Crew
from warren.processes.http import Answer, Page
from warren.processes.process import Process
from warren.telemetry.measures import Measures, of_server
from warren.telemetry.openmetrics import content_type, written

#: Seconds that a worker gets to say how it is.
PATIENCE = 1.0
_JSON = "application/json"


class Probes:
    """The pages of one crew."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._last: dict[Process, Measures] = {}
        self._ended = Measures()
        self.pages: dict[str, Page] = {"/livez": self._live, "/readyz": self._ready, "/metrics": self._metrics}

    async def _live(self, _accept: str) -> Answer:
        """This process runs, and replaces what does not."""
        return Answer(HTTPStatus.OK, _JSON, '{"live": true}\n')

    async def _ready(self, _accept: str) -> Answer:
        """Each worker is connected and consumes; while they start or drain, none is ready."""
        names = list(self._crew.ready())
        said = await asyncio.gather(*(self._health(name) for name in names))
        ready = all(health["healthy"] for health in said)
        body = msgspec.json.encode({"ready": ready, "workers": dict(zip(names, said, strict=True))}).decode()
        return Answer(HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE, _JSON, body + "\n")

    async def _health(self, name: str) -> Any:
        """How the worker in one place is. What one says that is being replaced does not count: its successor serves."""
        process, asked = self._crew.ready()[name], None
        while process is not None and process is not asked:
            report, asked = await _report(process), process
            process = self._crew.ready()[name]
        if process is None:
            return {"healthy": False, "state": "not serving"}
        return {"healthy": False, "state": "does not answer"} if report is None else report["health"]

    async def _metrics(self, accept: str) -> Answer:
        """Added up over the workers; what those have counted that have ended since is not lost."""
        processes = [process for process in self._crew.processes if process.serves]
        reports = await asyncio.gather(*(_report(process) for process in processes))
        for process, report in zip(processes, reports, strict=True):
            if report is not None:
                self._last[process] = of_server(report["stats"], report["health"])
        for process in self._last.keys() - set(self._crew.processes):
            self._ended.add(self._last.pop(process).lasting())
        as_type = content_type(accept)
        return Answer(HTTPStatus.OK, as_type, written(self._added_up(), as_type))

    def _added_up(self) -> Measures:
        total = Measures()
        total.add(self._ended)
        for measures in self._last.values():
            total.add(measures)
        total.number("warren_server_workers_wanted", len(self._crew.ready()))
        return total


async def _report(process: Process) -> Any:
    """What a worker says of itself; None where it does not answer."""
    try:
        async with asyncio.timeout(PATIENCE):
            return msgspec.json.decode(await process.report())
    except (OSError, TimeoutError, msgspec.DecodeError):
        return None
