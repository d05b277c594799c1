"""A server that answers too much: ``rogue_server.py URL QUEUE``, in plain Pika.

Each request gets an answer with an id nobody asked with, one without any id, the right one, and a second one with the
right id and other contents.
"""

import sys
from typing import Any

import pika


def on_request(channel: Any, method: Any, properties: Any, body: bytes) -> None:
    right = properties.correlation_id
    for correlation_id, answer in (("stranger", "no"), (None, "no"), (right, body), (right, "too late")):
        channel.basic_publish(
            exchange="",
            routing_key=properties.reply_to,
            properties=pika.BasicProperties(correlation_id=correlation_id),
            body=answer,
        )
    channel.basic_ack(delivery_tag=method.delivery_tag)


def main() -> None:
    url, queue = sys.argv[1:]
    channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
    channel.queue_declare(queue=queue)
    channel.basic_consume(queue=queue, on_message_callback=on_request)
    print(" [x] Awaiting RPC requests", flush=True)
    channel.start_consuming()


if __name__ == "__main__":
    main()
