"""Messages that nobody waited for: log lines, and what workers are told."""

from __future__ import annotations

import pytest

from warren.amqp.frames import Properties
from warren.amqp.tables import encode_table
from warren.client.cancels import Strays
from warren.client.replies import LateReplies


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level("INFO", "warren.client")
    return caplog


def test_a_flood_is_summed_up_in_one_line_per_pause(lines: pytest.LogCaptureFixture) -> None:
    strays = LateReplies(10.0)
    for number in range(2001):
        strays.came(Properties(correlation_id=b"%d" % number), number / 100)
    assert [record.getMessage().partition(": ")[2][:30] for record in lines.records] == [
        "1 since the last such line, no",
        "1000 since the last such line,",
        "1000 since the last such line,",
    ]
    assert "id '2000'" in lines.messages[-1]


def test_a_late_bounce_names_its_method(lines: pytest.LogCaptureFixture) -> None:
    bounce = Properties(type=b"fib", correlation_id=b"7", table=encode_table({"x-first-death-reason": "expired"}))
    LateReplies(10.0).came(bounce, 0.0)
    assert "id '7', method 'fib'" in lines.text


def test_what_a_stranger_sends_is_escaped(lines: pytest.LogCaptureFixture) -> None:
    LateReplies(10.0).came(Properties(correlation_id=b"\x1b[2Jx\n"), 0.0)
    assert lines.records[0].getMessage().isprintable()


def test_the_worker_of_a_stray_stream_is_told_once_per_pause() -> None:
    strays = Strays(2.0, most=10)
    assert [strays.is_due(b"a", now) for now in (0.0, 0.1, 1.9, 2.0, 2.1)] == [True, False, False, True, False]
    assert strays.is_due(b"b", 2.1)


def test_a_flood_of_stray_streams_is_told_in_parts() -> None:
    strays = Strays(2.0, most=10)
    assert sum(strays.is_due(b"%d" % n, 0.0) for n in range(1000)) == 10
    assert sum(strays.is_due(b"%d" % n, 2.0) for n in range(990, 1000)) == 10
    assert len(strays._told) == 10
