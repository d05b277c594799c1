"""What the calls of a client end in, in words; the evidence is `warren.protocol.evidence`'s."""

from __future__ import annotations

from warren.client.calls import BEGUN, OUTSIDE, WAITING, PendingCall
from warren.client.pipeline import place
from warren.connection.errors import ACCESS_REFUSED, ChannelClosed
from warren.errors import CallError
from warren.logs import get_logger
from warren.protocol import evidence
from warren.protocol.bounce import Bounce
from warren.protocol.evidence import conclude

log = get_logger("warren.client")


def locate(error: CallError, call: PendingCall) -> CallError:
    """Say which call an error is about; what is true of its present attempt may not be true of earlier ones."""
    error.execution = evidence.weigh(error.execution, earlier=call.earlier, sent=call.sent_before)
    return error.locate(method=call.target.name, queue=call.target.queue, call_id=call.first_id.decode())


def waiter_failed(call: PendingCall) -> None:
    """Whoever waited for a call raised when it was told; the calls behind it must end all the same."""
    log.exception(
        "%s (call %s): whoever waited for it failed to take its outcome", call.target.name, call.first_id.decode()
    )


def on_progress_failed(call: PendingCall) -> None:
    """Whoever wanted to hear of a call's progress raised; the call goes on."""
    log.exception("%s (call %s): on_progress has raised; the call goes on", call.target.name, call.first_id.decode())


def unwritable(error: BaseException) -> CallError:
    return conclude(evidence.ENCODE, f"the request cannot be written: {error!r}; send other values or headers")


def closed(call: PendingCall) -> CallError:
    """The client was closed."""
    unsent = call.state in (BEGUN, OUTSIDE, WAITING) and not call.sent_before
    return conclude(
        evidence.CLOSED_UNSENT if unsent else evidence.CLOSED,
        "the client was closed under this call: close it when its calls have ended",
    )


def connection_lost(reason: object) -> CallError:
    return conclude(evidence.CONNECTION_LOST, f"{reason}; look what was done before you repeat it")


def channel_closed(reason: ChannelClosed) -> CallError:
    """The broker does not say which publish it closed a channel over, and may have routed those before."""
    if reason.code == ACCESS_REFUSED:
        message = (
            f"the broker refuses a publish, this one or another on the same channel: {reason.text};"
            " look what was done before you repeat it, and give this user the permission to write"
        )
        return conclude(evidence.PUBLISH_DENIED, message)
    message = f"the broker closed the channel before it had confirmed the request: {reason}; look at the broker's log"
    return conclude(evidence.CHANNEL_CLOSED, message)


def no_route(queue: str, text: str) -> CallError:
    why = "" if text == evidence.NO_ROUTE.reason else f" ({text})"  # RabbitMQ's text is that word
    message = (
        f"no queue {queue!r}: no worker of this service has ever run here: start one, or check its name, the broker and"
        f" the vhost{why}"
    )
    return conclude(evidence.NO_ROUTE, message)


def refused(there: bool, state: str) -> CallError:
    """The broker refused the publish (nack); `there`: the queue has answered since, so that its node is not down."""
    if there:
        message = "the broker refuses the request: its queue is full, or had no leader; add workers or slow down"
        return conclude(evidence.QUEUE_FULL, message + state)
    message = (
        "the broker refuses the request, and whether its queue is full or its node has gone down is not known"
        f"{state}; look at both"
    )
    return conclude(evidence.QUEUE_DOWN, message)


def timed_out(call: PendingCall, confirmed: bool, state: str) -> CallError:
    """The call's own timer; `confirmed`: the broker has said that it has the request, or never says so."""
    if not call.awaits_reply:
        message = "the broker has not confirmed the cast in time, so it may or may not have it"
    elif confirmed:
        message = "no reply in time"
    else:
        message = "no reply in time, and the broker has not confirmed that it has the request"
    advice = "" if state.endswith("?") else "; allow more time, or look at the workers"
    return conclude(evidence.TIMER, message + state + advice)


def no_room(why: str) -> CallError:
    """The call's time was up before the client had room for it."""
    return conclude(evidence.CLIENT_LIMIT, f"no room in time: {why or 'others wait before it'}; allow more time")


