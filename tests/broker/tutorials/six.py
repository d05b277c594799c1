"""RabbitMQ's tutorial six, RPC: `six.py URL serve N`, `six.py URL call NUMBER`."""

import sys
import uuid
from typing import Any

import pika


def fib(n: int) -> int:
    return n if n < 2 else fib(n - 1) + fib(n - 2)


def serve(channel: Any, count: int) -> None:
    """Answer so many requests."""
    answered = []

    def on_request(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        channel.basic_publish(
            exchange="",
            routing_key=properties.reply_to,
            properties=pika.BasicProperties(correlation_id=properties.correlation_id),
            body=str(fib(int(body))).encode(),
        )
        channel.basic_ack(delivery_tag=method.delivery_tag)
        answered.append(body)
        if len(answered) == count:
            channel.stop_consuming()

    channel.queue_declare(queue="rpc_queue")
    channel.basic_qos(prefetch_count=1)
    channel.basic_consume(queue="rpc_queue", on_message_callback=on_request)
    print("ready", flush=True)
    channel.start_consuming()


def call(connection: Any, channel: Any, number: str) -> str:
    """Ask, and wait for the answer."""
    answers: dict[str, bytes] = {}
    queue = channel.queue_declare(queue="", exclusive=True).method.queue

    def on_response(_channel: Any, _method: Any, properties: Any, body: bytes) -> None:
        answers[properties.correlation_id] = body

    channel.basic_consume(queue=queue, on_message_callback=on_response, auto_ack=True)
    question = str(uuid.uuid4())
    channel.basic_publish(
        exchange="",
        routing_key="rpc_queue",
        properties=pika.BasicProperties(reply_to=queue, correlation_id=question),
        body=number.encode(),
    )
    while question not in answers:
        connection.process_data_events(time_limit=None)
    return answers[question].decode()


def main(url: str, role: str, what: str) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    if role == "serve":
        serve(channel, int(what))
    else:
        print(call(connection, channel, what))
    connection.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
