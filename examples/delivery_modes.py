"""What if a worker dies? Each method says. First: ``warren serve delivery_modes:service --workers 2``."""

import os

from warren import Client, DeadlineExceeded, Service, WorkerLost, current_call

URL = os.environ.get("WARREN_URL", "amqp://localhost")
service = Service("office")


@service.method  # delivery="report": it is not run again, and the caller is told at once
def pay(amount: int) -> None:
    os._exit(1)


@service.method(delivery="at-least-once")  # another worker runs it again, so it must bear that
def index(document: str) -> str:
    if current_call().attempt == 1:
        os._exit(1)
    return f"{document}, at attempt {current_call().attempt}"


@service.method(delivery="at-most-once")  # taken off the queue before it starts: it is gone
def notify(person: str) -> None:
    os._exit(1)


if __name__ == "__main__":
    with Client(URL, timeout=2) as client:
        try:
            client.call(pay, 100)
        except WorkerLost as error:
            print("pay:", error.message)
        print("index:", client.call(index, "letter.txt"))
        try:
            client.call(notify, "Ann")
        except DeadlineExceeded as error:
            print("notify:", error.message)
