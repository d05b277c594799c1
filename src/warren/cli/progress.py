"""How far a call is, as one line of the terminal that is drawn over itself."""

from __future__ import annotations

import sys
import threading
from shutil import get_terminal_size

from warren.cli.output import complain
from warren.printable import printable
from warren.protocol.progress import Progress

_LINE_START, _REST_OF_LINE = "\r", "\x1b[K"
_BAR = 24


class Bar:
    """On standard error, should that be a terminal. What it shows is said in another thread than what takes it away."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shown = False
        self._over = False

    @staticmethod
    def is_wanted() -> bool:
        """Whether there is somebody to see it."""
        return sys.stderr.isatty()

    def show(self, said: Progress) -> None:
        """Draw it."""
        with self._lock:
            if not self._over:
                complain(f"{_LINE_START}{line(said, get_terminal_size().columns - 1)}{_REST_OF_LINE}", end="")
                self._shown = True

    def hide(self) -> None:
        """Take it away, as something else is printed; the next progress draws it again."""
        with self._lock:
            if self._shown:
                complain(_LINE_START + _REST_OF_LINE, end="")
                self._shown = False

    def close(self) -> None:
        """Take it away, for good."""
        self.hide()
        with self._lock:
            self._over = True


def line(said: Progress, width: int) -> str:
    """A bar where the total is known, the numbers, and the message: what a stranger has written is safe to show."""
    numbers = f"{said.done:g}" if said.total is None else f"{said.done:g}/{said.total:g}"
    parts = [numbers, printable(said.message or "")]
    if said.share is not None:
        filled = int(said.share * _BAR)
        parts.insert(0, f"[{'#' * filled}{' ' * (_BAR - filled)}] {int(said.share * 100):3d} %")
    return "  ".join(part for part in parts if part)[: max(0, width)]
