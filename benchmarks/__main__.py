"""``python -m benchmarks``: what ``make bench`` runs. ``--help`` lists the options."""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import plan, readme, report
from benchmarks.brokers import Broker
from benchmarks.builds import Builds, build_c
from benchmarks.procs import ROOT
from benchmarks.runner import Found, Runner

sys.path.insert(0, str(ROOT / "tools"))  # rabbit.py is not installed

from rabbit import Node, RabbitError

RESULTS = ROOT / "benchmarks" / "results"


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks", description="Warren beside others, on a private RabbitMQ.")
    volume = parser.add_mutually_exclusive_group()
    volume.add_argument("--quick", action="store_true", help="one to two minutes: fewer rounds, windows 1 and 100")
    volume.add_argument("--smoke", action="store_true", help="seconds: 50 calls each, only to see that it all works")
    parser.add_argument("--only", default="", help="subjects, with commas: warren,c takes warren-def, c-safe, … too")
    parser.add_argument("--scenarios", default="", help=f"of {','.join(plan.SCENARIOS)}; anatomy only when asked for")
    parser.add_argument("--rounds", type=int, help="interleaved rounds (default 7)")
    parser.add_argument("--url", help="a running RabbitMQ instead of a private one")
    parser.add_argument("--broker-pid", type=int, help="its process, to read its CPU time")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON file and the plots")
    parser.add_argument("--write-readme", action="store_true", help="publish this run in benchmarks/README.md")
    parser.add_argument(
        "--last", action="store_true", help="run nothing: print, or publish, the last run in that folder"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run, print the tables, write the files."""
    chosen = options(arguments)
    if chosen.last:
        return show_last(chosen)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    build_c()
    try:
        run = measure(chosen)
    except (RabbitError, ValueError) as error:
        sys.exit(f"benchmarks: {error}")
    except KeyboardInterrupt:
        return 130
    print(f"\n{report.document(run)}\n")
    stem = write(run, chosen.out)
    if chosen.write_readme:
        publish(run, stem)
    return 1 if run["failures"] else 0


def show_last(chosen: argparse.Namespace) -> int:
    """Print the newest run in the folder and, where asked for, publish it."""
    files = sorted(path for path in chosen.out.glob("run-*.json") if "instructions" not in path.name)
    if not files:
        sys.exit(f"benchmarks: no run in {chosen.out}")
    run = json.loads(files[-1].read_text())
    print(f"{report.document(run)}\n")
    if chosen.write_readme:
        publish(run, files[-1].with_suffix(""))
    return 0


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """The whole run, as the JSON file has it."""
    volume = plan.QUICK if chosen.quick else plan.SMOKE if chosen.smoke else plan.FULL
    volume = plan.with_rounds(volume, chosen.rounds)
    subjects = plan.chosen([name for name in chosen.only.split(",") if name])
    scenarios = [name for name in chosen.scenarios.split(",") if name] or list(plan.DEFAULT_SCENARIOS)
    if unknown := set(scenarios) - set(plan.SCENARIOS):
        raise ValueError(f"no scenario {min(unknown)!r}; there are {', '.join(plan.SCENARIOS)}")
    began, machine, rabbitmq = time.monotonic(), report.machine(), None
    builds = Builds(compiling=not chosen.smoke)
    if chosen.url:
        broker = Broker(chosen.url, () if chosen.broker_pid is None else (chosen.broker_pid,))
        found = run_on(volume, broker, builds, scenarios, subjects)
    else:
        with Node(name="warren-bench") as node:
            rabbitmq = node.ctl("version").strip()
            found = run_on(volume, Broker(node.url, (node.pid,)), builds, scenarios, subjects)
    summary = report.Summary(found.measurements, found.footprint)
    return {
        "date": report.today(),
        "seconds": round(time.monotonic() - began, 1),
        "machine": machine,
        "versions": report.versions(rabbitmq, nats="nats" in subjects),
        "warren": builds.shipped,
        "method": {"rounds": volume.rounds, "seconds": volume.seconds, "warmup": volume.warmup},
        "noise": report.noise(found.measurements),
        "targets": report.targets(summary),
        "summary": summary.as_json(),
        "footprint": found.footprint,
        "missing": found.missing,
        "failures": found.failures,
        "measurements": found.measurements,
    }


def run_on(volume: plan.Volume, rabbitmq: Broker, builds: Builds, scenarios: list[str], subjects: list[str]) -> Found:
    """Measure on a running broker."""
    with Runner(volume, rabbitmq, builds, say) as runner:
        return runner.run(scenarios, subjects)


def say(text: str) -> None:
    """Progress, to standard error, so that standard output is the report."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def write(run: dict[str, Any], folder: Path) -> Path:
    """Write the JSON file and, where matplotlib is there, the plots; returns their common stem."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / time.strftime("run-%Y%m%d-%H%M%S", time.gmtime())
    stem.with_suffix(".json").write_text(json.dumps(run, indent=1) + "\n")
    written = [stem.with_suffix(".json")]
    if importlib.util.find_spec("matplotlib") is not None and run["measurements"]:
        from benchmarks import plot

        summary = report.Summary(run["measurements"], run["footprint"])
        written += plot.draw(summary, stem, f"{run['date']}. {run['noise']}")
    for path in written:
        say(f"wrote {path.name}")
    return stem


def publish(run: dict[str, Any], stem: Path) -> None:
    """Make this run the published one: in the README, and under a lasting name beside it."""
    for suffix in (".json", ".svg", ".png"):
        if stem.with_suffix(suffix).exists():
            shutil.copyfile(stem.with_suffix(suffix), RESULTS / f"published{suffix}")
    picture = "![Rates and latencies against calls in flight](results/published.svg)"
    readme.write("results", f"{picture}\n\n{report.document(run)}")


if __name__ == "__main__":
    sys.exit(main())
