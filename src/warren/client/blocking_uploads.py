"""`Client.upload` and `Client.converse`: calls to which the caller sends items, from any thread."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator
from typing import Any, Concatenate, ParamSpec, TypeVar, cast, overload

from warren.client.base import BaseClient
from warren.client.sending import checked_items
from warren.client.streams import BlockingStream
from warren.client.uploads import upload_in_thread
from warren.protocol.uploading import CONVERSATION, UPLOAD

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class BlockingUploads(BaseClient):
    """What a `Client` sends item by item."""

    @overload
    def upload(self, target: str, items: Iterable[Any], /, *args: Any, returns: type[R], **kwargs: Any) -> R: ...
    @overload
    def upload(self, target: str, items: Iterable[Any], /, *args: Any, **kwargs: Any) -> Any: ...
    @overload
    def upload(
        self,
        target: Callable[Concatenate[AsyncIterator[T], P], Coroutine[Any, Any, R]],
        items: Iterable[T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R: ...
    @overload
    def upload(
        self,
        target: Callable[Concatenate[Iterator[T], P], R],
        items: Iterable[T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> R: ...
    def upload(
        self,
        target: Callable[..., Any] | str,
        items: Iterable[Any],
        /,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Call a method that takes items, send it these, and wait for its result; see `AsyncClient.upload`.

        The items are taken in this thread.

        Raises:
            CallError, TypeError, ValueError: as for `AsyncClient.upload`.
            Exception: what the items, or the handler, have raised.
        """
        prepared = self._prepared(UPLOAD, target, args, kwargs, checked_items(items, on_loop=False))
        return upload_in_thread(prepared, cast("Any", self)._shared.io)

    @overload
    def converse(
        self, target: str, items: Iterable[Any], /, *args: Any, returns: type[R], **kwargs: Any
    ) -> BlockingStream[R]: ...
    @overload
    def converse(self, target: str, items: Iterable[Any], /, *args: Any, **kwargs: Any) -> BlockingStream[Any]: ...
    @overload
    def converse(
        self,
        target: Callable[Concatenate[AsyncIterator[T], P], AsyncIterator[R]],
        items: Iterable[T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> BlockingStream[R]: ...
    @overload
    def converse(
        self,
        target: Callable[Concatenate[Iterator[T], P], Iterator[R]],
        items: Iterable[T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> BlockingStream[R]: ...
    def converse(
        self,
        target: Callable[..., Any] | str,
        items: Iterable[Any],
        /,
        *args: Any,
        **kwargs: Any,
    ) -> BlockingStream[Any]:
        """Call a method that takes items and yields others: send it these, and have its own as they come.

        The items are taken in a thread of their own, with the context of this one; see `AsyncClient.converse`.

        Raises:
            CallError, TypeError, ValueError: as for `upload` and `stream`.
        """
        prepared = self._prepared(CONVERSATION, target, args, kwargs, checked_items(items, on_loop=False))
        shared = cast("Any", self)._shared
        return BlockingStream(prepared, shared.io, owner=shared)
