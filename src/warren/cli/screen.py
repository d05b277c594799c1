"""What is shown again and again: over itself on a terminal, one below the other elsewhere. ANSI, no curses."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from shutil import get_terminal_size

from warren.cli.output import say
from warren.cli.parser import Parser, number
from warren.printable import printable

_OTHER_SCREEN, _FIRST_SCREEN = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_TOP, _REST_OF_LINE, _REST = "\x1b[H", "\x1b[K", "\x1b[J"

#: Seconds between two looks.
INTERVAL = 2.0


def add_interval(parser: Parser) -> None:
    """Add how often, and how many times."""
    parser.add_argument(
        "--interval",
        metavar="SECONDS",
        type=number(float, 0.1, 3600),
        default=INTERVAL,
        help="Between two looks (default: %(default)g).",
    )
    parser.add_argument("--count", metavar="N", type=number(int, 1), help="End after so many looks.")


class Screen:
    """Where frames are drawn; made by `screen`."""

    def __init__(self, keys: asyncio.Queue[str] | None, *, terminal: bool) -> None:
        self._keys = keys
        self._terminal = terminal
        self._begun = False

    def draw(self, lines: Iterable[str]) -> None:
        """Show a frame in place of the one before, as much of it as there is room for."""
        lines = [printable(line) for line in lines]
        if self._terminal:
            columns, rows = get_terminal_size()
            shown = [f"{line[:columns]}{_REST_OF_LINE}" for line in lines[: rows - 1]]
            say(_TOP + "\r\n".join([*shown, _REST]), end="")
        else:
            say("\n".join(["", *lines] if self._begun else lines))
        self._begun = True

    async def pause(self, seconds: float) -> str:
        """Wait for so long, or until a key is pressed, which is returned."""
        sys.stdout.flush()
        if self._keys is None:
            await asyncio.sleep(seconds)
            return ""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                return await self._keys.get()
        return ""


@contextlib.asynccontextmanager
async def screen(*, terminal: bool | None = None) -> AsyncIterator[Screen]:
    """A screen that is given back at the end, whatever that is; no terminal is asked for keys if it cannot be one."""
    if terminal is None:  # a dumb one can only go on downwards, as a file
        terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    if not terminal:
        yield Screen(None, terminal=False)
        return
    keys: asyncio.Queue[str] = asyncio.Queue()
    with _pressed(keys) as heard:
        say(_OTHER_SCREEN, end="")
        try:
            yield Screen(keys if heard else None, terminal=True)
        finally:
            say(_FIRST_SCREEN, end="")
            sys.stdout.flush()


@contextlib.contextmanager
def _pressed(keys: asyncio.Queue[str]) -> Iterator[bool]:
    """Hear of each key at once, where the system can do that; whether it can."""
    try:
        import termios
        import tty
    except ImportError:  # Windows
        yield False
        return
    if not sys.stdin.isatty():
        yield False
        return
    number, loop = sys.stdin.fileno(), asyncio.get_running_loop()
    before = termios.tcgetattr(number)
    try:
        tty.setcbreak(number)
        loop.add_reader(number, lambda: keys.put_nowait(os.read(number, 1).decode("latin-1")))
        yield True
    finally:
        loop.remove_reader(number)
        termios.tcsetattr(number, termios.TCSADRAIN, before)
