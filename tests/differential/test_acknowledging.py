"""Acknowledging, refusing, putting back, transactions."""

from __future__ import annotations

import pytest
from pika import spec

from tests.differential.both import Brokers, on_both
from tests.differential.peer import Channel, Peer
from tests.differential.wire import Seen


def _held(peer: Peer, bodies: str = "abcde") -> tuple[Channel, list[Seen]]:
    """A channel that has got these messages of the queue q and not acknowledged them."""
    channel = peer.channel()
    channel.queue("q")
    for body in bodies:
        channel.publish("q", body)
    return channel, [channel.get("q") for _ in bodies]


def _left(peer: Peer, count: int) -> None:
    """Note what is in q: so many messages."""
    peer.wait_for("q", count)
    peer.note([(seen.text, seen.fields["redelivered"]) for seen in peer.channel().take("q")])


@on_both
def test_what_is_acknowledged_is_gone(peer: Peer) -> None:
    channel, held = _held(peer)
    channel.ack(held[2].tag)
    channel.ack(held[1].tag, multiple=True)
    channel.sync()
    channel.close()
    _left(peer, 2)


@on_both
def test_zero_means_all(peer: Peer) -> None:
    channel, _ = _held(peer)
    channel.ack(0, multiple=True)
    channel.sync()
    channel.ack(0, multiple=True)
    channel.sync()
    channel.nack(0, multiple=True)
    channel.sync()
    channel.close()
    _left(peer, 0)


@on_both
def test_refused_messages_go_back_to_their_places(peer: Peer) -> None:
    channel, held = _held(peer)
    channel.publish("q", "new")
    channel.reject(held[3].tag)
    channel.nack(held[1].tag)
    channel.nack(held[0].tag)
    channel.sync()
    _left(peer, 4)


@on_both
def test_refusing_several_at_a_time(peer: Peer) -> None:
    channel, held = _held(peer)
    channel.ack(held[1].tag)
    channel.nack(held[3].tag, multiple=True)
    channel.sync()
    _left(peer, 3)
    channel.nack(0, multiple=True, requeue=False)
    channel.sync()
    _left(peer, 0)


@on_both
def test_refused_for_good_without_a_dead_letter_exchange(peer: Peer) -> None:
    channel, held = _held(peer)
    channel.reject(held[0].tag, requeue=False)
    channel.nack(held[1].tag, requeue=False)
    channel.sync()
    channel.close()
    _left(peer, 3)


