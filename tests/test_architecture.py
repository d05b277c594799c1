"""The rules that keep the source readable, held by reading it: imports go down, and each layer stays what it is."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_overloads

import pytest

import warren

SOURCE = Path(warren.__file__).parent

#: The embedded broker stands beside Warren's own layers: see `test_the_broker_stands_alone`.
BROKER: tuple[frozenset[str], ...] = (
    frozenset({"warren.broker.errors", "warren.broker.faults", "warren.broker.timers", "warren.broker.tables"}),
    frozenset({"warren.broker.message", "warren.broker.arguments"}),
    frozenset({"warren.broker.exchanges", "warren.broker.queues", "warren.broker.frames"}),
    frozenset({"warren.broker.model"}),
    frozenset({"warren.broker.channel", "warren.broker.state"}),
    frozenset({"warren.broker.methods"}),
    frozenset({"warren.broker.session"}),
    frozenset({"warren.broker.server", "warren.broker.status"}),
    frozenset({"warren.broker.embedded", "warren.broker.ask"}),
    frozenset({"warren.broker.command"}),
    frozenset({"warren.broker"}),
)

#: Lowest first. A module may import modules of lower layers only, so those of one layer do not know each other. A new
#: file needs a place here.
LAYERS: tuple[frozenset[str], ...] = (
    # public ground, and what makes it safe to show
    frozenset({"warren.printable", "warren.checks"}),
    frozenset({"warren.logs"}),
    frozenset({"warren.flood"}),
    # amqp/: AMQP bytes, pure
    frozenset({"warren.errors", "warren.version", "warren.amqp", "warren.amqp.frames", "warren.amqp.acks"}),
    frozenset({"warren.amqp.confirms"}),
    frozenset({"warren.amqp.tables"}),
    # protocol/: what is said on the wire, pure
    frozenset({"warren.middleware", "warren.protocol", "warren.protocol.bases", "warren.protocol.deadline"}),
    frozenset({"warren.protocol.collisions"}),
    frozenset({"warren.protocol.codecs"}),
    frozenset({"warren.protocol.evidence", "warren.protocol.running", "warren.protocol.signature"}),
    frozenset({"warren.protocol.problems"}),
    frozenset({"warren.protocol.wire"}),
    frozenset({"warren.protocol.dead_letter"}),
    # connection/: one connection kept open; alone knows Pika
    frozenset({"warren.connection", "warren.connection.settings", "warren.connection.liveness"}),
    frozenset({"warren.connection.errors", "warren.connection.fork", "warren.connection.futures"}),
    frozenset({"warren.connection.addresses", "warren.connection.ioloop"}),
    frozenset({"warren.connection.diagnosis", "warren.connection.password", "warren.connection.stream"}),
    frozenset({"warren.connection.channel", "warren.connection.guard", "warren.connection.handshake"}),
    frozenset({"warren.connection.link"}),
    frozenset({"warren.connection.dial"}),
    frozenset({"warren.connection.supervisor", "warren.connection.declare"}),
    # client/ and server/, which do not know each other
    frozenset({"warren.client", "warren.client.calls"}),
    frozenset({"warren.client.requests", "warren.client.outcomes", "warren.client.lane"}),
    frozenset({"warren.client.explainer", "warren.client.replies"}),
    frozenset({"warren.client.endings"}),
    frozenset({"warren.client.caller"}),
    frozenset({"warren.client.options"}),
    frozenset({"warren.client.target"}),
    frozenset({"warren.client.async_client", "warren.client.io_thread"}),
    frozenset({"warren.client.blocking"}),
    frozenset({"warren.server", "warren.server.threads", "warren.server.signals", "warren.server.places"}),
    frozenset({"warren.server.admission", "warren.server.context", "warren.server.copies", "warren.server.lifecycle"}),
    frozenset({"warren.server.attempt", "warren.server.releases"}),
    frozenset({"warren.server.replies"}),
    frozenset({"warren.server.runners", "warren.server.settler"}),
    frozenset({"warren.server.worker"}),
    frozenset({"warren.server.declarations"}),
    frozenset({"warren.server.post"}),
    frozenset({"warren.server.server"}),
    frozenset({"warren.server.service"}),
    frozenset({"warren"}),
    *BROKER,
    # what the command line does, without the terminal
    frozenset({"warren.processes", "warren.dead", "warren.bench", "warren.testing"}),
    frozenset({"warren.processes.loading", "warren.processes.process", "warren.dead.queue"}),
    frozenset({"warren.processes.worker", "warren.processes.crew", "warren.dead.wanted"}),
    frozenset({"warren.processes.manager"}),
    frozenset({"warren.bench.runner", "warren.testing.kit"}),
    # edges
    frozenset({"warren.cli.terminal", "warren.cli.arguments", "warren.cli.logs", "warren.cli.letters"}),
    frozenset({f"warren.cli.{command}" for command in ("serve", "call", "bench", "broker", "dead", "demo")}),
    frozenset({"warren.cli"}),
    frozenset({"warren.testing.plugin", "warren.testing.worker"}),
    frozenset({"warren.__main__"}),
)
PLACED = {module: height for height, layer in enumerate(LAYERS) for module in layer}

EDGES = frozenset({"warren.cli", "warren.testing.plugin", "warren.testing.worker"})


def room(name: str) -> frozenset[str]:
    """The modules of one folder."""
    return frozenset(module for module in PLACED if module.startswith(f"warren.{name}."))


CLIENT_SIDE = room("client")
SERVER_SIDE = room("server")

#: Values and tables only: time, chance and the outside world are passed in.
BROKER_EDGES = frozenset(
    {"warren.broker.server", "warren.broker.embedded", "warren.broker.ask", "warren.broker.command", "warren.broker"}
)
PURE = (
    room("amqp")
    | room("protocol")
    | frozenset({"warren.errors", "warren.printable", "warren.checks", "warren.middleware"})
)
PURE |= frozenset({"warren.client.calls"})
PURE |= frozenset({"warren.connection.settings", "warren.connection.liveness"})
PURE |= frozenset().union(*BROKER) - BROKER_EDGES
IMPURE = frozenset(
    {"asyncio", "time", "random", "secrets", "socket", "select", "threading", "subprocess", "os", "logging", "signal"}
)


def height(module: str) -> int:
    """A module's layer; one that has no place yet stands above all, so that nothing but its own test complains."""
    return PLACED.get(module, len(LAYERS))


