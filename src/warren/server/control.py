"""What a server says of itself, and does, when it is asked over the control plane."""

from __future__ import annotations

import os
import platform
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

from warren.control.answering import Answering, Verb
from warren.protocol.control import CANCEL, TO_ALL, Question, read_cancel, to_instance, to_service
from warren.server.lifecycle import Lifecycle
from warren.server.post import Post
from warren.version import __version__

ControlMode = Literal["look", "full"]


class Controlled:
    """The verbs of one server."""

    def __init__(
        self, name: str, posts: Sequence[Post], life: Lifecycle, stop: Callable[[], None], mode: ControlMode
    ) -> None:
        """`name` is what the process calls itself; `stop` makes it drain."""
        self._name = name
        self._posts = posts
        self._life = life
        self._stop = stop
        self._started = time.time()
        self.verbs: Mapping[str, Verb] = {
            CANCEL: self._cancel,
            "ping": self._ping,
        }
        if mode == "full":
            self.verbs = {**self.verbs, "drain": self._drain}

    def _ping(self, _question: Question) -> dict[str, Any]:
        return {
            "name": self._name,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": self._started,
            "state": self._life.state.value,
            "warren": __version__,
            "python": platform.python_version(),
            "services": [post.name for post in self._posts],
        }

    def _cancel(self, question: Question) -> dict[str, Any]:
        cancel = read_cancel(question.body)
        return {"cancelled": sum(post.worker.withdrawals.apply(cancel) for post in self._posts)}

    def _drain(self, _question: Question) -> dict[str, Any]:
        self._stop()
        return {"state": "draining"}


def answering(
    mode: ControlMode, name: str, posts: Sequence[Post], life: Lifecycle, stop: Callable[[], None]
) -> Answering:
    """What answers for one life of a server process, which is known by a random id of 12 characters."""
    instance = secrets.token_hex(6)
    keys = [TO_ALL, *(to_service(post.name) for post in posts), to_instance(instance)]
    return Answering(instance, keys, Controlled(name, posts, life, stop, mode).verbs)


def checked_mode(mode: object) -> ControlMode | None:
    """What a server lets others ask of it.

    Raises:
        ValueError: it is none of the three.
    """
    if mode is not None and mode not in get_args(ControlMode):
        raise ValueError(f"control={mode!r} must be 'look', 'full' or None")
    return mode  # type: ignore[return-value]
