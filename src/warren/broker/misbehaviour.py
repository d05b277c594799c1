"""What a test can have a running broker do: cut, close, refuse, freeze, block, withhold, delay, duplicate, delete."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from warren.broker.errors import AmqpError
from warren.broker.faults import Countdown
from warren.broker.server import Server
from warren.broker.session import Session

T = TypeVar("T")


class Misbehaviour(ABC):
    """The faults that a broker has on demand. What runs it says where its server is, and on which thread."""

    @abstractmethod
    def _running(self) -> Server:
        """The server.

        Raises:
            RuntimeError: it does not run.
        """

    @abstractmethod
    def _do(self, action: Callable[[], T]) -> T:
        """Run on the broker's loop, and write what comes of it."""

    def _sessions(self) -> list[Session]:
        return list(self._running().connections)

    # --- connections --------------------------------------------------------------------------------------------------

    def drop_connections(self, *, reset: bool = False) -> int:
        """Cut all connections without a word of AMQP, with a TCP reset if asked; returns how many there were."""
        return self._do(partial(self._drop, reset))

    def _drop(self, reset: bool) -> int:
        connections = list(self._running().connections.values())
        for connection in connections:
            if reset:
                connection.abort()
            else:
                connection.drop()
        return len(connections)

    def drop_connections_after(
        self, frames: int, *, to_clients: bool = False, reset: bool = False, name: str = ".*"
    ) -> int:
        """Cut the connections that there are, each once so many more frames have come from its client.

        The last frame is taken but not answered: a publish of three frames reaches its queue after the third, and its
        confirm is never sent. With `to_clients` it is the frames that go to a client that count, and the last one is
        still sent; whether a client reads what it got before a reset is its own affair. Heartbeats do not count.
        Connections that are made later are left alone.

        Args:
            frames: How many; 0 cuts at once.
            to_clients: Count what goes to the client.
            reset: End with a TCP reset.
            name: A regular expression for the whole name that a client calls itself, as `status` shows it.

        Returns:
            How many connections will be cut.
        """
        return self._do(partial(self._drop_after, re.compile(name, re.DOTALL), frames, to_clients, reset))

    def _drop_after(self, name: re.Pattern[str], frames: int, to_clients: bool, reset: bool) -> int:
        self._running().flush()  # what is on its way already does not count
        sessions = [
            session for session in self._sessions() if not session.ended and name.fullmatch(session.client.name)
        ]
        for session in sessions:
            session.cut_after(Countdown(frames, to_clients, reset))
        return len(sessions)

    def close_connections(self, code: int = 320, text: str = "broker forced connection closure") -> int:
        """Close all connections with an AMQP reply code; returns how many there were."""

        def close() -> int:
            sessions = self._sessions()
            for session in sessions:
                session.close(AmqpError(code, text))
            return len(sessions)

        return self._do(close)

    def refuse_connections(self, refuse: bool = True) -> None:
        """Reset whoever connects from now on, or stop doing so."""
        self._set_fault("refusing", refuse)

    def freeze(self) -> None:
        """Read nothing and send nothing on any connection, as a stopped process would, until `thaw`."""
        self._do(partial(self._freeze, True))

    def thaw(self) -> None:
        """The end of `freeze`: go on where it was."""
        self._do(partial(self._freeze, False))

    def _freeze(self, frozen: bool) -> None:
        server = self._running()
        server.state.faults.frozen = frozen
        for session in self._sessions():
            session.freeze(frozen)
        for connection in server.connections.values():
            connection.hold_back()

    def block(self, reason: str = "low on memory", *, at_once: bool = False) -> None:
        """Block publishers, as RabbitMQ does under a memory alarm: who publishes is told so and not heard any more.

        As with RabbitMQ a client is told so when it publishes, and its first message is held if it has a body; with
        `at_once` all clients are told and held now.
        """
        self._do(partial(self._alarm, reason, at_once))

    def unblock(self) -> None:
        """The end of `block`: what blocked clients have sent since is read now."""
        self._do(partial(self._alarm, None, False))

    def _alarm(self, reason: str | None, at_once: bool) -> None:
        server = self._running()
        server.state.alarm = reason
        for session in self._sessions():
            if reason is None:
                session.unblock()
            elif at_once:
                session.block()
        for connection in server.connections.values():
            connection.hold_back()

    # --- channels, queues, messages -----------------------------------------------------------------------------------

    def close_channels(self, code: int = 406, text: str = "closed on purpose") -> int:
        """Close all channels with an AMQP reply code; returns how many there were."""

        def close() -> int:
            open_ones = [(s, c) for s in self._sessions() for c in s.channels.by_number.values() if not c.closing]
            for session, channel in open_ones:
                session.channels.fail(channel, AmqpError(code, text))
            return len(open_ones)

        return self._do(close)

    def delete_queue(self, name: str, vhost: str = "/") -> None:
        """Delete a queue under its consumers; they are sent Basic.Cancel.

        Raises:
            KeyError: there is no such queue.
        """

        def delete() -> None:
            host = self._running().state.hosts[vhost]
            host.remove_queue(host.queues[name])

        self._do(delete)

    def withhold_confirms(self, count: int = 1) -> None:
        """Never confirm the next publishes; the messages are taken all the same."""
        self._set_fault("withheld_confirms", count)

    def delay_confirms(self, seconds: float) -> None:
        """Send all confirms so much later, until told otherwise; 0 ends it."""
        self._set_fault("confirm_delay", seconds)

    def reorder_confirms(self, count: int = 2) -> None:
        """Keep the confirms of the next publishes until there are so many, and send them one by one, the last first.

        Until then nothing is confirmed; 0 sends what is kept. The publishes count on all channels together.
        """

        def reorder() -> None:
            faults = self._running().state.faults
            faults.release_confirms()
            faults.reordered_confirms = count

        self._do(reorder)

    def nack_publishes(self, count: int = 1) -> None:
        """Throw the next publishes on channels with confirms away, and nack them."""
        self._set_fault("nacked_publishes", count)

    def duplicate_deliveries(self, count: int = 1, *, queue: str = ".*") -> None:
        """Send the next deliveries twice; `queue` is a regular expression for a whole queue name.

        Direct replies come from ``amq.rabbitmq.reply-to``.
        """
        self._set_fault("duplicated_queues", re.compile(queue, re.DOTALL))
        self._set_fault("duplicated_deliveries", count)

    def delay_deliveries(self, seconds: float, *, queue: str = ".*") -> None:
        """Send all deliveries from some queues so much later, until told otherwise; 0 ends it."""
        self._set_fault("delayed_queues", re.compile(queue, re.DOTALL))
        self._set_fault("delivery_delay", seconds)

    def _set_fault(self, name: str, value: object) -> None:
        self._do(lambda: setattr(self._running().state.faults, name, value))
