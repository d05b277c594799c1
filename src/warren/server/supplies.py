"""What a lifespan has yielded, by type: the object itself, or a field of it, as they are declared."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from operator import attrgetter, itemgetter
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict

#: How to get at a supply, given what was yielded.
Find = Callable[[Any], Any]


def yielded_type(lifespan: Callable[..., Any]) -> Any:
    """What a lifespan yields by its return annotation: ``AsyncIterator[State]``; None where it says nothing."""
    try:
        hint = get_type_hints(inspect.unwrap(lifespan), include_extras=True).get("return")
    except Exception:  # a name that is not there yet, perhaps: what is yielded shows it in time
        return None
    arguments = get_args(hint)
    return arguments[0] if arguments and arguments[0] is not Any else None


def finder(wanted: Any, state: Any) -> Find:
    """How to find what is asked for by type in what is yielded, of the type `state`.

    Raises:
        LookupError: it is not there, or more than once.
    """
    fields = {"": state, **_fields(state)}
    exact = [name for name, hint in fields.items() if hint == wanted]
    found = exact or [name for name, hint in fields.items() if _is_kind_of(hint, wanted)]
    if len(found) == 1:
        get: Callable[[str], Find] = itemgetter if is_typeddict(state) else attrgetter
        return get(found[0]) if found[0] else _itself
    if found:
        raise LookupError(
            f"{shown(state)} has several of type {shown(wanted)}: {', '.join(sorted(found))}; ask for a type"
            " that is there once"
        )
    raise LookupError(f"{shown(state)} has none of type {shown(wanted)}; it has {_listed(fields)}")


def shown(hint: Any) -> str:
    """A type, for people."""
    return hint.__qualname__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("typing.", "")


def _itself(state: Any) -> Any:
    return state


def _fields(state: Any) -> dict[str, Any]:
    """The declared fields of a dataclass, NamedTuple, Struct, attrs class, TypedDict or the like, by name."""
    state = get_origin(state) or state
    if not isinstance(state, type):
        return {}
    try:
        hints = get_type_hints(state, include_extras=True)
    except Exception:  # as in `yielded_type`
        return {}
    return {name: hint for name, hint in hints.items() if not name.startswith("_")}


def _is_kind_of(hint: Any, wanted: Any) -> bool:
    cls = get_origin(hint) or hint
    if not isinstance(cls, type) or not isinstance(wanted, type) or wanted is object:
        return False
    try:
        return issubclass(cls, wanted)
    except TypeError:  # a Protocol that is not for the run time
        return False


def _listed(fields: dict[str, Any]) -> str:
    names: Iterable[str] = (f"{name}: {shown(hint)}" for name, hint in fields.items() if name)
    return ", ".join(names) or "no declared fields"
