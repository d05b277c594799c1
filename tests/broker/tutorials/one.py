"""RabbitMQ's tutorial one, "Hello World!": `one.py URL receive N`, `one.py URL send TEXT`."""

import sys

import pika


def main(url: str, role: str, what: str) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.queue_declare(queue="hello")
    if role == "send":
        channel.basic_publish(exchange="", routing_key="hello", body=what.encode())
    else:
        messages = channel.consume("hello", auto_ack=True)
        print("ready", flush=True)
        for _, (_method, _properties, body) in zip(range(int(what)), messages, strict=False):
            print("received", body.decode(), flush=True)
        channel.cancel()
    connection.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
