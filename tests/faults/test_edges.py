"""The edges of a process: fork, exit, signals, threads, event loops, clocks. Clear errors or right work, never a hang.

What may not happen to the test process itself happens to a program of its own, which gets the broker's URL and the
service's name as its arguments.
"""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from textwrap import dedent

import pytest

from rabbit import Node
from tests.support.evidence import LATE
from tests.support.serving import ROOT, serving
from tests.support.waiting import until
from warren import AsyncClient, CallError, Client, DeadlineExceeded, Service

#: Seconds for a program that does its work in one.
PATIENCE = 30.0

PREAMBLE = """
import asyncio, atexit, logging, os, signal, sys, threading, time
from warren import AsyncClient, CallError, Client
url, name = sys.argv[1:3]
echo, hold = f"{name}.echo", f"{name}.hold"
"""


class Edge:
    """A service whose `hold` begins and waits for `release`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.began = asyncio.Event()
        self.release = asyncio.Event()
        self.held = 0
        self.service = Service(name, concurrency=200)

        @self.service.method
        async def echo(value: object) -> object:
            return value

        @self.service.method
        async def hold() -> str:
            self.held += 1
            self.began.set()
            await self.release.wait()
            return "held"

        @self.service.method
        async def count(to: int) -> AsyncIterator[int]:
            for number in range(to):
                yield number


@pytest.fixture
async def edge(service_name: str) -> Edge:
    """The service, not running yet."""
    return Edge(service_name)


@contextmanager
def program(code: str, *args: str) -> Iterator[subprocess.Popen[str]]:
    """A Python program, killed at the end if it still runs, and all that it has forked: a child that hangs would keep
    its output open, and whoever reads that to its end waiting.
    """
    # Python 3.12 warns of any fork of a process that has threads; what comes of it is what is tested here.
    quiet = "ignore:This process:DeprecationWarning"
    command = [sys.executable, "-W", quiet, "-c", PREAMBLE + dedent(code), *args]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):  # all have ended
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=PATIENCE)


async def output(process: subprocess.Popen[str]) -> str:
    """What a program prints; it must end by itself, well, and without a word on stderr."""
    out, err = await asyncio.to_thread(process.communicate, timeout=PATIENCE)
    assert (process.returncode, err) == (0, "")
    return out


async def run(code: str, *args: str) -> str:
    with program(code, *args) as process:
        return await output(process)


# --- fork ---------------------------------------------------------------------------------------------------------


@pytest.mark.scenario(53, "After a fork parent and child call over connections of their own.")
async def test_after_a_fork_both_processes_call_over_connections_of_their_own(url: str, edge: Edge) -> None:
    async with serving(edge.service, url=url, drain_timeout=0.5):
        out = await run(
            """
            with Client(url, timeout=10) as client:
                assert client.call(echo, "before") == "before"
                child = os.fork()
                mine = "child" if child == 0 else "parent"
                for n in range(50):
                    assert client.call(echo, [mine, n]) == [mine, n]
                if child == 0:
                    sys.exit(0)  # through the block, which closes the child's connection
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
                assert client.call(echo, "after") == "after"
                print(client.ignored_replies)
            """,
            url,
            edge.name,
        )
    assert out == "0\n"


async def test_a_child_that_hangs_ends_with_its_program() -> None:
    """Of these tests: it would keep the program's output open, and them waiting for its end."""
    with program("os.fork() or signal.pause()\nprint('forked')", "", "") as process:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "forked\n"
        assert process.wait(PATIENCE) == 0


async def test_after_a_fork_a_stream_that_was_begun_is_the_parents(url: str, edge: Edge) -> None:
    async with serving(edge.service, url=url, drain_timeout=0.5):
        out = await run(
            """
            with Client(url, timeout=60) as client:
                stream = client.stream(f"{name}.count", 1000)
                assert next(stream) == 0
                child = os.fork()
                if child == 0:
                    try:
                        for item in stream:
                            print("the child has", item)
                    except RuntimeError as error:
                        assert "the parent's" in str(error)
                        stream.close()
                        assert len(list(client.stream(f"{name}.count", 1000))) == 1000
                        sys.exit(0)
                    sys.exit(1)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
                print(len(list(stream)))
            """,
            url,
            edge.name,
        )
    assert out == "999\n"


