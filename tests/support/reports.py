"""A failure is reported whatever garbage lies about.

pytest reads the source of a failed test as a syntax tree. In CPython 3.11 a garbage collection may begin in the middle
of that. If it runs a finalizer that formats a traceback (as asyncio's do, and warnings about what was left open), that
reads source too, and CPython loses count: "AST constructor recursion depth mismatch". pytest then ends in an internal
error, and the failure is lost. So the collector waits while a report is made.
"""

import gc
from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        return (yield)
    finally:
        if enabled:
            gc.enable()
