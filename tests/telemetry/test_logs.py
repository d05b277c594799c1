"""Lines of the log as JSON."""

import json
import logging
import sys
from typing import Any

from warren.telemetry.logs import CallFields, JSONFormatter


class Nasty:
    def __str__(self) -> str:
        raise ValueError("no text")


def line(message: str, *args: object, exc_info: Any = None, **extra: object) -> dict[str, Any]:
    log = logging.Logger("app")
    record = log.makeRecord("app", logging.WARNING, __file__, 1, message, args, exc_info, extra=extra)
    text = JSONFormatter("worker-1").format(record)
    assert text.isprintable()
    read: dict[str, Any] = json.loads(text)
    return read


def test_a_line_is_an_object_with_all_that_was_given() -> None:
    said = line("%d teas", 3, order=7, service="shop")
    assert said.pop("time").endswith("Z")
    assert said == {
        "level": "warning",
        "logger": "app",
        "process": "worker-1",
        "message": "3 teas",
        "order": 7,
        "service": "shop",
    }


def test_it_is_one_line_whatever_is_logged() -> None:
    said = line("one\ntwo\x1b[31m", what="\x00", who=Nasty(), where={"a": Nasty()})
    assert said["message"] == "one\ntwo\x1b[31m"
    assert said["who"] == "<Nasty>"


def test_a_traceback_is_a_field() -> None:
    try:
        raise ValueError("trouble")
    except ValueError:
        said = line("failed", exc_info=sys.exc_info())
    assert said["exception"].endswith("ValueError: trouble")


def test_outside_a_handler_there_is_no_call() -> None:
    record = logging.makeLogRecord({"msg": "x", "call_id": "own"})
    assert CallFields().filter(record)
    assert (vars(record)["call_id"], vars(record)["method"]) == ("own", None)
