"""Exchanges and bindings: where a message goes, seen by a client of a session."""

from __future__ import annotations

from typing import Any

import pytest
from pika import spec

from tests.support.sessions import Peer, connect, make_state, method, publish


@pytest.fixture
def peer() -> Peer:
    """A client with queues called a, b and c."""
    peer = connect(make_state())
    for queue in "abc":
        peer.call(spec.Queue.Declare(queue=queue))
    return peer


def exchange(peer: Peer, name: str, kind: str = "direct", **fields: Any) -> None:
    assert peer.call(spec.Exchange.Declare(exchange=name, type=kind, **fields)).NAME == "Exchange.DeclareOk"


def bind(peer: Peer, queue: str, source: str, key: str = "", **arguments: Any) -> None:
    named = {name.replace("_", "-"): value for name, value in arguments.items()}
    answer = peer.call(spec.Queue.Bind(queue=queue, exchange=source, routing_key=key, arguments=named))
    assert answer.NAME == "Queue.BindOk"


def reached(peer: Peer, source: str, key: str = "", **properties: Any) -> str:
    """The queues that a message reaches, each as often as it does."""
    peer.send(publish(key, exchange=source, **properties))
    counts = {queue: peer.call(spec.Queue.Purge(queue=queue)).message_count for queue in "abc"}
    return "".join(queue * count for queue, count in counts.items())


def test_the_default_exchange_knows_all_queues_by_name(peer: Peer) -> None:
    assert reached(peer, "", "b") == "b"


def test_direct_compares_keys(peer: Peer) -> None:
    bind(peer, "a", "amq.direct", "k")
    bind(peer, "b", "amq.direct", "k")
    bind(peer, "c", "amq.direct", "other")
    assert reached(peer, "amq.direct", "k") == "ab"
    assert reached(peer, "amq.direct", "none") == ""


def test_a_queue_gets_a_message_once_however_often_it_is_bound(peer: Peer) -> None:
    bind(peer, "a", "amq.direct", "k")
    bind(peer, "a", "amq.direct", "other")
    assert reached(peer, "amq.direct", "k", headers={"CC": ["other", "k"]}) == "a"


def test_copies_go_to_further_keys_and_blind_ones_are_not_told(peer: Peer) -> None:
    peer.send(publish("a", headers={"CC": ["b", "nowhere"], "BCC": ["c"], "mine": 1}))
    for queue in "abc":
        peer.send(method(1, spec.Basic.Get(queue=queue, no_ack=True)))
        assert peer.frames()[1].properties.headers == {"CC": ["b", "nowhere"], "mine": 1}


@pytest.mark.parametrize("name", ["CC", "BCC"])
def test_copies_must_be_a_list(peer: Peer, name: str) -> None:
    peer.send(publish("a", headers={name: "b"}))
    expected = f'PRECONDITION_FAILED - invalid message: {{unacceptable_type_in_header,"{name}",longstr}}'
    assert peer.methods()[0].reply_text == expected


def test_fanout_reaches_all(peer: Peer) -> None:
    bind(peer, "a", "amq.fanout", "x")
    bind(peer, "b", "amq.fanout")
    assert reached(peer, "amq.fanout", "whatever") == "ab"


def test_topics_match_words(peer: Peer) -> None:
    bind(peer, "a", "amq.topic", "stock.*.nyse")
    bind(peer, "b", "amq.topic", "stock.#")
    assert reached(peer, "amq.topic", "stock.ibm.nyse") == "ab"
    assert reached(peer, "amq.topic", "stock") == "b"
    assert reached(peer, "amq.topic", "bond.x", headers={"CC": ["stock.ibm.nyse"]}) == "ab"


def test_a_topic_exchange_forgets_what_it_knew_when_bindings_change(peer: Peer) -> None:
    assert reached(peer, "amq.topic", "k") == ""
    bind(peer, "a", "amq.topic", "#")
    assert reached(peer, "amq.topic", "k") == "a"
    peer.call(spec.Queue.Unbind(queue="a", exchange="amq.topic", routing_key="#"))
    assert reached(peer, "amq.topic", "k") == ""


@pytest.mark.parametrize(
    ("headers", "queues"),
    [({"x": 1, "y": "z"}, "ab"), ({"x": 1}, "b"), ({"x": "1"}, ""), ({"x": True}, ""), ({}, ""), (None, "")],
)
def test_headers_are_compared_all_or_any(peer: Peer, headers: dict[str, object] | None, queues: str) -> None:
    bind(peer, "a", "amq.headers", x_match="all", x=1, y="z")
    bind(peer, "b", "amq.headers", x_match="any", x=1, y="z")
    assert reached(peer, "amq.headers", headers=headers) == queues


