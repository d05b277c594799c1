"""What may be asked of a server over the control plane: verbs that look, and verbs that act."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from typing import Any, Literal, NoReturn, get_args

from warren.amqp.frames import Delivery
from warren.connection.channel import HotChannel
from warren.control.answering import Answering, PutOff, Verb
from warren.errors import Code, make_error
from warren.logs import get_logger
from warren.protocol import evidence
from warren.protocol.control import (
    CANCEL,
    TO_ALL,
    Cancel,
    Question,
    SetConcurrency,
    SetLogLevel,
    StopCall,
    read_body,
    read_cancel,
    to_instance,
    to_service,
)
from warren.protocol.streaming import CREDIT, read_credit
from warren.server.looking import Looking
from warren.server.post import Post

ControlMode = Literal["look", "full"]

log = get_logger("warren.server")


class Found(PutOff):
    """How many of the calls that are given up were found; known when `Controlled.settle` has looked."""

    cancelled: int = 0


class Controlled:
    """The verbs of one server."""

    def __init__(self, looking: Looking, mode: ControlMode) -> None:
        self._looking = looking
        self._posts = looking.posts
        self._full = mode == "full"
        self._given_up: list[tuple[Cancel, Found]] = []
        acting: dict[str, Verb] = {
            "drain": self._drain,
            "resume": self._resume,
            "concurrency": self._set_concurrency,
            "log-level": self._set_log_level,
        }
        self.verbs: Mapping[str, Verb] = {
            CANCEL: self._cancel,
            CREDIT: self._credit,
            "ping": lambda _question: looking.ping(),
            "info": lambda _question: {**looking.info(), "control": mode},
            "stats": lambda _question: looking.stats(),
            "calls": lambda _question: looking.calls(),
            "health": lambda _question: looking.health(),
        } | (acting if self._full else dict.fromkeys(acting, _forbid))

    def _cancel(self, question: Question) -> Any:
        if "call_id" in question.body:
            return self._stop_call(question)
        found = Found()
        self._given_up.append((read_cancel(question.body), found))
        return found

    def _credit(self, question: Question) -> Any:
        credit = read_credit(question.body)
        for post in self._posts:
            for id, count in credit.streams.items():
                post.streams.credit(id.encode(), credit.reply_to.encode(), count)
        return PutOff()  # so that others are heard in the same turn

    def take(self, service: str, channel: HotChannel, delivery: Delivery) -> None:
        """A request for this very process, which is not to be run by another one."""
        post = next((post for post in self._posts if post.name == service), self._posts[0])
        post.worker.delivered(channel, delivery, True)

    def settle(self) -> None:
        """Give up all calls that were named since: together, so that a worker looks through what it has once."""
        given_up, self._given_up = self._given_up, []
        if not given_up:
            return
        cancels = [cancel for cancel, _ in given_up]
        for post in self._posts:
            for (_, found), number in zip(given_up, post.worker.withdrawals.apply(cancels), strict=True):
                found.cancelled += number

    def _stop_call(self, question: Question) -> dict[str, Any]:
        if not self._full:
            _forbid(question)
        call_id = read_body(question.body, StopCall).call_id
        return {"cancelled": sum(post.worker.withdrawals.stop(call_id) for post in self._posts)}

    def _drain(self, _question: Question) -> dict[str, Any]:
        self._must_serve()
        for post in self._posts:
            post.pause()
        return {"state": self._looking.state}

    def _resume(self, _question: Question) -> dict[str, Any]:
        self._must_serve()
        for post in self._posts:
            post.resume()
        return {"state": self._looking.state}

    def _must_serve(self) -> None:
        if not self._looking.serving:
            raise ValueError(f"this process is {self._looking.state}: ask again while it serves")

    def _set_concurrency(self, question: Question) -> dict[str, Any]:
        wanted = read_body(question.body, SetConcurrency)
        post = self._named(wanted.service)
        was = post.worker.concurrency
        post.set_concurrency(wanted.concurrency)
        return {"service": post.name, "concurrency": wanted.concurrency, "was": was}

    def _named(self, service: str) -> Post:
        for post in self._posts:
            if post.name == service:
                return post
        raise ValueError(
            f"this process does not serve {service!r}; it serves: {', '.join(p.name for p in self._posts)}"
        )

    def _set_log_level(self, question: Question) -> dict[str, Any]:
        wanted = read_body(question.body, SetLogLevel)
        if wanted.logger not in logging.Logger.manager.loggerDict:
            raise ValueError(f"nobody logs as {wanted.logger!r} here: take 'warren', or another logger's name")
        if wanted.level not in logging.getLevelNamesMapping():
            known = ", ".join(logging.getLevelNamesMapping())
            raise ValueError(f"there is no level {wanted.level!r}: take one of {known}")
        logger = logging.getLogger(wanted.logger)
        was, level = logging.getLevelName(logger.level), wanted.level
        logger.setLevel(level)
        log.info("%s logs from %s on, as an operator has asked for it", wanted.logger, level)
        return {"logger": wanted.logger, "level": level, "was": was}


def _forbid(question: Question) -> NoReturn:
    allowing = "start it with `warren serve --control full`, or Server(control='full')"
    message = f"this process does not allow {question.verb!r}: {allowing}"
    raise make_error(Code.UNIMPLEMENTED, evidence.METHOD.reason, message)


def answering(mode: ControlMode | None, looking: Looking) -> Answering | None:
    """What answers for one life of a server process, which is known by a random id of 12 characters; None for None."""
    if mode is None:
        return None
    instance = secrets.token_hex(6)
    keys = [TO_ALL, *(to_service(post.name) for post in looking.posts), to_instance(instance)]
    controlled = Controlled(looking, mode)
    answering = Answering(instance, keys, controlled.verbs, controlled.settle, controlled.take)
    for post in looking.posts:
        post.streams.source = post.uploads.source = lambda: to_instance(instance) if answering.hears else None
        post.streams.comes_back = post.uploads.comes_back = lambda: answering.comes_back
    return answering


def checked_mode(mode: object) -> ControlMode | None:
    """What a server lets others ask of it.

    Raises:
        ValueError: it is none of the three.
    """
    if mode is not None and mode not in get_args(ControlMode):
        raise ValueError(f"control={mode!r} must be 'look', 'full' or None")
    return mode  # type: ignore[return-value]
