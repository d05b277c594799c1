"""RabbitMQ's tutorials three, four and five: `logs.py URL TYPE receive N KEY...`, `logs.py URL TYPE emit KEY TEXT`.

With a fanout exchange it is publish/subscribe (three), with direct routing (four), with topic topics (five).
"""

import sys

import pika


def main(url: str, kind: str, role: str, *rest: str) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    exchange = f"{kind}_logs"
    channel.exchange_declare(exchange=exchange, exchange_type=kind)
    if role == "emit":
        key, text = rest
        channel.basic_publish(exchange=exchange, routing_key=key, body=text.encode())
    else:
        count, *keys = rest
        queue = channel.queue_declare(queue="", exclusive=True).method.queue
        for key in keys:
            channel.queue_bind(exchange=exchange, queue=queue, routing_key=key)
        messages = channel.consume(queue, auto_ack=True)
        print("ready", flush=True)
        for _, (method, _properties, body) in zip(range(int(count)), messages, strict=False):
            print(method.routing_key, body.decode(), flush=True)
        channel.cancel()
    connection.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
