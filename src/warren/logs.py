"""Loggers whose lines are safe to show, whatever a peer put into what is logged.

Every logger of Warren comes from `get_logger`: messages are escaped before any handler sees them, ours or those of the
program that Warren runs in. Tracebacks keep their lines, indented. `LineFormatter` does so for what others log.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from types import TracebackType

from warren.printable import block, printable

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class LineFormatter(logging.Formatter):
    """One record, one line: what follows is indented, and nothing in it acts on a terminal."""

    def formatException(self, ei: _ExcInfo) -> str:
        """A traceback; see `block`."""
        return block(super().formatException(ei))

    def format(self, record: logging.LogRecord) -> str:
        """The record's text, with every line but the first indented."""
        first, *others = printable(super().format(record), keep="\n\t").split("\n")
        return "\n".join((first, *(line if line.startswith(" ") else block(line) for line in others)))


_FORMATTER = LineFormatter()


class About(str):
    """A text among the arguments of a line, and what the line is about, which becomes fields of its record.

    Attributes:
        fields: by name, as ``extra`` takes them.
    """

    fields: Mapping[str, object]

    def __new__(cls, text: str, fields: Mapping[str, object]) -> About:
        made = super().__new__(cls, text)
        made.fields = fields
        return made


class _Escaping(logging.Filter):
    """Escapes a record, and gives it its fields; a filter of a logger works before all handlers."""

    def filter(self, record: logging.LogRecord) -> bool:
        for argument in record.args or ():
            if isinstance(argument, About):
                vars(record).update(argument.fields)
        with contextlib.suppress(Exception):  # an argument whose text fails: the handlers report that
            message = record.getMessage()
            if not message.isprintable():  # else the template and its arguments stay, for those who group by them
                record.msg, record.args = "%s", (printable(message),)
        if record.exc_info and not record.exc_text:
            record.exc_text = _FORMATTER.formatException(record.exc_info)  # formatters take it from here
        return True


_ESCAPING = _Escaping()


def get_logger(name: str) -> logging.Logger:
    """The logger of this name, escaping what is logged through it."""
    logger = logging.getLogger(name)
    logger.addFilter(_ESCAPING)
    return logger
