"""What a worker counts, to the last one, in bounded memory."""

import random
from typing import Any, cast

import pytest

from warren.amqp.frames import Delivery, Properties, encode_properties
from warren.connection.errors import LinkLost
from warren.errors import Code, make_error
from warren.protocol.request import Request
from warren.protocol.signature import Method
from warren.server import statistics
from warren.server.attempt import Attempt
from warren.server.replies import Reply
from warren.server.statistics import MOST_CALLERS, Statistics
from warren.server.vitals import Lag, Pace


class Ended:
    """An attempt whose handler has run."""

    def __init__(self, caller: bytes | None, *, waited: float | None = None, began: float = 100.0) -> None:
        delivery = Delivery(1, False, b"")
        delivery.properties = encode_properties(Properties(app_id=caller, type=b"place"))
        self.request = Request(delivery)
        self.method = METHOD
        self.channel = _Channel()
        self.began = began
        self.deadline: float | None = None
        if waited is not None:
            self.request.timeout_ms = 30_000
            self.deadline = began - waited + 30.0


class _Channel:
    closed: Exception | None = None


class _Named:
    name = "place"
    streams = True


METHOD = cast(Method, _Named())
RESULT = Reply(b"", b"")
FAILURE = Reply(b"", b"", make_error(Code.INTERNAL, "SERVER", "no"))
LEFT = Reply(b"", b"", make_error(Code.CANCELLED, "CALLER", "no"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time at which handlers end."""
    now = [100.0]
    monkeypatch.setattr(statistics.time, "monotonic", lambda: now[0])  # type: ignore[attr-defined]
    return now


def count(stats: Statistics, attempt: Ended, reply: Reply = RESULT) -> None:
    stats.ended(cast(Attempt, attempt), reply)


@pytest.mark.parametrize("number", [1, 1023, 1024, 1025, 5000])
def test_every_call_is_counted_however_many_are_added_up_at_a_time(clock: list[float], number: int) -> None:
    stats, rng = Statistics("orders", {"place"}), random.Random(number)
    works = [rng.uniform(0.001, 10) for _ in range(number)]
    for n, work in enumerate(works):
        clock[0] = 100.0 + work
        count(stats, Ended(b"a" if n % 3 else None, waited=work / 4), FAILURE if n % 5 == 0 else RESULT)
    place: dict[str, Any] = stats.as_object()["methods"]["place"]
    fails = len(range(0, number, 5))
    assert (place["ended"], place["failed"]) == (number, {"INTERNAL/SERVER": fails})
    assert sum(place["work"]["buckets"].values()) == sum(place["wait"]["buckets"].values()) == number
    assert place["work"]["total"] == pytest.approx(sum(works))
    assert place["wait"]["total"] == pytest.approx(sum(works) / 4)
    callers = place["callers"]
    assert callers[""]["count"] == len(range(0, number, 3))
    assert sum(c["count"] for c in callers.values()) == number
    assert sum(c["failed"] for c in callers.values()) == fails
    assert sum(c["total"] for c in callers.values()) == pytest.approx(sum(works))
    assert stats.as_object()["methods"]["place"] == place, "asking changes nothing"


def test_casts_have_no_wait(clock: list[float]) -> None:
    stats = Statistics("orders", {"place"})
    count(stats, Ended(b"a"))
    place = stats.as_object()["methods"]["place"]
    assert (place["ended"], place["wait"]["buckets"]) == (1, {})


@pytest.mark.parametrize("link", [None, LinkLost("gone")], ids=["there", "gone"])
def test_a_stream_has_failed_where_its_link_is_gone_and_not_where_its_caller_left(link: Exception | None) -> None:
    stats, attempt = Statistics("orders", {"place"}), Ended(b"a")
    attempt.channel.closed = link
    count(stats, attempt, LEFT)
    failed = stats.as_object()["methods"]["place"]["failed"]
    assert failed == ({} if link is None else {"CANCELLED/CALLER": 1})


def test_callers_beyond_the_first_ones_are_counted_together(clock: list[float]) -> None:
    stats = Statistics("orders", {"place"})
    for n in range(3000):
        count(stats, Ended(b"caller %d" % n), FAILURE)
    callers = stats.as_object()["methods"]["place"]["callers"]
    assert len(callers) == MOST_CALLERS + 1
    assert sum(c["count"] for c in callers.values()) == sum(c["failed"] for c in callers.values()) == 3000
    assert callers["others"]["count"] == 3000 - MOST_CALLERS


def test_names_of_methods_that_do_not_exist_are_not_kept() -> None:
    stats = Statistics("orders", {"place"})
    for n in range(1000):
        delivery = Delivery(1, False, b"")
        delivery.properties = encode_properties(Properties(type=b"place" if n % 2 else b"no %d" % n))
        stats.refused(Request(delivery), "METHOD")
    assert stats.as_object()["refused"] == {"": {"METHOD": 500}, "place": {"METHOD": 500}}


def test_lag_is_the_worst_of_the_last_ten_seconds_and_of_the_moment() -> None:
    lag = Lag(0.0)
    lag.woken(0.25)
    assert lag.worst(0.3) == 0
    lag.woken(1.5)
    assert lag.worst(1.5) == pytest.approx(1.0)
    assert lag.worst(4.75) == pytest.approx(3.0), "it is blocked now"
    at = 1.5
    while at < 12:
        at += 0.25
        lag.woken(at)
    assert lag.worst(at) == 0


def test_the_pace_is_that_of_the_last_ten_seconds_and_of_less_in_the_beginning() -> None:
    pace = Pace(100.0)
    assert pace.lately(102.0, {"calc": 6}) == {"calc": {"ended": 6, "seconds": 2.0}}
    for second in range(1, 61):
        pace.mark(100.0 + second, {"calc": second * 3})
    assert pace.lately(160.5, {"calc": 181}) == {"calc": {"ended": 31, "seconds": 10.5}}
    assert pace.lately(200.0, {"calc": 181}) == {"calc": {"ended": 31, "seconds": 50.0}}, "a loop that was blocked"
    pace.mark(200.0, {"calc": 181})
    assert pace.lately(200.0, {"calc": 181})["calc"]["ended"] == 1


def test_the_pace_needs_few_marks_however_often_one_looks() -> None:
    pace = Pace(0.0)
    for look in range(100_000):
        pace.mark(look / 4, {"calc": look})
    assert len(pace._marks) <= 12


def test_all_that_has_ended_is_counted_whether_it_is_added_up_or_not() -> None:
    counted = Statistics("orders", {"place"})
    for _ in range(3):
        count(counted, Ended(b"till"))
    assert counted.count == 3
    counted.as_object()
    assert counted.count == 3