@on_both
def test_a_refused_message_comes_again_to_a_consumer(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q")
    channel.qos(1)
    channel.consume("q", "c")
    for body in "ab":
        channel.publish("q", body)
    channel.nack(channel.delivery().tag)
    again = channel.delivery()
    channel.ack(again.tag)
    channel.delivery()


@pytest.mark.parametrize("operation", ["ack", "nack", "reject"])
@pytest.mark.parametrize("tag", [0, 1, 99, 2**63])
def test_tags_that_are_not_outstanding(brokers: Brokers, operation: str, tag: int) -> None:
    def script(peer: Peer) -> None:
        channel, _ = _held(peer, "ab")
        if tag == 1:
            channel.ack(1)
        getattr(channel, operation)(tag)
        channel.end()
        _left(peer, 1 if tag == 1 else 2)

    brokers.compare(script)


@pytest.mark.parametrize("tag", [99, 2, 1])
def test_several_up_to_a_tag_that_is_not_outstanding(brokers: Brokers, tag: int) -> None:
    def script(peer: Peer) -> None:
        channel, held = _held(peer, "abc")
        channel.ack(held[1].tag, multiple=tag == 1)
        channel.ack(tag, multiple=True)
        channel.sync()

    brokers.compare(script)


@on_both
def test_tags_belong_to_their_channel(peer: Peer) -> None:
    channel, held = _held(peer, "a")
    other = channel.connection.channel()
    other.ack(held[0].tag)
    other.end()
    channel.ack(held[0].tag)
    channel.sync()


@on_both
def test_recovering_gives_everything_back(peer: Peer) -> None:
    channel, held = _held(peer)
    channel.ack(held[2].tag)
    channel.recover()
    _left(peer, 4)
    channel.recover()


@on_both
def test_recovering_sends_to_consumers_again(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q")
    channel.consume("q", "c")
    for body in "abc":
        channel.publish("q", body)
    channel.deliveries(3)
    channel.recover()
    channel.deliveries(3)
    channel.send(spec.Basic.RecoverAsync(True))
    channel.deliveries(3)
    channel.ack(9)
    channel.sync()


@on_both
def test_recovering_without_requeueing_is_not_implemented(peer: Peer) -> None:
    channel, _ = _held(peer)
    channel.recover(requeue=False)
    channel.connection.end()


# --- transactions -----------------------------------------------------------------------------------------------------


@on_both
def test_publishes_wait_for_the_commit(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q")
    channel.call(spec.Tx.Select())
    channel.publish("q", "one")
    channel.publish("nowhere", "two", mandatory=True)
    channel.sync()
    peer.note(peer.count("q"))
    channel.call(spec.Tx.Commit())
    channel.sync()
    peer.wait_for("q", 1)
    channel.publish("q", "three")
    channel.call(spec.Tx.Rollback())
    channel.call(spec.Tx.Commit())
    _left(peer, 1)


@on_both
def test_acknowledgements_wait_for_the_commit(peer: Peer) -> None:
    channel, held = _held(peer)
    channel.call(spec.Tx.Select())
    channel.ack(held[0].tag)
    channel.nack(held[1].tag)
    channel.reject(held[2].tag, requeue=False)
    channel.sync()
    peer.note(peer.count("q"))
    channel.call(spec.Tx.Commit())
    peer.wait_for("q", 1)
    channel.ack(held[3].tag)
    channel.call(spec.Tx.Rollback())
    channel.ack(held[3].tag)
    channel.ack(held[4].tag)
    channel.call(spec.Tx.Commit())
    channel.close()
    _left(peer, 1)


@on_both
def test_closing_a_channel_undoes_its_transaction(peer: Peer) -> None:
    channel, held = _held(peer, "ab")
    channel.call(spec.Tx.Select())
    channel.ack(held[0].tag)
    channel.publish("q", "c")
    channel.close()
    _left(peer, 2)


@on_both
def test_within_a_transaction_a_tag_is_acknowledged_once(peer: Peer) -> None:
    channel, held = _held(peer, "ab")
    channel.call(spec.Tx.Select())
    channel.ack(held[0].tag)
    channel.ack(held[0].tag)
    channel.end()
    _left(peer, 2)


@on_both
def test_transactions_need_to_be_selected(peer: Peer) -> None:
    channel = peer.channel()
    channel.call(spec.Tx.Commit())
    channel.reopen()
    channel.call(spec.Tx.Rollback())
    channel.reopen()
    channel.call(spec.Tx.Select())
    channel.call(spec.Tx.Select())
    channel.confirms()


@on_both
def test_confirms_exclude_transactions(peer: Peer) -> None:
    channel = peer.channel()
    channel.confirms()
    channel.call(spec.Tx.Select())


@on_both
def test_errors_of_a_publish_in_a_transaction(peer: Peer) -> None:
    channel = peer.channel()
    channel.call(spec.Tx.Select())
    channel.publish("q", "hello", "nowhere")
    channel.end()


@on_both
def test_recovering_in_a_transaction(peer: Peer) -> None:
    channel, held = _held(peer, "abc")
    channel.call(spec.Tx.Select())
    channel.ack(held[0].tag)
    channel.recover()
    peer.wait_for("q", 2)
    channel.call(spec.Tx.Commit())
    channel.close()
    _left(peer, 2)
