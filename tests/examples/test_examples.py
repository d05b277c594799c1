"""Each example does what it promises. A new one fails here until `CASES` says what it prints."""

import ast
import asyncio
import importlib
import os
import re
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.serving import ROOT, serving

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
_WORKER = Path(__file__).with_name("worker.py")
#: Seconds for a program that takes two at most.
_TIMEOUT = 30.0


@dataclass(frozen=True)
class Case:
    """What an example needs to run and what it prints.

    Attributes:
        output: a regular expression for each line.
        service: the module whose ``service`` must be running.
        workers: run the service in so many processes, as it kills them; 0 for this process.
        errors: a regular expression for all that it writes to standard error.
    """

    output: tuple[str, ...] = ()
    service: str | None = None
    workers: int = 0
    errors: str = ""


CASES = {
    "fib": Case(),
    "fib_client": Case((r"here:    832040", r"remote:  832040", r"by name: 832040", r"in time: 832040"), service="fib"),
    "async_client": Case(
        (r"one:  832040", r"many: \[0, 1, 1, 2, 3, 5, 8, 13, 21, 34\]", r"last: 2880067194370816120"),
        service="fib",
    ),
    "pipeline": Case(tuple(f"{way}: 7540113804746346428" for way in ("asyncio", "futures", "threads")), service="fib"),
    "log_tail": Case((r"got: started", r"got: last line", r"nobody follows any more")),
    "thumbnails": Case(
        (r"a thumbnail of 80 x 60 pixels is kept", r"stage 2 of 3: ValueError: nothing to be seen.*"),
        errors=r"(?s)darkroom: shrink.* raised .*ValueError: nothing to be seen\n",
    ),
    "upload": Case((r"all of it has come", r"3000000 bytes are stored")),
    "tutorial_six": Case(
        (r"fib\(20\) = 6765", r"fib\(abc\): n must be an int, not a str; the signature is fib\(n: int\)"),
        errors=r"rpc_queue: refused the default method \(.*\): n must be an int, not a str; the signature is .*\n",
    ),
    "errors": Case(
        (
            r"Broke: 500 is more than there is",
            r"InvalidArgument, safe to retry: True\. amount must be an int, not a str;"
            r" the signature is withdraw\(amount: int, delay: float = 0\)",
            r"RemoteError, safe to retry: False\. ZeroDivisionError: .*",
            r"DeadlineExceeded, safe to retry: False\. .*",
            r"MethodNotFound, safe to retry: True\. service 'bank' has no method 'rob': known are withdraw",
            r"Unavailable, safe to retry: True\. no queue 'nobody': .*",
        ),
        service="errors",
    ),
    "nested": Case((r"tea: [45] s left", r"cake: [45] s left", r"total: 700")),
    "delivery_modes": Case(
        (
            r"pay: the request was delivered before, and the worker, connection or broker that held it was lost; .*",
            r"index: letter\.txt, at attempt 2",
            r"notify: no reply in time; queue 'office' has .*",
        ),
        service="delivery_modes",
        workers=4,  # each of the three methods kills one
    ),
    "auth_middleware": Case(
        (
            r"the cave is open, Ali Baba",
            r"vault\.unlock needs a valid token \(the handler: NOT_EXECUTED\)",
        ),
        service="auth_middleware",
    ),
    "several_services": Case((r"fib\(30\) = 832040", r"noted: somebody wanted fib\(30\)")),
}


def environment(url: str) -> dict[str, str]:
    path = os.pathsep.join((str(ROOT / "src"), str(ROOT / "examples")))
    return {**os.environ, "WARREN_URL": url, "PYTHONPATH": path, "PYTHONWARNINGS": "error"}


@asynccontextmanager
async def running(case: Case, url: str) -> AsyncIterator[None]:
    """What the example needs, running."""
    async with AsyncExitStack() as stack:
        if case.service is not None and not case.workers:
            service = importlib.import_module(case.service).service
            await stack.enter_async_context(serving(service, url=url))
        for _ in range(case.workers):
            assert case.service is not None
            await stack.enter_async_context(worker(case.service, url))
        yield


@asynccontextmanager
async def worker(module: str, url: str) -> AsyncIterator[None]:
    command = (sys.executable, str(_WORKER), module, url)
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, env=environment(url))
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_TIMEOUT):
            assert await process.stdout.readline() == b"ready\n"
        yield
    finally:
        await end(process)


async def end(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.communicate()


async def run(path: Path, url: str, errors: str) -> list[str]:
    """Run an example to its end; returns the lines it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(path), stdout=PIPE, stderr=PIPE, env=environment(url)
    )
    try:
        async with asyncio.timeout(_TIMEOUT):
            out, err = await process.communicate()
    finally:
        await end(process)
    assert process.returncode == 0
    assert re.fullmatch(errors, err.decode()), err.decode()
    return out.decode().splitlines()


def named(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", EXAMPLES, ids=named)
async def test_an_example_prints_what_it_promises(path: Path, url: str) -> None:
    assert path.stem in CASES, f"{path.name} is new: say in CASES what it prints"
    case = CASES[path.stem]

    async with running(case, url):
        lines = await run(path, url, case.errors)

    assert len(lines) == len(case.output), lines
    for line, pattern in zip(lines, case.output, strict=True):
        assert re.fullmatch(pattern, line), (line, pattern)


@pytest.mark.parametrize("path", EXAMPLES, ids=named)
def test_an_example_fits_on_one_screen_and_says_how_to_start_it(path: Path) -> None:
    text = path.read_text()

    assert len(text.splitlines()) <= 40
    module = CASES[path.stem].service or path.stem
    assert re.search(rf"``warren serve [^`]*\b{module}:\w", ast.get_docstring(ast.parse(text)) or "")
