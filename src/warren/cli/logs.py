"""What ``warren serve`` logs where: as a file says, else as the services' own modules do, else to stderr.

The parent process imports no service, so only a file or its own handler speaks for it.
"""

from __future__ import annotations

import json
import logging
import logging.config
import os
import sys
import tomllib
from pathlib import Path
from typing import Any, Literal

from warren.cli.output import RED, YELLOW, painted
from warren.logs import LineFormatter, get_logger
from warren.telemetry.logs import CallFields, JSONFormatter

#: The least severe messages that are shown.
LEVELS = ("debug", "info", "warning", "error")
#: What a line is.
Form = Literal["text", "json"]


class LogConfigError(Exception):
    """The file of ``--log-config`` cannot be used; the text says why."""


class Logs:
    """How one process logs.

    Call `begin` before services are imported and `settle` after it, in a process that imports any.
    """

    def __init__(
        self, process: str, level: str | None, file: Path | None, form: Form = "text", access: bool = False
    ) -> None:
        """Prepare; nothing is configured yet.

        Args:
            process: what the lines call this process, unless `file` is given.
            level: the least severe messages to show; None: INFO, or what the modules set.
            file: a configuration for `logging.config.dictConfig`, in JSON or TOML.
            form: what a line is, unless `file` is given.
            access: whether there is a line for each call.

        Raises:
            LogConfigError: there is no such file, or it cannot be read.
        """
        self._process, self._level = process, level
        self._file = file
        self._form, self._access = form, access
        self._config = None if file is None else _read(file)

    def begin(self) -> None:
        """Configure from the file, if there is one.

        Without one nothing is done yet: a handler of ours would turn ``logging.basicConfig`` in a module into nothing.

        Raises:
            LogConfigError: the configuration is wrong.
        """
        if self._config is not None:
            self._apply(self._config)
        self._state = _state()

    def settle(self) -> None:
        """Configure what nobody has configured. The file has the last word; without one the modules have it."""
        if self._config is None:
            self._fill_in()
        elif _state() != self._state:
            self._apply(self._config)
        _let_warren_speak()
        if self._access:
            get_logger("warren.access").setLevel(logging.INFO)

    def _apply(self, config: dict[str, Any]) -> None:
        here = os.getcwd()
        if here not in sys.path:  # the file may name a formatter of the application's
            sys.path.insert(0, here)
        try:
            # The default would silence all loggers that exist already, Warren's own first.
            logging.config.dictConfig({"version": 1, "disable_existing_loggers": False} | config)
        except Exception as error:  # it imports and calls what the file says
            cause = f" ({error.__cause__})" if error.__cause__ else ""
            raise LogConfigError(f"--log-config {self._file}: {error}{cause}") from error

    def _fill_in(self) -> None:
        root = logging.getLogger()
        if not root.handlers:
            root.addHandler(_handler(self._process, self._form))
            if root.level == logging.WARNING:  # the default, so nobody has set another
                root.setLevel(logging.INFO)
        if self._level is not None:
            root.setLevel(self._level.upper())


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
        config = tomllib.loads(text) if file.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise LogConfigError(f"--log-config {file}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise LogConfigError(
            f"--log-config {file}: {error}. It has to be a dictionary for logging.config.dictConfig, in JSON, or in"
            " TOML if the name ends so"
        ) from error
    if not isinstance(config, dict):
        raise LogConfigError(
            f"--log-config {file}: must be a dictionary for logging.config.dictConfig, not a {type(config).__name__}"
        )
    return config


def _state() -> tuple[int, list[logging.Handler]]:
    root = logging.getLogger()
    return root.level, root.handlers.copy()


def _let_warren_speak() -> None:
    """A module's ``dictConfig`` disables all loggers that exist, by default; nobody means Warren's."""
    for name, logger in logging.root.manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and name.partition(".")[0] == "warren":
            logger.disabled = False
    pika = logging.getLogger("pika")
    if pika.level == logging.NOTSET:
        pika.setLevel(logging.CRITICAL)  # what it has to say, Warren says better


def _handler(process: str, form: Form) -> logging.Handler:
    """Log to stderr, one record a line."""
    handler = logging.StreamHandler()
    if form == "json":
        handler.addFilter(CallFields())
        handler.setFormatter(JSONFormatter(process))
    else:
        handler.setFormatter(_Coloured(f"%(asctime)s %(levelname)s {process} %(name)s: %(message)s"))
    return handler


class _Coloured(LineFormatter):
    """On a terminal, what somebody has to look at has a colour."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if sys.stderr is None or record.levelno < logging.WARNING:
            return text
        return painted(text, YELLOW if record.levelno == logging.WARNING else RED, sys.stderr)
