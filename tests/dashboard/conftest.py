"""A dashboard as a process of its own, over an embedded broker, and a browser that looks at it.

The browser is Debian's chromium, driven by Playwright: `make browser` installs it. Without it these tests fail.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Protocol

import pytest
import pytest_asyncio
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright

from tests.cli.running import environment
from warren.broker import Broker

#: Milliseconds for what takes a few seconds on a quiet machine.
PATIENCE = 60_000


class Dashboard:
    """``warren dashboard`` as a process."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._process: subprocess.Popen[str] | None = None

    async def start(self, *options: str) -> str:
        """Start it with these options; gives its address."""
        command = [sys.executable, "-m", "warren", "dashboard", "--url", self._url, "--port", "0", "--every", "0.5"]
        self._process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True, env=environment())
        assert self._process.stdout is not None
        line = await asyncio.to_thread(self._process.stdout.readline)
        assert line.startswith("the dashboard is open: "), line
        return line.removeprefix("the dashboard is open: ").strip()

    async def end(self) -> int:
        """Tell it to end, and wait for that; gives its exit code."""
        assert self._process is not None
        self._process.terminate()
        await asyncio.to_thread(self._process.communicate, timeout=60)
        return self._process.wait()


class Open(Protocol):
    """Opens a browser's page, so wide; what it complains of, and other places that it asks, fail the test."""

    async def __call__(self, address: str, width: int = 1280) -> Page: ...


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker() as broker:
        yield broker


@pytest_asyncio.fixture(loop_scope="session")
async def dashboard(broker: Broker) -> AsyncIterator[Dashboard]:
    made = Dashboard(broker.url)
    yield made
    await made.end()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One for all tests, as it takes long to start."""
    found = shutil.which("chromium")
    if found is None:
        pytest.fail("chromium is missing: type make browser, or as root: apt-get install chromium")
    async with async_playwright() as playwright:
        # Its own sandbox does not work in a container, or for root; it looks at our pages only.
        browser = await playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def open_page(browser: Browser) -> AsyncIterator[Open]:
    complaints: list[str] = []
    async with await browser.new_context() as context:

        async def open_page(address: str, width: int = 1280) -> Page:
            own = address.split("?")[0]
            page = await context.new_page()
            await page.set_viewport_size({"width": width, "height": 900})
            page.set_default_timeout(PATIENCE)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("console", lambda said: complaints.append(said.text) if _is_complaint(said) else None)
            page.on("request", lambda asked: None if asked.url.startswith(own) else complaints.append(asked.url))
            await page.goto(address)
            await page.wait_for_selector("#live.on")
            return page

        yield open_page
    assert complaints == []


def _is_complaint(said: ConsoleMessage) -> bool:
    """Not that a dashboard which has ended is not there, or that it has refused something."""
    return said.type == "error" and not said.text.startswith("Failed to load resource")
