"""A secret that expires: renewed in time, tried again until it expires, and given up then."""

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from warren.connection.errors import ConnectFailed, LinkLost
from warren.connection.lease import EARLIEST, LATEST, Lease
from warren.connection.settings import Secret


class HurriedLoop(asyncio.SelectorEventLoop):
    """Does not wait for its timers: its clock jumps to the next one."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        timers = [timer.when() for timer in self._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
        if timers and not self._ready:  # type: ignore[attr-defined]
            self.now = max(self.now, min(timers))
        super()._run_once()  # type: ignore[misc]


@pytest.fixture
def loop() -> Iterator[HurriedLoop]:
    loop = HurriedLoop()
    yield loop
    loop.close()


class Broker:
    """Gets secrets, when, and may not want them."""

    def __init__(self, loop: HurriedLoop, behave: Callable[[str], None] = lambda _secret: None) -> None:
        self.loop, self.behave = loop, behave
        self.got: list[tuple[float, str]] = []

    async def update(self, secret: str) -> None:
        self.got.append((self.loop.now, secret))
        self.behave(secret)


def run(loop: HurriedLoop, *secrets: Any, broker: Broker, seed: int = 1) -> bool:
    """Keep a lease whose function gives these in turn, exceptions raised, the last one again and again."""
    left = list(secrets)

    async def source() -> Any:
        given = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(given, Exception):
            raise given
        return given

    async def main() -> bool:
        lease = Lease(source, 10.0, random.Random(seed), lambda: loop.now)
        await lease.ask()
        return await lease.keep(broker.update)

    return loop.run_until_complete(main())


def test_it_is_renewed_before_it_expires_and_the_next_one_by_its_own_time(loop: HurriedLoop) -> None:
    broker = Broker(loop)
    assert run(loop, Secret("a", 100), Secret("b", 1000), Secret("c"), broker=broker)
    (first, b), (second, c) = broker.got
    assert (b, c) == ("b", "c")
    assert 100 * EARLIEST <= first <= 100 * LATEST
    assert 1000 * EARLIEST <= second - first <= 1000 * LATEST


def test_not_all_clients_renew_at_once(loop: HurriedLoop) -> None:
    times = set()
    for seed in range(20):
        broker = Broker(loop)
        began = loop.now
        run(loop, Secret("a", 100), "b", broker=broker, seed=seed)
        times.add(broker.got[0][0] - began)
    assert max(times) - min(times) > 10


def test_a_password_that_does_not_expire_is_never_asked_for_again(loop: HurriedLoop) -> None:
    broker = Broker(loop)
    assert run(loop, "a", broker=broker)
    assert broker.got == []


@pytest.mark.parametrize("failure", [OSError("no provider"), None], ids=["raises", "no str"])
def test_a_function_that_fails_is_asked_again_until_it_works(
    loop: HurriedLoop, caplog: pytest.LogCaptureFixture, failure: Any
) -> None:
    broker = Broker(loop)
    assert run(loop, Secret("a", 100), failure, failure, failure, "b", broker=broker)
    assert [secret for _, secret in broker.got] == ["b"]
    assert broker.got[0][0] < 100
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1, "the same failure again is not news"
    assert "cannot be renewed" in warnings[0].getMessage()


def test_one_that_cannot_be_renewed_is_over_when_it_expires_and_not_before(loop: HurriedLoop) -> None:
    broker = Broker(loop)
    assert not run(loop, Secret("a", 100), OSError("no provider"), broker=broker)
    assert loop.now == pytest.approx(100)
    assert broker.got == []


def test_a_broker_that_does_not_answer_is_asked_again_within_the_limit(loop: HurriedLoop) -> None:
    unanswered = Broker(loop)

    async def silence(secret: str) -> None:
        unanswered.got.append((loop.now, secret))
        await asyncio.Event().wait()

    unanswered.update = silence  # type: ignore[method-assign]
    assert not run(loop, Secret("a", 100), Secret("b", 100), broker=unanswered)
    assert len(unanswered.got) >= 2
    assert loop.now == pytest.approx(100)


def test_a_connection_that_is_closing_counts_as_a_failure(loop: HurriedLoop) -> None:
    def refuse(_secret: str) -> None:
        raise LinkLost("closing")

    assert not run(loop, Secret("a", 100), "b", broker=Broker(loop, refuse))


def test_the_first_one_has_to_come(loop: HurriedLoop) -> None:
    with pytest.raises(ConnectFailed, match="no provider"):
        run(loop, OSError("no provider"), broker=Broker(loop))


def test_a_secret_that_lasts_longer_than_timers_do_is_renewed_all_the_same(loop: HurriedLoop) -> None:
    broker = Broker(loop)
    assert run(loop, Secret("a", 90 * 86_400), "b", broker=broker)
    assert broker.got[0][0] < 90 * 86_400


@pytest.mark.parametrize(
    ("value", "expires_in", "error", "says"),
    [
        (None, 5, TypeError, "value must be a str, not NoneType"),
        (b"x", None, TypeError, "value must be a str, not bytes"),
        ("x", "5", TypeError, "expires_in='5' is not a number of seconds"),
        ("x", 0, ValueError, "expires_in=0 must be more than 0"),
        ("x", -3, ValueError, "expires_in=-3 must be more than 0"),
        ("x", float("nan"), ValueError, "expires_in=nan must be"),
        ("x", float("inf"), ValueError, "expires_in=inf must be"),
    ],
)
def test_a_secret_that_makes_no_sense_says_so(value: Any, expires_in: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        Secret(value, expires_in)


def test_a_secret_does_not_show_its_value() -> None:
    assert "hidden" not in repr(Secret("hidden", 5))
