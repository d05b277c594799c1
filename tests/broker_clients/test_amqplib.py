"""amqplib for JavaScript. Without node or amqplib these tests fail: `make interop-js` installs the latter."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from warren.broker import Broker

PROGRAM = Path(__file__).parents[1] / "interop" / "js" / "broker_client.js"
SCENARIOS = (
    "publishAndConsume",
    "confirms",
    "returns",
    "directReplies",
    "deadLetters",
    "deletedQueue",
    "errors",
    "recover",
)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_what_amqplib_does_works(broker: Broker, scenario: str) -> None:
    done = subprocess.run(
        ["node", str(PROGRAM), f"{broker.url}?heartbeat=5", scenario], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
