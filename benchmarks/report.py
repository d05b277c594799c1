"""From measurements to what a person reads: medians, ratios within a round, the targets, Markdown tables."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import plan
from benchmarks.brokers import nats_command
from benchmarks.builds import LANDED

Measurement = dict[str, Any]
Key = tuple[str, str, int]  # scenario, subject, window

_PACKAGES = ("pika", "msgspec", "aio-pika", "aiormq", "faststream", "grpcio", "nats-py", "uvloop")
_FIGURES = ("rate", "p50_ms", "p90_ms", "p99_ms", "max_ms", "client_us", "server_us", "broker_us")


class Summary:
    """The rounds of a run, put together."""

    def __init__(self, measurements: Iterable[Measurement], footprint: dict[str, Any]) -> None:
        self.rounds: dict[Key, dict[int, Measurement]] = {}
        for m in measurements:
            self.rounds.setdefault((m["scenario"], m["subject"], m["window"]), {})[m["round"]] = m
        self.footprint = footprint

    def __contains__(self, key: Key) -> bool:
        return key in self.rounds

    def median(self, key: Key, figure: str) -> float | None:
        """The median over the rounds."""
        values = [m[figure] for m in self.rounds.get(key, {}).values() if m[figure] is not None]
        return statistics.median(values) if values else None

    def spread(self, key: Key, figure: str) -> tuple[float, float]:
        """The lowest and the highest round."""
        values = [m[figure] for m in self.rounds[key].values()]
        return min(values), max(values)

    def ratio(self, key: Key, other: Key, *figures: str) -> float | None:
        """The median of the ratios, each formed within one round; several figures are added up first."""
        ours, theirs = self.rounds.get(key, {}), self.rounds.get(other, {})
        pairs = [(ours[n], theirs[n]) for n in ours.keys() & theirs.keys()]
        known = [pair for pair in pairs if all(m[f] is not None for m in pair for f in figures)]
        ratios = [sum(m[f] for f in figures) / sum(o[f] for f in figures) for m, o in known]
        return statistics.median(ratios) if ratios else None

    def as_json(self) -> list[dict[str, Any]]:
        """One object for each case."""
        return [
            {
                "scenario": key[0],
                "subject": key[1],
                "window": key[2],
                "rounds": len(self.rounds[key]),
                **{figure: self.median(key, figure) for figure in _FIGURES},
                "rate_min": self.spread(key, "rate")[0],
                "rate_max": self.spread(key, "rate")[1],
                "rate_to_c": self.ratio(key, ("echo", "c", key[2]), "rate"),
            }
            for key in self.rounds
        ]


# --- the targets --------------------------------------------------------------------------------------------------


class Target(NamedTuple):
    """One line of what the project promises; `bar` with a sign in front of it, or empty where it is for information."""

    text: str
    bar: str
    measure: Callable[[Summary], float | None]
    unit: str = "x"

    def met(self, value: float) -> bool | None:
        if not self.bar:
            return None
        sign, bar = self.bar[0], float(self.bar[1:].split()[0])
        return value >= bar if sign == "≥" else value <= bar


def _echo(subject: str, window: int) -> Key:
    return "echo", subject, window


def _rate(ours: Key, theirs: Key) -> Callable[[Summary], float | None]:
    return lambda summary: summary.ratio(ours, theirs, "rate")


def _inverse(ours: Key, theirs: Key) -> Callable[[Summary], float | None]:
    return lambda summary: summary.ratio(theirs, ours, "rate")


def _footprint(name: str, divisor: float) -> Callable[[Summary], float | None]:
    return lambda summary: summary.footprint[name] / divisor if name in summary.footprint else None


def _memory_beyond(what: str, bare: str) -> Callable[[Summary], float | None]:
    def measure(summary: Summary) -> float | None:
        footprint = summary.footprint
        return (footprint[what] - footprint[bare]) / 1024 if what in footprint else None

    return measure


_C1, _C100 = _echo("c", 1), _echo("c", 100)
_W1, _W100 = _echo("warren", 1), _echo("warren", 100)
_LANDED = _echo("warren-landed", 100)
_CPU = ("client_us", "server_us")
_ALL_CPU = (*_CPU, "broker_us")


def _cpu(ours: Key, theirs: Key, *figures: str) -> Callable[[Summary], float | None]:
    return lambda summary: summary.ratio(ours, theirs, *figures)


def _large(subject: str) -> Callable[[Summary], float | None]:
    return _inverse(("large", subject, 8), ("large", "c-large", 8))


def _p99(scenario: str) -> Callable[[Summary], float | None]:
    return lambda summary: summary.ratio(("open", "warren", 100), (scenario, "c", 100), "p99_ms")


_OURS = (
    Target("AsyncClient, 100 in flight, to C", "≥0.60", _rate(_W100, _C100)),
    Target("… the same by CPU time per call, C's to Warren's", "", _cpu(_C100, _W100, *_ALL_CPU)),
    Target("… to C with Warren's lean messages", "", _rate(_W100, _echo("c-lean", 100))),
    Target("… to NATS-py with its own server", "≥1.0", _rate(_W100, _echo("nats", 100))),
    Target("… to aio-pika RPC", "≥15", _rate(_W100, _echo("aio-pika", 100))),
    Target("… to gRPC asyncio", "≥5", _rate(_W100, _echo("grpc", 100))),
    Target(f"… its CPU with server and broker, to commit {LANDED}", "≤0.62", _cpu(_W100, _LANDED, *_ALL_CPU)),
    Target(f"… its rate, to commit {LANDED}", "", _rate(_W100, _LANDED)),
    Target("… its rate on uvloop, to that on asyncio's loop", "", _rate(_echo("warren-uvloop", 100), _W100)),
    Target("AsyncClient one at a time, to C", "≥0.65", _rate(_W1, _C1)),
    Target(
        "Client one at a time, to the Pika tutorial", "≥1.1", _rate(_echo("warren-client", 1), _echo("tutorial", 1))
    ),
    Target("Client from 16 threads, to C with 100 in flight", "≥0.30", _rate(_echo("warren-threads", 16), _C100)),
    Target("Client.submit, 100 in flight, to C", "≥0.50", _rate(_echo("warren-submit", 100), _C100)),
    Target("def handlers, 100 in flight, to C", "≥0.42", _rate(_echo("warren-def", 100), _C100)),
    Target("4 worker processes, to 1", "≥1.0", _rate(("workers", "warren-4", 100), ("workers", "warren", 100))),
    Target("1 MiB as bytes, C to Warren", "≤1.15", _large("warren-bytes")),
    Target("1 MiB as JSON text, C to Warren", "≤1.4", _large("warren-text")),
    Target(
        "CPU of a pipeline of three stages, to three calls",
        "≤0.75",
        _cpu(("stages", "warren-pipeline", 100), ("stages", "warren-three", 100), *_ALL_CPU),
    ),
    Target(
        "… its latency, one at a time",
        "≤1.0",
        lambda s: s.ratio(("stages", "warren-pipeline", 1), ("stages", "warren-three", 1), "p50_ms"),
    ),
    Target("a stream's small items, to single calls", "≥5", _rate(("stream", "warren-items", 1), _W100)),
    Target("… to gRPC asyncio's", "≥1.0", _rate(("stream", "warren-items", 1), ("stream", "grpc-items", 1))),
    Target("a stream's 1 MiB items, to C", "≥0.8", _rate(("stream", "warren-octets", 1), ("stream", "c-octets", 8))),
    Target(
        "CPU per call with 10,000 in flight, to that with 100",
        "≤1.1",
        _cpu(("flight", "warren", 10_000), ("flight", "warren", 100), *_CPU),
    ),
    Target("memory per call in flight, AsyncClient in a task", "", _footprint("tasks", 1024), "KiB"),
    Target("… beyond the task that waits", "≤0.6", _memory_beyond("tasks", "bare-tasks"), "KiB"),
    Target("memory per call in flight, Client.submit", "", _footprint("futures", 1024), "KiB"),
    Target("… beyond its future", "≤0.6", _memory_beyond("futures", "bare-futures"), "KiB"),
    Target("p99 at half the maximum rate, to C at that rate", "≤3", _p99("open")),
    Target("… to C at half of its own maximum", "", _p99("open-half")),
    Target("idle AsyncClient, resident", "≤35", _footprint("idle-async", 1024 * 1024), "MiB"),
    Target("idle Client, resident", "≤35", _footprint("idle-blocking", 1024 * 1024), "MiB"),
    Target("import warren, user time", "≤120", _footprint("import_ms", 1), "ms"),
    Target(
        "modules of the command line that it imports",
        "≤0",
        lambda s: float(len(s.footprint["imports_of_command_line"])) if s.footprint else None,
        "",
    ),
)

#: The bars are what the run of 2026-11-25 measured, when there was nothing compiled.
_PURE = (
    Target("pure: AsyncClient, 100 in flight, to C", "≥0.416", _rate(_echo("warren-pure", 100), _C100)),
    Target("pure: … to aio-pika RPC", "≥11.08", _rate(_echo("warren-pure", 100), _echo("aio-pika", 100))),
    Target("pure: … to gRPC asyncio", "≥3.66", _rate(_echo("warren-pure", 100), _echo("grpc", 100))),
    Target("pure: AsyncClient one at a time, to C", "≥0.479", _rate(_echo("warren-pure", 1), _C1)),
    Target(
        "pure: Client one at a time, to the Pika tutorial",
        "≥0.983",
        _rate(_echo("warren-pure-client", 1), _echo("tutorial", 1)),
    ),
    Target("pure: Client from 16 threads, to C", "≥0.142", _rate(_echo("warren-pure-threads", 16), _C100)),
    Target("pure: Client.submit, 100 in flight, to C", "≥0.368", _rate(_echo("warren-pure-submit", 100), _C100)),
    Target("pure: def handlers, 100 in flight, to C", "≥0.294", _rate(_echo("warren-pure-def", 100), _C100)),
    Target(
        "pure: 4 worker processes, to 1",
        "≥0.829",
        _rate(("workers", "warren-pure-4", 100), ("workers", "warren-pure", 100)),
    ),
    Target("pure: 1 MiB as JSON text, C to Warren", "≤1.68", _large("warren-pure-text")),
    Target("pure: 1 MiB as bytes, C to Warren", "≤1.25", _large("warren-pure-bytes")),
    Target(
        "pure: CPU per call with 10,000 in flight, to 100",
        "≤1.048",
        _cpu(("flight", "warren-pure", 10_000), ("flight", "warren-pure", 100), *_CPU),
    ),
)

TARGETS = (*_OURS, *_PURE)


def targets(summary: Summary) -> list[dict[str, Any]]:
    """The targets that this run could measure."""
    found = []
    for target in TARGETS:
        value = target.measure(summary)
        if value is not None:
            found.append(
                {
                    "text": target.text,
                    "bar": f"{target.bar} {target.unit}".strip() if target.bar else "",
                    "value": value,
                    "met": target.met(value),
                }
            )
    return found


# --- tables -------------------------------------------------------------------------------------------------------


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that is also readable as it is: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]
    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
        return f"| {' | '.join(padded)} |"

    return "\n".join([line(heads), line(rule), *(line(row) for row in rows)])


_SCENARIO_TITLES = {
    "echo": "Echo of a small integer",
    "large": "Echo of 1 MiB",
    "stream": "Streams: items as calls",
    "stages": "Three services, one after the other",
    "workers": "Four worker processes",
    "flight": "Many calls in flight",
    "cross": "Who takes the time: C on one side, Warren on the other",
    "open": "At half of Warren's maximum rate, calls due in batches of a millisecond",
    "open-half": "At half of the C client's maximum rate",
    "anatomy": "What each feature of Warren's messages costs, with the C client",
}
_HEADS = (
    "",
    "in flight",
    "calls/s",
    "lowest-highest",
    "to C",
    "p50 ms",
    "p99 ms",
    "client µs",
    "server µs",
    "broker µs",
)


def tables(summary: Summary) -> str:
    """A table for each scenario."""
    parts = []
    for scenario, title in _SCENARIO_TITLES.items():
        keys = [key for key in summary.rounds if key[0] == scenario]
        if keys:
            parts.append(f"**{title}**\n\n{table(_HEADS, [_row(summary, key) for key in _ordered(keys)])}")
    return "\n\n".join(parts)


def _ordered(keys: list[Key]) -> list[Key]:
    """Grouped by subject, in the plan's order."""
    order = list(plan.SUBJECTS)
    return sorted(keys, key=lambda key: (order.index(key[1]), key[2]))


