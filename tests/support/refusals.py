"""What a user gets to see of a URL."""

from __future__ import annotations

import traceback

from warren.connection.settings import make_settings


def everything_said_about(url: str) -> str:
    """The settings' representation, or the refusal with all that is chained to it."""
    try:
        return repr(make_settings(url))
    except ValueError as error:
        return "".join(_messages(traceback.TracebackException.from_exception(error)))


def _messages(refusal: traceback.TracebackException | None) -> list[str]:
    """What a traceback shows, without the source lines: those are this repository's."""
    if refusal is None:
        return []
    before = refusal.__cause__ or (None if refusal.__suppress_context__ else refusal.__context__)
    return [*_messages(before), *refusal.format_exception_only()]
