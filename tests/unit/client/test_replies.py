"""What came back, and the call that it is about."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from warren.amqp.confirms import Confirms
from warren.amqp.frames import Delivery, Properties, encode_properties
from warren.client.calls import Calls
from warren.client.replies import ReplyRoute
from warren.client.requests import Target
from warren.client.target import read_result
from warren.errors import CallError
from warren.protocol import codecs


class Waiter:
    """Keeps the outcome of its call."""

    def finish(self, outcome: Any) -> None:
        self.outcome = outcome


def test_a_reply_that_cannot_be_read_names_the_call_and_not_the_attempt() -> None:
    calls, waiter, nobody = Calls((b"%d" % n for n in itertools.count(1)), 3, 10, lambda _: None), Waiter(), Any
    route = ReplyRoute(calls, nobody, durable=False, max_size=10, on_gone=lambda _: None)  # type: ignore[arg-type]
    target = Target("call", "fib", "calc", "calc.fib", codecs.JSON)
    call = calls.start(10.0, waiter, target, awaits_reply=True)
    calls.hold(call, b"[30]")
    calls.written(call, Confirms(), 1)
    calls.wait_again([call], first=True)
    assert call.sent_before
    delivery = Delivery(1, False, b"")
    delivery.properties = encode_properties(Properties(b"application/json", correlation_id=call.id))
    delivery.body = b"{"
    route.delivered(nobody, delivery)  # type: ignore[arg-type]
    with pytest.raises(CallError) as caught:
        read_result(waiter.outcome, target, {})
    assert (caught.value.reason, caught.value.call_id) == ("DECODE_REPLY", call.first_id.decode())
