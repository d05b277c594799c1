"""At night every order that was left open gets its end: ``python nightly.py [SECONDS]``, those older than that."""

import os
import sys
from collections import Counter

from orders import Orders

from warren import Client, remote


def finish_all(client: Client, older_than: float) -> Counter[str]:
    """How many ended in what. What failed is tried again the next night."""
    numbers = client.call(remote(Orders).unfinished, older_than)
    ends: Counter[str] = Counter()
    for ended in client.map(remote(Orders).finish, numbers, errors="return", in_flight=20):
        if ended.error is not None:
            print(ended.error, file=sys.stderr)
            ends["failed"] += 1
        else:
            ends[ended.result().status] += 1
    return ends


def main() -> int:
    older_than = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    with Client(os.environ.get("WARREN_URL", "amqp://localhost"), name="nightly", timeout=10) as client:
        ends = finish_all(client, older_than)
    print(", ".join(f"{count} {end}" for end, count in sorted(ends.items())) or "no open orders")
    return 1 if ends["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
