"""Uploads as they are made: the items go, one result comes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from warren.client.chained_items import begin_items
from warren.client.core import ClientCore
from warren.client.io_thread import IOThread
from warren.client.outcomes import after_sending
from warren.client.prepared import Prepared
from warren.client.sending import AsyncFeed, Feed, Sending
from warren.client.streams import Held, TakerFuture, Taking
from warren.client.waiters import Withdrawal
from warren.errors import CallError


async def upload(prepared: Prepared, core: Callable[[], ClientCore]) -> Any:
    """Make an upload, in the task that runs; its items are taken in one beside.

    Raises:
        Exception: what it has ended in instead of a result, or what its items have raised.
    """
    sending = _sending(prepared)
    feed = AsyncFeed(sending, prepared.items)
    try:
        return prepared.read_result(await _outcome(prepared, core(), sending))
    except Exception as error:
        _explain(error, prepared, sending)
        raise
    finally:
        sending.close()
        await feed.closed()


async def _outcome(prepared: Prepared, core: ClientCore, sending: Sending) -> Any:
    future = TakerFuture()
    inlet = begin_items(core, prepared, prepared.options.deadline(), None, sending)
    try:
        inlet.take(future)
        return await future
    finally:
        inlet.give_up()
        del future, inlet  # what they hold may be the exception that is raised: no cycle with this frame


def _explain(error: Exception, prepared: Prepared, sending: Sending) -> None:
    """Make an error that ended an upload say of which (one of its items does not know), and how far it had come."""
    if isinstance(error, CallError):
        prepared.locate(error)
    after_sending(error, sending.sent, sending.taken)


def _sending(prepared: Prepared) -> Sending:
    return Sending(prepared.target.content_type, prepared.max_item, prepared.options.idle_timeout)


class _Uploading(Taking):
    """A thread that waits for the result, and has the items taken meanwhile."""

    def __init__(self, held: Held, sending: Sending, feed: Feed) -> None:
        super().__init__(held)
        self._sending = sending
        self._feed = feed

    def finish(self, outcome: Any) -> None:
        super().finish(outcome)
        self._sending.abandon()  # which is new only where the call could not begin

    def wait(self, timeout: float) -> bool:
        until = time.monotonic() + timeout
        self._feed.run(timeout)
        return super().wait(max(0.0, until - time.monotonic()))


def upload_in_thread(prepared: Prepared, io: Callable[[], IOThread]) -> Any:
    """Make an upload, in this thread, which takes its items, too.

    Raises:
        Exception: as for `upload`.
    """
    options = prepared.options
    sending, deadline = _sending(prepared), options.deadline()
    feed = Feed(sending, prepared.items)
    waiting = _Uploading(Held(prepared, deadline, None, sending), sending, feed)
    try:
        outcome = io().take(waiting, Withdrawal(waiting), deadline, options.bound_to())
        if isinstance(outcome, BaseException):  # it could not begin
            raise outcome
        return prepared.read_result(outcome)
    except Exception as error:
        _explain(error, prepared, sending)
        raise
    finally:
        sending.abandon()
        feed.close()
