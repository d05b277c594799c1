"""Pipelines: each stage's result is the next one's argument, and what goes wrong says where and what has run."""

import asyncio
import threading
from typing import Any

import pytest

from tests.support.serving import serving
from tests.support.staged import Image, Staged, TooSmall
from tests.support.waiting import until, until_ended
from warren import (
    AsyncClient,
    CallError,
    Client,
    DeadlineExceeded,
    Execution,
    MethodNotFound,
    Pipeline,
    RemoteError,
    Service,
    Unavailable,
)
from warren.client.target import Targets, find_target
from warren.connection.settings import make_settings
from warren.dead.queue import DeadMessage, Unfit, open_dead_queue
from warren.server import onward

MODES = ("report", "at-least-once", "at-most-once")


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
@pytest.mark.parametrize("delivery", MODES)
async def test_the_last_result_comes_and_each_stage_ran_once(
    url: str, service_name: str, delivery: str, encoding: Any
) -> None:
    staged = Staged(service_name, delivery)
    async with serving(*staged.services, url=url), AsyncClient(url, timeout=60) as client:
        how = client.options(encoding=encoding)
        assert await how.call(staged.whole, "cat") == "cat:6"
        assert await how.call(staged.whole, "dog", size=1) == "dog:2"
    assert staged.names == ["fetch", "resize", "store"] * 2
    assert len({id_ for _, id_ in staged.ran}) == 2  # all stages of a call have its call_id


def test_threads_call_submit_and_map_it(url: str, service_name: str) -> None:
    staged = Staged(service_name)

    async def serve(ready: Any, stop: Any) -> None:
        async with serving(*staged.services, url=url):
            ready.set()
            await asyncio.to_thread(stop.wait)

    ready, stop = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(serve(ready, stop)))
    thread.start()
    try:
        assert ready.wait(60)
        with Client(url, timeout=60) as client:
            assert client.call(staged.whole, "a") == "a:6"
            assert client.submit(staged.whole, "b").result(60) == "b:6"
            assert list(client.map(staged.whole, ["c", "d"])) == ["c:6", "d:6"]
            client.cast(staged.whole, "e")
            deadline = 60.0
            while len(staged.ran) < 15 and deadline > 0:
                stop.wait(0.05)
                deadline -= 0.05
    finally:
        stop.set()
        until_ended(thread)
    assert staged.names.count("store") == 5


async def test_what_the_caller_says_goes_along(url: str, service_name: str) -> None:
    staged = Staged(service_name)
    async with (
        serving(*staged.services, url=url),
        AsyncClient(url, timeout=60, name="shop", send_user=True, headers={"tenant": "acme"}) as client,
    ):
        await client.options(headers={"trace": "1"}).call(staged.whole, "cat")
    assert [call.caller for call in staged.calls] == ["shop"] * 3
    assert [call.user for call in staged.calls] == ["guest"] * 3
    assert [dict(call.headers) for call in staged.calls] == [{"tenant": "acme", "trace": "1"}] * 3
    ends = [call.deadline for call in staged.calls]
    assert max(ends) - min(ends) < 0.5  # one deadline for all


async def test_a_call_inside_a_handler_has_its_root(url: str, service_name: str) -> None:
    staged, outer = Staged(service_name), Service(f"{service_name}-outer")
    async with AsyncClient(url, timeout=60) as client:

        @outer.method
        async def ask(url: str) -> str:
            return await client.options(headers={"tenant": "acme"}).call(staged.whole, url)

        async with serving(outer, *staged.services, url=url):
            assert await client.call(ask, "cat") == "cat:6"
    roots = {call.root_id for call in staged.calls}
    assert len(roots) == 1
    assert roots.isdisjoint(id_ for _, id_ in staged.ran)
    assert [dict(call.headers) for call in staged.calls] == [{"tenant": "acme"}] * 3


async def test_a_call_through_middleware_is_the_same(url: str, service_name: str) -> None:
    staged, seen = Staged(service_name), []

    async def watch(call: Any, proceed: Any) -> Any:
        seen.append(call.name)
        call.headers["tenant"] = "acme"
        return await proceed()

    async with serving(*staged.services, url=url), AsyncClient(url, timeout=60, middleware=[watch]) as client:
        assert await client.call(staged.whole, "cat") == "cat:6"
    assert seen == [f"{service_name}-one.fetch>"]
    assert [dict(call.headers) for call in staged.calls] == [{"tenant": "acme"}] * 3


