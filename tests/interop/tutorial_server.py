"""The server of RabbitMQ's tutorial six, in plain Pika: ``tutorial_server.py URL QUEUE``.

Written after the tutorial's text. It knows nothing of Warren: it declares the queue its own way (transient), takes one
request at a time, answers to `reply_to` with the request's correlation id, and acknowledges after that.
"""

import sys
from typing import Any

import pika


def fib(n: int) -> int:
    return n if n < 2 else fib(n - 1) + fib(n - 2)


def on_request(channel: Any, method: Any, properties: Any, body: bytes) -> None:
    n = int(body)
    print(f" [.] fib({n})", flush=True)
    channel.basic_publish(
        exchange="",
        routing_key=properties.reply_to,
        properties=pika.BasicProperties(correlation_id=properties.correlation_id),
        body=str(fib(n)),
    )
    channel.basic_ack(delivery_tag=method.delivery_tag)


def main() -> None:
    url, queue = sys.argv[1:]
    channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
    channel.queue_declare(queue=queue)
    channel.basic_qos(prefetch_count=1)
    channel.basic_consume(queue=queue, on_message_callback=on_request)
    print(" [x] Awaiting RPC requests", flush=True)
    channel.start_consuming()


if __name__ == "__main__":
    main()
