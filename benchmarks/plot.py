"""The picture of a run: rates and latencies against the number of calls in flight. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot, ticker

from benchmarks import plan
from benchmarks.report import Summary

#: Colours that people with colour blindness can tell apart (Okabe and Ito), and a mark for print.
_STYLES = {
    "c": ("#000000", "o"),
    "c-safe": ("#777777", "s"),
    "warren": ("#D55E00", "o"),
    "warren-def": ("#E69F00", "s"),
    "warren-client": ("#CC79A7", "D"),
    "warren-threads": ("#CC79A7", "^"),
    "warren-submit": ("#CC79A7", "v"),
    "tutorial": ("#56B4E9", "D"),
    "aio-pika": ("#0072B2", "o"),
    "faststream": ("#009E73", "s"),
    "grpc": ("#8A8A00", "^"),
}


def draw(summary: Summary, stem: Path, note: str) -> list[Path]:
    """Write ``stem.svg`` and ``stem.png``."""
    matplotlib.use("Agg")
    figure, (rates, latencies) = pyplot.subplots(1, 2, figsize=(12, 5.4))
    for subject, (colour, mark) in _STYLES.items():
        windows = sorted(w for scenario, name, w in summary.rounds if (scenario, name) == ("echo", subject))
        if windows:
            style = {"color": colour, "marker": mark, "markersize": 5, "label": plan.SUBJECTS[subject].title}
            _rates(rates, summary, subject, windows, style)
            _latencies(latencies, summary, subject, windows, style)
    _finish(rates, "calls per second: median, lowest and highest round")
    _finish(latencies, "latency in ms: median (line) and 99th percentile (dashes)")
    handles, labels = rates.get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=4, fontsize=8, frameon=False, bbox_to_anchor=(0.5, 0.035))
    figure.text(0.5, 0.01, note, ha="center", fontsize=7, color="#555555")
    figure.subplots_adjust(left=0.06, right=0.985, top=0.93, bottom=0.25, wspace=0.14)
    paths = [stem.with_suffix(suffix) for suffix in (".svg", ".png")]
    matplotlib.rcParams["svg.hashsalt"] = "warren"  # the same run gives the same file
    for path in paths:
        figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else {})
    pyplot.close(figure)
    return paths


def _rates(axes: Any, summary: Summary, subject: str, windows: list[int], style: dict[str, Any]) -> None:
    medians = [summary.median(("echo", subject, w), "rate") or 0.0 for w in windows]
    spreads = [summary.spread(("echo", subject, w), "rate") for w in windows]
    below = [m - low for m, (low, _high) in zip(medians, spreads, strict=True)]
    above = [high - m for m, (_low, high) in zip(medians, spreads, strict=True)]
    axes.errorbar(windows, medians, yerr=[below, above], linewidth=1.4, capsize=2, elinewidth=0.8, **style)


def _latencies(axes: Any, summary: Summary, subject: str, windows: list[int], style: dict[str, Any]) -> None:
    for figure, line in (("p50_ms", "-"), ("p99_ms", "--")):
        values = [summary.median(("echo", subject, w), figure) for w in windows]
        axes.plot(windows, values, linestyle=line, linewidth=1.4 if line == "-" else 0.9, **style)


def _finish(axes: Any, title: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("calls in flight")
    axes.set_title(title, fontsize=10)
    axes.set_xticks(plan.WINDOWS, [str(w) for w in plan.WINDOWS])
    axes.minorticks_off()
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(lambda value, _position: f"{value:,g}")
    axes.grid(True, which="major", linewidth=0.4, color="#cccccc")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
