"""Client and server with no more rights at the broker than they need: the table in docs/howto.md."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rabbit import Node
from tests.support import nodes
from tests.support.raw import depth, take
from tests.support.serving import ROOT, serving
from tests.support.taking import Source, Taking
from tests.support.waiting import until
from warren import AsyncClient, CallError, Execution, PermissionDenied, Service, current_call
from warren.connection.settings import make_settings
from warren.control.asking import Asking
from warren.protocol import topology
from warren.protocol.control import to_service

ROWS = re.findall(
    r"^([a-z-]+) +(?:configure|write|read) +(\S+)$",
    (ROOT / "docs" / "howto.md").read_text().split("<!-- permissions -->")[1].split("```")[1],
    re.MULTILINE,
)


def documented(user: str, service: str) -> tuple[str, str, str]:
    """What docs/howto.md tells administrators to grant for a service: configure, write, read."""
    configure, write, read = (regex.replace("calc", service) for name, regex in ROWS if name == user)
    return configure, write, read


pytestmark = pytest.mark.rabbitmq_only("the embedded broker knows users and passwords, but no permissions")


class Accounts:
    """Users of the node."""

    def __init__(self, rabbit: Node) -> None:
        self._rabbit = rabbit
        self._names: list[str] = []

    async def add(self, name: str, permissions: tuple[str, str, str]) -> str:
        await asyncio.to_thread(nodes.add_user, self._rabbit, name, "secret", permissions)
        self._names.append(name)
        return name

    async def grant(self, name: str, permissions: tuple[str, str, str]) -> None:
        await asyncio.to_thread(nodes.grant, self._rabbit, name, permissions)

    async def remove_all(self) -> None:
        for name in self._names:
            await asyncio.to_thread(nodes.delete_user, self._rabbit, name)


@pytest.fixture
async def accounts(rabbit: Node, client: AsyncClient) -> AsyncIterator[Accounts]:
    """`client`, who may do everything, has declared the two exchanges by connecting."""
    accounts = Accounts(rabbit)
    yield accounts
    await accounts.remove_all()


async def test_client_and_server_work_with_the_documented_permissions(
    accounts: Accounts, url: str, service_name: str
) -> None:
    server = await accounts.add(f"{service_name}-server", documented("server-that-declares", service_name))
    caller = await accounts.add(f"{service_name}-client", documented("client", service_name))
    service = Service(service_name)

    @service.method(default=True)
    async def double(n: int) -> int:
        return 2 * n

    async with (
        serving(service, url=url, username=server, password="secret"),
        AsyncClient(url, username=caller, password="secret") as client,
    ):
        assert await client.call(double, 21) == 42
        await client.cast(double, 1)
        await accounts.grant(caller, documented("client-with-bare-calls", service_name))
    async with (
        serving(service, url=url, username=server, password="secret"),
        AsyncClient(url, username=caller, password="secret") as client,
    ):
        assert await client.call_bare(service_name, "21") == b"42"


async def test_a_server_that_may_declare_nothing_serves_what_is_there(
    accounts: Accounts,
    client: AsyncClient,
    url: str,
    service_name: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("warren.server.upkeep.INTERVAL", 0.001)
    async with serving(_double(service_name), url=url):
        pass  # somebody with the right has declared it
    server = await accounts.add(f"{service_name}-server", documented("server", service_name))
    async with serving(_double(service_name), url=url, username=server, password="secret"):
        refused = caplog.text.count("using what is there")
        for n in range(100):  # time enough for another look
            assert await client.call(f"{service_name}.double", n) == 2 * n
    assert refused > 0
    assert caplog.text.count("using what is there") == refused, "it asks again for what it may not do"


async def test_a_publish_that_the_broker_refuses_ends_its_call_and_no_later_one(
    accounts: Accounts, url: str, service_name: str
) -> None:
    caller = await accounts.add(f"{service_name}-client", documented("client", service_name))
    service = Service(service_name)

    @service.method(default=True)
    async def double(n: int) -> int:
        return 2 * n

    async with serving(service, url=url), AsyncClient(url, username=caller, password="secret") as client:
        with pytest.raises(PermissionDenied) as caught:
            await client.call_bare(service_name, "21")
        assert caught.value.execution.value == "UNKNOWN"  # which publish of the channel it was, the broker does not say
        assert "amq.default" in str(caught.value)
        assert await client.call(double, 4) == 8


async def test_uploads_work_with_the_documented_permissions_and_say_so_without(
    accounts: Accounts, url: str, service_name: str
) -> None:
    taking = Taking(service_name)
    async with serving(taking.service, url=url):
        pass  # somebody with the right has declared it
    server = await accounts.add(f"{service_name}-server", documented("server-with-control", service_name))
    caller = await accounts.add(f"{service_name}-client", documented("client-that-cancels", service_name))
    async with (
        serving(taking.service, url=url, username=server, password="secret"),
        AsyncClient(url, username=caller, password="secret") as client,
    ):
        assert await client.upload(taking.on_loop, Source(600).on_loop()) == 179_700
        assert len([row async for row in client.converse(taking.echo_in_thread, Source(600).on_loop())]) == 600
        await accounts.grant(caller, documented("client", service_name))
    async with (
        serving(taking.service, url=url, username=server, password="secret"),
        AsyncClient(url, username=caller, password="secret", timeout=60) as client,
    ):
        with pytest.raises(PermissionDenied, match=r"warren\.control") as caught:
            await client.upload(taking.on_loop, Source(600).on_loop())
        assert caught.value.execution is Execution.EXECUTED
        await accounts.grant(server, documented("server", service_name))
    async with (
        serving(taking.service, url=url, username=server, password="secret"),
        AsyncClient(url, timeout=60) as client,
    ):
        with pytest.raises(CallError, match="has no control queue") as refused:
            await client.upload(taking.on_loop, Source(600).on_loop())
        assert (refused.value.reason, refused.value.execution) == ("STREAM", Execution.NOT_EXECUTED)


async def test_a_client_that_may_not_use_the_exchange_is_told_so(
    accounts: Accounts, url: str, service_name: str
) -> None:
    configure, _write, read = documented("client", service_name)
    caller = await accounts.add(f"{service_name}-client", (configure, r"^amq\.gen-.*$", read))
    async with AsyncClient(url, username=caller, password="secret") as client:
        with pytest.raises(PermissionDenied, match="'warren'"):
            await client.call(f"{service_name}.x")


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("may_see", [True, False])
async def test_a_client_that_has_a_right_on_a_full_queue_is_told_that_it_is_full_and_others_why_not(
    accounts: Accounts, url: str, raw: Any, service_name: str, may_see: bool
) -> None:
    raw.queue_declare(service_name, durable=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    raw.queue_bind(service_name, "warren", service_name)
    configure, write, read = documented("client", service_name)
    write = f"{write}|^{service_name}$" if may_see else write
    caller = await accounts.add(f"{service_name}-client", (configure, write, read))
    async with AsyncClient(url, username=caller, password="secret") as client:
        await client.cast(f"{service_name}.x")
        with pytest.raises(CallError) as caught:
            await client.cast(f"{service_name}.x")
    if caught.value.reason == "QUEUE_DOWN":  # from 4.2.6 on
        assert not may_see
        assert "may not see how its queue stands" in str(caught.value)
    else:
        assert (caught.value.reason, caught.value.execution) == ("QUEUE_FULL", Execution.NOT_EXECUTED)


async def test_a_user_without_any_rights_fails_clearly(accounts: Accounts, url: str, service_name: str) -> None:
    nobody = await accounts.add(f"{service_name}-nobody", ("^$", "^$", "^$"))
    async with AsyncClient(url, username=nobody, password="secret", timeout=10) as client:
        with pytest.raises(PermissionDenied, match="access to queue"):
            await client.call(f"{service_name}.x")


async def test_a_cast_of_another_user_is_set_aside_and_handed_back_without_harm(
    accounts: Accounts, url: str, raw: Any, service_name: str
) -> None:
    """The broker lets nobody publish under another's name, so what a worker publishes again must name the worker."""
    server = await accounts.add(f"{service_name}-server", documented("server-that-declares", service_name))
    caller = await accounts.add(f"{service_name}-client", documented("client", service_name))
    began, release = asyncio.Event(), asyncio.Event()
    users: list[str | None] = []

    def make() -> Service:
        service = Service(service_name, concurrency=1)

        @service.method(delivery="at-most-once")
        async def who(wait: bool) -> None:
            users.append(current_call().user)
            if wait:
                began.set()
                await release.wait()

        return service

    login = {"username": server, "password": "secret"}
    async with (
        AsyncClient(url, username=caller, password="secret", send_user=True) as client,
        serving(make(), url=url, **login) as first,
    ):
        await client.cast(f"{service_name}.who", "not a bool")
        await until(lambda: depth(raw, topology.dead_queue(service_name)) == 1)
        running = asyncio.create_task(client.call(f"{service_name}.who", True))
        await began.wait()
        waiting = asyncio.create_task(client.call(f"{service_name}.who", False))
        await until(lambda: depth(raw, service_name) == 0)
        first.stop()
        async with serving(make(), url=url, **login):
            await waiting  # handed back by the first worker, run by the second
            release.set()
            await running
    assert users == [caller, caller]
    dead = take(raw, topology.dead_queue(service_name))
    assert dead is not None
    assert dead[0].headers["rpc-user"] == caller


