"""Options are checked where they are given: what is wrong about one, and what a right one looks like."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Real

#: The longest time that an option may give, in seconds: 23 days.
MAX_SECONDS = 2_000_000
#: What `client.options` takes, and what is easily written among the arguments of a call.
CALL_OPTIONS = (
    "timeout",
    "fail_fast",
    "resend",
    "encoding",
    "headers",
    "detached",
    "wait",
    "idle_timeout",
    "expect",
    "on_progress",
)
#: What `client.map` takes beside these.
MAP_OPTIONS = ("in_flight", "ordered", "progress")
#: What goes elsewhere than among the arguments of a call, and where to.
NO_ARGUMENTS = {
    **dict.fromkeys(CALL_OPTIONS, "client.options({}=…).call(…)"),
    **dict.fromkeys(MAP_OPTIONS, "client.map(…, {}=…)"),
    "returns": "client.call('service.method', …, {}=…), which is for calls by name",
}
#: Where each option belongs that is easily written in another place; `{}` is its name.
_PLACES = {
    **NO_ARGUMENTS,
    "errors": "client.map(…, errors='return'), Client(…, errors=[…]) or Service(…, errors=[…])",
    **dict.fromkeys(("max_in_flight", "max_waiting_bytes", "reply", "send_user"), "Client(…, {}=…)"),
    **dict.fromkeys(
        ("username", "password", "vhost", "ssl", "heartbeat", "liveness_timeout", "connect_timeout"),
        "Client(…, {}=…) or Server(…, {}=…)",
    ),
    "max_message_size": "Client(…, {}=…) or Service(…, {}=…)",
    "middleware": "Client(…, middleware=[…]) or Service(…, middleware=[…])",
    **dict.fromkeys(("delivery", "max_attempts", "time_limit", "broadcast", "resumable"), "@service.method({}=…)"),
    **dict.fromkeys(("queue", "max_length", "tracebacks", "declare", "on_refused"), "Service(…, {}=…)"),
    **dict.fromkeys(("drain_timeout", "control"), "Server(…, {}=…)"),
    "concurrency": "@service.method({}=…), Service(…, {}=…) or Server(…, {}=…)",
}


def whole(name: str, value: object, *, least: int = 1, most: int | None = None) -> None:
    """Refuse what is not a whole number of the range.

    Raises:
        TypeError: it is not a whole number.
        ValueError: one out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}={value!r} is not a whole number: say for example {name}={max(least, 100)}")
    if value < least:
        raise ValueError(f"{name}={value} must be at least {least}")
    if most is not None and value > most:
        raise ValueError(f"{name}={value} must be at most {most:,}")


def seconds(name: str, value: object, *, zero: bool = False, most: float = MAX_SECONDS) -> float:
    """Refuse what is not a number of seconds.

    Returns:
        The number; a float in place of a fraction, or of a number of NumPy's, which compiled code does not take.

    Raises:
        TypeError: it is not a number.
        ValueError: a number out of range, NaN for example.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"{name}={value!r} is not a number of seconds: say for example {name}=2.5;"
            f" for practically no limit say {name}={MAX_SECONDS:_}"
        )
    if not ((value == 0 and zero) or 0 < float(value) <= most):
        least = "0 or more" if zero else "more than 0"
        raise ValueError(f"{name}={value!r} must be {least} and at most {most:,} seconds ({most // 86_400} days)")
    return value if isinstance(value, int | float) else float(value)


def flag(name: str, value: object) -> None:
    """Refuse what is neither true nor false, like a word from a file of settings.

    Raises:
        TypeError: it is neither.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name}={value!r} must be True or False")


def text(name: str, value: object) -> None:
    """Refuse what is not text.

    Raises:
        TypeError: it is something else.
        ValueError: UTF-8 cannot carry it.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name}={value!r} must be a str, not {type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name}={value!r} has characters that UTF-8 cannot carry: leave them out") from None


def misplaced(arguments: Mapping[str, str], call: str) -> str:
    """What an error over unknown arguments says of those that are options; nothing if none is.

    Args:
        arguments: those that are unknown, as they are to be shown, by name.
        call: the rest of the right call.
    """
    options = ", ".join(f"{name}={shown}" for name, shown in arguments.items() if name in CALL_OPTIONS)
    if options:
        return f"; options go elsewhere: client.options({options}).{call}"
    others = [f"{name} goes elsewhere: {place_of(name)}" for name in arguments if name in NO_ARGUMENTS]
    return f"; {others[0]}" if others else ""


def place_of(name: str) -> str:
    """The call that takes this option; nothing if there is none."""
    return _PLACES.get(name, "").replace("{}", name)


#: Longer names, and later ones of a longer list, are not compared: a stranger may ask.
_LONGEST_NAME, _MOST_NAMES, _MOST_LISTED = 64, 200, 20
_LIKELIEST = 5  # to be compared letter by letter, up to 1 ms each


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The name that was meant, if one of these is near."""
    from difflib import SequenceMatcher, get_close_matches  # for errors only: importing Warren need not wait for it

    if len(name) > _LONGEST_NAME:
        return None
    matcher = SequenceMatcher(None, "", name)

    def likeness(other: str) -> float:
        matcher.set_seq1(other)
        return matcher.quick_ratio()

    likeliest = sorted(list(known)[:_MOST_NAMES], key=likeness, reverse=True)[:_LIKELIEST]
    return next(iter(get_close_matches(name, likeliest, n=1)), None)


def known_names(name: str, known: Iterable[str]) -> str:
    """What an error over an unknown name says at its end: the nearest there is, or what there are."""
    names = list(known)
    if (near := nearest(name, names)) is not None:
        return f"did you mean {near!r}?"
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return f"known are {', '.join(names[:_MOST_LISTED])}{more}" if names else "none is known"
