"""The plan of the house: which room of src/warren imports which, floor by floor, and how long its parts are.

    python tools/floorplan.py               as text
    python tools/floorplan.py --mermaid     the imports as a Mermaid drawing, for a page of documentation

A room is a folder of the package, or a file that stands in none. A room's floor is one above the highest room that it
imports, read from the source: nothing to keep up to date. Standard library only.
"""

import argparse
import ast
import sys
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).resolve().parents[1] / "src" / "warren"

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Size(NamedTuple):
    """Something that has lines."""

    lines: int
    name: str


class Sizes(NamedTuple):
    """Functions (without their docstrings), classes and files of the package, each sorted by length."""

    functions: list[Size]
    classes: list[Size]
    files: list[Size]


def percentile(sizes: list[Size], share: float) -> int:
    """The length that this share of the sorted sizes does not exceed."""
    return sizes[min(int(len(sizes) * share), len(sizes) - 1)].lines


def module_name(path: Path) -> str:
    """A file's module, ``warren`` for the package itself."""
    parts = ("warren", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read() -> dict[str, ast.Module]:
    """The syntax tree of every module."""
    return {module_name(path): ast.parse(path.read_text(), str(path)) for path in sorted(SOURCE.rglob("*.py"))}


def room(module: str) -> str:
    """The folder that a module stands in, by its short name; the module itself where it stands in none."""
    first = module.split(".")[1:2]
    return first[0] if first else "warren"


# --- imports ------------------------------------------------------------------------------------------------------


def imports(tree: ast.Module, modules: Iterable[str]) -> set[str]:
    """The modules of Warren that one imports, wherever in it."""
    found = {name for node in ast.walk(tree) for name in _names(node)}
    return {next((name for name in (full, full.rpartition(".")[0]) if name in modules), "") for full in found} - {""}


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms(trees: dict[str, ast.Module]) -> dict[str, set[str]]:
    """The rooms that each room imports."""
    found: dict[str, set[str]] = {room(module): set() for module in trees}
    for module, tree in trees.items():
        found[room(module)] |= {room(other) for other in imports(tree, trees)} - {room(module)}
    return found


def floors(plan: dict[str, set[str]]) -> dict[str, int]:
    """Each room's floor, the lowest is 0.

    Raises:
        CycleError: rooms import each other; its second argument names them.
    """
    found: dict[str, int] = {}
    for name in TopologicalSorter(plan).static_order():
        found[name] = max((found[lower] + 1 for lower in plan[name]), default=0)
    return found


# --- sizes --------------------------------------------------------------------------------------------------------


def sizes(trees: dict[str, ast.Module]) -> Sizes:
    """How long everything is."""
    functions: list[Size] = []
    classes: list[Size] = []
    for module, tree in trees.items():
        for name, node in _definitions(tree, module):
            (classes if isinstance(node, ast.ClassDef) else functions).append(Size(_length(node), name))
    files = [Size(len(path.read_text().splitlines()), module_name(path)) for path in SOURCE.rglob("*.py")]
    return Sizes(sorted(functions), sorted(classes), sorted(files))


def _definitions(tree: ast.AST, prefix: str) -> Iterator[tuple[str, Function | ast.ClassDef]]:
    for node in ast.iter_child_nodes(tree):
        name = prefix
        if isinstance(node, Function | ast.ClassDef):
            name = f"{prefix}.{node.name}"
            yield name, node
        yield from _definitions(node, name)


def _length(node: Function | ast.ClassDef) -> int:
    assert node.end_lineno is not None
    lines = node.end_lineno - node.lineno + 1
    if isinstance(node, Function) and ast.get_docstring(node, clean=False) is not None:
        docstring = node.body[0]
        assert docstring.end_lineno is not None
        lines -= docstring.end_lineno - docstring.lineno + 1
    return lines


# --- what is printed ----------------------------------------------------------------------------------------------


def as_text(trees: dict[str, ast.Module]) -> str:
    """Floors from the top down, then sizes."""
    plan = rooms(trees)
    height = floors(plan)
    lines = [f"{'floor':<6} {'room':<12} imports"]
    for name in sorted(plan, key=lambda name: (-height[name], name)):
        lower = sorted(plan[name], key=lambda other: (-height[other], other))
        lines.append(f"{height[name]:<6} {name:<12} {' '.join(lower)}".rstrip())
    lines += ["", f"{'lines':<10} {'count':>6} {'median':>6} {'p95':>6} {'max':>6}  longest"]
    for kind, found in sizes(trees)._asdict().items():
        figures = (len(found), percentile(found, 0.5), percentile(found, 0.95), found[-1].lines)
        lines.append(f"{kind:<10} {' '.join(f'{figure:>6}' for figure in figures)}  {found[-1].name}")
    return "\n".join(lines)


def as_mermaid(trees: dict[str, ast.Module]) -> str:
    """The same imports as a drawing; an arrow that a longer way implies is left out."""
    plan = rooms(trees)
    height = floors(plan)
    lines = ["flowchart TD"]
    for name in sorted(plan, key=lambda name: (-height[name], name)):
        implied = set().union(*(_below(plan, other) for other in plan[name]))
        lines += [f"  {name} --> {other}" for other in sorted(plan[name] - implied)]
    return "\n".join(lines)


def _below(plan: dict[str, set[str]], name: str) -> set[str]:
    """All rooms that a room needs, directly or not."""
    return plan[name].union(*(_below(plan, other) for other in plan[name]))


def main() -> None:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(description="Warren's rooms, floors and sizes.")
    parser.add_argument("--mermaid", action="store_true", help="the imports as a Mermaid drawing")
    draw = as_mermaid if parser.parse_args().mermaid else as_text
    try:
        print(draw(read()))
    except CycleError as error:
        sys.exit(f"floorplan: rooms import each other: {' -> '.join(error.args[1])}")


if __name__ == "__main__":
    main()
