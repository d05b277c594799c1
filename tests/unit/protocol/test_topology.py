"""Exchanges and queues: their names and arguments."""

from __future__ import annotations

from typing import Any

import pytest

from warren.protocol import topology


def test_a_services_queue_is_called_after_it() -> None:
    assert (topology.service_queue("calc"), topology.dead_queue("calc")) == ("calc", "calc.dead")


@pytest.mark.parametrize(("quorum", "kind"), [(True, "quorum"), (False, "classic")])
def test_a_dead_queue_lives_on_as_many_nodes_as_its_service_and_is_bounded(quorum: bool, kind: str) -> None:
    arguments = topology.dead_queue_arguments(quorum=quorum)
    assert arguments["x-queue-type"] == kind
    assert arguments["x-max-length"] == 10_000


@pytest.mark.parametrize(
    ("quorum", "max_length", "more"),
    [
        (False, None, {"x-queue-type": "classic"}),
        (True, None, {"x-queue-type": "quorum"}),
        (False, 10, {"x-queue-type": "classic", "x-max-length": 10, "x-overflow": "reject-publish"}),
        (True, 10, {"x-queue-type": "quorum", "x-max-length": 10, "x-overflow": "reject-publish"}),
    ],
)
def test_a_queue_sends_what_it_drops_to_the_bounce_exchange(
    quorum: bool, max_length: int | None, more: dict[str, Any]
) -> None:
    arguments = topology.queue_arguments(quorum=quorum, max_length=max_length)
    assert arguments == {"x-dead-letter-exchange": "warren.bounce"} | more


def test_reply_queues_are_classic_whatever_the_vhosts_default() -> None:
    assert topology.REPLY_ARGUMENTS == {"x-queue-type": "classic"}
    assert topology.DURABLE_REPLY_ARGUMENTS["x-queue-type"] == "classic"
