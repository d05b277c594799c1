"""Runs a plan: starts the servers, then round after round every case once, each with a fresh client process.

The rounds interleave: every round has all cases, every other one in reverse order, so that a machine that slows down
meanwhile slows all subjects alike, and ratios are formed within one round.
"""

from __future__ import annotations

import contextlib
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from benchmarks import plan
from benchmarks.brokers import Broker, nats
from benchmarks.builds import Builds
from benchmarks.plan import Case, Volume
from benchmarks.procs import Peer, PeerFailed, cpu_seconds, machine_seconds, peer

Say = Callable[[str], None]
Measurement = dict[str, Any]

#: Seconds in which a client must have measured.
_CLIENT_LIMIT = 90.0
#: Share of the machine's CPU that other programs may take before a measurement is repeated.
_DISTURBED = 0.1
#: Seconds that a whole run may take at most; servers end with it.
_RUN_LIMIT = 3600.0


@dataclass
class Found:
    """What a run found, as it goes into the JSON file."""

    measurements: list[Measurement] = field(default_factory=list)
    footprint: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


class Serving(NamedTuple):
    """A server that runs: where it is called, its processes, and the broker between."""

    address: str
    pids: list[int]
    broker: Broker


class Runner:
    """One run against one RabbitMQ, and against a NATS server that it starts where a subject needs it."""

    def __init__(self, volume: Volume, rabbitmq: Broker, builds: Builds, say: Say) -> None:
        self._volume = volume
        self._patience = volume.patience
        self._brokers = {"rabbitmq": rabbitmq}
        self._builds = builds
        self._say = say
        self._stack = contextlib.ExitStack()
        self._servers: dict[str, Serving] = {}
        self.found = Found()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, scenarios: Sequence[str], subjects: Sequence[str]) -> Found:
        """Measure; a case that fails is reported and left out, the others go on."""
        self._say("building what is measured")
        self._builds.prepare(plan.builds(subjects))
        subjects = self._available(subjects)
        cases = plan.cases(self._volume, scenarios, subjects)
        for server in dict.fromkeys(plan.SUBJECTS[case.subject].server for case in cases):
            self._start(server)
        self._rounds([case for case in cases if plan.SUBJECTS[case.subject].server in self._servers])
        if "open" in scenarios:
            self._rounds(self._open_cases(subjects))
        if "footprint" in scenarios and "warren" in subjects:
            self._say("memory and import time")
            try:
                self.found.footprint = self._footprint()
            except PeerFailed as failure:
                self._failed(f"footprint: {failure}")
        return self.found

    def _available(self, subjects: Sequence[str]) -> list[str]:
        have_c = plan.ECHO.exists()
        absent = {name: plan.missing(name, have_c=have_c, builds_missing=self._builds.missing) for name in subjects}
        self.found.missing = {name: package for name, package in absent.items() if package}
        for name, package in self.found.missing.items():
            self._say(f"left out: {name}, needs {package}")
        return [name for name in subjects if not absent[name]]

    def _start(self, server: str) -> None:
        """Start a server's processes; without them its cases are left out."""
        served = plan.SERVERS[server]
        try:
            broker = self._broker(served.broker)
            command, env = plan.server_command(server, broker.url), self._builds.environment(served.build)
            processes = [self._stack.enter_context(peer(command, env, _RUN_LIMIT)) for _ in range(served.processes)]
            addresses = [process.ready() for process in processes]
        except PeerFailed as failure:
            self._failed(f"server {server}: {failure}")
            return
        address = addresses[0] or plan.address_of(server)
        self._servers[server] = Serving(address, [process.pid for process in processes], broker)

    def _broker(self, name: str) -> Broker:
        """A broker, started when the first server asks for it."""
        if name not in self._brokers:
            self._brokers[name] = self._stack.enter_context(nats())
        return self._brokers[name]

    def _rounds(self, cases: Sequence[Case]) -> None:
        for number in range(self._volume.rounds if cases else 0):
            order = cases if number % 2 == 0 else list(reversed(cases))
            for case in order:
                self._measure(case, number)

    def _measure(self, case: Case, number: int) -> None:
        try:
            measurement = self._run_quietly(case)
        except PeerFailed as failure:
            self._failed(f"{case}: {failure}")
            return
        measurement |= {
            "scenario": case.scenario,
            "subject": case.subject,
            "window": case.window,
            "round": number,
        }
        self.found.measurements.append(measurement)
        rate = f"at {case.rate:,.0f}/s" if case.rate else f"{case.window:>6} in flight"
        self._say(
            f"round {number + 1}/{self._volume.rounds} {case.scenario:>8} {case.subject:<15} {rate}"
            f" {measurement['rate']:>9,.0f}/s p99 {measurement['p99_ms']:>8.2f} ms"
        )

    def _run_quietly(self, case: Case) -> Measurement:
        """Measure, and once more if other programs were busy meanwhile; the quieter one counts, not the better one."""
        measurement = self._run_case(case)
        began = time.monotonic()
        if measurement["other_share"] > _DISTURBED and self._patience > 0:
            measurement = min(measurement, self._run_case(case), key=lambda m: m["other_share"])
            self._patience -= time.monotonic() - began
        return measurement

    def _failed(self, what: str) -> None:
        self.found.failures.append(what)
        self._say(f"FAILED {what}")

    def _run_case(self, case: Case) -> Measurement:
        subject = plan.SUBJECTS[case.subject]
        serving = self._servers[subject.server]
        command = plan.client_command(case, self._volume, serving.broker.url, serving.address)
        with peer(command, self._builds.environment(subject.build), _CLIENT_LIMIT) as client:
            client.ready()
            before = self._clocks(serving)
            answer: Measurement = client.go()
            after = self._clocks(serving)
        spent = {name: after[name] - before[name] for name in before}
        return answer | _per_call(answer, spent, broker_known=bool(serving.broker.pids)) | {"rate_asked": case.rate}

    def _clocks(self, serving: Serving) -> dict[str, float]:
        busy, stolen, total = machine_seconds()
        return {
            "server": cpu_seconds(serving.pids),
            "broker": cpu_seconds(serving.broker.pids),
            "runner": time.process_time(),
            "busy": busy,
            "stolen": stolen,
            "total": total,
        }

    # --- open loop ----------------------------------------------------------------------------------------------

    def _open_cases(self, subjects: Sequence[str]) -> list[Case]:
        """Half of Warren's maximum for both, and half of the C client's for it alone."""
        warren, c = self._maximum("warren"), self._maximum("c")
        cases = []
        if warren and "warren" in subjects:
            cases.append(Case("open", "warren", 100, warren / 2))
        if c and warren and "c" in subjects:
            cases += [Case("open", "c", 100, warren / 2), Case("open-half", "c", 100, c / 2)]
        return cases

    def _maximum(self, subject: str) -> float:
        """A subject's rate with 100 in flight, or with as many as were measured."""
        rates: dict[int, list[float]] = {}
        for m in self.found.measurements:
            if (m["scenario"], m["subject"]) == ("echo", subject) and m["window"] <= 100:
                rates.setdefault(m["window"], []).append(m["rate"])
        return statistics.median(rates[max(rates)]) if rates else 0.0

    # --- footprint ----------------------------------------------------------------------------------------------

    def _footprint(self) -> dict[str, Any]:
        with self._footprint_peer("serve") as server:
            server.ready()
            found = {what: self._repeat(what) for what in ("idle-async", "idle-blocking", "tasks", "futures")}
        found |= {what: self._repeat(what) for what in ("bare-tasks", "bare-futures")}
        return (
            found
            | {"calls_in_flight": self._volume.in_flight}
            | import_time(self._volume.repeats, self._builds.environment("shipped"))
        )

    def _repeat(self, what: str) -> float:
        values = []
        for _ in range(self._volume.repeats):
            with self._footprint_peer(what) as process:
                values.append(float(next(iter(process.answer().values()))))
        return statistics.median(values)

    def _footprint_peer(self, what: str) -> contextlib.AbstractContextManager[Peer]:
        command = (sys.executable, "-m", "benchmarks.peers.footprint", what, self._brokers["rabbitmq"].url)
        return peer((*command, "bench.hold", str(self._volume.in_flight)), self._builds.environment("shipped"))


