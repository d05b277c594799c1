"""Sequences of operations that Hypothesis makes up, on both brokers: after each step a client has seen the same.

`make differential` runs many more of them, with other seeds each time.
"""

from __future__ import annotations

from typing import Any, ClassVar

import hypothesis.strategies as st
import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from pika import spec

from tests.differential.both import Brokers
from tests.differential.machine import PATIENCE, Twins, Where
from tests.differential.peer import Channel
from tests.differential.wire import Seen

_THOROUGH = settings.default.max_examples > 100 if settings.default else False

_QUEUES = ("q0", "q1", "q2", "q3")
_EXCHANGES = {"x0": "direct", "x1": "fanout", "x2": "topic", "x3": "headers"}
_KEYS = (*_QUEUES, "a", "a.b", "")
_REPLIES = "amq.rabbitmq.reply-to"

#: Arguments and flags of queues.
_KINDS: tuple[tuple[dict[str, Any], dict[str, bool]], ...] = (
    ({}, {}),
    ({}, {}),
    ({}, {"durable": True}),
    ({}, {"auto_delete": True}),
    ({}, {"exclusive": True}),
    ({"x-max-length": 2}, {}),
    ({"x-max-length": 1, "x-overflow": "reject-publish"}, {}),
    ({"x-max-length": 1, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "q0"}, {}),
    ({"x-max-length": 1, "x-overflow": "reject-publish-dlx", "x-dead-letter-exchange": "x1"}, {}),
    ({"x-max-length-bytes": 5}, {}),
    ({"x-max-priority": 3}, {}),
    ({"x-single-active-consumer": True}, {}),
    ({"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "q1"}, {}),
    ({"x-dead-letter-exchange": "x1"}, {}),
    ({"x-dead-letter-exchange": "x2", "x-dead-letter-routing-key": "a.b"}, {"auto_delete": True}),
    ({"x-message-ttl": 0, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "q2"}, {}),
    ({"x-message-ttl": -1}, {}),
    ({"x-dead-letter-routing-key": "q1"}, {}),
)
_EXCHANGE_OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {},
    {"durable": True},
    {"auto_delete": True},
    {"internal": True},
    {"arguments": {"alternate-exchange": "x1"}},
)
_PROPERTIES: tuple[dict[str, Any], ...] = (
    {},
    {},
    {},
    {"delivery_mode": 2, "message_id": "m"},
    {"priority": 2},
    {"priority": 200},
    {"expiration": "0"},
    {"expiration": "60000"},
    {"expiration": "soon"},
    {"headers": {"CC": ["q1", "a"]}},
    {"headers": {"BCC": ["q2"], "h": 1}},
    {"headers": {"CC": "q1"}},
    {"headers": {"h": 1}},
    {"headers": {"h": 1, "i": "two"}},
    {"user_id": "guest"},
    {"user_id": "somebody"},
    {"reply_to": _REPLIES},
)
_BINDING_ARGUMENTS: tuple[dict[str, Any] | None, ...] = (
    None,
    None,
    {"h": 1},
    {"h": 1, "x-match": "any", "i": "two"},
)


def _some(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


_where = st.builds(Where, _some(0, 0, 1), _some(1, 1, 2))
_queue = st.sampled_from(_QUEUES)
_exchange = st.sampled_from(tuple(_EXCHANGES))
_key = st.sampled_from(_KEYS)
_number = st.integers(0, 5)
_binding_key = _some("a", "a.*", "#", "a.b")
_arguments = st.sampled_from(_BINDING_ARGUMENTS)
_options = st.sampled_from(_EXCHANGE_OPTIONS)
_seldom = _some(False, False, False, True)
_burst_properties = st.sampled_from(({}, {}, {}, {}, {}, {"expiration": "soon"}, {"priority": 1}, {"expiration": "0"}))


_burst = st.lists(st.tuples(st.booleans(), _burst_properties), min_size=2, max_size=6)


class Machine(RuleBasedStateMachine):
    """What clients may do. `brokers` is set by the test."""

    brokers: ClassVar[Brokers]

    def __init__(self) -> None:
        super().__init__()
        self.twins = Twins(self.brokers.rabbit, self.brokers.embedded.port)
        self._bodies = 0

    def teardown(self) -> None:
        self.twins.clean()

    @initialize(kinds=st.lists(st.sampled_from(_KINDS[:12]), min_size=2, max_size=2))
    def begin(self, kinds: list[tuple[dict[str, Any], dict[str, bool]]]) -> None:
        """Something to work with."""

        def declare(channel: Channel) -> None:
            for queue, (arguments, options) in zip(_QUEUES, kinds, strict=False):
                channel.queue(queue, arguments, **options)
                channel.exchange("x0")
                channel.bind(queue, "x0", "a")
                channel.exchange("x1", "fanout")
                channel.bind(queue, "x1")

        self.twins.perform(Where(0, 1), declare)

    # --- declaring ------------------------------------------------------------------------------------------------

    @rule(where=_where, queue=_queue, kind=st.sampled_from(_KINDS), passive=_seldom)
    def declare(self, where: Where, queue: str, kind: tuple[dict[str, Any], dict[str, bool]], passive: bool) -> None:
        arguments, options = kind
        self.twins.perform(where, lambda channel: channel.queue(queue, arguments, **options, passive=passive))

    @rule(where=_where, queue=_queue, if_unused=_seldom, if_empty=_seldom)
    def delete(self, where: Where, queue: str, if_unused: bool, if_empty: bool) -> None:
        self.twins.perform(where, lambda channel: channel.delete(queue, if_unused=if_unused, if_empty=if_empty))

    @rule(where=_where, queue=_queue)
    def purge(self, where: Where, queue: str) -> None:
        self.twins.perform(where, lambda channel: channel.purge(queue))

    @rule(where=_where, name=_exchange, kind=_some(None, None, None, "fanout", "topic"), options=_options)
    def declare_exchange(self, where: Where, name: str, kind: str | None, options: dict[str, Any]) -> None:
        self.twins.perform(where, lambda channel: channel.exchange(name, kind or _EXCHANGES[name], **options))

    @rule(where=_where, name=_exchange, if_unused=_seldom)
    def delete_exchange(self, where: Where, name: str, if_unused: bool) -> None:
        self.twins.perform(where, lambda channel: channel.delete_exchange(name, if_unused=if_unused))

    @rule(
        where=_where,
        queue=_queue,
        name=_exchange,
        key=_some("a", "a.*", "#", "a.b"),
        arguments=_some(*_BINDING_ARGUMENTS),
    )
    def bind(self, where: Where, queue: str, name: str, key: str, arguments: Any) -> None:
        self.twins.perform(where, lambda channel: channel.bind(queue, name, key, arguments))

    @rule(
        where=_where,
        queue=_queue,
        name=_exchange,
        key=_some("a", "a.*", "#", "a.b"),
        arguments=_some(*_BINDING_ARGUMENTS),
    )
    def unbind(self, where: Where, queue: str, name: str, key: str, arguments: Any) -> None:
        self.twins.perform(where, lambda channel: channel.unbind(queue, name, key, arguments))

    @rule(where=_where, to=_exchange, source=_exchange, key=_some("a", "a.b"))
    def bind_exchange(self, where: Where, to: str, source: str, key: str) -> None:
        self.twins.perform(where, lambda channel: channel.bind_exchange(to, source, key))

    @rule(where=_where, to=_exchange, source=_exchange, key=_some("a", "a.b"))
    def unbind_exchange(self, where: Where, to: str, source: str, key: str) -> None:
        self.twins.perform(where, lambda channel: channel.unbind_exchange(to, source, key))

    # --- publishing -----------------------------------------------------------------------------------------------

    def _publish(self, where: Where, exchange: str, key: str, properties: dict[str, Any], mandatory: bool) -> None:
        self._bodies += 1
        body = f"m{self._bodies}"
        self.twins.perform(
            where, lambda channel: channel.publish(key, body, exchange, mandatory=mandatory, **properties)
        )

    @rule(where=_where, queue=_queue)
    def publish(self, where: Where, queue: str) -> None:
        self._publish(where, "", queue, {}, False)

    @rule(where=_where, queue=_queue, properties=st.sampled_from(_PROPERTIES), mandatory=st.booleans())
    def publish_with(self, where: Where, queue: str, properties: dict[str, Any], mandatory: bool) -> None:
        self._publish(where, "", queue, properties, mandatory)

    @rule(where=_where, name=_exchange, key=_key, properties=st.sampled_from(_PROPERTIES), mandatory=st.booleans())
    def publish_by(self, where: Where, name: str, key: str, properties: dict[str, Any], mandatory: bool) -> None:
        self._publish(where, name, key, properties, mandatory)

    @rule(
        where=_where, queue=_queue, many=st.lists(st.tuples(st.booleans(), _burst_properties), min_size=2, max_size=6)
    )
    def publish_many(self, where: Where, queue: str, many: list[tuple[bool, dict[str, Any]]]) -> None:
        """Without waiting in between, in one packet.

        To one queue: dead letters go from queue to queue in their own time, so that their place among messages that
        are published meanwhile is free.
        """
        messages = []
        for mandatory, properties in many:
            self._bodies += 1
            messages.append(("", queue, f"m{self._bodies}", mandatory, properties))
        self.twins.perform(where, lambda channel: channel.publish_many(messages))

    @rule(where=_where)
    def confirm(self, where: Where) -> None:
        self.twins.perform(where, Channel.confirms)

    # --- consuming ------------------------------------------------------------------------------------------------

    @rule(
        where=_where,
        queue=_queue,
        tag=_some("c0", "c1", "c2"),
        no_ack=_seldom,
        exclusive=_some(*(False,) * 7, True),
        priority=_some(*(None,) * 5, 1, -1),
    )
    def consume(self, where: Where, queue: str, tag: str, no_ack: bool, exclusive: bool, priority: int | None) -> None:
        arguments = None if priority is None else {"x-priority": priority}
        self.twins.perform(
            where, lambda channel: channel.consume(queue, tag, arguments, no_ack=no_ack, exclusive=exclusive)
        )

    @rule(where=_where, no_ack=_some(True, True, True, False))
    def consume_replies(self, where: Where, no_ack: bool) -> None:
        self.twins.perform(where, lambda channel: channel.consume(_REPLIES, "replies", no_ack=no_ack))

    @rule(where=_where, tag=_some("c0", "c1", "c2", "replies"))
    def cancel(self, where: Where, tag: str) -> None:
        self.twins.perform(where, lambda channel: channel.cancel(tag))

    @rule(where=_where, queue=_queue, no_ack=_seldom)
    def get(self, where: Where, queue: str, no_ack: bool) -> None:
        self.twins.perform(where, lambda channel: channel.get(queue, no_ack=no_ack))

    @rule(where=_where, count=_some(0, 1, 1, 2, 3), shared=_seldom)
    def qos(self, where: Where, count: int, shared: bool) -> None:
        self.twins.perform(where, lambda channel: channel.qos(count, shared=shared))

    # --- acknowledging --------------------------------------------------------------------------------------------

    @rule(where=_where, number=_number, multiple=_seldom)
    def ack(self, where: Where, number: int, multiple: bool) -> None:
        name, same = self.twins.choose(where, number)

        def answer(channel: Channel, seen: Seen | None) -> None:
            channel.ack(seen.tag if seen else 1, multiple=multiple and same)

        self.twins.settle_delivery(where, name, answer)

    @rule(where=_where, number=_number, multiple=_seldom, requeue=st.booleans())
    def nack(self, where: Where, number: int, multiple: bool, requeue: bool) -> None:
        name, same = self.twins.choose(where, number)

        def answer(channel: Channel, seen: Seen | None) -> None:
            channel.nack(seen.tag if seen else 1, multiple=multiple and same, requeue=requeue)

        self.twins.settle_delivery(where, name, answer)

    @rule(where=_where, number=_number, requeue=st.booleans())
    def reject(self, where: Where, number: int, requeue: bool) -> None:
        name, _ = self.twins.choose(where, number)
        self.twins.settle_delivery(
            where, name, lambda channel, seen: channel.reject(seen.tag if seen else 1, requeue=requeue)
        )

    @rule(where=_where, requeue=st.booleans())
    def settle_all(self, where: Where, requeue: bool) -> None:
        self.twins.perform(where, lambda channel: channel.nack(0, multiple=True, requeue=requeue))

    @rule(where=_where)
    def recover(self, where: Where) -> None:
        self.twins.perform(where, Channel.recover)

    @rule(where=_where, number=_number)
    def answer(self, where: Where, number: int) -> None:
        """Reply to a request, if the delivery is one."""
        name, _ = self.twins.choose(where, number)

        def answer(channel: Channel, seen: Seen | None) -> None:
            if seen is not None and "reply_to" in seen.properties:
                channel.publish(seen.properties["reply_to"], "answer to " + seen.text)

        self.twins.settle_delivery(where, name, answer)

    # --- modes and ends -------------------------------------------------------------------------------------------

    @rule(where=_where, method=_some(spec.Tx.Select, spec.Tx.Select, spec.Tx.Commit, spec.Tx.Rollback))
    def transact(self, where: Where, method: type[Any]) -> None:
        self.twins.perform(where, lambda channel: channel.call(method()))

    @rule(where=_where)
    def close(self, where: Where) -> None:
        self.twins.perform(where, _close)

    @rule(number=_some(0, 1))
    def close_connection(self, number: int) -> None:
        self.twins.close_connection(number)


def _close(channel: Channel) -> None:
    channel.close()
    channel.reopen()


@pytest.mark.timeout(1200)
def test_generated_sequences_of_operations(brokers: Brokers) -> None:
    Machine.brokers = brokers
    Twins.patience = PATIENCE
    phases = [Phase.generate, Phase.shrink]
    some = settings(max_examples=80, stateful_step_count=40, derandomize=True, phases=phases)
    many = settings(max_examples=1500, stateful_step_count=50, phases=phases)
    run_state_machine_as_test(Machine, settings=many if _THOROUGH else some)
    assert not brokers.embedded.status().queues
