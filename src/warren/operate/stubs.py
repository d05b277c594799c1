"""A typed module of stubs, made from what a service tells: callers need no other code of it. Pure."""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Iterator, Sequence
from textwrap import indent
from typing import Any

from warren.operate.hints import TAKEN, Types, literal, name_of
from warren.operate.registered import OURS, Errors
from warren.operate.told import MethodInfo, ServiceInfo
from warren.printable import printable

_HEAD = '"""Stubs of the service{s} {name}, written by `warren stubs`: do not edit, write them again."""'
#: What stands for a default that only the service knows: what is not given is not sent.
_ITS_OWN = "ITS_OWN"


def module(*services: ServiceInfo) -> str:
    """The module as text: a service `service` with one stub for each method.

    Of several services each is a class that has its stubs, beside its ``Service``; what they have in common is written
    once, so that what one returns is what another takes.
    """
    types = Types()
    for method in (method for service in services for method in service.methods):  # to know all classes
        _hints(method.arguments, types), types.hint(method.taken), types.hint(method.result)
    names = _reserved(types)
    errors = Errors(names)
    registered = [errors.add(service.errors) for service in services]
    write = _alone if len(services) == 1 else _together
    parts = write(services, registered, types, names)
    body = "\n\n\n".join([*errors.classes(), *parts[:1], *types.classes(), *parts[1:]])
    said = ", ".join(printable(service.name).replace("\\", "/").replace('"', "'") for service in services)
    head = _HEAD.format(s="s" if len(services) > 1 else "", name=said)
    own = _own(body) + ("\n" if body.startswith("class ") else "")
    text = f"{head}\n\n{_imports(body)}\n\n{own}{body}\n"
    ast.parse(text)  # what cannot be read by Python is a fault here, and not for somebody's build to find
    return text


def _reserved(types: Types) -> set[str]:
    return {*TAKEN, *types.names, _ITS_OWN}


def _alone(
    services: Sequence[ServiceInfo], registered: list[list[str]], types: Types, taken: set[str]
) -> Sequence[str]:
    """The service, and its methods."""
    (service,), (errors,) = services, registered
    return [_service("service", service, errors), *(_stub(method, types, taken) for method in service.methods)]


def _together(
    services: Sequence[ServiceInfo], registered: list[list[str]], types: Types, taken: set[str]
) -> Sequence[str]:
    """The services, and a class of methods for each."""
    classes = [_free(name_of(service.name), taken) for service in services]
    variables = [_free(f"{name}_service", taken) for name in classes]
    made = "\n".join(map(_service, variables, services, registered))
    return [made, *(_namespace(*each, types) for each in zip(classes, variables, services, strict=True))]


def _namespace(name: str, variable: str, service: ServiceInfo, types: Types) -> str:
    taken = {*_reserved(types), variable}  # what its methods would hide from those behind them
    methods = ["\n".join(["@staticmethod", _stub(method, types, taken, variable)]) for method in service.methods]
    doc = _doc(f"The methods of {service.name}.")
    return "\n\n".join(["\n".join([f"class {name}:", *doc]), *(indent(method, "    ") for method in methods)])


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _service(variable: str, service: ServiceInfo, errors: list[str]) -> str:
    given = f", errors=[{', '.join(errors)}]" if errors else ""
    return f"{variable} = Service({service.name!r}{given})"


def _imports(body: str) -> str:
    lines = ["from __future__ import annotations", ""]
    modules = [f"import {name}" for name in ("datetime", "decimal", "uuid") if f"{name}." in body]
    if "AsyncIterator[" in body:
        modules.append("from collections.abc import AsyncIterator")
    parts = [name for name in ("dataclass", "field") if re.search(rf"@{name}\b|\b{name}\(", body)]
    if parts:
        modules.append(f"from dataclasses import {', '.join(parts)}")
    typing = [name for name in ("Any", "Literal") if re.search(rf"\b{name}\b", body + (_own(body)))]
    if typing:
        modules.append(f"from typing import {', '.join(typing)}")
    if modules:
        lines += [*modules, ""]
    if "UNSET" in body:
        lines += ["from msgspec import UNSET, UnsetType", ""]
    ours = sorted({"Service", *(name for name in OURS if f"({name}):" in body)})
    return "\n".join([*lines, f"from warren import {', '.join(ours)}"])


def _own(body: str) -> str:
    if _ITS_OWN not in body:
        return ""
    return f"#: For a default that only the service knows: leave the argument out.\n{_ITS_OWN}: Any = None\n\n"


