"""Measures as text: OpenMetrics 1.0, and the older format of Prometheus. Pure; needs no extra."""

from __future__ import annotations

from warren.telemetry.measures import FAMILIES, Labels, Measures, samples

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PLAIN = "text/plain; version=0.0.4; charset=utf-8"

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


def content_type(accept: str) -> str:
    """What to send to somebody who takes these types: OpenMetrics where it is asked for."""
    return OPENMETRICS if "application/openmetrics-text" in accept else PLAIN


def written(measures: Measures, as_type: str) -> str:
    """The page that a scraper reads, of one of the two types."""
    lines: list[str] = []
    for name, family in FAMILIES.items():
        values = [f"{name}{s.suffix}{_braced(s.labels)} {_number(s.value)}" for s in samples(measures, name)]
        if values:
            titled = f"{name}_total" if as_type == PLAIN and family.kind == "counter" else name
            lines.append(f"# HELP {titled} {family.help}")
            lines.append(f"# TYPE {titled} {family.kind}")
            if as_type == OPENMETRICS and family.unit:
                lines.append(f"# UNIT {titled} {family.unit}")
            lines += values
    if as_type == OPENMETRICS:
        lines.append("# EOF")
    return "\n".join([*lines, ""])


def _braced(labels: Labels) -> str:
    said = ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels)
    return f"{{{said}}}" if said else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
