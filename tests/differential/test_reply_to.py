"""Direct reply-to."""

from __future__ import annotations

from tests.differential.both import Operation, on_both
from tests.differential.peer import Peer

_REPLIES = "amq.rabbitmq.reply-to"


@on_both
def test_a_request_and_its_reply(peer: Peer) -> None:
    client, server = peer.channel(), peer.channel()
    server.queue("requests")
    client.consume(_REPLIES, "replies", no_ack=True)
    for number in range(3):
        client.publish("requests", "question", reply_to=_REPLIES, correlation_id=str(number), headers={"a": 1})
        peer.wait_for("requests", 1)
        request = server.get("requests")
        peer.note(request.properties["reply_to"].startswith(_REPLIES + "."))
        server.publish(request.properties["reply_to"], "answer", correlation_id=str(number), headers={"b": 2})
        client.delivery()
        server.ack(request.tag)


@on_both
def test_replies_by_another_exchange_go_nowhere(peer: Peer) -> None:
    client, server = peer.channel(), peer.channel()
    server.queue("requests")
    client.consume(_REPLIES, "replies", no_ack=True)
    client.publish("requests", "question", reply_to=_REPLIES)
    peer.wait_for("requests", 1)
    address = server.get("requests").properties["reply_to"]
    server.publish(address, "answer", "amq.direct", mandatory=True)
    server.returned()
    server.publish(address, "answer")
    peer.note(client.delivery().fields["exchange"])


@on_both
def test_replies_are_consumed_without_acknowledgement(peer: Peer) -> None:
    channel = peer.channel()
    channel.consume(_REPLIES, "c")
    channel.reopen()
    channel.consume(_REPLIES, "c", no_ack=True)
    channel.consume(_REPLIES, "d", no_ack=True)


@on_both
def test_a_request_needs_a_consumer_of_replies_on_its_channel(peer: Peer) -> None:
    connection = peer.connect()
    consumer, publisher = connection.channel(), connection.channel()
    consumer.consume(_REPLIES, "c", no_ack=True)
    publisher.publish("nowhere", "question", reply_to=_REPLIES)
    publisher.end()


@on_both
def test_after_cancelling_there_is_no_consumer_of_replies(peer: Peer) -> None:
    channel = peer.channel()
    channel.consume(_REPLIES, "c", no_ack=True)
    channel.cancel("c")
    channel.consume(_REPLIES, "c", no_ack=True)
    channel.cancel("c")
    channel.publish("nowhere", "question", reply_to=_REPLIES)
    channel.end()


@on_both
def test_a_server_can_see_whether_its_client_is_there(peer: Peer) -> None:
    client, server = peer.channel(), peer.channel()
    server.queue("requests")
    client.consume(_REPLIES, "replies", no_ack=True)
    client.publish("requests", "question", reply_to=_REPLIES)
    peer.wait_for("requests", 1)
    address = server.get("requests").properties["reply_to"]
    server.queue(address, passive=True)
    server.publish(address, "answer")
    client.delivery()
    client.connection.close()
    server.queue(address, passive=True)


@on_both
def test_the_pseudo_queue_is_no_queue(peer: Peer) -> None:
    channel = peer.channel()
    operations: tuple[Operation, ...] = (
        lambda: channel.queue(_REPLIES),
        lambda: channel.queue(_REPLIES, passive=True),
        lambda: channel.get(_REPLIES),
        lambda: channel.delete(_REPLIES),
        lambda: channel.purge(_REPLIES),
        lambda: channel.bind(_REPLIES, "amq.direct", "k"),
    )
    for operation in operations:
        if operation().code:
            channel.reopen()


@on_both
def test_other_addresses_pass_unchanged(peer: Peer) -> None:
    channel = peer.channel()
    channel.queue("q")
    channel.publish("q", "hello", reply_to=_REPLIES + "x")
    channel.publish("q", "hello", reply_to="")
    channel.publish("q", "hello", reply_to="anything")
    channel.take("q")
