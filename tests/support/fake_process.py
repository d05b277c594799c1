"""A process that answers questions as a test tells it to: what versions to come, and hostile ones, may say."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from warren.connection.dial import open_link
from warren.connection.settings import make_settings
from warren.control.answering import Answering, Verb
from warren.protocol.control import TO_ALL, Question, to_instance, to_service


@asynccontextmanager
async def fake_process(
    url: str, services: Sequence[str], answers: Mapping[str, Any], instance: str = "0123456789ab"
) -> AsyncIterator[list[Question]]:
    """While the block runs, a process answers; an exception among the answers is a refusal. Yields what it is asked."""
    settings, asked = make_settings(url), list[Question]()

    def verb(answer: Any) -> Verb:
        def say(question: Question) -> Any:
            asked.append(question)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return say

    link = await open_link(settings, *settings.hosts[0])
    try:
        keys = [TO_ALL, *map(to_service, services), to_instance(instance)]
        answers = {"ping": {"name": "fake", "state": "serving", "services": list(services)}, **answers}
        await Answering(instance, keys, {name: verb(answer) for name, answer in answers.items()}).open(link)
        yield asked
    finally:
        await link.close()
