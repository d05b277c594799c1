"""Finding services by the names that people type: ``module:service``, imported from the current folder first."""

from __future__ import annotations

import importlib
import itertools
import os
import re
import sys
import traceback
from collections.abc import Iterable
from types import ModuleType, TracebackType

from warren.server.service import Service

_SPEC = re.compile(r"(?P<module>\w+(\.\w+)*)(:(?P<attribute>\w+(\.\w+)*))?\Z")


class LoadError(Exception):
    """No service goes by that name; the text says what to type instead."""


class ImportFailed(Exception):
    """The module is there, and raised an exception of its own; the text holds its traceback."""


def load_services(specs: Iterable[str]) -> list[Service]:
    """Import what `specs` name: ``module:attribute``, ``module:object.attribute``, or ``module`` with one service.

    The current folder goes to the front of ``sys.path``, as for ``python -m``.

    Raises:
        LoadError: a name that is wrong.
        ImportFailed: a module that cannot be imported.
    """
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    return [_load(spec) for spec in specs]


def _load(spec: str) -> Service:
    parts = _SPEC.match(spec)
    if parts is None:
        raise LoadError(f"{spec!r} does not name a service: {_advice(spec)}")
    name, attribute = parts["module"], parts["attribute"]
    module = _import(name)
    return _only_service(module) if attribute is None else _attribute(module, attribute)


def _advice(spec: str) -> str:
    """What to type instead of a file's path, the usual slip."""
    path, _, attribute = spec.partition(":")
    module = path.removesuffix(".py").removeprefix("./").strip("/").replace("/", ".")
    good = f"{module}:{attribute or 'service'}"
    return f"say {good if _SPEC.match(good) else 'module:service, for example calc:service'}"


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Only if it is this module that is missing, or a package on the way to it: not one that it imports.
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            if name.endswith(".py"):
                raise LoadError(f"{name!r} is a file; say {name.removesuffix('.py')}:service") from error
            raise LoadError(
                f"there is no module {error.name!r}, neither in {os.getcwd()} nor among the installed packages:"
                " check the spelling, or go to the folder that it is in"
            ) from error
        raise ImportFailed(_explain(name, error)) from error
    except (Exception, SystemExit) as error:  # SystemExit: a script without its `if __name__ == "__main__"`
        raise ImportFailed(_explain(name, error)) from error


def _explain(name: str, error: BaseException) -> str:
    own = _own_part(error.__traceback__)
    shown = traceback.TracebackException(type(error), error, own)
    if isinstance(error, TypeError | ValueError):  # of a declaration: what is wrong is in the module's line
        del shown.stack[_first_of_ours(own) :]
    return f"importing {name!r} failed:\n{''.join(shown.format()).rstrip()}"


def _first_of_ours(own: TracebackType | None) -> int:
    """Where the frames begin that are Warren's to the end; never with the module's own."""
    ours = [frame.f_globals.get("__name__", "").startswith("warren.") for frame, _ in traceback.walk_tb(own)]
    return max(1, len(ours) - len(list(itertools.takewhile(bool, reversed(ours)))))


def _own_part(tb: TracebackType | None) -> TracebackType | None:
    """The traceback from the module's own first line on, without ours and the import machinery's."""
    start = tb
    while start is not None and _is_machinery(start.tb_frame.f_code.co_filename):
        start = start.tb_next
    return start


def _is_machinery(filename: str) -> bool:
    return filename == __file__ or filename == importlib.__file__ or filename.startswith("<frozen importlib")


def _only_service(module: ModuleType) -> Service:
    names = _services(module)
    if len({id(getattr(module, name)) for name in names}) == 1:
        return _attribute(module, names[0])
    if not names:
        raise LoadError(
            f"module {module.__name__!r} has no warren.Service at its top level: make one there, service ="
            " Service('name')"
        )
    raise LoadError(f"module {module.__name__!r} has several services: say {_choices(module)}")


def _attribute(module: ModuleType, path: str) -> Service:
    value: object = module
    for part in path.split("."):
        try:
            value = getattr(value, part)
        except AttributeError as error:
            raise LoadError(f"module {module.__name__!r} has no {path!r}{_hint(module)}") from error
    if not isinstance(value, Service):
        kind = type(value).__name__
        raise LoadError(f"{module.__name__}:{path} is of type {kind}, not a warren.Service{_hint(module)}")
    return value


def _hint(module: ModuleType) -> str:
    return f": say {_choices(module)}" if _services(module) else ", and no service at its top level"


def _choices(module: ModuleType) -> str:
    return " or ".join(f"{module.__name__}:{name}" for name in _services(module))


def _services(module: ModuleType) -> list[str]:
    return [name for name, value in vars(module).items() if isinstance(value, Service)]
