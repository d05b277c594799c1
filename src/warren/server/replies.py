"""The replies of a service: results and errors as property bytes and bodies. Total: whatever a handler returned or
raised, there is a reply to send, if only one that says that the true one could not be written.
"""

from __future__ import annotations

from typing import Any, Final

from warren.errors import CallError
from warren.logs import get_logger
from warren.protocol import evidence
from warren.protocol.codecs import CodecError
from warren.protocol.evidence import Ending, conclude
from warren.protocol.problems import Problem, class_name, describe
from warren.protocol.reply import error_reply, lean_result_properties, result_properties
from warren.protocol.request import Request
from warren.protocol.slip import Slip, SlipError, blame, is_stage, read_own_slip
from warren.server.attempt import Attempt

log: Final = get_logger("warren.server")

_NO_STREAM: Final = (
    "middleware has ended the stream before it was begun, and not with 0, which is an empty one: return what proceed()"
    " returns, or raise"
)


class Reply:
    """A reply, ready to be sent.

    Attributes:
        failure: the error that it carries; None for a result.
        problem: what is told of it beyond the error itself.
        cause: the exception that belongs into the log, with its traceback; None for one that was to be expected.
    """

    __slots__ = ("body", "cause", "failure", "problem", "properties")

    def __init__(
        self, properties: bytes, body: bytes, failure: CallError | None = None, problem: Problem | None = None
    ) -> None:
        self.properties = properties
        self.body = body
        self.failure = failure
        self.problem = problem
        self.cause: BaseException | None = None


class Replies:
    """Makes the replies of one service.

    Attributes:
        lean: whether its queue certainly takes whatever is published to it.
    """

    def __init__(self, max_size: int, *, tracebacks: bool) -> None:
        """`max_size`: bytes of the largest body sent. `tracebacks`: whether callers get them."""
        self.lean = False
        self._max_size = max_size
        self._tracebacks = tracebacks

    def result(self, attempt: Attempt, value: Any) -> Reply:
        """The reply that carries a handler's result."""
        request = attempt.request
        assert request is not None
        if attempt.method.streams and not attempt.reached and (type(value) is not int or value):
            return self._useless(attempt, evidence.ENCODE_REPLY, _NO_STREAM)
        try:
            body = attempt.method.encode_result(request.content_type, value)
        except BaseException as error:  # code of the user's may run in there
            kind = type(error)  # `isinstance` would ask the object
            why = error if issubclass(kind, CodecError) else class_name(kind)
            message = f"the handler's result does not fit its declared type or the encoding: {why}; mend the handler"
            return self._useless(attempt, evidence.ENCODE_REPLY, message)
        if len(body) > self._max_size:
            message = (
                f"the result has {len(body)} bytes, the service's max_message_size is {self._max_size}:"
                " return less, or raise it"
            )
            return self._useless(attempt, evidence.RESULT_TOO_LARGE, message)
        if attempt.slip is not None and not attempt.slip.is_last:
            return Reply(b"", body)  # it is the next stage's argument
        if self.lean and request.asks_lean:
            return Reply(lean_result_properties(request, request.content_type), body)
        return Reply(result_properties(request, request.content_type), body)

    def _useless(self, attempt: Attempt, ending: Ending, message: str) -> Reply:
        """The reply in place of a result that cannot be sent."""
        if not attempt.is_cast:
            log.error("%s: %s: %s", attempt.method.service, attempt.name, message)
        return self.ended(attempt, ending, message)

    def ended(self, attempt: Attempt, ending: Ending, message: str) -> Reply:
        """The reply that says that the library itself ended the call."""
        error = conclude(ending, message, earlier=attempt.earlier, entered=attempt.reached)
        return self._error(attempt, error, Problem())

    def failed(self, attempt: Attempt, error: BaseException, ending: Ending = evidence.SERVER) -> Reply:
        """The reply that says that something of ours went wrong, with the evidence of this ending."""
        message = f"the server failed to handle the request: {class_name(type(error))}; its log says more"
        return self.ended(attempt, ending, message)

    def raised(self, attempt: Attempt, error: BaseException) -> Reply:
        """The reply that carries what a handler, or its middleware, raised."""
        told, problem = describe(
            error,
            attempt.method.errors,
            tracebacks=self._tracebacks,
            entered=attempt.reached,
            earlier=attempt.earlier,
        )
        reply = self._error(attempt, told, problem)
        if told.reason == evidence.HANDLER_EXCEPTION.reason and problem.state is None:
            reply.cause = error
        return reply

    def not_handed_over(self, attempt: Attempt, ending: Ending, message: str, slip: Slip) -> Reply:
        """The reply that says that the next stage, whose slip this is, did not get its request."""
        return self._error(attempt, conclude(ending, message, earlier=attempt.earlier), Problem(), slip)

    def retold(self, attempt: Attempt, reply: Reply, words: str, *, undone: bool) -> Reply:
        """The reply of a pipeline that has failed, with what becomes of what its stages have done."""
        error, problem = reply.failure, reply.problem or Problem()
        assert error is not None
        assert attempt.request is not None
        error.message += words
        if error.stage is not None:
            error.stage = error.stage._replace(undone=undone)
        told = Reply(*error_reply(attempt.request, error, problem), error, problem)
        told.cause = reply.cause
        return told

    def _error(self, attempt: Attempt, error: CallError, problem: Problem, slip: Slip | None = None) -> Reply:
        request = attempt.request
        assert request is not None
        if is_stage(request.properties):
            _tell_stage(attempt, error, slip or attempt.slip or _own_slip(attempt.service, request))
        properties, body = error_reply(request, error, problem)
        if len(body) > self._max_size:
            error.message = error.message[:1000]
            problem = Problem(error=problem.error)
            properties, body = error_reply(request, error, problem)
        return Reply(properties, body, error, problem)


def _own_slip(service: str, request: Request) -> Slip | None:
    """The slip of a request that is not run; None if it makes no sense here: then nothing is said, or done, by it."""
    try:
        return read_own_slip(request.properties, service)
    except SlipError:
        return None


def _tell_stage(attempt: Attempt, error: CallError, slip: Slip | None) -> None:
    """Make an error say in which stage its pipeline has ended, as far as that is known."""
    if slip is None:
        evidence.of_some_stage(error)
    else:
        attempt.slip = attempt.slip or slip
        blame(error, slip)
