"""The rules that keep the source readable, held by reading it: imports go down, and each room stays what it is."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator, Set
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, get_overloads

import pytest

import warren

SOURCE = Path(warren.__file__).parent

#: The rooms of the house, floor by floor, lowest first: folders of src/warren, and files that stand in none. A room
#: imports rooms of lower floors only, so those of one floor do not know each other. `make map` draws the same from the
#: imports. A feature room (control/, streaming/, …) goes between protocol and client | server, edges go to the top.
FLOORS = (
    # public ground, and what keeps it safe
    ("version", "purity", "printable", "checks", "flood", "middleware", "histogram"),
    ("errors", "logs", "keywords"),
    ("amqp",),  # AMQP as bytes, pure
    ("protocol", "broker"),  # what is said on the wire, pure; the embedded broker stands alone on amqp/
    ("connection",),  # one connection kept open; alone knows Pika
    ("control",),  # what may be asked of running servers
    ("client", "server", "dead"),  # the first two never import each other
    ("warren",),  # what `from warren import …` offers
    ("telemetry",),  # what other tools see
    ("processes", "operate"),  # what the command line does, without the terminal
    ("bench", "dashboard", "testing"),
    ("cli",),
    ("__main__",),
)
HEIGHT = {room: height for height, floor in enumerate(FLOORS) for room in floor}
BROKER_NEEDS = {"amqp", "logs", "printable"}

#: The only files that may name headers of requests and replies.
NAME_HEADERS = {
    f"warren.protocol.{name}"
    for name in ("request", "reply", "streaming", "uploading", "progress", "dead_message", "control", "slip", "stage")
}
#: Type variables have defaults from Python 3.13 on; before, they come from a library that only type checkers need.
TYPE_VARIABLES_WITH_DEFAULTS = {"warren.server.context"}
#: Nothing imports these.
EDGES = {"warren.__main__", "warren.cli", "warren.testing.plugin", "warren.testing.worker"}
#: Values and tables only: time, chance and the outside world are passed in. A name stands for a room or a module.
PURE = {"amqp", "protocol", "broker", "errors", "printable", "middleware", "warren.client.calls"}
PURE |= {"warren.connection.settings", "warren.connection.liveness"}
PURE |= {
    f"warren.operate.{n}"
    for n in ("told", "totals", "graph", "drawing", "schemas", "asyncapi", "hints", "registered", "stubs")
}
IMPURE_OF_THE_BROKER = {f"warren.broker.{name}" for name in ("server", "embedded", "ask", "command")}
IMPURE = frozenset(
    {"asyncio", "time", "random", "secrets", "socket", "select", "threading", "subprocess", "os", "logging", "signal"}
)


def room_of(module: str) -> str:
    """The folder that a module stands in; the module itself where it stands in none."""
    return module.split(".")[1] if "." in module else module


def module_name(path: Path) -> str:
    parts = ("warren", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {module_name(path): path for path in SOURCE.rglob("*.py")}
ALL = sorted(PATHS)


@cache  # not when the tests are collected: each parallel worker does that
def tree(module: str) -> ast.Module:
    return ast.parse(PATHS[module].read_text(), str(PATHS[module]))


def imported(node: ast.AST) -> Iterator[str]:
    """The modules that one import statement imports."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute here"
        assert node.module is not None
        for alias in node.names:
            submodule = f"{node.module}.{alias.name}"
            yield submodule if submodule in PATHS else node.module


def every(modules: list[str]) -> Callable[[Callable[[str], None]], Callable[[], None]]:
    """A test of each of these modules as one test: thousands of tests would cost more than what they look at."""

    def decorate(check: Callable[[str], None]) -> Callable[[], None]:
        def test() -> None:
            broken = {}
            for module in modules:
                try:
                    check(module)
                except AssertionError as error:
                    broken[module] = str(error)
            assert broken == {}

        test.__name__ = check.__name__
        return test

    assert modules
    return decorate


@cache
def imports(module: str) -> frozenset[str]:
    """All modules that a module imports, wherever in it."""
    return frozenset(name for node in ast.walk(tree(module)) for name in imported(node))


def of_warren(names: Set[str]) -> set[str]:
    return {name for name in names if name.partition(".")[0] == "warren"}