def _per_call(answer: Measurement, spent: dict[str, float], *, broker_known: bool) -> Measurement:
    """CPU time per call, in microseconds, of all that take part; and what others took of the machine meanwhile."""
    each = 1e6 / answer["calls"]
    ours = spent["server"] + spent["broker"] + spent["runner"] + answer["cpu_s"]
    return {
        "client_us": answer["cpu_s"] * each,
        "server_us": spent["server"] * each,
        "broker_us": spent["broker"] * each if broker_known else None,
        "other_share": max(0.0, spent["busy"] - ours) / spent["total"] if spent["total"] else 0.0,
        "stolen_share": spent["stolen"] / spent["total"] if spent["total"] else 0.0,
    }


def import_time(repeats: int, env: Mapping[str, str]) -> dict[str, Any]:
    """User time of ``import warren`` beyond that of starting Python, and what of the command line it imports."""
    programs = ("import warren", "")
    warren, nothing = ([_user_time(program, env) for _ in range(repeats * 5 + 1)][1:] for program in programs)
    program = "import sys, warren; print(*sorted({'argparse', 'warren.cli'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    return {
        "import_ms": (statistics.median(warren) - statistics.median(nothing)) * 1e3,
        "python_ms": statistics.median(nothing) * 1e3,
        "imports_of_command_line": run.stdout.split(),
    }


def _user_time(program: str, env: Mapping[str, str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run([sys.executable, "-c", program], check=True, env=env)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