@pytest.mark.parametrize("early", [True, False], ids=["connected", "unused"])
async def test_a_fork_made_in_c_is_noticed_at_the_next_use(url: str, edge: Edge, early: bool) -> None:
    async with serving(edge.service, url=url, drain_timeout=0.5):
        out = await run(
            """
            import ctypes
            def fork():
                # It runs none of Python's hooks. CPython itself hangs in the child if another thread waits for the
                # interpreter lock in that very moment, so all of them get time to rest.
                time.sleep(0.5)
                return ctypes.PyDLL(None).fork()

            def generation(who, client):
                assert client.call(echo, who) == who
                os.write(1, f"{who}\\n".encode())

            client = Client(url, timeout=10)
            if sys.argv[3] == "True":
                client.connect()
            child = fork()
            if child == 0:
                generation("child", client)
                if (grandchild := fork()) == 0:
                    generation("grandchild", client)
                    os._exit(0)
                os.waitpid(grandchild, 0)
                generation("child again", client)
                client.close()
                os._exit(0)
            os.waitpid(child, 0)
            generation("parent", client)
            client.close()
            """,
            url,
            edge.name,
            str(early),
        )
    assert out.splitlines() == ["child", "grandchild", "child again", "parent"]


async def test_an_async_client_refuses_to_work_on_in_a_child_that_was_forked_in_c(url: str, edge: Edge) -> None:
    async with serving(edge.service, url=url, drain_timeout=0.5):
        out = await run(
            """
            import ctypes

            async def main():
                async with AsyncClient(url) as client:
                    await client.call(echo, 1)
                    child = ctypes.PyDLL(None).fork()
                    if child == 0:  # on the parent's event loop, as far as Python knows
                        try:
                            await client.call(echo, 2)
                        except RuntimeError as error:
                            os.write(1, f"{error}\\n".encode())
                        await client.close()  # the parent's: nothing to do
                        os._exit(0)
                    await asyncio.to_thread(os.waitpid, child, 0)
                    for n in range(50):
                        assert await client.call(echo, n) == n

            asyncio.run(main())
            """,
            url,
            edge.name,
        )
    assert "each forked process" in out


async def test_a_client_closed_before_a_fork_is_closed_in_the_child(url: str, edge: Edge) -> None:
    out = await run(
        """
        client = Client(url, timeout=10)
        client.close()
        child = os.fork()
        if child == 0:
            try:
                client.call(echo, 1)
            except CallError as error:
                os.write(1, f"{error.reason} {error.execution}\\n".encode())
            os._exit(0)
        os.waitpid(child, 0)
        """,
        url,
        edge.name,
    )
    assert out == "CLOSED NOT_SENT\n"


@pytest.mark.scenario(53, "A fork during calls: the child ends none of them, the parent gets all results.")
async def test_a_fork_during_calls_leaves_them_to_the_parent(url: str, edge: Edge, tmp_path: Path) -> None:
    all_begun = tmp_path / "begun"
    async with serving(edge.service, url=url, drain_timeout=0.5):
        with program(
            """
            with Client(url, timeout=20) as client:
                futures = [client.submit(hold) for _ in range(10)]
                while not os.path.exists(sys.argv[3]):
                    time.sleep(0.01)
                child = os.fork()
                if child == 0:
                    client.close()  # at once, and it ends nothing of the parent's
                    os._exit(0)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
                print("forked", flush=True)
                print({future.result() for future in futures})
            """,
            url,
            edge.name,
            str(all_begun),
        ) as process:
            await until(lambda: edge.held == 10)
            all_begun.touch()
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) == "forked\n"
            edge.release.set()
            assert await output(process) == "{'held'}\n"