async def test_a_cast_runs_them_all(url: str, service_name: str) -> None:
    staged = Staged(service_name)
    async with serving(*staged.services, url=url), AsyncClient(url, timeout=60) as client:
        await client.cast(staged.whole, "cat")
        await until(lambda: staged.names == ["fetch", "resize", "store"])
        assert {call.kind for call in staged.calls} == {"cast"}


# --- what goes wrong ----------------------------------------------------------------------------------------------


async def test_an_error_names_its_stage_and_says_that_those_before_have_run(url: str, service_name: str) -> None:
    staged = Staged(service_name)
    staged.fail = KeyError("k")
    async with serving(*staged.services, url=url), AsyncClient(url, timeout=60) as client:
        with pytest.raises(RemoteError) as raised:
            await client.call(staged.whole, "cat")
    error = raised.value
    assert error.stage is not None
    assert (error.stage.number, error.stage.name) == (2, f"{service_name}-two.resize")
    assert error.stage.execution is Execution.EXECUTED
    assert error.method == error.stage.name
    assert error.message.startswith("stage 2 of 3: KeyError")
    assert error.execution is Execution.EXECUTED
    assert staged.names == ["fetch", "resize"]


async def test_an_exception_that_travels_as_itself_has_a_note(url: str, service_name: str) -> None:
    staged = Staged(service_name)
    async with serving(*staged.services, url=url), AsyncClient(url, timeout=60) as client:
        with pytest.raises(TooSmall) as raised:
            await client.call(staged.whole, "cat", size=-1)
    assert "in stage 2 of the pipeline" in raised.value.__notes__


async def test_a_first_stage_that_is_refused_proves_that_nothing_ran(url: str, service_name: str) -> None:
    staged = Staged(service_name)
    strict = Service(f"{service_name}-one")

    @strict.method
    async def fetch(url: int) -> str:
        raise AssertionError

    async with serving(strict, url=url), AsyncClient(url, timeout=60) as client:
        with pytest.raises(CallError) as raised:
            await client.call(staged.whole, "cat")
    assert raised.value.stage == (1, f"{service_name}-one.fetch", Execution.NOT_EXECUTED, False)
    assert raised.value.execution is Execution.NOT_EXECUTED
    assert raised.value.safe_to_retry


async def test_a_later_stage_that_is_refused_does_not(url: str, service_name: str) -> None:
    staged = Staged(service_name)
    other = Service(f"{service_name}-two")

    @other.method
    async def something_else(n: int) -> int:
        raise AssertionError

    async with serving(staged.first, other, url=url), AsyncClient(url, timeout=60) as client:
        with pytest.raises(MethodNotFound) as raised:
            await client.call(staged.whole, "cat")
    assert raised.value.stage == (2, f"{service_name}-two.resize", Execution.NOT_EXECUTED, False)
    assert raised.value.execution is Execution.EXECUTED
    assert not raised.value.safe_to_retry


async def test_a_stage_without_a_queue_is_named(url: str, service_name: str) -> None:
    staged = Staged(service_name)
    async with serving(staged.first, url=url), AsyncClient(url, timeout=60) as client:
        with pytest.raises(Unavailable) as raised:
            await client.call(staged.whole, "cat")
        assert raised.value.reason == "NO_ROUTE"
        assert raised.value.stage == (2, f"{service_name}-two.resize", Execution.NOT_EXECUTED, False)
        assert raised.value.execution is Execution.EXECUTED
        with pytest.raises(Unavailable) as raised:
            await client.options(fail_fast=True, timeout=2).call(staged.whole, "cat")
        assert raised.value.reason == "NO_ROUTE"


async def test_a_stage_without_a_queue_is_told_of_within_a_short_timeout(url: str, service_name: str) -> None:
    staged = Staged(service_name)
    async with serving(staged.first, url=url), AsyncClient(url, timeout=2) as client:
        with pytest.raises(Unavailable) as raised:
            await client.call(staged.whole, "cat")
        assert raised.value.reason == "NO_ROUTE"


