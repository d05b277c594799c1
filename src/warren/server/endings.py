"""Who ends in what: from what a handler did, or why it is not run, to the one reply and settlement of its attempt.

An attempt ends once, and a later outcome is dropped. Whatever is raised on the way, its caller is answered and its
delivery settled.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from warren.amqp.frames import FrameError
from warren.flood import Flood
from warren.logs import About, get_logger
from warren.printable import printable_bytes
from warren.protocol import evidence
from warren.protocol.evidence import Ending
from warren.protocol.request import UnreadableHeaders
from warren.server import access
from warren.server.admission import HandBack, Refuse, SetAside, draining
from warren.server.attempt import Attempt
from warren.server.context import Scope, cancel
from warren.server.cutoffs import stop
from warren.server.refusals import Named, Refusals
from warren.server.replies import Replies, Reply
from warren.server.settler import Settler
from warren.server.statistics import Statistics

log: Final = get_logger("warren.server")

_UNREADABLE: Final = "%s: a request with unreadable properties is dead-lettered: %s; look at its sender"
_GIVEN_UP: Final = "the caller has given the call up"
_STOPPED: Final = "an operator has cancelled the call: ask why before you repeat it"


class Endings:
    """Ends the attempts of one service."""

    def __init__(
        self, service: Named, scope: Scope, replies: Replies, settler: Settler, statistics: Statistics
    ) -> None:
        self._service = service.name
        self._replies = replies
        self._settler = settler
        self._statistics = statistics
        self._refused = Refusals(service, scope, statistics)
        self._refusals = Flood(log, logging.WARNING)
        self._failures = Flood(log, logging.WARNING)
        self._unread = Flood(log, logging.INFO)

    # --- of what cannot be read ---------------------------------------------------------------------------------

    def unreadable(self, attempt: Attempt, error: FrameError) -> None:
        """End a request that cannot be read; what can be is in the error."""
        if isinstance(error, UnreadableHeaders):
            attempt.request = error.request
            self.refuse(attempt, Refuse(evidence.DECODE, str(error)))
        else:  # nor can the caller be found in them
            log.error(_UNREADABLE, self._service, error)
            self._settler.reject(attempt)

    # --- of handlers --------------------------------------------------------------------------------------------

    def completed(self, attempt: Attempt, value: Any) -> None:
        """The handler has returned."""
        if not attempt.ended:
            try:
                self.finish(attempt, self._replies.result(attempt, value))
            except BaseException as error:
                self.fail(attempt, error)

    def raised(self, attempt: Attempt, error: BaseException) -> None:
        """The handler, middleware, or something on the way to them has raised; ignored if it has ended before."""
        try:
            if not attempt.ended:
                self._end_raised(attempt, error)
        except BaseException as another:
            self.fail(attempt, another)

    def _end_raised(self, attempt: Attempt, error: BaseException) -> None:
        if attempt.stopped_by is not None and issubclass(type(error), asyncio.CancelledError):
            self._end_stopped(attempt, *attempt.stopped_by)
            return
        reply = self._replies.raised(attempt, error)
        self.finish(attempt, reply)
        self._log_failure(attempt, reply)

    def _end_stopped(self, attempt: Attempt, ending: Ending, message: str) -> None:
        """The handler was cancelled; another worker goes on where it can, and only its caller's pause tells of it."""
        reply = self._replies.ended(attempt, ending, message)
        request = attempt.request
        wanted = not attempt.call.cancelled  # it may have been cancelled before, and gone on
        if ending is evidence.DRAIN and wanted and attempt.goes_on and request is not None:
            attempt.ended = attempt.call.ended = True
            self._settler.hand_back(attempt, attempt.left, request.attempt + 1)
            self._note(attempt, reply)
        else:
            self.finish(attempt, reply)

    def reply_to(self, attempt: Attempt, value: Any) -> Reply:
        """The reply that carries a result. Called in threads."""
        return self._replies.result(attempt, value)

    def finish(self, attempt: Attempt, reply: Reply) -> None:
        """The handler has ended, and this is its reply."""
        if not attempt.ended:
            try:
                attempt.ended = attempt.call.ended = True
                self._settler.reply(attempt, reply)
                self._note(attempt, reply)
            except BaseException as error:
                self.fail(attempt, error)

    def _note(self, attempt: Attempt, reply: Reply) -> None:
        work = self._statistics.ended(attempt, reply)
        if access.log.level <= logging.INFO and access.log.isEnabledFor(logging.INFO):  # it has a level
            access.ended(attempt, reply, work)

    def _log_failure(self, attempt: Attempt, reply: Reply) -> None:
        if attempt.is_cast or reply.failure is None:
            return
        if reply.cause is not None:
            log.error("%s: %s raised %s", self._service, attempt.name, reply.failure.message, exc_info=reply.cause)
        elif reply.problem is None or reply.problem.state is None:  # else it travels as itself, as was agreed
            self._failures("%s: %s failed: %s", self._service, attempt.name, reply.failure)

    # --- of what is not run -------------------------------------------------------------------------------------

    def decline(self, attempt: Attempt, decision: object) -> None:
        """Do what there is to do with a request that this worker does not run, and does not hold."""
        match decision:
            case Refuse():
                self.refuse(attempt, decision)
            case HandBack(number, left):
                self._settler.hand_back(attempt, left, number)
            case SetAside():
                self.set_aside(attempt, decision)

    def refuse(self, attempt: Attempt, refusal: Refuse) -> None:
        """Answer a request that is not run."""
        attempt.ended = True
        if access.log.isEnabledFor(logging.INFO):
            access.refused(attempt, refusal)
        if not attempt.is_cast:
            self._refusals("%s: refused %s: %s", self._service, attempt.name, refusal.message)
        reply = self._replies.ended(attempt, *refusal)
        self._settler.reply(attempt, reply)
        self._refused.note(attempt, reply)

    def hand_back(self, attempt: Attempt) -> None:
        """Publish it again, for another worker, unless it is for this process only."""
        if attempt.acked:
            self.refuse(attempt, draining())
        else:
            self._settler.hand_back(attempt, attempt.left, attempt.number)

    def withdraw(self, attempt: Attempt) -> None:
        """Its caller has given up: nobody is answered. A thread cannot be stopped; its handler may ask for it."""
        attempt.answered = True
        if attempt.busy:
            cancel(attempt.call)
            stop(attempt, evidence.GIVEN_UP, _GIVEN_UP)
        else:
            attempt.ended = True
            reply = self._replies.ended(attempt, evidence.GIVEN_UP, _GIVEN_UP)
            self._settler.reply(attempt, reply)
            self._refused.note(attempt, reply)

    def stop(self, attempt: Attempt) -> None:
        """An operator ends it, and its caller is told, at once where it runs in a thread, which cannot be stopped."""
        if not attempt.busy:
            self.refuse(attempt, Refuse(evidence.OPERATOR, _STOPPED))
            return
        cancel(attempt.call)
        if stop(attempt, evidence.OPERATOR, _STOPPED) is None:
            self.finish(attempt, self._replies.ended(attempt, evidence.OPERATOR, _STOPPED))

    def set_aside(self, attempt: Attempt, decision: SetAside) -> None:
        """Set a request aside, and answer it then."""
        attempt.ended = True
        log.error("%s: %s: %s", self._service, attempt.name, decision.message)
        reply = self._replies.ended(attempt, *decision)
        self._settler.set_aside(attempt, reply)
        self._refused.note(attempt, reply)

    def reply_returned(self, correlation_id: bytes | None, why: str) -> None:
        """The broker has returned a reply."""
        id_ = printable_bytes(correlation_id or b"")
        call = About(id_, {"service": self._service, "call_id": id_})
        self._unread("%s: a reply was returned, as its caller is gone (call %s): %s", self._service, call, why)

    # --- of anything --------------------------------------------------------------------------------------------

    def fail(self, attempt: Attempt, error: BaseException) -> None:
        """Something of ours went wrong: the caller must still hear of it, and the broker. Never raises."""
        ending = evidence.SERVER
        if attempt.busy:
            attempt.call.ended = True
            if not attempt.reached:  # its task or thread may still get there
                ending = evidence.WORKER_LOST
        known, attempt.ended = attempt.ended, True
        reply = self._settler.fail(attempt, error, ending)
        if reply is not None and not known and not attempt.entered:
            self._refused.note(attempt, reply)

    def close(self) -> None:
        """Say what was not said of a flood."""
        for flood in (self._refusals, self._failures, self._unread):
            flood.sum_up()
