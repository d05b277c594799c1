"""The dashboard in a real browser: numbers move, the graph shows who calls whom, retry works, hostile text is text."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.dashboard.conftest import PATIENCE, Dashboard, Open
from tests.support.serving import serving
from warren import AsyncClient, CallError, Service
from warren.broker import Broker
from warren.connection.dial import open_link
from warren.connection.settings import make_settings
from warren.control.answering import Answering
from warren.protocol.control import TO_ALL

pytestmark = pytest.mark.asyncio(loop_scope="session")  # that of the browser

expect.set_options(timeout=PATIENCE)

HOSTILE = "<script>window.harmed = 1</script><img src=x onerror='window.harmed = 2'>"
PAGES = ("#/", "#/graph", "#/calls", "#/processes", "#/service/calc", "#/service/calc/add")


def calc() -> Service:
    service = Service("calc", version="1.2", description="Adds.")

    @service.method
    async def add(a: int, b: int = 1) -> int:
        """Add two numbers."""
        return a + b

    @service.method
    async def count(to: int) -> AsyncIterator[int]:
        for n in range(to):
            yield n

    @service.method
    async def fail() -> None:
        raise RuntimeError(HOSTILE)

    return service


def shop(client: AsyncClient) -> Service:
    service = Service("shop")

    @service.method
    async def buy() -> int:
        total: int = await client.call("calc.add", 1, 2)
        return total

    return service


async def go(page: Page, to: str) -> None:
    await page.evaluate("to => { location.hash = to; }", to)


@asynccontextmanager
async def claiming(url: str, said: Mapping[str, Mapping[str, Any]]) -> AsyncIterator[None]:
    """A process that answers each verb with what it likes."""
    settings = make_settings(url)
    link = await open_link(settings, *settings.hosts[0])
    try:
        verbs = {verb: lambda _question, body=body: body for verb, body in said.items()}
        await Answering("evil", [TO_ALL], verbs).open(link)
        yield
    finally:
        await link.close()


async def test_numbers_move(broker: Broker, dashboard: Dashboard, open_page: Open) -> None:
    async with serving(calc(), url=broker.url), AsyncClient(broker.url, name="tester") as client:
        page = await open_page(await dashboard.start())
        row = page.locator("a.row", has_text="calc")
        await expect(row).to_contain_text("1 process, 3 methods")
        calling = asyncio.create_task(_call_on(client))
        await expect(row.locator(".what b").first).not_to_have_text("0/s")
        await expect(row.locator("path.work").first).to_have_attribute("d", re.compile("M.*"))
        await row.click()
        await expect(page.locator("h1")).to_have_text("calc 1.2")
        await expect(page.locator("main")).to_contain_text("add(a: int, b: int = 1) -> int")
        calling.cancel()


async def _call_on(client: AsyncClient) -> None:
    while True:
        await client.call("calc.add", 1)
        await asyncio.sleep(0.05)


async def test_the_graph_shows_who_calls_whom_and_where_it_fails(
    broker: Broker, dashboard: Dashboard, open_page: Open
) -> None:
    async with (
        AsyncClient(broker.url, name="shop") as inner,
        serving(calc(), shop(inner), url=broker.url),
        AsyncClient(broker.url, name="front") as client,
    ):
        page = await open_page(await dashboard.start())
        await go(page, "#/graph")
        await client.call("shop.buy")
        nested, outer, failing = (
            page.locator(f"path[data-edge='{json.dumps(pair, separators=(',', ':'))}']")
            for pair in (["shop", "calc"], ["front", "shop"], ["front", "calc"])
        )
        await expect(nested).to_be_attached()
        await expect(outer).to_be_attached()
        for _ in range(2):
            with pytest.raises(CallError):
                await client.call("calc.fail")
        await expect(failing).to_be_attached()
        await expect(page.locator(".graph .node.outside")).to_contain_text("front")
        calling = asyncio.create_task(_fail_on(client))
        await expect(page.locator("path.arrow.bad")).to_have_attribute("data-edge", '["front","calc"]')
        await expect(page.locator(".graph text.label.bad")).to_contain_text("100 % fail")
        calling.cancel()


async def _fail_on(client: AsyncClient) -> None:
    while True:
        with pytest.raises(CallError):
            await client.call("calc.fail")
        await asyncio.sleep(0.1)


async def test_a_dead_letter_is_tried_again(broker: Broker, dashboard: Dashboard, open_page: Open) -> None:
    ready, came = [False], asyncio.Event()
    service = Service("mail")

    @service.method
    async def send(to: str) -> None:
        if not ready[0]:
            raise RuntimeError(HOSTILE)
        came.set()

    async with serving(service, url=broker.url), AsyncClient(broker.url) as client:
        await client.cast("mail.send", "ann")
        page = await open_page(await dashboard.start("--allow-acting"))
        await expect(page.locator("a.row")).to_contain_text("1 dead")
        await go(page, "#/service/mail")
        await page.get_by_role("button", name="Look").click()
        await expect(page.locator("main")).to_contain_text(HOSTILE)
        assert await page.evaluate("window.harmed") is None
        ready[0] = True
        await page.get_by_role("button", name="Retry").click()
        await asyncio.wait_for(came.wait(), PATIENCE / 1000)
        await expect(page.get_by_text("sent again")).to_be_visible()
        await expect(page.locator("main")).to_contain_text("0 in the dead queue")


async def test_a_dead_letter_is_dropped_by_who_is_sure(broker: Broker, dashboard: Dashboard, open_page: Open) -> None:
    async with serving(calc(), url=broker.url), AsyncClient(broker.url) as client:
        await client.cast("calc.fail")
        page = await open_page(await dashboard.start("--allow-acting"))
        page.on("dialog", lambda dialog: asyncio.ensure_future(dialog.accept()))
        await expect(page.locator("a.row")).to_contain_text("1 dead")
        await go(page, "#/service/calc")
        await page.get_by_role("button", name="Look").click()
        await page.get_by_role("button", name="Drop").click()
        await expect(page.get_by_text("dropped")).to_be_visible()
        await expect(page.locator("main")).to_contain_text("0 in the dead queue")


async def test_a_method_is_called_by_its_form(broker: Broker, dashboard: Dashboard, open_page: Open) -> None:
    async with serving(calc(), url=broker.url):
        page = await open_page(await dashboard.start("--allow-acting"))
        await go(page, "#/service/calc/add")
        await page.get_by_label("a (integer)").fill("41")
        await page.get_by_role("button", name="Call").click()
        await expect(page.locator(".answer pre")).to_have_text("42")
        await page.get_by_label("a (integer)").fill("")
        await page.get_by_role("button", name="Call").click()
        await expect(page.locator(".answer")).to_contain_text("INVALID_ARGUMENT")
        await go(page, "#/service/calc/fail")
        await page.get_by_role("button", name="Call").click()
        await expect(page.locator(".answer")).to_contain_text(HOSTILE)
        assert await page.evaluate("window.harmed") is None


async def test_a_method_that_yields_has_no_form_and_says_how_it_is_called(
    broker: Broker, dashboard: Dashboard, open_page: Open
) -> None:
    async with serving(calc(), url=broker.url):
        page = await open_page(await dashboard.start("--allow-acting"))
        await go(page, "#/service/calc/count")
        await expect(page.locator("main")).to_contain_text("warren call calc.count")
        await expect(page.get_by_role("heading", name="Each item")).to_be_visible()
        assert await page.locator("button.main").count() == 0


async def test_who_may_not_act_sees_nothing_to_act_with(broker: Broker, dashboard: Dashboard, open_page: Open) -> None:
    async with serving(calc(), url=broker.url), AsyncClient(broker.url) as client:
        await client.cast("calc.fail")
        page = await open_page(await dashboard.start())
        await go(page, "#/service/calc")
        await expect(page.locator("main")).to_contain_text("start the dashboard with --allow-acting")
        await go(page, "#/service/calc/add")
        await expect(page.locator("main")).to_contain_text("This dashboard only shows")
        assert await page.locator("button").count() == 0


async def test_a_method_is_described_once_its_process_has_said_what_it_has(
    broker: Broker, dashboard: Dashboard, open_page: Open
) -> None:
    said: dict[str, dict[str, Any]] = {
        "info": {"host": "slow"},
        "stats": {"uptime": 0.1, "services": {"evil": {"methods": {"add": {"ended": 3}}}}},
        "calls": {"calls": []},
        "health": {"healthy": True, "state": "serving"},
    }
    async with claiming(broker.url, said):
        page = await open_page(await dashboard.start())
        await go(page, "#/service/evil/add")
        await expect(page.locator("h1")).to_have_text("add")
        assert await page.get_by_text("Declared").count() == 0
        method = {"name": "add", "signature": "add()", "doc": "It adds."}
        said["info"].update({"name": "evil", "services": [{"name": "evil", "methods": [method]}]})
        await expect(page.locator("main")).to_contain_text("It adds.")


@pytest.mark.parametrize("hostile", [HOSTILE, "__proto__", "constructor"])
async def test_what_a_hostile_process_says_is_text(
    broker: Broker, dashboard: Dashboard, open_page: Open, hostile: str
) -> None:
    method = {"name": hostile, "signature": hostile, "doc": hostile, "arguments": {"properties": {hostile: {}}}}
    service = {"name": hostile, "version": hostile, "description": hostile, "methods": [method]}
    done = {"ended": 3, "failed": {hostile: 1}, "callers": {hostile: {"count": 3, "failed": 1}}}
    said: dict[str, dict[str, Any]] = {
        "info": {"name": hostile, "host": hostile, "state": hostile, "services": [service]},
        "stats": {
            "uptime": 0.1,
            "services": {hostile: {"methods": {hostile: done}, "refused": {hostile: {hostile: 1}}}},
        },
        "calls": {"calls": [{"service": hostile, "method": hostile, "caller": hostile, "call_id": hostile}]},
        "health": {"healthy": False, "state": hostile},
    }
    async with claiming(broker.url, said):
        page = await open_page(await dashboard.start("--allow-acting"))
        name = await page.evaluate("encodeURIComponent", hostile)
        for to in ("#/", "#/graph", "#/calls", "#/processes", f"#/service/{name}", f"#/service/{name}/{name}"):
            await go(page, to)
            await expect(page.locator("main")).to_contain_text(hostile[:10])
        assert await page.locator("main script, main img").count() == 0
        assert await page.evaluate("[window.harmed, ({}).toString(), Object.keys(Object.prototype).length]") == [
            None,
            "[object Object]",
            0,
        ]


@pytest.mark.parametrize("width", [390, 1280])
async def test_no_page_is_wider_than_its_screen(
    broker: Broker, dashboard: Dashboard, open_page: Open, width: int
) -> None:
    async with serving(calc(), url=broker.url), AsyncClient(broker.url, name="x" * 100) as client:
        await client.call("calc.add", 1)
        page = await open_page(await dashboard.start("--allow-acting"), width)
        await expect(page.locator("a.row")).to_be_visible()
        for to in PAGES:
            await go(page, to)
            await expect(page.locator("main")).not_to_be_empty()
            assert await page.evaluate("document.documentElement.scrollWidth") <= width, to


async def test_a_broker_that_is_gone_is_told_and_its_return_seen(dashboard: Dashboard, open_page: Open) -> None:
    with Broker() as broker:
        port = broker.port
        page = await open_page(await dashboard.start("--url", broker.url))
        await expect(page.locator("main")).to_contain_text("No service answers")
    await expect(page.locator("#trouble")).to_be_visible()
    await expect(page.locator("#live")).to_have_text("no numbers")
    with Broker(port=port) as again:
        async with serving(calc(), url=again.url):
            await expect(page.locator("a.row")).to_contain_text("calc")
            await expect(page.locator("#trouble")).to_be_hidden()


async def test_it_ends_while_somebody_looks_on_and_he_is_told(dashboard: Dashboard, open_page: Open) -> None:
    page = await open_page(await dashboard.start())
    assert await dashboard.end() == 0
    await expect(page.locator("#trouble")).to_contain_text("Is warren dashboard still running?")
