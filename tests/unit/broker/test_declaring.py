"""Declaring, binding and deleting: what is refused, with RabbitMQ's codes and texts."""

from __future__ import annotations

from typing import Any

import pytest
from pika import spec

from tests.support.sessions import Peer, connect, make_state, method


def complaint(*methods: Any) -> tuple[int, str]:
    """The code and text that the last of some methods gets; all others must succeed."""
    peer = connect(make_state())
    for each in methods[:-1]:
        assert "Close" not in peer.call(each).NAME
    close = peer.call(methods[-1])
    return close.reply_code, close.reply_text.partition(" - ")[2]


def queue(**arguments: Any) -> Any:
    return spec.Queue.Declare(queue="q", durable=True, arguments=arguments)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"x-message-ttl": -1}, "{value_negative,-1}"),
        ({"x-message-ttl": "soon"}, '"expected integer, got longstr"'),
        ({"x-expires": 0}, "{value_zero,0}"),
        ({"x-expires": 2**40}, "{value_too_large,1099511627776}"),
        ({"x-max-priority": 256}, "{max_value_exceeded,256}"),
        ({"x-overflow": "explode"}, "invalid_overflow"),
        ({"x-queue-mode": "eager"}, "\"unsupported queue mode 'eager'\""),
        ({"x-queue-type": "stack"}, "\"unsupported queue type 'stack'\""),
        ({"x-single-active-consumer": "yes"}, "{unacceptable_type,longstr}"),
        ({"x-dead-letter-routing-key": "k"}, "routing_key_but_no_dlx_defined"),
        ({"x-dead-letter-exchange": "", "x-dead-letter-routing-key": 5}, "{unacceptable_type,signedint}"),
    ],
)
def test_arguments_of_a_queue_are_checked(arguments: dict[str, Any], problem: str) -> None:
    name = next(name for name in reversed(arguments))
    assert complaint(queue(**arguments)) == (406, f"invalid arg '{name}' for queue 'q' in vhost '/': {problem}")


def test_a_dead_letter_exchange_has_a_name() -> None:
    expected = "invalid type 'signedint' for arg 'x-dead-letter-exchange' in queue 'q' in vhost '/'"
    assert complaint(queue(**{"x-dead-letter-exchange": 5})) == (406, expected)


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"x-delivery-limit": 3}, "classic"),
        ({"x-queue-type": "quorum", "x-max-priority": 3}, "quorum"),
    ],
)
def test_some_arguments_are_for_one_type_of_queue_only(arguments: dict[str, Any], kind: str) -> None:
    *_, name = arguments
    expected = f"invalid arg '{name}' for queue 'q' in vhost '/' of queue type rabbit_{kind}_queue"
    assert complaint(queue(**arguments)) == (406, expected)


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ({}, "invalid property 'non-durable' for queue 'q' in vhost '/'"),
        ({"durable": True, "exclusive": True}, "invalid property 'exclusive-owner' for queue 'q' in vhost '/'"),
        ({"durable": True, "auto_delete": True}, "invalid property 'auto-delete' for queue 'q' in vhost '/'"),
        ({"durable": True, "queue": ""}, "Cannot declare a server-named queue for type rabbit_quorum_queue"),
    ],
)
def test_quorum_queues_are_durable_shared_and_named(flags: dict[str, Any], problem: str) -> None:
    declare = spec.Queue.Declare(**{"queue": "q", "arguments": {"x-queue-type": "quorum"}} | flags)
    assert complaint(declare) == (406, problem)


@pytest.mark.parametrize(
    ("first", "second", "differs"),
    [
        ({"x-max-length": 5}, {}, "received none but current is the value '5' of type 'signedint'"),
        ({}, {"x-max-length": 5}, "received the value '5' of type 'signedint' but current is none"),
        ({"x-max-length": 5}, {"x-max-length": 6}, "received '6' but current is '5'"),
        (
            {"x-single-active-consumer": True},
            {},
            "received none but current is the value 'true' of type 'bool'",
        ),
        ({"x-queue-type": "quorum"}, {}, "received none but current is the value 'quorum' of type 'longstr'"),
    ],
)
def test_a_second_declaration_must_have_the_same_arguments(
    first: dict[str, Any], second: dict[str, Any], differs: str
) -> None:
    name = next(iter(first or second))
    code, text = complaint(queue(**first), queue(**second))
    assert (code, text) == (406, f"inequivalent arg '{name}' for queue 'q' in vhost '/': {differs}")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {"x-queue-type": "classic"}),
        ({"x-max-length": 5}, {"x-max-length": 5}),
        ({"x-unknown": 1}, {"x-unknown": 2}),
    ],
)
def test_what_makes_no_difference_is_no_difference(first: dict[str, Any], second: dict[str, Any]) -> None:
    peer = connect(make_state())
    peer.call(queue(**first))
    assert peer.call(queue(**second)).NAME == "Queue.DeclareOk"


