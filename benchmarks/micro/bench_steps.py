"""Wall time of each step, by pytest-benchmark."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.micro.cases import CASES


@pytest.mark.parametrize("name", CASES)
def test_step(benchmark: Any, name: str) -> None:
    case = CASES[name]
    benchmark.extra_info["messages"] = case.each
    with case.ready() as step:
        benchmark(step)