async def test_a_request_that_expires_in_a_later_queue_says_where(url: str, service_name: str) -> None:
    staged = Staged(service_name)
    async with serving(*staged.services, url=url):
        pass  # all queues are there
    async with serving(staged.first, url=url), AsyncClient(url, timeout=60) as client:
        with pytest.raises(CallError) as raised:
            await client.options(timeout=2).call(staged.whole, "cat")
        error = raised.value
        assert isinstance(error, DeadlineExceeded)
        if error.reason == "QUEUE_TTL":
            assert error.stage == (2, f"{service_name}-two.resize", Execution.UNKNOWN, False)
            assert error.execution is Execution.EXECUTED
        else:  # our own timer was first
            assert error.execution is Execution.UNKNOWN
        with pytest.raises(Unavailable) as at_once:
            await client.options(timeout=60, fail_fast=True).call(staged.whole, "cat")
        assert at_once.value.reason == "NO_FREE_WORKER"
        assert at_once.value.stage == (2, f"{service_name}-two.resize", Execution.UNKNOWN, False)
        assert at_once.value.execution is Execution.EXECUTED


async def test_a_server_that_knows_no_pipelines_is_not_taken_for_the_end(url: str, service_name: str) -> None:
    staged = Staged(service_name)
    async with serving(*staged.services, url=url), AsyncClient(url, timeout=60) as client:
        with pytest.raises(MethodNotFound) as raised:  # what such a server would find in `type`
            await client.call(f"{service_name}-one.fetch]", "cat")
        assert raised.value.execution is Execution.NOT_EXECUTED
        with pytest.raises(CallError) as unreadable:  # marked, and without a slip
            await client.call(f"{service_name}-one.fetch>", "cat")
        assert unreadable.value.reason == "DECODE"
        assert unreadable.value.execution is Execution.UNKNOWN
    assert staged.ran == []


# --- giving up ----------------------------------------------------------------------------------------------------


async def test_a_call_that_is_given_up_ends_in_whichever_stage_it_is(url: str, service_name: str) -> None:
    staged = Staged(service_name)
    async with serving(*staged.services, url=url), AsyncClient(url, timeout=60) as client:
        task = asyncio.create_task(client.call(staged.waiting, "cat"))
        await until(lambda: "hang" in staged.names)
        task.cancel()
        await until(lambda: "cancelled" in staged.names)
        await asyncio.gather(task, return_exceptions=True)
    assert "store" not in staged.names


async def test_time_that_is_over_ends_the_stage_that_runs(url: str, service_name: str) -> None:
    staged = Staged(service_name)
    async with serving(*staged.services, url=url), AsyncClient(url, timeout=60) as client:
        with pytest.raises(DeadlineExceeded):
            await client.options(timeout=1).call(staged.waiting, "cat")
        await until(lambda: "cancelled" in staged.names)
    assert "store" not in staged.names


async def test_it_can_be_run_without_a_broker() -> None:
    service = Service("shapes")

    @service.method
    def double(n: int) -> int:
        return n * 2

    @service.method
    async def show(n: int) -> str:
        return f"<{n}>"

    assert await Pipeline(double).then(show)(3) == "<6>"


# --- what nobody waits for ----------------------------------------------------------------------------------------


async def dead(url: str, service: str) -> list[DeadMessage]:
    async with open_dead_queue(make_settings(url), service, bodies=True) as queue:
        return [entry async for entry in queue.messages()]


async def retried(url: str, service: str) -> None:
    async with open_dead_queue(make_settings(url), service, bodies=True) as queue:
        async for entry in queue.messages(1):
            await queue.retry(entry)


async def one_dead(url: str, service: str) -> DeadMessage:
    async with asyncio.timeout(60):
        while not (found := await dead(url, service)):
            await asyncio.sleep(0.05)
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("delivery", MODES)
async def test_a_cast_that_fails_is_resumed_at_the_stage_that_failed(
    url: str, service_name: str, delivery: str
) -> None:
    staged = Staged(service_name, delivery)
    staged.fail = ValueError("for now")
    async with serving(*staged.services, url=url), AsyncClient(url, timeout=60) as client:
        await client.cast(staged.whole, "cat")
        entry = await one_dead(url, f"{service_name}-two")
        assert entry.stage is not None
        assert (entry.method, entry.stage.name, entry.death.execution) == ("resize>", "stage 2 of 3", "EXECUTED")
        staged.fail = None
        await retried(url, f"{service_name}-two")
        await until(lambda: staged.names == ["fetch", "resize", "resize", "store"])
        assert len({id_ for _, id_ in staged.ran}) == 1
        assert await dead(url, f"{service_name}-two") == []