def never_written(call: PendingCall, why: str) -> CallError:
    """The call's time was up while it waited to be written (again)."""
    if not call.sent_before:
        return conclude(evidence.NOT_CONNECTED, why)
    if call.earlier:
        message = (
            f"the connection was lost after the request was sent, and it could not be sent again: {why};"
            " allow more time"
        )
        return conclude(evidence.CONNECTION_LOST, message)
    return conclude(
        evidence.QUEUE_FULL, f"the broker refused the request, and it could not be sent again: {why}; allow more time"
    )


def withdrawn() -> CallError:
    """Nobody waits for the call that this one is made for."""
    return conclude(evidence.GIVEN_UP_OUTSIDE, "the caller of the handler that makes this call has given up")


def stream_broken(why: str) -> CallError:
    """Items are missing, or came twice: none of those that follow is handed out."""
    message = f"the stream is broken: {why}; what has come is not all, and what the handler has done is done"
    return conclude(evidence.STREAM_BROKEN, f"{message}: look before you repeat it")


def stream_idle(seconds: float) -> CallError:
    """No item came in time."""
    return conclude(evidence.IDLE, f"no item came for {seconds:g} s (idle_timeout); allow more, or look at the worker")


def upload_idle(seconds: float) -> CallError:
    """The handler has not taken enough in time for one more item to be sent."""
    why = f"the handler took no item for {seconds:g} s (idle_timeout); allow more, or look at the worker"
    return conclude(evidence.IDLE, why)


def upload_lost() -> CallError:
    """What was sent came back: nobody takes it, and the result would have been here by now."""
    message = "the worker that took the items is gone, and with it the call; look what was done before you repeat it"
    return conclude(evidence.INSTANCE_LOST, message)


def upload_refused(why: str, *, too_large: bool = False) -> CallError:
    """An item cannot be sent."""
    return conclude(evidence.REQUEST_TOO_LARGE if too_large else evidence.ENCODE, why)


def upload_stopped() -> CallError:
    """Somebody has cancelled what takes an upload's items, and not the call."""
    message = "the task that takes the items to send was cancelled, and the call with it; cancel the call instead"
    return conclude(evidence.GIVEN_UP_OUTSIDE, message)


def after_sending(error: Exception, sent: int, taken: int | None) -> None:
    """Make an error that ended an upload say how far it had come; `taken` is None where its handler asked for none."""
    if taken is None:
        return
    if isinstance(error, CallError):
        evidence.begun(error)
    known = f"at least {taken} taken" if taken else "none is known to have been taken"
    error.add_note(
        f"{sent} item{'' if sent == 1 else 's'} had been sent, and {known}" if sent else "no item had been sent"
    )


def stream_mute(reason: ChannelClosed) -> CallError:
    """Workers cannot be told how far their streams were consumed."""
    message = f"the broker refuses what a stream needs to go on: {reason.text}; give this user the permission to write"
    return conclude(evidence.PUBLISH_DENIED, f"{message} to the exchange warren.control")


def after_items(error: Exception, count: int) -> None:
    """Make an error that ended a stream say that so many items had come."""
    told = f"{count} item{'' if count == 1 else 's'} of the stream had come"
    if isinstance(error, CallError) and count and evidence.begun(error):
        told += ": its handler was begun"
    error.add_note(told)


def bounced(call: PendingCall, bounce: Bounce, state: str, stage: int | None = None) -> CallError:
    """The broker gave the request back: that of the `stage` with this number, if it is a pipeline's."""
    if bounce.ending is evidence.QUEUE_TTL and call.target.fail_fast:
        message = (
            f"no worker was free to take the call at once (fail_fast){state}; add workers, or wait for one"
            " without fail_fast"
        )
        error = conclude(evidence.NO_FREE_WORKER, message)
    else:
        error = conclude(bounce.ending, bounce.message + state)
    if stage is not None:
        names = call.target.stages.names
        evidence.of_stage(error, stage, names[stage - 1])
        error.message = f"stage {stage} of {len(names)}: {error.message}"
        place(error, call.target)
    return error
