"""RabbitMQ's tutorial six, with Pika: ``python tutorial_six_before.py serve``, then without ``serve``."""

import os
import sys
import uuid

import pika

URL = os.environ.get("AMQP_URL", "amqp://localhost")


def fib(n):
    if n < 0:
        raise ValueError("n must not be negative")
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def on_request(channel, method, properties, body):
    try:
        answer = str(fib(int(body)))
    except ValueError as error:  # else this worker would end, and the next one that gets the request
        answer = f"error: {error}"
    reply = pika.BasicProperties(correlation_id=properties.correlation_id)
    channel.basic_publish("", properties.reply_to, answer.encode(), reply)
    channel.basic_ack(method.delivery_tag)


def serve():
    channel = pika.BlockingConnection(pika.URLParameters(URL)).channel()
    channel.queue_declare("rpc_queue")
    channel.basic_qos(prefetch_count=1)
    channel.basic_consume("rpc_queue", on_request)
    print("serving", flush=True)
    channel.start_consuming()


class RpcClient:
    def __init__(self):
        self.connection = pika.BlockingConnection(pika.URLParameters(URL))
        self.channel = self.connection.channel()
        self.replies = self.channel.queue_declare("", exclusive=True).method.queue
        self.channel.basic_consume(self.replies, self.on_reply, auto_ack=True)

    def on_reply(self, channel, method, properties, body):
        if properties.correlation_id == self.wanted:
            self.answer = body.decode()

    def call(self, n):
        self.answer, self.wanted = None, str(uuid.uuid4())
        properties = pika.BasicProperties(reply_to=self.replies, correlation_id=self.wanted)
        self.channel.basic_publish("", "rpc_queue", str(n).encode(), properties)
        while self.answer is None:  # for ever, if nobody answers
            self.connection.process_data_events(time_limit=None)
        if self.answer.startswith("error: "):
            raise ValueError(self.answer.removeprefix("error: "))
        return int(self.answer)


def main():
    client = RpcClient()
    print("one: ", client.call(30))
    print("many:", [client.call(n) for n in range(10)])
    try:
        client.call(-1)
    except ValueError as error:
        print("none:", error)


if __name__ == "__main__":
    serve() if sys.argv[1:] else main()