@pytest.mark.parametrize("delivery", MODES)
async def test_a_cast_whose_next_stage_has_no_queue_is_resumed_there(
    url: str, service_name: str, delivery: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onward, "_CAST_PATIENCE", 0.1)
    staged = Staged(service_name, delivery)
    async with AsyncClient(url, timeout=60) as client:
        async with serving(staged.first, url=url):
            await client.cast(staged.whole, "cat")
            entry = await one_dead(url, f"{service_name}-one")
            assert (entry.method, entry.reason, entry.death.execution) == ("resize>", "NO_ROUTE", "EXECUTED")
        async with serving(staged.second, staged.third, url=url):
            await retried(url, f"{service_name}-one")
            await until(lambda: staged.names == ["fetch", "resize", "store"])


# --- undoing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["json", "msgpack"])
async def test_what_has_run_is_undone_backwards_when_a_later_stage_fails(
    url: str, service_name: str, encoding: Any
) -> None:
    staged = Staged(service_name)
    staged.fail_last = ValueError("no")
    async with serving(*staged.services, url=url), AsyncClient(url, timeout=60) as client:
        with pytest.raises(RemoteError, match="is being undone") as raised:
            await client.options(encoding=encoding).call(staged.undoing, "cat")
        assert raised.value.stage == (3, f"{service_name}-three.store", Execution.EXECUTED, True)
        await until(lambda: len(staged.undone) == 2)
    given = {name: image for name, _, image in staged.undone}
    assert given == {"forget": Image(3, "cat"), "shrink": Image(6, "cat")}
    (id_,) = {id_ for _, id_ in staged.ran}
    assert {undone for _, undone, _ in staged.undone} == {
        f"{id_}/undo/{service_name}-one.fetch", f"{id_}/undo/{service_name}-two.resize"
    }  # fmt: skip


async def test_what_ends_well_undoes_nothing(url: str, service_name: str) -> None:
    staged = Staged(service_name)
    async with serving(*staged.services, url=url), AsyncClient(url, timeout=60) as client:
        assert await client.call(staged.undoing, "cat") == "cat:6"
    assert staged.undone == []


async def test_a_stage_that_fails_is_not_undone_itself(url: str, service_name: str) -> None:
    staged = Staged(service_name)
    staged.fail = ValueError("no")
    async with serving(*staged.services, url=url), AsyncClient(url, timeout=60) as client:
        with pytest.raises(RemoteError):
            await client.call(staged.undoing, "cat")
        await until(lambda: staged.undone)
    assert [name for name, _, _ in staged.undone] == ["forget"]


async def test_a_stage_that_has_no_queue_undoes_the_one_that_has_run(url: str, service_name: str) -> None:
    staged = Staged(service_name)
    async with serving(staged.first, staged.second, url=url), AsyncClient(url, timeout=60) as client:
        with pytest.raises(Unavailable) as raised:
            await client.call(staged.undoing, "cat")
        assert raised.value.stage == (3, f"{service_name}-three.store", Execution.NOT_EXECUTED, True)
        await until(lambda: len(staged.undone) == 2)


async def test_a_result_that_is_too_large_to_be_kept_is_undone_at_once(url: str, service_name: str) -> None:
    staged = Staged(service_name)
    async with serving(*staged.services, url=url), AsyncClient(url, timeout=60) as client:
        with pytest.raises(CallError, match="return less from a stage that can be undone") as raised:
            await client.call(staged.undoing, "x" * 3000)
        assert raised.value.reason == "TOO_LARGE"
        assert raised.value.stage == (1, f"{service_name}-one.fetch", Execution.EXECUTED, True)
        await until(lambda: staged.undone)
    assert staged.undone[0][2] == Image(3, "x" * 3000)
    assert staged.names == ["fetch"]