async def test_what_a_server_may_not_set_aside_the_broker_dead_letters_for_it(
    accounts: Accounts, url: str, client: AsyncClient, service_name: str, raw: Any, caplog: pytest.LogCaptureFixture
) -> None:
    configure, _write, read = documented("server-that-declares", service_name)
    async with serving(_double(service_name), url=url):
        pass  # somebody with all rights has declared the queues
    server = await accounts.add(f"{service_name}-server", (configure, "^warren$", read))
    async with serving(_double(service_name), url=url, username=server, password="secret"):
        await client.cast(f"{service_name}.double", "two")
        await until(lambda: depth(raw, f"{service_name}.dead") == 1)
        assert "cannot be set aside" in caplog.text
        await client.cast(f"{service_name}.double", "three")  # it serves on
        await until(lambda: depth(raw, f"{service_name}.dead") == 2)


def without(permissions: tuple[str, str, str], right: int, alternative: str) -> tuple[str, str, str]:
    """The same rights but for one alternative of an expression."""
    changed = list(permissions)
    changed[right] = changed[right].replace(alternative, "nothing")
    assert changed[right] != permissions[right]
    return changed[0], changed[1], changed[2]


async def test_calls_are_given_up_and_servers_are_asked_with_the_documented_permissions(
    accounts: Accounts, client: AsyncClient, url: str, service_name: str
) -> None:
    async with serving(_hanging(service_name)[0], url=url):
        pass  # somebody with all rights has declared what is there
    server = await accounts.add(f"{service_name}-server", documented("server-with-control", service_name))
    caller = await accounts.add(f"{service_name}-client", documented("client-that-cancels", service_name))
    tool = await accounts.add(f"{service_name}-tool", documented("tool-that-asks", service_name))
    service, begun, cancelled = _hanging(service_name)
    async with (
        serving(service, url=url, username=server, password="secret"),
        AsyncClient(url, username=caller, password="secret") as mine,
        Asking(make_settings(url, username=tool, password="secret")) as asking,
    ):
        calling = asyncio.create_task(mine.call(f"{service_name}.hang"))
        await begun.wait()
        (answer,) = await asking.gather("calls", to_service(service_name), patience=60, first=True)
        assert len(answer.body["calls"]) == 1
        calling.cancel()
        await cancelled.wait()


