"""The confirms of one channel on their way out. Pure."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from warren.amqp import methods as amqp
from warren.amqp.methods import Method
from warren.broker.faults import Faults


class Confirms:
    """Consecutive confirms leave as one; faults delay, reorder and withhold them."""

    def __init__(
        self,
        faults: Faults,
        send: Callable[[Method], None],
        later: Callable[[float, Callable[[], None]], None],
        flush_later: Callable[[], None],
    ) -> None:
        """`send` is ignored once the channel is closed; `flush_later` asks for a `flush` later."""
        self._faults = faults
        self._send_now = send
        self._later = later
        self._flush_later = flush_later
        self._last = 0  # the last publish that is to be confirmed
        self._count = 0  # how many of those before it are to be confirmed with it
        self._owed = 0  # confirms that are late or will never come: no later one may include them

    def add(self, tag: int, taken: bool) -> None:
        """A publish has been taken, or refused."""
        if self._faults.withheld_confirms or self._faults.reordered_confirms:
            self._add_badly(tag, taken)
        elif not taken:
            self.flush()
            self._send(_confirm(tag, taken))
        else:
            self._last = tag
            self._count += 1
            if self._count == 1:
                self._flush_later()

    def _add_badly(self, tag: int, taken: bool) -> None:
        self.flush()
        self._owed += 1
        if not self._faults.withholds_confirm():
            self._faults.keeps_confirm(partial(self._pay, _confirm(tag, taken)))

    def flush(self) -> None:
        """Confirm what has been taken."""
        if self._count:
            last = self._last
            tags = range(last - self._count + 1, last + 1)
            self._count = 0
            if self._owed:
                for tag in tags:
                    self._send(_confirm(tag, True))
            else:
                self._send(amqp.Basic.Ack(last, len(tags) > 1))

    def _send(self, method: Method) -> None:
        delay = self._faults.confirm_delay
        if delay:
            self._owed += 1
            self._later(delay, partial(self._pay, method))
        else:
            self._send_now(method)

    def _pay(self, method: Method) -> None:
        """Send a confirm that was owed."""
        self._owed -= 1
        self._send_now(method)


def _confirm(tag: int, taken: bool) -> Method:
    return amqp.Basic.Ack(tag, False) if taken else amqp.Basic.Nack(tag, False, False)
