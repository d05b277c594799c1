"""Services whose methods make a pipeline, and write down what ran."""

import asyncio
from dataclasses import dataclass
from typing import Any

from warren import Pipeline, Service, current_call


@dataclass
class Image:
    size: int
    name: str = ""


class TooSmall(Exception):
    """Travels as itself."""


class Staged:
    """Three services: an image is fetched, resized and stored.

    Attributes:
        ran: the stages that have begun, in order, with the call_id.
        undone: what was undone, in order, with the call_id and what it got.
        whole: the pipeline of all three; of `undoing` the first two can be undone.
    """

    def __init__(self, name: str, delivery: Any = "report", **options: Any) -> None:
        self.ran: list[tuple[str, str | None]] = []
        self.undone: list[tuple[str, str | None, Image]] = []
        self.calls: list[Any] = []
        self.wait = asyncio.Event()
        self.fail: Exception | None = None
        self.fail_last: Exception | None = None
        self.first, self.second, self.third = (
            Service(f"{name}-{n}", errors=[TooSmall], **options) for n in ("one", "two", "three")
        )

        @self.first.method(delivery=delivery)
        async def fetch(url: str, size: int = 3) -> Image:
            self._note("fetch")
            return Image(size, url)

        @self.second.method(delivery=delivery)
        def resize(image: Image) -> Image:
            self._note("resize")
            if image.size < 0:
                raise TooSmall(image.size)
            if self.fail is not None:
                raise self.fail
            return Image(image.size * 2, image.name)

        @self.second.method(delivery=delivery)
        async def hang(image: Image) -> Image:
            self._note("hang")
            try:
                await self.wait.wait()
            except asyncio.CancelledError:
                self._note("cancelled")
                raise
            return image

        @self.third.method(delivery=delivery)
        async def store(image: Image) -> str:
            self._note("store")
            if self.fail_last is not None:
                raise self.fail_last
            return f"{image.name}:{image.size}"

        @self.first.method(delivery="at-least-once")
        async def forget(image: Image) -> None:
            self.undone.append(("forget", current_call().call_id, image))

        @self.second.method(delivery="at-least-once")
        def shrink(image: Image) -> None:
            self.undone.append(("shrink", current_call().call_id, image))

        self.forget, self.shrink = forget, shrink
        self.fetch, self.resize, self.hang, self.store = fetch, resize, hang, store
        self.whole = Pipeline(fetch).then(resize).then(store)
        if delivery != "at-most-once":
            self.undoing = Pipeline(fetch, undo=forget).then(resize, undo=shrink).then(store)
        self.waiting = Pipeline(fetch).then(hang).then(store)

    @property
    def services(self) -> tuple[Service, Service, Service]:
        return self.first, self.second, self.third

    @property
    def names(self) -> list[str]:
        """What ran, without ids."""
        return [name for name, _ in self.ran]

    def _note(self, name: str) -> None:
        call = current_call()
        self.ran.append((name, call.call_id))
        self.calls.append(call)
