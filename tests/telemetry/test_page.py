"""docs/telemetry.md: its table has every metric, and its alerts ask for none that does not exist."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.telemetry.test_measures import everything
from warren.telemetry.measures import FAMILIES, samples

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "telemetry.md").read_text()
ROWS = re.findall(r"^\| `(warren_\w+)` \| (.*) \| (\w+): (.*) \|$", PAGE, re.M)
ALERTS = re.findall(r"- alert: (\w+)\n +expr: (.*?)(?=\n +for:|\n +- alert|\n```)", PAGE.partition("```yaml")[2], re.S)


def known() -> dict[str, set[str]]:
    """The labels of all samples, by name, of measures that have all there is."""
    found: dict[str, set[str]] = {}
    measures = everything()
    for name in FAMILIES:
        for sample in samples(measures, name):
            found[name + sample.suffix] = {label for label, _value in sample.labels}
    return found


def test_the_table_says_what_the_source_says() -> None:
    total = {name: f"{name}_total" if family.kind == "counter" else name for name, family in FAMILIES.items()}
    assert [(name, kind, text) for name, _, kind, text in ROWS] == [
        (total[name], family.kind, family.help) for name, family in FAMILIES.items()
    ]


@pytest.mark.parametrize(("name", "labels"), [(row[0], row[1]) for row in ROWS], ids=[row[0] for row in ROWS])
def test_the_tables_labels_are_those_that_are_written(name: str, labels: str) -> None:
    written: Any = known()
    assert set(re.findall(r"`(\w+)`", labels)) == (written[name] if name in written else written[f"{name}_count"])


def test_there_are_alerts() -> None:
    assert len(ALERTS) == 10


@pytest.mark.parametrize(("alert", "expression"), ALERTS, ids=[alert for alert, _ in ALERTS])
def test_an_alert_asks_for_metrics_and_labels_that_exist(alert: str, expression: str) -> None:
    names = set(re.findall(r"warren_\w+", expression))
    assert names
    assert names <= known().keys()
    labels = {label for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(", ")}
    labels |= set(re.findall(r"\{(\w+)[=!]", expression))
    assert all(labels <= known()[name] for name in names)
    assert expression.count("(") == expression.count(")")
