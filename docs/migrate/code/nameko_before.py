"""Nameko: ``nameko run nameko_before --broker amqp://localhost``, then ``python nameko_before.py``."""

import os

from nameko.exceptions import RemoteError
from nameko.rpc import rpc
from nameko.standalone.rpc import ClusterRpcProxy


class Calc:
    name = "calc"

    @rpc
    def fib(self, n):
        if n < 0:
            raise ValueError("n must not be negative")
        a, b = 0, 1
        for _ in range(n):
            a, b = b, a + b
        return a


def main():
    with ClusterRpcProxy({"AMQP_URI": os.environ.get("AMQP_URL", "amqp://localhost")}, timeout=10) as cluster:
        print("one: ", cluster.calc.fib(30))
        replies = [cluster.calc.fib.call_async(n) for n in range(10)]
        print("many:", [reply.result() for reply in replies])
        try:
            cluster.calc.fib(-1)
        except RemoteError as error:
            print("none:", error.value)


if __name__ == "__main__":
    main()
