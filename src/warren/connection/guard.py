"""Heartbeats from another thread while user code blocks the event loop."""

from __future__ import annotations

import contextlib
import threading
import time

from warren.connection.fork import disown_in_children
from warren.connection.stream import TICK, Stream
from warren.logs import get_logger

log = get_logger("warren.amqp")


class Guard:
    """Keeps connections alive while user code blocks their event loop.

    One daemon thread for the process, running only while there is something to watch. It looks at each stream a few
    times per heartbeat interval and steps in only when the stream's loop has not turned for half of it.
    """

    def __init__(self) -> None:
        self._streams: dict[Stream, float] = {}
        self._reported: dict[Stream, float] = {}
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None

    def disown(self) -> None:
        """In a forked child: watch nothing, with locks of its own."""
        self.__init__()  # type: ignore[misc]

    def watch(self, stream: Stream, heartbeat: float) -> None:
        """Watch a stream whose heartbeat interval is `heartbeat` seconds."""
        with self._change:
            self._streams[stream] = heartbeat
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="warren-heartbeat-guard", daemon=True)
                self._thread.start()
            self._change.notify()

    def unwatch(self, stream: Stream) -> None:
        """Stop watching; a stream that is not watched is ignored."""
        with self._change:
            self._streams.pop(stream, None)
            self._reported.pop(stream, None)
            self._change.notify()

    def _run(self) -> None:
        with self._change:
            while self._streams:
                self._change.wait(min(self._streams.values()) / 4)
                self._look(time.monotonic())
            self._thread = None

    def _look(self, now: float) -> None:
        for stream, heartbeat in self._streams.items():
            blocked = now - stream.last_turn
            if blocked > max(TICK * 1.5, heartbeat / 2):
                with contextlib.suppress(Exception):  # a stream that is being torn down must not end the guard
                    self._step_in(stream, blocked)

    def _step_in(self, stream: Stream, blocked: float) -> None:
        sent = stream.beat()
        if self._reported.get(stream) == stream.last_turn:
            return  # one warning for one blockage
        self._reported[stream] = stream.last_turn
        outlook = "heartbeats continue without it" if sent else "heartbeats cannot be sent for it"
        log.warning(
            "the event loop has been blocked for %.1f s, by code that does not await; %s; run it in a thread",
            blocked,
            outlook,
        )


guard = Guard()
disown_in_children(guard)
