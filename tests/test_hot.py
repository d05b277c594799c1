"""The list of the hot path's modules is true, and a compiler can take them. `make compiled` does compile them."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hot import HIDDEN, HOT, INTERPRETED, ROOT, build
from tests.support.both_ways import PURE_ONLY

pytestmark = pytest.mark.timeout(1800)  # it compiles


def test_the_list_names_what_runs_for_every_message_and_nothing_else() -> None:
    command = [sys.executable, "-m", "benchmarks.micro.traced"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    assert sorted([*HOT, *INTERPRETED]) == run.stdout.split()


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which mypyc has written its C."""
    folder = tmp_path_factory.mktemp("checked")
    built = build(folder, "check")
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_mypyc_takes_every_hot_module(checked: Path) -> None:
    assert any(checked.rglob("__native*.c"))


def test_compiled_coroutines_throw_the_exception_alone_into_what_they_await(checked: Path) -> None:
    """CPython 3.12 and later warn of type, value and traceback: an error where warnings are errors."""
    runtime = (checked / "mended" / "misc_ops.c").read_text()
    assert runtime.count("PyObject_CallOneArg(_m, value)") == 1
    assert "(_m, type" not in runtime


def handling(tree: ast.AST) -> Iterator[ast.stmt]:
    """The statements that run while an exception may be handled."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Try):
            yield from node.finalbody
            yield from (statement for handler in node.handlers for statement in handler.body)


@pytest.mark.parametrize("name", [*HOT, *HIDDEN])
def test_nothing_compiled_awaits_while_it_handles_an_exception(name: str) -> None:
    """Compiled coroutines share what is being handled with whoever runs meanwhile, and raise it as their own."""
    tree = ast.parse((ROOT / "src" / "warren" / f"{name}.py").read_text())
    waits = (ast.Await, ast.AsyncFor, ast.AsyncWith)
    assert [node.lineno for part in handling(tree) for node in ast.walk(part) if isinstance(node, waits)] == []


@pytest.mark.parametrize("node", PURE_ONLY)
def test_what_needs_plain_python_is_there(node: str) -> None:
    file, _, name = node.partition("::")
    assert name in (ROOT / file).read_text()


def test_no_module_asks_a_class_for_its_slots() -> None:
    """Compiled classes do not say, so that it would fail in wheels only."""
    sources = (ROOT / "src" / "warren").rglob("*.py")
    assert [path.name for path in sources if ".__slots__" in path.read_text()] == []


#: Names whose first type is no class of ours: compiled, they are any object.
_OF_ANY_TYPE = {("protocol/codecs", "decoder"), ("protocol/codecs", "guarded"), ("client/target", "encode_call")}


@pytest.mark.parametrize("module", HOT)
def test_the_errors_that_one_function_catches_under_one_name_are_of_one_type(module: str) -> None:
    """Compiled, a name has the type that it had first: another error would be a `TypeError`, on top of itself."""
    tree = ast.parse((ROOT / "src" / "warren" / f"{module}.py").read_text())
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
        caught = [
            node for node in ast.walk(function) if isinstance(node, ast.ExceptHandler) and node.name and node.type
        ]
        kinds = {(node.name, ast.unparse(node.type)) for node in caught if node.type}
        assert (module, function.name) in _OF_ANY_TYPE or len(kinds) == len({name for name, _ in kinds}), function.name
