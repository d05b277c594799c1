"""Text from elsewhere does nothing to whoever looks at it."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warren.printable import aligned, block, printable, printable_bytes, printable_json


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ä 世界 \\ ' \"", "plain ä 世界 \\ ' \""),
        ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
        ("a\r\nb\x85c\u2028d", "a\\r\\nb\\x85c\\u2028d"),
        ("\x9b31m\x7f\x00", "\\x9b31m\\x7f\\x00"),
        ("\u202eevil\u2066\ufeff", "\\u202eevil\\u2066\\ufeff"),
        ("\udc80\U000e0001", "\\udc80\\U000e0001"),
    ],
)
def test_what_is_not_printable_is_shown_as_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_what_is_kept_stays() -> None:
    assert printable("a\n\tb\x1b", keep="\n\t") == "a\n\tb\\x1b"


@given(st.text())
def test_nothing_but_printable_characters_is_left_and_twice_is_once(text: str) -> None:
    once = printable(text)
    assert once.isprintable()
    assert printable(once) == once


def test_bytes_that_are_not_utf8_are_shown_too() -> None:
    assert printable_bytes("ä\n".encode() + b"\xff") == "ä\\n\\xff"


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8"))))
def test_json_means_the_same_and_is_printable(value: dict[str, str]) -> None:
    shown = printable_json(json.dumps(value, ensure_ascii=False, indent=1))
    assert json.loads(shown) == value
    assert not any(unicodedata.category(c) in ("Cc", "Cf") for c in shown if c != "\n")


def test_no_line_of_a_block_begins_where_a_log_line_does() -> None:
    text = block("Traceback:\n  File x\nValueError: no\n2026-01-01 WARNING\r\x1b[2J\n")
    assert text == "  Traceback:\n    File x\n  ValueError: no\n  2026-01-01 WARNING\\r\\x1b[2J"


def test_columns_are_as_wide_as_need_be() -> None:
    rows = [("name", "size", "cause"), ("a", "1000", ""), ("longer", "1", "-")]
    assert aligned(rows, right=[1]) == ["name    size  cause", "a       1000", "longer     1  -"]
    assert aligned([]) == []
