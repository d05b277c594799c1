"""Requests that end before their handler begins: counted, and told to whoever wants to know."""

from __future__ import annotations

from typing import Protocol

from warren.logs import get_logger
from warren.server.attempt import Attempt
from warren.server.context import OnRefused, RefusedCall, Scope
from warren.server.replies import Reply
from warren.server.statistics import Statistics

log = get_logger("warren.server")


class Named(Protocol):
    """What has to be known of a service."""

    @property
    def name(self) -> str: ...
    @property
    def on_refused(self) -> OnRefused | None: ...


class Refusals:
    """What one service's worker has refused."""

    def __init__(self, service: Named, scope: Scope, statistics: Statistics) -> None:
        self._service = service
        self._scope = scope
        self._statistics = statistics

    def note(self, attempt: Attempt, reply: Reply) -> None:
        """A request has ended in this, and its handler was not begun. Never raises."""
        request, error = attempt.request, reply.failure
        assert request is not None
        assert error is not None
        self._statistics.refused(request, error.reason)
        told = self._service.on_refused
        if told is not None:
            try:
                told(RefusedCall(self._service.name, request, self._scope), error)
            except Exception:
                log.exception("%s: on_refused failed, which changes nothing for %s", self._service.name, attempt.name)