SERVER = [(0, r"amq\.gen-.*"), (1, r"amq\.gen-.*"), (2, r"warren\.control"), (2, r"amq\.gen-.*")]
TOOL = [(0, r"amq\.gen-.*"), (1, r"warren\.control"), (2, r"amq\.gen-.*")]


@pytest.mark.parametrize(("right", "alternative"), SERVER)
async def test_a_server_without_one_of_these_rights_serves_unseen_and_says_so(
    accounts: Accounts, url: str, service_name: str, right: int, alternative: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serving(_double(service_name), url=url):
        pass
    rights = without(documented("server-with-control", service_name), right, alternative)
    server = await accounts.add(f"{service_name}-server", rights)
    async with serving(_double(service_name), url=url, username=server, password="secret"), AsyncClient(url) as client:
        assert await client.call(f"{service_name}.double", 2) == 4
        assert "serving without a control queue" in caplog.text


@pytest.mark.parametrize(("right", "alternative"), TOOL)
async def test_a_tool_without_one_of_these_rights_is_told_so(
    accounts: Accounts, url: str, service_name: str, right: int, alternative: str
) -> None:
    rights = without(documented("tool-that-asks", service_name), right, alternative)
    tool = await accounts.add(f"{service_name}-tool", rights)
    async with serving(_double(service_name), url=url):
        with pytest.raises(CallError, match="the broker"):
            async with Asking(make_settings(url, username=tool, password="secret")) as asking:
                await asking.gather("ping", to_service(service_name), patience=30, first=True)


def _hanging(name: str) -> tuple[Service, asyncio.Event, asyncio.Event]:
    """A service whose method hangs, that it has begun, and that it was cancelled."""
    service, begun, cancelled = Service(name), asyncio.Event(), asyncio.Event()

    @service.method
    async def hang() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    return service, begun, cancelled


def _double(name: str) -> Service:
    service = Service(name)

    @service.method
    async def double(n: int) -> int:
        return 2 * n

    return service


async def test_who_may_not_ask_all_instances_is_told_so_and_his_calls_go_on(
    accounts: Accounts, url: str, service_name: str
) -> None:
    service = Service(service_name)

    @service.method(broadcast=True)
    async def double(n: int) -> int:
        return 2 * n

    caller = await accounts.add(f"{service_name}-client", ("^amq.gen.*", "^(amq.gen.*|warren)$", ".*"))
    async with (
        serving(service, url=url),
        AsyncClient(url, username=caller, password="secret", timeout=20) as client,
    ):
        with pytest.raises(PermissionDenied, match=r"warren\.control") as caught:
            await client.broadcast(double, 1)
        assert caught.value.execution is Execution.NOT_SENT
        assert await client.call(double, 21) == 42
