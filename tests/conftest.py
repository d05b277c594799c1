"""Fixtures for every test; the broker's live in `tests.support.broker`."""

pytest_plugins = ["tests.support.broker"]