@pytest.mark.scenario(53, "A child that does not use its client does not hold the parent's connection open.")
async def test_a_child_that_does_not_use_its_client_keeps_no_connection_of_the_parent_open(
    rabbit: Node, url: str, edge: Edge
) -> None:
    async with serving(edge.service, url=url, drain_timeout=0.5):
        others = connections(rabbit)
        with program(
            """
            client = Client(url, heartbeat=0)  # no heartbeats, by which the broker could tell
            client.call(echo, 1)
            child = os.fork()
            if child == 0:
                signal.pause()
            print(child, flush=True)
            os._exit(0)  # without closing: the kernel does it, if nobody else holds the socket
            """,
            url,
            edge.name,
        ) as process:
            assert process.stdout is not None
            child = int(await asyncio.to_thread(process.stdout.readline))
            try:
                await until(lambda: connections(rabbit) == others)
            finally:
                os.kill(child, signal.SIGKILL)


# --- the end of the interpreter -----------------------------------------------------------------------------------


@pytest.mark.scenario(130, "A program that forgets to close its client ends at once, without a word.")
async def test_a_program_that_forgets_to_close_ends_at_once_and_in_silence(url: str, edge: Edge) -> None:
    async with serving(edge.service, url=url, drain_timeout=0.5):
        out = await run(
            """
            client = Client(url)
            future = client.submit(hold)
            print(client.call(echo, "done"))
            """,
            url,
            edge.name,
        )
    assert out == "done\n"


async def test_an_asyncio_program_that_forgets_to_close_ends_at_once_and_in_silence(url: str, edge: Edge) -> None:
    async with serving(edge.service, url=url, drain_timeout=0.5):
        out = await run(
            """
            async def main():
                client = AsyncClient(url)
                task = asyncio.create_task(client.call(hold))
                print(await client.call(echo, "done"))

            asyncio.run(main())
            """,
            url,
            edge.name,
        )
    assert out == "done\n"


async def test_a_client_works_and_can_be_closed_at_exit(url: str, edge: Edge) -> None:
    async with serving(edge.service, url=url, drain_timeout=0.5):
        out = await run(
            """
            client = Client(url)
            client.connect()
            atexit.register(client.close)
            atexit.register(lambda: print(client.call(echo, "at exit"), flush=True))
            """,
            url,
            edge.name,
        )
    assert out == "at exit\n"


async def test_a_client_first_used_at_exit_ends_its_call_in_time(url: str, edge: Edge) -> None:
    with program(
        """
        logging.disable()
        client = Client(url, timeout=1)

        def call():
            try:
                client.call(echo, "too late")
            except (CallError, RuntimeError) as error:  # Python 3.12 starts no thread any more
                print("ended")

        atexit.register(call)
        """,
        url,
        edge.name,
    ) as process:
        assert await output(process) == "ended\n"


async def test_a_daemon_thread_that_calls_for_ever_does_not_keep_the_program(url: str, edge: Edge) -> None:
    async with serving(edge.service, url=url, drain_timeout=0.5):
        out = await run(
            """
            client = Client(url)
            busy = threading.Event()

            def call_for_ever():
                while True:
                    client.call(echo, 1)
                    busy.set()

            for _ in range(4):
                threading.Thread(target=call_for_ever, daemon=True).start()
            assert busy.wait(10)
            print("end")
            """,
            url,
            edge.name,
        )
    assert out == "end\n"


# --- threads and loops --------------------------------------------------------------------------------------------


@pytest.mark.scenario(131, "Waiting in a client's own I/O thread: RuntimeError; the client works on.")
@pytest.mark.parametrize("what", ["call", "cast", "connect"])
async def test_waiting_in_the_clients_own_thread_is_a_clear_error(url: str, edge: Edge, what: str) -> None:
    async with serving(edge.service, url=url, drain_timeout=0.5):
        errors: list[BaseException] = []
        done = threading.Event()

        def wait_in_a_callback(_future: object) -> None:
            method = getattr(client, what)
            try:
                method(*([f"{edge.name}.echo", 1] if what in ("call", "cast") else []))
            except RuntimeError as error:
                errors.append(error)
            done.set()

        client = Client(url)
        try:
            future = await asyncio.to_thread(client.submit, f"{edge.name}.hold")
            await until(lambda: edge.held == 1)
            future.add_done_callback(wait_in_a_callback)
            edge.release.set()
            assert await asyncio.to_thread(done.wait, PATIENCE)
            assert await asyncio.to_thread(client.call, f"{edge.name}.echo", "still here") == "still here"
        finally:
            await asyncio.to_thread(client.close)
    [error] = errors
    assert "own I/O thread" in str(error)


