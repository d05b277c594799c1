"""`AsyncClient.upload` and `AsyncClient.converse`: calls to which the caller sends items."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator
from typing import Any, Concatenate, ParamSpec, TypeVar, cast, overload

from warren.client.base import BaseClient
from warren.client.sending import checked_items
from warren.client.streams import AsyncStream
from warren.client.uploads import upload
from warren.protocol.uploading import CONVERSATION, UPLOAD

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class AsyncUploads(BaseClient):
    """What an `AsyncClient` sends item by item."""

    @overload
    async def upload(
        self, target: str, items: AsyncIterable[Any] | Iterable[Any], /, *args: Any, returns: type[R], **kwargs: Any
    ) -> R: ...
    @overload
    async def upload(
        self, target: str, items: AsyncIterable[Any] | Iterable[Any], /, *args: Any, **kwargs: Any
    ) -> Any: ...
    @overload
    async def upload(
        self,
        target: Callable[Concatenate[AsyncIterator[T], P], Coroutine[Any, Any, R]],
        items: AsyncIterable[T] | Iterable[T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R: ...
    @overload
    async def upload(
        self,
        target: Callable[Concatenate[Iterator[T], P], R],
        items: AsyncIterable[T] | Iterable[T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R: ...
    async def upload(
        self,
        target: Callable[..., Any] | str,
        items: AsyncIterable[Any] | Iterable[Any],
        /,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Call a method that takes items, send it these, and wait for its result.

        Items are asked for as the handler takes them: no side keeps more than a window of them (256 items, or 8 MiB).
        They are taken in a task beside this one; a plain iterable on the event loop, which it must not block. A
        generator is closed when the call ends, whatever that ends in; one of a call that is refused before it is made
        (`TypeError`, say) stays its caller's. The `timeout` is for the whole call,
        ``idle_timeout`` for the wait until the handler takes more. A handler that has come to the end of its items has
        had all of them, once, in their order.

        Args:
            target: a function declared with ``@service.method``, or ``"service.method"``.
            items: what to send.
            *args, **kwargs: the other arguments, as for `call`.

        Raises:
            CallError: what `call` raises. A note says how many items were sent and taken.
            TypeError: a method that takes none; nothing to take items from; arguments that do not fit.
            ValueError: a name that cannot be one; ``resend=True`` or ``expect`` among the options.
            Exception: what the items, or the handler, have raised.
        """
        prepared = self._prepared(UPLOAD, target, args, kwargs, checked_items(items, on_loop=True))
        return await upload(prepared, cast("Any", self)._shared.core)

    @overload
    def converse(
        self, target: str, items: AsyncIterable[Any] | Iterable[Any], /, *args: Any, returns: type[R], **kwargs: Any
    ) -> AsyncStream[R]: ...
    @overload
    def converse(
        self, target: str, items: AsyncIterable[Any] | Iterable[Any], /, *args: Any, **kwargs: Any
    ) -> AsyncStream[Any]: ...
    @overload
    def converse(
        self,
        target: Callable[Concatenate[AsyncIterator[T], P], AsyncIterator[R]],
        items: AsyncIterable[T] | Iterable[T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> AsyncStream[R]: ...
    @overload
    def converse(
        self,
        target: Callable[Concatenate[Iterator[T], P], Iterator[R]],
        items: AsyncIterable[T] | Iterable[T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> AsyncStream[R]: ...
    def converse(
        self,
        target: Callable[..., Any] | str,
        items: AsyncIterable[Any] | Iterable[Any],
        /,
        *args: Any,
        **kwargs: Any,
    ) -> AsyncStream[Any]:
        """Call a method that takes items and yields others: send it these, and have its own as they come.

        For `items` see `upload`, for what is returned `stream`. What the items raise ends it.

        Raises:
            CallError, TypeError, ValueError: as for `upload` and `stream`.
        """
        prepared = self._prepared(CONVERSATION, target, args, kwargs, checked_items(items, on_loop=True))
        return AsyncStream(prepared, cast("Any", self)._shared.core)
