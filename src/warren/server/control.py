"""What may be asked of a server over the control plane: verbs that look, and verbs that act."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from warren.control.answering import Answering, Verb
from warren.protocol.control import CANCEL, TO_ALL, Question, read_cancel, to_instance, to_service
from warren.server.looking import Looking

ControlMode = Literal["look", "full"]


class Controlled:
    """The verbs of one server."""

    def __init__(self, looking: Looking, stop: Callable[[], None], mode: ControlMode) -> None:
        """`stop` makes it drain."""
        self._posts = looking.posts
        self._stop = stop
        self.verbs: Mapping[str, Verb] = {
            CANCEL: self._cancel,
            "ping": lambda _question: looking.ping(),
            "info": lambda _question: {**looking.info(), "control": mode},
            "stats": lambda _question: looking.stats(),
            "calls": lambda _question: looking.calls(),
            "health": lambda _question: looking.health(),
        }
        if mode == "full":
            self.verbs = {**self.verbs, "drain": self._drain}

    def _cancel(self, question: Question) -> dict[str, Any]:
        cancel = read_cancel(question.body)
        return {"cancelled": sum(post.worker.withdrawals.apply(cancel) for post in self._posts)}

    def _drain(self, _question: Question) -> dict[str, Any]:
        self._stop()
        return {"state": "draining"}


def answering(mode: ControlMode | None, looking: Looking, stop: Callable[[], None]) -> Answering | None:
    """What answers for one life of a server process, which is known by a random id of 12 characters; None for None."""
    if mode is None:
        return None
    instance = secrets.token_hex(6)
    keys = [TO_ALL, *(to_service(post.name) for post in looking.posts), to_instance(instance)]
    return Answering(instance, keys, Controlled(looking, stop, mode).verbs)


def checked_mode(mode: object) -> ControlMode | None:
    """What a server lets others ask of it.

    Raises:
        ValueError: it is none of the three.
    """
    if mode is not None and mode not in get_args(ControlMode):
        raise ValueError(f"control={mode!r} must be 'look', 'full' or None")
    return mode  # type: ignore[return-value]
