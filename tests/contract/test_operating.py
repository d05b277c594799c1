"""The commands of operators on running services: what they find, and how soon."""

import asyncio
import json
import logging
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest

from rabbit import Node
from tests.cli.running import Result, run_here
from tests.contract.brokers import private_broker
from tests.contract.test_permissions import Accounts
from tests.support.serving import ROOT, serving
from warren import AsyncClient, Cancelled, Execution, Pipeline, Server, Service

Warren = Callable[..., Awaitable[Result]]

#: Seconds in which the first output of each command has to be there, and what a busy machine may take.
LIMIT, BUSY = 0.5, 5


@pytest.fixture
def warren(url: str) -> Warren:
    async def run(*args: str) -> Result:
        return await asyncio.to_thread(run_here, args, WARREN_URL=url, COLUMNS="200")

    return run


class Calc:
    """A service whose `hang` runs until it is let go."""

    def __init__(self, name: str) -> None:
        self.service = Service(name, version="2.1")
        self.go = asyncio.Event()
        self.hanging = asyncio.Event()
        self.stopped = asyncio.Event()

        @self.service.method
        async def fib(n: int, *, start: int = 0) -> int:
            """A number of Fibonacci's."""
            return n

        @self.service.method
        async def fail() -> None:
            raise RuntimeError("its own trouble")

        @self.service.method
        async def hang() -> None:
            self.hanging.set()
            try:
                await self.go.wait()
            except asyncio.CancelledError:
                self.stopped.set()
                raise

        self.fib, self.fail, self.hang = fib, fail, hang


@pytest.fixture
async def calc(url: str, service_name: str) -> AsyncIterator[Calc]:
    made = Calc(service_name)
    async with serving(made.service, url=url):
        yield made
        made.go.set()


async def test_what_was_called_is_seen_with_who_called_it(url: str, warren: Warren, calc: Calc) -> None:
    name = calc.service.name
    async with AsyncClient(url, name="front") as client:
        assert [await client.call(calc.fib, n) for n in range(5)] == [*range(5)]
        with pytest.raises(Exception, match="its own trouble"):
            await client.call(calc.fail)
    done = await warren("stats", name, "--json", "--wait", "2")
    methods = json.loads(done.stdout)["services"][name]["methods"]
    assert (methods["fib"]["ended"], methods["fib"]["callers"]["front"]["count"]) == (5, 5)
    assert (sum(methods["fail"]["failed"].values()), methods["fail"]["callers"]["front"]["failed"]) == (1, 1)
    graph = json.loads((await warren("graph", "--format", "json", "--wait", "2")).stdout)
    edges = {(e["caller"], e["method"]): (e["count"], e["failed"]) for e in graph["edges"] if e["service"] == name}
    assert edges == {("front", "fib"): (5, 0), ("front", "fail"): (1, 1)}
    (row,) = [row for row in json.loads((await warren("ls", "--json", "--wait", "2")).stdout) if row["service"] == name]
    assert (row["ended"], row["failed"], row["ready"], row["consumers"], row["dead"]) == (6, 1, 0, 1, 0)


async def test_a_call_is_found_while_it_runs_and_in_the_dead_queue(url: str, warren: Warren, calc: Calc) -> None:
    name = calc.service.name
    async with AsyncClient(url, name="front") as client:
        calling = asyncio.create_task(client.call(calc.hang))
        await calc.hanging.wait()
        (call,) = json.loads((await warren("calls", name, "--json", "--wait", "2")).stdout)
        assert (call["method"], call["caller"], call["state"]) == ("hang", "front", "running")
        done = await warren("where", call["call_id"], "--wait", "2")
        assert (done.exit_code, f"it runs at {call['instance']}: {name}.hang for front" in done.stdout) == (0, True)
        calc.go.set()
        await calling
        done = await warren("where", call["call_id"], "--wait", "2")
        assert (done.exit_code, "it has ended" in done.stderr) == (1, True)

        await client.cast(calc.fail)

        async def dead() -> bool:
            rows = json.loads((await warren("queues", name, "--json", "--wait", "2")).stdout)
            return any(row["service"] == name and row["dead"] == 1 for row in rows)

        end = time.monotonic() + 60
        while not await dead():
            assert time.monotonic() < end
        (message,) = json.loads((await warren("dead", "list", name, "--json")).stdout)
        done = await warren("where", message["id"], "--wait", "2")
        assert (done.exit_code, f"it is in the dead queue of {name}" in done.stdout) == (0, True)
        assert f"warren dead show {name} {message['id']}" in done.stdout
        assert (await warren("dead", "list", name)).exit_code == 0  # it was put back


