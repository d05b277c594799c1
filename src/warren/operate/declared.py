"""Who calls whom, read from the code: nothing is imported and nothing is run.

Read are services (``Service("name")``), functions that are declared as methods, stubs or implementations of them,
classes of methods, and ``client.call``, ``submit``, ``cast`` and ``map`` with one of these functions or with a name. A
function that is no method counts as a part of those that call it; what no method reaches belongs to its module.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from warren.operate.graph import Edge, Graph

_CALLS = frozenset({"call", "submit", "cast", "map"})
_CLIENTS = frozenset({"Client", "AsyncClient"})
_DECLARING = frozenset({"method", "stub", "implement"})
#: Bytes of the largest file that is read.
_LARGEST = 5_000_000


class SourceError(Exception):
    """A module cannot be read; the text says what to do."""


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
    sources = _Sources([folder, *(Path(entry) for entry in sys.path if entry)])
    modules = [module for name in names for module in sources.all_of(name)]
    return _Reading(sources, modules).result()


class _Module:
    """One file: what its names mean, as far as they can be told without running it."""

    def __init__(self, name: str, path: Path, tree: ast.Module) -> None:
        self.name = name
        self.path = path
        self.tree = tree
        self.package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        self.texts: dict[str, str] = {}
        self.imported: dict[str, tuple[str, str]] = {}
        self.services: dict[str, str] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                self.imported |= dict(self._imports(node))
        for node in tree.body:
            self._assign(node)

    def _imports(self, node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, tuple[str, str]]]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                whole = alias.name if alias.asname else alias.name.partition(".")[0]
                yield alias.asname or whole, (whole, "")
            return
        parts = self.package.split(".")[: len(self.package.split(".")) - node.level + 1] if node.level else []
        module = ".".join([*parts, *([node.module] if node.module else [])])
        for alias in node.names:
            yield alias.asname or alias.name, (module, alias.name)

    def _assign(self, node: ast.stmt) -> None:
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if value is None or not isinstance(target, ast.Name):
                continue
            if (text := self.text(value)) is not None:
                self.texts[target.id] = text
            elif isinstance(value, ast.Call) and _last(value.func) == "Service" and (name := self._name_of(value)):
                self.services[target.id] = name

    def _name_of(self, call: ast.Call) -> str | None:
        named = [keyword.value for keyword in call.keywords if keyword.arg == "name"]
        return self.text([*call.args, *named][0]) if call.args or named else None

    def text(self, node: ast.expr) -> str | None:
        """A string that is written here, or a constant of the module."""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node.value
        return self.texts.get(node.id) if isinstance(node, ast.Name) else None

    @property
    def has_clients(self) -> bool:
        """Whether what looks like a call may be one whose target is not known."""
        return any(name in _CLIENTS for _, name in self.imported.values())


class _Sources:
    """Files of modules, each read once."""

    def __init__(self, folders: list[Path]) -> None:
        self._folders = folders
        self._read: dict[str, _Module | None] = {}

    def all_of(self, name: str) -> list[_Module]:
        module = self.find(name)
        if module is None:
            advice = "give a module's name, as for import, or go to the folder that it is in"
            raise SourceError(f"there is no module {name!r}: {advice}")
        if module.path.name != "__init__.py":
            return [module]
        below = sorted(path for path in module.path.parent.rglob("*.py") if path != module.path)
        names = [".".join([name, *path.relative_to(module.path.parent).with_suffix("").parts]) for path in below]
        found = [self.find(other.removesuffix(".__init__")) for other in names]
        return [module, *(other for other in found if other is not None)]

    def find(self, name: str) -> _Module | None:
        """A module; None if there is none here that is written in Python."""
        if name not in self._read:
            path = self._path(name)
            self._read[name] = None if path is None else _Module(name, path, _parse(path))
        return self._read[name]

    def _path(self, name: str) -> Path | None:
        if not all(part.isidentifier() for part in name.split(".")):
            return None
        for folder in self._folders:
            whole = folder.joinpath(*name.split("."))
            for path in (whole / "__init__.py", whole.with_name(f"{whole.name}.py")):
                if path.is_file():
                    return path
        return None


def _parse(path: Path) -> ast.Module:
    try:
        if path.stat().st_size > _LARGEST:
            raise SourceError(f"{path} is larger than {_LARGEST} bytes: name the modules that make calls")
        return ast.parse(path.read_bytes(), str(path))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise SourceError(f"{path} cannot be read: {error}; mend it, or name other modules") from error


class _Reading:
    """What the modules declare and call."""

    def __init__(self, sources: _Sources, modules: list[_Module]) -> None:
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
            for where, node in _functions(module):
                self._read_body(module, where, node)
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

    def _declare(self, module: _Module) -> None:
        if module.name in self._known:
            return
        self._known.add(module.name)
        for node in module.tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                self._declare_function(module, node)
            elif isinstance(node, ast.ClassDef):
                self._declare_class(module, node)

    def _declare_function(self, module: _Module, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
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
                self._methods[Where(module.name, node.name)] = target

    def _declare_class(self, module: _Module, node: ast.ClassDef) -> None:
        used = [d for d in node.decorator_list if isinstance(d, ast.Attribute) and d.attr == "methods"]
        service = self._service(module, used[0].value) if used else None
        for inner in node.body:
            if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef) and service and inner.name[0] != "_":
                calls = [d for d in inner.decorator_list if isinstance(d, ast.Call) and _last(d.func) == "method"]
                name = next((own for call in calls if (own := _own_name(module, call))), inner.name)
                self._methods[Where(module.name, f"{node.name}.{inner.name}")] = Target(service, name)

    def _service(self, module: _Module, node: ast.expr) -> str | None:
        where = self._resolve(module, node)
        home = self._sources.find(where.module) if where is not None else None
        return home.services.get(where.function) if home is not None and where is not None else None

    def _target(self, module: _Module, node: ast.expr) -> Target | None:
        where = self._resolve(module, node)
        return None if where is None else self._methods.get(where)

    def _resolve(self, module: _Module, node: ast.expr, depth: int = 8) -> Where | None:
        """Where the thing is made that an expression names; its module is read for what it declares."""
        path = _dotted(node)
        if not path:
            return None
        return self._follow(module, path, depth)

    def _follow(self, module: _Module, path: list[str], depth: int) -> Where | None:
        if path[0] not in module.imported:
            self._declare(module)
            return Where(module.name, ".".join(path))
        name, attribute = module.imported[path[0]]
        names = [*([attribute] if attribute else []), *path[1:]]
        home = self._sources.find(name)
        while names and (inner := self._sources.find(f"{name}.{names[0]}")) is not None:
            name, home, names = inner.name, inner, names[1:]
        if home is None or not names or not depth:
            return None
        return self._follow(home, names, depth - 1)

    # --- what is called ---------------------------------------------------------------------------------------------

    def _read_body(self, module: _Module, where: Where, node: ast.AST) -> None:
        for inner in _own(node):
            if not isinstance(inner, ast.Call):
                continue
            if isinstance(inner.func, ast.Attribute) and inner.func.attr in _CALLS and inner.args:
                self._read_call(module, where, inner.func, inner)
            elif (used := self._used(module, where, inner.func)) is not None:
                self._uses[where].add(used)

    def _used(self, module: _Module, where: Where, function: ast.expr) -> Where | None:
        """The function of ours that is called here; of a class its own are found behind ``self``."""
        path = _dotted(function)
        if path and path[0] == "self" and "." in where.function:
            return Where(module.name, ".".join([where.function.rpartition(".")[0], *path[1:]]))
        return self._resolve(module, function)

    def _read_call(self, module: _Module, where: Where, function: ast.Attribute, call: ast.Call) -> None:
        receiver = _dotted(function.value)
        if receiver and receiver[0] in module.imported and not module.imported[receiver[0]][1]:
            return  # a module's function of that name: subprocess.call
        target = self._called(module, call.args[0])
        if target is not None:
            self._calls[where].add(target)
        elif module.has_clients and _may_be_a_client(function.value):
            self._unknown.append(Spot(module.path, call.lineno))

    def _called(self, module: _Module, node: ast.expr) -> Target | None:
        text = module.text(node)
        if text is not None:
            service, _, method = text.rpartition(".")
            return Target(service, method) if service and method and not set(text) & set(" /\\") else None
        return self._target(module, node)


def _functions(module: _Module) -> Iterator[tuple[Where, ast.AST]]:
    """The functions of a module and of its classes, and the module itself."""
    yield Where(module.name, ""), module.tree
    for node in module.tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield Where(module.name, node.name), node
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield Where(module.name, f"{node.name}.{inner.name}"), inner


def _own(node: ast.AST) -> Iterator[ast.AST]:
    """What stands in a function, inner functions included; in a module, what stands outside of all."""
    if not isinstance(node, ast.Module):
        yield from ast.walk(node)
        return
    for statement in node.body:
        if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from ast.walk(statement)


def _dotted(node: ast.expr) -> list[str]:
    """The names of ``a.b.c``; ``remote(Orders).place`` is ``Orders.place``. Nothing of other expressions."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Call) and _last(node.func) == "remote" and len(node.args) == 1:
        return _dotted(node.args[0])
    if isinstance(node, ast.Attribute) and (before := _dotted(node.value)):
        return [*before, node.attr]
    return []


def _last(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _own_name(module: _Module, call: ast.Call | None) -> str | None:
    """What `name=` says."""
    given = [keyword.value for keyword in call.keywords if keyword.arg == "name"] if call else []
    return module.text(given[0]) if given else None


def _may_be_a_client(node: ast.expr) -> bool:
    """A name that says so: there are other things that can be called, and maps of all kinds."""
    return "client" in ast.unparse(node).lower()
