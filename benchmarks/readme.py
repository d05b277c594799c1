"""The parts of benchmarks/README.md that programs write, each between two marks."""

from __future__ import annotations

from benchmarks.procs import ROOT

README = ROOT / "benchmarks" / "README.md"
#: The mark before each part; after it stands ``<!-- end of NAME -->``.
MARKS = {
    "results": "<!-- results: written by `make bench ARGS=--write-readme` -->",
    "growth": "<!-- growth: written by `python -m benchmarks.growth --write-readme` -->",
    "pythons": "<!-- pythons: written by `python -m benchmarks.pythons --write-readme` -->",
}


def replaced(document: str, part: str, text: str) -> str:
    """The document with another text in one of its parts.

    Raises:
        ValueError: its marks are not there, each once.
    """
    begin, end = MARKS[part], f"<!-- end of {part} -->"
    if document.count(begin) != 1 or document.count(end) != 1:
        raise ValueError(f"the document must have each of these marks once: {begin} and {end}")
    before, _, rest = document.partition(begin)
    return f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}"


def write(part: str, text: str) -> None:
    """Put it into the README."""
    README.write_text(replaced(README.read_text(), part, text))
