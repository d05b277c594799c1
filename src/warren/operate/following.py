"""What the names of a function may stand for, as far as one can read it. Nothing is run. Pure."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

#: What a name was given: expressions, and None where it cannot be read.
Values = Mapping[str, Sequence[ast.expr | None]]
_DEEPEST, _MOST = 8, 100


def names_of(nodes: Iterable[ast.AST]) -> Values:
    """What is given to names in these nodes; a parameter stands for its annotation, as its methods are those."""
    found: dict[str, list[ast.expr | None]] = defaultdict(list)
    for node in nodes:
        for target, value in _given(node):
            if isinstance(target, ast.Name):
                found[target.id].append(value)
            elif isinstance(target, ast.arg):
                found[target.arg].append(value)
    return found


def attributes_of(class_: ast.ClassDef) -> Values:
    """What is given to the attributes of a class: in its body, and to those of ``self``."""
    found: dict[str, list[ast.expr | None]] = defaultdict(list)
    for name, values in names_of(class_.body).items():
        found[name] += values
    for node in ast.walk(class_):
        for target, value in _given(node):
            if isinstance(target, ast.Attribute) and is_self(target.value):
                found[target.attr].append(value)
    return found


def is_self(node: ast.expr) -> bool:
    """Whether this is ``self`` or ``cls``."""
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def _given(node: ast.AST) -> Iterator[tuple[ast.AST, ast.expr | None]]:
    """What a node gives to what."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            yield from _unpacked(target, node.value)
    elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
        yield node.target, node.value
    elif isinstance(node, ast.AugAssign):
        yield node.target, None
    elif isinstance(node, ast.For | ast.AsyncFor | ast.comprehension):
        written = isinstance(node.iter, ast.Tuple | ast.List | ast.Set)
        for value in _elements(node.iter, by_key=False) if written else [ast.Starred(node.iter, ast.Load())]:
            yield from _unpacked(node.target, value)
    elif isinstance(node, ast.withitem) and node.optional_vars is not None:
        yield node.optional_vars, node.context_expr
    elif isinstance(node, ast.arg) and node.arg not in ("self", "cls"):
        yield node, node.annotation


def _unpacked(target: ast.expr, value: ast.expr | None) -> Iterator[tuple[ast.AST, ast.expr | None]]:
    if not isinstance(target, ast.Tuple | ast.List):
        yield target, value
        return
    same = isinstance(value, ast.Tuple | ast.List) and len(value.elts) == len(target.elts)
    values = value.elts if same and isinstance(value, ast.Tuple | ast.List) else [None] * len(target.elts)
    for one, its in zip(target.elts, values, strict=True):
        yield from _unpacked(one, its)


def _elements(container: ast.expr | None, *, by_key: bool) -> Sequence[ast.expr | None]:
    """What one gets out of something that is written, by a key or one after the other."""
    if isinstance(container, ast.Dict):
        return container.values if by_key else container.keys
    return container.elts if isinstance(container, ast.Tuple | ast.List | ast.Set) else [None]


def read(node: ast.expr, local: Values, attributes: Values, depth: int = _DEEPEST) -> list[ast.expr | None]:
    """What an expression may stand for, with the names of functions and of ``self`` followed.

    Args:
        node: the expression.
        local: what is given to names, where it stands.
        attributes: and to those of ``self``.
    """

    def deeper(nodes: Iterable[ast.expr | None]) -> list[ast.expr | None]:
        found: list[ast.expr | None] = []
        for one in nodes:
            found += [None] if one is None or not depth else read(one, local, attributes, depth - 1)
        return found[:_MOST]

    if isinstance(node, ast.Name):
        return deeper(local[node.id]) if node.id in local else [node]
    if isinstance(node, ast.IfExp):
        return deeper([node.body, node.orelse])
    if isinstance(node, ast.BoolOp):
        return deeper(node.values)
    if isinstance(node, ast.NamedExpr | ast.Await):
        return deeper([node.value])
    if isinstance(node, ast.Subscript | ast.Starred):
        by_key = isinstance(node, ast.Subscript)
        return deeper(one for container in deeper([node.value]) for one in _elements(container, by_key=by_key))
    if isinstance(node, ast.Attribute):
        if is_self(node.value):
            return deeper(attributes[node.attr]) if node.attr in attributes else [node]
        inner = deeper([node.value])
        return [None if one is None else ast.Attribute(one, node.attr, ast.Load()) for one in inner]
    return [node]
