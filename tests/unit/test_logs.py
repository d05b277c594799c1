"""What is logged stays on its line, whoever handles the record."""

import io
import logging
from collections.abc import Iterator

import pytest

from warren.logs import LineFormatter, get_logger

EVIL = "1)\n2026-01-01 00:00:00,000 WARNING audit: admin logged in\n\x1b[2J\x1b]0;owned\x07\r\u202e"


@pytest.fixture
def output() -> Iterator[io.StringIO]:
    """What a program's own handler writes of what Warren logs."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger = get_logger("warren.unit")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield stream
    logger.removeHandler(handler)


@pytest.mark.parametrize("argument", [EVIL, ValueError(EVIL), [EVIL], EVIL.encode()], ids=type)
def test_a_message_is_one_line(output: io.StringIO, argument: object) -> None:
    get_logger("warren.unit").info("refused: %s", argument)
    [line] = output.getvalue().splitlines()
    assert line.startswith("INFO refused: ")
    assert "admin logged in" in line
    assert line.isprintable()


def test_a_traceback_keeps_its_lines_and_none_of_them_passes_for_a_record(output: io.StringIO) -> None:
    log = get_logger("warren.unit")
    try:
        raise ValueError(EVIL)
    except ValueError as error:
        log.error("it raised", exc_info=error)
    first, *others = output.getvalue().splitlines()
    assert first == "ERROR it raised"
    assert others[0] == "  Traceback (most recent call last):"
    assert all(line.startswith("  ") and line.isprintable() for line in others)


def test_the_exception_itself_stays_for_those_who_look_at_it(output: io.StringIO) -> None:
    found: list[logging.LogRecord] = []
    log = get_logger("warren.unit")
    handler = logging.Handler()
    handler.emit = found.append  # type: ignore[assignment]
    log.addHandler(handler)
    try:
        log.error("%d of %s", 1, "calc", exc_info=ValueError(EVIL))
    finally:
        log.removeHandler(handler)
    [record] = found
    assert (record.msg, record.args) == ("%d of %s", (1, "calc"))
    assert record.exc_info is not None
    assert record.exc_info[1].args == (EVIL,)  # type: ignore[union-attr]


def test_an_argument_whose_text_fails_is_left_to_the_handlers() -> None:
    class Odd:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    odd = Odd()
    record = logging.LogRecord("warren.unit", logging.INFO, "", 0, "%s", (odd,), None)
    assert get_logger("warren.unit").filter(record)
    assert record.args == (odd,)


def test_a_logger_is_made_escaping_once() -> None:
    assert len(get_logger("warren.unit").filters) == len(get_logger("warren.unit").filters) == 1


def test_the_formatter_indents_the_further_lines_of_others() -> None:
    record = logging.LogRecord("app", logging.INFO, "", 0, "two\nlines\x1b[2J\n  three\n\tfour", None, None)
    lines = LineFormatter("%(message)s").format(record).split("\n")
    assert lines == ["two", "  lines\\x1b[2J", "  three", "  \\tfour"]
