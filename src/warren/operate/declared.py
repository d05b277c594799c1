"""Who calls whom, read from the code: nothing is imported and nothing is run.

Read are services (``Service("name")``), functions that are declared as methods, stubs or implementations of them,
classes of methods, and ``client.call``, ``submit``, ``cast`` and ``map`` with one of these functions or with a name. A
function that is no method counts as a part of those that call it; what no method reaches belongs to its module.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from warren.operate.following import Values, attributes_of, is_self, names_of, read
from warren.operate.graph import Edge, Graph
from warren.operate.sources import Module, Sources, dotted, is_scope, last_name

_CALLS = frozenset({"call", "submit", "cast", "map"})
_DECLARING = frozenset({"method", "stub", "implement"})


class Target(NamedTuple):
    """A method."""

    service: str
    method: str


class Spot(NamedTuple):
    """A call whose target the code does not say."""

    path: Path
    line: int


class Where(NamedTuple):
    """A function of a module; an empty name is the module itself."""

    module: str
    function: str


class Declared(NamedTuple):
    """What was read."""

    graph: Graph
    unknown: list[Spot]


def read_modules(names: Iterable[str], folder: Path) -> Declared:
    """Read modules, and what they import of the same folders for the names of methods.

    Args:
        names: modules or packages as for ``import``, all of a package below it.
        folder: where to look first; then where Python would.

    Raises:
        SourceError: there is no such module, or it is not Python.
    """
    sources = Sources([folder, *(Path(entry) for entry in sys.path if entry)])
    modules = [module for name in names for module in sources.all_of(name)]
    return _Reading(sources, modules).result()


class _Reading:
    """What the modules declare and call."""

    def __init__(self, sources: Sources, modules: list[Module]) -> None:
        self._sources = sources
        self._modules = {module.name: module for module in modules}
        self._methods: dict[Where, Target] = {}
        self._known: set[str] = set()
        self._calls: dict[Where, set[Target]] = defaultdict(set)
        self._uses: dict[Where, set[Where]] = defaultdict(set)
        self._unknown: list[Spot] = []

    def result(self) -> Declared:
        for module in self._modules.values():
            self._declare(module)
            for body in _bodies(module):
                self._read_body(body)
        services = {name for module in self._modules.values() for name in module.services.values()}
        return Declared(Graph(frozenset(services), tuple(sorted(self._edges()))), self._unknown)

    def _edges(self) -> set[Edge]:
        """Calls belong to the methods from which they are reached; else to their module."""
        owners: dict[Where, set[str]] = defaultdict(set)
        for where, target in [*self._methods.items()]:
            for reached in self._reach(where):
                owners[reached].add(target.service)
        return {
            Edge(owner, target.service, target.method)
            for where, targets in self._calls.items()
            for owner in owners.get(where) or {where.module}
            for target in targets
        }

    def _reach(self, start: Where) -> set[Where]:
        reached, todo = {start}, [start]
        while todo:
            new = self._uses.get(todo.pop(), set()) - reached
            reached |= new
            todo += new
        return reached

    # --- what is declared -------------------------------------------------------------------------------------------

    def _declare(self, module: Module) -> None:
        if module.name in self._known:
            return
        self._known.add(module.name)
        for node in module.tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                self._declare_function(module, node, node.name)
            elif isinstance(node, ast.ClassDef):
                self._declare_class(module, node)
            elif isinstance(node, ast.Assign | ast.Expr) and isinstance(node.value, ast.Call):
                self._declare_value(module, node.targets if isinstance(node, ast.Assign) else [], node.value)

    def _declare_value(self, module: Module, targets: list[ast.expr], call: ast.Call) -> None:
        """``fib = calc.method(function)``: both names are those of the method."""
        if not isinstance(call.func, ast.Attribute) or call.func.attr not in _DECLARING or len(call.args) != 1:
            return
        service, path = self._service(module, call.func.value), dotted(call.args[0])
        if service is not None and path:
            target = Target(service, _own_name(module, call) or path[-1])
            for name in [path, *map(dotted, targets)]:
                self._methods[_in(module, name)] = target

    def _declare_function(self, module: Module, node: ast.FunctionDef | ast.AsyncFunctionDef, path: str) -> None:
        for decorator in node.decorator_list:
            call = decorator if isinstance(decorator, ast.Call) else None
            used = call.func if call else decorator
            if not isinstance(used, ast.Attribute) or used.attr not in _DECLARING:
                continue
            target: Target | None = None
            if used.attr == "implement":
                target = self._target(module, call.args[0]) if call and call.args else None
            elif (service := self._service(module, used.value)) is not None:
                target = Target(service, _own_name(module, call) or node.name)
            if target is not None:
                self._methods[Where(module.name, path)] = target

    def _declare_class(self, module: Module, node: ast.ClassDef) -> None:
        used = [d for d in node.decorator_list if isinstance(d, ast.Attribute) and d.attr == "methods"]
        service = self._service(module, used[0].value) if used else None
        for inner in node.body:
            if not isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            self._declare_function(module, inner, f"{node.name}.{inner.name}")  # a stub among others of its service
            if service and inner.name[0] != "_":
                calls = [d for d in inner.decorator_list if isinstance(d, ast.Call) and last_name(d.func) == "method"]
                name = next((own for call in calls if (own := _own_name(module, call))), inner.name)
                self._methods[Where(module.name, f"{node.name}.{inner.name}")] = Target(service, name)

    def _service(self, module: Module, node: ast.expr) -> str | None:
        where = self._resolve(module, node)
        home = self._sources.find(where.module) if where is not None else None
        return home.services.get(where.function) if home is not None and where is not None else None

    def _target(self, module: Module, node: ast.expr) -> Target | None:
        where = self._resolve(module, node)
        return None if where is None else self._methods.get(where)

    def _resolve(self, module: Module, node: ast.expr, depth: int = 8) -> Where | None:
        """Where the thing is made that an expression names; its module is read for what it declares."""
        path = dotted(node)
        if not path:
            return None
        return self._follow(module, path, depth)

    def _follow(self, module: Module, path: list[str], depth: int) -> Where | None:
        if path[0] not in module.imported:
            self._declare(module)
            alias = module.alias(path[0])
            return self._follow(module, [*alias, *path[1:]], depth - 1) if alias and depth else _in(module, path)
        name, attribute = module.imported[path[0]]
        names = [*([attribute] if attribute else []), *path[1:]]
        home = self._sources.find(name)
        while names and (inner := self._sources.find(f"{name}.{names[0]}")) is not None:
            name, home, names = inner.name, inner, names[1:]
        if home is None or not names or not depth:
            return None
        return self._follow(home, names, depth - 1)

    # --- what is called ---------------------------------------------------------------------------------------------

    def _read_body(self, body: _Body) -> None:
        for inner in _own(body.node):
            if not isinstance(inner, ast.Call):
                continue
            for way, arguments in _ways(body, inner):
                self._read_call(body, way, arguments, inner.lineno)
            if (used := self._used(body, inner.func)) is not None:
                self._uses[body.where].add(used)

    def _used(self, body: _Body, function: ast.expr) -> Where | None:
        """The function of ours that is called here; of a class its own are found behind ``self``."""
        path = dotted(function)
        if path and path[0] == "self" and "." in body.where.function:
            return Where(body.module.name, ".".join([body.where.function.rpartition(".")[0], *path[1:]]))
        return self._resolve(body.module, function)

    def _read_call(self, body: _Body, way: ast.Attribute, arguments: list[ast.expr], line: int) -> None:
        module, receiver = body.module, dotted(way.value)
        if receiver and receiver[0] in module.imported and not module.imported[receiver[0]][1] and len(receiver) == 1:
            return  # a module's function of that name: subprocess.call
        targets = [None if one is None else self._called(module, one) for one in body.read(arguments[0])]
        self._calls[body.where].update(target for target in targets if target is not None)
        certain = targets and None not in targets
        if not certain and (any(targets) or (module.has_clients and _may_be_a_client(body, way.value))):
            self._unknown.append(Spot(module.path, line))

    def _called(self, module: Module, node: ast.expr) -> Target | None:
        text = self._text(module, node)
        if text is not None:
            service, _, method = text.rpartition(".")
            return Target(service, method) if service and method and not set(text) & set(" /\\") else None
        return self._target(module, node)

    def _text(self, module: Module, node: ast.expr) -> str | None:
        """A string that is put together of what is written here, constants and names of services."""
        parts: list[ast.expr] = []
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.FormattedValue) else part for part in node.values]
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            parts = [node.left, node.right]
        elif isinstance(node, ast.Attribute) and node.attr == "name":
            return self._service(module, node.value)
        if not parts:
            return module.text(node)
        texts = [self._text(module, part) for part in parts]
        return None if None in texts else "".join(text or "" for text in texts)


class _Body:
    """A function, or a module, and what its names stand for."""

    def __init__(self, module: Module, where: Where, node: ast.AST, attributes: Values) -> None:
        self.module = module
        self.where = where
        self.node = node
        self._attributes = attributes
        self._local: Values = {} if isinstance(node, ast.Module) else names_of(ast.walk(node))

    def read(self, node: ast.expr) -> list[ast.expr | None]:
        """What an expression may stand for; a name of the module that is one thing alone is left to whoever looks."""
        several = {name: its for name, its in self.module.values.items() if not _is_one_thing(its)}
        return read(node, {**several, **self._local}, self._attributes)


def _is_one_thing(values: Sequence[ast.expr | None]) -> bool:
    """Whether a name of a module needs no reading: it is made there, or another name for something."""
    return len(values) == 1 and not isinstance(
        values[0], ast.IfExp | ast.BoolOp | ast.Tuple | ast.List | ast.Dict | None
    )


def _ways(body: _Body, call: ast.Call) -> Iterator[tuple[ast.Attribute, list[ast.expr]]]:
    """``client.call(fib, 30)``, and where it is handed on: ``ask(fib, 30)``, ``to_thread(client.call, fib, 30)``."""
    if call.args:
        for way in body.read(call.func) if isinstance(call.func, ast.Name) else [call.func]:
            if isinstance(way, ast.Attribute) and way.attr in _CALLS:
                yield way, call.args
    for at, way in enumerate(call.args[:-1]):
        if isinstance(way, ast.Attribute) and way.attr in _CALLS and not is_self(way.value):
            yield way, call.args[at + 1 :]


def _bodies(module: Module) -> Iterator[_Body]:
    """The functions of a module and of its classes, and the module itself."""
    yield _Body(module, Where(module.name, ""), module.tree, {})
    for node in module.tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield _Body(module, Where(module.name, node.name), node, {})
        elif isinstance(node, ast.ClassDef):
            attributes = attributes_of(node)
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield _Body(module, Where(module.name, f"{node.name}.{inner.name}"), inner, attributes)


def _in(module: Module, path: list[str]) -> Where:
    return Where(module.name, ".".join(path))


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """What stands in a function, inner functions included; in a module, what stands outside of all."""
    if not isinstance(node, ast.Module):
        yield from ast.walk(node)
        return
    for statement in node.body:
        if not is_scope(statement):
            yield from ast.walk(statement)


def _own_name(module: Module, call: ast.Call | None) -> str | None:
    """What `name=` says."""
    given = [keyword.value for keyword in call.keywords if keyword.arg == "name"] if call else []
    return module.text(given[0]) if given else None


def _may_be_a_client(body: _Body, node: ast.expr) -> bool:
    """A name or a type that says so: there are other things that can be called, and maps of all kinds."""
    stands_for = [one for one in body.read(node) if one is not None]
    return any("client" in ast.unparse(one).lower() for one in [node, *stands_for])
