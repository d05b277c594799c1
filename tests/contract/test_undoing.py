"""What is undone has certainly failed, and is not resumed; what is kept instead is kept whole."""



from tests.contract.test_pipelines import one_dead, retried
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