async def test_a_request_that_has_something_to_undo_outlives_its_time_and_is_undone(
    url: str, service_name: str
) -> None:
    staged = Staged(service_name)
    async with serving(*staged.services, url=url):
        pass  # all queues are there
    async with AsyncClient(url, timeout=60) as client:
        async with serving(staged.first, url=url):
            with pytest.raises(DeadlineExceeded):
                await client.options(timeout=1).call(staged.undoing, "cat")
        async with serving(staged.first, staged.second, url=url):
            await until(lambda: staged.undone)
    assert staged.names == ["fetch"]


async def test_a_call_that_is_given_up_is_undone(url: str, service_name: str) -> None:
    staged = Staged(service_name)
    async with serving(*staged.services, url=url), AsyncClient(url, timeout=60) as client:
        task = asyncio.create_task(client.call(Pipeline(staged.fetch, undo=staged.forget).then(staged.hang), "cat"))
        await until(lambda: "hang" in staged.names)
        task.cancel()
        await until(lambda: staged.undone)
        await asyncio.gather(task, return_exceptions=True)
    assert "cancelled" in staged.names


async def test_a_cast_that_was_undone_is_kept_and_not_resumed(url: str, service_name: str) -> None:
    staged = Staged(service_name)
    staged.fail_last = ValueError("no")
    async with serving(*staged.services, url=url), AsyncClient(url, timeout=60) as client:
        await client.cast(staged.undoing, "cat")
        entry = await one_dead(url, f"{service_name}-three")
        assert entry.stage is not None
        assert entry.stage.undone
        with pytest.raises(Unfit, match="was undone"):
            await retried(url, f"{service_name}-three")
        await until(lambda: len(staged.undone) == 2)


async def test_what_undoes_a_stage_and_has_no_queue_is_kept_and_sent_there_later(
    url: str, service_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onward, "_CAST_PATIENCE", 0.1)
    staged, other = Staged(service_name), Service(f"{service_name}-other")
    staged.fail = ValueError("no")
    undone: list[Image] = []

    @other.method(delivery="at-least-once")
    async def undo(image: Image) -> None:
        undone.append(image)

    pipeline = Pipeline(staged.fetch, undo=undo).then(staged.resize)
    async with serving(*staged.services, url=url), AsyncClient(url, timeout=60) as client:
        with pytest.raises(RemoteError):
            await client.call(pipeline, "cat")
        entry = await one_dead(url, f"{service_name}-two")
        assert entry.method == "undo>"
        async with serving(other, url=url):
            await retried(url, f"{service_name}-two")
            await until(lambda: undone == [Image(3, "cat")])


def test_what_might_not_be_undone_is_refused_when_it_is_built() -> None:
    staged, careless = Staged("staged"), Staged("careless", "at-most-once")
    with pytest.raises(ValueError, match="resize undoes"):
        Pipeline(staged.fetch).then(staged.resize, undo=staged.resize)
    with pytest.raises(ValueError, match="at-most-once: with its worker"):
        Pipeline(staged.fetch, undo=staged.forget).then(careless.resize)
    with pytest.raises(TypeError, match="does not fit"):
        Pipeline(staged.fetch).then(staged.store, undo=staged.shrink)  # type: ignore[misc]


@pytest.mark.parametrize("delivery", ["report", "at-least-once"])
async def test_what_can_be_undone_is_not_sent_again(url: str, service_name: str, delivery: str) -> None:
    """Of two, one might undo what the other one builds on."""
    staged = Staged(service_name, delivery)
    async with serving(*staged.services, url=url), AsyncClient(url, timeout=60) as client:
        with pytest.raises(ValueError, match="resend=True: what one run of"):
            await client.options(resend=True).call(staged.undoing, "cat")
        with pytest.raises(ValueError, match="resend=True: what one run of"):
            await client.options(resend=True).cast(staged.undoing, "cat")
        assert await client.options(resend=False).call(staged.undoing, "cat") == "cat:6"
        assert await client.options(resend=True).call(staged.whole, "cat") == "cat:6"
    assert staged.names == ["fetch", "resize", "store"] * 2
    assert not find_target(Targets(), client._options, "call", staged.undoing).resend
    assert find_target(Targets(), client._options, "call", staged.whole).resend is (delivery == "at-least-once")