async def test_health_and_info_are_those_of_the_running_process(warren: Warren, calc: Calc) -> None:
    name = calc.service.name
    assert (await warren("health", name, "--wait", "2")).exit_code == 0
    done = await warren("info", f"{name}.fib", "--wait", "2")
    assert "fib(n: int, *, start: int = 0) -> int" in done.stdout
    assert "A number of Fibonacci's." in done.stdout
    info = json.loads((await warren("info", name, "--json", "--wait", "2")).stdout)
    assert info["service"]["version"] == "2.1"


async def test_calls_are_made_with_stubs_of_a_running_service(url: str, warren: Warren, calc: Calc) -> None:
    done = await warren("stubs", calc.service.name, "--wait", "2")
    assert (done.stderr, done.exit_code) == ("", 0)
    made = ModuleType("calc_api")
    exec(done.stdout, made.__dict__)
    async with AsyncClient(url) as client:
        assert await client.call(made.fib, 30) == 30
        assert await client.call(made.fib, 30, start=1) == 30


class Gone(LookupError):
    """There is no such picture."""


@dataclass
class Image:
    url: str
    width: int = 3


async def test_stubs_of_two_services_fit_together_and_raise_their_errors(
    url: str, warren: Warren, service_name: str
) -> None:
    images, sizes = Service(f"{service_name}-a", errors=[Gone]), Service(f"{service_name}-b")

    @images.method
    async def fetch(url: str) -> Image:
        if url == "nowhere":
            raise Gone(url)
        return Image(url)

    @sizes.method
    async def resize(image: Image, factor: int = 2) -> Image:
        return Image(image.url, image.width * factor)

    async with serving(images, url=url), serving(sizes, url=url), AsyncClient(url) as client:
        done = await warren("stubs", images.name, sizes.name, images.name, "--wait", "2")
        assert (done.stderr, done.exit_code) == ("", 0)
        made = load(done.stdout)
        a, b = (getattr(made, service.name.replace("-", "_")) for service in (images, sizes))
        assert await client.call(Pipeline(a.fetch).then(b.resize), "here") == made.Image("here", 6)
        with pytest.raises(made.Gone, match="nowhere") as caught:
            await client.call(a.fetch, "nowhere")
        assert isinstance(caught.value, LookupError)


def load(text: str) -> ModuleType:
    made = sys.modules["apis"] = ModuleType("apis")  # classes are looked up there
    exec(text, made.__dict__)
    return made


async def test_processes_are_told_how_much_to_serve_and_to_log(url: str, warren: Warren, service_name: str) -> None:
    async with serving(Calc(service_name).service, url=url, control="full"):
        done = await warren("concurrency", service_name, "7", "--wait", "5")
        assert (done.exit_code, f"{service_name}: 7 at a time, was" in done.stdout) == (0, True), done
        info = json.loads((await warren("info", service_name, "--json", "--wait", "2")).stdout)
        assert info["service"]["concurrency"] == 7
        before = logging.getLogger("warren.client").level
        try:
            done = await warren("log-level", "error", "--logger", "warren.client", "--service", service_name)
            assert (done.exit_code, logging.getLogger("warren.client").level) == (0, logging.ERROR), done
        finally:
            logging.getLogger("warren.client").setLevel(before)


async def test_a_worker_that_does_not_answer_has_not_changed(url: str, warren: Warren, service_name: str) -> None:
    service = Calc(service_name).service
    async with serving(service, url=url, control="full"), serving(service, url=url, control=None):
        done = await warren("concurrency", service_name, "7", "--wait", "2")
        assert (done.exit_code, f"{service_name}: 1 of 2" in done.stderr) == (1, True), done


async def test_workers_that_do_not_answer_are_told_by_each_command(url: str, warren: Warren, calc: Calc) -> None:
    name = calc.service.name
    async with serving(calc.service, url=url, control=None):
        for command in (f"ping {name}", f"stats {name}", f"calls {name}", f"health {name}", "ls", "graph"):
            done = await warren(*command.split(), "--wait", "2")
            assert (done.exit_code, f"{name}: 1 of 2" in done.stderr) == (0, True), done
        for command in ("where x", "cancel x"):
            done = await warren(*command.split(), "--wait", "2")
            assert f"{name}: 1 of 2" in done.stderr, done
        unseen = json.loads((await warren("where", "x", "--json", "--wait", "2")).stdout)["unseen"]
        assert any(f"{name}: 1 of 2" in part for part in unseen)
    done = await warren("calls", name, "--wait", "2")
    assert "not all workers" not in done.stderr


