"""Modules that are read for what they declare and call, each once: nothing is imported and nothing is run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from warren.operate.following import names_of

_CLIENTS = frozenset({"Client", "AsyncClient"})
#: Bytes of the largest file that is read.
_LARGEST = 5_000_000


class SourceError(Exception):
    """A module cannot be read; the text says what to do."""


class Module:
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
        self.values = names_of(inner for node in tree.body if not is_scope(node) for inner in ast.walk(node))
        for name, values in self.values.items():
            self._understand(name, values[0])

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

    def _understand(self, name: str, value: ast.expr | None) -> None:
        """Take in what is a text or a service; of what is given twice nobody can say which it is."""
        if value is None or len(self.values[name]) > 1:
            return
        if (text := self.text(value)) is not None:
            self.texts[name] = text
        elif isinstance(value, ast.Call) and last_name(value.func) == "Service" and (own := self._name_of(value)):
            self.services[name] = own

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
        return any(home.partition(".")[0] == "warren" or name in _CLIENTS for home, name in self.imported.values())

    def alias(self, name: str) -> list[str]:
        """The names that a name of this module stands for, if it is nothing else."""
        values = self.values.get(name, ())
        return dotted(values[0]) if len(values) == 1 and values[0] is not None else []


class Sources:
    """Files of modules, each read once."""

    def __init__(self, folders: list[Path]) -> None:
        self._folders = folders
        self._read: dict[str, Module | None] = {}

    def all_of(self, name: str) -> list[Module]:
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

    def find(self, name: str) -> Module | None:
        """A module; None if there is none here that is written in Python."""
        if name not in self._read:
            path = self._path(name)
            self._read[name] = None if path is None else Module(name, path, _parse(path))
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


def is_scope(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)


def dotted(node: ast.expr) -> list[str]:
    """The names of ``a.b.c``; ``remote(Orders).place`` is ``Orders.place``. Nothing of other expressions."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Call) and last_name(node.func) == "remote" and len(node.args) == 1:
        return dotted(node.args[0])
    if isinstance(node, ast.Attribute) and (before := dotted(node.value)):
        return [*before, node.attr]
    return []


def last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