def module_name(path: Path) -> str:
    parts = ("warren", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {module_name(path): ast.parse(path.read_text(), str(path)) for path in sorted(SOURCE.rglob("*.py"))}
ALL = sorted(TREES)


def imported(node: ast.AST) -> Iterator[str]:
    """The modules that one import statement imports."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute here"
        assert node.module is not None
        for alias in node.names:
            submodule = f"{node.module}.{alias.name}"
            yield submodule if submodule in TREES else node.module


def imports(module: str) -> set[str]:
    """All modules that a module imports, wherever in it."""
    return {name for node in ast.walk(TREES[module]) for name in imported(node)}


def of_warren(names: set[str]) -> set[str]:
    return {name for name in names if name.partition(".")[0] == "warren"}


def roots(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def everything_below(module: str) -> set[str]:
    """All of Warren that a module imports, directly or not."""
    seen: set[str] = set()
    to_visit = {module}
    while to_visit:
        found = of_warren(imports(to_visit.pop()))
        to_visit |= found - seen
        seen |= found
    return seen


# --- imports ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ALL)
def test_every_module_has_its_place(module: str) -> None:
    assert module in PLACED, f"say in LAYERS where {module} belongs"


@pytest.mark.parametrize("module", sorted(PLACED))
def test_every_place_is_taken(module: str) -> None:
    assert module in TREES, f"{module} is gone: take it out of LAYERS"


@pytest.mark.parametrize("module", ALL)
def test_imports_go_down(module: str) -> None:
    assert {name for name in of_warren(imports(module)) if height(name) >= height(module)} == set()


@pytest.mark.parametrize("module", [m for m in ALL if height(m) <= height("warren")])
def test_imports_of_warren_stand_at_the_top(module: str) -> None:
    top = {name for node in TREES[module].body for name in imported(node)}
    assert of_warren(imports(module)) - top == set()


@pytest.mark.parametrize("module", ALL)
def test_no_import_is_for_type_checking_only(module: str) -> None:
    names = {n.id for n in ast.walk(TREES[module]) if isinstance(n, ast.Name)}
    names |= {n.attr for n in ast.walk(TREES[module]) if isinstance(n, ast.Attribute)}
    assert "TYPE_CHECKING" not in names


@pytest.mark.parametrize(
    "module", [m for m in ALL if not m.startswith(("warren.connection.", "warren.amqp.tables", "warren.broker."))]
)
def test_pika_is_known_to_the_connection_and_the_broker_only(module: str) -> None:
    assert "pika" not in roots(imports(module))


@pytest.mark.parametrize("module", sorted(frozenset().union(*BROKER)))
def test_the_broker_stands_alone(module: str) -> None:
    others = {name for name in of_warren(imports(module)) if not name.startswith("warren.broker")}
    assert others <= {"warren.amqp.frames", "warren.amqp.tables", "warren.logs", "warren.printable"}


@pytest.mark.parametrize("module", [m for m in ALL if height(m) <= height("warren")])
def test_nothing_but_edges_knows_the_broker(module: str) -> None:
    assert {name for name in imports(module) if name.startswith("warren.broker")} == set()


@pytest.mark.parametrize("module", sorted(PURE))
def test_pure_modules_have_no_clock_no_chance_and_no_io(module: str) -> None:
    assert roots(imports(module)) & IMPURE == set()


@pytest.mark.parametrize("module", sorted(CLIENT_SIDE))
def test_the_clients_do_not_know_the_server(module: str) -> None:
    assert everything_below(module) & SERVER_SIDE == set()


@pytest.mark.parametrize("module", sorted(SERVER_SIDE))
def test_the_server_does_not_know_the_clients(module: str) -> None:
    assert everything_below(module) & CLIENT_SIDE == set()


@pytest.mark.parametrize("module", [m for m in ALL if m != "warren.__main__"])
def test_nothing_imports_an_edge(module: str) -> None:
    assert imports(module) & EDGES == set()


@pytest.mark.parametrize("module", [m for m in ALL if m != "warren.testing.plugin"])
def test_pytest_is_known_to_its_plugin_only(module: str) -> None:
    assert roots(imports(module)) & {"pytest", "_pytest", "pytest_asyncio"} == set()


def test_importing_warren_does_not_import_its_edges() -> None:
    program = "import sys, warren; print(sorted({'typer', 'rich', 'pytest', 'warren.cli'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("module", [m for m in ALL if m != "warren.logs"])
def test_every_logger_of_warren_escapes_what_it_logs(module: str) -> None:
    calls = [n for n in ast.walk(TREES[module]) if isinstance(n, ast.Call) and "getLogger" in ast.unparse(n.func)]
    names = [ast.unparse(call.args[0]) if call.args else "" for call in calls]
    assert [name for name in names if "warren" in name or "__name__" in name] == []


# --- what no file may do ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ALL)
def test_nothing_that_comes_over_the_wire_can_be_unpickled(module: str) -> None:
    assert roots(imports(module)) & {"pickle", "marshal", "shelve", "dill", "cloudpickle"} == set()


@pytest.mark.parametrize("module", ALL)
def test_nothing_is_evaluated(module: str) -> None:
    calls = (n.func for n in ast.walk(TREES[module]) if isinstance(n, ast.Call))
    called = {function.id for function in calls if isinstance(function, ast.Name)}
    assert called & {"eval", "exec", "compile", "__import__"} == set()


# --- the public surface -------------------------------------------------------------------------------------------


def public_names() -> list[str]:
    """What ``from warren import …`` offers: the explicit re-exports of its ``__init__``."""
    return [
        alias.asname
        for node in TREES["warren"].body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname is not None
    ]


def test_the_public_surface_stays_small() -> None:
    assert len(public_names()) <= 25


def test_every_import_of_the_package_is_a_re_export() -> None:
    aliases = [a for n in TREES["warren"].body if isinstance(n, ast.ImportFrom) for a in n.names]
    assert all(alias.name == alias.asname for alias in aliases)


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