def test_a_header_of_no_value_asks_for_its_presence(peer: Peer) -> None:
    bind(peer, "a", "amq.match", x=None)
    assert reached(peer, "amq.match", headers={"x": 5}) == "a"


def test_x_headers_count_only_if_asked_for(peer: Peer) -> None:
    bind(peer, "a", "amq.headers", x_match="all", x_y=1)
    bind(peer, "b", "amq.headers", x_match="any-with-x", x_y=1)
    assert reached(peer, "amq.headers", headers={"x-y": 2}) == "a"
    assert reached(peer, "amq.headers", headers={"x-y": 1}) == "ab"


@pytest.mark.parametrize("match", ["some", 5])
def test_x_match_is_one_of_four(peer: Peer, match: object) -> None:
    bound = spec.Queue.Bind(queue="a", exchange="amq.headers", arguments={"x-match": match})
    assert peer.call(bound).reply_text.startswith("PRECONDITION_FAILED - Invalid x-match field ")


# --- exchanges among themselves ---------------------------------------------------------------------------------------


def test_exchanges_can_be_bound_to_each_other_even_in_circles(peer: Peer) -> None:
    exchange(peer, "one", "fanout")
    exchange(peer, "two", "fanout")
    for destination, source in (("two", "one"), ("one", "two")):
        peer.call(spec.Exchange.Bind(destination=destination, source=source))
    bind(peer, "a", "two")
    bind(peer, "b", "one")
    assert reached(peer, "one") == "ab"
    peer.call(spec.Exchange.Unbind(destination="two", source="one"))
    assert reached(peer, "one") == "b"


def test_what_matches_nothing_goes_to_the_alternate_exchange(peer: Peer) -> None:
    exchange(peer, "last", "fanout")
    exchange(peer, "first", arguments={"alternate-exchange": "last"})
    bind(peer, "a", "first", "k")
    bind(peer, "b", "last")
    assert reached(peer, "first", "k") == "a"
    assert reached(peer, "first", "other") == "b"


@pytest.mark.parametrize(("alternate", "queues"), [("", "c"), ("nowhere", "")])
def test_the_alternate_exchange_may_be_the_default_one_or_missing(peer: Peer, alternate: str, queues: str) -> None:
    exchange(peer, "first", arguments={"alternate-exchange": alternate})
    assert reached(peer, "first", "c") == queues


def test_an_internal_exchange_takes_messages_from_exchanges_only(peer: Peer) -> None:
    exchange(peer, "inside", "fanout", internal=True)
    peer.call(spec.Exchange.Bind(destination="inside", source="amq.fanout"))
    bind(peer, "a", "inside")
    assert reached(peer, "amq.fanout") == "a"
    peer.send(publish("", exchange="inside"))
    expected = "ACCESS_REFUSED - cannot publish to internal exchange 'inside' in vhost '/'"
    assert peer.methods()[0].reply_text == expected


def test_an_auto_delete_exchange_ends_with_its_last_binding(peer: Peer) -> None:
    exchange(peer, "passing", auto_delete=True)
    bind(peer, "a", "passing", "1")
    bind(peer, "a", "passing", "2")
    peer.call(spec.Queue.Unbind(queue="a", exchange="passing", routing_key="1"))
    assert "passing" in peer.state.hosts["/"].exchanges.by_name
    peer.call(spec.Queue.Delete(queue="a"))
    assert "passing" not in peer.state.hosts["/"].exchanges.by_name


def test_exchanges_that_only_served_a_deleted_one_end_too(peer: Peer) -> None:
    exchange(peer, "source", auto_delete=True)
    exchange(peer, "target")
    peer.call(spec.Exchange.Bind(destination="target", source="source"))
    peer.call(spec.Exchange.Delete(exchange="target"))
    assert "source" not in peer.state.hosts["/"].exchanges.by_name


def test_a_deleted_exchange_routes_nothing(peer: Peer) -> None:
    exchange(peer, "target", "fanout")
    peer.call(spec.Exchange.Bind(destination="target", source="amq.fanout"))
    bind(peer, "a", "target")
    peer.call(spec.Exchange.Delete(exchange="target"))
    assert reached(peer, "amq.fanout") == ""