def _stub(method: MethodInfo, types: Types, taken: set[str], service: str = "service") -> str:
    name = _free(name_of(method.name), taken)
    options = [f"name={method.name!r}"] if name != method.name else []
    if method.delivery in ("at-least-once", "at-most-once"):
        options.append(f"delivery={method.delivery!r}")
    if method.broadcast:
        options.append("broadcast=True")
    if method.resumable:
        options.append("resumable=True")
    return "\n".join(
        [
            f"@{service}.stub({', '.join(options)})" if options else f"@{service}.stub",
            f"{_kind(method)} {name}({', '.join(_parameters(method, types))}) -> {_result(method, types)}:",
            *_doc(method.doc),
            "    raise NotImplementedError",
        ]
    )


def _kind(method: MethodInfo) -> str:
    """What takes items runs on the event loop: its iterator is an async one."""
    return "async def" if method.takes and not method.streams else "def"


def _result(method: MethodInfo, types: Types) -> str:
    hint = types.hint(method.result)
    return f"AsyncIterator[{hint}]" if method.streams else hint


def _doc(doc: str | None) -> list[str]:
    """As a literal with escapes: whatever is in it stays in it."""
    lines = [printable(line).replace("\\", "\\\\").replace('"', '\\"') for line in (doc or "").strip().splitlines()]
    if len(lines) < 2:
        return [f'    """{line}"""' for line in lines]
    return [f'    """{lines[0]}', *(f"    {line}".rstrip() for line in lines[1:]), '    """']


def _parameters(method: MethodInfo, types: Types) -> Iterator[str]:
    signature = _signature(method)
    names = [] if signature is None else _names(signature)
    # Items stand in front of the arguments, and are none of them.
    items = {(names or ["items"])[0]: f"AsyncIterator[{types.hint(method.taken)}]"} if method.takes else {}
    if method.arguments is None:  # it tells no types
        if signature is not None:
            yield from _as_signed(signature, dict.fromkeys(names, "Any") | items)
        else:
            yield ", ".join([*(f"{name}: {hint}" for name, hint in items.items()), "*args: Any, **kwargs: Any"])
        return
    hints, required = _hints(method.arguments, types)
    hints, required = items | hints, [*items, *required]
    if signature is not None and names == list(hints):
        yield from _as_signed(signature, hints)
    elif all(name.isidentifier() and not keyword.iskeyword(name) for name in hints):
        ordered = sorted(hints, key=lambda name: name not in required)
        yield from (f"{name}: {hints[name]}{'' if name in required else f' = {_ITS_OWN}'}" for name in ordered)
    else:
        yield "*args: Any, **kwargs: Any"


def _hints(schema: Any, types: Types) -> tuple[dict[str, str], list[str]]:
    """The type of each argument, and which have to be given."""
    if not isinstance(schema, dict):
        return {}, []
    properties, required = schema.get("properties"), schema.get("required")
    own = {"$defs": schema.get("$defs", {})}
    hints = {
        str(name): types.hint({**one, **own} if isinstance(one, dict) else one)
        for name, one in (properties.items() if isinstance(properties, dict) else ())
    }
    return hints, required if isinstance(required, list) else []


def _signature(method: MethodInfo) -> ast.arguments | None:
    """What the signature says of kinds and defaults, if it can be read: it may have been too long to be told whole."""
    call = method.signature.replace("…", "...").removeprefix(method.name)
    try:
        (function,) = ast.parse(f"def f{call}: ...").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return function.args if isinstance(function, ast.FunctionDef) and not function.args.vararg else None


def _names(signature: ast.arguments) -> list[str]:
    return [one.arg for one in (*signature.posonlyargs, *signature.args, *signature.kwonlyargs)]


def _as_signed(signature: ast.arguments, hints: dict[str, str]) -> Iterator[str]:
    positional = [*signature.posonlyargs, *signature.args]
    defaults = [*[None] * (len(positional) - len(signature.defaults)), *signature.defaults]
    for at, (one, default) in enumerate(zip(positional, defaults, strict=True), 1):
        yield _parameter(one.arg, hints, default)
        if at == len(signature.posonlyargs):
            yield "/"
    if signature.kwonlyargs:
        yield "*"
    for one, default in zip(signature.kwonlyargs, signature.kw_defaults, strict=True):
        yield _parameter(one.arg, hints, default)


def _parameter(name: str, hints: dict[str, str], default: ast.expr | None) -> str:
    if default is None:
        return f"{name}: {hints[name]}"
    return f"{name}: {hints[name]} = {_default(default, hints[name])}"


def _default(node: ast.expr, hint: str) -> str:
    """A default that can be written, if type checkers would take it."""
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return _ITS_OWN
    return literal(value, hint) or _ITS_OWN
