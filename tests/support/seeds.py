"""Chance in tests: a seed for each test that asks for one, told where it fails, and `pytest --seed` to have it again.

It stays out of the test's name: parallel workers collect separately and must find the same names.
"""

import random

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, help="what the random tests draw from (default: another one for each test)")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of this test; pytest shows the line that names it when the test fails."""
    given: int | None = request.config.getoption("--seed")
    seed = random.SystemRandom().randrange(10**6) if given is None else given
    print(f"again with: --seed {seed}")
    return seed
