"""Lines of the log as JSON, and with the call that they are about, also those of your own code. Needs no extra.

For ``warren serve --log-config``, or a program's own `logging.config.dictConfig`::

    [formatters.json]
    "()" = "warren.telemetry.logs.JSONFormatter"
    [filters.call]
    "()" = "warren.telemetry.logs.CallFields"
"""

from __future__ import annotations

import datetime
import json
import logging
from typing import Any

from warren.printable import printable
from warren.protocol.running import get_running
from warren.server.context import CurrentCall

#: What is known of a call.
FIELDS = ("service", "method", "call_id", "root_id")
#: What every record has; anything else was given as ``extra``.
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class CallFields(logging.Filter):
    """Gives each record the fields of the call that is being served where it was logged; None outside a handler.

    ``service``, ``method``, ``call_id``, and ``root_id``: the id that the outermost caller has.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """All are let through."""
        fields = dict.fromkeys(FIELDS) | _fields()
        vars(record).update({name: value for name, value in fields.items() if not hasattr(record, name)})
        return True


def _fields() -> dict[str, str | None]:
    call = get_running()
    if not isinstance(call, CurrentCall):
        return {}
    method = call.method.removeprefix(f"{call.service}.")
    return dict(zip(FIELDS, (call.service, method, call.call_id, call.root_id), strict=True))


class JSONFormatter(logging.Formatter):
    """One record, one line, one JSON object: time, level, logger and message, and all that was given as ``extra``."""

    def __init__(self, process: str | None = None, **_options: Any) -> None:
        """`process` is what the lines call this process; other options of formatters are ignored."""
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """The object; fields that are None are left out."""
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
        said = {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": self._process or record.process,
            "message": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in _USUAL},
        }
        if record.exc_info:
            said["exception"] = record.exc_text or self.formatException(record.exc_info)
        return json.dumps({name: value for name, value in said.items() if value is not None}, default=_as_text)


def _as_text(value: object) -> str:
    try:
        return printable(str(value))
    except Exception:  # a stranger's object
        return f"<{type(value).__name__}>"