def _row(summary: Summary, key: Key) -> list[str]:
    low, high = summary.spread(key, "rate")
    scenario, subject, window = key
    reference: Key = (scenario, "c-large", window) if scenario == "large" else ("echo", "c", window)
    if scenario == "anatomy":
        reference = (scenario, "c", window)
    ratio = summary.ratio(key, reference, "rate") if not scenario.startswith("open") else None
    return [
        plan.SUBJECTS[subject].title,
        "" if scenario.startswith("open") else f"{window:,}",
        _number(summary.median(key, "rate")),
        f"{low:,.0f}-{high:,.0f}",
        "" if ratio is None else f"{ratio:.2f}",
        *(_number(summary.median(key, figure), 2) for figure in ("p50_ms", "p99_ms")),
        *(_number(summary.median(key, figure), 1) for figure in ("client_us", "server_us", "broker_us")),
    ]


def _number(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def target_table(found: Sequence[dict[str, Any]]) -> str:
    """The targets, what was measured, and whether that is enough."""
    words = {True: "yes", False: "no", None: ""}
    rows = [[t["text"], t["bar"], f"{t['value']:.2f}", words[t["met"]]] for t in found]
    return table(("target", "bar", "measured", "met"), rows)


def noise(measurements: Sequence[Measurement]) -> str:
    """One sentence on what else the machine did."""
    if not measurements:
        return ""
    others = [m["other_share"] for m in measurements]
    stolen = [m["stolen_share"] for m in measurements]
    spread = statistics.median(others)
    return (
        f"Other programs took {spread:.1%} of the machine's CPU (median over {len(others)} measurements, at most "
        f"{max(others):.1%}); its host took {statistics.median(stolen):.1%} (at most {max(stolen):.1%})."
    )


# --- where it was measured ----------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """The machine and the versions, without names that tell whose it is."""
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(memory[1]) / 1024 / 1024) if memory else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load_at_start": os.getloadavg()[0],
    }


