"""RabbitMQ's tutorial two, work queues: `two.py URL work N`, `two.py URL new_task TEXT`."""

import sys
from typing import Any

import pika


def main(url: str, role: str, what: str) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.queue_declare(queue="task_queue", durable=True)
    if role == "new_task":
        persistent = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent)
        channel.basic_publish(exchange="", routing_key="task_queue", body=what.encode(), properties=persistent)
    else:
        work(channel, int(what))
    connection.close()


def work(channel: Any, count: int) -> None:
    """One task at a time, acknowledged when it is done."""
    done = []

    def on_task(channel: Any, method: Any, _properties: Any, body: bytes) -> None:
        print("done", body.decode(), flush=True)
        channel.basic_ack(delivery_tag=method.delivery_tag)
        done.append(body)
        if len(done) == count:
            channel.stop_consuming()

    channel.basic_qos(prefetch_count=1)
    channel.basic_consume(queue="task_queue", on_message_callback=on_task)
    print("ready", flush=True)
    channel.start_consuming()


if __name__ == "__main__":
    main(*sys.argv[1:])