async def test_workers_of_which_none_answers_are_told(url: str, warren: Warren, service_name: str) -> None:
    async with serving(Calc(service_name).service, url=url, control=None):
        done = await warren("ping", service_name)
        assert (done.exit_code, "though the broker counts workers: 1" in done.stderr) == (1, True), done
        done = await warren("where", "x", "--service", service_name)
        assert (done.exit_code, f"{service_name}: 0 of 1" in done.stderr) == (1, True), done


async def test_a_drained_process_does_not_stand_in_for_one_that_is_silent(
    url: str, warren: Warren, service_name: str
) -> None:
    service = Calc(service_name).service
    async with serving(service, url=url, control=None), serving(service, url=url, control="full"):
        (process,) = json.loads((await warren("ping", service_name, "--json", "--wait", "2")).stdout)
        await warren("drain", process["instance"], "--wait", "30")
        done = await warren("ping", service_name, "--wait", "2")
        assert f"{service_name}: 0 of 1" in done.stderr


async def test_a_process_is_drained_by_its_id(url: str, warren: Warren, service_name: str) -> None:
    server = Server(Calc(service_name).service, url=url, control="full")
    serving = asyncio.create_task(server.serve())
    await server.ready()
    (process,) = json.loads((await warren("ping", service_name, "--json", "--wait", "2")).stdout)
    done = await warren("drain", process["instance"], "--wait", "30")
    assert (done.stdout.partition(":")[0], done.exit_code) == (process["instance"], 0)
    serving.cancel()
    await asyncio.wait([serving], timeout=60)


# --- commands that act ------------------------------------------------------------------------------------------------


@pytest.fixture
async def full(url: str, service_name: str) -> AsyncIterator[Calc]:
    """A service that lets operators act."""
    made = Calc(service_name)
    async with Server(made.service, url=url, control="full", drain_timeout=5):
        yield made
        made.go.set()


async def answer(warren: Warren, *command: str) -> Any:
    """What a command prints as JSON, once it has found something."""
    async with asyncio.timeout(60):
        while (done := await warren(*command, "--json", "--wait", "1")).exit_code or not json.loads(done.stdout):
            pass
    return json.loads(done.stdout)


async def test_a_call_that_is_cancelled_by_command_ends_at_its_worker_and_its_caller_is_told(
    url: str, warren: Warren, full: Calc
) -> None:
    async with AsyncClient(url, name="front", timeout=60) as client:
        calling = asyncio.create_task(client.call(full.hang))
        (call,) = await answer(warren, "calls", full.service.name)
        done = await warren("cancel", call["call_id"], "--wait", "1")
        assert (done.exit_code, done.stdout) == (0, f"{call['call_id']} was cancelled at {call['instance']}\n")
        with pytest.raises(Cancelled, match="an operator has cancelled") as caught:
            await calling
        assert (caught.value.reason, caught.value.execution) == ("OPERATOR", Execution.EXECUTED)
        assert full.stopped.is_set()
        done = await warren("cancel", call["call_id"], "--wait", "1")
        assert done.exit_code in (1, 5), done  # 5, where others are on this broker, too, and do not let tools act
        assert f"no process that has answered, and lets tools act, has {call['call_id']}" in done.stderr


async def test_a_process_that_is_drained_by_command_takes_nothing_until_it_is_resumed(
    url: str, warren: Warren, full: Calc
) -> None:
    name = full.service.name
    (process,) = await answer(warren, "ping", name)
    instance = process["instance"]
    async with AsyncClient(url, timeout=120) as client:
        running = asyncio.create_task(client.call(full.hang))
        await full.hanging.wait()
        done = await warren("drain", instance, "--wait", "1")
        assert (done.exit_code, done.stdout) == (0, f"{instance}: draining\n")
        full.go.set()
        await running  # what runs is finished
        late = asyncio.create_task(client.call(full.fib, 7))
        async with asyncio.timeout(60):
            while True:
                (row,) = [row for row in await answer(warren, "queues", name) if row["service"] == name]
                if (row["ready"], row["consumers"]) == (1, 0):
                    break
        assert (await warren("health", name, "--wait", "1")).exit_code == 1
        assert not late.done()
        done = await warren("resume", instance, "--wait", "1")
        assert (done.exit_code, done.stdout) == (0, f"{instance}: serving\n")
        assert await late == 7
    async with asyncio.timeout(60):
        while (await warren("health", name, "--wait", "1")).exit_code:
            pass


