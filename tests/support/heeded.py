"""Signals that whoever started the tests has had ignored, as nohup and a shell's background jobs do.

What is ignored is ignored by all processes that a process starts, and so by those that tests send a Ctrl-C to. What has
a handler is not inherited.
"""

import signal

import pytest


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)  # the tests themselves outlive their terminal