async def test_closing_in_the_clients_own_thread_begins_it_and_does_not_wait_for_itself(url: str, edge: Edge) -> None:
    async with serving(edge.service, url=url, drain_timeout=0.5):
        client = Client(url)
        future = await asyncio.to_thread(client.submit, f"{edge.name}.hold")
        await until(lambda: edge.held == 1)
        future.add_done_callback(lambda _future: client.close())
        edge.release.set()
        await asyncio.to_thread(future.result, PATIENCE)
        await asyncio.to_thread(client.close)  # waits for what the callback began
        assert not any(thread.name == "warren-client" for thread in threading.enumerate())


async def test_a_callback_that_raises_system_exit_does_not_end_the_clients_thread(url: str, edge: Edge) -> None:
    async with serving(edge.service, url=url, drain_timeout=0.5):
        with Client(url) as client:
            future = await asyncio.to_thread(client.submit, f"{edge.name}.hold")
            await until(lambda: edge.held == 1)
            future.add_done_callback(lambda _future: sys.exit("out of a callback"))
            edge.release.set()
            assert await asyncio.to_thread(client.call, f"{edge.name}.echo", "still here") == "still here"
            await asyncio.to_thread(client.close)


async def test_calls_may_be_submitted_from_a_callback(url: str, edge: Edge) -> None:
    async with serving(edge.service, url=url, drain_timeout=0.5):
        with Client(url) as client:
            second: asyncio.Future[object] = asyncio.get_running_loop().create_future()

            def go_on(first: object) -> None:
                future = client.submit(f"{edge.name}.echo", "second")
                future.add_done_callback(lambda done: second.get_loop().call_soon_threadsafe(second.set_result, done))

            client.submit(f"{edge.name}.echo", "first").add_done_callback(go_on)
            done = await asyncio.wait_for(second, PATIENCE)
            assert done.result() == "second"  # type: ignore[attr-defined]
            await asyncio.to_thread(client.close)


async def test_a_blocking_client_inside_a_coroutine_works_and_blocks_that_loop_only(url: str, edge: Edge) -> None:
    async with serving(edge.service, url=url, drain_timeout=0.5):
        out = await run(
            """
            async def main():
                with Client(url) as client:
                    print(client.call(echo, "blocking"))
                async with AsyncClient(url) as client:
                    print(await client.call(echo, "not blocking"))

            asyncio.run(main())
            """,
            url,
            edge.name,
        )
    assert out == "blocking\nnot blocking\n"


async def test_two_clients_of_one_process_do_not_know_each_other(url: str, edge: Edge) -> None:
    async with serving(edge.service, url=url, drain_timeout=0.5), AsyncClient(url) as one, AsyncClient(url) as two:
        calls = [asyncio.create_task(client.call(f"{edge.name}.hold")) for client in (one, two)]
        await until(lambda: edge.held == 2)
        await one.close()
        with pytest.raises(CallError, match="closed"):
            await calls[0]
        edge.release.set()
        assert await calls[1] == "held"
        numbers = await asyncio.gather(*(two.call(f"{edge.name}.echo", n) for n in range(100)))
        assert numbers == list(range(100))


@pytest.mark.scenario(
    132, "An AsyncClient on another event loop: RuntimeError, nothing is sent; unless the old loop is closed."
)
async def test_an_async_client_on_another_loop_is_a_clear_error_and_nothing_is_sent(url: str, edge: Edge) -> None:
    async with serving(edge.service, url=url, drain_timeout=0.5):
        out = await run(
            """
            client = AsyncClient(url)

            async def main(text):
                return await client.call(hold if text == "second" else echo, text)

            async def close():
                await client.close()

            first = asyncio.new_event_loop()
            print(first.run_until_complete(main("first")))
            try:
                asyncio.run(main("second"))
            except RuntimeError as error:
                print(error)
            first.run_until_complete(first.shutdown_asyncgens())
            for task in (tasks := asyncio.all_tasks(first)):
                task.cancel()
            first.run_until_complete(asyncio.wait(tasks))
            first.close()
            print(asyncio.run(main("third")), asyncio.run(main("fourth")))  # each loop was closed before the next
            asyncio.run(close())  # nothing is open any more
            """,
            url,
            edge.name,
        )
        assert edge.held == 0
    first, error, others = out.splitlines()
    assert first == "first"
    assert "opened on another event loop" in error
    assert others == "third fourth"