# --- who may ask ------------------------------------------------------------------------------------------------------

PERMISSIONS = re.findall(r"^(?:configure|write|read) +(\S+)$", (ROOT / "docs" / "operate.md").read_text(), re.M)


@pytest.fixture
async def accounts(rabbit: Node) -> AsyncIterator[Accounts]:
    accounts = Accounts(rabbit)
    yield accounts
    await accounts.remove_all()


@pytest.mark.rabbitmq_only("the embedded broker knows users and passwords, but no permissions")
async def test_an_operator_looks_with_the_documented_permissions_and_no_less(
    accounts: Accounts, url: str, calc: Calc
) -> None:
    name = calc.service.name
    async with AsyncClient(url) as client:
        await client.cast(calc.fail)
    configure, write, read = PERMISSIONS
    operator = await accounts.add(f"{name}-operator", (configure, write, read))

    async def run(*args: str) -> Result:
        own = url.replace("guest:guest", f"{operator}:secret")
        return await asyncio.to_thread(run_here, [*args, "--url", own], COLUMNS="200")

    done = await run("queues", name, "--wait", "2")
    assert done.exit_code == 0 or "this user may not see how it stands" in done.stdout  # from RabbitMQ 4.2.6 on
    write = rf"{write}|^{name}(\.dead)?$"
    await accounts.grant(operator, (configure, write, read))
    for command in ("ls", f"ping {name}", f"stats {name}", f"queues {name}", "dead", f"info {name}", "graph"):
        done = await run(*command.split(), "--wait", "2")
        assert (done.exit_code, done.stdout == "") == (0, False), (command, done)
    end = time.monotonic() + 60
    while (
        f"dead queues that this user may not read ({name})"
        not in (done := await run("where", "x", "--wait", "2")).stderr
    ):
        assert time.monotonic() < end, "the cast has not died yet"
    assert done.exit_code == 1
    for less in (("^$", write, read), (configure, "^$", read), (configure, write, "^$")):
        await accounts.grant(operator, less)
        assert (await run("ls")).exit_code == 5, less


# --- how soon ---------------------------------------------------------------------------------------------------------

SERVICES, PROCESSES = 20, 5


@asynccontextmanager
async def large_system(url: str) -> AsyncIterator[list[str]]:
    """Services with several processes each, all in this one."""
    names = [f"large-{number:02}" for number in range(SERVICES)]
    async with AsyncExitStack() as stack:
        servers = [serving(Calc(name).service, url=url) for name in names for _ in range(PROCESSES)]
        for at in range(0, len(servers), PROCESSES):  # not all at a time: each opens a connection
            await asyncio.gather(*(stack.enter_async_context(server) for server in servers[at : at + PROCESSES]))
        yield names


async def soonest(args: list[str], code: int) -> float:
    """Seconds that a command takes until it ends with this code; once more if somebody else had the processor."""
    end = time.monotonic() + 60
    while True:
        began = time.monotonic()
        done = await asyncio.to_thread(run_here, args)
        took = time.monotonic() - began
        if done.exit_code == code and took <= LIMIT * BUSY:
            return took
        assert began < end, f"{args}: {took} s, {done}"


@pytest.mark.slow
async def test_each_command_answers_at_once_on_a_large_system(
    broker_kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with private_broker(broker_kind) as broker:
        async with large_system(broker.url) as names:
            took: dict[str, float] = {}
            for command in ("ping", "ls", "stats", "calls", "graph", "queues", "dead", "health", "where x",
                            "top --count 1", f"info {names[0]}", f"stubs {names[1]}", "schema large-02"):  # fmt: skip
                code = 1 if command == "where x" else 0
                took[command] = await soonest([*command.split(), "--url", broker.url], code)
            everybody = ["ping", "--json", "--wait", "10", "--url", broker.url]
            ping = await asyncio.to_thread(run_here, everybody)
            assert len(json.loads(ping.stdout)) == SERVICES * PROCESSES
    with capsys.disabled():
        print(f"\n{broker_kind}:", ", ".join(f"{name} {seconds:.2f} s" for name, seconds in took.items()))
