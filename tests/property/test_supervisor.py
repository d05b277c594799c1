"""The life of a connection: whatever is asked of it in whatever order, every wait ends and says why."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from warren.connection import supervisor
from warren.connection.backoff import Backoff
from warren.connection.errors import ConnectFailed, LinkLost
from warren.connection.settings import Settings
from warren.connection.supervisor import Event, State, Supervisor
from warren.errors import CallError, Execution, PermissionDenied, Unavailable

#: Far more than any wait takes here: only a wait without end reaches it.
PATIENCE = 30.0


class Link:
    """What a supervisor needs of a link; it is closed, lost and given up in an instant."""

    peer = "somewhere:5672"

    def __init__(self) -> None:
        self.closed: asyncio.Future[LinkLost] = asyncio.get_running_loop().create_future()
        self.stream = self

    def lose(self) -> None:
        self.fail(LinkLost("lost"))

    async def while_answered(self, work: Awaitable[None], _limit: float) -> None:
        await work

    async def close(self, _patience: float = 3.0) -> None:
        await asyncio.sleep(0)
        self.fail(LinkLost("closed"))

    def fail(self, error: Exception) -> None:
        if not self.closed.done():
            self.closed.set_result(LinkLost(str(error)))


class Life:
    """A supervisor whose attempts to connect end as they are told to, one after the other; then they hang."""

    def __init__(self, attempts: list[str]) -> None:
        self.attempts = iter(attempts)
        self.links: list[Link] = []
        self.failures: list[tuple[CallError, bool]] = []
        self.losses: list[CallError] = []
        self.supervisor = Supervisor(
            Settings(connect_timeout=PATIENCE),
            setup=self.set_up,
            lost=self.losses.append,
            failed=lambda error, for_good: self.failures.append((error, for_good)),
            rng=random.Random(1),
        )
        self.supervisor._backoff = Backoff(random.Random(1), first=0.0, longest=0.0)
        self.waits: list[asyncio.Task[Any]] = []
        self.broken = False

    async def open_link(self, *_where: object) -> Any:
        how = next(self.attempts, "hang")
        await asyncio.sleep(0)
        if how == "hang":
            await asyncio.Event().wait()
        if how == "fail":
            raise ConnectFailed(Unavailable("nobody listens", execution=Execution.NOT_SENT))
        if how == "refuse":
            raise ConnectFailed(PermissionDenied("wrong password", execution=Execution.NOT_SENT), permanent=True)
        if how == "raise":
            raise ZeroDivisionError
        link = Link()
        self.links.append(link)
        return link

    async def set_up(self, _link: object) -> None:
        await asyncio.sleep(0)

    # --- what may be done to it ---------------------------------------------------------------------------------

    async def do(self, what: str) -> None:
        await getattr(self, f"_{what}")()

    async def _start(self) -> None:
        self.supervisor.start()

    async def _open(self) -> None:
        self.waits.append(asyncio.create_task(self.supervisor.open()))

    async def _close(self) -> None:
        self.waits.append(asyncio.create_task(self.supervisor.close()))

    async def _turn(self) -> None:
        await asyncio.sleep(0)

    async def _lose(self) -> None:
        for link in self.links:
            link.lose()

    async def _cancel_a_wait(self) -> None:
        if self.waits:
            self.waits[-1].cancel()

    async def _cancel_the_activity(self) -> None:
        if self.supervisor._activity is not None and not self.supervisor._activity.done():
            self.supervisor._activity.cancel()

    async def end(self) -> list[BaseException | None]:
        """Close it and return how each wait ended."""
        await asyncio.wait_for(self.supervisor.close(), PATIENCE)
        done, pending = await asyncio.wait(self.waits, timeout=PATIENCE) if self.waits else (set(), set())
        assert not pending
        return [None if wait.cancelled() else wait.exception() for wait in done]


OPERATIONS = ["start", "open", "close", "turn", "lose", "cancel_a_wait", "cancel_the_activity"]
ATTEMPTS = ["succeed", "fail", "refuse", "raise", "hang"]


def live(attempts: list[str], operations: list[str], check: Callable[[Life, list[BaseException | None]], None]) -> None:
    async def run() -> None:
        life = Life(attempts)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(supervisor, "open_link", life.open_link)
            for operation in operations:
                await life.do(operation)
            ends = await life.end()
            others = asyncio.all_tasks() - {asyncio.current_task()}
        check(life, ends)
        assert not others, "a task is left"

    asyncio.run(run())


@given(
    attempts=st.lists(st.sampled_from(ATTEMPTS), max_size=4),
    operations=st.lists(st.sampled_from(OPERATIONS), max_size=14),
)
@example(attempts=[], operations=["open", "close"])  # cancelled before its first step
@example(attempts=["succeed"], operations=["open", "turn", "turn", "turn", "turn", "cancel_the_activity", "open"])
@example(attempts=["raise"], operations=["open", "turn", "turn", "turn", "open"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_every_wait_ends_with_a_link_or_with_a_reason(attempts: list[str], operations: list[str]) -> None:
    def check(life: Life, ends: list[BaseException | None]) -> None:
        assert all(end is None or isinstance(end, CallError) for end in ends)
        assert all(not isinstance(end, CallError) or end.execution is Execution.NOT_SENT for end in ends)
        assert life.supervisor.state is State.CLOSED
        assert all(link.closed.done() for link in life.links)
        assert life.supervisor.link is None

    live(attempts, operations, check)


@pytest.mark.parametrize("before", [[], ["start"], ["open", "turn", "turn"], ["start", *["turn"] * 6]])
@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_what_is_closed_stays_closed_and_says_so(before: list[str], attempt: str) -> None:
    async def run() -> None:
        life = Life([attempt])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(supervisor, "open_link", life.open_link)
            for operation in before:
                await life.do(operation)
            ended_before = life.supervisor.state is State.CLOSED
            await asyncio.gather(life.supervisor.close(), life.supervisor.close())
            life.supervisor.start()
            with pytest.raises(CallError) as error:
                await asyncio.wait_for(life.supervisor.open(), PATIENCE)
            assert ended_before or error.value.reason == "CLOSED"
            assert life.supervisor.state is State.CLOSED
            await life.end()

    asyncio.run(run())


def test_the_owner_hears_of_an_activity_that_somebody_cancelled() -> None:
    def check(life: Life, _ends: object) -> None:
        assert [error.reason for error in life.losses] == ["CLOSED"]
        assert [(error.reason, for_good) for error, for_good in life.failures] == [("CLOSED", True)]

    live(["succeed"], ["start", *["turn"] * 8, "cancel_the_activity", "turn", "turn"], check)


def test_the_owner_hears_of_a_bug_in_its_setup() -> None:
    def check(life: Life, _ends: object) -> None:
        assert [(error.reason, for_good) for error, for_good in life.failures] == [("CONNECTION", True)]

    live(["raise"], ["start", "turn", "turn", "turn", "turn"], check)


def test_every_state_is_left_and_every_way_of_the_table_leads_to_closed() -> None:
    ways = {(state, after) for state, steps in supervisor._NEXT.items() for after in steps.values()}
    reachable = {State.NEW}
    for _ in State:
        reachable |= {after for before, after in ways if before in reachable}
    assert reachable == set(State)
    assert all(Event.CLOSE in supervisor._NEXT[state] for state in set(State) - {State.DRAINING, State.CLOSED})
    assert not supervisor._NEXT[State.CLOSED]
