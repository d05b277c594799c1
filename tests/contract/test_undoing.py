"""What is undone has certainly failed, and is not resumed; what is kept instead is kept whole."""

import asyncio
import base64
from typing import Any

import msgspec
import pika
import pytest

from tests.contract.test_pipelines import one_dead, retried
from tests.support.raw import raw_channel
from tests.support.serving import serving
from tests.support.staged import Image, Staged
from tests.support.waiting import until
from warren import AsyncClient, Pipeline, Service


async def test_a_cast_that_is_too_large_for_its_worker_is_kept_whole_and_can_be_resumed(
    url: str, service_name: str
) -> None:
    staged = Staged(service_name)
    small, ran = Service(f"{service_name}-small", max_message_size=1000), []

    @small.method(name="take")
    async def refuse(image: Image) -> None:
        """Never runs."""

    pipeline = Pipeline(staged.fetch, undo=staged.forget).then(refuse)
    async with AsyncClient(url, timeout=60) as client:
        async with serving(*staged.services, small, url=url):
            await client.cast(pipeline, "x" * 1200)
            entry = await one_dead(url, small.name)
            assert entry.body is not None
            assert b"x" * 1200 in entry.body
        large = Service(small.name)

        @large.method(name="take")
        async def take(image: Image) -> None:
            ran.append(image)

        async with serving(large, url=url):
            await retried(url, small.name)
            await until(lambda: ran == [Image(3, "x" * 1200)])
    assert staged.undone == []


def forged(url: str, queue: str, name: str, slip: dict[str, Any]) -> tuple[Any, bytes]:
    """What is answered to a stage with this slip, published by a plain client."""
    with raw_channel(url) as channel:
        reply_to = channel.queue_declare("", exclusive=True).method.queue
        headers = {"rpc-v": 1, "rpc-slip": msgspec.json.encode(slip).decode()}
        properties = pika.BasicProperties(
            type=f"{name}>", reply_to=reply_to, content_type="application/json", correlation_id="1", headers=headers
        )
        channel.basic_publish("", queue, b'[{"size":1}]', properties)
        for _, answer, body in channel.consume(reply_to, auto_ack=True, inactivity_timeout=60):
            assert answer is not None, "no answer"
            return answer, body
        raise AssertionError


@pytest.mark.parametrize("at", ["another method", "another service", "undone"])
async def test_nothing_runs_and_nothing_is_undone_by_a_slip_that_is_not_for_this_stage_or_must_not_go_on(
    url: str, service_name: str, at: str
) -> None:
    staged = Staged(service_name)
    kept = {
        "to": f"{service_name}-one.fetch",
        "undo": f"{service_name}-one.forget",
        "kept": base64.b64encode(b'[{"size":1}]').decode(),
    }
    here = {"another method": "two.hang", "another service": "three.store", "undone": "two.resize"}[at]
    slip = {"stages": [kept, {"to": f"{service_name}-{here}"}], "at": 1, "undone": at == "undone"}
    async with serving(*staged.services, url=url), AsyncClient(url, timeout=60) as client:
        answer, _ = await asyncio.to_thread(forged, url, f"{service_name}-two", "resize", slip)
        assert await client.call(staged.fetch, "cat") == Image(3, "cat")  # behind whatever would have been cast
    assert (answer.headers["rpc-reason"], answer.headers["rpc-executed"]) == ("DECODE", "UNKNOWN")
    assert (staged.undone, staged.names) == ([], ["fetch"])
