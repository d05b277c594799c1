"""A process of another make on the control plane: plain Pika, which answers as a test says, or asks."""

import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pika

from tests.support.raw import raw_channel

EXCHANGE = "warren.control"

#: What is published for a question: body, and properties beside or instead of those that echo the question.
Said = tuple[bytes, dict[str, Any]]
#: What it says to a verb, a question's body and its id; nothing, one answer or several.
Says = Callable[[str, bytes, str], list[Said]]


def json_answer(**fields: Any) -> Said:
    """An answer as docs/wire.md has it."""
    return json.dumps(fields).encode(), {}


def unimplemented(verb: str, instance: str) -> Said:
    """A refusal of a verb that it does not know."""
    headers = {"rpc-status": "UNIMPLEMENTED", "rpc-reason": "METHOD"}
    body = json.dumps({"instance": instance, "detail": f"no verb {verb!r} here"}).encode()
    return body, {"type": "error", "headers": headers}


@contextmanager
def plain_process(url: str, services: list[str], says: Says) -> Iterator[list[str]]:
    """While the block runs, process ``old-peer`` answers on a thread of its own; yields the verbs that it is asked."""
    asked: list[str] = []

    def answer(channel: Any, _method: Any, question: Any, body: bytes) -> None:
        asked.append(question.type)
        for text, more in says(question.type, body, question.correlation_id):
            echo = {"type": question.type, "correlation_id": question.correlation_id, **more}
            channel.basic_publish("", question.reply_to, text, pika.BasicProperties(**echo))

    with raw_channel(url) as channel:
        channel.exchange_declare(EXCHANGE, "direct", durable=True)
        queue = channel.queue_declare("", exclusive=True).method.queue
        for key in ("all", "instance:old-peer", *(f"service:{name}" for name in services)):
            channel.queue_bind(queue, EXCHANGE, key)
        channel.basic_consume(queue, answer, auto_ack=True)
        thread = threading.Thread(target=channel.start_consuming)
        thread.start()
        try:
            yield asked
        finally:
            channel.connection.add_callback_threadsafe(channel.stop_consuming)
            thread.join()


class Heard(NamedTuple):
    """An answer, as it is on the wire."""

    properties: Any
    body: dict[str, Any]


def ask(channel: Any, key: str, verb: str | None, body: bytes, answers: int = 1, **more: Any) -> list[Heard]:
    """Ask as docs/wire.md says, and wait for so many answers."""
    queue = channel.queue_declare("", exclusive=True).method.queue
    id = secrets.token_hex(4)
    properties = pika.BasicProperties(type=verb, reply_to=queue, correlation_id=id, **more)
    channel.basic_publish(EXCHANGE, key, body, properties)
    heard: list[Heard] = []
    end = time.monotonic() + 60
    while len(heard) < answers:
        assert time.monotonic() < end, f"{len(heard)} of {answers} answers"
        method, said, text = channel.basic_get(queue, auto_ack=True)
        if method is None:
            channel.connection.sleep(0.01)
        elif said.correlation_id == id:
            heard.append(Heard(said, json.loads(text)))
    return heard
