"""Faults on demand, as a user's tests cause them."""

import pytest

from tests.plugin.conftest import Project

Options = tuple[str, ...]


def test_cut_connections_end_calls_and_come_back(project: Project) -> None:
    project.passes("""
def test_it(warren_serve, warren_client, warren_faults):
    warren_serve(service)
    call = warren_client.submit(hang)
    assert began.wait(10)
    warren_faults.drop_connections()
    with pytest.raises(Unavailable, match="CONNECTION_LOST"):
        call.result()
    assert warren_client.call(double, 4) == 8
""")


def test_a_broker_that_blocks_gets_no_requests(project: Project) -> None:
    project.passes("""
def test_it(warren_serve, warren_client, warren_faults):
    warren_serve(service)
    assert warren_client.call(double, 1) == 2
    with warren_faults.block():
        sent = True
        while sent:  # a request may cross the news that the broker blocks
            with pytest.raises(CallError) as caught:
                warren_client.options(timeout=0.3).call(double, 2)
            sent = not caught.value.safe_to_retry
        waiting = warren_client.submit(double, 3)
    assert waiting.result() == 6
""")


def test_a_broker_that_stalls_answers_nothing(project: Project) -> None:
    project.passes("""
def test_it(warren_serve, warren_client, warren_faults):
    warren_serve(service)
    with warren_faults.stall():
        with pytest.raises(DeadlineExceeded):
            warren_client.options(timeout=0.3).call(double, 2)
    assert warren_client.call(double, 4) == 8
""")


def test_a_delay_is_of_every_message(project: Project) -> None:
    project.passes("""
def test_it(warren_serve, warren_client, warren_faults):
    warren_serve(service)
    delay = warren_faults.delay(ms=150)
    begun = time.monotonic()
    assert warren_client.call(double, 4) == 8
    assert time.monotonic() - begun >= 0.3
    delay.end()
    assert warren_client.options(timeout=5).call(double, 4) == 8
""")


def test_a_duplicate_reply_is_ignored_and_counted(project: Project) -> None:
    project.passes("""
def test_it(warren_serve, warren_client, warren_faults):
    warren_serve(service)
    warren_faults.duplicate_reply()
    assert warren_client.call(double, 4) == 8
    assert warren_client.call(double, 5) == 10
    assert warren_client.ignored_replies == 1
""")


def test_faults_that_last_are_over_when_the_test_is(project: Project) -> None:
    project.passes(
        """
@pytest.mark.parametrize("fault", ["stall", "block", "delay"])
def test_one(warren_faults, warren_serve, warren_client, fault):
    warren_serve(service)
    getattr(warren_faults, fault)(*([60_000] if fault == "delay" else []))

def test_two(warren_serve, warren_client):
    warren_serve(service)
    assert warren_client.call(double, 4) == 8
""",
        count=4,
    )


# --- killed workers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_is_reported_and_replaced(project: Project, broker_options: Options, workers: int) -> None:
    project.passes(
        f"""
def test_it(warren_serve, warren_client, warren_faults):
    warren_serve(service, workers={workers}, processes=True)
    call = warren_client.options(timeout=30).submit(hold)  # as long as it may take to start another worker
    warren_faults.kill_worker()
    with pytest.raises(WorkerLost):
        call.result()
    assert warren_client.call(double, 4) == 8

def test_again(warren_serve, warren_client, warren_faults):
    warren_serve(service, workers={workers}, processes=True)
    call = warren_client.options(timeout=30).submit(patient)
    warren_faults.kill_worker()
    assert call.result() == 2
""",
        *broker_options,
        count=2,
    )


def test_an_idle_worker_can_be_killed_too(project: Project) -> None:
    project.passes("""
import os

@service.method
def pid() -> int:
    return os.getpid()

def test_it(warren_serve, warren_client, warren_faults):
    warren_serve(service, processes=True)
    first = warren_client.call(pid)
    warren_faults.kill_worker(busy=False)
    assert warren_client.call(pid) != first
""")


def test_an_async_test_kills_in_a_thread(project: Project) -> None:
    project.write("""
@pytest.mark.asyncio
async def test_well(warren_serve, warren_async_client, warren_faults):
    warren_serve(service, processes=True)
    call = asyncio.create_task(warren_async_client.options(timeout=30).call(hold))
    await asyncio.to_thread(warren_faults.kill_worker)
    with pytest.raises(WorkerLost):
        await call

@pytest.mark.asyncio
async def test_badly(warren_serve, warren_async_client, warren_faults):
    warren_serve(service, processes=True)
    call = asyncio.create_task(warren_async_client.call(hold))
    call.add_done_callback(asyncio.Task.exception)  # nobody waits for it
    warren_faults.kill_worker()
""")
    result = project.run()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*await asyncio.to_thread(warren_faults.kill_worker)*"])


def test_workers_of_the_tests_own_process_cannot_be_killed(project: Project) -> None:
    project.write("""
def test_it(warren_serve, warren_faults):
    warren_serve(service)
    warren_faults.kill_worker()
""")
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*kill_worker() needs worker processes*processes=True*"])


def test_what_only_the_embedded_broker_does_fails_on_rabbitmq_and_says_why(project: Project, url: str) -> None:
    project.write("""
@pytest.mark.parametrize("fault", ["drop_connections", "block", "stall", "duplicate_reply", "delay"])
def test_it(warren_faults, fault):
    with pytest.raises(Exception):
        getattr(warren_faults, fault)(*([1] if fault == "delay" else []))
""")
    result = project.run(f"--warren-url={url}")
    result.assert_outcomes(failed=5)
    result.stdout.fnmatch_lines(["*stall() is done by the embedded broker; this session runs on RabbitMQ*"])
