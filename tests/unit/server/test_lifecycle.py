"""The life of a server: every wait ends, and says why."""

import asyncio
import threading

import pytest

from warren import Cancelled, Server, Service, Unavailable
from warren.server.lifecycle import Life, Lifecycle, State


class Lives:
    """A life cycle whose lives do as they are told."""

    def __init__(self) -> None:
        self.cycle = Lifecycle()

    def live(self, reason: BaseException | None = None) -> Life:
        async def work() -> None:
            self.cycle.serving()
            await self.cycle.stopped()
            self.cycle.draining()
            if reason is not None:
                raise reason

        return Life(self.cycle, work())

    def fail(self, reason: BaseException) -> Life:
        async def work() -> None:
            raise reason

        return Life(self.cycle, work())


@pytest.fixture
def lives() -> Lives:
    return Lives()


async def test_a_life_serves_until_it_is_told_to_stop(lives: Lives) -> None:
    serving = asyncio.create_task(lives.live())
    await lives.cycle.ready()
    lives.cycle.stop()
    await serving


async def test_nobody_waits_for_a_life_that_was_cancelled_before_its_first_step(lives: Lives) -> None:
    life = lives.live()
    serving = asyncio.create_task(life)
    serving.cancel()
    with pytest.raises(Cancelled, match="stopped before it could serve"):
        await lives.cycle.ready()
    assert await asyncio.gather(serving, return_exceptions=True)
    again = asyncio.create_task(lives.live())  # and the next life is not in its way
    await lives.cycle.ready()
    lives.cycle.stop()
    await again


async def test_nobody_waits_for_a_life_that_is_closed_before_its_first_step(lives: Lives) -> None:
    lives.live().close()
    with pytest.raises(Cancelled):
        await lives.cycle.ready()


async def test_who_waits_hears_the_reason_of_the_end(lives: Lives) -> None:
    serving = asyncio.create_task(lives.fail(Unavailable("no broker")))
    with pytest.raises(Unavailable, match="no broker"):
        await lives.cycle.ready()
    with pytest.raises(Unavailable):
        await serving


async def test_who_waits_for_a_cancelled_life_is_not_cancelled_with_it(lives: Lives) -> None:
    async def work() -> None:
        await asyncio.Event().wait()

    serving = asyncio.create_task(Life(lives.cycle, work()))
    waiting = asyncio.create_task(lives.cycle.ready())
    await asyncio.sleep(0)
    serving.cancel()
    with pytest.raises(Cancelled):
        await waiting


async def test_a_life_that_has_served_says_afterwards_that_it_has_stopped(lives: Lives) -> None:
    serving = asyncio.create_task(lives.live())
    await lives.cycle.ready()
    lives.cycle.stop()
    await serving
    with pytest.raises(Cancelled, match="has stopped"):
        await lives.cycle.ready()


async def test_a_stop_before_the_first_life_ends_it(lives: Lives) -> None:
    lives.cycle.stop()
    await lives.live()


async def test_a_stop_from_another_thread_reaches_it(lives: Lives) -> None:
    serving = asyncio.create_task(lives.live())
    await lives.cycle.ready()
    thread = threading.Thread(target=lives.cycle.stop)
    thread.start()
    await serving
    thread.join()


async def test_two_lives_at_once_are_refused_and_the_first_goes_on(lives: Lives) -> None:
    serving = asyncio.create_task(lives.live())
    await lives.cycle.ready()
    with pytest.raises(RuntimeError, match="being served already"):
        lives.live()
    lives.cycle.stop()
    await serving


async def test_waiting_for_a_server_that_nobody_serves_says_what_to_do(lives: Lives) -> None:
    with pytest.raises(RuntimeError, match="call serve"):
        await lives.cycle.ready()


def test_one_server_lives_on_one_loop_after_another(lives: Lives) -> None:
    async def once() -> None:
        serving = asyncio.create_task(lives.live())
        await lives.cycle.ready()
        lives.cycle.stop()
        await serving

    asyncio.run(once())
    asyncio.run(once())


def test_run_in_a_thread_says_where_it_works() -> None:
    service = Service("any")

    @service.method
    async def any_method() -> None: ...

    errors: list[BaseException] = []

    def run() -> None:
        try:
            Server(service, url="amqp://127.0.0.1:1").run()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert [type(error) for error in errors] == [RuntimeError]
    assert "main thread" in str(errors[0])


def test_a_life_that_is_made_outside_of_its_loop_is_stopped_from_another_thread() -> None:
    """As in ``asyncio.run(server.serve())``."""
    cycle = Lifecycle()

    async def work() -> None:
        asyncio.get_running_loop().call_soon(stopping.start)
        async with asyncio.timeout(60):
            await cycle.stopped()

    stopping = threading.Thread(target=cycle.stop)
    asyncio.run(Life(cycle, work()))
    stopping.join()
    assert cycle.state is State.IDLE