def versions(rabbitmq: str | None, *, nats: bool) -> dict[str, str]:
    """What took part, as far as it is installed."""
    found = {"warren": importlib.metadata.version("warren-rpc")} if _installed("warren-rpc") else {}
    found |= {name: importlib.metadata.version(name) for name in _PACKAGES if _installed(name)}
    if plan.ECHO.exists():
        name, _, version = subprocess.run([plan.ECHO, "version"], capture_output=True, text=True).stdout.partition(" ")
        found[name] = version.strip()
    if rabbitmq is not None:
        found["RabbitMQ"] = rabbitmq
    if nats and (command := nats_command()):
        said = subprocess.run([command, "--version"], capture_output=True, text=True).stdout
        found["nats-server"] = said.rpartition(" v")[2].strip()
    return found


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def heading(run: dict[str, Any]) -> str:
    """When, where and how, in a few lines."""
    m = run["machine"]
    v = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    rounds, seconds = run["method"]["rounds"], run["method"]["seconds"]
    without = "".join(f"\nLeft out: {name}, which needs {what}." for name, what in run.get("missing", {}).items())
    return (
        f"{run['date']}, {m['cores']} cores of {m['cpu']}, {m['memory_gib']} GiB, {m['system']}, {m['python']}; {v}.\n"
        f"Medians of {rounds} interleaved round(s), {seconds:g} s each; ratios are formed within a round.\n"
        f"Warren is {run.get('warren', 'pure')} where its row does not say otherwise.\n"
        f"{run['noise']}{without}"
    )


def document(run: dict[str, Any]) -> str:
    """The whole report, in Markdown."""
    summary = Summary(run["measurements"], run["footprint"])
    parts = [heading(run), tables(summary)]
    if run["targets"]:
        parts.append(f"**Targets**\n\n{target_table(run['targets'])}")
    return "\n\n".join(part for part in parts if part)


def today() -> str:
    """The date, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
