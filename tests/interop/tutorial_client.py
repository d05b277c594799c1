"""The client of RabbitMQ's tutorial six, in plain Pika: ``tutorial_client.py URL QUEUE BODY...``.

Written after the tutorial's text. It knows nothing of Warren: an exclusive callback queue, a correlation id for each
request, and answers with any other id are left alone. It waits for ever, as the tutorial's does.
"""

import sys
import uuid
from typing import Any

import pika


class FibonacciRpcClient:
    def __init__(self, url: str, queue: str) -> None:
        self.queue = queue
        self.correlation_id: str | None = None
        self.response: bytes | None = None
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        self.callback_queue = self.channel.queue_declare(queue="", exclusive=True).method.queue
        self.channel.basic_consume(queue=self.callback_queue, on_message_callback=self.on_response, auto_ack=True)

    def on_response(self, _channel: Any, _method: Any, properties: Any, body: bytes) -> None:
        if properties.correlation_id == self.correlation_id:
            self.response = body

    def call(self, n: int | str) -> str:
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
        return self.response.decode()


def main() -> None:
    url, queue, *bodies = sys.argv[1:]
    fibonacci_rpc = FibonacciRpcClient(url, queue)
    for body in bodies:
        print(f" [x] Requesting fib({body})", flush=True)
        print(f" [.] Got {fibonacci_rpc.call(body)}", flush=True)
    fibonacci_rpc.connection.close()


if __name__ == "__main__":
    main()