def test_the_width_of_a_number_makes_no_difference() -> None:
    peer = connect(make_state())
    peer.call(queue(**{"x-max-length": 5}))
    narrow = method(1, queue(**{"x-max-length": 5})).replace(b"I\x00\x00\x00\x05", b"b\x05")
    size = int.from_bytes(narrow[3:7]) - 3
    table = narrow.replace(b"\x00\x00\x00\x12", b"\x00\x00\x00\x0f")
    peer.send(table[:3] + size.to_bytes(4) + table[7:])
    assert peer.methods()[0].NAME == "Queue.DeclareOk"


Q, X = "queue 'q' in vhost '/'", "exchange 'x' in vhost '/'"
DEFAULT = "operation not permitted on the default exchange"
_X = spec.Exchange.Declare(exchange="x", durable=True)
_Q = spec.Queue.Declare(queue="q")


@pytest.mark.parametrize(
    ("methods", "code", "text"),
    [
        (
            [_Q, spec.Queue.Declare(queue="q", durable=True)],
            406,
            f"inequivalent arg 'durable' for {Q}: received 'true' but current is 'false'",
        ),
        (
            [_X, spec.Exchange.Declare(exchange="x", type="fanout", durable=True)],
            406,
            f"inequivalent arg 'type' for {X}: received 'fanout' but current is 'direct'",
        ),
        (
            [_X, spec.Exchange.Declare(exchange="x", durable=True, arguments={"alternate-exchange": "y"})],
            406,
            f"inequivalent arg 'alternate-exchange' for {X}: received the value 'y' of type "
            "'longstr' but current is none",
        ),
        (
            [spec.Exchange.Declare(exchange="x", arguments={"alternate-exchange": 5})],
            406,
            f"invalid type 'signedint' for arg 'alternate-exchange' in {X}",
        ),
        ([spec.Exchange.Declare(exchange="x", type="magic")], 503, "unknown exchange type 'magic'"),
        ([spec.Exchange.Declare(exchange="amq.x")], 403, "exchange name 'amq.x' contains reserved prefix 'amq.*'"),
        ([spec.Queue.Declare(queue="amq.q")], 403, "queue name 'amq.q' contains reserved prefix 'amq.*'"),
        ([spec.Exchange.Declare(exchange="")], 403, DEFAULT),
        ([spec.Exchange.Declare(exchange="", passive=True)], 403, DEFAULT),
        ([spec.Exchange.Delete(exchange="")], 403, DEFAULT),
        (
            [spec.Exchange.Delete(exchange="amq.topic")],
            403,
            "deletion of system exchange 'amq.topic' in vhost '/' not allowed",
        ),
        ([_Q, spec.Queue.Bind(queue="q", exchange="")], 403, DEFAULT),
        ([_Q, spec.Queue.Unbind(queue="q", exchange="")], 403, DEFAULT),
        ([spec.Exchange.Bind(destination="", source="amq.topic")], 403, DEFAULT),
        ([spec.Queue.Declare(queue="nope", passive=True)], 404, "no queue 'nope' in vhost '/'"),
        ([spec.Exchange.Declare(exchange="nope", passive=True)], 404, "no exchange 'nope' in vhost '/'"),
        ([spec.Queue.Bind(queue="nope", exchange="amq.topic")], 404, "no queue 'nope' in vhost '/'"),
        ([_Q, spec.Queue.Bind(queue="q", exchange="nope")], 404, "no exchange 'nope' in vhost '/'"),
        ([spec.Basic.Consume(queue="nope")], 404, "no queue 'nope' in vhost '/'"),
        ([spec.Basic.Get(queue="")], 404, "no previously declared queue"),
        (
            [spec.Queue.Declare(queue="amq.rabbitmq.reply-to.x", passive=True)],
            404,
            "no queue 'amq.rabbitmq.reply-to.x' in vhost '/'",
        ),
        ([_Q, spec.Basic.Consume(queue="q"), spec.Queue.Delete(queue="q", if_unused=True)], 406, f"{Q} in use"),
        (
            [_X, _Q, spec.Queue.Bind(queue="q", exchange="x"), spec.Exchange.Delete(exchange="x", if_unused=True)],
            406,
            f"{X} in use",
        ),
        (
            [_Q, spec.Basic.Consume(queue="q", arguments={"x-priority": "a"})],
            406,
            f"invalid arg 'x-priority' for {Q}: \"expected integer, got longstr\"",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_in_rabbitmqs_words(methods: list[Any], code: int, text: str) -> None:
    assert complaint(*methods) == (code, text)


@pytest.mark.parametrize(
    "harmless",
    [
        spec.Queue.Delete(queue="nope"),
        spec.Exchange.Delete(exchange="nope"),
        spec.Queue.Unbind(queue="nope", exchange="amq.topic"),
        spec.Exchange.Unbind(destination="nope", source="amq.topic"),
        spec.Exchange.Unbind(destination="amq.topic", source="nope"),
        spec.Basic.Cancel("nope"),
        spec.Access.Request(),
        spec.Queue.Declare(queue="amq.rabbitmq.reply-to", passive=True),
    ],
)
def test_what_is_gone_already_is_no_error(harmless: Any) -> None:
    assert "Close" not in connect(make_state()).call(harmless).NAME


@pytest.mark.parametrize(
    "quiet",
    [
        spec.Queue.Declare(queue="q2", nowait=True),
        spec.Exchange.Declare(exchange="x2", nowait=True),
        spec.Queue.Bind(queue="q", exchange="amq.topic", nowait=True),
        spec.Exchange.Bind(destination="amq.fanout", source="amq.topic", nowait=True),
        spec.Exchange.Unbind(destination="amq.fanout", source="amq.topic", nowait=True),
        spec.Exchange.Delete(exchange="nope", nowait=True),
        spec.Queue.Purge(queue="q", nowait=True),
        spec.Queue.Delete(queue="nope", nowait=True),
        spec.Basic.Consume(queue="q", consumer_tag="c", nowait=True),
        spec.Basic.Cancel("c", nowait=True),
        spec.Confirm.Select(nowait=True),
    ],
)
def test_who_does_not_wait_gets_no_answer(quiet: Any) -> None:
    peer = connect(make_state())
    peer.call(_Q)
    peer.send(method(1, quiet))
    assert peer.frames() == []


def test_the_broker_names_a_queue_and_the_empty_name_means_the_last_one_declared() -> None:
    peer = connect(make_state())
    name = peer.call(spec.Queue.Declare(exclusive=True)).queue
    assert name.startswith("amq.gen-")
    peer.call(spec.Queue.Bind(exchange="amq.direct"))
    peer.call(spec.Basic.Consume(consumer_tag="c"))
    assert next(iter(peer.state.hosts["/"].exchanges.by_name["amq.direct"].bindings))[1] == name


def test_line_ends_are_taken_out_of_names() -> None:
    assert connect(make_state()).call(spec.Queue.Declare(queue="a\r\nb")).queue == "ab"


def test_names_need_not_be_utf_8() -> None:
    peer = connect(make_state())
    assert peer.call(spec.Queue.Declare(queue=b"\xff")).queue == b"\xff"
    assert peer.call(spec.Queue.Declare(queue=b"\xff", passive=True)).queue == b"\xff"


def test_another_connections_exclusive_queue_cannot_be_touched() -> None:
    state = make_state()
    owner = connect(state)
    owner.call(spec.Queue.Declare(queue="q", exclusive=True))
    touches: list[Any] = [
        spec.Queue.Declare(queue="q", exclusive=True),
        spec.Queue.Declare(queue="q"),
        spec.Basic.Consume(queue="q"),
        spec.Basic.Get(queue="q"),
        spec.Queue.Purge(queue="q"),
        spec.Queue.Delete(queue="q"),
        spec.Queue.Bind(queue="q", exchange="amq.direct"),
    ]
    for touch in touches:
        other: Peer = connect(state)
        assert other.call(touch).reply_code == 405