@pytest.mark.scenario(53, "An AsyncClient in a forked child: RuntimeError that says what to do; the parent's works on.")
async def test_an_async_client_in_a_forked_child_is_a_clear_error_and_the_parents_works_on(
    url: str, edge: Edge
) -> None:
    async with serving(edge.service, url=url, drain_timeout=0.5):
        out = await run(
            """
            async def main():
                async with AsyncClient(url) as client:
                    await client.call(echo, 1)
                    child = os.fork()
                    if child == 0:
                        try:
                            asyncio.set_event_loop(None)
                            asyncio._set_running_loop(None)
                            asyncio.run(client.call(echo, 2))
                        except RuntimeError as error:
                            os.write(1, f"{error}\\n".encode())
                        os._exit(0)
                    await asyncio.to_thread(os.waitpid, child, 0)
                    for n in range(50):
                        assert await client.call(echo, n) == n

            asyncio.run(main())
            """,
            url,
            edge.name,
        )
    assert "opened on another event loop" in out
    assert "each forked process" in out


async def test_a_loop_closed_under_a_client_leaves_no_noise(url: str, edge: Edge) -> None:
    async with serving(edge.service, url=url, drain_timeout=0.5):
        out = await run(
            """
            loop = asyncio.new_event_loop()
            client = AsyncClient(url)
            print(loop.run_until_complete(client.call(echo, "one")))
            loop.close()
            del client, loop

            async def main():
                async with AsyncClient(url) as client:
                    print(await client.call(echo, "two"))

            asyncio.run(main())
            os._exit(0)  # what Python itself says of tasks whose loop was closed under them comes later
            """,
            url,
            edge.name,
        )
    assert out == "one\ntwo\n"


@pytest.mark.scenario(54, "Handlers that call each other to depth 10 over one connection: no deadlock.")
@pytest.mark.parametrize("kind", ["async", "def"])
async def test_handlers_may_call_each_other_to_depth_ten_over_one_connection(
    url: str, service_name: str, kind: str
) -> None:
    service = Service(service_name, concurrency=12)
    target = f"{service_name}.down"
    async with AsyncClient(url, timeout=10) as client:
        with Client(url, timeout=10) as blocking:
            if kind == "async":

                @service.method
                async def down(n: int) -> int:
                    return 0 if n == 0 else 1 + await client.call(target, n - 1)
            else:

                @service.method(name="down")
                def go_down(n: int) -> int:
                    return 0 if n == 0 else 1 + int(blocking.call(target, n - 1))

            async with serving(service, url=url):
                assert await client.call(target, 10) == 10
            await asyncio.to_thread(blocking.close)


async def test_nested_calls_that_need_more_workers_than_there_are_end_at_their_deadline(
    url: str, service_name: str
) -> None:
    service = Service(service_name, concurrency=2)
    target = f"{service_name}.down"
    async with AsyncClient(url) as client:

        @service.method
        async def down(n: int) -> int:
            return 0 if n == 0 else 1 + await client.call(target, n - 1)

        async with serving(service, url=url):
            began = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                await client.options(timeout=1).call(target, 5)
            assert time.monotonic() - began < 1 + LATE
            assert await client.call(target, 1) == 1


# --- interruptions ------------------------------------------------------------------------------------------------


@pytest.mark.scenario(
    55, "Ctrl-C during a call: KeyboardInterrupt at once; the late reply is dropped, the client works on."
)
async def test_ctrl_c_ends_a_waiting_call_at_once_and_the_client_works_on(url: str, edge: Edge) -> None:
    # It does not hear that the call is given up: else its handler may end before it is let go on, and never reply.
    async with serving(edge.service, url=url, drain_timeout=0.5, control=None):
        with program(
            """
            with Client(url, timeout=60) as client:
                client.call(echo, 1)
                try:
                    client.call(hold)
                except KeyboardInterrupt:
                    print("interrupted", flush=True)
                while not client.ignored_replies:  # the late reply
                    assert client.call(echo, 2) == 2
                print("works on")
            """,
            url,
            edge.name,
        ) as process:
            await until(lambda: edge.held == 1)
            process.send_signal(signal.SIGINT)
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) == "interrupted\n"
            edge.release.set()
            assert await output(process) == "works on\n"


