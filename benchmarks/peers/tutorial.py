"""RabbitMQ's tutorial six for Python, with Pika's BlockingConnection, as the tutorial has it.

The queue is durable, as newer brokers want it; everything else is the tutorial's: prefetch 1, a callback queue per
client, one call at a time, no confirms, no timeout.
"""

from __future__ import annotations

import uuid
from typing import Any

import pika

from benchmarks.load import Job, expect, measure_threads, read_job, ready


def serve(job: Job) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(job.url))
    channel = connection.channel()
    channel.queue_declare(queue=job.address, durable=True)

    def on_request(ch: Any, method: Any, properties: Any, body: bytes) -> None:
        reply = pika.BasicProperties(correlation_id=properties.correlation_id)
        ch.basic_publish(exchange="", routing_key=properties.reply_to, properties=reply, body=str(int(body)))
        ch.basic_ack(delivery_tag=method.delivery_tag)

    channel.basic_qos(prefetch_count=1)
    channel.basic_consume(queue=job.address, on_message_callback=on_request)
    ready(job.address)
    channel.start_consuming()


class EchoClient:
    """The tutorial's client class, with another name."""

    def __init__(self, url: str, queue: str) -> None:
        self.queue = queue
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        self.callback_queue = self.channel.queue_declare(queue="", exclusive=True).method.queue
        self.channel.basic_consume(queue=self.callback_queue, on_message_callback=self.on_response, auto_ack=True)
        self.response: bytes | None = None
        self.correlation_id = ""

    def on_response(self, _channel: Any, _method: Any, properties: Any, body: bytes) -> None:
        if self.correlation_id == properties.correlation_id:
            self.response = body

    def call(self, n: int) -> int:
        self.response = None
        self.correlation_id = str(uuid.uuid4())
        self.channel.basic_publish(
            exchange="",
            routing_key=self.queue,
            properties=pika.BasicProperties(reply_to=self.callback_queue, correlation_id=self.correlation_id),
            body=str(n),
        )
        while self.response is None:
            self.connection.process_data_events(time_limit=None)
        return int(self.response)


def call(job: Job) -> None:
    client = EchoClient(job.url, job.address)
    measure_threads(job, lambda number: expect(client.call(number), number), 1)


if __name__ == "__main__":
    job = read_job()
    serve(job) if job.verb == "serve" else call(job)
