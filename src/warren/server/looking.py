"""What a server tells of itself when it is asked: who it is, what it offers, what it does and did, how it is."""

from __future__ import annotations

import inspect
import os
import platform
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from warren.protocol.problems import class_name
from warren.protocol.schema import arguments_schema, result_schema, taken_schema
from warren.protocol.signature import Method
from warren.server.attempt import Attempt
from warren.server.lifecycle import Lifecycle, State
from warren.server.post import Post
from warren.server.vitals import Vitals
from warren.server.worker import Worker
from warren.version import __version__

#: Calls that one answer names, at most.
MOST_CALLS = 1000
#: Where the exceptions are that all callers have.
_EVERYWHERE = ("builtins", "warren.errors")
#: Characters of the longest docstring that is told.
MAX_DOC = 4000
#: Bytes of all schemas together: an answer has to be smaller than what askers take.
_MAX_SCHEMAS = 8 * 1024 * 1024


class Looking:
    """What may be seen of one server."""

    def __init__(self, name: str, posts: Sequence[Post], life: Lifecycle, vitals: Vitals) -> None:
        """`name` is what the process calls itself."""
        self._name = name
        self.posts = posts
        self._life = life
        self._vitals = vitals
        self._methods: dict[Method, dict[str, Any]] = {}  # what never changes of them, once somebody has asked

    @property
    def state(self) -> str:
        """Where the process is in its life, and, where an operator has drained it, how far that is."""
        if self.serving and any(post.worker.draining for post in self.posts):
            holds = any(post.worker.holding.running or post.worker.holding.waiting for post in self.posts)
            return "draining" if holds else "drained"
        return self._life.state.value

    @property
    def serving(self) -> bool:
        """Whether it serves, as far as operators let it."""
        return self._life.state is State.SERVING

    def ping(self) -> dict[str, Any]:
        return {
            "name": self._name,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "started": self._vitals.started,
            "state": self.state,
            "warren": __version__,
            "python": platform.python_version(),
            "services": [post.name for post in self.posts],
            "consumers": {post.name: post.consumers for post in self.posts},
        }

    def info(self) -> dict[str, Any]:
        if not self._methods:
            self._describe_methods()
        services = [self._service(post.worker) for post in self.posts]
        return {**self.ping(), "connection": self._name, "services": services}

    def _service(self, worker: Worker) -> dict[str, Any]:
        service = worker.service
        return {
            "name": service.name,
            "version": service.version,
            "description": service.description,
            "queue": service.queue,
            "concurrency": worker.concurrency,
            "max_length": service.max_length,
            "methods": [self._methods[method] for method in service.methods.values()],
            "errors": [_error(name, kind, service.errors) for name, kind in service.errors.items()],
        }

    def _describe_methods(self) -> None:
        left = _MAX_SCHEMAS
        for post in self.posts:
            for method in post.worker.service.methods.values():
                schemas = {
                    "arguments": arguments_schema(method),
                    "result": result_schema(method),
                    "taken": taken_schema(method),
                }
                left -= len(msgspec.json.encode(schemas))
                if left < 0:
                    schemas = dict.fromkeys(schemas)
                self._methods[method] = {**_method(method), **schemas}

    def stats(self) -> dict[str, Any]:
        lately = self._vitals.lately(self.ended())
        services = {post.name: _numbers(post.worker) | {"lately": lately[post.name]} for post in self.posts}
        return {"uptime": self._vitals.uptime, "process": self._vitals.as_object(), "services": services}

    def ended(self) -> dict[str, int]:
        """How many calls have ended, by service."""
        return {post.name: post.worker.statistics.count for post in self.posts}

    def calls(self) -> dict[str, Any]:
        """What this process has in hand now, the oldest first; never what is in it."""
        wall = time.time()
        held = [(attempt, post.worker) for post in self.posts for attempt in post.worker.holding]
        held = [pair for pair in held if not pair[0].ended or pair[0].busy]
        held.sort(key=lambda pair: pair[0].came)
        calls = [_call(attempt, worker, wall) for attempt, worker in held[:MOST_CALLS]]
        return {"calls": calls, "left_out": len(held) - len(calls)}

    def health(self) -> dict[str, Any]:
        """Whether it takes requests of all its services."""
        connection = all(post.connected for post in self.posts)
        consuming = {post.name: post.consumers > 0 for post in self.posts}
        return {
            "healthy": self.serving and connection and all(consuming.values()),
            "state": self.state,
            "checks": {"connection": connection, "consuming": consuming},
        }


def _method(method: Method) -> dict[str, Any]:
    return {
        "name": method.name,
        "doc": doc_of(method.declared),
        "signature": f"{method.signature} -> {method.returns}" if method.returns else method.signature,
        "delivery": method.delivery,
        "max_attempts": method.max_attempts,
        "time_limit": method.time_limit,
        "concurrency": method.concurrency,
        "default": method.default,
        "is_async": method.is_async,
        "streams": method.streams,
        "takes": method.takes,
        "broadcast": method.broadcast,
        "resumable": method.resumable,
    }


def _error(name: str, kind: type[Exception], registered: Mapping[str, type[Exception]]) -> dict[str, Any]:
    """A registered error, with its nearest base that is registered, too, or that all callers have."""
    bases = [base for base in kind.__mro__[1:] if base in registered.values() or base.__module__ in _EVERYWHERE]
    doc = vars(kind).get("__doc__")
    return {
        "name": name,
        "doc": doc[:MAX_DOC] if isinstance(doc, str) else None,
        "base": class_name(bases[0]) if bases else "Exception",
    }


def doc_of(function: object) -> str | None:
    """What a function says of itself, as far as it is told; not what its class does, as of a partial."""
    doc = inspect.getdoc(function)
    if not doc or doc == inspect.getdoc(type(function)):
        return None
    return doc if len(doc) <= MAX_DOC else f"{doc[:MAX_DOC]}…"


def _numbers(worker: Worker) -> dict[str, Any]:
    return {
        "running": worker.holding.running,
        "waiting": worker.holding.waiting,
        "concurrency": worker.concurrency,
        **worker.statistics.as_object(),
    }


def _call(attempt: Attempt, worker: Worker, wall: float) -> dict[str, Any]:
    request, service = attempt.request, worker.service
    assert request is not None
    name = request.method or (service.default.name if service.default else "")
    return {
        "service": service.name,
        "method": name,
        "call_id": request.call_id,
        "caller": request.caller,
        "user": request.verified_user(worker.scope.user),
        "age": max(0.0, wall - attempt.came),
        "left": attempt.left,
        "attempt": request.attempt,
        "kind": request.kind,
        "state": "running" if worker.holding.runs(attempt) else "waiting",
    }