async def test_ctrl_c_ends_a_program_that_waits_for_an_asyncio_call(url: str, edge: Edge) -> None:
    async with serving(edge.service, url=url, drain_timeout=0.5):
        with program(
            """
            async def main():
                async with AsyncClient(url, timeout=60) as client:
                    await client.call(hold)

            try:
                asyncio.run(main())
            except KeyboardInterrupt:
                print("interrupted")
            """,
            url,
            edge.name,
        ) as process:
            await until(lambda: edge.held == 1)
            process.send_signal(signal.SIGINT)
            assert await output(process) == "interrupted\n"


@pytest.mark.scenario(55, "A cancelled call is forgotten and its late reply dropped.")
async def test_a_cancelled_call_is_forgotten_and_its_late_reply_dropped(url: str, edge: Edge) -> None:
    # The worker does not hear that the call is given up: else it may not reply.
    server = serving(edge.service, url=url, drain_timeout=0.5, control=None)
    async with server, AsyncClient(url, max_in_flight=1) as client:
        call = asyncio.create_task(client.call(f"{edge.name}.hold"))
        await until(lambda: edge.held == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await client.call(f"{edge.name}.echo", 1) == 1  # the one place is free again
        edge.release.set()
        await until(lambda: client.ignored_replies == 1)


# --- clocks -------------------------------------------------------------------------------------------------------


@pytest.mark.scenario(56, "The wall clock jumps by an hour: deadlines hold, calls are served.")
@pytest.mark.parametrize("jump", [3600.0, -3600.0])
async def test_deadlines_do_not_follow_the_wall_clock(
    url: str, edge: Edge, jump: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock of callers and workers jumps while calls are under way."""
    async with serving(edge.service, url=url, drain_timeout=0.5), AsyncClient(url) as client:
        held = asyncio.create_task(client.call(f"{edge.name}.hold"))
        began = time.monotonic()
        late = asyncio.create_task(client.options(timeout=2).call(f"{edge.name}.hold"))
        await until(lambda: edge.held == 2)
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + jump)
        with pytest.raises(DeadlineExceeded):
            await late
        assert 2 <= time.monotonic() - began < 2 + LATE
        assert await client.call(f"{edge.name}.echo", 1) == 1
        monkeypatch.undo()
        assert await client.call(f"{edge.name}.echo", 2) == 2
        edge.release.set()
        assert await held == "held"


@pytest.mark.scenario(56, "A client that was suspended until the broker gave it up connects again.")
async def test_a_client_that_slept_too_long_connects_again(url: str, edge: Edge, rabbit: Node, tmp_path: Path) -> None:
    """A suspended machine, as far as its processes and the broker can tell."""
    awake = tmp_path / "awake"
    async with serving(edge.service, url=url, drain_timeout=0.5):
        others = connections(rabbit)
        with program(
            """
            with Client(url, timeout=10, heartbeat=1) as client:
                print(client.call(echo, "before"), flush=True)
                while not os.path.exists(sys.argv[3]):
                    time.sleep(0.01)
                while True:
                    try:
                        print(client.call(echo, "after"))
                        break
                    except CallError as error:
                        assert error.reason == "CONNECTION_LOST", error
            """,
            url,
            edge.name,
            str(awake),
        ) as process:
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) == "before\n"
            process.send_signal(signal.SIGSTOP)
            await until(lambda: connections(rabbit) == others)  # the broker has given it up
            process.send_signal(signal.SIGCONT)
            awake.touch()
            out, err = await asyncio.to_thread(process.communicate, timeout=PATIENCE)
    assert (process.returncode, out) == (0, "after\n"), err


def connections(rabbit: Node) -> int:
    """How many connections the broker has."""
    return int(rabbit.eval("length(rabbit_networking:connections())"))
