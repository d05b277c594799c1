"""Run first by ``make compiled``: that what is tested there is what was compiled."""

import importlib
import os

import pytest

from hot import HOT


@pytest.mark.parametrize("name", HOT)
def test_it_is_the_compiled_module_that_is_tested(name: str) -> None:
    path = importlib.import_module(f"warren.{name.replace('/', '.')}").__file__ or ""
    assert path.startswith(os.environ["WARREN_COMPILED"])
    assert not path.endswith(".py")