def roots(names: Set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def written(module: str) -> Iterator[str]:
    """The strings and bytes of a module, docstrings excepted."""
    bare = {id(node.value) for node in ast.walk(tree(module)) if isinstance(node, ast.Expr)}
    constants = (node for node in ast.walk(tree(module)) if isinstance(node, ast.Constant) and id(node) not in bare)
    return (str(node.value) for node in constants if isinstance(node.value, str | bytes))


# --- rooms --------------------------------------------------------------------------------------------------------


def test_every_room_has_its_floor() -> None:
    assert {room_of(module) for module in ALL} == HEIGHT.keys(), "say in FLOORS where it belongs"


@every(ALL)
def test_no_import_goes_up_or_sideways(module: str) -> None:
    own = room_of(module)
    others = {room_of(name) for name in of_warren(imports(module))} - {own}
    assert {other for other in others if HEIGHT[other] >= HEIGHT[own]} == set()


def test_no_modules_import_each_other() -> None:
    graph = {module: of_warren(imports(module)) for module in ALL}
    assert len([*TopologicalSorter(graph).static_order()]) == len(ALL)  # it raises CycleError where they do


@every(ALL)
def test_pika_is_known_to_the_connection_only(module: str) -> None:
    assert room_of(module) == "connection" or "pika" not in roots(imports(module))


@every([m for m in ALL if room_of(m) == "broker"])
def test_the_broker_stands_alone(module: str) -> None:
    assert {room_of(name) for name in of_warren(imports(module))} <= BROKER_NEEDS | {"broker"}


@every([m for m in ALL if HEIGHT[room_of(m)] <= HEIGHT["warren"]])
def test_nothing_below_the_command_line_knows_the_broker(module: str) -> None:
    assert room_of(module) == "broker" or not {n for n in of_warren(imports(module)) if room_of(n) == "broker"}


@every([m for m in ALL if m not in NAME_HEADERS])
def test_header_names_are_written_in_one_place(module: str) -> None:
    assert [text for text in written(module) if "rpc-" in text] == []


@every([m for m in ALL if {m, room_of(m)} & PURE and m not in IMPURE_OF_THE_BROKER])
def test_pure_modules_have_no_clock_no_chance_and_no_io(module: str) -> None:
    assert roots(imports(module)) & IMPURE == set()


@every(ALL)
def test_nothing_imports_an_edge(module: str) -> None:
    assert imports(module) & EDGES <= ({"warren.cli"} if module == "warren.__main__" else set())


# --- imports ------------------------------------------------------------------------------------------------------


@every([m for m in ALL if HEIGHT[room_of(m)] < HEIGHT["warren"]])
def test_imports_of_warren_stand_at_the_top(module: str) -> None:
    top = {name for node in tree(module).body for name in imported(node)}
    assert of_warren(imports(module)) - top == set()


@every([m for m in ALL if m != "warren"])
def test_no_import_is_for_type_checking_only(module: str) -> None:
    names = {n.id for n in ast.walk(tree(module)) if isinstance(n, ast.Name)}
    names |= {n.attr for n in ast.walk(tree(module)) if isinstance(n, ast.Attribute)}
    assert ("TYPE_CHECKING" in names) == (module in TYPE_VARIABLES_WITH_DEFAULTS)


@every([m for m in ALL if m != "warren.testing.plugin"])
def test_pytest_is_known_to_its_plugin_only(module: str) -> None:
    assert roots(imports(module)) & {"pytest", "_pytest", "pytest_asyncio"} == set()


def test_type_checkers_and_the_interpreter_find_the_same_at_the_front_door() -> None:
    (checked,) = (node for node in tree("warren").body if isinstance(node, ast.If))
    found = [node for node in ast.walk(checked) if isinstance(node, ast.ImportFrom)]
    imported = {alias.asname: node.module for node in found for alias in node.names}
    homes: dict[str, str] = vars(warren)["_HOMES"]
    assert imported == homes
    assert [name for name, home in homes.items() if getattr(warren, name).__module__ != home] == []
    assert homes.keys() <= set(dir(warren))


def test_a_star_import_gets_all_that_is_at_the_front_door_and_nothing_else() -> None:
    nodes = [node for node in ast.walk(tree("warren")) if isinstance(node, ast.ImportFrom)]
    offered = {alias.asname for node in nodes for alias in node.names if alias.asname}
    found: dict[str, object] = {}
    exec("from warren import *", found)
    assert found.keys() - {"__builtins__"} == offered - {"__version__"}


def test_what_is_not_at_the_front_door_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'warren' has no attribute 'Klient'"):
        _ = warren.Klient  # type: ignore[attr-defined]


def test_the_front_door_loads_nothing_before_it_is_asked_for() -> None:
    program = "import sys, warren; print(sorted({n.split('.')[1] for n in sys.modules if n.startswith('warren.')}))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.strip() == "['errors', 'printable', 'purity', 'version']"


@pytest.mark.parametrize(
    ("command", "without"),
    [("", {"client", "server", "connection", "broker", "dead", "bench"}), ("broker", {"client", "server", "bench"})],
)
def test_a_command_loads_what_it_needs(command: str, without: set[str]) -> None:
    program = "import sys, warren.cli; warren.cli.run([*sys.argv[1:], '--help']); print(*sys.modules)"
    args = [sys.executable, "-c", program, *command.split()]
    run = subprocess.run(args, capture_output=True, text=True, check=True, timeout=60)
    loaded = run.stdout.splitlines()[-1].split()
    assert {name.split(".")[1] for name in loaded if name.startswith("warren.")} & without == set()


def test_importing_warren_does_not_import_its_edges() -> None:
    program = "import sys, warren; print(sorted({'argparse', 'pytest', 'warren.cli'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.strip() == "[]"


@every([m for m in ALL if m != "warren.logs"])
def test_every_logger_of_warren_escapes_what_it_logs(module: str) -> None:
    calls = [n for n in ast.walk(tree(module)) if isinstance(n, ast.Call) and "getLogger" in ast.unparse(n.func)]
    names = [ast.unparse(call.args[0]) if call.args else "" for call in calls]
    assert [name for name in names if "warren" in name or "__name__" in name] == []


# --- what no file may do ------------------------------------------------------------------------------------------


@every(ALL)
def test_nothing_that_comes_over_the_wire_can_be_unpickled(module: str) -> None:
    assert roots(imports(module)) & {"pickle", "marshal", "shelve", "dill", "cloudpickle"} == set()


@every(ALL)
def test_nothing_is_evaluated(module: str) -> None:
    calls = (n.func for n in ast.walk(tree(module)) if isinstance(n, ast.Call))
    called = {function.id for function in calls if isinstance(function, ast.Name)}
    assert called & {"eval", "exec", "compile", "__import__"} == set()


# --- the public surface -------------------------------------------------------------------------------------------


def public_names() -> list[str]:
    """What ``from warren import …`` offers: the explicit re-exports of its ``__init__``."""
    return [
        alias.asname
        for node in ast.walk(tree("warren"))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname is not None
    ]


def test_the_public_surface_stays_small() -> None:
    assert len(public_names()) <= 35  # with what calls return: who writes types has to name them


def test_every_import_of_the_package_is_a_re_export() -> None:
    nodes = [n for n in ast.walk(tree("warren")) if isinstance(n, ast.ImportFrom)]
    own = [alias for n in nodes if n.module not in ("importlib", "typing", "warren") for alias in n.names]
    assert all(alias.name == alias.asname for alias in own)


@pytest.mark.parametrize("name", public_names())
def test_everything_public_has_a_docstring(name: str) -> None:
    assert inspect.getdoc(getattr(warren, name))


# --- one client with two faces ------------------------------------------------------------------------------------

#: `submit` is how a blocking client has many calls under way; with asyncio that is a task.
BLOCKING_ONLY = {"submit"}


def members(client: type) -> dict[str, Any]:
    return {name: value for name, value in vars(client).items() if not name.startswith("_")}


def parameters(function: Any) -> list[tuple[Any, ...]]:
    """Names, kinds, defaults and hints."""
    return [(p.name, p.kind, p.default, p.annotation) for p in inspect.signature(function).parameters.values()]


def test_both_clients_have_the_same_methods() -> None:
    assert set(members(warren.Client)) - BLOCKING_ONLY == set(members(warren.AsyncClient))


@pytest.mark.parametrize("name", ["__init__", *sorted(members(warren.AsyncClient))])
def test_both_clients_take_the_same_parameters(name: str) -> None:
    ours, theirs = (getattr(client, name) for client in (warren.AsyncClient, warren.Client))
    if isinstance(ours, property):
        assert isinstance(theirs, property)
        ours, theirs = ours.fget, theirs.fget
    assert parameters(ours) == parameters(theirs)


@pytest.mark.parametrize("name", ["call", "cast"])
def test_both_clients_promise_the_same_types(name: str) -> None:
    ours, theirs = (get_overloads(getattr(client, name)) for client in (warren.AsyncClient, warren.Client))
    assert ours
    assert [inspect.signature(f) for f in ours] == [inspect.signature(f) for f in theirs]
